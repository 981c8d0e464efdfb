"""A world of shapes of which everything is known: the specification of an image or video, and its exact rendering.

    star = Figure("star", "red", "large", "striped", cell=(0, 2), letters="GO")
    render_image(Drawing((star,), "beige"), size=128)                  # a PIL image
    drawing = random_drawing(random.Random(0), "video", n_figures=3)   # every property uniform and independent
    render_video(drawing, frames=16, size=128)                         # 16 PIL images

The canvas is the unit square, three cells by three, and a static figure stands in the middle of its cell. Letters are
written across a figure on a small plate: white on black on light backgrounds, black on white on dark ones, so that
any letters can be read on any figure. `reader.py` recovers a drawing from its pixels and says from which size on which
property can be read: all of them from 64 pixels.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from granted.dataset_builders.scenes.shapes.figure_tiles import (
    LETTERS,
    SHAPES,
    TEXTURES,
    Colour,
    figure_tile,
    paste_tile,
    plate_aspect,
)
from granted.utils.errors import InputError


GRID = 3  # cells in a row and in a column
# Of each colour the tone of a solid figure, and the second tone that a texture draws on it.
COLOURS: dict[str, tuple[Colour, Colour]] = {
    "red": ((222, 32, 38), (125, 8, 20)),
    "orange": ((250, 140, 20), (186, 84, 0)),
    "yellow": ((250, 218, 30), (180, 146, 0)),
    "green": ((30, 156, 60), (120, 214, 110)),
    "turquoise": ((20, 196, 196), (0, 116, 128)),
    "blue": ((40, 78, 226), (110, 160, 255)),
    "purple": ((124, 40, 172), (190, 118, 232)),
    "pink": ((255, 112, 184), (186, 40, 116)),
    "brown": ((126, 74, 34), (190, 140, 92)),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (255, 255, 255),
    "light grey": (192, 192, 192),
    "beige": (242, 224, 182),
    "pale blue": (184, 216, 252),
    "navy": (16, 22, 58),
}
DARK_BACKGROUNDS = ("navy",)
SIZES = {"small": 0.15, "medium": 0.21, "large": 0.30}  # height of the figure, in canvas heights
MAX_LETTERS = 4
MEDIA = ("image", "video")

KINDS = ("moves", "grows", "shrinks", "appears", "disappears", "blinks")
SUDDEN = ("appears", "disappears")  # they happen at a moment: start and end are the same
GRADUAL = ("moves", "grows", "shrinks")  # they have a speed
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# In a whole video: canvas widths for a figure that moves, times its full height for one that grows or shrinks.
SPEEDS = {"slowly": 0.2, "steadily": 0.4, "quickly": 0.8}
GROWTHS = {"slowly": 0.3, "steadily": 0.6, "quickly": 1.2}
MIN_DURATION = 0.3  # of an event with a duration; shorter ones fall between the frames of a video of 8
MIN_SCALE = 0.25  # a figure grows from, or shrinks to, no less than this share of its full height

PLATE_HEIGHT = 0.46  # of the plate under the letters, in heights of the figure
MAX_WIDTH = 0.31  # of a plate, in canvas widths: figures in neighbouring cells never touch
MIN_GAP = 0.02  # between figures
MIN_EDGE = 0.01  # between a figure and the edge of the canvas
MIN_PIXELS, MAX_PIXELS = 32, 512
MIN_FRAMES, MAX_FRAMES = 8, 49
MAX_RANDOM_VIDEO = 5  # figures of a random video: more seldom find room to move
PLACEMENTS = 200  # tries to place the figures of a random drawing before all is drawn anew
CELLS = tuple((column, row) for row in range(GRID) for column in range(GRID))


@dataclass(frozen=True)
class Motion:
    """What happens to a figure of a video, once.

    A figure that grows begins smaller and ends at its `size`; one that shrinks begins at its `size`; one that blinks
    is gone from start to end. Before its start and after its end a motion changes nothing.

    Args:
        kind (`str`): one of `KINDS`.
        direction (`str`, *optional*): one of `DIRECTIONS`, for a figure that moves and only for it.
        speed (`str`, *optional*): one of `SPEEDS`, for one that moves, grows or shrinks and only for it.
        start, end (`float`): fractions of the video. The same for a figure that appears or disappears.

    Raises:
        InputError: a value is unknown, or does not go with the kind.
    """

    kind: str
    direction: str | None = None
    speed: str | None = None
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        _require("kind", self.kind, KINDS)
        for name, value, kinds, known in (
            ("direction", self.direction, ("moves",), tuple(DIRECTIONS)),
            ("speed", self.speed, GRADUAL, tuple(SPEEDS)),
        ):
            if self.kind in kinds:
                _require(name, value, known)
            elif value is not None:
                raise InputError(f"got {name} {value!r} of a figure that {self.kind}, expected none: leave it out")
        times = (self.start, self.end)
        if not all(isinstance(time, float | int) and 0 <= time <= 1 for time in times):
            raise InputError(f"got start and end {times}, expected fractions of the video: give numbers from 0 to 1")
        if self.kind in SUDDEN:
            if self.start != self.end or not 0 < self.start < 1:
                raise InputError(
                    f"got start and end {times} of a figure that {self.kind}, expected one moment within the video: "
                    "give the same number between 0 and 1 twice"
                )
        elif self.end - self.start < MIN_DURATION - 1e-9:
            raise InputError(
                f"got start and end {times}, expected {MIN_DURATION} of the video between them: let it last longer"
            )
        if self.kind == "blinks" and not 0 < self.start < self.end < 1:
            raise InputError(
                f"got start and end {times} of a blink, expected it to be seen before and after: shift it"
            )
        if self.kind in ("grows", "shrinks") and self.change > 1 - MIN_SCALE + 1e-9:
            raise InputError(
                f"got a figure that {self.kind} {self.speed} from {self.start} to {self.end}, expected at least "
                f"{MIN_SCALE} of its height to be left: slow it down or let it last shorter"
            )

    @property
    def change(self) -> float:
        """The whole way of a figure that moves, in canvas widths; the share of its height that one gains or loses."""
        rates = SPEEDS if self.kind == "moves" else GROWTHS
        return rates[self.speed] * (self.end - self.start) if self.speed else 0.0


@dataclass(frozen=True)
class Figure:
    """One figure. A group of n equal figures is n figures.

    Args:
        shape (`str`): one of `SHAPES`.
        colour (`str`): one of `COLOURS`.
        size (`str`): one of `SIZES`; its full size if it grows or shrinks.
        texture (`str`): one of `TEXTURES`.
        cell (`tuple[int, int]`): column and row, from 0 at the top left; where it begins, if it moves.
        letters (`str`, defaults to `""`): up to four capitals written on it.
        motion (`Motion`, *optional*): what happens to it in a video.

    Raises:
        InputError: a value is unknown.
    """

    shape: str
    colour: str
    size: str
    texture: str
    cell: tuple[int, int]
    letters: str = ""
    motion: Motion | None = None

    def __post_init__(self):
        for name, known in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)):
            _require(name, getattr(self, name), tuple(known))
        if self.cell not in CELLS:
            raise InputError(f"got cell {self.cell!r}, expected (column, row) from 0 to {GRID - 1}")
        letters = self.letters
        if not isinstance(letters, str) or len(letters) > MAX_LETTERS or any(one not in LETTERS for one in letters):
            raise InputError(f"got letters {letters!r}, expected up to {MAX_LETTERS} capitals A to Z")

    @property
    def box(self) -> tuple[float, float]:
        """Width and height of the room it takes at full size, in canvas widths."""
        height = SIZES[self.size]
        return max(height, plate_height(height, len(self.letters)) * plate_aspect(len(self.letters))), height


@dataclass(frozen=True)
class Drawing:
    """An image or video: figures on a plain background.

    Each figure keeps the room of its full size for the whole video, seen or not, so that no two figures ever touch.

    Args:
        figures (`tuple[Figure, ...]`): the figures, in any order.
        background (`str`): one of `BACKGROUNDS`.
        media (`str`, defaults to `"image"`): one of `MEDIA`.

    Raises:
        InputError: a value is unknown, figures would touch at some time, or one would leave the canvas.
    """

    figures: tuple[Figure, ...]
    background: str
    media: str = "image"

    def __post_init__(self):
        _require("background", self.background, tuple(BACKGROUNDS))
        _require("media", self.media, MEDIA)
        if not isinstance(self.figures, tuple) or not all(isinstance(figure, Figure) for figure in self.figures):
            raise InputError(f"got figures {self.figures!r:.80}, expected a tuple of Figure: convert them")
        for number, figure in enumerate(self.figures):
            if figure.motion and self.media == "image":
                raise InputError(
                    f"got an image whose figure {number} {figure.motion.kind}, expected no motion: make a video"
                )
        problem = _conflict(self.figures)
        if problem:
            raise InputError(problem)

    def to_json(self) -> str:
        """The drawing as one line of JSON, for a column of a table; `from_json` gives it back."""
        # asdict copies deeply, which takes ten times as long.
        figures = [vars(figure) | {"motion": figure.motion and vars(figure.motion)} for figure in self.figures]
        return json.dumps(vars(self) | {"figures": figures})

    @classmethod
    def from_json(cls, text: str) -> "Drawing":
        """The drawing that `to_json` wrote.

        Raises:
            InputError: the text is no drawing.
        """
        try:
            value = json.loads(text)
            figures = []
            for one in value["figures"]:
                motion = Motion(**one["motion"]) if one["motion"] else None
                figures.append(Figure(**one | {"cell": tuple(one["cell"]), "motion": motion}))
            return cls(tuple(figures), value["background"], value["media"])
        except InputError:
            raise
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"got {text!r:.80}, which is no drawing ({error}), expected what Drawing.to_json writes: copy it whole"
            ) from error


def _require(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise InputError(f"got {name} {value!r}, expected one of {', '.join(known)}")


def _conflict(figures: Sequence[Figure]) -> str | None:
    """What is wrong with where the figures are, in one line."""
    for number, figure in enumerate(figures):
        width, height = figure.box
        x, y = _centre(figure, 1.0)
        if not (x - width / 2 >= MIN_EDGE and x + width / 2 <= 1 - MIN_EDGE) or not (
            y - height / 2 >= MIN_EDGE and y + height / 2 <= 1 - MIN_EDGE
        ):
            return (
                f"got figure {number} at ({x:.2f}, {y:.2f}) at the end of the video, expected all of it on the "
                "canvas: change its cell, direction or speed"
            )
        for other in range(number):
            moment = _meeting(figures[other], figure)
            if moment is not None:
                return (
                    f"got figures {other} and {number} overlapping at {moment:.2f} of the video, expected figures "
                    "that never touch: change a cell or a motion"
                )
    return None


def _meeting(one: Figure, other: Figure) -> float | None:
    """The first moment at which the boxes of two figures are closer than MIN_GAP. Between breaks all is linear."""
    widths = [(a + b) / 2 + MIN_GAP - 1e-9 for a, b in zip(one.box, other.box)]
    moving = [figure.motion for figure in (one, other) if figure.motion and figure.motion.kind == "moves"]
    breaks = sorted({0.0, 1.0, *(motion.start for motion in moving), *(motion.end for motion in moving)})
    for begin, finish in pairwise(breaks):
        before = [b - a for a, b in zip(_centre(one, begin), _centre(other, begin))]
        after = [b - a for a, b in zip(_centre(one, finish), _centre(other, finish))]
        first, last = 0.0, 1.0  # of the part of this stretch during which they overlap along both axes
        for width, a, b in zip(widths, before, after):
            if a == b:
                first, last = (first, last) if abs(a) < width else (1.0, 0.0)
            else:
                crossings = sorted(((-width - a) / (b - a), (width - a) / (b - a)))
                first, last = max(first, crossings[0]), min(last, crossings[1])
        if first < last:
            return begin + first * (finish - begin)
    return None


def _centre(figure: Figure, time: float) -> tuple[float, float]:
    """Where the middle of a figure is at `time`, in canvas widths."""
    x, y = ((place + 0.5) / GRID for place in figure.cell)
    motion = figure.motion
    if motion and motion.kind == "moves":
        way = SPEEDS[motion.speed] * min(max(time - motion.start, 0.0), motion.end - motion.start)
        dx, dy = DIRECTIONS[motion.direction]
        return x + dx * way, y + dy * way
    return x, y


def figure_state(figure: Figure, time: float) -> tuple[float, float, float] | None:
    """The middle (x, y) and the height of a figure at `time`, in canvas widths; `None` where it is not seen.

    Args:
        figure (`Figure`): the figure.
        time (`float`): a fraction of the video.
    """
    x, y = _centre(figure, time)
    height = SIZES[figure.size]
    motion = figure.motion
    if motion is None or motion.kind == "moves":
        return x, y, height
    if motion.kind in ("grows", "shrinks"):
        rate = GROWTHS[motion.speed]
        elapsed = min(max(time - motion.start, 0.0), motion.end - motion.start)
        return x, y, height * (1 - (motion.change - rate * elapsed if motion.kind == "grows" else rate * elapsed))
    seen = {
        "appears": time >= motion.start,
        "disappears": time < motion.start,
        "blinks": not motion.start <= time < motion.end,
    }
    return (x, y, height) if seen[motion.kind] else None


def plate_height(height: float, count: int) -> float:
    """Height of the plate with `count` letters on a figure at full size of `height`, in canvas widths."""
    return min(PLATE_HEIGHT * height, MAX_WIDTH / plate_aspect(count)) if count else 0.0


def render_image(drawing: Drawing, size: int = 128) -> Image.Image:
    """Draw an image (of a video, its beginning).

    Args:
        drawing (`Drawing`): what to draw.
        size (`int`, defaults to 128): width and height in pixels, from 32 to 512.

    Returns:
        `PIL.Image.Image`: RGB, the same to the last bit every time.

    Raises:
        InputError: `size` is out of range.
    """
    return _render(drawing, 0.0, size)


def render_video(drawing: Drawing, frames: int = 16, size: int = 128) -> list[Image.Image]:
    """Draw a video. Its first frame is at time 0 and its last one at time 1.

    Args:
        drawing (`Drawing`): what to draw.
        frames (`int`, defaults to 16): from 8 to 49.
        size (`int`, defaults to 128): width and height in pixels, from 32 to 512.

    Raises:
        InputError: `frames` or `size` is out of range.
    """
    if not isinstance(frames, int) or not MIN_FRAMES <= frames <= MAX_FRAMES:
        raise InputError(f"got {frames!r} frames, expected {MIN_FRAMES} to {MAX_FRAMES}: choose a length in between")
    return [_render(drawing, number / (frames - 1), size) for number in range(frames)]


def _render(drawing: Drawing, time: float, size: int) -> Image.Image:
    if not isinstance(size, int) or not MIN_PIXELS <= size <= MAX_PIXELS:
        raise InputError(
            f"got a size of {size!r} pixels, expected {MIN_PIXELS} to {MAX_PIXELS}: choose one in between"
        )
    canvas = Image.new("RGB", (size, size), BACKGROUNDS[drawing.background])
    for figure in drawing.figures:
        state = figure_state(figure, time)
        if state is not None:
            x, y, height = (value * size for value in state)
            scale = state[2] / SIZES[figure.size]
            plate = plate_height(SIZES[figure.size], len(figure.letters)) * scale * size
            dark = drawing.background in DARK_BACKGROUNDS
            tones = COLOURS[figure.colour]
            shape, texture, letters = figure.shape, figure.texture, figure.letters
            paste_tile(canvas, figure_tile(shape, tones, texture, (x, y), height, letters, plate, dark))
    return canvas


def random_drawing(
    rng: random.Random,
    media: str = "image",
    n_figures: int = 3,
    *,
    letters_share: float = 0.25,
    motion_share: float = 0.5,
    kinds: Sequence[str] = KINDS,
) -> Drawing:
    """A drawing whose properties are uniform and independent of each other, the same for a seed on every machine.

    Only the cells depend on the rest, since figures keep apart; where no place is found everything is drawn anew.

    Args:
        rng (`random.Random`): the only source of chance.
        media (`str`, defaults to `"image"`): one of `MEDIA`.
        n_figures (`int`, defaults to 3): from 0 to 9 figures, in a video up to 5.
        letters_share (`float`, defaults to 0.25): how many figures have letters: one to four, equally often.
        motion_share (`float`, defaults to 0.5): how many figures of a video have a motion.
        kinds (`Sequence[str]`, defaults to all): of motions.

    Raises:
        InputError: the media or a kind are unknown, or the number of figures is out of range.
    """
    _require("media", media, MEDIA)
    for kind in kinds:
        _require("kind", kind, KINDS)
    limit = len(CELLS) if media == "image" else MAX_RANDOM_VIDEO
    if not isinstance(n_figures, int) or not 0 <= n_figures <= limit:
        raise InputError(f"got {n_figures!r} figures of a random {media}, expected 0 to {limit}: choose fewer")
    while True:
        looks = [_random_look(rng, letters_share) for _ in range(n_figures)]
        motions = [
            _random_motion(rng, kinds) if media == "video" and rng.random() < motion_share else None for _ in looks
        ]
        background = rng.choice(tuple(BACKGROUNDS))
        for _ in range(PLACEMENTS):
            cells = rng.sample(CELLS, n_figures)
            figures = tuple(
                Figure(**look, cell=cell, motion=motion) for look, cell, motion in zip(looks, cells, motions)
            )
            if _conflict(figures) is None:
                return Drawing(figures, background, media)


def _random_look(rng: random.Random, letters_share: float) -> dict[str, str]:
    letters = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, MAX_LETTERS)))
    return {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice(tuple(COLOURS)),
        "size": rng.choice(tuple(SIZES)),
        "texture": rng.choice(TEXTURES),
        "letters": letters if rng.random() < letters_share else "",
    }


def _random_motion(rng: random.Random, kinds: Sequence[str]) -> Motion:
    """A motion of one of the kinds, on tenths of the video."""
    kind = rng.choice(kinds)
    direction = rng.choice(tuple(DIRECTIONS)) if kind == "moves" else None
    speed = rng.choice(tuple(SPEEDS)) if kind in GRADUAL else None
    if kind in SUDDEN:
        start = end = rng.randint(2, 8)
    else:
        tenths = rng.randint(3, 5)
        margin = 1 if kind == "blinks" else 0
        start = rng.randint(margin, 10 - margin - tenths)
        end = start + tenths
    return Motion(kind, direction, speed, start / 10, end / 10)
