"""How the reader sees one figure: its shape, size, colour, texture and letters, each with a confidence.

    look = read_look(pixels, ground, blob)         # a blob of `find_blobs`

Everything is read by drawing each candidate as `figure_tiles.py` does, at the place and height that were measured, and
keeping the one that differs least from the pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from granted.dataset_builders.scenes.shapes.drawing import COLOURS, SIZES
from granted.dataset_builders.scenes.shapes.figure_tiles import (
    SHAPES,
    TEXTURES,
    figure_tile,
    outline_tile,
    plate_aspect,
)
from granted.dataset_builders.scenes.shapes.reader_blobs import FAR, Blob, Place, Window, regular_places
from granted.dataset_builders.scenes.shapes.reader_letters import find_plate, outer, read_plate


CANDIDATES = 3  # shapes of which other places are tried
UNLIKE = 80.0  # from the tones of every colour, in RGB: a figure this far off has no colour
LEAST_FIT = 0.4  # share of the outline explained; below it the shape is not known
LEAST_SEEN = 4  # pixels of a figure beside its plate; with fewer neither shape nor colour are known
SURE_FIT = 0.95  # share of the outline explained above which no other places are tried
TONES = {name: np.array(tones, dtype=np.float32) for name, tones in COLOURS.items()}


@dataclass(frozen=True)
class Look:
    """What a blob looks like; `None` for what cannot be read.

    Fields:
        shape, colour, size, texture (`str`, *optional*): as in `Figure`.
        letters (`str`, *optional*): `""` where there are none, `None` where there are some that cannot be read.
        centre (`tuple[float, float]`): x and y of its middle, in canvas widths.
        height (`float`): in canvas heights.
        confidence (`dict[str, float]`): of shape, colour, size, texture and letters, from 0 to 1.
    """

    shape: str | None
    colour: str | None
    size: str | None
    texture: str | None
    letters: str | None
    centre: tuple[float, float]
    height: float
    confidence: dict[str, float]


def read_look(pixels: np.ndarray, ground: np.ndarray, blob: Blob) -> Look:
    """What a blob looks like.

    Args:
        pixels (`np.ndarray`): `(H, W, 3)`, from 0 to 255.
        ground (`np.ndarray`): `(3,)`, the colour of the background.
        blob (`Blob`): one that `find_blobs` found.
    """
    side = len(pixels)
    window = Window.about(blob, side)
    crop = pixels[window.rows, window.columns]  # (h, w, 3)
    mask = np.zeros(crop.shape[:2], dtype=bool)  # (h, w)
    mask[window.within(blob)] = blob.mask
    others = (np.linalg.norm(crop - ground, axis=2) > FAR) & ~ndimage.binary_fill_holes(mask)  # (h, w)
    seen = ~ndimage.binary_dilation(others)  # (h, w): neither another figure nor, soon, the plate
    letters, letters_confidence = "", 1.0
    box = find_plate(crop, ground, mask)
    if box:
        letters, plate, letters_confidence = read_plate(crop, ground, window, box, blob, side)
        if letters:
            box = (
                outer(plate.y - window.rows.start, plate.height),
                outer(plate.x - window.columns.start, plate.height * plate_aspect(len(letters))),
            )
        seen[box] = False
    tones = _likely_tones(crop, mask, seen)
    shape, place, shape_confidence = _shape(_coverage(crop, ground, tones), seen, window, blob, side)
    colour, texture, colour_confidence, texture_confidence = _surface(crop, ground, seen, window, shape, place)
    if (mask & seen).sum() < LEAST_SEEN:
        shape_confidence, colour, colour_confidence = 0.0, None, 0.0
    size, size_confidence = size_name(place.height / side)
    if shape_confidence == 0:  # then there is no telling what its height and its pattern mean
        shape = size = texture = None
        size_confidence = texture_confidence = 0.0
    confidence = {
        "shape": shape_confidence,
        "colour": colour_confidence,
        "size": size_confidence,
        "texture": texture_confidence,
        "letters": letters_confidence,
    }
    centre = (place.x / side, place.y / side)
    return Look(shape, colour, size, texture, letters, centre, place.height / side, confidence)


def _likely_tones(crop: np.ndarray, mask: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The tones that, or mixtures of which, are nearest to the pixels within a blob."""
    inner = next((part for part in (ndimage.binary_erosion(mask) & seen, mask & seen) if part.sum() >= 4), mask)
    values = crop[inner]  # (pixels, 3)
    scores = []
    for name, (main, second) in TONES.items():
        share = np.clip((values - main) @ (second - main) / np.sum((second - main) ** 2), 0, 1)  # (pixels,)
        misses = np.linalg.norm(values - main - share[:, None] * (second - main), axis=1)  # (pixels,)
        scores.append((float(misses.mean()) + UNLIKE * max(0.0, 0.35 - float((share < 0.5).mean())), name))
    return TONES[min(scores)[1]]  # (2, 3)


def _coverage(crop: np.ndarray, ground: np.ndarray, tones: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background towards the nearer of the two tones, from 0 to 1."""
    shares, misses = [], []
    for tone in tones:
        way = tone - ground
        share = np.clip((crop - ground) @ way / np.sum(way**2), 0, 1)  # (h, w)
        shares.append(share)
        misses.append(np.linalg.norm(crop - ground - share[..., None] * way, axis=2))
    return np.where(misses[0] <= misses[1], *shares)  # (h, w)


def _shape(coverage: np.ndarray, seen: np.ndarray, window: Window, blob: Blob, side: int) -> tuple[str, Place, float]:
    """The shape and place whose outline is nearest to the coverage, and a confidence; 0 if none is near."""
    total = max(float((coverage[seen] ** 2).sum()), 1e-6)

    def fit(shape: str, place: Place) -> float:
        drawn = window.place(*outline_tile(shape, (place.x, place.y), place.height))  # (h, w)
        return 1 - float(((drawn - coverage)[seen] ** 2).sum()) / total

    found = {(shape, place): fit(shape, place) for shape in SHAPES for place in regular_places(blob, side)}
    if not found or max(found.values()) < SURE_FIT:
        likely = Place(*blob.centre, max(2.0, blob.height + 0.5))
        found |= {(shape, likely): fit(shape, likely) for shape in SHAPES}
        candidates = list(dict.fromkeys(shape for shape, _ in sorted(found, key=lambda key: -found[key])))
        places = _measured_places(blob)
        found |= {(shape, place): fit(shape, place) for shape in candidates[:CANDIDATES] for place in places}
    shape, place = max(found, key=found.__getitem__)
    best = found[shape, place]
    runner_up = max(value for key, value in found.items() if key[0] != shape)
    lead = 1 - (1 - best) / max(1 - runner_up, 1e-6)
    sure = max(0.01, lead * min(1.0, (best - LEAST_FIT) / (SURE_FIT - LEAST_FIT)))
    return shape, place, sure if best >= LEAST_FIT else 0.0


def _measured_places(blob: Blob) -> list[Place]:
    """The measured place and its surroundings: a pointed end is seen a little later than it begins."""
    x, y = blob.centre
    heights = [max(2.0, blob.height + more) for more in (-0.4, 0.2, 0.8, 1.4)]
    return [Place(x, y + shift, height) for height in heights for shift in (-0.4, 0.0, 0.4)]


def _surface(
    crop: np.ndarray, ground: np.ndarray, seen: np.ndarray, window: Window, shape: str, place: Place
) -> tuple[str | None, str, float, float]:
    """The colour and texture that, drawn in that shape and place, are nearest to the pixels; their confidences."""
    errors = np.empty((len(TONES), len(TEXTURES)))
    for column, texture in enumerate(TEXTURES):
        tile = figure_tile(shape, ((0, 0, 0), (255, 255, 255)), texture, (place.x, place.y), place.height)
        covered = window.place(tile.coverage, tile.corner)[seen][:, None]  # (pixels, 1)
        second = window.place(tile.colours, tile.corner)[..., 0][seen][
            :, None
        ]  # (pixels, 1): what has the second tone
        weight = max(float(covered.sum()), 1e-6)
        below = crop[seen] - (1 - covered) * ground  # (pixels, 3)
        for row, tones in enumerate(TONES.values()):
            misses = below - (covered - second) * tones[0] - second * tones[1]  # (pixels, 3)
            errors[row, column] = float((covered * misses**2).sum()) / weight
    row, column = np.unravel_index(errors.argmin(), errors.shape)
    best = float(errors[row, column])
    other_colours = max(float(np.delete(errors, row, axis=0).min()), 1e-6)
    other_textures = max(float(np.delete(errors[row], column).min()), 1e-6)
    known = best < UNLIKE**2
    return (
        tuple(TONES)[row] if known else None,
        TEXTURES[column],
        1 - best / other_colours if known else 0.0,
        1 - best / other_textures,
    )


def size_name(height: float) -> tuple[str | None, float]:
    """The size nearest to a height in canvas heights, `None` if none is near, and a confidence."""
    misses = sorted((abs(math.log(max(height, 1e-6) / size)), name) for name, size in SIZES.items())
    (nearest, name), (next_nearest, _) = misses[:2]
    return (name if nearest < math.log(1.4) else None), 1 - nearest / next_nearest
