"""How the reader sees letters: the plate across a figure, and the capitals on it.

    box = find_plate(crop, ground, mask)           # `None` where there is no plate
    letters, place, confidence = read_plate(crop, ground, window, box, blob, side=128)

Letters are read by drawing each of the alphabet in each place on the plate and keeping the one that is most like the
pixels.
"""

import math

import numpy as np
from scipy import ndimage

from granted.dataset_builders.scenes.shapes.drawing import MAX_LETTERS, SIZES, plate_height
from granted.dataset_builders.scenes.shapes.figure_tiles import LETTERS, PLATE_SLOT, plate_aspect, plate_tile
from granted.dataset_builders.scenes.shapes.reader_blobs import FAR, Blob, Place, Window, regular_places


DARK = 100  # brightness of a background below which plates are white
GREY = 55  # difference between the channels below which a pixel may belong to a plate
SURE_LETTER = 0.95  # correlation above which no other letters are tried
LEAST_PLATE = 4  # pixels; letters on a lower plate cannot be read
LEAST_LETTER = 0.5  # correlation with the best letters; below it they cannot be read


def find_plate(crop: np.ndarray, ground: np.ndarray, mask: np.ndarray) -> tuple[slice, slice] | None:
    """The box of the plate under the letters, if there is one.

    Args:
        crop (`np.ndarray`): `(h, w, 3)`, a blob and a little more.
        ground (`np.ndarray`): `(3,)`, the colour of the background.
        mask (`np.ndarray`): `(h, w)`, which pixels belong to the blob.
    """
    grey = (np.ptp(crop, axis=2) < GREY) & (np.linalg.norm(crop - ground, axis=2) > FAR)  # (h, w)
    brightness = crop.mean(axis=2)  # (h, w)
    grey &= brightness > 100 if ground.mean() < DARK else brightness < 150
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    far = abs(np.arange(len(mask)) + 0.5 - (rows.start + rows.stop) / 2) > 0.3 * tall + 1  # (h,)
    rest = grey[mask & far[:, None]]  # (pixels,)
    if rest.sum() > 0.8 * len(rest):  # the whole figure is grey
        return None
    grey &= ndimage.binary_fill_holes(mask) & ~far[:, None]
    # Strokes as bright as the background are closed; outlines, whose mixed pixels may be grey, are opened away.
    closed = ndimage.binary_closing(np.pad(grey, 2), np.ones((3, 3)))[2:-2, 2:-2]
    labels, count = ndimage.label(ndimage.binary_fill_holes(ndimage.binary_opening(closed, np.ones((1, 3)))))
    if not count:
        return None
    patch = labels == int(np.bincount(labels.ravel())[1:].argmax()) + 1  # (h, w)
    rows_in, columns_in = (_usual(patch.sum(axis=axis)) for axis in (1, 0))
    height, width = rows_in.stop - rows_in.start, columns_in.stop - columns_in.start
    off_y = abs(rows_in.start + rows_in.stop - rows.start - rows.stop) / 2 / tall
    off_x = abs(columns_in.start + columns_in.stop - columns.start - columns.stop) / 2 / wide
    filled = float(patch[rows_in, columns_in].mean())
    fits = height > 0.15 * tall and width > 0.7 * height and max(off_x, off_y) < 0.2 and filled > 0.5
    return (rows_in, columns_in) if fits else None


def _usual(profile: np.ndarray) -> slice:
    """From the first to the last entry that is at least half as long as the longest few."""
    kept = np.flatnonzero(profile >= np.percentile(profile[profile > 0], 75) / 2)
    return slice(int(kept[0]), int(kept[-1]) + 1)


def read_plate(
    crop: np.ndarray, ground: np.ndarray, window: Window, box: tuple[slice, slice], blob: Blob, side: int
) -> tuple[str | None, Place, float]:
    """Read the letters on a plate.

    Args:
        crop (`np.ndarray`): `(h, w, 3)`, a blob and a little more.
        ground (`np.ndarray`): `(3,)`, the colour of the background.
        window (`Window`): where the crop is.
        box (`tuple[slice, slice]`): where the plate is in the crop, as `find_plate` says.
        blob (`Blob`): the figure.
        side (`int`): width of the image in pixels.

    Returns:
        `tuple[str | None, Place, float]`: the letters, `None` if they cannot be read; the place of the plate, of
        which the height is 0 then; and a confidence from 0 to 1.
    """
    dark = bool(ground.mean() < DARK)
    brightness = crop.mean(axis=2)  # (h, w)
    height, width = (part.stop - part.start for part in box)
    best, correlation, letters, place = 0.0, 0.0, "", Place(*blob.centre, 0.0)
    for guesses in _guesses(window, box, blob, side):
        for count, plate in guesses:
            wide = plate.height * plate_aspect(count)
            if plate.height < LEAST_PLATE or abs(wide - width) > plate.height / 3 + 1:
                continue
            likeness, guess = _best_letters(brightness, window, count, plate, dark)
            shared = min(plate.height, height) * min(wide, width)
            overlap = shared / (plate.height * wide + height * width - shared)  # of the guessed and the seen plate
            if max(likeness, 0.0) ** 2 * overlap > best:
                best, correlation, letters, place = max(likeness, 0.0) ** 2 * overlap, likeness, guess, plate
        if correlation > SURE_LETTER:
            break
    return (letters, place, correlation) if correlation >= LEAST_LETTER else (None, Place(*blob.centre, 0.0), 0.0)


def _guesses(
    window: Window, box: tuple[slice, slice], blob: Blob, side: int
) -> tuple[list[tuple[int, Place]], list[tuple[int, Place]]]:
    """Numbers of letters and places of their plate: as in a drawing; as measured, on the figure and on its plate."""
    regular, measured = [], []
    y, x = ((part.start + part.stop) / 2 + whole.start for part, whole in zip(box, (window.rows, window.columns)))
    size = min(SIZES.values(), key=lambda known: abs(known * side - blob.height))
    for count in range(1, MAX_LETTERS + 1):
        for place in regular_places(blob, side):
            regular.append((count, Place(place.x, place.y, plate_height(place.height / side, count) * side)))
        for more in (0.0, 0.8):
            height = plate_height(size, count) * (blob.height + more) / size
            measured.append((count, Place(*blob.centre, height)))
        for more in (-0.5, 0.5):
            measured.append((count, Place(x, y, box[0].stop - box[0].start + more)))
    return regular, measured


def _best_letters(brightness: np.ndarray, window: Window, count: int, plate: Place, dark: bool) -> tuple[float, str]:
    """The best letter of each slot of a plate, and the correlation of a plate with all of them with the pixels."""
    rows = _inner(plate.y - window.rows.start, plate.height)
    slots = []
    for number in range(count):
        middle = plate.x + (number - (count - 1) / 2) * PLATE_SLOT * plate.height
        slots.append(_inner(middle - window.columns.start, PLATE_SLOT * plate.height))
    scores = np.empty((len(LETTERS), count))  # (letters, slots)
    for index, letter in enumerate(LETTERS):
        drawn = _drawn_plate(letter * count, window, plate, dark)  # (h, w)
        scores[index] = [_correlation(drawn[rows, slot], brightness[rows, slot]) for slot in slots]
    letters = "".join(LETTERS[index] for index in scores.argmax(axis=0))
    whole = rows, slice(slots[0].start, slots[-1].stop)
    return _correlation(_drawn_plate(letters, window, plate, dark)[whole], brightness[whole]), letters


def _inner(middle: float, length: float) -> slice:
    """The pixels at least half of which lie within `length` about the middle; at least one."""
    first = max(0, round(middle - length / 2))
    return slice(first, max(first + 1, round(middle + length / 2)))


def outer(middle: float, length: float) -> slice:
    """The pixels that `length` about the middle touches."""
    return slice(max(0, math.floor(middle - length / 2 - 0.1)), math.ceil(middle + length / 2 + 0.1))


def _drawn_plate(letters: str, window: Window, plate: Place, dark: bool) -> np.ndarray:
    """The brightness of a plate with these letters, drawn where it is thought to be."""
    return window.place(*plate_tile(letters, (plate.x, plate.y), plate.height, dark))  # (h, w)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float((one**2).sum() * (other**2).sum())) if one.size else 0.0
    return float((one * other).sum()) / scale if scale > 1e-6 else 0.0
