"""Read what an image or video of shapes shows, from its pixels alone, and score it against a drawing.

    reading = read_image(image)                       # reading.figures[0].shape, .colour, .cell, .confidence, ...
    reading = read_video(frames)                      # also .motion of each figure
    properties_match(drawing, reading)                # {"shape": 1.0, "colour": 0.67, "count": 1.0, ...}

Nothing is hidden in the images: what is made by a model is read in the same way as what is rendered. Whatever cannot
be read is `None` or has a low confidence; no image makes the reader raise.

Percent read right over 200 random drawings, of five figures in an image and of three in a video of 16 frames, half of
them with letters (`read_rates` in tests/test_scenes_reader.py; `letters`: whole words, of the figures that have any):

    pixels        32     48     64    128    256    512
    background   100.0  100.0  100.0  100.0  100.0  100.0
    position      97.2   97.5  100.0  100.0  100.0  100.0
    size          97.2   97.5  100.0  100.0  100.0  100.0
    shape         93.5   95.6   99.8  100.0  100.0  100.0
    colour        92.4   95.1   99.8  100.0  100.0  100.0
    count         87.9   93.0   99.6  100.0  100.0  100.0
    texture       85.4   89.7   99.2  100.0  100.0  100.0
    letters       22.1   66.9   97.2  100.0  100.0  100.0
    motion        97.0   97.7  100.0  100.0  100.0  100.0
    direction     98.1  100.0  100.0  100.0  100.0  100.0
    speed         92.8   96.6   99.3  100.0  100.0  100.0
    order         95.3   95.3  100.0  100.0  100.0  100.0

At 128 pixels noise of 8/255, a shift of the colours by 12/255 and a blur of 0.7 pixels change none of the first eight
rows, and JPEG of quality 85 takes at most 0.2 from each.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from granted.dataset_builders.scenes.shapes.drawing import GRID, Drawing, Figure, Motion
from granted.dataset_builders.scenes.shapes.reader_blobs import (
    LEAST_PIXELS,
    background_colour,
    background_name,
    find_blobs,
    to_pixels,
)
from granted.dataset_builders.scenes.shapes.reader_looks import Look, read_look
from granted.dataset_builders.scenes.shapes.reader_motion import ReadMotion, Track, follow, read_motion


LEAST_SIDE = 0.04  # square root of the area of a figure in an image, in canvas widths; what is smaller is a speck
ORDER_GAP = 0.15  # of the video: events that start nearer to each other than this have no order
FULL = 0.95  # share of its largest area from which a figure that grows or shrinks has its full size
TELLING = 3  # frames at which the look of a figure is read
LOOKS = ("shape", "colour", "size", "texture", "letters")


@dataclass(frozen=True)
class ReadFigure:
    """One figure as it was read; `None` for what cannot be read.

    Fields:
        shape, colour, size, texture (`str`, *optional*): as in `Figure`.
        cell (`tuple[int, int]`): column and row of its middle; where it is first seen in a video.
        letters (`str`, *optional*): `""` where there are none, `None` where there are some that cannot be read.
        centre (`tuple[float, float]`): x and y of its middle there, in canvas widths.
        height (`float`): its full height, in canvas heights.
        motion (`ReadMotion`, *optional*): what happens to it in a video.
        confidence (`dict[str, float]`): of each property, from 0 to 1.
    """

    shape: str | None
    colour: str | None
    size: str | None
    texture: str | None
    cell: tuple[int, int]
    letters: str | None
    centre: tuple[float, float]
    height: float
    motion: ReadMotion | None
    confidence: dict[str, float]


@dataclass(frozen=True)
class Reading:
    """What an image or video shows.

    Fields:
        figures (`tuple[ReadFigure, ...]`): from left to right and top to bottom.
        background (`str`, *optional*): as in `Drawing`; `None` if it is like none.
        media (`str`): `"image"` or `"video"`.
        confidence (`float`): of the background, from 0 to 1.
    """

    figures: tuple[ReadFigure, ...]
    background: str | None
    media: str
    confidence: float


def read_image(image: Image.Image) -> Reading:
    """Read an image.

    Args:
        image (`PIL.Image.Image`): any mode and size; square, as the canvas is.
    """
    pixels = to_pixels(image)  # (H, W, 3)
    if min(image.size) < LEAST_PIXELS:
        return Reading((), None, "image", 0.0)
    ground = background_colour(pixels)  # (3,)
    name, confidence = background_name(ground)
    least = (LEAST_SIDE * len(pixels)) ** 2
    looks = [read_look(pixels, ground, blob) for blob in find_blobs(pixels, ground) if blob.area >= least]
    return Reading(_ordered([_figure(look) for look in looks]), name, "image", confidence)


def read_video(frames: Sequence[Image.Image]) -> Reading:
    """Read a video.

    Args:
        frames (`Sequence[PIL.Image.Image]`): images of one size, the first at time 0 and the last at time 1.
    """
    if len(frames) < 2 or min(min(frame.size) for frame in frames) < LEAST_PIXELS:
        return Reading((), None, "video", 0.0)
    clip = [to_pixels(frame) for frame in frames]  # each (H, W, 3)
    grounds = [background_colour(pixels) for pixels in clip]  # each (3,)
    name, confidence = background_name(np.median(grounds, axis=0))
    seen = [find_blobs(pixels, ground) for pixels, ground in zip(clip, grounds)]
    figures = []
    for track in follow(seen, len(clip[0])):
        motion, sure = read_motion(track, len(clip), len(clip[0]))
        looks = [
            read_look(clip[track.frames[index]], grounds[track.frames[index]], track.blobs[index])
            for index in _telling(track, motion)
        ]
        figures.append(_figure(_agreed(looks), motion, sure))
    return Reading(_ordered(figures), name, "video", confidence)


def _figure(look: Look, motion: ReadMotion | None = None, sure: float | None = None) -> ReadFigure:
    column, row = (min(max(int(value * GRID), 0), GRID - 1) for value in look.centre)
    known = {name: getattr(look, name) for name in LOOKS}
    confidence = look.confidence if sure is None else {**look.confidence, "motion": sure}
    return ReadFigure(
        **known, cell=(column, row), centre=look.centre, height=look.height, motion=motion, confidence=confidence
    )


def _ordered(figures: list[ReadFigure]) -> tuple[ReadFigure, ...]:
    return tuple(sorted(figures, key=lambda figure: (figure.cell[1], figure.cell[0], figure.centre)))


def _telling(track: Track, motion: ReadMotion | None) -> list[int]:
    """Which of a figure's blobs to look at: its largest if it grows or shrinks, else its first, middle and last."""
    count = len(track.blobs)
    if motion and motion.kind in ("grows", "shrinks"):
        largest_first = sorted(range(count), key=lambda index: -track.blobs[index].area)
        least = FULL * track.blobs[largest_first[0]].area
        return [index for index in largest_first[:TELLING] if track.blobs[index].area >= least]
    return sorted({0, count // 2, count - 1})


def _agreed(looks: Sequence[Look]) -> Look:
    """One look out of several of the same figure: of each property the value with the most confidence in all."""
    values, confidence = {}, {}
    for name in LOOKS:
        votes: dict[str | None, float] = {}
        for look in looks:
            votes[getattr(look, name)] = votes.get(getattr(look, name), 0.0) + 1e-6 + look.confidence[name]
        values[name] = max(votes, key=votes.__getitem__)
        confidence[name] = min(1.0, votes[values[name]] / len(looks))
    height = float(np.median([look.height for look in looks]))
    return Look(**values, centre=looks[0].centre, height=height, confidence=confidence)


def properties_match(
    drawing: Drawing, reading: Reading, properties: Collection[str] | None = None
) -> dict[str, float]:
    """How much of a drawing its image shows: of each property the share that was read right, from 0 to 1.

    Figures are paired so that as many properties as possible agree; a pair of which fewer than half agree is none.
    `figures` is the share of the drawing's figures that have a pair; one without has all its properties wrong.
    `count` is the share of its groups, figures equal in shape and colour, that are as many in the image. Of videos,
    `motion` is the kind of what happens, nothing included; `direction` and `speed` are over the figures that have one,
    and `order` is the share of pairs of events, at least 0.15 of the video apart, that start in the right order. What
    the drawing has none of is left out.

    Args:
        drawing (`Drawing`): what was asked for.
        reading (`Reading`): what was seen.
        properties (`Collection[str]`, *optional*): by which figures are paired; all by default.

    Returns:
        `dict[str, float]`: `background`, `figures`, `count`, `shape`, `colour`, `size`, `texture`, `position` and
        `letters`; for a video also `motion`, `direction`, `speed` and `order`.
    """
    scores = {"background": float(drawing.background == reading.background)}
    if not drawing.figures:
        return {**scores, "figures": float(not reading.figures)}
    pairs = pair_figures(drawing, reading, properties)
    asked, shown = (Counter((one.shape, one.colour) for one in media.figures) for media in (drawing, reading))
    scores["figures"] = len(pairs) / len(drawing.figures)
    scores["count"] = float(np.mean([shown[group] == number for group, number in asked.items()]))
    verdicts = [verdicts_of(figure, pairs.get(index), drawing.media) for index, figure in enumerate(drawing.figures)]
    for name in (*LOOKS, "position", "motion", "direction", "speed"):
        right = [verdict[name] for verdict in verdicts if name in verdict]
        if right:
            scores[name] = float(np.mean(right))
    order = _order(drawing, pairs)
    return scores if order is None else {**scores, "order": order}


def pair_figures(
    drawing: Drawing, reading: Reading, properties: Collection[str] | None = None
) -> dict[int, ReadFigure]:
    """The figure that was read for each of a drawing, by its number, so that as much as possible agrees.

    A pair of which fewer than half of the properties agree is none.

    Args:
        drawing (`Drawing`): what was asked for.
        reading (`Reading`): what was seen.
        properties (`Collection[str]`, *optional*): those of `verdicts_of` that count; all by default.
    """
    if not reading.figures:
        return {}

    def share(one: Figure, other: ReadFigure) -> float:
        verdicts = verdicts_of(one, other, drawing.media).items()
        marks = [right for name, right in verdicts if properties is None or name in properties]
        return float(np.mean(marks)) if marks else 0.0

    shares = np.array([[share(one, other) for other in reading.figures] for one in drawing.figures])  # (drawn, read)
    return {
        int(row): reading.figures[column]
        for row, column in zip(*linear_sum_assignment(-shares))
        if shares[row, column] >= 0.5
    }


def verdicts_of(figure: Figure, read: ReadFigure | None, media: str) -> dict[str, bool]:
    """Which of the properties of a figure were read right; none of them where nothing was read.

    Args:
        figure (`Figure`): as drawn.
        read (`ReadFigure`, *optional*): what stands for it in the image.
        media (`str`): `"image"` or `"video"`.

    Returns:
        `dict[str, bool]`: `shape`, `colour`, `size`, `texture`, `letters` (right if there are to be none and are none)
        and `position`; in a video also `motion` (what happens, nothing included), and `direction` and `speed` where
        the drawing has them.
    """
    verdicts = {name: read is not None and getattr(figure, name) == getattr(read, name) for name in LOOKS}
    verdicts["position"] = read is not None and figure.cell == read.cell
    if media == "video":
        seen = read.motion if read else None
        verdicts["motion"] = read is not None and _of(figure.motion, "kind") == _of(seen, "kind")
        for name in ("direction", "speed"):
            if _of(figure.motion, name):
                verdicts[name] = _of(figure.motion, name) == _of(seen, name)
    return verdicts


def _of(motion: Motion | ReadMotion | None, name: str) -> str | None:
    return getattr(motion, name) if motion else None


def _order(drawing: Drawing, pairs: dict[int, ReadFigure]) -> float | None:
    """The share of pairs of events that start in the right order, `None` if there is no such pair."""
    right = []
    moving = [(index, figure.motion) for index, figure in enumerate(drawing.figures) if figure.motion]
    for (index, one), (other_index, other) in combinations(moving, 2):
        if abs(one.start - other.start) >= ORDER_GAP - 1e-9:
            seen, other_seen = (pairs[key].motion if key in pairs else None for key in (index, other_index))
            both = seen is not None and other_seen is not None
            right.append(both and (seen.start < other_seen.start) == (one.start < other.start))
    return float(np.mean(right)) if right else None
