"""Images and clips of a row, opened completely; what cannot be opened is a `RowError` that says why.

image = open_image("cat.jpg")                      # RGB and upright; also a URL, bytes, a dict with bytes or path
clip = open_clip("cat.mp4", max_frames=32)         # clip.frames (T, H, W, 3), clip.fps
clip = open_clip([image, image], fps=2.0)          # a clip given as frames
"""

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import av
import fsspec
import numpy as np
import PIL.Image
from transformers.image_utils import load_image
from transformers.video_utils import load_video

from granted.dataset_builders.visual_vqa.rows import RowError
from granted.errors import InputError


WEB = ("http://", "https://", "data:image/")  # what the loaders of transformers fetch or decode themselves
TIMEOUT = 60.0  # seconds to wait for an image from the web


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip in memory.

    Fields:
        frames (`np.ndarray` of shape `(T, H, W, 3)`, uint8): at least one frame, RGB.
        fps (`float`, *optional*): frame `t` is shown `t / fps` seconds after the first. `None` if nothing says it.
    """

    frames: np.ndarray
    fps: float | None


def open_image(value: Any) -> PIL.Image.Image:
    """An image of a row, loaded completely: RGB, turned upright as its EXIF orientation says.

    Args:
        value: a PIL image, a path, a URL (`http`, `https`, `data:image/`, or any that fsspec opens, such as `hf`),
            bytes, or a dict with `bytes` or `path`.

    Raises:
        RowError: of kind `image`; the message says whether it is missing or unreadable.
    """
    try:
        source = value if isinstance(value, PIL.Image.Image) else _locate(value, "image")
        return load_image(PIL.Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source, TIMEOUT)
    except RowError:
        raise
    except Exception as error:  # broken files make Pillow's decoders raise errors of every kind
        raise _unreadable(error, value, "image") from error


def open_clip(value: Any, fps: float | None = None, max_frames: int | None = None) -> Clip:
    """A clip of a row, decoded.

    Of a clip of n frames with more than `max_frames` = k, frame `i * n // k` is kept for each i below k, and the rate
    becomes `fps * k / n`: a kept frame's time `i / fps` is then its own time to within one frame of the clip.

    Args:
        value: a list of frames of one size, each as `open_image` takes it; or a video as a path, a URL, bytes, or a
            dict with `bytes` or `path`. A video from the web is decoded as a whole before frames are dropped.
        fps (`float`, *optional*): frames per second of a list of frames. A video has its own rate.
        max_frames (`int`, *optional*): keep at most so many frames. All by default.

    Raises:
        InputError: `max_frames` is below 1.
        RowError: of kind `video`: missing, unreadable, without frames, or with frames of several sizes.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"got max_frames={max_frames}, expected at least 1: give the frames to keep")
    try:
        if isinstance(value, list | tuple):
            kept = _spread(len(value), max_frames)
            frames, share = [_frame(value, n) for n in kept], len(kept) / max(len(value), 1)
        else:
            frames, share, fps = _decode(_locate(value, "video"), max_frames)
    except RowError:
        raise
    except Exception as error:  # PyAV's own errors, and those of its readers
        raise _unreadable(error, value, "video") from error
    if not frames:
        raise RowError(f"got no frame in {_name(value)}, expected at least one: replace or drop it", "video")
    sizes = sorted({f"{frame.shape[1]} x {frame.shape[0]}" for frame in frames})
    if len(sizes) > 1:
        raise RowError(f"got frames of {', '.join(sizes)} pixels in one clip, expected one size: resize them", "video")
    return Clip(np.stack(frames), None if fps is None else fps * share)  # (T, H, W, 3)


def _spread(count: int, most: int | None) -> list[int]:
    """At most `most` indices out of `count`, at equal distances from 0."""
    kept = count if most is None else min(count, most)
    return [i * count // kept for i in range(kept)]


def _frame(frames: list[Any], number: int) -> np.ndarray:
    try:
        return np.asarray(open_image(frames[number]))  # (H, W, 3)
    except RowError as error:
        raise RowError(f"frame {number} of the clip: {error}", "video") from error


def _decode(source: str | bytes, max_frames: int | None) -> tuple[list[np.ndarray], float, float | None]:
    """The kept frames of a video, which share of all it is, and the video's own rate."""
    if isinstance(source, str) and source.startswith(WEB):
        frames, metadata = load_video(source, sample_indices_fn=lambda **_: range(sys.maxsize))  # (T, H, W, 3)
        kept = _spread(len(frames), max_frames)
        return [frames[n] for n in kept], len(kept) / len(frames), metadata.fps
    wanted, share = range(sys.maxsize), 1.0
    if max_frames is not None:
        with _opened(source) as container:  # counted, since the header may not say it or be wrong
            count = sum(packet.size > 0 for packet in container.demux(video=0))
        wanted = set(_spread(count, max_frames))
        share = len(wanted) / max(count, 1)
    with _opened(source) as container:
        rate = container.streams.video[0].average_rate
        frames = [_upright(frame) for n, frame in enumerate(container.decode(video=0)) if n in wanted]
    return frames, share, float(rate) if rate else None


def _opened(source: str | bytes) -> av.container.InputContainer:
    container = av.open(io.BytesIO(source) if isinstance(source, bytes) else source, metadata_errors="replace")
    if not container.streams.video:
        raise ValueError("it has no pictures")
    return container


def _upright(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # (H, W, 3)


def _locate(value: Any, kind: str) -> str | bytes:
    """A medium's bytes, the path of its file, which exists, or its URL."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str | os.PathLike):
        given = type(value).__name__
        frames = ", or a list of frames" if kind == "video" else ""
        raise RowError(f"got a value of type {given}, expected the path, URL or bytes of a {kind}{frames}", kind)
    path = os.fspath(value)
    if path.startswith(WEB):
        return path
    if "://" in path:
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
