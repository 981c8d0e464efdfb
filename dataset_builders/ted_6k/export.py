"""Writing a benchmark as the folder of a Hub dataset repository.

    records, info = read_ted("TED-6k.json")
    export_dataset(records, "ted-6k", config_name=info["config"], source_note="The authors' file of 2025-12.")
    load_dataset("ted-6k", "spatial_relationship", split="test")      # from the parent folder, or from the Hub

    ted-6k/
        README.md                       the card, made from card.md and the statistics
        ted_6k.py                       the builder
        statistics.json
        data/{image,video}/{category}.parquet
"""

import fnmatch
import hashlib
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from granted.citation import bibtex
from granted.dataset_builders.ted_6k.authors_layout import config_of
from granted.dataset_builders.ted_6k.records import (
    CATEGORIES,
    FEATURES,
    MEDIA,
    OFFICIAL_COUNTS,
    TedRecord,
    snake_case,
)
from granted.dataset_builders.ted_6k.statistics import describe, rows
from granted.dataset_builders.ted_6k.ted_6k import CONFIG_FILES
from granted.errors import InputError
from granted.files import atomic_path, write_json
from granted.templates import fill_template


HERE = Path(__file__).parent
# The authors' file states no licence; what the user brings has the licence it came with.
LICENSES = {"official": "other", "synthetic": "apache-2.0", "sample": "apache-2.0", "custom": "unknown"}
# Without the schema key `huggingface`: datasets 3 cannot read the one that datasets 4 and 5 write.
SCHEMA = FEATURES.arrow_schema.remove_metadata()
MEANINGS = {
    "id": "unique; `{caption_id}/{category}`",
    "caption_id": "the caption's key; several instances share one",
    "caption": "the description",
    "media": "`image` or `video`: what the caption describes",
    "category": "the aspect that is tested",
    "question": "what the statements answer; not encoded",
    "statements": "the statements, shuffled",
    "label": "the index of the true one",
    "source": "where the instance comes from",
}


def export_dataset(
    records: Sequence[TedRecord],
    output_dir: str | Path,
    *,
    config_name: str,
    source_note: str,
    repo_id: str = "ted-6k",
    revision: str | None = None,
) -> Path:
    """Write the records as a dataset folder; the same records give the same bytes.

    Args:
        records (`Sequence[TedRecord]`): the benchmark.
        output_dir (`str` or `Path`): the folder to make. One that this function made earlier is replaced.
        config_name (`str`): `"official"`, `"synthetic"`, `"sample"` or `"custom"`, as `read_ted` answers.
        source_note (`str`): a sentence for the card saying where the records come from.
        repo_id (`str`, defaults to `"ted-6k"`): where the folder will be on the Hub; the card loads it from there.
        revision (`str`, *optional*): the tag it will have there; the card's example pins it.

    Returns:
        `Path`: `output_dir`.

    Raises:
        InputError: a record breaks the schema, the records are not what `config_name` says, `output_dir` holds
            something else, or the disk is full. `output_dir` is then as it was.
    """
    output_dir = Path(output_dir)
    stats = describe(records)
    _check_name(records, config_name, stats)
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / "ted_6k.py").is_file():
        raise InputError(f"got {output_dir}, which holds other files, expected a new folder: choose another")
    groups: defaultdict[str, list[TedRecord]] = defaultdict(list)
    for record in records:
        groups[f"data/{record['media']}/{snake_case(record['category'])}.parquet"].append(record)
    card = render_card(stats, sorted(groups), config_name, source_note, repo_id=repo_id, revision=revision)
    with atomic_path(output_dir) as folder:
        for name, members in groups.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(members, schema=SCHEMA), folder / name)
        write_json(folder / "statistics.json", {"config_name": config_name, "source_note": source_note, **stats})
        shutil.copyfile(HERE / "ted_6k.py", folder / "ted_6k.py")
        (folder / "README.md").write_text(card, encoding="utf-8")
    return output_dir


def render_card(
    stats: dict[str, Any],
    files: Sequence[str],
    config_name: str,
    source_note: str,
    *,
    repo_id: str = "ted-6k",
    revision: str | None = None,
) -> str:
    """The dataset card: YAML with one configuration per selection that has rows, and the text of `card.md`.

    Args:
        stats (`dict`): the answer of `describe`.
        files (`Sequence[str]`): the Parquet files, relative to the folder.
        config_name (`str`): `"official"`, `"synthetic"`, `"sample"` or `"custom"`.
        source_note (`str`): where the records come from.
        repo_id (`str`, defaults to `"ted-6k"`), revision (`str`, *optional*): as of [`export_dataset`].
    """
    configs = {name: pattern for name, pattern in CONFIG_FILES.items() if fnmatch.filter(files, pattern)}
    if config_name in ("official", "synthetic"):  # so that a loader can insist on the benchmark that is meant
        configs[config_name] = configs["default"]
    data = DatasetCardData(
        language="en",
        license=LICENSES[config_name],
        pretty_name="TED-6K" if config_name == "official" else f"TED-6K layout, {config_name}",
        task_categories=["sentence-similarity"],
        tags=["text-encoder", "text-to-image", "text-to-video", "benchmark"],
        size_categories=["n<1K" if stats["instances"] < 1000 else "1K<n<10K"],
        configs=[
            {
                "config_name": name,
                **({"default": True} if name == "default" else {}),
                "data_files": [{"split": "test", "path": pattern}],
            }
            for name, pattern in configs.items()
        ],
        dataset_info=[{"config_name": name, "features": FEATURES._to_yaml_list()} for name in configs],
    )
    text = fill_template(
        HERE / "card.md",
        citation=bibtex(),
        code_sha256=hashlib.sha256((HERE / "ted_6k.py").read_bytes()).hexdigest(),
        config_name=config_name,
        configs=list(configs),
        fields=[
            (field["name"], field.get("dtype") or f"list of {field['list']}", MEANINGS[field["name"]])
            for field in FEATURES._to_yaml_list()
        ],
        media=[medium for medium in MEDIA if stats["by_media"][medium]],
        official_instances=sum(map(sum, OFFICIAL_COUNTS.values())),
        official_categories=len(CATEGORIES),
        pretty_name=data.pretty_name,
        repo_id=repo_id,
        revision=revision,
        source_note=source_note,
        stats=stats,
        table=rows(stats),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def _check_name(records: Sequence[TedRecord], config_name: str, stats: dict[str, Any]) -> None:
    if config_name not in LICENSES:
        raise InputError(f"got config_name {config_name!r}, expected one of {', '.join(LICENSES)}: correct it")
    actual = config_of(records)
    if config_name != actual:
        raise InputError(
            f"got config_name {config_name!r} for {stats['instances']} instances that are {actual!r}, expected "
            f"{actual!r}: scores of one are never to be presented as those of another"
        )
