"""The TED record: one caption, one question, one true statement among false ones. Schema, checks and identity.

    validate_records(records)        # raises InputError naming the first record at fault
    caption_text(record)             # "Caption Type: image\\nCaption: ...", what is encoded for a caption
    fingerprint(records)             # what a result was measured on
    composition_name(records)        # "official" only for the full benchmark, "synthetic" for one made from scenes

Statements are encoded raw. The names of the categories, media and fields are those of the builder that ships with the
data, `ted_6k.py`.
"""

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

from granted.dataset_builders.ted_6k.ted_6k import CATEGORIES, FEATURES, MEDIA, snake_case
from granted.utils.errors import InputError


__all__ = [
    "CATEGORIES",
    "FEATURES",
    "MAX_STATEMENTS",
    "MEDIA",
    "OFFICIAL_COUNTS",
    "OFFICIAL_INSTANCES",
    "SYNTHETIC",
    "VIDEO_ONLY",
    "Fingerprint",
    "TedRecord",
    "caption_text",
    "composition_name",
    "composition_of",
    "fingerprint",
    "kind_of",
    "snake_case",
    "validate_records",
    "validated",
]

SYNTHETIC = "synthetic"  # how the field `source` of generated records begins
MAX_STATEMENTS = 8  # the positive and at most seven negatives

# Instances of the full benchmark per category, (image, video): the composition its authors published.
OFFICIAL_COUNTS = {
    "Action Recognition": (0, 755),
    "Adjective": (260, 761),
    "Adverb": (217, 611),
    "Basic Event": (259, 766),
    "Coreference": (198, 564),
    "OCR": (55, 159),
    "Quantity": (160, 588),
    "Spatial Relationship": (225, 455),
    "Temporal": (0, 608),
}
OFFICIAL_INSTANCES = sum(map(sum, OFFICIAL_COUNTS.values()))  # 6,641
VIDEO_ONLY = ("Action Recognition", "Temporal")  # categories that no image is asked about


class TedRecord(TypedDict):
    """One instance of the benchmark.

    Fields:
        id (`str`): unique, `{caption_id}/{category in snake_case}`.
        caption_id (`str`): the caption's key; instances of one caption share it.
        caption (`str`): the description of an image or a video.
        media (`str`): `"image"` or `"video"`.
        category (`str`): one of `CATEGORIES`.
        question (`str`): what the statements answer; may be empty, is not encoded.
        statements (`list[str]`): 2 to 8 statements, usually 4, of which one is true.
        label (`int`): the index of the true one.
        source (`str`): where the record comes from.
    """

    id: str
    caption_id: str
    caption: str
    media: str
    category: str
    question: str
    statements: list[str]
    label: int
    source: str


def validate_records(records: Iterable[TedRecord]) -> None:
    """Check every record against the schema, as [`validated`] does.

    Args:
        records (`Iterable[TedRecord]`): the benchmark, or a part of it.
    """
    for _ in validated(records):
        pass


def validated(records: Iterable[TedRecord]) -> Iterator[TedRecord]:
    """The records as they come, each checked against the schema; their texts are not kept.

    Args:
        records (`Iterable[TedRecord]`): the benchmark, or a part of it.

    Raises:
        InputError: there is no record, or one (which is named) breaks the schema, or an id occurs twice, or two
            records give one caption_id to different captions.
    """
    seen: set[str] = set()
    captions: dict[str, bytes] = {}  # of each caption the hash
    for number, record in enumerate(records):
        _validate_record(record, number)
        name = record["id"]
        if name in seen:
            raise InputError(f"got the record id {name!r} twice, expected unique ids: remove or rename one")
        seen.add(name)
        caption = hashlib.sha256(caption_text(record).encode("utf-8")).digest()
        if captions.setdefault(record["caption_id"], caption) != caption:
            raise InputError(
                f"got record {name!r} with another caption than an earlier record of caption_id "
                f"{record['caption_id']!r}, expected one caption per caption_id: rename one"
            )
        yield record
    if not seen:
        raise InputError("got no record, expected at least one: check that the file is the right one and is complete")


def _validate_record(record: Any, number: int) -> None:
    if not isinstance(record, dict):
        raise InputError(
            f"got a {type(record).__name__} as record {number}, expected a dict with {', '.join(FEATURES)}"
        )
    # A record without a usable id is named by its position.
    name = repr(record["id"]) if isinstance(record.get("id"), str) and record["id"] else str(number)
    if set(record) != set(FEATURES):
        missing, extra = sorted(set(FEATURES) - set(record)), sorted(map(str, set(record) - set(FEATURES)))
        raise InputError(
            f"got record {name} with missing fields {missing} and unknown fields {extra}, "
            f"expected exactly {', '.join(FEATURES)}: complete or rename them"
        )
    for field in ("id", "caption_id", "caption", "source"):
        _require_text(record[field], f"{field} of record {name}")
    _require_text(record["question"], f"question of record {name}", may_be_empty=True)
    for field, legal in (("media", MEDIA), ("category", CATEGORIES)):
        if record[field] not in legal:
            raise InputError(f"got {field} {record[field]!r} in record {name}, expected one of {', '.join(legal)}")
    statements, label = record["statements"], record["label"]
    if not isinstance(statements, list) or not 2 <= len(statements) <= MAX_STATEMENTS:
        got = f"{len(statements)} statements" if isinstance(statements, list) else f"statements {statements!r}"
        raise InputError(
            f"got {got} in record {name}, expected a list of 2 to {MAX_STATEMENTS}: add negatives or drop some"
        )
    for index, statement in enumerate(statements):
        _require_text(statement, f"statement {index} of record {name}")
    if type(label) is not int or not 0 <= label < len(statements):
        raise InputError(
            f"got label {label!r} in record {name}, expected an integer from 0 to {len(statements) - 1}: "
            "give the index of the true statement"
        )


def _require_text(value: Any, what: str, may_be_empty: bool = False) -> None:
    if not isinstance(value, str):
        raise InputError(f"got {value!r} as {what}, expected a string")
    if not value.strip() and not may_be_empty:
        raise InputError(f"got an empty {what}, expected text: fill it in or remove the record")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"got half a surrogate pair at character {error.start} of {what}, expected valid Unicode"
        ) from None


def caption_text(record: TedRecord) -> str:
    """The text that is encoded for a record's caption: its type on one line, itself on the next."""
    return f"Caption Type: {record['media']}\nCaption: {record['caption']}"


def fingerprint(records: Iterable[TedRecord]) -> str:
    """SHA-256, in hexadecimal, of what a score depends on: every field but `source`, in any order of records.

    The same benchmark read from JSON and from Parquet has one fingerprint.
    """
    digest = Fingerprint()
    for record in records:
        digest.add(record)
    return digest.hexdigest()


class Fingerprint:
    """The [`fingerprint`] of records that come one after the other.

    They are hashed in the order of their ids; until all are there they wait in a file, so that any number can come.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._ends = array("Q", [0])  # where in the file each record ends
        self._file = tempfile.SpooledTemporaryFile(max_size=2**20)  # noqa: SIM115

    def add(self, record: TedRecord) -> None:
        """Take a record in."""
        row = {field: record[field] for field in FEATURES if field != "source"}
        text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")
        self._file.write(text)
        self._ids.append(record["id"])
        self._ends.append(self._ends[-1] + len(text))

    def hexdigest(self) -> str:
        """Of all records that were added, as one JSON list; no more can be added."""
        digest = hashlib.sha256(b"[")
        for number, i in enumerate(sorted(range(len(self._ids)), key=self._ids.__getitem__)):
            self._file.seek(self._ends[i])
            digest.update((b"," if number else b"") + self._file.read(self._ends[i + 1] - self._ends[i]))
        self._file.close()
        digest.update(b"]")
        return digest.hexdigest()


def composition_name(records: Iterable[TedRecord]) -> str:
    """What a score on these records may be called.

    `"synthetic"` for records that were all generated from scenes, `"official"` for others with the published number of
    instances per category and media, else `"custom"`.
    """
    return composition_of(Counter(map(kind_of, records)))


def kind_of(record: TedRecord) -> tuple[str, str, bool]:
    """Its category, its media and whether it was generated from a scene."""
    return record["category"], record["media"], record["source"].startswith(SYNTHETIC)


def composition_of(kinds: Counter[tuple[str, str, bool]]) -> str:
    """The [`composition_name`] of so many records of each kind."""
    generated = {synthetic for *_, synthetic in kinds}
    if True in generated:
        return "custom" if False in generated else "synthetic"
    official = {
        (category, media, False): count
        for category, pair in OFFICIAL_COUNTS.items()
        for media, count in zip(MEDIA, pair)
        if count
    }
    return "official" if kinds == official else "custom"
