"""Images and videos of visual question answering rows: every form is opened, whatever cannot be is refused by kind."""

import functools
import http.server
import io
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.visual_vqa.check import check_rows
from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import RowError
from granted.tests.vqa_rows import brightness, encoded, make_video, picture, refused, row, text


def test_every_form_of_an_image_is_the_same_image(tmp_path):
    data = encoded(picture())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    forms = [picture(), path, str(path), data, bytearray(data), path.as_uri()]
    forms += [{"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": str(path)}, {"path": str(path)}]
    for form in forms:
        image = open_image(form)
        assert image.mode == "RGB" and image.tobytes() == picture().tobytes(), form


def test_an_image_is_upright_rgb_and_independent_of_its_file(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture().save(tmp_path / "a.jpg", exif=exif)
    image = open_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").unlink()
    assert image.size == (4, 6) and image.copy().getpixel((0, 0))[0] > 150
    assert open_image(encoded(PIL.Image.new("LA", (2, 2)))).mode == "RGB"


def test_an_image_that_cannot_be_opened_is_missing_or_unreadable(tmp_path, monkeypatch):
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise)
    refused(lambda: open_image(tmp_path / "no.png"), "image", "missing", "no.png")
    refused(lambda: open_image(str(tmp_path)), "image", "missing")
    refused(lambda: open_image(f"file://{tmp_path}/no.png"), "image", "unreadable")
    refused(lambda: open_image(data[: len(data) // 2]), "image", "unreadable", "bytes")
    refused(lambda: open_image({"bytes": b"", "path": None}), "image", "unreadable")
    refused(lambda: open_image(b"<svg/>\n" * 9), "image", "unreadable")
    refused(lambda: open_image("data:image/png;base64,AAAA"), "image", "unreadable")
    refused(lambda: open_image({"bytes": None, "path": None}), "image", "NoneType")
    refused(lambda: open_image(3), "image", "int")
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    refused(lambda: open_image(PIL.Image.open(tmp_path / "half.png")), "image", "unreadable")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    refused(lambda: open_image(data), "image", "unreadable", "bomb")


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_a_damaged_image_is_opened_or_refused(position, damage):
    data = bytearray(encoded(picture(), "GIF" if position % 2 else "TIFF"))
    position %= len(data)
    data[position : position + len(damage)] = damage
    try:
        assert open_image(bytes(data)).mode == "RGB"
    except RowError as error:
        assert error.kind == "image"


def grey(value, dtype):
    return PIL.Image.fromarray(np.full((4, 6), value, dtype))


def palette(*colour):
    image = PIL.Image.new("P", (6, 4), 0)
    image.putpalette([*colour, *[0] * 765])
    return image


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        (encoded(grey(0x8080, np.uint16)), (128,) * 3),
        (encoded(grey(0xFFFF, np.uint16), "TIFF"), (255,) * 3),
        (encoded(grey(256, np.uint16)), (1,) * 3),
        (encoded(grey(0x4040, np.uint16), transparency=0x4040), (255,) * 3),
        (encoded(grey(0.2, np.float32), "TIFF"), (51,) * 3),
        (encoded(PIL.Image.new("RGBA", (6, 4), (200, 30, 10, 0))), (255,) * 3),
        (encoded(PIL.Image.new("RGBA", (6, 4), (200, 30, 10, 51))), (244, 210, 206)),  # a fifth of it, the rest white
        (encoded(PIL.Image.new("LA", (6, 4), (40, 0))), (255,) * 3),
        (encoded(PIL.Image.new("L", (6, 4), 40), transparency=40), (255,) * 3),
        (encoded(picture(), transparency=(200, 30, 10)), (255,) * 3),
        (encoded(palette(9, 8, 7), transparency=0), (255,) * 3),
        (encoded(palette(9, 8, 7)), (9, 8, 7)),
        (encoded(PIL.Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(PIL.Image.new("1", (6, 4), 1)), (255,) * 3),
        (encoded(picture(color=(9, 8, 7)), "GIF", save_all=True, append_images=[picture()]), (9, 8, 7)),
    ],
)
def test_an_image_of_any_mode_has_the_colours_that_are_seen(data, pixel):
    for image in (open_image(data), open_image(PIL.Image.open(io.BytesIO(data)))):
        assert image.mode == "RGB" and image.size == (6, 4)
        assert {image.getpixel((x, y)) for x in range(6) for y in range(4)} == {pixel}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (grey(1.5, np.float32), "from 1.5 to 1.5, not from 0 to 1"),
        (grey(np.nan, np.float32), "nan"),
        (grey(300, np.int32), "32 bits"),
    ],
)
def test_greys_of_unknown_range_are_refused(image, words):
    refused(lambda: open_image(encoded(image, "TIFF")), "image", "unreadable", words)


def test_a_truncated_jpeg_is_refused():
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG")
    refused(lambda: open_image(data[: len(data) // 2]), "image", "unreadable", "truncated")


def test_frames_of_a_variable_rate_are_chosen_by_their_times(tmp_path):
    times = [0, 100, 200, 300, 400, 500, 600, 700, 2000, 3000]  # milliseconds; the last one is shown for 100
    for name, codec in (("v.mp4", "libx264"), ("v.mkv", "mpeg4")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            for n, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 20 * n, np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        clip = open_video(tmp_path / name, max_frames=4)  # seen at 0, 775, 1550 and 2325 milliseconds
        assert brightness(clip) == [0, 7, 7, 8] and clip.fps == pytest.approx(4 / 3.1)
        whole = open_video(tmp_path / name)  # every 310 milliseconds
        assert brightness(whole) == [0, 3, 6, 7, 7, 7, 7, 8, 8, 8] and whole.fps == pytest.approx(10 / 3.1)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.mp4", "mpeg4", {"movflags": "faststart"}),
        ("v.mkv", "mpeg4", {}),
        ("v.avi", "mpeg4", {}),
        ("v.webm", "libvpx-vp9", {}),
    ],
)
def test_a_video_that_is_cut_off_is_refused(tmp_path, name, codec, options):
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / name), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for _ in range(20):
            frame = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = (tmp_path / name).read_bytes()
    assert len(open_video(data).frames) == 20
    refused(lambda: open_video(data[: len(data) // 2]), "video", "unreadable")
    cut = [problem.kind for problem in check_rows([row(text(), videos=[data[: len(data) // 2]])])]
    assert cut == ["video"], "the check of the rows lets it pass"


def test_a_transparent_video_is_on_white(tmp_path):
    image = palette(9, 8, 7)
    image.save(
        tmp_path / "v.gif", save_all=True, append_images=[image.copy()], transparency=0, duration=200, disposal=2
    )
    assert (open_video(tmp_path / "v.gif").frames == 255).all()


def test_frames_become_a_video(tmp_path):
    frames = [picture(color=(20 * n,) * 3) for n in range(5)]
    (tmp_path / "1.png").write_bytes(encoded(frames[1]))
    mixed = [frames[0], tmp_path / "1.png", encoded(frames[2]), {"bytes": encoded(frames[3])}, frames[4]]
    clip = open_video(mixed, fps=4)
    assert clip.frames.shape == (5, 4, 6, 3) and clip.frames.dtype == np.uint8 and clip.fps == 4
    assert brightness(clip) == [0, 1, 2, 3, 4]
    assert open_video(tuple(frames)).fps is None


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mpeg4"), ("v.mp4", "libx264"), ("v.webm", "libvpx-vp9")])
def test_a_video_is_decoded_with_its_own_rate(tmp_path, name, codec):
    path = make_video(tmp_path / name, codec=codec)
    forms = (path, str(path), path.as_uri(), path.read_bytes(), {"bytes": None, "path": str(path)})
    for form in forms:
        clip = open_video(form, fps=99)
        assert clip.frames.shape == (10, 16, 32, 3) and clip.frames.dtype == np.uint8 and clip.fps == 5
        assert brightness(clip) == list(range(10))
        fewer = open_video(form, max_frames=4)
        assert brightness(fewer) == [0, 2, 5, 7] and fewer.fps == 2


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.floats(0.5, 60))
def test_fewer_frames_keep_their_times(count, most, fps):
    frames = [PIL.Image.new("RGB", (1, 1), (n, n, n)) for n in range(count)]
    clip = open_video(frames, fps, max_frames=most)
    kept = clip.frames[:, 0, 0, 0].tolist()
    assert len(kept) == min(count, most) and kept == sorted(set(kept))
    for t, n in enumerate(kept):
        assert n / fps <= t / clip.fps + 1e-9 and t / clip.fps < (n + 1) / fps + 1e-9


def test_a_turned_video_is_upright(tmp_path):
    brighter = np.linspace(0, 250, 32).astype(np.uint8)  # from left to right
    frames = np.broadcast_to(brighter[None, :, None], (16, 32, 3)).copy()
    data = make_video(tmp_path / "v.mp4", frames=[frames] * 3).read_bytes()
    one, half = 1 << 16, 1 << 30
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, half)
    quarter = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, half)  # what a phone writes: right goes down
    start = data.index(upright, data.index(b"tkhd"))
    clip = open_video(data[:start] + quarter + data[start + len(quarter) :])
    assert clip.frames.shape == (3, 32, 16, 3)
    rows = clip.frames.mean(axis=(0, 2, 3))
    assert rows[0] < 20 and rows[-1] > 230 and rows[8] < rows[24]


def test_a_video_that_cannot_be_opened_says_why(tmp_path):
    data = make_video(tmp_path / "v.mp4").read_bytes()
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    refused(lambda: open_video(tmp_path / "no.mp4"), "video", "missing", "no.mp4")
    refused(lambda: open_video(data[: len(data) // 2]), "video", "unreadable", "bytes")
    refused(lambda: open_video(tmp_path / "a.wav"), "video", "a.wav", "no frames")
    refused(lambda: open_video(b"not a video"), "video", "unreadable")
    refused(lambda: open_video([]), "video", "no frame")
    refused(lambda: open_video([], fps=2, max_frames=2), "video", "no frame")
    refused(lambda: open_video([picture(), picture(4, 4)]), "video", "4 x 4, 6 x 4")
    refused(lambda: open_video([picture(), tmp_path / "no.png"]), "video", "frame 1", "missing")
    refused(lambda: open_video(picture()), "video", "Image")
    refused(lambda: open_video([picture()], max_frames=0), None, "max_frames=0")


def test_media_come_from_the_web(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    make_video(tmp_path / "v.webm", codec="libvpx-vp9")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert open_image(f"{address}/a.png").tobytes() == picture().tobytes()
        assert brightness(open_video(f"{address}/v.webm", max_frames=5)) == [0, 2, 4, 6, 8]
        assert open_video(f"{address}/v.webm", max_frames=5).fps == 2.5
        refused(lambda: open_image(f"{address}/no.png"), "image", "unreadable", "no.png")
        refused(lambda: open_video(f"{address}/no.mp4"), "video", "unreadable", "no.mp4")
        server.shutdown()
    refused(lambda: open_image(f"{address}/a.png"), "image", "unreadable")
