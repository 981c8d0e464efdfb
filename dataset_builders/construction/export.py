"""What was checked and reviewed as files that `granted evaluate ted` and `granted train` take: the stage `export`.

    export(settings, "run")         # {"instances": 214, "pairs": 590, "vqa rows": 402, ...}

    run/export/README.md            the card of what is for training
    run/export/pairs.parquet        two captions each, for context aggregators
    run/export/vqa.parquet          questions and answers with their images and videos inside, for stage 1
    run/export/ted-6k/              the benchmark, with a card of its own; `granted push --ted` takes it

The three share no item, and no text either: pairs and questions about what is described like a caption of the
benchmark are left out. Tests: tests/test_construction_export.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value, Video

from granted.dataset_builders.caption_pairs.pairs import CaptionPair, write_pairs
from granted.dataset_builders.construction.curation import Fraction, near_duplicate_captions
from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.records import TedRecord, snake_case
from granted.dataset_builders.ted_6k.statistics import pairs_apart
from granted.utils.errors import InputError
from granted.utils.files import atomic_path
from granted.utils.options import option


SOURCE = "granted data construct"  # of the records: names of a user's files stay at home
BYTES_PER_GROUP = 64 * 2**20  # of media in a row group
_TEXT = Value("string")
VQA_FEATURES = Features(
    {
        "id": _TEXT,
        "messages": List({"role": _TEXT, "content": List({"type": _TEXT, "text": _TEXT})}),
        "images": List(Image()),
        "videos": List(Video()),
        "aspect": _TEXT,
        "source": _TEXT,
    }
)


@dataclass(kw_only=True)
class ExportSettings:
    """What the outcome is called, and under which licences it stands."""

    license: str = option("", "Licence of the texts, such as cc-by-4.0; needed by the export.", group="Export")
    source_license: str = option("", "Licence of the images and videos; needed by the export.", group="Export")
    unreviewed: bool = option(False, "Also export instances that nobody has reviewed.", group="Export")
    duplicate_caption: Fraction = option(
        0.8, "Captions that share this much of their runs of characters are duplicates.", group="Export"
    )


def export(settings: ExportSettings, run_folder: str | Path) -> dict[str, int]:
    """Write everything that a run has made.

    Args:
        settings ([`ExportSettings`]): the licences, and whether a person must have seen what is exported.
        run_folder (`str` or `Path`): of the whole run.

    Returns:
        `dict[str, int]`: how many were written of each kind, and how many instances were left out for which reason.

    Raises:
        InputError: a licence is missing, nothing is there to export, or the disk is full.
    """
    for name in ("license", "source_license"):
        if not getattr(settings, name).strip():
            raise InputError(f"got no {name}, expected one such as cc-by-4.0: data are not passed on without, set it")
    run = Path(run_folder)
    items = {row["id"]: row for row in read_rows(run, "curate")}
    captions = {row["id"]: row["caption"] for row in read_rows(run, "caption")}
    counts: Counter[str] = Counter()
    records = list(_records(run, settings, counts))
    again = near_duplicate_captions(
        {record["caption_id"]: record["caption"] for record in records}, settings.duplicate_caption
    )
    repeated = {name for name, _ in again}
    counts["instances of repeated captions"] = sum(record["caption_id"] in repeated for record in records)
    records = [record for record in records if record["caption_id"] not in repeated]
    tested = {f"ted {record['caption_id']}": record["caption"] for record in records}
    others = {name: text for name, text in captions.items() if items[name]["use"] != "ted"}
    alike = {
        name
        for pair in near_duplicate_captions(tested | others, settings.duplicate_caption)
        for name in pair
        if any(one.startswith("ted ") for one in pair) and not name.startswith("ted ")
    }
    output = run / "export"
    counts["instances"] = len(records)
    if records:
        export_dataset(records, output / "ted-6k", config_name="custom", source_note="Made by granted data construct.")
    seconds = {row["id"]: row["caption"] for row in read_rows(run, "second_caption")}
    left_out: list[str] = []
    made = [
        CaptionPair(
            id=name,
            media=items[name]["media"],
            caption_a=captions[name],
            caption_b=second,
            source=SOURCE,
        )
        for name, second in seconds.items()
        if name in captions and name not in alike
    ]
    pairs = list(pairs_apart(made, records, left_out))
    if pairs:
        counts["pairs"] = write_pairs(pairs, output / "pairs.parquet")
    counts["vqa rows"] = _write_vqa(_vqa_rows(run, items, alike), output / "vqa.parquet")
    return dict(counts)


def read_rows(run: Path, stage: str) -> list[dict[str, Any]]:
    """The rows of a stage; none where it has not run."""
    path = run / stage / "rows.parquet"
    return pq.read_table(path).to_pylist() if path.is_file() else []


def _records(run: Path, settings: ExportSettings, counts: Counter[str]) -> Iterator[TedRecord]:
    verdicts = verdicts_of(read_rows(run, "review"))
    for row in read_rows(run, "check"):
        name, statements, label = row["instance"], row["statements"], row["label"]
        if not row["kept"]:
            counts["set aside by checks"] += 1
            continue
        if name in verdicts:
            verdict = verdicts[name]
            counts[verdict.name] += 1
            if verdict.statements is None and verdict.name != "accepted":
                continue
            statements, label = verdict.statements or statements, label if verdict.label is None else verdict.label
        else:
            counts["unreviewed"] += 1
            if not settings.unreviewed:
                continue
        yield TedRecord(
            id=f"{row['id']}/{snake_case(row['category'])}",
            caption_id=row["id"],
            caption=row["caption"],
            media=row["media"],
            category=row["category"],
            question=row["question"],
            statements=statements,
            label=label,
            source=SOURCE,
        )


@dataclass(frozen=True)
class Verdict:
    """What reviewers have decided about an instance: `name` is accepted, fixed, rejected, null or undecided."""

    name: str
    statements: list[str] | None = None
    label: int | None = None


def verdicts_of(decisions: Iterable[Mapping[str, Any]]) -> dict[str, Verdict]:
    """The verdict on every instance that was reviewed: the last decision of each reviewer counts, and most decide."""
    last: defaultdict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for one in sorted(decisions, key=lambda one: one["when"]):
        if not one["gold"]:
            last[one["instance"]][one["reviewer"]] = one
    return {name: _verdict(list(by_reviewer.values())) for name, by_reviewer in last.items()}


def _verdict(decisions: Sequence[Mapping[str, Any]]) -> Verdict:
    kept = [one for one in decisions if one["decision"] in ("accept", "fix")]
    dropped = [one for one in decisions if one["decision"] in ("reject", "null")]
    if len(kept) == len(dropped):
        return Verdict("undecided")
    if len(kept) < len(dropped):
        nulls = sum(one["decision"] == "null" for one in dropped)
        return Verdict("null" if 2 * nulls > len(dropped) else "rejected")
    fixes = [one for one in kept if one["decision"] == "fix"]
    if 2 * len(fixes) < len(kept):
        return Verdict("accepted")
    return Verdict("fixed", fixes[-1]["statements"], fixes[-1]["label"])


def _vqa_rows(run: Path, items: Mapping[str, Mapping[str, Any]], alike: set[str]) -> Iterator[dict[str, Any]]:
    """Conversations about one item, all questions of one aspect in one."""
    asked: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in read_rows(run, "questions"):
        if row["id"] not in alike:
            asked[row["id"], row["aspect"]].append(row)
    for (name, aspect), rows in asked.items():
        item = items[name]
        turns = [
            {"role": role, "content": [{"type": "text", "text": row[key]}]}
            for row in rows
            for role, key in (("user", "question"), ("assistant", "answer"))
        ]
        turns[0]["content"].insert(0, {"type": item["media"], "text": None})
        shown = {"bytes": (run / item["file"]).read_bytes(), "path": Path(item["file"]).name}
        yield {
            "id": f"{name}/{aspect}",
            "messages": turns,
            "images": [shown] if item["media"] == "image" else [],
            "videos": [shown] if item["media"] == "video" else [],
            "aspect": aspect,
            "source": SOURCE,
        }


def _write_vqa(rows: Iterable[dict[str, Any]], path: Path) -> int:
    count, group, size = 0, [], 0
    schema = VQA_FEATURES.arrow_schema
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        row: dict[str, Any] | None = first
        while row is not None:
            group.append(row)
            size += sum(len(one["bytes"]) for one in (*row["images"], *row["videos"]))
            count += 1
            row = next(rows, None)
            if size >= BYTES_PER_GROUP or row is None:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
                group, size = [], 0
    return count
