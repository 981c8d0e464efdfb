"""Instances by rule, without a model, from captions of videos whose events are listed in their order.

    rows = [{"id": "1", "caption": "A man opens a door, then ...", "events": ["A man opens a door.", ...]}]
    records, counts = event_records(rows, seed=0)       # records of TED, at most one a caption and category
    granted data events events.jsonl --output ted-events        # the same from a file

Temporal: two events in their order; the false statements give events of the same caption in a wrong order, so that no
word tells them apart. Action Recognition: one event; the false statements give it to another person of the same
caption, or are events of other captions that begin alike. What a rule cannot be sure of is left out and counted.
English only. Tests: tests/test_construction_events.py.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from lemminflect import getAllLemmas, getLemma

from granted.dataset_builders.construction.checks import words_of
from granted.dataset_builders.ted_6k.records import TedRecord, snake_case
from granted.utils.errors import InputError
from granted.utils.settings_file import read_yaml


SOURCE = "event rules"
NEGATIVES = 3
QUESTIONS = {"Temporal": "In which order do things happen?", "Action Recognition": "What does somebody do?"}
WORDS = {name: frozenset(words) for name, words in read_yaml(Path(__file__).with_name("event_words.yaml")).items()}
# Something goes on beside something else.
TOGETHER = re.compile(
    r"\b(while|as|meanwhile|during|simultaneously|throughout|(at the )?same time|continu\w*|whenever|repeatedly)\b",
    re.I,
)
# An event that only an earlier one explains.
POINTING = re.compile(
    r"^(he|she|it|they|his|her|its|their|this|that|these|those|both|all|each)\b|\b(same|other|another|"
    r"former|latter|again|one of them|also)\b",
    re.I,
)
FORMS = ("First, {0}; later, {1}.", "{0} before {1}.")


@dataclass(frozen=True)
class Event:
    """An event without its full stop; its subject, where the caption's other events tell where it ends.

    `repeated`: the list has it twice, perhaps in other words, so that it has no place in an order.
    """

    text: str
    subject: str = ""
    repeated: bool = False

    @property
    def predicate(self) -> str:
        """What the subject does."""
        return self.text[len(self.subject) :].strip()


def event_records(rows: Iterable[Mapping[str, Any]], seed: int = 0) -> tuple[list[TedRecord], Counter[str]]:
    """Instances of Temporal and Action Recognition.

    Args:
        rows (`Iterable[Mapping]`): `id`, `caption` and `events` (`list[str]`, in the order in which they happen) each.
        seed (`int`, defaults to 0): chooses events, wordings and the order of statements; a record depends on it, its
            own row and, where it takes events of others, on these.

    Returns:
        `tuple[list[TedRecord], Counter]`: the records, and what became of the captions of each category.

    Raises:
        InputError: a row is malformed, or an id occurs twice.
    """
    captions = {}
    for number, row in enumerate(rows):
        _check_row(row, number, captions)
        captions[row["id"]] = (row["caption"], _events(row["events"]))
    beginnings: defaultdict[str, list[tuple[str, Event]]] = defaultdict(list)
    for name, (_, events) in captions.items():
        for event in events:
            beginnings[_beginning(event.text)].append((name, event))
    records, counts = [], Counter()
    for name, (caption, events) in captions.items():
        for category, made in (
            ("Temporal", _temporal(caption, events, random.Random(f"{seed}/{name}/temporal"))),
            ("Action Recognition", _action(name, caption, events, beginnings, random.Random(f"{seed}/{name}/action"))),
        ):
            if isinstance(made, str):
                counts[f"{category}: {made}"] += 1
                continue
            counts[f"{category}: made"] += 1
            records.append(_record(name, caption, category, made, random.Random(f"{seed}/{name}/{category}")))
    return records, counts


def _check_row(row: Mapping[str, Any], number: int, captions: Mapping[str, Any]) -> None:
    row = row if isinstance(row, Mapping) else {}
    events = row.get("events")
    texts = [row.get("id"), row.get("caption"), *(events if isinstance(events, list) and events else [None])]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(
            f"got row {number} without id, caption or events, expected texts, and events as a list of them"
        )
    if row["id"] in captions:
        raise InputError(f"got the id {row['id']!r} twice, expected each once: rename one")


def _record(name: str, caption: str, category: str, statements: list[str], rng: random.Random) -> TedRecord:
    order = rng.sample(range(len(statements)), len(statements))
    return TedRecord(
        id=f"{name}/{snake_case(category)}",
        caption_id=name,
        caption=caption,
        media="video",
        category=category,
        question=QUESTIONS[category],
        statements=[statements[i] for i in order],
        label=order.index(0),
        source=SOURCE,
    )


# ------------------------------------------------------------------------------------------------------------ temporal


def _temporal(caption: str, events: Sequence[Event], rng: random.Random) -> list[str] | str:
    """The true statement and the false ones, or why there are none."""
    if TOGETHER.search(caption):
        return "the caption tells of things at the same time"
    if not WORDS["sequence"] & set(words_of(caption)):
        return "the caption gives no order"
    once = [event.text for event in events if not event.repeated]
    momentary = [text for text in once if not _is_state(text) and not POINTING.search(text)]
    pairs = list(combinations(momentary, 2))
    if len(pairs) < NEGATIVES:
        return "too few events"
    form = rng.choice(FORMS)
    first, second = rng.choice(pairs)
    others = [pair for pair in pairs if pair != (first, second)]
    wrong = [(second, first), *((later, earlier) for earlier, later in rng.sample(others, NEGATIVES - 1))]
    said = [form.format(_inside(one, caption), _inside(other, caption)) for one, other in ((first, second), *wrong)]
    return [text[0].upper() + text[1:] for text in said]


def _is_state(text: str) -> bool:
    return any(_verb(word) in WORDS["states"] for word in words_of(text)[:6])


def _inside(text: str, caption: str) -> str:
    """An event within a sentence: a capital stays where it is a name's."""
    word, space, rest = text.partition(" ")
    small = word[0].lower() + word[1:]
    known = small in WORDS["small"] or small in caption.split()
    return (small if known else word) + space + rest


# -------------------------------------------------------------------------------------------------------------- action


def _action(
    name: str,
    caption: str,
    events: Sequence[Event],
    beginnings: Mapping[str, Sequence[tuple[str, Event]]],
    rng: random.Random,
) -> list[str] | str:
    """The true statement and the false ones, or why there are none."""
    usable = [event for event in events if not POINTING.search(event.text)]
    if not usable:
        return "no event that stands alone"
    made = []
    for event in rng.sample(usable, len(usable)):
        swapped = _with_another_subject(event, events)
        elsewhere = [
            other.text
            for of, other in beginnings[_beginning(event.text)]
            if of != name and not POINTING.search(other.text) and _is_foreign(other.text, caption)
        ]
        rng.shuffle(swapped)
        negatives = swapped[:NEGATIVES]
        wanted = NEGATIVES - len(negatives)
        negatives += rng.sample(sorted(set(elsewhere)), min(wanted, len(set(elsewhere))))
        if len(negatives) == NEGATIVES:
            made.append((len(swapped), [f"{text}." for text in (event.text, *negatives)]))
    return max(made, key=lambda one: one[0])[1] if made else "too few events of others that begin alike"


def _with_another_subject(event: Event, events: Sequence[Event]) -> list[str]:
    """The event, done by others of the same caption, none of whom does the like."""
    if not event.subject:
        return []
    subjects = {one.subject for one in events if one.subject} - {event.subject}
    doing = _content(event.predicate)
    return [
        f"{subject} {event.predicate}"
        for subject in sorted(subjects)
        if not _content(subject) & _content(event.text)
        and _plural(subject) == _plural(event.subject)
        and not any(one.subject == subject and len(_content(one.predicate) & doing) for one in events)
    ]


def _is_foreign(text: str, caption: str) -> bool:
    """Whether most of what an event of another caption tells is not in this one."""
    said = _content(text)
    return bool(said) and 2 * len(said & _content(caption)) <= len(said)


def _beginning(text: str) -> str:
    """The first two words."""
    return " ".join(words_of(text)[:2])


# --------------------------------------------------------------------------------------------------------------- words


def _events(texts: Sequence[str]) -> list[Event]:
    """The events, each once, with the subjects that two or more of them share."""
    texts = [text for text in (" ".join(text.split()).rstrip(" .") for text in texts) if text]
    times, unique = Counter(map(_content, texts)), list(dict.fromkeys(texts))
    return [Event(text, _subject(text, unique), times[_content(text)] > 1) for text in unique]


def _subject(text: str, texts: Sequence[str]) -> str:
    """The beginning of two to four words before a verb that it shares with another event."""
    words = text.split()
    for length in (2, 3, 4):
        beginning = words[:length]
        shared = sum(other.split()[:length] == beginning for other in texts)
        if (
            shared > 1
            and len(words) > length
            and _inflected(words[length])
            and not any(map(_inflected, beginning[1:]))
        ):
            return " ".join(beginning)
    return ""


@lru_cache(maxsize=100_000)
def _inflected(word: str) -> bool:
    """Whether a word is a verb in the third person or in the past, such as "opens" and "ran", and can be no noun."""
    word = word.casefold()
    kinds = getAllLemmas(word)
    return "VERB" in kinds and word not in kinds["VERB"] and kinds.get("NOUN", (word,))[0] != word


@lru_cache(maxsize=100_000)
def _verb(word: str) -> str:
    return (getLemma(word, "VERB") or (word,))[0]


@lru_cache(maxsize=100_000)
def _lemma(word: str) -> str:
    """Of a word as noun and then as verb, so that "runs", "run" and "running" are one."""
    return _verb((getLemma(word, "NOUN") or (word,))[0])


@lru_cache(maxsize=100_000)
def _content(text: str) -> frozenset[str]:
    """The lemmas of what is said, without the smallest words."""
    return frozenset(_lemma(word) for word in words_of(text) if word not in WORDS["common"])


def _plural(subject: str) -> bool:
    word = words_of(subject)[-1]
    return (getLemma(word, "NOUN") or (word,))[0] != word
