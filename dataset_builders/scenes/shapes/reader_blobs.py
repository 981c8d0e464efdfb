"""Where the reader sees something: the pixels of an image, its background, and the blobs that differ from it.

    pixels = to_pixels(image)                      # at most 128 x 128
    ground = background_colour(pixels)
    for blob in find_blobs(pixels, ground):        # the largest first
        window = Window.about(blob, side=len(pixels))

Plain colours are told apart by their distance in RGB.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from granted.dataset_builders.scenes.shapes.drawing import BACKGROUNDS, GRID, SIZES
from granted.dataset_builders.visual_vqa.media import to_rgb


WORK_PIXELS = 128  # larger images are read at this size
LEAST_PIXELS = 16  # smaller images are not read
FAR = 45.0  # from the background, in RGB: a pixel this far belongs to a figure
LEAST_SIDE = 0.02  # square root of the area of the smallest blob, in canvas widths
MOST_SIDE = 0.37  # a blob wider or higher than this is several figures that touch
MOST_AREA = 0.9  # share of a cell: a piece larger than this is no figure
MOST_BLOBS = 24


@dataclass(frozen=True, eq=False)
class Blob:
    """A patch that differs from the background. Lengths in pixels.

    Fields:
        rows, columns (`slice`): where it is.
        mask (`np.ndarray`): `(rows, columns)`, which pixels belong to it.
        centre (`tuple[float, float]`): x and y of the middle of its box.
        height (`float`): of its box, to fractions of a pixel.
        middle (`tuple[float, float]`): x and y of its centre of mass.
        area (`float`): partly covered pixels count in part.
    """

    rows: slice
    columns: slice
    mask: np.ndarray
    centre: tuple[float, float]
    height: float
    middle: tuple[float, float]
    area: float


@dataclass(frozen=True)
class Place:
    """Middle and height of a figure or of a plate, in pixels."""

    x: float
    y: float
    height: float


@dataclass(frozen=True)
class Window:
    """The part of an image about a blob."""

    rows: slice
    columns: slice

    @classmethod
    def about(cls, blob: Blob, side: int) -> "Window":
        """Two pixels more than the box of the blob on each side."""
        return cls(*(slice(max(0, part.start - 2), min(side, part.stop + 2)) for part in (blob.rows, blob.columns)))

    def within(self, blob: Blob) -> tuple[slice, slice]:
        """The box of the blob, counted from the corner of the window."""
        return tuple(
            slice(part.start - own.start, part.stop - own.start)
            for part, own in ((blob.rows, self.rows), (blob.columns, self.columns))
        )

    def place(self, picture: Image.Image, corner: tuple[int, int]) -> np.ndarray:
        """An image whose corner is there, put in a window that is black elsewhere, from 0 to 1."""
        size = (self.columns.stop - self.columns.start, self.rows.stop - self.rows.start)
        canvas = Image.new(picture.mode, size, 0)
        canvas.paste(picture, (corner[0] - self.columns.start, corner[1] - self.rows.start))
        return np.asarray(canvas, dtype=np.float32) / 255  # (h, w) or (h, w, 3)


def to_pixels(image: Image.Image) -> np.ndarray:
    """The image as numbers from 0 to 255, made square and at most 128 pixels wide."""
    side = min(max(image.size), WORK_PIXELS)
    image = to_rgb(image)
    if image.size != (side, side):
        image = image.resize(
            (side, side), Image.Resampling.BOX if min(image.size) >= side else Image.Resampling.BICUBIC
        )
    return np.asarray(image, dtype=np.float32)  # (H, W, 3)


def background_colour(pixels: np.ndarray) -> np.ndarray:
    """The usual colour along the edges, where no figure reaches."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])  # (2H + 2W, 3)
    return np.median(edge, axis=0)  # (3,)


def background_name(ground: np.ndarray) -> tuple[str | None, float]:
    """The background of that colour, `None` if it is like none, and a confidence from 0 to 1."""
    distances = sorted((float(np.linalg.norm(ground - colour)), name) for name, colour in BACKGROUNDS.items())
    (nearest, name), (next_nearest, _) = distances[:2]
    confidence = 1 - nearest / max(next_nearest, 1e-6)
    return (name if nearest < FAR else None), confidence


def find_blobs(pixels: np.ndarray, ground: np.ndarray) -> list[Blob]:
    """The patches that differ from the background, the largest first.

    Args:
        pixels (`np.ndarray`): `(H, W, 3)`, from 0 to 255.
        ground (`np.ndarray`): `(3,)`, the colour of the background.
    """
    distance = np.linalg.norm(pixels - ground, axis=2)  # (H, W)
    labels, _ = ndimage.label(distance > FAR)  # (H, W)
    labels = _joined(_split(labels))
    least = max(3.0, (LEAST_SIDE * len(pixels)) ** 2)
    counts = np.bincount(labels.ravel())[1:]  # (blobs,)
    boxes = ndimage.find_objects(labels)
    numbers = [number for number in np.argsort(-counts, kind="stable") if counts[number] >= least]
    return [_blob(distance, labels == number + 1, *boxes[number]) for number in numbers[:MOST_BLOBS]]


def _split(labels: np.ndarray) -> np.ndarray:
    """Cut patches that are too large for one figure along the borders of the cells; pieces that fill one are none."""
    side = len(labels)
    cells = (np.arange(side) + 0.5) * GRID // side  # (H,)
    cell = (cells[:, None] * GRID + cells[None, :]).astype(int)  # (H, W)
    count = labels.max()
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if max(part.stop - part.start for part in box) > MOST_SIDE * side:
            patch = labels[box] == number
            for piece in np.unique(cell[box][patch]):
                part = patch & (cell[box] == piece)
                count += 1
                labels[box][part] = count if part.sum() < MOST_AREA * (side / GRID) ** 2 else 0
    return labels


def _joined(labels: np.ndarray) -> np.ndarray:
    """Give patches that lie within the box of a larger one, such as letters, its number."""
    boxes = ndimage.find_objects(labels)
    for number, box in enumerate(boxes, start=1):
        if box is None:
            continue
        for other in np.unique(labels[box]):
            inner = boxes[other - 1] if other not in (0, number) else None
            if inner and all(a.start <= b.start and b.stop <= a.stop for a, b in zip(box, inner)):
                labels[labels == other] = number
                boxes[other - 1] = None
    return labels


def _blob(distance: np.ndarray, mask: np.ndarray, rows: slice, columns: slice) -> Blob:
    """Measure a patch to fractions of a pixel: a pixel half way to the background is covered by half."""
    inner = ndimage.binary_erosion(mask)
    full = max(FAR, float(np.percentile(distance[inner if inner.sum() >= 4 else mask], 20)))
    near = ndimage.binary_dilation(mask)
    coverage = np.pad(np.where(near, np.clip(distance / full, 0, 1), 0), 1)  # (H + 2, W + 2)
    top, bottom = _ends(coverage.max(axis=1))
    left, right = _ends(coverage.max(axis=0))
    coverage = coverage[1:-1, 1:-1]
    area = float(coverage.sum())
    ys, xs = (float((coverage.sum(axis=axis) * (np.arange(len(mask)) + 0.5)).sum()) / area for axis in (1, 0))
    centre = ((left + right) / 2 - 1, (top + bottom) / 2 - 1)
    return Blob(rows, columns, mask[rows, columns], centre, bottom - top, (xs, ys), area)


def _ends(profile: np.ndarray) -> tuple[float, float]:
    """Where a profile of coverage, zero at both ends, begins and ends."""
    full = np.flatnonzero(profile >= 0.5)
    first, last = (full[0], full[-1]) if len(full) else (int(profile.argmax()),) * 2
    return first + 1 - profile[first] - profile[first - 1], last + profile[last] + profile[last + 1]


def regular_places(blob: Blob, side: int) -> list[Place]:
    """The middle of its cell, in the sizes a figure may have, where that is near to what was measured."""
    x, y = ((math.floor(value / side * GRID) + 0.5) * side / GRID for value in blob.centre)
    slack = max(1.0, 0.02 * side)
    if abs(x - blob.centre[0]) > slack or abs(y - blob.centre[1]) > slack:
        return []
    return [Place(x, y, size * side) for size in SIZES.values() if abs(size * side - blob.height) < 1.5 + slack]
