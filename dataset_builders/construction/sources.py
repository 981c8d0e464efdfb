"""Images and videos one after the other, from a folder, from webdataset tar files or from a Hugging Face dataset.

    for one in read_source(SourceSettings(source="photos")):     # also "a.tar,b.tar", "owner/name", "rows.parquet"
        one.name, one.content, one.caption

Nothing is unpacked: names inside a source are never used as paths of this machine. Tests:
tests/test_construction_sources.py.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from datasets import Dataset, DatasetDict, Image, IterableDataset, Video, load_from_disk

from granted.dataset_builders.loading import FOLDER, load_source, medium_of, readable, undecoded
from granted.utils.errors import InputError, refusing
from granted.utils.files import parts_of
from granted.utils.options import option
from granted.utils.settings import Count


TARS = (".tar", ".tar.gz", ".tgz")
ROWS = (".parquet", ".jsonl", ".jsonl.gz", ".arrow")  # a folder that has one of them is a dataset
CAPTIONS = (".txt", ".json")  # beside `cat.jpg`: `cat.txt`, or `cat.json` with the key "caption"
LARGEST = 4 << 30  # bytes of a file: a tar of a few hundred bytes can claim a file of terabytes
ELSEWHERE = ("http://", "https://", "hf://")  # where media of a dataset from the Hub may be


@dataclass(kw_only=True)
class SourceSettings:
    """Where images and videos come from."""

    source: str = option(
        help="A folder of images and videos, webdataset tar files (commas between them), or a dataset: Parquet or "
        "JSON Lines, a saved folder or a Hub id.",
        group="Source",
    )
    limit: Count | None = option(None, "Most items taken from the source; all by default.", group="Source")
    split: str = option("train", "Of a dataset: its split.", group="Source")
    media_column: str = option("", "Of a dataset: its column of images or videos, if it has several.", group="Source")
    caption_column: str = option("", "Of a dataset: a column of captions to keep beside the media.", group="Source")


@dataclass(frozen=True)
class SourceItem:
    """One image or video of a source, or what should be one.

    Attributes:
        name (`str`): where it is in the source, such as `birds/1.jpg`, `shard-0.tar/000017.jpg` or `row 17`.
        content (`bytes`, *optional*): of its file; `None` if it could not be read.
        caption (`str`, *optional*): a text that the source has for it.
        problem (`str`): why it could not be read.
    """

    name: str
    content: bytes | None
    caption: str | None = None
    problem: str = ""


def read_source(settings: SourceSettings) -> Iterator[SourceItem]:
    """Stream the media of a source in its own order; one is held at a time.

    A folder with Parquet, JSON Lines or Arrow files in it is a dataset, one with tar files alone is a webdataset, and
    any other is a folder of media, read with the folders inside it; links and hidden files are passed over.

    Raises:
        InputError: the source is missing or cannot be read, or its column of media is not known.
    """
    source = settings.source
    parts = parts_of(source)
    if parts and all(part.endswith(TARS) for part in parts):
        return _read_tars([Path(part) for part in parts])
    if not os.path.isdir(source):
        return _read_dataset(load_source(source, settings.split, streaming=True), settings)
    folder = Path(source)
    names = sorted(os.listdir(folder))
    if "dataset_info.json" in names or "dataset_dict.json" in names:
        return _read_dataset(_saved_dataset(folder, settings.split), settings, saved=True)
    if any(name.endswith(ROWS) for name in names) or any(folder.glob("*/*.parquet")):
        return _read_dataset(load_source(source, settings.split, streaming=True), settings)
    if names and all(name.endswith(TARS) for name in names):
        return _read_tars([folder / name for name in names])
    return _read_folder(folder)


# -------------------------------------------------------------------------------------------------------------- folder


def _read_folder(folder: Path) -> Iterator[SourceItem]:
    for place, inside, names in os.walk(folder, onerror=_raise):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        texts = {name for name in names if name.endswith(CAPTIONS)}
        owners = {PurePosixPath(name).stem for name in names if name not in texts}
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or path.is_symlink() or (name in texts and path.stem in owners):
                continue
            if path.exists() and not path.is_file():  # a pipe would never end
                continue
            shown = path.relative_to(folder).as_posix()
            captions = [path.with_suffix(end) for end in CAPTIONS if path.stem + end in texts - {name}]
            try:
                yield _item(shown, _bytes_of(path), [(one.suffix, _bytes_of(one)) for one in captions])
            except OSError as error:
                yield SourceItem(_utf8(shown), None, problem=error.strerror or str(error))


def _raise(error: OSError) -> None:
    raise InputError(f"got '{error.strerror}' while reading {error.filename}, expected a folder: check it") from error


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.stat().st_size <= LARGEST else None


def _utf8(name: str) -> str:
    """A file's name whose bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _item(name: str, content: bytes | None, texts: Sequence[tuple[str, bytes | None]]) -> SourceItem:
    """With the first text that is a caption; one that cannot be read takes its medium with it."""
    name = _utf8(name)
    if content is None or any(text is None for _, text in texts):
        return SourceItem(name, None, problem=f"it or its caption has more than {LARGEST >> 30} GB")
    for suffix, text in texts:
        try:
            found: Any = text.decode("utf-8-sig")
            if suffix == ".json":
                found = json.loads(found)
                found = found.get("caption") if isinstance(found, dict) else None
            str(found).encode()  # JSON may have half a surrogate pair
        except (ValueError, RecursionError) as error:
            return SourceItem(name, None, problem=f"its caption in {suffix} cannot be read: {error}")
        if isinstance(found, str) and found.strip():
            return SourceItem(name, content, found.strip())
    return SourceItem(name, content)


# ---------------------------------------------------------------------------------------------------------- webdataset


def _read_tars(paths: list[Path]) -> Iterator[SourceItem]:
    """By tarfile and not by `datasets`, which wants the same columns in every sample: images or videos, not both."""
    for path in paths:
        expected = "a tar file of samples: check the path, or fetch it again"
        with refusing(str(path), expected):
            tar = tarfile.open(path, "r|*")  # noqa: SIM115
        with tar:
            for key, sample in _samples(readable(_members(tar), str(path))):
                texts = [(suffix, content) for suffix, content in sample if suffix in CAPTIONS]
                for suffix, content in sample:
                    if suffix not in CAPTIONS:
                        yield _item(f"{path.name}/{key}{suffix}", content, texts)


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of the regular files, `None` of one too large; links and devices are never followed."""
    for member in tar:
        file = tar.extractfile(member) if member.isreg() else None
        if file is not None:
            yield member.name, file.read() if member.size <= LARGEST else None


def _samples(members: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, list[tuple[str, bytes | None]]]]:
    """The files that follow one another under one key, which ends at the first dot of the name."""
    key, sample = None, []
    for name, content in members:
        path = PurePosixPath(name)
        stem, dot, suffix = path.name.partition(".")
        if path.name.startswith("."):
            continue
        if (found := (path.parent / stem).as_posix()) != key and sample:
            yield key, sample
            sample = []
        key = found
        sample.append((dot + suffix.lower(), content))
    if sample:
        yield key, sample


# ------------------------------------------------------------------------------------------------------------- dataset


def _saved_dataset(folder: Path, split: str) -> Dataset:
    with refusing(str(folder), "a folder that Dataset.save_to_disk wrote: save it again"):
        loaded = load_from_disk(str(folder))
    if isinstance(loaded, DatasetDict):
        if split not in loaded:
            raise InputError(f"got split {split!r} of {folder}, expected one of {', '.join(loaded)}: name one (split)")
        loaded = loaded[split]
    return undecoded(loaded)


def _read_dataset(
    rows: Dataset | IterableDataset, settings: SourceSettings, saved: bool = False
) -> Iterator[SourceItem]:
    column = _media_column(rows, settings)
    for number, row in enumerate(readable(rows, settings.source)):
        if column not in row or (settings.caption_column and settings.caption_column not in row):
            raise InputError(
                f"got row {number} of {settings.source} with {', '.join(row)}, expected {column} "
                f"{settings.caption_column}: check media_column and caption_column"
            )
        caption = row[settings.caption_column] if settings.caption_column else None
        caption = caption.strip() if isinstance(caption, str) and caption.strip() else None
        try:
            yield SourceItem(f"row {number}", _content(medium_of(row, column), saved or FOLDER in row), caption)
        except Exception as error:  # the file systems of fsspec raise errors of every kind
            yield SourceItem(f"row {number}", None, caption, " ".join(str(error).split())[:200])


def _media_column(rows: Dataset | IterableDataset, settings: SourceSettings) -> str:
    if settings.media_column:
        return settings.media_column
    features = rows.features or {}
    found = [name for name, feature in features.items() if isinstance(feature, Image | Video)]
    if not found:  # rows of JSON Lines have paths
        found = [name for name in features or rows.column_names or ("image",) if name in ("image", "video")]
    if len(found) != 1:
        raise InputError(
            f"got {settings.source} with {len(found)} columns of images or videos ({', '.join(found)}), expected one: "
            f"name it with media_column (columns: {', '.join(features)})"
        )
    return found[0]


def _content(value: Any, is_here: bool) -> bytes:
    """The bytes of a medium, by its path if need be; a dataset from elsewhere (`not is_here`) has no path of ours."""
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("the row has no image or video")
    if not is_here and ("::" in value or not value.startswith(ELSEWHERE)):
        raise ValueError(f"{value:.80} is a path of this machine, in a dataset that is not of it")
    with fsspec.open(value, "rb") as file:
        return file.read()
