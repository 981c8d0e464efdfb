"""Forms of English words: plurals, articles, numbers, verbs.

    plural("coil of rope")             # "coils of rope"
    present("mend a torn net")         # "mends a torn net"

Each is looked up once: the libraries behind them are slow. What is remembered grows with the lexicon alone.
"""

import re
from collections.abc import Sequence
from functools import cache

from lemminflect import getInflection


_COMPLEMENT = re.compile(r" (?:of|with|for|in|on|from|without) ")


@cache
def _engine():
    import inflect  # takes seconds, and most who import this module need none of it

    return inflect.engine()


def listed(parts: Sequence[str]) -> str:
    """`["a", "b", "c"]` -> `"a, b and c"`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def head_noun(noun: str) -> str:
    """The noun that a noun phrase is about: `"coil of rope"` -> `"coil"`, `"notice board"` -> `"board"`."""
    return _COMPLEMENT.split(noun)[0].split()[-1]


@cache
def plural(noun: str) -> str:
    """`"coil of rope"` -> `"coils of rope"`."""
    head = _COMPLEMENT.split(noun)[0]
    return _engine().plural_noun(head) + noun[len(head) :]


def with_article(phrase: str) -> str:
    """`"old hat"` -> `"an old hat"`."""
    return f"{_article(phrase.split(' ', 1)[0])} {phrase}"


@cache
def _article(word: str) -> str:
    return _engine().a(word).split()[0]


@cache
def number_word(count: int) -> str:
    """`12` -> `"twelve"`."""
    return _engine().number_to_words(count)


@cache
def present(phrase: str) -> str:
    """`"mend a net"` -> `"mends a net"`."""
    return _verb(phrase, "VBZ")


@cache
def participle(phrase: str) -> str:
    """`"mend a net"` -> `"mending a net"`."""
    return _verb(phrase, "VBG")


def _verb(phrase: str, tag: str) -> str:
    verb, _, rest = phrase.partition(" ")
    return f"{getInflection(verb, tag)[0]} {rest}".rstrip()
