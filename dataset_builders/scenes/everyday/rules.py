"""The rules that keep a theme unambiguous; run on its file after editing it.

python -m granted.dataset_builders.scenes.everyday.rules dataset_builders/scenes/everyday/themes/harbour.yaml
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from lemminflect import getInflection

from granted.dataset_builders.scenes.everyday.lexicon import HERE, LEAST, Theme, concept_lists, read_theme
from granted.dataset_builders.scenes.scene import Concept
from granted.dataset_builders.scenes.words import head_noun, plural
from granted.utils.errors import InputError


THINGS = ("items", "objects", "portable", "supports", "signs")  # nouns that can be counted, placed or described
BEINGS = ("people", "crowds", "animals")
ACTS = ("activities", "gatherings", "moments")
# Words with a meaning of their own in statements: a theme's phrases must leave them alone.
GRAMMAR_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        he him his she her hers they them their it its one two three four five six seven eight nine ten eleven
        twelve left right behind under beneath below beside between above before after while then first last
        finally next former latter both each every
        """,
    )
)
FORM = re.compile(r"[a-zéèê]+(?:['-][a-zé]+)*'?(?:,? [a-zéèê]+(?:['-][a-zé]+)*'?)*")


def broken_rules(theme: Theme) -> Iterator[str]:
    """What is wrong with a theme, one line each: everything must have a noun of its own that nothing else mentions."""
    lists = {name: getattr(theme, name) for name in LEAST}
    qualities = concept_lists(HERE / "words.yaml").values()
    reserved = GRAMMAR_WORDS | {form for concepts in qualities for concept in concepts for form in concept.forms}
    heads: dict[str, str] = {}  # noun -> what it names
    for name in (*THINGS, *BEINGS):
        for concept in lists[name]:
            yield from _shared_nouns(name, concept, heads)
    seen: set[str] = set()
    for name, form in ((name, form) for name, concepts in lists.items() for one in concepts for form in one.forms):
        words = set(re.split(r"[ ,]+", form))
        bad, clash = sorted(reserved & words), sorted(words & set(heads)) if name in (*ACTS, "backdrop") else []
        first = form.split()[0]
        for wrong, problem in (
            (not FORM.fullmatch(form), "has something else than lower-case words"),
            (form in seen, "occurs twice"),
            (bad, f"uses {', '.join(bad)}"),
            (clash, f"mentions {', '.join(f'{c} ({heads[c]})' for c in clash)}"),
            (name in ACTS and not getInflection(first, "VBG"), "does not begin with a verb"),
            (name in (*THINGS, *BEINGS) and first in ("a", "an", "the"), "begins with an article"),
        ):
            if wrong:
                yield f"{name}: '{form}' {problem}"
        seen.add(form)


def _shared_nouns(name: str, concept: Concept, heads: dict[str, str]) -> Iterator[str]:
    """Add the nouns of a concept; those that another one has too are what is wrong."""
    mine = f"{name}: {concept.key}"
    for form in concept.forms:
        for head in {head_noun(form), plural(head_noun(form))}:
            owner = heads.setdefault(head, mine)
            if owner != mine:
                yield f"{name}: '{form}' and '{owner}' share the noun '{head}'"


def main() -> None:
    """Check the theme files named on the command line."""
    problems = []
    for path in map(Path, sys.argv[1:]):
        try:
            problems += [f"{path}: {problem}" for problem in broken_rules(read_theme(path))]
        except InputError as error:
            problems.append(str(error))
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    sys.exit(2 if problems else 0)


if __name__ == "__main__":
    main()
