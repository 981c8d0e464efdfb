"""What a benchmark consists of: counts, lengths, items that cannot be told apart, texts that others have too.

stats = describe(records)        # a dict that goes into JSON as it is
rows(stats)                      # [["category", "image", "video", "total"], ...], a table with its header first
shared_texts(pairs, records)     # what must not be trained on: [] where benchmark and pairs are apart
pairs_apart(pairs, records, [])  # the other pairs
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from granted.dataset_builders.caption_pairs.pairs import CaptionPair
from granted.dataset_builders.ted_6k.reading import config_of
from granted.dataset_builders.ted_6k.records import (
    CATEGORIES,
    MEDIA,
    Fingerprint,
    TedRecord,
    composition_of,
    kind_of,
    validated,
)


def describe(records: Iterable[TedRecord]) -> dict[str, Any]:
    """Describe a benchmark, read once; of an instance little more than its id is kept.

    Texts are compared after case folding and joining runs of white space; words are what white space separates.

    Args:
        records (`Iterable[TedRecord]`): the benchmark.

    Returns:
        `dict`: `config_name` (`"official"`, `"synthetic"`, `"sample"` or `"custom"`, as `read_ted` says),
        `fingerprint`, `instances`, `captions`, `by_media` and `by_category` (instances), `chance` (accuracy of
        a guess, 0 to 1), `instances_per_caption`, `caption_words`, `statement_words`, `statements_per_instance` (each
        `min`, `mean`, `max`), and three lists of ids: `duplicates` (same caption, same true and same false statements
        as an earlier instance), `undecidable` (the true statement is also one of the false ones) and `contested` (the
        true statement is a false one of another instance of the same caption).

    Raises:
        InputError: a record breaks the schema.
    """
    digest, indistinct = Fingerprint(), _Indistinct()
    kinds: Counter[tuple[str, str, bool]] = Counter()
    captions: Counter[str] = Counter()  # instances of each
    caption_words, statement_words, statements = _Spread(), _Spread(), _Spread()
    for record in validated(records):
        digest.add(record)
        indistinct.add(record)
        kinds[kind_of(record)] += 1
        if record["caption_id"] not in captions:
            caption_words.add(len(record["caption"].split()))
        captions[record["caption_id"]] += 1
        for text in record["statements"]:
            statement_words.add(len(text.split()))
        statements.add(len(record["statements"]))
    by_category = {}
    for category in CATEGORIES:
        by_media = {media: kinds[category, media, False] + kinds[category, media, True] for media in MEDIA}
        by_category[category] = {**by_media, "total": sum(by_media.values())}
    fingerprint = digest.hexdigest()
    return {
        "config_name": config_of(fingerprint, composition_of(kinds)),
        "fingerprint": fingerprint,
        "instances": kinds.total(),
        "captions": len(captions),
        "by_media": {media: sum(count[media] for count in by_category.values()) for media in MEDIA},
        "by_category": by_category,
        "chance": sum(number / size for size, number in statements.numbers.items()) / kinds.total(),
        "instances_per_caption": _Spread(captions.values()).summary(),
        "caption_words": caption_words.summary(),
        "statement_words": statement_words.summary(),
        "statements_per_instance": statements.summary(),
        **indistinct.found(),
    }


def rows(stats: dict[str, Any]) -> list[list[str]]:
    """The counts per category as a table: a header, a row per category present, and the totals, all text."""
    table = [["category", *MEDIA, "total"]]
    for category, count in stats["by_category"].items():
        if count["total"]:
            table.append([category, *(str(count[media]) for media in MEDIA), str(count["total"])])
    table.append(["all", *(str(stats["by_media"][media]) for media in MEDIA), str(stats["instances"])])
    return table


def shared_texts(pairs: Iterable[CaptionPair], records: Iterable[TedRecord]) -> list[str]:
    """The texts of caption pairs that a benchmark has too, each once: whoever trains on them has seen the test.

    Texts are compared after case folding and joining runs of white space; a full stop at the end does not count.

    Args:
        pairs (`Iterable[CaptionPair]`): captions and negatives that something is trained on.
        records (`Iterable[TedRecord]`): the benchmark, whose captions and statements must not be among them.

    Returns:
        `list[str]`: as the pairs have them, in their order; empty where nothing is shared.
    """
    tested = _tested_texts(records)
    return list(dict.fromkeys(text for pair in pairs for text in _texts_of(pair) if _same(text) in tested))


def pairs_apart(
    pairs: Iterable[CaptionPair], records: Iterable[TedRecord], left_out: list[str]
) -> Iterator[CaptionPair]:
    """The pairs that share no text with a benchmark, as [`shared_texts`] compares them.

    Args:
        pairs, records: as of [`shared_texts`].
        left_out (`list[str]`): gets the ids of the other pairs.
    """
    tested = _tested_texts(records)
    for pair in pairs:
        if any(_same(text) in tested for text in _texts_of(pair)):
            left_out.append(pair["id"])
        else:
            yield pair


def _tested_texts(records: Iterable[TedRecord]) -> set[str]:
    """The captions and statements of a benchmark, as [`shared_texts`] compares them."""
    return {_same(text) for record in records for text in (record["caption"], *record["statements"])}


def _texts_of(pair: CaptionPair) -> list[str]:
    """The captions and negatives of a pair."""
    return [pair["caption_a"], pair["caption_b"], *(pair.get("negatives") or ())]


class _Indistinct:
    """Finds duplicate, undecidable and contested instances; of each text it keeps a hash of 64 bits."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._wholes, self._truths, self._denials = array("Q"), array("Q"), array("Q")
        self._own_denials = array("Q")  # of an instance, how many of its false statements are its true one

    def add(self, record: TedRecord) -> None:
        negatives = [_normal(text) for text in record["statements"]]
        positive = negatives.pop(record["label"])
        self._ids.append(record["id"])
        self._wholes.append(_hash(_normal(record["caption"]), positive, *sorted(negatives)))
        self._truths.append(_hash(record["caption_id"], positive))
        self._denials.extend(_hash(record["caption_id"], negative) for negative in negatives)
        self._own_denials.append(negatives.count(positive))

    def found(self) -> dict[str, list[str]]:
        first = np.zeros(len(self._ids), bool)
        first[np.unique(self._wholes, return_index=True)[1]] = True
        denials, truths, own = np.sort(self._denials), np.asarray(self._truths), np.asarray(self._own_denials)
        denied = np.searchsorted(denials, truths, "right") - np.searchsorted(denials, truths, "left")
        chosen = {"duplicates": ~first, "undecidable": own > 0, "contested": denied > own}
        return {name: [self._ids[i] for i in np.flatnonzero(mask)] for name, mask in chosen.items()}


class _Spread:
    """The least, mean and most of whole numbers; counted, so that any number of them can come."""

    def __init__(self, values: Iterable[int] = ()):
        self.numbers = Counter(values)  # value -> how often

    def add(self, value: int) -> None:
        self.numbers[value] += 1

    def summary(self) -> dict[str, float]:
        mean = sum(value * number for value, number in self.numbers.items()) / self.numbers.total()
        return {"min": min(self.numbers), "mean": mean, "max": max(self.numbers)}


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _same(text: str) -> str:
    return _normal(text).rstrip(".")


def _hash(*texts: str) -> int:
    # The separator counts as white space, of which normalised texts have only blanks: only an id may contain it.
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode("utf-8"), digest_size=8).digest(), "big")
