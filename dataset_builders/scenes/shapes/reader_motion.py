"""How the reader sees a video: blobs followed from frame to frame, and what happens to each of them.

    seen = [find_blobs(pixels, background_colour(pixels)) for pixels in frames]
    for track in follow(seen, side=128):
        motion, confidence = read_motion(track, len(seen), side=128)    # `None` for a figure that only stands there

Times are fractions of the video: the first frame is at 0 and the last one at 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from granted.dataset_builders.scenes.shapes.drawing import DIRECTIONS, GROWTHS, SPEEDS
from granted.dataset_builders.scenes.shapes.reader_blobs import Blob


REACH = (0.05, 1.2)  # canvas widths a blob may be off between frames: at least, and per video
LEAST_SEEN = 0.15  # of the frames: a track that is seen less often is a flicker
LEAST_GAP = 0.15  # of the video without a figure that was there before: shorter ones are the reader's own
LEAST_WAY = 0.03  # canvas widths: a figure that goes less far stands still
LEAST_CHANGE = 0.045  # share of its height: a figure that changes less keeps its size
LEAST_LAPSE = 0.25  # of the video, from the start to the end of a movement
UNLIKE_SPEED = 1.9  # times as fast, or as slow: the speed is not known
STEPS = 100  # moments at which a movement may start and end


@dataclass(frozen=True)
class ReadMotion:
    """What happens to a figure, as in `Motion`; `None` for what cannot be read.

    Fields:
        kind (`str`): what happens.
        direction (`str`, *optional*): of a figure that moves.
        speed (`str`, *optional*): of one that moves, grows or shrinks.
        start, end (`float`): fractions of the video; the same for a figure that appears or disappears.
    """

    kind: str
    direction: str | None
    speed: str | None
    start: float
    end: float


class Ramp(NamedTuple):
    """A change: its start and end, its rate, the speed that is if any, and the share of the variance explained."""

    start: float
    end: float
    rate: float
    speed: str | None
    fit: float


@dataclass
class Track:
    """One figure through a video: the numbers of the frames in which it is seen, and its blob in each of them."""

    frames: list[int] = field(default_factory=list)
    blobs: list[Blob] = field(default_factory=list)


def follow(seen: Sequence[Sequence[Blob]], side: int) -> list[Track]:
    """Join the blobs of successive frames so that the ways between them are as short as possible.

    A blob that is gone for some frames goes on where it was last.

    Args:
        seen (`Sequence[Sequence[Blob]]`): the blobs of each frame.
        side (`int`): width of a frame in pixels.
    """
    reach = (REACH[0] + REACH[1] / max(1, len(seen) - 1)) * side
    tracks: list[Track] = []
    for number, blobs in enumerate(seen):
        ways = np.array(
            [[math.dist(track.blobs[-1].centre, blob.centre) for blob in blobs] for track in tracks]
        ).reshape(len(tracks), len(blobs))  # (tracks, blobs)
        free = set(range(len(blobs)))
        for index, chosen in zip(*linear_sum_assignment(np.minimum(ways, 10 * reach))):
            if ways[index, chosen] <= reach:
                tracks[index].frames.append(number)
                tracks[index].blobs.append(blobs[chosen])
                free.discard(int(chosen))
        tracks += [Track([number], [blobs[index]]) for index in sorted(free)]
    return [track for track in tracks if len(track.frames) >= max(2, LEAST_SEEN * len(seen))]


def read_motion(track: Track, count: int, side: int) -> tuple[ReadMotion | None, float]:
    """What happens to a figure, `None` if nothing does, and a confidence from 0 to 1.

    Args:
        track (`Track`): the figure.
        count (`int`): frames of the video.
        side (`int`): width of a frame in pixels.
    """
    times = np.array(track.frames) / (count - 1)  # (seen,)
    sight = _coming_and_going(times, 1 / (count - 1))
    if sight:
        return sight, 1.0
    places = np.array([blob.centre for blob in track.blobs]) / side  # (seen, 2)
    # The box of a thin figure is seen too small, its area too large: their mean is nearly right.
    boxes, sides = np.array([(blob.height, math.sqrt(blob.area)) for blob in track.blobs]).T  # (seen,) each
    heights = (boxes / boxes.max() + sides / sides.max()) / 2
    heights = heights / heights.max()
    way, change = np.ptp(places, axis=0).max() / LEAST_WAY, np.ptp(heights) / LEAST_CHANGE
    if max(way, change) < 1:
        return None, 1 - float(max(way, change))
    if way >= 1:
        middles = np.array([blob.middle for blob in track.blobs]) / side  # (seen, 2)
        return _movement(times, middles)
    ramp = fit_ramp(times, heights, GROWTHS)
    return ReadMotion("grows" if ramp.rate > 0 else "shrinks", None, ramp.speed, ramp.start, ramp.end), ramp.fit


def _coming_and_going(times: np.ndarray, step: float) -> ReadMotion | None:
    """Whether a figure seen at these times appears, disappears or blinks: half way between the frames that differ."""
    gaps = np.diff(times)  # (seen - 1,)
    longest = int(gaps.argmax())
    if gaps[longest] - step >= LEAST_GAP:
        return ReadMotion("blinks", None, None, float(times[longest] + step / 2), float(times[longest + 1] - step / 2))
    if times[0] > 0:
        return ReadMotion("appears", None, None, *[float(times[0] - step / 2)] * 2)
    if times[-1] < 1 - 1e-9:
        return ReadMotion("disappears", None, None, *[float(times[-1] + step / 2)] * 2)
    return None


def _movement(times: np.ndarray, middles: np.ndarray) -> tuple[ReadMotion, float]:
    """The movement of a figure whose centre of mass is at `middles`, `(seen, 2)`, at these times."""
    axis = int(np.ptp(middles, axis=0).argmax())
    ramp = fit_ramp(times, middles[:, axis], SPEEDS)
    way = (int(np.sign(ramp.rate)), 0) if axis == 0 else (0, int(np.sign(ramp.rate)))
    direction = next((name for name, known in DIRECTIONS.items() if known == way), None)
    return ReadMotion("moves", direction, ramp.speed, ramp.start, ramp.end), ramp.fit


def fit_ramp(times: np.ndarray, values: np.ndarray, rates: dict[str, float]) -> Ramp:
    """Fit values that are constant, then change at a constant rate, then are constant again, by least squares.

    The rate is free at first. The speed is the known rate that fits best, and if that is near to the free one, the
    start and the end are those that go with it.

    Args:
        times (`np.ndarray`): `(n,)`, from 0 to 1.
        values (`np.ndarray`): `(n,)`.
        rates (`dict[str, float]`): the rate of change of each speed.
    """
    grid = np.linspace(0, 1, STEPS + 1)
    starts, ends = (moments.ravel() for moments in np.meshgrid(grid, grid, indexing="ij"))  # (pairs,)
    kept = ends - starts >= LEAST_LAPSE - 1e-9
    starts, ends = starts[kept], ends[kept]
    ramps = np.clip(times[None, :] - starts[:, None], 0, (ends - starts)[:, None])  # (pairs, n)
    ramps = ramps - ramps.mean(axis=1, keepdims=True)
    centred = values - values.mean()  # (n,)
    along, power = ramps @ centred, np.maximum((ramps**2).sum(axis=1), 1e-12)  # (pairs,)
    best = int((along**2 / power).argmax())
    rate = float(along[best] / power[best])
    fit = float(along[best] ** 2 / power[best]) / max(float((centred**2).sum()), 1e-12)
    known = {name: math.copysign(value, rate) for name, value in rates.items()}
    gains = {name: 2 * value * along - value**2 * power for name, value in known.items()}  # (pairs,) each
    speed = max(gains, key=lambda name: gains[name].max())
    if abs(math.log(max(abs(rate), 1e-6) / rates[speed])) > math.log(UNLIKE_SPEED):
        return Ramp(float(starts[best]), float(ends[best]), rate, None, fit)
    best = int(gains[speed].argmax())
    return Ramp(float(starts[best]), float(ends[best]), rate, speed, fit)
