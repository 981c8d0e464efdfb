"""Rows with images or videos from any dataset, for every stage: what is read, and where relative paths begin.

rows = load_source("train.jsonl,more.parquet")     # Parquet or JSON Lines, a folder, or a Hub id
image = open_image(medium_of(rows[0], "image"))    # a relative path begins in the folder of the row's file
for row in readable(rows, "train.jsonl"):          # a damaged row is an InputError
    ...
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from textwrap import shorten
from typing import Any

import datasets
from datasets import (
    Audio,
    Dataset,
    Features,
    Image,
    IterableDataset,
    LargeList,
    List,
    Value,
    Video,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
)
from datasets.data_files import get_data_patterns
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from granted.utils.errors import InputError, refusing
from granted.utils.files import parts_of


ENDINGS = {".parquet": "parquet", ".jsonl": "json", ".jsonl.gz": "json", ".json": "json"}
FOLDER = "media_folder"  # the column of local rows that says where their relative paths begin


def load_source(
    source: str,
    split: str = "train",
    streaming: bool = False,
    check: Callable[[str, list[str]], None] = lambda name, columns: None,
) -> Dataset | IterableDataset:
    """Load rows with their media as bytes or paths, so that nothing is opened before it is needed.

    Local rows get a column `media_folder`: the folder of the row's file, or `source` itself if that is a folder. A
    path that exists is never taken for a pattern. What has changed on the disk is read anew.

    Args:
        source (`str`): Parquet or JSON Lines files separated by commas, a folder, or a Hub id, the last two as
            `load_dataset` reads them. A folder that mixes JSON Lines with images is not read as JSON Lines: name
            the file.
        split (`str`, defaults to `"train"`): the split, or `"train[:100]"`. Files are all of the split `train`.
        streaming (`bool`, defaults to `False`): read while iterating. A broken row of a file is then found late.
        check (`Callable`): called with the name and the columns of each file, raises if they are not what is wanted.

    Raises:
        InputError: a file is missing or cannot be read, or two have columns of different types.
    """
    names = parts_of(source)
    if os.path.isdir(source) or not names or not all(name.endswith(tuple(ENDINGS)) for name in names):
        return _load(source, split, streaming, check)
    if len(names) > 1 and "[" in split:
        raise InputError(f"got split {split!r} of {len(names)} files, expected 'train': give one file to take a part")
    parts = [_load(name, split, streaming, check) for name in names]
    try:
        return concatenate_datasets(parts)
    except ValueError as error:
        raise _unreadable(error, source, "files whose columns have the same types", "write them alike") from error


def medium_of(row: Mapping[str, Any], column: str) -> Any:
    """The image or video in a column of a row of [`load_source`], its relative path put into the row's folder."""
    return placed(row[column], row.get(FOLDER))


def placed(value: Any, folder: str | None) -> Any:
    """An image or video as rows have it (path, dict, list of frames), its relative paths put into a folder, if any."""
    if folder is None:
        return value
    if isinstance(value, list):
        return [placed(frame, folder) for frame in value]
    if isinstance(value, dict) and value.get("bytes") is None and value.get("path") is not None:
        return {**value, "path": placed(value["path"], folder)}
    if isinstance(value, str) and "://" not in value and not value.startswith("data:"):
        return os.path.join(folder, value)
    return value


def readable(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """The rows of a foreign file as they come.

    Args:
        rows (`Iterable`): read by a library that raises errors of its own.
        name (`str`): of the file or dataset.

    Raises:
        InputError: a row cannot be read, such as one whose text is not UTF-8.
    """
    left, end = iter(rows), object()
    number = 0
    while True:
        with refusing(f"{name} from row {number} on", "rows that can be read: write the file again"):
            row = next(left, end)
        if row is end:
            return
        yield row
        number += 1


def columns_of(rows: Dataset | IterableDataset) -> list[str]:
    """The columns of rows; those of a stream may be known only from its first row."""
    return rows.column_names or list(next(iter(rows), {}))


def _load(source: str, split: str, streaming: bool, check: Callable[[str, list[str]], None]):
    builder = next((builder for ending, builder in ENDINGS.items() if source.endswith(ending)), None)
    if os.path.isdir(source):
        folder = os.path.abspath(source)
    elif builder is None:
        folder = None
    elif os.path.isfile(source) and os.path.getsize(source):
        folder = os.path.dirname(os.path.abspath(source))
    else:
        fault = "empty" if os.path.isfile(source) else "not a file"
        raise InputError(f"got {source}, which is {fault}, expected Parquet or JSON Lines: check the path")
    try:
        if folder and not os.path.isdir(source):
            options = {"path": builder, "data_files": [glob.escape(os.path.abspath(source))]}
        else:
            options = _folder_options(source) if folder else {"path": source}
        dataset = load_dataset(**options, split=split, streaming=streaming)
        columns = columns_of(dataset)
        if isinstance(dataset, Dataset):
            dataset.data.validate(full=True)  # such as texts that are not UTF-8
    except Exception as error:  # datasets lets through whatever its readers raise
        expected = f"files ({', '.join(ENDINGS)}), a folder or a Hub id"
        raise _unreadable(error, source, expected, "check the name, the split and the file") from error
    check(source, columns)
    dataset = undecoded(dataset)
    if folder is None or FOLDER in columns:
        return dataset
    if isinstance(dataset, IterableDataset):
        features = dataset.features and Features({**dataset.features, FOLDER: Value("string")})
        return dataset.map(_with_folder, fn_kwargs={"folder": folder}, features=features)
    return dataset.add_column(FOLDER, [folder] * len(dataset))


def _folder_options(folder: str) -> dict[str, Any]:
    """How `load_dataset` takes a folder for what it holds now, whatever its name."""
    has_card = os.path.isfile(os.path.join(folder, "README.md"))
    if glob.has_magic(os.path.abspath(folder)) and not has_card:
        root = glob.escape(os.path.abspath(folder))
        patterns = get_data_patterns(root)
        return {"path": folder, "data_files": {s: [os.path.join(root, p) for p in patterns[s]] for s in patterns}}
    if not has_card:
        return {"path": folder}
    # The files that a card names are cached by the card alone: their times of change must count, too.
    content = Hasher.hash(load_dataset_builder(folder).config.data_files)
    return {"path": folder, "cache_dir": os.path.join(datasets.config.HF_DATASETS_CACHE, f"files-{content}")}


def _unreadable(error: Exception, source: str, expected: str, advice: str) -> InputError:
    cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
    reason = shorten(str(cause), 300) or type(cause).__name__
    return InputError(f"got '{reason}' while reading {source}, expected {expected}: {advice}")


def _with_folder(row: dict[str, Any], folder: str) -> dict[str, Any]:
    return {FOLDER: folder}


def undecoded(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """The dataset with bytes and paths in place of decoded media. `Dataset.cast` would copy the data for it."""
    if dataset.features is None:
        return dataset
    features = Features({name: _undecoded_feature(feature) for name, feature in dataset.features.items()})
    if isinstance(dataset, IterableDataset):
        return dataset.cast(features)
    info = dataset.info.copy()
    info.features = features
    return Dataset(dataset.data, info=info, split=dataset.split)


def _undecoded_feature(feature: Any) -> Any:
    if isinstance(feature, Image | Video | Audio):
        return replace(feature, decode=False)
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_undecoded_feature(feature.feature))
    if isinstance(feature, dict):
        return {name: _undecoded_feature(inner) for name, inner in feature.items()}
    return feature
