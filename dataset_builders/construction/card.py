"""The cards of what a construction has made: of the benchmark the section on how it was made, of the rest all.

    made = made_section(run, settings, counts, records)       # Markdown, filled from the stages' provenance
    text = training_card(folder, settings, made)              # of pairs.parquet and vqa.parquet

Tests: tests/test_construction_export.py.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from granted.dataset_builders.construction.curation import Fraction
from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.dataset_builders.ted_6k.export import SIZE_CATEGORIES, sha256_of
from granted.dataset_builders.ted_6k.records import TedRecord
from granted.dataset_builders.ted_6k.shortcuts import shortcut_report
from granted.utils.files import read_json
from granted.utils.options import option
from granted.utils.templates import fill_template


HERE = Path(__file__).parent
STAGES = ("caption", "second_caption", "positive", "negatives", "questions", "check")
VERDICTS = ("accepted", "fixed", "rejected", "null", "undecided", "gold")
FEWEST_CAPTIONS = 10  # to fit what guesses from the statements alone


@dataclass(kw_only=True)
class ExportSettings:
    """Under which licences the outcome stands, and what of it a person must have seen."""

    language: str = option("English", "Of everything that is written.", group="Writing")
    license: str = option("", "Licence of captions, statements and questions, such as cc-by-4.0.", group="Export")
    source_license: str = option("", "Licence of the images and videos.", group="Export")
    unreviewed: bool = option(False, "Also export instances that nobody has reviewed.", group="Export")
    duplicate_caption: Fraction = option(
        0.8, "Captions that share this much of their runs of nine characters are duplicates.", group="Export"
    )


def language_code(language: str) -> str:
    """The ISO 639 code of a language by its English name; `und` (undetermined) where it is not known."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE  # loads what --help does without

    return TO_LANGUAGE_CODE.get(language.casefold(), "und")


def made_section(run: Path, settings: ExportSettings, counts: Mapping[str, int], records: Sequence[TedRecord]) -> str:
    """How everything was made, in Markdown.

    Args:
        run (`Path`): the folder with the stages.
        settings ([`ExportSettings`]): the licences.
        counts (`Mapping[str, int]`): of the export.
        records (`Sequence[TedRecord]`): the benchmark.
    """
    reviewed = _column(run, "review", "reviewer")
    unreviewed = counts.get("unreviewed", 0)
    checked = _column(run, "check", "reasons")
    curated = _record(run, "curate").get("counts", {})
    uses = {"ted": "for the benchmark", "pairs": "for caption pairs", "vqa": "for questions"}
    return fill_template(
        HERE / "made.md",
        media={
            "kept": curated.get("kept", 0),
            "uses": counted({uses[name]: curated[name] for name in uses if name in curated}),
            "removed": counted({name: count for name, count in curated.items() if name not in ("kept", *uses)}),
        },
        apart={
            "alike": counts.get("items described like the benchmark", 0),
            "texts": counts.get("pairs with a text of the benchmark", 0),
        },
        stages=[_stage_line(_record(run, name)) for name in STAGES if _record(run, name)],
        checks={
            "instances": len(checked),
            "set_aside": counts.get("set aside by checks", 0),
            "reasons": counted(Counter(reason for reasons in checked for reason in reasons)),
            "repeated": counts.get("of a repeated caption", 0),
        },
        review={
            "reviewers": len(set(reviewed)),
            "verdicts": counted({name: counts[name] for name in VERDICTS if counts.get(name)}).capitalize(),
            "unreviewed_exported": unreviewed if settings.unreviewed else 0,
            "unreviewed_left_out": 0 if settings.unreviewed else unreviewed,
            "agreement": [_agreement_line(row) for row in _record(run, "review").get("agreement", [])],
        },
        described=bool(_record(run, "caption").get("model", True)),
        shortcuts=_shortcuts(records),
        license=settings.license,
        source_license=settings.source_license,
    ).strip()


def _record(run: Path, stage: str) -> dict[str, Any]:
    path = run / stage / "stage.json"
    return read_json(path) if path.is_file() else {}


def _column(run: Path, stage: str, column: str) -> list[Any]:
    path = run / stage / "rows.parquet"
    return pq.read_table(path, columns=[column])[column].to_pylist() if path.is_file() else []


def counted(counts: Mapping[str, int]) -> str:
    """`{"kept": 1200, "removed": 3}` -> `"1,200 kept, 3 removed"`."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _stage_line(record: Mapping[str, Any]) -> dict[str, str]:
    prompts = [f"{name} {one['version']} (`{one['hash'][:8]}`)" for name, one in record.get("prompts", {}).items()]
    usage = record.get("usage", {})
    return {
        "name": record["stage"],
        "model": f"`{record['model']}`" if record["model"] else "none: captions of the source",
        "prompts": ", ".join(prompts) or "-",
        "counts": counted({name: n for name, n in record["counts"].items() if not name.startswith("not kept: ")}),
        "tokens": f"{usage.get('prompt_tokens', 0) + usage.get('completion_tokens', 0):,}",
    }


def _agreement_line(row: Mapping[str, Any]) -> dict[str, Any]:
    low, high = row["ci95"] or (None, None)
    return {
        "category": row["category"],
        "of": row["of"],
        "instances": row["instances"],
        "agreed": f"{100 * row['agreed']:.1f}",
        "kappa": "-" if row["kappa"] is None else f"{row['kappa']:.2f}",
        "interval": "-" if low is None else f"{low:.2f} to {high:.2f}",
    }


def _shortcuts(records: Sequence[TedRecord]) -> list[list[str]]:
    """What rules answer, as a table with its header first; nothing without a benchmark."""
    if not records:
        return []
    enough = len({record["caption_id"] for record in records}) >= FEWEST_CAPTIONS
    found = shortcut_report(records) if enough else baseline_summary(records)
    rows = [["category", *(name.replace("_", " ") for name in found)]]
    for category in sorted({record["category"] for record in records}):
        rows.append([category, *(f"{100 * one['categories'][category]:.1f}" for one in found.values())])
    return [*rows, ["all", *(f"{100 * one['accuracy']:.1f}" for one in found.values())]]


def training_card(folder: Path, settings: ExportSettings, made: str) -> str:
    """The card of `pairs.parquet` and `vqa.parquet`, of which at least one is in a folder.

    Args:
        folder (`Path`): what it is the card of.
        settings ([`ExportSettings`]): language and licences.
        made (`str`): of [`made_section`].
    """
    names = {"pairs": "caption pairs", "vqa": "conversations"}
    files = {name: folder / f"{name}.parquet" for name in names}
    rows = {name: pq.read_metadata(path).num_rows for name, path in files.items() if path.is_file()}
    total = sum(rows.values())
    data = DatasetCardData(
        language=language_code(settings.language),
        license=settings.license if settings.license == settings.source_license else "other",
        pretty_name="Captions and questions about images and videos",
        task_categories=["visual-question-answering", "sentence-similarity"],
        tags=["text-encoder", "text-to-image", "text-to-video", "synthetic"],
        size_categories=[next(name for most, name in SIZE_CATEGORIES.items() if total < most)],
        configs=[
            {
                "config_name": name,
                "description": f"SHA-256 of the file: {sha256_of([folder / f'{name}.parquet'])}",
                "data_files": [{"split": "train", "path": f"{name}.parquet"}],
            }
            for name in rows
        ],
    )
    text = fill_template(
        HERE / "card.md",
        pretty_name=data.pretty_name,
        contents=" and ".join(f"{count:,} {names[name]}" for name, count in rows.items()),
        configs=list(rows),
        table=_statistics(folder, rows),
        made=made,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def _statistics(folder: Path, rows: Mapping[str, int]) -> list[list[str]]:
    """How many rows of each kind there are, and how long their texts are, as a table with its header first."""
    texts: defaultdict[str, list[list[str]]] = defaultdict(list)  # by kind those of each row
    for row in _texts(folder / "pairs.parquet", ["media", "caption_a", "caption_b"]) if "pairs" in rows else ():
        texts[f"caption pairs, {row['media']}"].append([row["caption_a"], row["caption_b"]])
    for row in _texts(folder / "vqa.parquet", ["aspect", "messages"]) if "vqa" in rows else ():
        parts = [part for turn in row["messages"] for part in turn["content"]]
        texts[f"conversations, {row['aspect']}"].append([part["text"] for part in parts if part["type"] == "text"])
    table = [["kind", "rows", "words of a text, mean"]]
    for kind, of_rows in sorted(texts.items()):
        words = [len(text.split()) for row in of_rows for text in row]
        table.append([kind, f"{len(of_rows):,}", f"{sum(words) / len(words):.1f}"])
    return table


def _texts(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    return pq.read_table(path, columns=columns).to_pylist()
