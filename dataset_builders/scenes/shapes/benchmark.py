"""The shapes world as a benchmark: records in TED's layout about scenes of shapes, and a sheet to look at them.

    records = list(shapes_ted(600))
    shapes_contact_sheet("sheet.png")                        # 12 images and 12 videos with what is said of them

Benchmark and training never share a scene: it belongs to one of them by what is seen, whatever its name.
"""

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from granted.dataset_builders.scenes.scene import Scene
from granted.dataset_builders.scenes.shapes.captions import ShapesCaption, write_shapes_caption
from granted.dataset_builders.scenes.shapes.contact_sheet import contact_sheet
from granted.dataset_builders.scenes.shapes.drawing import Drawing, render_image, render_video
from granted.dataset_builders.scenes.shapes.sampling import APART, VIDEO_ONLY, sample_shapes
from granted.dataset_builders.scenes.shapes.statements import ShapesAsker
from granted.dataset_builders.scenes.statements import Question, ask
from granted.dataset_builders.scenes.world import as_record, plan, split_of
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, SYNTHETIC, TedRecord
from granted.utils.errors import InputError


SOURCE = f"{SYNTHETIC} shapes"
COLUMNS, PIXELS, FRAMES = 4, 256, 16  # of the contact sheet


def shapes_in_split(name: str, split: str, media: str, categories: Sequence[str]) -> tuple[Scene, Drawing]:
    """The first scene of this name that belongs to a split by what is seen, with its drawing.

    Args:
        name, media, categories: as in `sample_shapes`.
        split (`str`): `"benchmark"` or `"training"`.
    """
    attempt = 0
    while True:
        scene, drawing = sample_shapes(f"{name}/{attempt}", media, categories)
        if split_of(replace(scene, tables=(), facts={k: v for k, v in scene.facts.items() if k != "trait"})) == split:
            return scene, drawing
        attempt += 1


def shapes_ted(instances: int, *, seed: int = 0) -> Iterator[TedRecord]:
    """A benchmark in the layout and composition of TED-6K about scenes of shapes; negatives in the caption's words.

    Args:
        instances (`int`): how many.
        seed (`int`, defaults to 0): another seed, another benchmark.

    Raises:
        InputError: `instances` is below 1.
    """
    for record, _, _ in shapes_questions(instances, seed=seed):
        yield record


def shapes_questions(instances: int, *, seed: int = 0) -> Iterator[tuple[TedRecord, Scene, Question]]:
    """As `shapes_ted`, each record with the scene and the claims behind it."""
    if instances < 1:
        raise InputError(f"got {instances} instances, expected at least 1: give a number")
    together = [
        (media, part)
        for media, categories in plan(instances, random.Random(f"shapes/{seed}"))
        for part in _compatible(media, categories)
    ]
    for number, (media, categories) in enumerate(together):
        name = f"shapes/{seed}/{number}"
        scene, _ = shapes_in_split(name, "benchmark", media, categories)
        caption = write_shapes_caption(scene, "caption")
        for category in categories:
            question, order = _asked(caption, f"{name}/{category}", category)
            yield as_record(name, media, caption.text, category, question, order, SOURCE), scene, question


def _compatible(media: str, categories: Sequence[str]) -> list[tuple[str, ...]]:
    """The categories, in two parts if they do not fit into one scene."""
    first, second = APART[media]
    if first in categories and second in categories:
        return [tuple(category for category in categories if category != second), (second,)]
    return [tuple(categories)]


def _asked(caption: ShapesCaption, seed: str, category: str) -> tuple[Question, list[int]]:
    """A question, and the order in which its options are given."""
    rng = random.Random(seed)
    question = ask(ShapesAsker(caption, rng), category)
    return question, rng.sample(range(len(question.options)), len(question.options))


def shapes_contact_sheet(path: str | os.PathLike, scenes: int = 24, seed: int = 0) -> None:
    """Write a PNG of scenes, half images and half videos, each with its caption and the statements of one instance.

    Args:
        path (`str` or `os.PathLike`): the file to make.
        scenes (`int`, defaults to 24): how many.
        seed (`int`, defaults to 0): which.

    Raises:
        InputError: there is nothing to show, or the file cannot be written.
    """
    entries = []
    for number in range(scenes):
        media = MEDIA[2 * number // scenes]
        legal = [category for category in CATEGORIES if media == "video" or category not in VIDEO_ONLY]
        category = legal[number % len(legal)]
        name = f"sheet/{seed}/{number}"
        scene, drawing = shapes_in_split(name, "training", media, (category,))
        caption = write_shapes_caption(scene, "caption")
        question, order = _asked(caption, name, category)
        image = render_image(drawing, PIXELS) if media == "image" else render_video(drawing, FRAMES, PIXELS)
        entries.append((image, caption.text, [(question.options[i][0], i == 0) for i in order]))
    contact_sheet(entries, path, columns=COLUMNS)
