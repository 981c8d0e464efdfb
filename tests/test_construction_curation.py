"""Curation: what is removed and why, what each item is used for, and that a run that was stopped goes on."""

import hashlib
import signal
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from granted.dataset_builders.construction import curation
from granted.dataset_builders.construction.curation import USES, CurationSettings, curate, use_of
from granted.dataset_builders.construction.duplicates import look_alikes, near_duplicate_captions
from granted.dataset_builders.construction.media import measure
from granted.tests.tiny_media import image, moving, noise, video
from granted.utils.errors import InputError


def settings(source, **changed):
    return CurationSettings(source=str(source), **{"min_side": 32, "seconds": [1.0, 10.0], **changed})


def rows(run, name="rows"):
    return pq.read_table(run / "curate" / f"{name}.parquet").to_pylist()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(image(i))
    (folder / "clip.mp4").write_bytes(moving(10))
    return folder


def test_kept_items_are_copied_under_the_hash_of_their_content(source, tmp_path):
    (source / "0.txt").write_text("Patches.")
    run = tmp_path / "run"
    assert curate(settings(source), run, False)["kept"] == 5
    found = {row["source"]: row for row in rows(run)}
    for name, row in found.items():
        content = (source / name).read_bytes()
        assert row["id"] == hashlib.sha256(content).hexdigest()[:16]
        assert (run / row["file"]).read_bytes() == content and row["file"] == f"media/{row['id']}{Path(name).suffix}"
        assert (row["width"], row["height"], row["use"] in USES) == (64, 48, True)
    assert found["clip.mp4"]["seconds"] == pytest.approx(2.0) and found["0.png"]["seconds"] is None
    assert [found[name]["source_caption"] for name in ("0.png", "1.png")] == ["Patches.", None]


def test_what_is_removed_is_told_with_its_reason(source, tmp_path):
    files = {
        "again.png": image(0),
        "cut.mp4": moving(11)[:-2000],
        "empty.jpg": b"",
        "jpeg.jpg": image(1, kind="JPEG"),
        "large.png": image(2, (128, 96)),
        "long.mp4": video([noise(12).rotate(5 * i) for i in range(24)], fps=2),
        "narrow.png": image(20, (320, 40)),
        "notes.md": b"hello",
        "short.mp4": video([noise(13), noise(13).rotate(90)]),
        "small.png": image(21, (20, 20)),
        "still.mp4": video([noise(14)] * 8),
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    run = tmp_path / "run"
    counts = curate(settings(source), run, False)
    removed = {row["file"]: (row["reason"], row["detail"]) for row in rows(run, "removed")}
    assert removed.pop("cut.mp4")[0] in ("unreadable", "not an image or video")
    twins = [(name, removed.pop(name)) for name in ("jpeg.jpg", "1.png") if name in removed]  # equally large
    assert twins in ([("jpeg.jpg", ("near-duplicate", "of 1.png"))], [("1.png", ("near-duplicate", "of jpeg.jpg"))])
    assert removed == {
        "again.png": ("same file", "as 0.png"),
        "empty.jpg": ("empty", ""),
        "2.png": ("near-duplicate", "of large.png"),
        "long.mp4": ("too long", "12.00 seconds"),
        "narrow.png": ("too narrow", "320 x 40 pixels"),
        "notes.md": ("not an image or video", ""),
        "short.mp4": ("too short", "0.50 seconds"),
        "small.png": ("too small", "20 x 20 pixels"),
        "still.mp4": ("too little motion", removed["still.mp4"][1]),
    }
    assert counts["kept"] == 5 == sum(counts[use] for use in USES)
    assert sum(counts.values()) == 2 * counts["kept"] + 11, "some item is neither kept nor removed"
    assert {path.name for path in (run / "media").iterdir()} == {Path(row["file"]).name for row in rows(run)}


def test_a_shirt_in_another_colour_is_no_duplicate_but_has_the_same_use(source, tmp_path):
    for path in source.iterdir():
        path.unlink()
    shirt = PIL.Image.new("L", (64, 64), 200)
    shirt.paste(100, (10, 10, 50, 60))
    for i, mode in enumerate(((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1))):
        PIL.Image.merge("RGB", [shirt.point(lambda v, keep=keep: v if keep else v // 2) for keep in mode]).save(
            source / f"{i}.png"
        )
    looks = {path.name: measure(path.read_bytes(), "image") for path in sorted(source.iterdir())}
    assert not any(same for *_, same in look_alikes(looks, 4))
    for seed in range(5):
        curate(settings(source, seed=seed, uses=[0.4, 0.3, 0.3]), tmp_path / f"run{seed}", False)
        assert len({row["use"] for row in rows(tmp_path / f"run{seed}")}) == 1


def test_an_image_that_is_a_frame_of_a_video_has_its_use():
    looks = {"clip": measure(moving(1), "video"), "other": measure(image(2), "image")}
    assert list(look_alikes(looks, 4)) == []
    looks["frame"] = measure(image(1), "image")
    assert list(look_alikes(looks, 4)) == [("frame", "clip", False)]


def test_the_use_depends_on_the_item_and_the_seed_alone_and_has_its_share(source):
    names = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(3000)]
    chosen = settings(source, uses=[0.2, 0.5, 0.3])
    uses = [use_of(name, chosen) for name in names]
    for use, share in zip(USES, chosen.uses):
        assert abs(uses.count(use) / len(names) - share) < 0.03
    assert uses == [use_of(name, chosen) for name in names]
    assert uses != [use_of(name, replace(chosen, seed=1)) for name in names]
    assert {use_of(name, settings(source, uses=[0.0, 1.0, 0.0])) for name in names} == {"pairs"}
    with pytest.raises(InputError, match="sum to 1"):
        curate(settings(source, uses=[0.5, 0.1, 0.1]), "run", False)


def test_where_nothing_is_left_one_line_says_why_and_nothing_is_written(source, tmp_path):
    for i in range(4):
        (source / f"{i}.png").write_bytes(image(i, (20, 20)))
    with pytest.raises(InputError, match=r"no usable.*4 too small, 1 too short") as raised:
        curate(settings(source, seconds=[5.0, 9.0]), tmp_path / "run", False)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "run" / "curate").glob("*.parquet"))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="it is empty"):
        curate(settings(tmp_path / "none"), tmp_path / "run", False)


def test_what_was_decoded_is_not_decoded_again(source, tmp_path, monkeypatch):
    run = tmp_path / "run"
    curate(settings(source), run, False)
    before = rows(run), rows(run, "removed")
    first = rows(run)[0]["id"]
    later = f'{{"id": "{first}", "measures": {{"of": "another version"}}}}\n{{"id": "cut wh'
    with open(run / "curate" / "measured.jsonl", "a") as file:
        file.write(later)
    monkeypatch.setattr(curation, "measure", None)
    curate(settings(source), run, False)
    assert (rows(run), rows(run, "removed")) == before


def test_a_run_that_is_killed_at_any_moment_ends_as_one_that_was_not(source, tmp_path):
    for i in range(30):
        (source / f"more{i}.png").write_bytes(image(100 + i, (400, 300)))
    curate(settings(source), tmp_path / "whole", False)
    measured = tmp_path / "killed" / "curate" / "measured.jsonl"
    process = get_context("fork").Process(target=curate, args=(settings(source), tmp_path / "killed", False))
    process.start()
    while process.is_alive() and (not measured.is_file() or measured.read_bytes().count(b"\n") < 10):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    curate(settings(source), tmp_path / "killed", False)
    for name in ("rows", "removed"):
        assert rows(tmp_path / "killed", name) == rows(tmp_path / "whole", name)
    media = [sorted(path.name for path in (tmp_path / run / "media").glob("[!.]*")) for run in ("killed", "whole")]
    assert media[0] == media[1]


def test_captions_that_are_almost_the_same_are_found_whatever_their_language():
    text = "A woman in a red coat walks two small dogs past a traditional house with lanterns and corn at the door."
    chinese = "一位穿着红色大衣的女士牵着两只小狗走过一座挂着灯笼和玉米的传统房屋,门口站着一个微笑的孩子。" * 2
    captions = {
        "a": text,
        "b": "Quite another caption, of a mountain in the fog above a lake that nobody has ever seen on a map before.",
        "c": text.upper().replace(" ", "  "),
        "d": text.replace("red", "blue"),
        "e": chinese,
        "f": chinese.replace("微笑", "大笑"),
        "g": "short",
        "h": "Short ",
    }
    assert near_duplicate_captions(captions, 0.6) == [("c", "a"), ("d", "a"), ("d", "c"), ("f", "e"), ("h", "g")]
    assert near_duplicate_captions(captions, 1.0) == [("c", "a"), ("h", "g")]


def test_captions_are_compared_for_the_least_similarity_too():
    captions = {"a": "a red cube beside a blue sphere", "b": "a red cube beside nothing of the kind at all"}
    assert near_duplicate_captions(captions, 0.05) == near_duplicate_captions(captions, 0.0) == [("b", "a")]
    assert near_duplicate_captions(captions, 0.5) == []
