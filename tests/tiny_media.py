"""Images and videos of a few kilobytes, made of seeded noise; a file of noise is like no other."""

import io

import av
import numpy as np
import PIL.Image


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> PIL.Image.Image:
    """Patches of random colours, which survive scaling and compression."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return PIL.Image.fromarray(patches).resize(size, PIL.Image.Resampling.BICUBIC)


def image(seed: int, size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """The file of [`noise`]."""
    buffer = io.BytesIO()
    noise(seed, size).save(buffer, kind)
    return buffer.getvalue()


def video(frames: list[PIL.Image.Image], fps: int = 4) -> bytes:
    """An MP4 file of frames of one size."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in [*map(av.VideoFrame.from_image, frames), None]:
            for packet in stream.encode(frame):
                container.mux(packet)
    return buffer.getvalue()


def moving(seed: int, count: int = 8) -> bytes:
    """An MP4 file of two seconds in which noise turns."""
    return video([noise(seed).rotate(5 * i) for i in range(count)])
