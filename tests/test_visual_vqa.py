"""Visual question answering rows: every layout becomes one form, and whatever cannot be used is named, not raised."""

import functools
import http.server
import io
import json
import pickle
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value, Video, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.scenes.shapes.rows import vqa_rows, write_rows
from granted.dataset_builders.visual_vqa.check import Problem, check_rows, raise_if_broken, usable
from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import Conversation, RowError, as_conversation, load_vqa
from granted.utils.errors import InputError


disable_progress_bars()
IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


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


# ---------------------------------------------------------------------------------------------------- conversations

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
parts = st.lists(st.builds(text, words) | st.sampled_from([IMAGE, VIDEO, {**IMAGE, "text": None}]), max_size=5)
answers = st.lists(st.builds(text, words), max_size=2).map(lambda made: [*made, text("Yes.")])
rounds = st.lists(st.tuples(parts | words, answers | words.map("Yes{}".format)), min_size=1, max_size=3)


def conversation_of(rounds, system, fps=None):
    messages = [{"role": "system", "content": "Be brief."}] * system
    for question, answer in rounds:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "fps": fps}


def places(conversation, kind):
    return sum(part["type"] == kind for message in conversation.messages for part in message["content"])


@settings(deadline=None)
@given(rounds, st.integers(0, 1), st.none() | st.floats(0.1, 60))
def test_a_well_formed_conversation_keeps_its_places_and_its_form(rounds, system, fps):
    made = conversation_of(rounds, system, fps)
    parts = [part for m in made["messages"] if isinstance(m["content"], list) for part in m["content"]]
    made["images"] = [f"{n}.png" for n in range(sum(part["type"] == "image" for part in parts))]
    made["videos"] = [f"{n}.mp4" for n in range(sum(part["type"] == "video" for part in parts))]
    before = json.dumps(made)
    conversation = as_conversation(made)
    assert (places(conversation, "image"), places(conversation, "video")) == (len(made["images"]), len(made["videos"]))
    assert (conversation.images, conversation.videos, conversation.fps) == (made["images"], made["videos"], fps)
    assert as_conversation(vars(conversation)) == conversation, "not idempotent"
    assert json.dumps(made) == before, "the row was changed"


@settings(deadline=None)
@given(st.lists(st.tuples(words, words.map("Yes{}".format)), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
def test_media_without_places_come_first_in_the_first_question(rounds, count, system):
    conversation = as_conversation({**conversation_of(rounds, system), "images": ["a"] * count, "video": "b"})
    first = conversation.messages[int(system)]["content"]
    assert first == [*[IMAGE] * count, VIDEO, text(rounds[0][0])]
    assert places(conversation, "image") == count and places(conversation, "video") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type"]), inner),
    max_leaves=8,
)
columns = st.sampled_from(["messages", "prompt", "completion", "images", "image", "videos", "video", "fps"])


@settings(deadline=None)
@given(st.dictionaries(columns, json_values), st.booleans())
def test_any_row_is_read_or_refused(columns, good):
    try:
        assert isinstance(as_conversation({**(row(text()) if good else {}), **columns}), Conversation)
    except RowError as error:
        assert error.kind and "\n" not in str(error)


def test_prompt_and_completion_are_joined_as_text_or_as_messages():
    expected = as_conversation(row(IMAGE, text(), images=["a"])).messages
    answer = [{"role": "assistant", "content": "A cat."}]
    for prompt in ("What is it?", [turn("user", text())], [turn("user", {**IMAGE, "text": None}, text())]):
        for completion in ("A cat.", answer):
            made = as_conversation({"prompt": prompt, "completion": completion, "image": "a", "messages": None})
            assert made.messages == expected


def test_a_row_without_media_has_none():
    for absent in ({}, {"images": None, "video": None}, {"images": [], "videos": [], "video": []}):
        conversation = as_conversation(row(text(), **absent))
        assert (conversation.images, conversation.videos, conversation.fps) == ([], [], None)


def test_relative_paths_are_in_the_media_folder():
    given = [
        "a.png",
        "/b.png",
        "https://c/d.png",
        {"bytes": b"x", "path": "e"},
        {"bytes": None, "path": "f"},
        picture(),
    ]
    made = as_conversation(row(text(), images=given, video=["0.png", "1.png"], media_folder="/data"))
    assert made.images == ["/data/a.png", *given[1:4], {"bytes": None, "path": "/data/f"}, given[5]]
    assert made.videos == [["/data/0.png", "/data/1.png"]]


USER, ASSISTANT = turn("user", text()), turn("assistant", text("A cat."))


@pytest.mark.parametrize(
    ("broken", "kind", "words"),
    [
        ({"messages": [turn("a\nb", text())]}, "roles", ["a b"]),
        ({"id": "x", "conversations": []}, "columns", ["id, conversations", "messages"]),
        ({"prompt": "x", "completion": None}, "columns", ["prompt"]),
        (row(text(), images="a.png"), "columns", ["images of type str"]),
        (row(text(), image="a", images=["b"]), "columns", ["both image and images"]),
        ({"messages": []}, "roles", ["none"]),
        ({"messages": [USER]}, "roles", ["user"]),
        ({"messages": [ASSISTANT, USER]}, "roles", ["assistant, user"]),
        ({"messages": [USER, USER, ASSISTANT]}, "roles", ["user, user, assistant"]),
        ({"messages": [USER, ASSISTANT, turn("system", text()), USER, ASSISTANT]}, "roles", ["system"]),
        ({"messages": [USER, {"role": "tool", "content": "1"}, ASSISTANT]}, "roles", ["a tool"]),
        ({"messages": [{"content": "x"}, ASSISTANT]}, "roles", ["None"]),
        ({"messages": "text"}, "content", ["messages of another type"]),
        ({"messages": [{"role": "user", "content": 3}, ASSISTANT]}, "content", ["int"]),
        ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, "content", ["NoneType"]),
        (row({"type": "audio"}), "content", ["'audio'"]),
        (row("text"), "content", ["part of str"]),
        (row({"type": "text", "text": None}), "content", ["None"]),
        (row({"type": "image", "image": "a.png"}), "content", ["column images"]),
        ({"messages": [USER, turn("assistant", text(), IMAGE)], "images": ["a"]}, "content", ["assistant"]),
        (row(text(), answer=" \n"), "empty answer", ["assistant turn"]),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "empty answer", ["assistant turn"]),
        (row(IMAGE, IMAGE, text(), images=["a"]), "placeholders", ["2 image parts", "1 images"]),
        (row(IMAGE, text()), "placeholders", ["1 image parts", "0 images"]),
        (row(IMAGE, text(), images=["a"], video="b"), "placeholders", ["0 video parts", "1 videos"]),
        (row(text(), fps=0), "video", ["fps 0"]),
        (row(text(), fps=float("nan")), "video", ["nan"]),
        (row(text(), fps="8"), "video", ["'8'"]),
    ],
)
def test_a_broken_conversation_is_refused_with_its_kind(broken, kind, words):
    refused(lambda: as_conversation(broken), kind, *words)


def test_an_error_keeps_its_kind_between_processes():
    error = pickle.loads(pickle.dumps(RowError("got x", "image")))
    assert (str(error), error.kind) == ("got x", "image")
    assert "\n" not in str(RowError("got a\nb")) and len(str(RowError("word " * 999))) <= 600


# ------------------------------------------------------------------------------------------------------------ media


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


# ---------------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("media", ["image", "video"])
def test_rows_written_with_their_media_are_read_back(tmp_path, media, streaming):
    made = list(vqa_rows(3, media=media, size=32, frames=8))
    write_rows(made, tmp_path / "vqa.parquet")
    loaded = list(load_vqa(str(tmp_path / "vqa.parquet"), streaming=streaming))
    assert check_rows(loaded) == [] and len(loaded) == 3
    for before, after in zip(made, map(as_conversation, loaded)):
        assert after.messages == as_conversation(before).messages
        if media == "image":
            assert isinstance(after.images[0]["bytes"], bytes), "opened too early"
            assert open_image(after.images[0]).tobytes() == before["images"][0].tobytes()
        else:
            frames = np.stack([np.asarray(frame) for frame in before["videos"][0]])
            assert (open_video(after.videos[0]).frames == frames).all()


@pytest.mark.parametrize("streaming", [False, True])
def test_relative_paths_of_files_in_several_folders_are_found(tmp_path, monkeypatch, streaming):
    for name, color in (("one", 10), ("two", 90)):
        (tmp_path / name / "media").mkdir(parents=True)
        picture(color=(color,) * 3).save(tmp_path / name / "media" / "a.png")
        write_lines(tmp_path / name / "rows.jsonl", row(text(), images=["media/a.png"]), row(text(), images=[]))
    monkeypatch.chdir(tmp_path)
    rows = list(load_vqa("one/rows.jsonl, two/rows.jsonl", streaming=streaming))
    monkeypatch.chdir("/")
    images = [as_conversation(row).images for row in rows]
    assert [open_image(found[0]).getpixel((0, 0))[0] for found in (images[0], images[2])] == [10, 90]
    assert images[1] == images[3] == [] and check_rows(rows) == []


def test_contents_that_are_text_or_parts_may_be_mixed(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    mixed = {"messages": [system, turn("user", VIDEO, text()), {"role": "assistant", "content": "A cat."}]}
    make_video(tmp_path / "v.mp4")
    path = write_lines(tmp_path / "rows.jsonl", {**mixed, "video": "v.mp4"}, {**row(text()), "video": None})
    dataset = load_vqa(str(path))
    assert check_rows(dataset) == []
    assert as_conversation(dataset[0]).messages[1]["content"] == [VIDEO, text()]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_is_read_without_opening_its_media(tmp_path, streaming):
    broken = encoded(picture())[:-30]
    features = Features(
        {
            "prompt": Value("string"),
            "completion": Value("string"),
            "image": Image(),
            "videos": List(Video()),
            "frames": List(List(Image())),
        }
    )
    video = make_video(tmp_path / "v.mp4").read_bytes()
    columns = {"image": {"bytes": broken}, "videos": [{"bytes": video}], "frames": [[{"bytes": broken}]]}
    values = {
        name: [features[name].encode_example(columns[name])] if name == "image" else [columns[name]]
        for name in columns
    }
    schema = features.arrow_schema
    table = pa.Table.from_pydict({"prompt": ["What?"], "completion": ["A cat."], **values}, schema=schema)
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    dataset = load_vqa(str(tmp_path / "data"), streaming=streaming)
    loaded = next(iter(dataset))
    assert loaded["image"]["bytes"] == broken and loaded["frames"][0][0]["bytes"] == broken
    assert len(open_video(as_conversation(loaded).videos[0]).frames) == 10
    assert [problem.kind for problem in check_rows(dataset)] == ["image"]
    assert isinstance(dataset, IterableDataset) == streaming


def test_the_folder_is_where_relative_paths_of_a_folder_begin(tmp_path):
    write_lines(tmp_path / "train.jsonl", row(text(), image="a.png"))
    assert as_conversation(load_vqa(str(tmp_path))[0]).images == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("kind", ["file", "folder", "folder with a card", "folder[1]*"])
def test_rows_that_change_in_their_place_are_read_anew(tmp_path, kind):
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "folder with a card":
        card = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '*.parquet'"
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    for answer in ("First.", "Other."):
        Dataset.from_dict({"prompt": ["What?"], "completion": [answer]}).to_parquet(folder / "a[b].parquet")
        source = folder / "a[b].parquet" if kind == "file" else folder
        assert load_vqa(str(source))["completion"] == [answer]


def test_undecoded_rows_stay_undecoded_when_rows_are_chosen_and_mapped(tmp_path):
    write_rows(vqa_rows(4, size=32), tmp_path / "vqa.parquet")
    dataset = load_vqa(str(tmp_path / "vqa.parquet"), "train[1:]")
    assert len(dataset) == 3
    for changed in (dataset.select([2]), dataset.map(lambda row: {"n": 1}), pickle.loads(pickle.dumps(dataset))):
        assert isinstance(changed[0]["images"][0]["bytes"], bytes)


def test_a_source_that_cannot_be_used_is_one_line(tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl", row(text(), image="a"))
    other = write_lines(tmp_path / "other.jsonl", {"question": "What?", "answer": "A cat."})
    clash = write_lines(tmp_path / "clash.jsonl", row(text(), image={"path": "a"}))
    (tmp_path / "bad.jsonl").write_text('{"messages": [\n')
    (tmp_path / "bad.parquet").write_bytes(b"nothing at all")
    (tmp_path / "empty.jsonl").touch()
    offsets = pa.py_buffer(struct.pack("2i", 0, 1))
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"prompt": broken, "completion": ["A cat."]}), tmp_path / "latin.parquet")
    refused(lambda: load_vqa(str(tmp_path / "latin.parquet")), None, "latin.parquet", "UTF8")
    refused(lambda: load_vqa("n" * 300 + ".parquet"), None, "not a file")
    refused(lambda: load_vqa(str(tmp_path / "no.jsonl")), None, "no.jsonl", "not a file")
    refused(lambda: load_vqa(f"{rows},{tmp_path / 'no.parquet'}"), None, "no.parquet", "not a file")
    for name in ("bad.jsonl", "bad.parquet", "empty.jsonl"):
        refused(lambda name=name: load_vqa(str(tmp_path / name)), None, name)
        refused(lambda name=name: load_vqa(str(tmp_path / name), streaming=True), None, name)
    refused(lambda: load_vqa(str(tmp_path / "empty.jsonl")), None, "which is empty")
    refused(lambda: load_vqa(str(other)), None, "question, answer", "messages, or prompt and completion")
    refused(lambda: load_vqa(f"{rows},{clash}"), None, "same types")
    refused(lambda: load_vqa(str(rows), "test"), None, "test")
    refused(lambda: load_vqa(f"{rows},{rows}", "train[:1]"), None, "train[:1]", "2 files")
    refused(lambda: load_vqa(str(tmp_path / "nowhere")), None, "nowhere")
    refused(lambda: load_vqa("nobody/nothing"), None, "nobody/nothing")


# --------------------------------------------------------------------------------------------------------- checking


@pytest.fixture
def mixed(tmp_path):
    """Rows of which 1, 2, 4 and 5 are broken."""
    (tmp_path / "good.png").write_bytes(encoded(picture()))
    (tmp_path / "half.png").write_bytes(encoded(picture())[:-30])
    rows = [
        row(IMAGE, text(), images=["good.png"]),
        row(IMAGE, text(), images=["half.png"]),
        row(IMAGE, text(), images=[]),
        row(text(), images=[]),
        row(IMAGE, text(), images=["gone.png"]),
        row(text(), answer="", images=[]),
    ]
    return load_vqa(str(write_lines(tmp_path / "rows.jsonl", *({"id": f"r{n}", **r} for n, r in enumerate(rows)))))


def test_every_broken_row_is_found_and_counted(mixed):
    problems = check_rows(mixed, show_progress=True)
    found = [(problem.row, problem.id, problem.kind) for problem in problems]
    assert found == [(1, "r1", "image"), (2, "r2", "placeholders"), (4, "r4", "image"), (5, "r5", "empty answer")]
    assert "unreadable" in problems[0].message and "missing" in problems[2].message


def test_broken_rows_are_skipped(mixed):
    kept = usable(mixed, check_rows(mixed))
    assert kept["id"] == ["r0", "r3"] and check_rows(kept) == []
    assert usable(kept, [])["id"] == ["r0", "r3"]


def test_broken_rows_are_told_in_one_line(mixed):
    problems = check_rows(mixed)
    first = ["row 1 (r1), image: got", "row 2 (r2), placeholders: got 1 image", "row 4 (r4), image: got"]
    counts = ["4 broken rows of 6 (2 image, 1 placeholders, 1 empty answer)", "and 1 more", "--skip-broken"]
    refused(lambda: raise_if_broken(problems, 6), None, *first, *counts)
    refused(lambda: raise_if_broken([Problem(0, "", "roles", "got x")], 1), None, "1 broken", "row 0, roles: got x")
    assert raise_if_broken([], 6) is None


def test_a_row_needs_no_id():
    dataset = Dataset.from_list([row(text(), answer=""), {**row(text()), "id": 3}])
    assert [problem.id for problem in check_rows(dataset)] == [""]
