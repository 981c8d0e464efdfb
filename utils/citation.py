"""How the paper is cited, from the one place that says it: CITATION.cff.

bibtex()    # "@article{li2025granted, ..."
"""

from pathlib import Path

import yaml


def bibtex() -> str:
    """The BibTeX entry of the paper."""
    stated = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text(encoding="utf-8"))
    paper = stated["preferred-citation"]
    authors = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    (arxiv,) = (identifier["value"] for identifier in paper["identifiers"])
    lines = [
        f"  title   = {{{paper['title']}}},",
        "  author  = {" + " and\n             ".join(authors) + "},",
        f"  journal = {{{paper['journal']} {arxiv}}},",
        f"  year    = {{{paper['year']}}},",
        f"  url     = {{{paper['url']}}}",
    ]
    key = f"{paper['authors'][0]['family-names']}{paper['year']}granted".lower()
    return "\n".join([f"@article{{{key},", *lines, "}"])
