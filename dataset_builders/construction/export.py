"""What was checked and reviewed as files that `granted evaluate ted` and `granted train` take: the stage `export`.

    export(settings, "run")         # {"instances": 214, "caption pairs": 590, "conversations": 402, ...}

    run/export/README.md            the card of what is for training
    run/export/pairs.parquet        two captions each, for context aggregators
    run/export/vqa.parquet          questions and answers with their images and videos inside, for stage 1
    run/export/ted-6k/              the benchmark, with a card of its own

`granted push --ted run/export/ted-6k --training-data run/export` takes both. The three share no item, and no text
either: what is described almost like an item of the benchmark is not used for training. Tests:
tests/test_construction_export.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value, Video

from granted.dataset_builders.caption_pairs.pairs import CaptionPair, write_pairs
from granted.dataset_builders.construction.card import ExportSettings, language_code, made_section, training_card
from granted.dataset_builders.construction.duplicates import near_duplicate_captions
from granted.dataset_builders.construction.stages import made_rows
from granted.dataset_builders.construction.verdicts import verdicts_of
from granted.dataset_builders.ted_6k.export import Origin, export_dataset
from granted.dataset_builders.ted_6k.records import TedRecord, snake_case
from granted.dataset_builders.ted_6k.statistics import pairs_apart
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path


SOURCE = "granted data construct"  # of all records: the names of a user's files are not passed on
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


def export(settings: ExportSettings, run_folder: str | Path) -> dict[str, int]:
    """Write everything that a run has made. An earlier export is replaced as a whole.

    Args:
        settings ([`ExportSettings`]): the licences, and whether a person must have seen what is exported.
        run_folder (`str` or `Path`): of the whole run.

    Returns:
        `dict[str, int]`: how many were written of each kind, and how many were left out for which reason.

    Raises:
        InputError: a licence is missing, nothing is there to export, or the disk is full.
    """
    for name, whose in (("license", "of captions and statements"), ("source_license", "of the images and videos")):
        if not getattr(settings, name).strip():
            raise InputError(
                f"got no {name}, expected that {whose}, such as cc-by-4.0, as nobody may use data without one"
            )
    run = Path(run_folder)
    items = {row["id"]: row for row in made_rows(run, "curate")}
    records, counts = _records(run, settings)
    alike = _described_like(records, run, items, settings.duplicate_caption)
    counts["items described like the benchmark"] = len(alike)
    left_out: list[str] = []
    pairs = list(pairs_apart(_pairs(run, items, alike), records, left_out))
    counts["caption pairs"] = len(pairs)
    counts["pairs with a text of the benchmark"] = len(left_out)
    with atomic_path(run / "export") as folder:
        folder.mkdir()
        counts["conversations"] = _write_vqa(_conversations(run, items, alike), folder / "vqa.parquet")
        if pairs:
            write_pairs(pairs, folder / "pairs.parquet")
        if not (records or pairs or counts["conversations"]):
            reasons = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no rows"
            raise InputError(
                f"got nothing to export from {run} ({reasons}), expected at least one instance, pair or question: run "
                "the stages before, review instances, or set unreviewed"
            )
        made = made_section(run, settings, counts, records)
        if records:
            origin = Origin(settings.license, settings.language, language_code(settings.language), made)
            note = "Made from a user's own images and videos; see *How it was made*."
            export_dataset(records, folder / "ted-6k", config_name="custom", source_note=note, origin=origin)
        if pairs or counts["conversations"]:
            (folder / "README.md").write_text(training_card(folder, settings, made), encoding="utf-8")
    return {name: count for name, count in counts.items() if count}


# ----------------------------------------------------------------------------------------------------------- benchmark


def _records(run: Path, settings: ExportSettings) -> tuple[list[TedRecord], Counter[str]]:
    """The instances that are kept, as records, and what became of all."""
    verdicts = verdicts_of(made_rows(run, "review"))
    records, counts = [], Counter({"instances": 0, "caption pairs": 0, "conversations": 0})
    for row in made_rows(run, "check"):
        verdict = verdicts.get(row["instance"])
        if not row["kept"]:
            counts["set aside by checks"] += 1
        elif verdict is None:
            counts["unreviewed"] += 1
        else:
            counts[verdict.name] += 1
        if row["kept"] and (verdict.kept if verdict else settings.unreviewed):
            changed = (
                {"statements": list(verdict.statements), "label": verdict.label}
                if verdict and verdict.statements
                else {}
            )
            records.append(_record(row | changed))
    captions = {record["caption_id"]: record["caption"] for record in records}
    repeated = {name for name, _ in near_duplicate_captions(captions, settings.duplicate_caption)}
    counts["of a repeated caption"] = sum(record["caption_id"] in repeated for record in records)
    records = [record for record in records if record["caption_id"] not in repeated]
    counts["instances"] = len(records)
    return records, counts


def _record(row: Mapping[str, Any]) -> TedRecord:
    return TedRecord(
        id=f"{row['id']}/{snake_case(row['category'])}",
        caption_id=row["id"],
        caption=row["caption"],
        media=row["media"],
        category=row["category"],
        question=row["question"],
        statements=row["statements"],
        label=row["label"],
        source=SOURCE,
    )


# ------------------------------------------------------------------------------------------------------------ training


def _described_like(
    records: Iterable[TedRecord], run: Path, items: Mapping[str, Mapping[str, Any]], similarity: float
) -> set[str]:
    """The items for training whose first or second caption is almost one of the benchmark's."""
    texts = {("ted", record["caption_id"]): record["caption"] for record in records}
    for stage in ("caption", "second_caption"):
        rows = made_rows(run, stage)
        texts |= {(stage, row["id"]): row["caption"] for row in rows if items[row["id"]]["use"] != "ted"}
    pairs = near_duplicate_captions(texts, similarity)
    return {name for (stage, name), (other, _) in pairs if other == "ted" and stage != "ted"}


def _pairs(run: Path, items: Mapping[str, Mapping[str, Any]], alike: set[str]) -> Iterator[CaptionPair]:
    captions = {row["id"]: row["caption"] for row in made_rows(run, "caption")}
    for row in made_rows(run, "second_caption"):
        name = row["id"]
        if name in captions and name not in alike:
            media, both = items[name]["media"], (captions[name], row["caption"])
            yield CaptionPair(id=name, media=media, caption_a=both[0], caption_b=both[1], source=SOURCE)


def _conversations(run: Path, items: Mapping[str, Mapping[str, Any]], alike: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of VQA: all questions of one aspect about one item in one, so that its media are stored as few times."""
    asked: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in made_rows(run, "questions"):
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
        path = run / item["file"]
        with refusing(str(path), "a file that curation has put there: put it back, or begin another run"):
            shown = {"bytes": path.read_bytes(), "path": path.name}
        yield {
            "id": f"{name}/{aspect}",
            "messages": turns,
            "images": [shown] if item["media"] == "image" else [],
            "videos": [shown] if item["media"] == "video" else [],
            "aspect": aspect,
            "source": SOURCE,
        }


def _write_vqa(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write rows, one row group at a time, and say how many; no file where there is none."""
    count = 0
    for group in _groups(rows):
        if not count:
            writer = pq.ParquetWriter(path, VQA_FEATURES.arrow_schema)
        writer.write_table(pa.Table.from_pylist(group, schema=VQA_FEATURES.arrow_schema))
        count += len(group)
    if count:
        writer.close()
    return count


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += sum(len(one["bytes"]) for one in (*row["images"], *row["videos"]))
        if size >= BYTES_PER_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
