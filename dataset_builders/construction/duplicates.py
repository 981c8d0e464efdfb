"""What is almost the same: images and videos by perceptual hash and colours, captions by their runs of characters.

    look_alikes({"a": measures, "b": measures}, bits=4)            # [("b", "a", True)]
    near_duplicate_captions({"a": "A cat ...", "b": "A cat ..."}, 0.8)      # [("b", "a")]

Every item is compared with every other, by products of matrices: 10,000 take seconds, and time grows with the square.
Tests: tests/test_construction_curation.py.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH

from granted.dataset_builders.construction.media import Measures


BITS = 64  # of a perceptual hash
COLOURS = 8  # mean difference, of 255, between the colours of near-duplicates
BLOCK = 2048  # items compared at a time with all others
SHINGLE = 9  # characters of the runs by which captions are compared, in any language


def look_alikes(looks: Mapping[str, Measures], bits: int) -> Iterator[tuple[str, str, bool]]:
    """Pairs of items whose hashes agree: two images; two videos, frame by frame; an image and any frame of a video.

    Args:
        looks (`Mapping[str, Measures]`): by name.
        bits (`int`): of 64, the most by which hashes may differ, on average over frames.

    Yields:
        `tuple[str, str, bool]`: a name, an earlier one, and whether one can stand for the other: it is of the same
        medium and colours, too (a shirt in red and one in blue have the same hash).
    """
    names = list(looks)
    signs = [_as_signs(look.hashes) for look in looks.values()]
    kinds: dict[tuple[str, int], list[int]] = {}
    for i, look in enumerate(looks.values()):
        kinds.setdefault((look.media, len(look.hashes)), []).append(i)
    for members in kinds.values():
        vectors = np.stack([signs[i] for i in members])  # (items, frames * 64)
        for row, column in _near(vectors, vectors, bits):
            if column < row:
                one, other = names[members[row]], names[members[column]]
                yield one, other, _of_one_colour(looks[one], looks[other])
    images = kinds.get(("image", 1), [])
    frames = [
        (i, frame) for i, name in enumerate(names) if looks[name].media == "video" for frame in _frames(signs[i])
    ]
    if images and frames:
        shown = np.stack([frame for _, frame in frames])  # (frames, 64)
        for row, column in _near(np.stack([signs[i] for i in images]), shown, bits):
            one, other = sorted((images[row], frames[column][0]), reverse=True)
            yield names[one], names[other], False


def _as_signs(hashes: Sequence[str]) -> np.ndarray:
    """(frames * 64,) float32: the bits of hashes as -1 and 1, whose products count those that agree."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8))
    return bits.astype(np.float32) * 2 - 1


def _frames(signs: np.ndarray) -> np.ndarray:
    return signs.reshape(-1, BITS)


def _near(left: np.ndarray, right: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Rows of -1 and 1 that differ in at most `most` of 64 bits on average."""
    width = left.shape[1]
    least = width - 2 * most * (width // BITS)
    for start in range(0, len(left), BLOCK):
        found = np.argwhere(left[start : start + BLOCK] @ right.T >= least)
        yield from ((int(i) + start, int(j)) for i, j in found)


def _of_one_colour(one: Measures, other: Measures) -> bool:
    return bool(np.abs(np.subtract(one.colours, other.colours)).mean() <= COLOURS)


def near_duplicate_captions(captions: Mapping[Hashable, str], similarity: float) -> list[tuple[Hashable, Hashable]]:
    """Pairs of captions that are almost the same text.

    Texts are compared by the sets of their runs of nine characters, without regard to case and white space (Jaccard).
    MinHash finds candidates, which are then compared exactly.

    Args:
        captions (`Mapping[Hashable, str]`): by name.
        similarity (`float`): the least share of all runs that both have, 0 to 1; captions that have none in common are
            no pair.

    Returns:
        `list[tuple]`: a name and an earlier one.
    """
    index = MinHashLSH(threshold=max(0.0, similarity - 0.1), num_perm=128)
    order = {name: place for place, name in enumerate(captions)}
    shingles = {name: _shingles(text) for name, text in captions.items()}
    found = []
    for name, parts in shingles.items():
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([part.encode() for part in parts])
        for other in sorted(index.query(sketch), key=order.__getitem__):
            if len(parts & shingles[other]) >= similarity * len(parts | shingles[other]):
                found.append((name, other))
        index.insert(name, sketch)
    return found


def _shingles(text: str) -> set[str]:
    text = " ".join(text.casefold().split())
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
