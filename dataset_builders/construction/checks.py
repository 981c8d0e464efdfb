"""Checks of a statement and its negatives that need no model: pure functions of their texts.

    scores, reasons = model_free_checks(instance, CheckSettings())
    scores              # {"shortcut": 0.1, ...}, of the names in TEXT_SCORES
    reasons             # ["a negative says the same as the positive"]; empty for a good instance

What only a reader can decide (whether the caption supports the positive and contradicts the negatives) is asked of a
model elsewhere. Rules about words are for English and are left out in other languages. Tests:
tests/test_construction_checks.py.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import regex  # whose words keep their vowel signs, as of Hindi
from lemminflect import getLemma

from granted.dataset_builders.construction.curation import Fraction
from granted.dataset_builders.scenes.words import number_word
from granted.dataset_builders.ted_6k.baselines import word_overlap
from granted.utils.options import option
from granted.utils.settings import Count
from granted.utils.settings_file import read_yaml


# A Chinese or Japanese character counts as a word.
_WORD = regex.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’]\w+)?")
# What stands in quotation marks of any kind; an apostrophe inside a word is none.
_QUOTED = re.compile(
    r"[\"“”„]([^\"“”„]+)[\"“”]|(?<!\w)['‘]((?:[^'‘’]|(?<=\w)['’](?=\w))+)['’](?!\w)|[「『«‹]([^」』»›]+)[」』»›]"
)
TEXT_SCORES = ("shortcut", "longer", "reordered")
_DROPPED = frozenset(("a", "an", "the", "and"))
# What agrees with a noun's number.
_AGREEING = {"are": "is", "were": "was", "have": "has", "do": "does", "these": "this", "those": "that"}
MISSING = {"Quantity": "a number", "Temporal": "a word of time", "Spatial Relationship": "a word of place"}
_WORDS_OF = {
    name: frozenset(words) for name, words in read_yaml(Path(__file__).with_name("category_words.yaml")).items()
}


@dataclass(kw_only=True)
class CheckSettings:
    """Thresholds of the checks that need no model."""

    language: str = option("English", "Of everything that is written.", group="Writing")
    statement_words: list[Count] = option([3, 40], "Fewest and most words of a statement.", group="Checks")
    max_shortcut: Fraction = option(
        0.5, "Most by which the positive shares more words with the caption than any negative.", group="Checks"
    )
    max_longer: Fraction = option(
        0.5,
        "Most of its length by which the positive is longer than every negative, or all of them than it.",
        group="Checks",
    )


def model_free_checks(instance: Mapping[str, Any], settings: CheckSettings) -> tuple[dict[str, float], list[str]]:
    """Check one instance.

    Args:
        instance (`Mapping`): `media`, `caption`, `category`, `statements` (of which one is true) and `label`.
        settings ([`CheckSettings`]): the thresholds.

    Returns:
        `tuple[dict[str, float], list[str]]`: its `TEXT_SCORES`, and why it should not be kept:

        - `shortcut`: by how much more of the positive's words are in the caption than of any negative's;
        - `longer`: the part of its length by which the positive is longer than every negative (below 0: shorter);
        - `reordered`: negatives that have the positive's words in another order, which only a reader can judge.
    """
    statements = list(instance["statements"])
    positive = statements.pop(instance["label"])
    english = settings.language.casefold() == "english"
    # In a statement of quantity the number of a noun is what is tested.
    read = _plain if not english else _counted if instance["category"] == "Quantity" else _singular
    own, others = read(positive), [read(one) for one in statements]
    overlap = word_overlap([{"id": "", "caption": instance["caption"], "statements": [positive, *statements]}])[0]
    scores = {
        "shortcut": overlap[0] - max(overlap[1:]),
        "longer": _longer(positive, statements),
        "reordered": float(sum(sorted(own) == sorted(one) and not _rotated(own, one) for one in others)),
    }
    reasons = []
    if any(_rotated(own, one) for one in others):
        reasons.append("a negative says the same as the positive")
    if any(_rotated(one, other) for one, other in combinations(others, 2)):
        reasons.append("two negatives say the same")
    if scores["shortcut"] > settings.max_shortcut:
        reasons.append("the positive has more words of the caption than its negatives")
    if abs(scores["longer"]) > settings.max_longer:
        reasons.append("its length tells the positive")
    reasons += _lengths([positive, *statements], settings)
    reasons += _category_faults(instance, positive, english)
    return scores, reasons


# --------------------------------------------------------------------------------------------------------- paraphrases


def words_of(text: str) -> list[str]:
    """The words of a text, case and width of the letters folded."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _plain(text: str) -> tuple[str, ...]:
    return tuple(words_of(text))


@cache
def _digits() -> dict[str, str]:
    """The digits of a spelled number up to twenty."""
    return {number_word(number): str(number) for number in range(21)}


def _counted(text: str) -> tuple[str, ...]:
    """English words without articles and "and", numbers as digits."""
    return tuple(_digits().get(word, word) for word in words_of(text) if word not in _DROPPED)


def _singular(text: str) -> tuple[str, ...]:
    """As [`_counted`], and nouns and what agrees with them in the singular."""
    return tuple(_one(word) for word in _counted(text))


@lru_cache(maxsize=100_000)
def _one(word: str) -> str:
    return _AGREEING.get(word) or (getLemma(word, "NOUN") or (word,))[0]


def _rotated(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether two texts are the same words, perhaps begun at another place.

    "On the left, a dog sleeps" is "A dog sleeps on the left", and "two cats and a dog" is "a dog and two cats". Any
    other order may mean something else: "a dog chases a cat" is not "a cat chases a dog".
    """
    return words == others or any(words == others[i:] + others[:i] for i in range(1, len(others)))


# ------------------------------------------------------------------------------------------------ length and category


def _longer(positive: str, negatives: Sequence[str]) -> float:
    """The part by which the positive is longer than every negative, or, below 0, every negative longer than it."""
    own, others = len(positive), [len(one) for one in negatives]
    if own > max(others):
        return 1 - max(others) / own
    return own / min(others) - 1 if own < min(others) else 0.0


def _lengths(statements: Sequence[str], settings: CheckSettings) -> list[str]:
    fewest, most = settings.statement_words
    counts = [len(words_of(one)) for one in statements]
    faults = []
    if min(counts) < fewest:
        faults.append("a statement is too short")
    if max(counts) > most:
        faults.append("a statement is too long")
    return faults


def _category_faults(instance: Mapping[str, Any], positive: str, english: bool) -> list[str]:
    """Where words alone decide that the positive is not of its category."""
    category, faults = instance["category"], []
    if category == "Temporal" and instance["media"] == "image":
        faults.append("a Temporal statement of an image")
    if category == "OCR":
        quotes = quoted(positive)
        if not quotes:
            faults.append("an OCR statement without quoted text")
        elif not all(_plain(quote) and _inside(_plain(quote), _plain(instance["caption"])) for quote in quotes):
            faults.append("an OCR statement whose text is not in the caption")
    needed = _needed_words(category) if english else None
    if needed and not any(word in needed or word.isdigit() for word in words_of(positive)):
        faults.append(f"a {category} statement without {MISSING[category]}")
    return faults


@cache
def _needed_words(category: str) -> frozenset[str]:
    """Of which a statement of a category has one; none where words alone do not decide."""
    return _WORDS_OF.get(category, frozenset()).union(_digits() if category == "Quantity" else ())


def quoted(text: str) -> list[str]:
    """What stands in quotation marks."""
    return [next(filter(None, groups)).strip() for groups in _QUOTED.findall(text)]


def _inside(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return any(others[i : i + len(words)] == words for i in range(len(others) - len(words) + 1))
