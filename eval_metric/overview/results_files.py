"""Results files as they come from anybody: each is checked by itself, before anything is made of it.

    content = read_content(Path("results/reading/reading.json"))
    check_rows(content)                                    # raises an InputError of one line
    ted_benchmark(load("results/ted/tiny__last__aggregator__seed0__1a2b3c4d.json"))     # what it may be ranked with

Tests: tests/test_overview.py.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from granted.eval_metric.drawing.settings import VERSION as DRAWING_VERSION
from granted.eval_metric.reading.settings import VERSION as READING_VERSION
from granted.eval_metric.results import Result
from granted.utils.errors import InputError
from granted.utils.files import read_json
from granted.utils.settings import Bounds, Count, check_value


LARGEST = 64 * 2**20  # bytes of a JSON file; those of this repository have less than one million
LONGEST = 200  # characters of a name
VERSIONS = {"drawing": DRAWING_VERSION, "reading": READING_VERSION, "ladder": READING_VERSION}

Name = Annotated[str, Bounds(f"a text of 1 to {LONGEST} characters", lambda value: 0 < len(value.strip()) <= LONGEST)]
Fraction = Annotated[float, Bounds("a number from 0 to 1", lambda value: 0 <= value <= 1)]
Difference = Annotated[float, Bounds("a number from -1 to 1", lambda value: -1 <= value <= 1)]
Facts = Annotated[float, Bounds("a number from 0 to 1000", lambda value: 0 <= value <= 1000)]
ARM = {"encoder": Name, "feature": Name}
ROW = ARM | {"wording": str, "property": str, "axis": str, "rung": int, "accuracy": Fraction, "n": Count}


def read_content(path: Path) -> dict[str, Any]:
    """The object of a JSON file; an empty one if the file holds something else.

    Raises:
        InputError: it is too large, cannot be read, or is not JSON.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise InputError(f"got {path} of {size:,} bytes, expected a results file, which has at most {LARGEST:,}")
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def check_rows(content: dict[str, Any]) -> None:
    """Raise unless what a results file of reading, ladder or drawing says can stand in one table.

    Raises:
        InputError: another version of the instrument, a missing or wrong value, a score given twice, or scores of
            different numbers of items in one column.
    """
    instrument = content["instrument"]
    given = [content.get("version"), *(arm.get("version") for arm in _dicts(content, "arms"))]
    if others := [version for version in given if version not in (None, VERSIONS[instrument])]:
        raise InputError(
            f"got {instrument} of version {others[0]!r:.80}, expected {VERSIONS[instrument]}, whose scores cannot be "
            "compared with it: evaluate again, or use the granted that it was made with"
        )
    items: dict[tuple, int] = {}  # of a column
    seen = set()
    for row in _dicts(content, "rows"):
        _check(row, ROW, "accuracy", Fraction)
        column = tuple(row[name] for name in ("wording", "axis", "rung", "property"))
        arm = (row["encoder"], row["feature"])
        if (arm, column) in seen:
            raise InputError(f"got {' · '.join(arm)} twice in {column}, expected one score: evaluate again")
        seen.add((arm, column))
        if items.setdefault(column, row["n"]) != row["n"]:
            raise InputError(
                f"got {row['n']} items for {' · '.join(arm)} and {items[column]} for another in {column}, expected "
                "all of them for all: evaluate again"
            )
    for found in _dicts(content, "thresholds"):
        _check(found, ARM | {"facts": Facts}, "facts", Facts)
    for found in _dicts(content, "differences"):
        _check(found, {"wording": str, "difference": Difference, "p": Fraction}, "difference", Difference)
        for side in ("a", "b"):
            check_value(side, found.get(side), list[Name])


def ted_benchmark(result: Result) -> str:
    """What two results on TED must have in common to be ranked together: the records, as the result knows them.

    Raises:
        InputError: the result is a part of one, or has an overlong name.
    """
    if result.shard is not None:
        raise InputError(f"got shard {result.shard} of a result, expected a whole one: join all of its shards")
    check_value("encoder", result.encoder, Name)
    check_value("feature", result.feature, Name)
    items = [[item[name] for name in ("id", "caption_id", "category", "media", "label")] for item in result.items]
    return hashlib.sha256(json.dumps([result.dataset, items], sort_keys=True).encode()).hexdigest()


def _dicts(content: dict[str, Any], name: str) -> Sequence[dict[str, Any]]:
    found = content.get(name, [])
    check_value(name, found, list)
    for one in found:
        check_value(f"an entry of {name}", one, dict)
    return found


def _check(found: dict[str, Any], kinds: dict[str, Any], score: str, kind: Any) -> None:
    """The named values, and the interval around the score."""
    for name, expected in kinds.items():
        check_value(name, found.get(name), expected)
    interval = found.get("ci95")
    check_value("ci95", interval, list[kind])
    if len(interval) != 2 or not interval[0] <= found[score] <= interval[1]:
        raise InputError(f"got {score} {found[score]} with ci95={interval!r:.80}, expected it between two ends")
