"""What the drawing probe draws: one large figure, told in many wordings.

    training_rows(4000, seed=0, size=32)             # images with captions in training wordings
    scored_prompts(100, seed=0)                        # of figures that no training image shows

A figure is a shape, a colour and a cell. Beside its caption a row has it in plain words, always the same for the same
figure: the ceiling, a text that says nothing else.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from granted.dataset_builders.scenes.shapes.drawing import Drawing, render_image
from granted.dataset_builders.scenes.shapes.varied_captions import varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import single_figures
from granted.utils.errors import InputError


WORDINGS = ("seen", "form", "word", "both")
TOLD = ("shape", "colour", "position")


@dataclass(frozen=True)
class Prompt:
    """A prompt of the test: its kind of wording, its text, and what is asked for."""

    wording: str
    text: str
    drawing: Drawing


def plain_words(drawing: Drawing) -> str:
    """`"red star 0 2"`: colour, shape, column and row."""
    figure = drawing.figures[0]
    return f"{figure.colour} {figure.shape} {figure.cell[0]} {figure.cell[1]}"


def training_rows(count: int, *, seed: int, size: int) -> Iterator[dict[str, Any]]:
    """Images with captions in training wordings, as `granted train text-to-image` takes them."""
    pool = single_figures(held_out=False)
    for number in range(count):
        name = f"drawing/{seed}/{number}"
        rng = random.Random(name)
        drawing = rng.choice(pool)
        row = {"id": name, "image": render_image(drawing, size), "caption": varied_caption(drawing, "seen", rng).text}
        yield row | {"short_caption": plain_words(drawing), "drawing": drawing.to_json(), "told": list(TOLD)}


def scored_prompts(count: int, *, seed: int) -> list[Prompt]:
    """`count` prompts of every wording, about the same drawings in each; none of them is in a training row.

    Raises:
        InputError: there are not so many drawings.
    """
    kept = single_figures(held_out=True)
    if count > len(kept):
        raise InputError(f"got {count} prompts of each wording, expected at most {len(kept)}: ask for fewer")
    chosen = random.Random(f"drawing/{seed}/test").sample(kept, count)
    return [
        Prompt(wording, varied_caption(drawing, wording, random.Random(f"{seed}/{wording}/{number}")).text, drawing)
        for wording in WORDINGS
        for number, drawing in enumerate(chosen)
    ]
