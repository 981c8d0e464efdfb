"""Images and videos as a chat model takes them, and what curation needs to know of them.

    image_data_url("cat.jpg")            # "data:image/jpeg;base64,..."
    frame_data_urls("cat.mp4", 8)        # eight of them, at equal distances in time
    measure(Path("cat.mp4").read_bytes(), "video")

Tests: tests/test_construction_media.py.
"""

import base64
import io
import os
from dataclasses import dataclass

import av
import imagehash
import numpy as np
import PIL.Image

from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import RowError


LONGEST_SIDE = 1536  # in pixels, of what is sent: vision-language models scale larger images down themselves
SENT_AS_THEY_ARE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
IMAGE_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}
IMAGE_SUFFIXES |= {"TIFF": ".tiff", "PPM": ".ppm", "AVIF": ".avif", "JPEG2000": ".jp2"}
VIDEO_SUFFIXES = {"mov": ".mp4", "matroska": ".mkv", "avi": ".avi", "gif": ".gif", "mpegts": ".ts", "flv": ".flv"}
VIDEO_SUFFIXES |= {"mpeg": ".mpg", "asf": ".wmv", "ogg": ".ogv"}
KNOWN = {"format_whitelist": ",".join(VIDEO_SUFFIXES)}  # others, such as a playlist, would open what they name
LARGEST_FRAME = 8192 * 4608  # pixels of a video, several of whose frames are held at a time
EXIF_ORIENTATION = 0x0112
HASHED_FRAMES = 8  # of a video: these are hashed and compared with one another
PARTS = 4  # of a side, whose colours are compared
SMALL = 32  # side in pixels of the frames in which motion is looked for


@dataclass(frozen=True)
class Measures:
    """What is known of one image or video.

    Attributes:
        media (`str`): `"image"` or `"video"`.
        width, height (`int`): in pixels, as it is shown.
        seconds (`float`, *optional*): of a video.
        hashes (`list[str]`): the perceptual hash of 64 bits of the image, or of frames of the video, in hexadecimal.
        colours (`list[int]`): red, green and blue (0 to 255) of the 4 x 4 parts of the image, or of the first frame,
            which a perceptual hash does not see.
        motion (`float`, *optional*): of a video, the mean absolute difference between one of these frames and the
            next, from 0 (still) to 1.
    """

    media: str
    width: int
    height: int
    seconds: float | None
    hashes: list[str]
    colours: list[int]
    motion: float | None


def image_data_url(path: str | os.PathLike) -> str:
    """An image as a data URL, upright and in RGB.

    A JPEG, PNG or WebP file of at most `LONGEST_SIDE` is sent as it is; others become JPEG of quality 95, scaled down
    to it if they are larger.

    Args:
        path (`str` or `os.PathLike`): the file.

    Raises:
        RowError: it cannot be read.
    """
    image = open_image(path)
    with PIL.Image.open(path) as file:
        kind = SENT_AS_THEY_ARE.get(file.format)
        plain = file.mode in ("RGB", "L") and file.getexif().get(EXIF_ORIENTATION, 1) == 1
    if kind and plain and max(image.size) <= LONGEST_SIDE:
        with open(path, "rb") as file:
            return _data_url(kind, file.read())
    return _jpeg_url(image)


def frame_data_urls(path: str | os.PathLike, count: int) -> list[str]:
    """Frames of a video as data URLs of JPEG: those seen at the times `i * seconds / count`.

    Args:
        path (`str` or `os.PathLike`): the file.
        count (`int`): how many; a video of fewer frames gives all of them.

    Raises:
        RowError: it cannot be read.
    """
    frames = open_video(path, max_frames=count).frames  # (T, H, W, 3)
    return [_jpeg_url(PIL.Image.fromarray(frame)) for frame in frames]


def _jpeg_url(image: PIL.Image.Image) -> str:
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))  # only ever smaller; the aspect ratio stays
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return _data_url("image/jpeg", buffer.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def kind_of(content: bytes) -> tuple[str, str] | None:
    """Whether bytes are an image or a video, by what they hold and not by their name, and the suffix of such a file.

    Returns:
        `tuple[str, str]`: such as `("image", ".jpg")`; `None` where they are neither. An animated GIF is a video.

    Raises:
        RowError: it has so many pixels that decoding it could take all memory.
    """
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            if not (image.format == "GIF" and image.is_animated):
                return ("image", IMAGE_SUFFIXES[image.format]) if image.format in IMAGE_SUFFIXES else None
    except PIL.Image.DecompressionBombError as error:
        raise RowError(
            f"got an image that is too large ({error}), expected a smaller one: scale it", "image"
        ) from error
    except Exception:  # broken files make Pillow raise errors of every kind; PyAV says whether it is a video
        pass
    try:
        with av.open(io.BytesIO(content), metadata_errors="replace", options=KNOWN) as container:
            suffix = VIDEO_SUFFIXES[container.format.name.split(",")[0]]
            video = next(iter(container.streams.video), None)
            pixels = video.width * video.height if video else 0
    except (av.FFmpegError, ValueError):
        return None
    if pixels > LARGEST_FRAME:
        raise RowError(f"got a video of {pixels:,} pixels, expected at most {LARGEST_FRAME:,}: scale it", "video")
    return ("video", suffix) if video else None


def measure(content: bytes, media: str) -> Measures:
    """Decode an image or video completely and measure it.

    Args:
        content (`bytes`): of the file.
        media (`str`): `"image"` or `"video"`.

    Raises:
        RowError: it cannot be decoded.
    """
    if media == "image":
        image = open_image(content)
        return Measures("image", *image.size, None, [_hash(image)], _colours(image), None)
    video = open_video(content, max_frames=HASHED_FRAMES)
    frames = [PIL.Image.fromarray(frame) for frame in video.frames]
    if not video.fps:
        raise RowError(
            "got a video without a duration, expected one that says how long it is: write it again", "video"
        )
    small = np.stack([np.asarray(frame.convert("L").resize((SMALL, SMALL))) for frame in frames]) / 255  # (T, 32, 32)
    motion = float(np.abs(np.diff(small, axis=0)).mean()) if len(small) > 1 else 0.0
    seconds, hashes = len(frames) / video.fps, [_hash(frame) for frame in frames]
    return Measures("video", *frames[0].size, seconds, hashes, _colours(frames[0]), motion)


def _hash(image: PIL.Image.Image) -> str:
    return str(imagehash.phash(image))


def _colours(image: PIL.Image.Image) -> list[int]:
    return np.asarray(image.resize((PARTS, PARTS), PIL.Image.Resampling.BOX)).ravel().tolist()
