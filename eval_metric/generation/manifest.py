"""A folder of generated images or videos: the manifest, how each is opened, and a grid of them.

    rows, run = read_manifest("images")             # what granted generate wrote, or one's own manifest.jsonl
    frames = open_media(rows[0], "images")          # [a PIL image], or all frames of a video

A row has `id`, `prompt`, `media` ("image" or "video") and `file` (of a video a folder of PNG frames, or a video),
relative to the manifest; further fields are those of the prompts: `prompt_id`, `drawing`, `skills`, `rating`, ...
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq

from granted.dataset_builders.scenes.shapes.contact_sheet import contact_sheet
from granted.dataset_builders.ted_6k.records import MEDIA
from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.eval_metric.generation.prompts import rated_images
from granted.utils.errors import InputError, refusing
from granted.utils.files import read_json, read_jsonl
from granted.utils.settings import Positive, check_value


MANIFEST, RECORD = "manifest.jsonl", "generation.json"
SHOWN, COLUMNS = 24, 4  # images of a grid, and in a row of it


@dataclass(frozen=True)
class Run:
    """Where images come from.

    Attributes:
        folder (`Path`): what the files of the rows are relative to.
        record (`dict`, *optional*): `generation.json` of `granted generate`; `None` for images from elsewhere.
    """

    folder: Path
    record: dict[str, Any] | None


def read_manifest(source: str | os.PathLike) -> tuple[list[dict[str, Any]], Run]:
    """The images of a run.

    Args:
        source (`str` or `os.PathLike`): a folder with `manifest.jsonl`, a manifest by its name (JSON Lines or
            Parquet), or the folder of GenAI-Bench with the images that people have rated.

    Raises:
        InputError: there is no manifest, a row of it is wrong, or it is of another run than the folder.
    """
    source = Path(source)
    path = source / MANIFEST if source.is_dir() else source
    if source.is_dir() and not path.is_file():
        rated = rated_images(source)
        if rated is None:
            unfinished = (source / RECORD).is_file()
            advice = "run granted generate again, it goes on where it stopped" if unfinished else "check the path"
            raise InputError(f"got {source} without {MANIFEST}, expected a finished folder of images: {advice}")
        rows = rated
    elif path.suffix == ".parquet":
        with refusing(str(path), "a Parquet file: check it"):
            rows = pq.read_table(path).to_pylist()
    else:
        rows = [row for _, row in read_jsonl(path)]
    record = read_json(path.parent / RECORD) if (path.parent / RECORD).is_file() else None
    if not isinstance(record, dict | NoneType):
        raise InputError(f"got {path.parent / RECORD} without an object in it, expected a run's record: remove it")
    _check(rows, path, record)
    return [row | {"prompt_id": row.get("prompt_id") or row["id"]} for row in rows], Run(path.parent, record)


# What else a row may say.
_OPTIONAL = {
    "fps": Positive,
    "rating": float,
    "skills": list[str],
    "told": list[str],
    **dict.fromkeys(("prompt_id", "drawing", "group", "model"), str),
}


def _check(rows: Sequence[Any], path: Path, record: Mapping[str, Any] | None) -> None:
    if not rows:
        raise InputError(f"got {path} without a row, expected at least one image: generate some")
    for number, row in enumerate(rows, 1):
        wrong = [n for n in ("id", "prompt", "file") if not isinstance(row, dict) or not isinstance(row.get(n), str)]
        if wrong:
            raise InputError(f"got row {number} of {path} without {wrong[0]}, expected text: complete the manifest")
        if row.get("media") not in MEDIA:
            raise InputError(f"got media {row.get('media')!r} in row {number} of {path}, expected image or video")
        for name, kind in _OPTIONAL.items():
            check_value(f"row {number} of {path}: {name}", row.get(name), kind | None)
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"got the id {twice[0]!r} more than once in {path}, expected each image once: rename")
    if record is not None and {row.get("run") for row in rows} != {record.get("run")}:
        raise InputError(
            f"got {path}, the manifest of another run than {RECORD} beside it, expected those of one: put it back, or "
            "generate the images again"
        )


def open_media(row: Mapping[str, Any], folder: str | os.PathLike) -> list[PIL.Image.Image]:
    """An image, as a list of one, or the frames of a video.

    Raises:
        InputError: it is missing or cannot be read; the message names it.
    """
    path = Path(folder) / row["file"]
    if row["media"] == "image":
        return [open_image(str(path))]
    if not path.is_dir():
        return [PIL.Image.fromarray(frame) for frame in open_video(str(path)).frames]
    return [open_image(str(frame)) for frame in frames_of(path)]


def frames_of(folder: Path) -> list[Path]:
    """The frames of a video in order."""
    frames = sorted(folder.glob("*.png"))
    if not frames:
        raise InputError(f"got {folder}, which holds no PNG, expected the frames of a video: generate it again")
    return frames


def readable(
    rows: Iterable[dict[str, Any]], folder: Path, skip: bool = False
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows whose images can be opened, and of the others what is wrong with each, by id.

    Args:
        rows (`list[dict]`): of [`read_manifest`].
        folder (`Path`): of the run.
        skip (`bool`, defaults to `False`): go on without those that cannot be opened.

    Raises:
        InputError: there are such images and `skip` is false, or none can be opened.
    """
    good, wrong = [], {}
    for row in rows:
        try:
            open_media(row, folder)
            good.append(row)
        except InputError as error:
            wrong[row["id"]] = str(error)
    if wrong and (not skip or not good):
        named = ", ".join(list(wrong)[:5]) + (", ..." if len(wrong) > 5 else "")
        raise InputError(
            f"got {len(wrong)} of {len(wrong) + len(good)} images that cannot be read ({named}; the first: "
            f"{next(iter(wrong.values()))}), expected all: make them again, or leave them out by --skip-unreadable"
        )
    return good, wrong


def media_hash(row: Mapping[str, Any], folder: str | os.PathLike) -> str:
    """SHA-256, in hexadecimal, over the file of an image, or over all frames of a video."""
    path = Path(folder) / row["file"]
    digest = hashlib.sha256()
    for part in frames_of(path) if path.is_dir() else [path]:
        digest.update(part.read_bytes())
    return digest.hexdigest()


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, at equal distances, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, most))]


def image_grid(
    rows: Sequence[Mapping[str, Any]],
    folder: str | os.PathLike,
    path: str | os.PathLike,
    notes: Mapping[str, Sequence[tuple[str, bool]]] | None = None,
) -> None:
    """Write a PNG of up to 24 images, or videos in four frames, at equal distances, with their prompts.

    Args:
        rows (`list[dict]`): of a manifest.
        folder (`str`): of the manifest.
        path (`str`): the file to make.
        notes (`dict`, *optional*): by id of an image what else to say of it, and whether that is good.
    """
    entries = []
    for row in (rows[i] for i in spread(len(rows), SHOWN)):
        frames = open_media(row, folder)
        image = frames[0] if row["media"] == "image" else frames
        entries.append((image, row["prompt"], (notes or {}).get(row["id"], ())))
    contact_sheet(entries, path, columns=COLUMNS)
