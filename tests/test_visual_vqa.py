"""Visual question answering rows: every layout becomes one form, and whatever cannot be used is named, not raised."""

import json
import pickle
import struct

import numpy as np
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
from granted.tests.vqa_rows import IMAGE, VIDEO, encoded, make_video, picture, refused, row, text, turn, write_lines


disable_progress_bars()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


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
