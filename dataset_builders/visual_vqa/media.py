"""Images and videos of a row, opened completely; what cannot be opened is a `RowError` that says why.

image = open_image("cat.jpg")                      # RGB and upright; also a URL, bytes, a dict with bytes or path
video = open_video("cat.mp4", max_frames=32)        # video.frames (T, H, W, 3), video.fps
video = open_video([image, image], fps=2.0)         # a video given as frames

Every image and every video of a user is opened here, so that it is the same everywhere.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from textwrap import shorten
from typing import Any

import av
import fsspec
import numpy as np
import PIL.Image
import PIL.ImageOps

from granted.dataset_builders.visual_vqa.rows import RowError
from granted.utils.errors import InputError


WHITE = (255, 255, 255)  # lies under what is transparent
# Containers whose header says how long they are; of others the length is guessed from what is there.
TIMED = ("mov", "matroska", "avi", "flv", "asf")


@dataclass(frozen=True, eq=False)
class Video:
    """A video in memory.

    Fields:
        frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): at least one frame, RGB.
        fps (`float`, *optional*): frame `t` is shown `t / fps` seconds after the first. `None` if nothing says it.
    """

    frames: np.ndarray
    fps: float | None


def open_image(value: Any) -> PIL.Image.Image:
    """An image of a row, loaded completely, as [`to_rgb`] makes it; of an animation the first frame.

    Args:
        value: a PIL image, a path, a URL (`http`, `https`, `data`, or any that fsspec opens, such as `hf`), bytes, or
            a dict with `bytes` or `path`.

    Raises:
        RowError: of kind `image`; the message says whether it is missing or unreadable.
    """
    try:
        if isinstance(value, PIL.Image.Image):
            return to_rgb(value)
        source = _locate(value, "image")
        with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return to_rgb(image)
    except RowError:
        raise
    except Exception as error:  # broken files make Pillow's decoders raise errors of every kind
        raise _unreadable(error, value, "image") from error


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image as 8-bit RGB: upright as its EXIF orientation says, on white where it is transparent.

    Greys of 16 bits (0 to 65535) and floats (0 to 1) are scaled to 0 to 255 and rounded.

    Args:
        image (`PIL.Image.Image`): of any mode; not changed.

    Raises:
        ValueError: its numbers have no known range, or Pillow knows no way from its mode to RGB.
    """
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey = _eight_bits(image)  # (H, W)
        clear = image.info.get("transparency")
        if clear is not None:  # one grey of a PNG
            grey = np.where(np.asarray(image) == clear, 255, grey).astype(np.uint8)  # (H, W)
        return PIL.Image.fromarray(grey).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    ground = PIL.Image.new("RGBA", image.size, (*WHITE, 255))
    return PIL.Image.alpha_composite(ground, image).convert("RGB")


def _eight_bits(image: PIL.Image.Image) -> np.ndarray:
    """The greys (H, W) of an image whose mode is one of 16 or 32 bits, as uint8."""
    values = np.asarray(image).astype(np.float64)  # (H, W)
    # Pillow opens some files of 16 bits as whole numbers of 32.
    top = 1.0 if image.mode == "F" else 65535.0
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ValueError("its greys are whole numbers of 32 bits, of unknown range; save them with 8 or 16 bits")
    if not ((values >= 0) & (values <= top)).all():  # false for NaN, too
        raise ValueError(f"its greys go from {values.min():g} to {values.max():g}, not from 0 to {top:g}")
    return np.rint(values * (255 / top)).astype(np.uint8)


def open_video(value: Any, fps: float | None = None, max_frames: int | None = None) -> Video:
    """A video of a row, decoded, at a constant rate: frame `i` is what is seen `i / fps` seconds after the beginning.

    Of a video of n frames in d seconds k = n are taken, or `max_frames` if these are fewer: those seen at the times
    `i * d / k`. At a constant rate these are the frames `i * n // k`; frames that stand for different times may be
    taken twice, or not at all. Of a list of frames, frame `i * n // k` is kept, and the rate becomes `fps * k / n`.

    Args:
        value: a list of frames of one size, each as `open_image` takes it; or a video as a path, a URL, bytes, or a
            dict with `bytes` or `path`. A video from the web is fetched as a whole.
        fps (`float`, *optional*): frames per second of a list of frames. A video has its own time stamps.
        max_frames (`int`, *optional*): keep at most so many frames. All by default.

    Raises:
        InputError: `max_frames` is below 1.
        RowError: of kind `video`: missing, unreadable, cut off, without frames, or with frames of several sizes.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"got max_frames={max_frames}, expected at least 1: give the frames to keep")
    try:
        if isinstance(value, list | tuple):
            kept = _spread(len(value), max_frames)
            frames = [_frame(value, n) for n in kept]
            rate = None if fps is None else fps * len(kept) / max(len(value), 1)
        else:
            frames, rate = _decode(_locate(value, "video"), max_frames)
    except RowError:
        raise
    except Exception as error:  # PyAV's own errors, and those of its readers
        raise _unreadable(error, value, "video") from error
    if not frames:
        raise RowError(f"got no frame in {_name(value)}, expected at least one: replace or drop it", "video")
    sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in frames})
    if len(sizes) > 1:
        raise RowError(f"got frames of {', '.join(sizes)} pixels in a video, expected one size: resize them", "video")
    return Video(np.stack(frames), rate)  # (T, H, W, 3)


def _spread(count: int, most: int | None) -> list[int]:
    """At most `most` indices out of `count`, at equal distances from 0."""
    kept = count if most is None else min(count, most)
    return [i * count // kept for i in range(kept)]


def _frame(frames: list[Any], number: int) -> np.ndarray:
    try:
        return np.asarray(open_image(frames[number]))  # (H, W, 3)
    except RowError as error:
        raise RowError(f"frame {number} of the video: {error}", "video") from error


def _decode(source: str | bytes, max_frames: int | None) -> tuple[list[np.ndarray], float | None]:
    """The frames seen at equal distances in time, and their rate. All are decoded; only the chosen ones are held."""
    times, stamps, duration = _times(source)
    kept = len(times) if max_frames is None else min(len(times), max_frames)
    shown = [bisect_right(times, i * duration / kept) - 1 for i in range(kept)]  # the frame that is seen at each time
    frames: list[np.ndarray] = []
    number, before = -1, None
    with _opened(source) as container:
        for counted, frame in enumerate(container.decode(video=0)):
            if frame.is_corrupt:
                raise ValueError(f"frame {counted} is damaged")
            # By its time stamp where there are any: a decoder leaves out frames that are not meant to be seen.
            number = counted if frame.pts is None or not stamps else bisect_right(stamps, frame.pts) - 1
            while len(frames) < kept and shown[len(frames)] < number:
                frames.append(_upright(before or frame))
            before = frame
    if number + 2 < len(times):  # the last packet may have nothing to show
        raise ValueError(f"it breaks off after {number + 1} of {len(times)} frames")
    frames += [_upright(before) for _ in range(kept - len(frames))]
    return frames, float(kept / duration) if duration else None


def _times(source: str | bytes) -> tuple[list[Fraction], list[int], Fraction]:
    """When each frame of a video is shown, in seconds from the first; its time stamp, if all have one; when all end.

    Raises:
        ValueError: the file ends before the time that its header gives, or in the middle of a frame.
    """
    found: list[int | None] = []
    ends = [Fraction(0)]
    last = 0
    with _opened(source) as container:
        video = container.streams.video[0]
        tick, rate = video.time_base, video.average_rate
        for packet in container.demux():  # the header may not say how many there are, or be wrong
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                raise ValueError("it breaks off in the middle of a frame")
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                ends.append((stamp + (packet.duration or 0)) * packet.time_base)
            if packet.stream is video and not packet.is_discard:
                found.append(packet.pts)
                last = packet.duration or last
        headed = container.format.name.split(",")[0] in TIMED and container.duration
        length = Fraction(container.duration, av.time_base) if headed else Fraction(0)
        end = max(ends) - Fraction(container.start_time or 0, av.time_base)
    if not found:
        return [], [], Fraction(0)
    stamps = [] if None in found else sorted(found)
    times = [(stamp - stamps[0]) * tick for stamp in stamps]
    # Time stamps are rounded to ticks; where they say no more than the rate does, the rate is exact.
    if rate and all(abs(time - n / rate) <= tick for n, time in enumerate(times)):
        times, duration = [n / rate for n in range(len(found))], len(found) / rate
    elif times:
        duration = times[-1] + (last * tick or times[-1] / max(len(times) - 1, 1))
    else:
        raise ValueError("neither time stamps nor a rate say when its frames are shown")
    if length - end > max(duration / len(times) * 3 / 2, Fraction(1, 10)):
        raise ValueError(f"it breaks off after {float(end):.2f} of {float(length):.2f} seconds")
    return times, stamps, duration


def _opened(source: str | bytes) -> av.container.InputContainer:
    container = av.open(io.BytesIO(source) if isinstance(source, bytes) else source, metadata_errors="replace")
    if not container.streams.video:
        container.close()
        raise ValueError("it has no frames")
    return container


def _upright(frame: av.VideoFrame) -> np.ndarray:
    if any(component.is_alpha for component in frame.format.components) or frame.format.has_palette:
        pixels = np.asarray(to_rgb(PIL.Image.fromarray(frame.to_ndarray(format="rgba"))))  # (H, W, 3)
    else:
        pixels = frame.to_ndarray(format="rgb24")  # (H, W, 3)
    return np.rot90(pixels, frame.rotation // 90)  # (H, W, 3)


def _locate(value: Any, kind: str) -> str | bytes:
    """A medium's bytes, fetched if it is a URL, or the path of its file, which exists."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str | os.PathLike):
        given = type(value).__name__
        frames = ", or a list of frames" if kind == "video" else ""
        raise RowError(f"got a value of type {given}, expected the path, URL or bytes of a {kind}{frames}", kind)
    path = os.fspath(value)
    if "://" in path or path.startswith("data:"):
        with fsspec.open(path, "rb") as file:
            return file.read()
    if not os.path.isfile(path):
        raise RowError(f"got {_name(path)}, which is missing, expected a file: check the path", kind)
    return path


def _unreadable(error: Exception, value: Any, kind: str) -> RowError:
    reason = shorten(str(error), 200) or type(error).__name__
    return RowError(f"got {_name(value)}, which is unreadable ({reason}), expected {kind} data: replace it", kind)


def _name(value: Any) -> str:
    """What to call a medium in a message."""
    if isinstance(value, Mapping):
        value = value.get("path") or value.get("bytes")
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    return str(value)[:200] if isinstance(value, str | os.PathLike) else f"a {type(value).__name__}"
