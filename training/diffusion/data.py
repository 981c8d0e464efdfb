"""Captioned images and videos as batches: any dataset, grouped by shape, in an order that a resumed run finds again.

    rows = load_rows("images.parquet", "train", "image", ["caption"], streaming=False)
    images = CaptionedImages(rows, "image", ["caption"], buckets=[(256, 256), (192, 320)], batch_size=512)
    batch = next(images.batches(first=1000, shares=[slice(0, 64)]))  # what process 0 of 8 gets at step 1000

An image is scaled to cover its bucket and cut in the middle. Streams are read in windows, see `StreamedImages`.
"""

import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from diffusers.training_utils import find_nearest_bucket, generate_aspect_ratio_buckets
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from granted.dataset_builders.loading import FOLDER, columns_of, load_source, medium_of, readable
from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.encoding.embedding_cache import EmbeddingCache
from granted.utils.errors import InputError


NAMED = 5  # unreadable images that an error names


@dataclass
class Batch:
    """Images of one shape with their captions.

    Fields:
        samples (`torch.Tensor`): pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], or cached latents (B, C, h, w).
        captions (`list[list[str]]`): for each image the captions to choose from.
        rows (`list[int]`): numbers of the rows; -1 in a stream.
        state (`dict`): of a stream, where it stands after this batch.
    """

    samples: torch.Tensor
    captions: list[list[str]]
    rows: list[int]
    state: dict[str, Any] = field(default_factory=dict)


def bucket_shapes(resolution: int, multiple: int, several: bool) -> list[tuple[int, int]]:
    """(height, width) of the shapes images are brought to: the square, or several of its area.

    Args:
        resolution (`int`): side of the square in pixels.
        multiple (`int`): sides must be divisible by it: the VAE's factor times the patch size.
        several (`bool`): aspect ratios from 1:2 to 2:1.

    Raises:
        InputError: the resolution is not divisible.
    """
    if resolution < 1 or resolution % multiple:
        raise InputError(
            f"got resolution {resolution}, expected a multiple of {multiple} (the VAE's factor times the patch size): "
            "choose another resolution or patch_size"
        )
    return generate_aspect_ratio_buckets(resolution, multiple) if several else [(resolution, resolution)]


def to_pixels(image: PIL.Image.Image, shape: tuple[int, int]) -> torch.Tensor:
    """An RGB image that covers (height, width), cut in the middle, as (3, H, W) in [-1, 1]."""
    height, width = shape
    fitted = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float().div(127.5).sub(1)  # (3, H, W)


def load_rows(
    source: str, split: str, image_column: str, caption_columns: Sequence[str], streaming: bool
) -> Dataset | IterableDataset:
    """A dataset of images (as bytes or paths), captions and where relative paths begin, and nothing else.

    Args:
        source (`str`), split (`str`), streaming (`bool`): as of [`load_source`].
        image_column (`str`), caption_columns (`list[str]`): what to read.

    Raises:
        InputError: it cannot be read, or has other columns.
    """
    wanted = [image_column, *caption_columns]

    def check(name: str, columns: list[str]) -> None:
        missing = [column for column in wanted if column not in columns]
        if missing:
            raise InputError(
                f"got columns {', '.join(columns)} in {name}, expected {', '.join(missing)}: set image_column and "
                "caption_columns"
            )

    rows = load_source(source, split, streaming, check)
    return rows.select_columns([*wanted, *({FOLDER} & set(columns_of(rows)))])


def captions_of(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """The captions of a row that are texts with something in them."""
    return [row[name] for name in columns if isinstance(row[name], str) and row[name].strip()]


def measured(row: dict[str, Any], column: str, caption_columns: Sequence[str], frames: int | None) -> dict[str, Any]:
    """Height and width of a row's image or video and a hash of its pixels, or what is wrong with the row.

    Args:
        row (`dict`): of the data.
        column (`str`), caption_columns (`Sequence[str]`): where the image or video and its captions are.
        frames (`int`, *optional*): as of [`open_frames`].
    """
    try:
        images = open_frames(medium_of(row, column), frames)
    except InputError as error:
        return {"height": 0, "width": 0, "content": "", "problem": str(error)}
    content = hashlib.sha256()
    for image in images:
        content.update(image.tobytes())
    problem = "" if captions_of(row, caption_columns) else "no caption"
    height, width = images[0].height, images[0].width
    return {"height": height, "width": width, "content": content.hexdigest()[:32], "problem": problem}


def holds_media(rows: Dataset, column: str) -> bool:
    """Whether the rows have all media in themselves, and none in a file that may change while the rows do not."""
    chunks = rows.data.column(column).chunks
    while chunks and pa.types.is_list(chunks[0].type):
        chunks = [chunk.flatten() for chunk in chunks]
    return all(pa.types.is_struct(chunk.type) and not chunk.field("bytes").null_count for chunk in chunks)


def open_frames(value: Any, frames: int | None) -> list[PIL.Image.Image]:
    """The image of a row, or so many frames of its video, evenly spread.

    Raises:
        InputError: it cannot be read, or the video is shorter.
    """
    if frames is None:
        return [open_image(value)]
    found = open_video(value, max_frames=frames).frames  # (T, H, W, 3)
    if len(found) < frames:
        raise InputError(f"got a video of {len(found)} frames, expected at least {frames}: lower num_frames")
    return [PIL.Image.fromarray(frame) for frame in found]


class CaptionedImages:
    """A dataset in random access: every image checked and given its bucket before training.

    An epoch is every bucket shuffled and cut into whole batches, those shuffled; what fills no batch is left out of
    the epoch, another part in each. A bucket with fewer images than a batch is joined to the nearest other one.

    Args:
        rows (`Dataset`): of `load_rows`.
        image_column (`str`), caption_columns (`list[str]`): its columns.
        buckets (`list[tuple[int, int]]`): heights and widths.
        batch_size (`int`): images a step, over all processes.
        seed (`int`): of the order.
        skip_broken (`bool`): leave rows out whose image cannot be read or that have no caption.
        workers (`int`): processes that read images ahead.
        frames (`int`, *optional*): the column holds videos, of which so many frames are taken.

    Raises:
        InputError: rows cannot be used and are not to be skipped, or there is not one batch.
    """

    def __init__(
        self,
        rows: Dataset,
        image_column: str,
        caption_columns: Sequence[str],
        *,
        buckets: Sequence[tuple[int, int]],
        batch_size: int,
        seed: int = 0,
        skip_broken: bool = False,
        workers: int = 0,
        frames: int | None = None,
    ):
        self.frames = frames
        self.rows, self.image_column, self.caption_columns = rows, image_column, list(caption_columns)
        self.texts = rows.select_columns(self.caption_columns)  # without the images, which take longer to read
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        sizes = rows.map(
            measured,
            fn_kwargs={"column": image_column, "caption_columns": self.caption_columns, "frames": frames},
            remove_columns=rows.column_names,
            num_proc=workers or None,
            load_from_cache_file=holds_media(rows, image_column),
            desc="checking images",
        )
        sizes = sizes.to_dict()  # a column of datasets takes milliseconds for each of its entries
        self.contents = sizes["content"]
        self.broken = {i: problem for i, problem in enumerate(sizes["problem"]) if problem}
        if self.broken and not skip_broken:
            named = "; ".join(f"row {i}: {problem}" for i, problem in list(self.broken.items())[:NAMED])
            raise InputError(
                f"got {len(self.broken)} of {len(rows)} rows that cannot be used ({named}), expected images with "
                "captions: mend them, or leave them out with skip_broken"
            )
        self.bucket: dict[int, tuple[int, int]] = {}  # row -> height, width
        usable = [i for i in range(len(rows)) if i not in self.broken]
        heights, widths = sizes["height"], sizes["width"]
        left = list(buckets)
        while True:
            self.bucket = {i: left[find_nearest_bucket(heights[i], widths[i], left)] for i in usable}
            counts = dict.fromkeys(left, 0)
            for shape in self.bucket.values():
                counts[shape] += 1
            fewest = min(left, key=counts.__getitem__)
            if counts[fewest] >= batch_size:
                break
            if len(left) == 1:
                raise InputError(
                    f"got {len(usable)} images, expected at least one batch of {batch_size}: give more, or lower "
                    "batch_size"
                )
            left.remove(fewest)
        self.buckets = left
        self.latents: EmbeddingCache | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, list[str], int]:
        if self.latents is not None:
            latents = read_latents(self.latents, self.latents_key(row), self.bucket[row])  # (C, h, w)
            return latents, self.captions_of_row(row), row
        found = self.rows[row]
        images = open_frames(medium_of(found, self.image_column), self.frames)
        pixels = torch.stack([to_pixels(image, self.bucket[row]) for image in images], dim=1)  # (3, T, H, W)
        if self.frames is None:
            pixels = pixels.squeeze(1)  # (3, H, W)
        return pixels, captions_of(found, self.caption_columns), row

    def latents_key(self, row: int) -> str:
        """The name of a row's latents in a cache: what is encoded, and at which size."""
        height, width = self.bucket[row]
        return f"{self.contents[row]} {height}x{width}"

    def captions_of_row(self, row: int) -> list[str]:
        """What `captions_of` says of a row."""
        return captions_of(self.texts[row], self.caption_columns)

    def captions(self) -> Iterator[str]:
        """Every caption of every row."""
        for i, row in enumerate(self.texts):
            if i not in self.broken:
                yield from captions_of(row, self.caption_columns)

    def order(self, first: int) -> Iterator[list[int]]:
        """Row numbers of the batches from step `first` on, without end; step s is the same however it is reached."""
        members = {shape: [] for shape in self.buckets}
        for row, shape in self.bucket.items():
            members[shape].append(row)
        per_epoch = sum(len(rows) // self.batch_size for rows in members.values())
        step = first
        while True:
            epoch, place = divmod(step, per_epoch)
            generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
            batches = []
            for rows in members.values():
                shuffled = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
                whole = len(rows) // self.batch_size * self.batch_size
                batches += [shuffled[i : i + self.batch_size] for i in range(0, whole, self.batch_size)]
            for k in torch.randperm(per_epoch, generator=generator).tolist()[place:]:
                yield batches[k]
                step += 1

    def fill(self, cache: EmbeddingCache, encode: Callable, rank: int, processes: int, at_a_time: int) -> None:
        """Encode the images of this process's share that a cache of latents does not hold.

        Args:
            cache ([`EmbeddingCache`]): keyed by what determines latents: the VAE, the data and its columns.
            encode (`Callable`): pixels (B, 3, H, W) to latents (B, C, h, w).
            rank (`int`), processes (`int`): whose share.
            at_a_time (`int`): images of a batch.
        """
        parts = []
        for shape in self.buckets:
            own = {self.latents_key(row): row for row, its in self.bucket.items() if its == shape}  # equal ones once
            rows = [row for key, row in own.items() if key not in cache]
            parts += [rows[i : i + at_a_time] for i in range(0, len(rows), at_a_time)]
        mine = parts[rank::processes]
        loader = DataLoader(self, batch_sampler=mine, num_workers=self.workers, collate_fn=collate)
        for batch in tqdm(loader, desc="encoding images", disable=rank != 0 or not mine):
            latents = encode(batch.samples).flatten(2).transpose(1, 2)  # (B, h * w, C)
            cache.append([self.latents_key(row) for row in batch.rows], {"latents": list(latents)})

    def batches(self, first: int, shares: Sequence[slice]) -> Iterator[Batch]:
        """Batches from step `first` on: of every step the given parts of it, one after the other."""
        parts = (rows[share] for rows in self.order(first) for share in shares)
        yield from DataLoader(self, batch_sampler=_Endless(parts), num_workers=self.workers, collate_fn=collate)


class _Endless:
    """An iterator as a batch sampler."""

    def __init__(self, parts: Iterator[list[int]]):
        self.parts = parts

    def __iter__(self) -> Iterator[list[int]]:
        return self.parts


def collate(found: list[tuple[torch.Tensor, list[str], int]]) -> Batch:
    """Rows of one shape as a batch."""
    pixels, captions, rows = zip(*found)
    return Batch(torch.stack(pixels), list(captions), list(rows))  # (B, 3, H, W)


def read_latents(cache: EmbeddingCache, key: str, shape: tuple[int, int]) -> torch.Tensor:
    """Latents (C, h, w) of an image of this shape."""
    flat = cache.read("latents", key)  # (h * w, C)
    factor = math.isqrt(shape[0] * shape[1] // len(flat))
    return flat.T.reshape(-1, shape[0] // factor, shape[1] // factor)  # (C, h, w)


class StreamedImages:
    """A dataset read as it comes, each process its share, in windows that are shuffled and grouped by shape.

    Of a window only whole batches are used: with many buckets and small windows some images are left out. The state
    after each batch says where the window began and how many of its batches are done, and a resumed run reads that
    window again. Images that cannot be read end the run, or are left out with `skip_broken`.

    Args:
        rows (`IterableDataset`): of `load_rows`.
        image_column, caption_columns, buckets, seed, skip_broken: as in [`CaptionedImages`].
        batch_size (`int`): images of a process at a time.
        window (`int`): rows of a window, at least a batch.
        rank (`int`), processes (`int`): whose share is read.
    """

    def __init__(
        self,
        rows: IterableDataset,
        image_column: str,
        caption_columns: Sequence[str],
        *,
        buckets: Sequence[tuple[int, int]],
        batch_size: int,
        seed: int = 0,
        skip_broken: bool = False,
        window: int = 1024,
        rank: int = 0,
        processes: int = 1,
    ):
        if window < batch_size:
            raise InputError(f"got stream_window={window}, expected at least a batch of {batch_size}: raise it")
        self.rows = rows
        self.image_column, self.caption_columns = image_column, list(caption_columns)
        self.buckets, self.batch_size = list(buckets), batch_size
        self.seed, self.skip_broken, self.window = seed, skip_broken, window
        self.rank, self.processes = rank, processes

    def captions(self) -> Iterator[str]:
        """Every caption of every row, of all processes."""
        for row in self.rows.select_columns(self.caption_columns):
            yield from captions_of(row, self.caption_columns)

    def batches(self, state: dict[str, Any] | None = None) -> Iterator[Batch]:
        """Batches from where the state of an earlier batch says, or from the beginning; without end."""
        at = dict(state or {"epoch": 0, "window": 0, "done": 0, "rows": None})
        while True:
            stream = self.rows
            if stream.num_shards > 1:  # with a buffer of one row only the files change their order
                stream = stream.shuffle(seed=self.seed + at["epoch"], buffer_size=1)
            stream = split_dataset_by_node(stream, self.rank, self.processes)
            if at["rows"] is not None:
                stream.load_state_dict(json.loads(at["rows"]))
            left, used = readable(stream, "the stream"), 0
            while part := list(islice(left, self.window)):
                for number, (pixels, captions) in enumerate(self._window(part, at["epoch"], at["window"])):
                    used += 1
                    if number >= at["done"]:
                        yield Batch(pixels, captions, [-1] * len(captions), at | {"done": number + 1})
                at |= {"window": at["window"] + 1, "done": 0, "rows": json.dumps(stream.state_dict())}
            if used == 0:
                raise InputError(
                    f"got a stream without a whole batch of {self.batch_size} images of one shape in a window, "
                    "expected one: give more, lower batch_size, or raise stream_window"
                )
            at = {"epoch": at["epoch"] + 1, "window": 0, "done": 0, "rows": None}

    def _window(self, part: list[dict], epoch: int, window: int) -> Iterator[tuple[torch.Tensor, list[list[str]]]]:
        """The whole batches of a window, shuffled."""
        members: dict[tuple[int, int], list[tuple[torch.Tensor, list[str]]]] = {}
        rng = random.Random(f"{self.seed}/{epoch}/{window}/{self.rank}")
        rng.shuffle(part)
        for row in part:
            captions = captions_of(row, self.caption_columns)
            try:
                image = open_image(medium_of(row, self.image_column))
                problem = None if captions else "no caption"
            except InputError as error:
                problem = str(error)
            if problem:
                if not self.skip_broken:
                    raise InputError(
                        f"got a row of the stream that cannot be used ({problem}), expected an image with a caption: "
                        "mend it, or leave such rows out with skip_broken"
                    )
                warnings.warn(f"left out a row of the stream: {problem}", stacklevel=2)
                continue
            shape = self.buckets[find_nearest_bucket(image.height, image.width, self.buckets)]
            members.setdefault(shape, []).append((to_pixels(image, shape), captions))
        batches = [
            rows[i : i + self.batch_size]
            for rows in members.values()
            for i in range(0, len(rows) // self.batch_size * self.batch_size, self.batch_size)
        ]
        rng.shuffle(batches)
        for rows in batches:
            pixels, captions = zip(*rows)
            yield torch.stack(pixels), list(captions)  # (B, 3, H, W)
