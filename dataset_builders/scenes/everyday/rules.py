"""The rules that keep a theme unambiguous; run on its file after editing it.

python -m granted.dataset_builders.scenes.everyday.rules dataset_builders/scenes/everyday/themes/harbour.yaml
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from lemminflect import getInflection

from granted.dataset_builders.scenes.everyday.lexicon import HERE, LEAST, Theme, concept_lists, read_theme
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
# Endings that the inflecting libraries give to words they do not know.
ODD = re.compile(r"sss$|ices?ing$|[^aeiou]oes$")


def broken_rules(theme: Theme) -> Iterator[str]:
    """What is wrong with a theme, one line each: everything must have a noun of its own that nothing else mentions."""
    lists = {name: getattr(theme, name) for name in LEAST}
    qualities = concept_lists(HERE / "words.yaml").values()
    reserved = GRAMMAR_WORDS | {form for concepts in qualities for concept in concepts for form in concept.forms}
    heads: dict[str, str] = {}
    for name in (*THINGS, *BEINGS):
        for concept in lists[name]:
            for form in concept.forms:
                for head in {head_noun(form), plural(head_noun(form))}:
                    owner = heads.setdefault(head, f"{name}: {concept.key}")
                    if owner != f"{name}: {concept.key}":
                        yield f"{name}: '{form}' and '{owner}' share the noun '{head}'"
    seen: set[str] = set()
    for name, concepts in lists.items():
        for concept in concepts:
            for form in concept.forms:
                tokens = form.split()
                if not re.fullmatch(r"[a-zéèê]+(?:['-][a-zé]+)*'?(?:,? [a-zéèê]+(?:['-][a-zé]+)*'?)*", form):
                    yield f"{name}: '{form}' has something else than lower-case words"
                if form in seen:
                    yield f"{name}: '{form}' occurs twice"
                seen.add(form)
                bad = sorted(reserved & set(re.split(r"[ ,]+", form)))
                if bad:
                    yield f"{name}: '{form}' uses {', '.join(bad)}"
                if name in (*ACTS, "backdrop"):
                    clash = sorted(set(re.split(r"[ ,]+", form)) & set(heads))
                    if clash:
                        yield f"{name}: '{form}' mentions {', '.join(f'{c} ({heads[c]})' for c in clash)}"
                if name in ACTS and not getInflection(tokens[0], "VBG"):
                    yield f"{name}: '{form}' does not begin with a verb"
                if name in (*THINGS, *BEINGS) and tokens[0] in ("a", "an", "the"):
                    yield f"{name}: '{form}' begins with an article"


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
