"""Drawings for captions in many wordings: those of training, and those that are kept for a test.

    sample_drawing(random.Random(0), held_out=True)         # one to three figures, groups of equal ones, or a video
    single_figures(held_out=False)                          # one large figure, every shape, colour and place

A fifth of all drawings, chosen by a hash of their content, is kept for tests, whoever samples them.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from granted.dataset_builders.scenes.shapes.drawing import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Drawing,
    Figure,
    random_drawing,
)
from granted.dataset_builders.scenes.shapes.wordings import COUNTS


HELD_OUT = 5  # one drawing of so many is kept for tests
GROUPS_SHARE, VIDEO_SHARE = 0.15, 0.15


def is_held_out(drawing: Drawing) -> bool:
    """Whether a drawing is kept for tests.

    The order in which figures are listed counts, so one image can be in both parts. In the texts of reading and of the
    ladder there is none (of 19,000 drawings); another rule would make other texts, which have no scores yet.
    """
    return int(hashlib.sha256(drawing.to_json().encode()).hexdigest(), 16) % HELD_OUT == 0


def sample_drawing(rng: random.Random, held_out: bool) -> Drawing:
    """A drawing of one to three figures, of groups of equal figures, or of figures in motion.

    Args:
        rng (`random.Random`): decides.
        held_out (`bool`): whether it is one that is kept for tests.
    """
    chance = rng.random()
    make = _groups if chance < GROUPS_SHARE else _moving if chance < GROUPS_SHARE + VIDEO_SHARE else _placed
    return kept_drawing(lambda: make(rng), held_out)


def placed_figures(rng: random.Random, held_out: bool) -> Drawing:
    """A still image of one to three figures at their places; the arguments are those of [`sample_drawing`]."""
    return kept_drawing(lambda: _placed(rng), held_out)


def kept_drawing(make: Callable[[], Drawing], held_out: bool) -> Drawing:
    """The first drawing that is made for tests, or for training."""
    while True:
        drawing = make()
        if is_held_out(drawing) == held_out:
            return drawing


def random_figures(rng: random.Random, count: int) -> tuple[Figure, ...]:
    """Figures of different shapes in different cells, every look at random."""
    shapes, cells = rng.sample(tuple(SHAPES), count), rng.sample(CELLS, count)
    return tuple(
        Figure(shape, rng.choice(tuple(COLOURS)), rng.choice(tuple(SIZES)), rng.choice(tuple(TEXTURES)), cell)
        for shape, cell in zip(shapes, cells)
    )


def _placed(rng: random.Random) -> Drawing:
    return Drawing(random_figures(rng, rng.randint(1, 3)), rng.choice(tuple(BACKGROUNDS)))


def _groups(rng: random.Random) -> Drawing:
    counts = rng.choice([(first, second) for first in COUNTS[1:] for second in (0, *COUNTS)])
    kinds, cells = random_figures(rng, 2), rng.sample(CELLS, sum(counts))
    figures = [replace(kind, cell=cells.pop()) for kind, count in zip(kinds, counts) for _ in range(count)]
    return Drawing(tuple(figures), rng.choice(tuple(BACKGROUNDS)))


def _moving(rng: random.Random) -> Drawing:
    while True:
        drawing = random_drawing(rng, "video", rng.randint(1, 2), letters_share=0, motion_share=1)
        if len({figure.shape for figure in drawing.figures}) == len(drawing.figures):
            return drawing


def single_figures(held_out: bool) -> list[Drawing]:
    """Every drawing of one large solid figure on white that is for training, or that is kept for tests."""
    every = [
        Drawing((Figure(shape, colour, "large", "solid", cell),), "white")
        for shape in SHAPES
        for colour in COLOURS
        for cell in CELLS
    ]
    return [drawing for drawing in every if is_held_out(drawing) == held_out]
