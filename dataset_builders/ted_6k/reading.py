"""Reading TED-6K: the authors' JSON file, the Parquet folder that `export.py` writes, or the sample shipped here.

    records, info = read_ted("TED-6k.json")     # or "ted-6k" (an exported folder), "part.parquet", or "sample"
    info["config"]       # "official", "synthetic", "sample" or "custom": what a score may be called

The authors' file is one object `{caption_key: {"caption", "caption_type", "statements": {category: {"question",
"correct_statement": {"status", "statement"} | null, "incorrect_statements": [{"status", "statement"}, ...]}}}}`.
"""

import os
import random
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from granted.dataset_builders.ted_6k.records import (
    CATEGORIES,
    FEATURES,
    MAX_STATEMENTS,
    MEDIA,
    TedRecord,
    composition_name,
    fingerprint,
    snake_case,
    validate_records,
)
from granted.utils.errors import InputError, refusing
from granted.utils.files import read_json


SEED = 42  # the authors' seed for shuffling the statements
SAMPLE_FILE = Path(__file__).with_name("sample.json")


@dataclass
class SkipReport:
    """What was left out of an authors' file, and why.

    Attributes:
        image_temporal (`int`): instances of the category Temporal on an image.
        no_positive (`int`): instances whose correct statement is null.
        failed_positive (`int`): instances whose correct statement has a status other than "success".
        no_negative (`int`): instances left without a negative.
        failed_negatives (`int`): negatives with a status other than "success", dropped from kept instances or not.
        surplus_negatives (`int`): negatives beyond the seventh, dropped.
    """

    image_temporal: int = 0
    no_positive: int = 0
    failed_positive: int = 0
    no_negative: int = 0
    failed_negatives: int = 0
    surplus_negatives: int = 0

    @property
    def instances(self) -> int:
        """The number of instances left out."""
        return self.image_temporal + self.no_positive + self.failed_positive + self.no_negative


class _Object(dict):
    """A JSON object that remembers the first key it was given twice, which `json` would silently overwrite."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        seen: set[str] = set()
        self.repeated = next((key for key, _ in pairs if key in seen or seen.add(key)), None)


def read_ted(path: str | os.PathLike, seed: int = SEED) -> tuple[list[TedRecord], dict[str, Any]]:
    """Read a benchmark in any form a user has.

    Args:
        path (`str` or `os.PathLike`): an authors' JSON file, a folder of Parquet files or one such file in the layout
            of `export.py`, or the word `"sample"` for the one shipped with the package.
        seed (`int`, defaults to 42): the order of the statements, for a JSON file.

    Returns:
        `tuple[list[TedRecord], dict]`: the records and what is known of them: `config` (`"official"` when the
        composition is the published one, `"synthetic"`, `"sample"`, or `"custom"`: a score of one must not be
        presented as that of another), `source` (`str`), `fingerprint` (`str`), `skipped` (`SkipReport` as a dict;
        empty for Parquet).

    Raises:
        InputError: the file is missing or broken, or a record breaks the schema.
    """
    if path == "sample":
        path = SAMPLE_FILE
    path = Path(path)
    skipped: dict[str, int] = {}
    if os.path.isdir(path) or path.suffix == ".parquet":
        records = _read_parquet(path)
    else:
        records, report = read_authors_file(path, seed=seed, source="sample" if path == SAMPLE_FILE else "TED-6K")
        skipped = asdict(report)
    digest = fingerprint(records)
    info = {
        "config": "sample" if path == SAMPLE_FILE else config_of(digest, composition_name(records)),
        "source": "the sample shipped with granted" if path == SAMPLE_FILE else str(path),
        "fingerprint": digest,
        "skipped": skipped,
    }
    return records, info


def load_sample() -> list[TedRecord]:
    """The sample shipped with the package: written by hand in the spirit of TED-6K, and no part of it."""
    return read_authors_file(SAMPLE_FILE, source="sample")[0]


@lru_cache(maxsize=1)
def _sample_fingerprint() -> str:
    return fingerprint(load_sample())


def config_of(digest: str, composition: str) -> str:
    """What records are, by their fingerprint and [`composition_name`]: that name, or `"sample"`."""
    return "sample" if digest == _sample_fingerprint() else composition


def read_authors_file(
    path: str | os.PathLike, seed: int = SEED, source: str = "TED-6K"
) -> tuple[list[TedRecord], SkipReport]:
    """Read a benchmark in the authors' layout.

    Kept are instances with a correct statement of status "success" and at least one such negative, of which the first
    seven; Temporal is left out for images. The statements are shuffled by the seed and the record's id, so that a
    record does not depend on the others.

    Args:
        path (`str` or `os.PathLike`): a UTF-8 JSON file.
        seed (`int`, defaults to 42): the order of the statements.
        source (`str`, defaults to `"TED-6K"`): the records' field `source`.

    Returns:
        `tuple[list[TedRecord], SkipReport]`: the records in the file's order and what was left out.

    Raises:
        InputError: the file is missing, is not UTF-8, is not JSON, is empty or breaks the layout; the key is named.
    """
    captions = _object(read_json(path, object_pairs_hook=_Object), f"{path}")
    records: list[TedRecord] = []
    report = SkipReport()
    for caption_id, value in captions.items():
        where = f"caption {caption_id!r} of {path}"
        entry = _object(value, where, "caption", "caption_type", "statements")
        media = entry["caption_type"]
        if media not in MEDIA:
            raise InputError(f"got caption_type {media!r} in {where}, expected one of {', '.join(MEDIA)}")
        for category, item in _object(entry["statements"], f"the statements of {where}").items():
            if category not in CATEGORIES:
                raise InputError(f"got category {category!r} in {where}, expected one of {', '.join(CATEGORIES)}")
            question, options = _options(item, media, category, f"{category} of {where}", report)
            if not options:
                continue
            record_id = f"{caption_id}/{snake_case(category)}"
            order = list(range(len(options)))
            random.Random(f"{seed}/{record_id}".encode("utf-8", "surrogatepass")).shuffle(order)
            records.append(
                TedRecord(
                    id=record_id,
                    caption_id=caption_id,
                    caption=entry["caption"],
                    media=media,
                    category=category,
                    question=question,
                    statements=[options[index] for index in order],
                    label=order.index(0),
                    source=source,
                )
            )
    if not records:
        raise InputError(
            f"got no usable instance in {path} ({report.instances} left out), expected at least one: "
            "check that it is the benchmark's file"
        )
    validate_records(records)
    return records, report


def _options(item: Any, media: str, category: str, where: str, report: SkipReport) -> tuple[str, list[str]]:
    """The question and the statements, the true one first. No statement where the instance is left out."""
    item = _object(item, where, "question", "correct_statement", "incorrect_statements")
    question, positive, negatives = item["question"], item["correct_statement"], item["incorrect_statements"]
    if media == "image" and category == "Temporal":
        report.image_temporal += 1
        return question, []
    if positive is None:
        report.no_positive += 1
        return question, []
    positive = _object(positive, f"correct_statement of {where}", "status", "statement")
    if positive["status"] != "success":
        report.failed_positive += 1
        return question, []
    if not isinstance(negatives, list):
        raise InputError(f"got {negatives!r} as incorrect_statements of {where}, expected a list")
    negatives = [_object(negative, f"a negative of {where}", "status", "statement") for negative in negatives]
    kept = [negative["statement"] for negative in negatives if negative["status"] == "success"]
    report.failed_negatives += len(negatives) - len(kept)
    if not kept:
        report.no_negative += 1
        return question, []
    report.surplus_negatives += max(0, len(kept) - (MAX_STATEMENTS - 1))
    return question, [positive["statement"], *kept[: MAX_STATEMENTS - 1]]


def _object(value: Any, where: str, *required: str) -> _Object:
    """`value`, if it is a JSON object with the required keys, each key once."""
    if not isinstance(value, _Object):
        raise InputError(f"got {type(value).__name__} as {where}, expected an object: check the layout")
    if value.repeated is not None:
        raise InputError(f"got the key {value.repeated!r} twice in {where}, expected it once: remove or rename one")
    missing = [key for key in required if key not in value]
    if missing:
        raise InputError(f"got {where} without {', '.join(missing)}, expected {', '.join(required)}: add them")
    return value


def _read_parquet(path: Path) -> list[TedRecord]:
    files = sorted(path.rglob("*.parquet")) if os.path.isdir(path) else [path]
    if not files:
        raise InputError(f"got the folder {path} without a Parquet file, expected an exported benchmark: export one")
    records: list[TedRecord] = []
    for file in files:
        if not os.path.isfile(file):
            raise InputError(f"got {file}, which is not a file, expected a Parquet file: check the path")
        with refusing(str(file), "a Parquet file: export it again"), pq.ParquetFile(file) as parquet:
            table = parquet.read()
            table.validate(full=True)  # such as texts that are not UTF-8
        missing = [name for name in FEATURES if name not in table.column_names]
        if missing:
            raise InputError(
                f"got {file} without the columns {', '.join(missing)}, expected {', '.join(FEATURES)}: export it again"
            )
        records.extend(table.select(list(FEATURES)).to_pylist())
    validate_records(records)
    return records
