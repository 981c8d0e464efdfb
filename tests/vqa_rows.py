"""Rows of visual question answering, their images and videos, and what refuses them.

row(IMAGE, text(), images=["a.png"])                 # {"messages": [a question, an answer], "images": ["a.png"]}
"""

import io
import json

import av
import numpy as np
import PIL.Image
import pytest

from granted.utils.errors import InputError


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


def text(words="What is it?"):
    return {"type": "text", "text": words}


def turn(role, *parts):
    return {"role": role, "content": list(parts)}


def row(*question, answer="A cat.", **columns):
    return {"messages": [turn("user", *question), turn("assistant", text(answer))], **columns}


def picture(width=6, height=4, color=(200, 30, 10)):
    return PIL.Image.new("RGB", (width, height), color)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_video(path, codec="mpeg4", frames=None):
    """A video of 5 frames per second; frame n of 10 is grey of brightness 20 n."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for frame in frames or [np.full((16, 32, 3), 20 * n, np.uint8) for n in range(10)]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(clip):
    return [round(float(frame.mean()) / 20) for frame in clip.frames]


def write_lines(path, *rows):
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return path


def refused(call, kind, *words):
    with pytest.raises(InputError) as caught:
        call()
    assert getattr(caught.value, "kind", None) == kind
    for word in ("got ", "expected ", *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
