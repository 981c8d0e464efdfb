"""Writing a benchmark as the folder of a Hub dataset repository.

records, info = read_ted("TED-6k.json")
export_dataset(records, "ted-6k", config_name=info["config"], source_note="The authors' file of 2025-12.")
load_dataset("ted-6k", "spatial_relationship", split="test")      # from the parent folder, or from the Hub

ted-6k/
    README.md                       the card, made from card.md and the statistics
    eval.yaml                       the benchmark's task on the Hub
    ted_6k.py                       the builder
    statistics.json
    data/{image,video}/{category}.parquet
"""

import fnmatch
import hashlib
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from granted.dataset_builders.ted_6k.hub_task import eval_yaml, subset
from granted.dataset_builders.ted_6k.records import (
    CATEGORIES,
    FEATURES,
    MEDIA,
    OFFICIAL_INSTANCES,
    TedRecord,
    snake_case,
)
from granted.dataset_builders.ted_6k.statistics import describe, rows
from granted.dataset_builders.ted_6k.ted_6k import CONFIG_FILES
from granted.utils.citation import bibtex
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, write_json
from granted.utils.templates import fill_template


HERE = Path(__file__).parent
# The authors' file states no licence; what the user brings has the licence it came with.
LICENSES = {"official": "other", "synthetic": "apache-2.0", "sample": "apache-2.0", "custom": "unknown"}
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", math.inf: "n>1M"}
ROWS_PER_GROUP = 200  # of a Parquet file; this many of each file wait in memory
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


@dataclass(frozen=True)
class Origin:
    """What the maker of a custom benchmark says of it in its card.

    Attributes:
        license (`str`): of the records, such as `"cc-by-4.0"`.
        language (`str`): its name, such as `"English"`.
        language_code (`str`): as ISO 639 has it, such as `"en"`.
        made (`str`): Markdown, the section on how it was made.
    """

    license: str
    language: str
    language_code: str
    made: str


def export_dataset(
    records: Iterable[TedRecord],
    output_dir: str | Path,
    *,
    config_name: str,
    source_note: str,
    repo_id: str = "ted-6k",
    revision: str | None = None,
    origin: Origin | None = None,
) -> Path:
    """Write the records as a dataset folder, as they come; the same records give the same bytes.

    Args:
        records (`Iterable[TedRecord]`): the benchmark, read once; little more than the ids is kept in memory.
        output_dir (`str` or `Path`): the folder to make. One that this function made earlier is replaced.
        config_name (`str`): `"official"`, `"synthetic"`, `"sample"` or `"custom"`, as `read_ted` answers.
        source_note (`str`): a sentence for the card saying where the records come from.
        repo_id (`str`, defaults to `"ted-6k"`): where the folder will be on the Hub; the card loads it from there.
        revision (`str`, *optional*): the tag it will have there; the card's example pins it.
        origin ([`Origin`], *optional*): what the card says of a custom benchmark beside the note.

    Returns:
        `Path`: `output_dir`.

    Raises:
        InputError: a record breaks the schema, the records are not what `config_name` says, `output_dir` holds
            something else, or the disk is full. `output_dir` is then as it was.
    """
    output_dir = Path(output_dir)
    if config_name not in LICENSES:
        raise InputError(f"got config_name {config_name!r}, expected one of {', '.join(LICENSES)}")
    if origin is not None and config_name != "custom":
        raise InputError(f"got an origin of the benchmark {config_name!r}, expected none: a custom one has it")
    if output_dir.is_dir() and any(output_dir.iterdir()) and not (output_dir / "ted_6k.py").is_file():
        raise InputError(f"got {output_dir}, which holds other files, expected a new folder: choose another")
    with atomic_path(output_dir) as folder:
        sizes: Counter[str] = Counter()
        with closing(_written(records, folder, sizes)) as written:
            stats = describe(written)
        if config_name != stats["config_name"]:
            raise InputError(
                f"got config_name {config_name!r} for {stats['instances']} instances that are "
                f"{stats['config_name']!r}, expected {stats['config_name']!r}: scores of one are never to be "
                "presented as those of another"
            )
        said = {"source_note": source_note} | ({"origin": asdict(origin)} if origin else {})
        write_json(folder / "statistics.json", said | stats)
        shutil.copyfile(HERE / "ted_6k.py", folder / "ted_6k.py")
        (folder / "eval.yaml").write_text(eval_yaml(config_name, source_note), encoding="utf-8")
        card = render_card(folder, sizes, stats, source_note, repo_id=repo_id, revision=revision, origin=origin)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return output_dir


def _written(records: Iterable[TedRecord], folder: Path, sizes: Counter[str]) -> Iterator[TedRecord]:
    """The records as they come; each is put into its file after whoever takes them has looked at it.

    `sizes` counts the bytes of each file's rows in memory.
    """
    writers: dict[str, pq.ParquetWriter] = {}
    waiting: defaultdict[str, list[TedRecord]] = defaultdict(list)

    def write(name: str) -> None:
        if name not in writers:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            writers[name] = stack.enter_context(pq.ParquetWriter(folder / name, SCHEMA))
        table = pa.Table.from_pylist(waiting.pop(name), schema=SCHEMA)
        writers[name].write_table(table)
        sizes[name] += table.nbytes

    with ExitStack() as stack:
        for record in records:
            yield record
            name = f"data/{record['media']}/{snake_case(record['category'])}.parquet"
            waiting[name].append(record)
            if len(waiting[name]) == ROWS_PER_GROUP:
                write(name)
        for name in list(waiting):
            write(name)


def render_card(
    folder: Path,
    sizes: Mapping[str, int],
    stats: dict[str, Any],
    source_note: str,
    *,
    repo_id: str = "ted-6k",
    revision: str | None = None,
    origin: Origin | None = None,
) -> str:
    """The dataset card: YAML with one configuration per selection that has rows, and the text of `card.md`.

    `load_dataset` keeps what it has read of a folder under a hash of the YAML alone. So the YAML says what the files
    hold, and of two benchmarks of one name neither is taken for the other.

    Args:
        folder (`Path`): where the Parquet files are.
        sizes (`Mapping[str, int]`): their names in it, and the bytes of their rows in memory.
        stats (`dict`): the answer of `describe`.
        source_note (`str`): where the records come from.
        repo_id (`str`, defaults to `"ted-6k"`), revision (`str`, *optional*), origin ([`Origin`], *optional*): as of
            [`export_dataset`].
    """
    config_name = stats["config_name"]
    patterns = dict(CONFIG_FILES)
    patterns[subset(config_name)] = patterns["default"]  # so that a loader can insist on the benchmark that is meant
    files = {name: found for name, pattern in patterns.items() if (found := fnmatch.filter(sorted(sizes), pattern))}
    size = next(name for most, name in SIZE_CATEGORIES.items() if stats["instances"] < most)
    data = DatasetCardData(
        language=origin.language_code if origin else "en",
        license=origin.license if origin else LICENSES[config_name],
        pretty_name="TED-6K" if config_name == "official" else f"TED-6K layout, {config_name}",
        task_categories=["sentence-similarity"],
        tags=["text-encoder", "text-to-image", "text-to-video", "benchmark"],
        size_categories=[size],
        configs=[
            {
                "config_name": name,
                "description": f"SHA-256 of the files: {sha256_of(folder / file for file in files[name])}",
                **({"default": True} if name == "default" else {}),
                "data_files": [{"split": "test", "path": patterns[name]}],
            }
            for name in files
        ],
        dataset_info=[{"config_name": name, **_info_of(folder, files[name], sizes)} for name in files],
    )
    text = fill_template(
        HERE / "card.md",
        citation=bibtex(),
        code_sha256=sha256_of([HERE / "ted_6k.py"]),
        config_name=config_name,
        configs=list(files),
        fields=[
            (field["name"], field.get("dtype") or f"list of {field['list']}", MEANINGS[field["name"]])
            for field in FEATURES._to_yaml_list()
        ],
        media=[medium for medium in MEDIA if stats["by_media"][medium]],
        official_instances=OFFICIAL_INSTANCES,
        official_categories=len(CATEGORIES),
        categories=sum(bool(count["total"]) for count in stats["by_category"].values()),
        pretty_name=data.pretty_name,
        repo_id=repo_id,
        revision=revision,
        source_note=source_note,
        origin=origin,
        stats=stats,
        table=rows(stats),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


def sha256_of(files: Iterable[Path]) -> str:
    """The hash of files, one after the other; in a card it tells `load_dataset` what it has not read yet."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _info_of(folder: Path, files: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Any]:
    """The fields and sizes of a configuration, as `datasets` writes them into a card."""
    rows, size = sum(pq.read_metadata(folder / file).num_rows for file in files), sum(sizes[file] for file in files)
    return {
        "features": FEATURES._to_yaml_list(),
        "splits": [{"name": "test", "num_bytes": size, "num_examples": rows}],
        "download_size": sum((folder / file).stat().st_size for file in files),
        "dataset_size": size,
    }
