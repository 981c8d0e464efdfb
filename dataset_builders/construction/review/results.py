"""What `granted data review` reads and writes beside the page. Only this file of the folder needs granted.

    write_results(Review("run"))       # run/review/rows.parquet and stage.json, which the stage export reads

Tests: tests/test_review_command.py.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq

from granted.dataset_builders.construction.review.agreement import Agreement, GoldScore
from granted.dataset_builders.construction.review.decisions import DECISIONS, check_name, decisions_table
from granted.dataset_builders.construction.review.instances import MEDIA, ROWS
from granted.dataset_builders.construction.review.label_studio import from_tasks, label_config, to_tasks
from granted.dataset_builders.construction.review.login import Users, hashed
from granted.dataset_builders.construction.review.refusal import ReviewError
from granted.dataset_builders.construction.review.reviewing import Progress, Review
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, read_jsonl, write_json


@contextmanager
def as_input_errors() -> Iterator[None]:
    """What the folder refuses is refused as everywhere in granted."""
    try:
        yield
    except ReviewError as error:
        raise InputError(str(error)) from error


def read_gold(path: str | os.PathLike) -> dict[str, str]:
    """Gold instances and the decision that is right about each.

    Args:
        path (`str` or `os.PathLike`): JSON Lines of `{"instance": ..., "decision": ...}`.

    Raises:
        InputError: it cannot be read, a line is malformed, or names an instance twice.
    """
    gold: dict[str, str] = {}
    for number, row in read_jsonl(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("instance", "decision")):
            raise InputError(f"got line {number} of {path} without instance and decision, expected both as texts")
        if row["instance"] in gold:
            raise InputError(f"got the gold instance {row['instance']!r:.90} twice in {path}, expected it once")
        gold[row["instance"]] = row["decision"]
    if not gold:
        raise InputError(f"got {path} with no line, expected a gold instance a line")
    return gold


def write_results(review: Review) -> tuple[list[Progress], list[GoldScore], list[Agreement]]:
    """Write the decisions that stand, and what is to be said about them, into the run.

    Returns:
        `tuple`: progress, gold and agreement, which are in `review/stage.json` with counts, seed and a hash.
    """
    folder, decisions, gold = review.run / "review", review.decisions(), review.store.gold()
    with atomic_path(folder / "rows.parquet") as temporary:
        pq.write_table(decisions_table(decisions, gold), temporary)
    said = Counter(one.decision for one in decisions)
    by = Counter(one.instance for one in decisions)
    counts = {
        "instances": len(review.instances),
        "decided": len(by),
        "decided_by_two": sum(n > 1 for n in by.values()),
    }
    everyone, scores, agreed = review.all_progress(), review.gold_scores(), review.agreement()
    record = {
        "stage": "review",
        "seed": review.seed,
        "share": review.store.share,
        "counts": counts | {name: said[name] for name in DECISIONS},
        "progress": [asdict(one) | {"counts": dict(one.counts)} for one in everyone],
        "agreement": [asdict(one) for one in agreed],
        "gold": [asdict(one) for one in scores],
        "input_hash": sha256((review.run / ROWS).read_bytes()).hexdigest(),
    }
    write_json(folder / "stage.json", record)
    return everyone, scores, agreed


def write_label_studio(review: Review, folder: str | os.PathLike) -> list[Path]:
    """Write tasks and their labelling interface into a folder, for images and for videos; their paths are returned."""
    written = []
    for media in MEDIA:
        instances = {name: one for name, one in review.instances.items() if one.media == media}
        if not instances:
            continue
        decisions = [one for one in review.decisions() if one.instance in instances]
        tasks, interface = Path(folder, f"{media}.json"), Path(folder, f"{media}.xml")
        write_json(tasks, to_tasks(instances, decisions, review.run.name))
        with atomic_path(interface) as temporary:
            temporary.write_text(label_config(media), encoding="utf-8")
        written += [tasks, interface]
    return written


def read_label_studio(review: Review, path: str | os.PathLike, users: Users | None) -> int:
    """Take in the decisions of a JSON file of Label Studio, all or none; how many were new is returned."""
    decisions = from_tasks(read_json(path), review.instances, users.names() if users else None)
    return review.store.add_all(decisions, review.instances)


def add_user(path: str | os.PathLike, name: str, password: str) -> None:
    """Add a user to a file, or give one another password; only its owner can read the file.

    Raises:
        ReviewError: the name, the password or the file cannot be used.
    """
    name, path = check_name(name), Path(path)
    if ":" in name or name.startswith("#"):
        raise ReviewError(f"got the name {name!r}, expected one without a colon and without # at its beginning")
    lines = []
    if path.exists():
        Users.read(path)
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{name}:")]
    with atomic_path(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text("\n".join([*lines, f"{name}:{hashed(password)}"]) + "\n", encoding="utf-8")
