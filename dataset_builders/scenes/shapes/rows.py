"""Rows of shapes for training, streamed: questions about images, and captioned images and videos.

    write_rows(vqa_rows(10_000, seed=0, media="image"), "vqa.parquet")            # for TRL's SFTTrainer
    write_rows(text_to_image_rows(10_000, seed=0, size=64), "images.parquet")
    load_dataset("parquet", data_files="vqa.parquet", split="train")

All scenes are of the training split, unless another is asked for.
"""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from granted.dataset_builders.scenes.scene import Scene
from granted.dataset_builders.scenes.shapes.captions import QUALITIES, write_shapes_caption
from granted.dataset_builders.scenes.shapes.drawing import (
    KINDS,
    SHAPES,
    Drawing,
    random_drawing,
    render_image,
    render_video,
)
from granted.dataset_builders.scenes.shapes.questions import ASPECTS, IMAGE_ASPECTS, VIDEO_ASPECTS, ask_shapes
from granted.dataset_builders.scenes.shapes.sampling import APART, scene_of, shapes_in_split, split_of_drawing
from granted.dataset_builders.scenes.shapes.varied_captions import WORDINGS, chosen_detail, varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import placed_figures
from granted.dataset_builders.scenes.world import SPLITS
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, VIDEO_ONLY
from granted.utils.errors import InputError
from granted.utils.files import atomic_path


ROWS_PER_GROUP = 200
FPS = 8  # of videos: what a second is, where timestamps count
LARGE_SOLID = {"size": "large", "texture": "solid"}  # looks of all figures of a scene of large solid figures
LOOKS_OF_LARGE_SOLID = tuple(look for look in QUALITIES if look not in LARGE_SOLID)
# What varies there, and is therefore described and scored.
SCORED_OF_LARGE_SOLID = ("background", "count", "shape", "colour", "position", "motion", "direction", "speed", "order")
DESCRIBE = ("Describe the image.", "What is in the image?", "Say what is where.")
SHORT_SHARE = 0.5  # of the rows for text-to-image that also have a short caption
_TEXT = Value("string")
_PART = {"type": _TEXT, "text": _TEXT}
FEATURES = {
    "vqa": Features(
        {
            "id": _TEXT,
            "messages": List({"role": _TEXT, "content": List(_PART)}),
            "images": List(Image()),
            "videos": List(List(Image())),
            "fps": Value("float32"),
            "aspect": _TEXT,
            "pattern": _TEXT,
            "key": _TEXT,
            "source": _TEXT,
        }
    ),
    "text-to-image": Features(
        {
            "id": _TEXT,
            "image": Image(),
            "caption": _TEXT,
            "short_caption": _TEXT,
            "drawing": _TEXT,
            "told": List(_TEXT),
        }
    ),
    "text-to-video": Features(
        {"id": _TEXT, "frames": List(Image()), "caption": _TEXT, "drawing": _TEXT, "told": List(_TEXT)}
    ),
}


def vqa_rows(
    count: int,
    *,
    seed: int = 0,
    media: str = "image",
    size: int = 128,
    frames: int = 16,
    questions: int = 1,
    aspects: Sequence[str] = tuple(ASPECTS),
) -> Iterator[dict[str, Any]]:
    """Stream questions about images or videos as conversations, the aspects in turn.

    Args:
        count (`int`): how many.
        seed (`int`, defaults to 0): another seed, other scenes.
        media (`str`, defaults to `"image"`): `"image"` or `"video"`.
        size (`int`, defaults to 128): width and height in pixels.
        frames (`int`, defaults to 16): of a video.
        questions (`int`, defaults to 1): about each image, all of one aspect; more teach more for each look at it.
        aspects (`Sequence[str]`, defaults to all): those asked about.

    Yields:
        `dict`: `id`, `messages` (TRL's: a question with a place for the image, and its answer), `images` and
        `videos` (lists; one has one member, the other none; a video is a list of PIL images), `fps` (of videos),
        `aspect`, `pattern` and `key` (of the first question: its kind, and what `is_right` takes), `source`.

    Raises:
        InputError: a count, media, size, frames or aspect is out of range.
    """
    _check(count)
    if questions < 1 or set(aspects) - set(ASPECTS):
        raise InputError(
            f"got {questions} questions about {', '.join(aspects)}, expected at least 1 about some of "
            f"{', '.join(ASPECTS)}"
        )
    if media not in MEDIA:
        raise InputError(f"got media {media!r}, expected one of {', '.join(MEDIA)}")
    others = VIDEO_ASPECTS if media == "image" else IMAGE_ASPECTS
    absent = [aspect for aspect in aspects if aspect in others]
    aspects = [aspect for aspect in aspects if aspect not in others]
    if absent and len(absent) + len(aspects) < len(ASPECTS):  # they were chosen
        raise InputError(f"got {', '.join(absent)} as aspects of {media} questions, expected others: leave them out")
    for number in range(count):
        name, aspect = f"vqa/{seed}/{media}/{number}", aspects[number % len(aspects)]
        rng = random.Random(name)
        scene, drawing = shapes_in_split(name, "training", media, (rng.choice(ASPECTS[aspect]),))
        caption = write_shapes_caption(scene, "question")
        asked = [ask_shapes(caption, aspect, rng) for _ in range(questions)]
        asked = list({one.question: one for one in asked}.values())
        turns = [
            turn
            for one in asked
            for turn in (
                {"role": "user", "content": [{"type": "text", "text": one.question}]},
                {"role": "assistant", "content": [{"type": "text", "text": one.answer}]},
            )
        ]
        turns[0]["content"].insert(0, {"type": media})
        yield {
            "id": name,
            "messages": turns,
            "images": [render_image(drawing, size)] if media == "image" else [],
            "videos": [render_video(drawing, frames, size)] if media == "video" else [],
            "fps": FPS if media == "video" else None,
            "aspect": aspect,
            "pattern": asked[0].pattern,
            "key": asked[0].key,
            "source": "scenes",
        }


def description_rows(
    count: int, *, seed: int = 0, size: int = 128, wordings: Sequence[str] = ("seen", "form", "word", "both")
) -> Iterator[dict[str, Any]]:
    """Stream images of one to three figures to be described, as conversations like those of [`vqa_rows`].

    A description has one of many wordings of each thing. Since any colour goes with any shape at any place, only the
    image says what the words mean.

    Args:
        count (`int`): how many.
        seed (`int`, defaults to 0): another seed, other scenes.
        size (`int`, defaults to 128): width and height in pixels.
        wordings (`Sequence[str]`): kinds of wording, of `varied_captions.WORDINGS`; each row has one of them.

    Raises:
        InputError: the count, the size or a wording is out of range.
    """
    _check(count)
    if not wordings or set(wordings) - set(WORDINGS):
        raise InputError(f"got wordings {', '.join(wordings)}, expected some of {', '.join(WORDINGS)}")
    for number in range(count):
        name = f"descriptions/{seed}/{number}"
        rng = random.Random(name)
        drawing = placed_figures(rng, held_out=False)
        caption = varied_caption(drawing, rng.choice(wordings), rng, **chosen_detail(rng))
        asked = {"type": "text", "text": rng.choice(DESCRIBE)}
        yield {
            "id": name,
            "messages": [
                {"role": "user", "content": [{"type": "image"}, asked]},
                {"role": "assistant", "content": [{"type": "text", "text": caption.text}]},
            ],
            "images": [render_image(drawing, size)],
            "videos": [],
            "fps": None,
            "aspect": "description",
            "pattern": "description",
            "key": "",
            "source": "scenes",
        }


def text_to_image_rows(
    count: int,
    *,
    seed: int = 0,
    size: int = 128,
    things: tuple[int, int] | None = None,
    large_solid: bool = False,
    split: str = "training",
    captions: str = "full",
) -> Iterator[dict[str, Any]]:
    """Stream images with captions, half of them with a short caption as well (`None` in the others).

    Each row carries its `drawing`, against which an image made from the caption can be scored (`Drawing.from_json`),
    and in `told` the properties to be scored, `None` for all.

    Args:
        count (`int`): how many.
        seed (`int`, defaults to 0): another seed, other scenes.
        size (`int`, defaults to 128): width and height in pixels.
        things (`tuple[int, int]`, *optional*): scenes of at least and at most so many single figures, all of different
            shapes and without letters; by default of three or four figures or groups.
        large_solid (`bool`, defaults to `False`): simple scenes of large solid figures only; plain captions leave
            sizes and textures out, and they are not scored.
        split (`str`, defaults to `"training"`): `"benchmark"` gives scenes that no training row shows.
        captions (`str`, defaults to `"full"`): or `"plain"`, the detail of [`write_shapes_caption`].

    Raises:
        InputError: the count, the size, the things, the split or the captions are out of range.
    """
    for row, scene, drawing, rng in _captioned(
        count, f"text-to-image/{seed}", "image", things, large_solid, split, captions
    ):
        short = write_shapes_caption(scene, "caption", "short").text if rng.random() < SHORT_SHARE else None
        yield row | {"image": render_image(drawing, size), "short_caption": short}


def text_to_video_rows(
    count: int,
    *,
    seed: int = 0,
    size: int = 128,
    frames: int = 16,
    things: tuple[int, int] | None = None,
    large_solid: bool = False,
    motions: Sequence[str] = KINDS,
    split: str = "training",
    captions: str = "full",
) -> Iterator[dict[str, Any]]:
    """Stream videos, as lists of frames, with captions, the `drawing` behind each, and what is said of it (`told`).

    Args:
        count (`int`): how many.
        seed (`int`, defaults to 0): another seed, other scenes.
        size (`int`, defaults to 128): width and height in pixels.
        frames (`int`, defaults to 16): of a video.
        things, large_solid, split, captions: as of [`text_to_image_rows`]; in simple scenes every figure has its
            event.
        motions (`Sequence[str]`, defaults to all): the kinds of events in simple scenes.

    Raises:
        InputError: the count, the size, the frames, the things, the motions, the split or the captions are out of
            range.
    """
    prefix = f"text-to-video/{seed}"
    for row, _, drawing, _ in _captioned(count, prefix, "video", things, large_solid, split, captions, motions):
        yield row | {"frames": render_video(drawing, frames, size)}


def _captioned(
    count: int,
    prefix: str,
    media: str,
    things: tuple[int, int] | None,
    large_solid: bool,
    split: str,
    captions: str,
    motions: Sequence[str] = KINDS,
) -> Iterator[tuple[dict[str, Any], Scene, Drawing, random.Random]]:
    """Simple scenes of so many things, or else scenes for one or two categories each; rows without what is seen."""
    if split not in SPLITS:
        raise InputError(f"got split {split!r}, expected one of {', '.join(SPLITS)}")
    if large_solid and not things:
        raise InputError(
            "got large_solid without things, expected both: such scenes are simple ones, say of how many things"
        )
    if not things and tuple(motions) != KINDS:
        raise InputError("got motions without things, expected both: they are chosen for simple scenes, of how many?")
    if things:
        scenes = _simple_scenes(count, prefix, media, things, large_solid, split, motions)
    else:
        scenes = _scenes(count, prefix, media, split)
    looks, told = (LOOKS_OF_LARGE_SOLID, SCORED_OF_LARGE_SOLID) if large_solid else (QUALITIES, None)
    for name, scene, drawing, rng in scenes:
        caption = write_shapes_caption(scene, "caption", captions, looks).text
        yield {"id": name, "caption": caption, "drawing": drawing.to_json(), "told": told}, scene, drawing, rng


def _simple_scenes(
    count: int,
    prefix: str,
    media: str,
    things: tuple[int, int],
    large_solid: bool,
    split: str,
    motions: Sequence[str],
) -> Iterator[tuple[str, Scene, Drawing, random.Random]]:
    """Scenes of single figures, any of them as likely as any other."""
    _check(count)
    least, most = things
    if not 1 <= least <= most <= len(SHAPES):
        raise InputError(f"got {least} to {most} things, expected 1 to {len(SHAPES)}")
    for number in range(count):
        name = f"{prefix}/simple/{number}"
        rng = random.Random(name)
        figures = rng.randint(least, most)
        while True:
            drawing = random_drawing(rng, media, figures, letters_share=0, motion_share=1, kinds=motions)
            if large_solid:
                try:
                    drawing = replace(drawing, figures=tuple(replace(one, **LARGE_SOLID) for one in drawing.figures))
                except InputError:  # so large, they would meet
                    continue
            scene = scene_of(drawing, name)
            tellable = media == "image" or "timeline" in scene.orders  # no two things begin at once
            different = len({figure.shape for figure in drawing.figures}) == figures
            if different and tellable and split_of_drawing(drawing) == split:
                break
        yield name, scene, drawing, rng


def _scenes(count: int, prefix: str, media: str, split: str) -> Iterator[tuple[str, Scene, Drawing, random.Random]]:
    """Scenes sampled for one or two categories each."""
    _check(count)
    legal = [category for category in CATEGORIES if media == "video" or category not in VIDEO_ONLY]
    for number in range(count):
        name = f"{prefix}/{number}"
        rng = random.Random(name)
        categories = rng.sample(legal, rng.randint(1, 2))
        if all(category in categories for category in APART[media]):
            categories.pop()
        scene, drawing = shapes_in_split(name, split, media, categories)
        yield name, scene, drawing, rng


def _check(count: int) -> None:
    if count < 1:
        raise InputError(f"got {count} rows, expected at least 1: give a number")


def write_rows(rows: Iterable[dict[str, Any]], path: str | os.PathLike) -> int:
    """Write rows of one of the three kinds as a Parquet file that `load_dataset("parquet", ...)` reads.

    Images are stored as PNG; only one row group at a time is held in memory.

    Args:
        rows (`Iterable[dict]`): of `vqa_rows`, `text_to_image_rows` or `text_to_video_rows`.
        path (`str` or `os.PathLike`): the file to make.

    Returns:
        `int`: the number of rows.

    Raises:
        InputError: there is no row, the rows are of no known kind, or the file cannot be written.
    """
    left = iter(rows)
    first = next(left, None)
    features = next((f for f in FEATURES.values() if first is not None and set(f) == set(first)), None)
    if features is None:
        raise InputError(
            f"got {'no row' if first is None else sorted(first)}, expected rows with the fields of one of "
            f"{', '.join(FEATURES)}: make them with this module"
        )
    left, written = chain([first], left), 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, features.arrow_schema) as writer:
        while group := list(islice(left, ROWS_PER_GROUP)):
            encoded = [features.encode_example(row) for row in group]
            writer.write_table(pa.Table.from_pylist(encoded, schema=features.arrow_schema))
            written += len(group)
    return written
