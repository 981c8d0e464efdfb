"""Media and captions from folders, tar files and datasets; nothing is unpacked, and nothing is lost in silence."""

import io
import json
import os
import tarfile

import PIL.Image
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, Video
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.construction.sources import SourceSettings, _content, _samples, read_source
from granted.utils.errors import InputError


def image_bytes(colour="red", kind="PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


def read(source, **options):
    return list(read_source(SourceSettings(source=str(source), **options)))


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            if isinstance(content, bytes):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
            else:
                file.addfile(content)
    return path


def test_a_folder_is_read_with_those_inside_it_and_with_the_captions_beside_the_files(tmp_path):
    (tmp_path / "birds" / ".cache").mkdir(parents=True)
    (tmp_path / "b.png").write_bytes(image_bytes("blue"))
    (tmp_path / "b.txt").write_text(" A blue square.\n")
    (tmp_path / "birds" / "a.jpg").write_bytes(image_bytes("red", "JPEG"))
    (tmp_path / "birds" / "a.json").write_text(json.dumps({"caption": "Red.", "licence": "?"}))
    (tmp_path / "birds" / "c.jpg").write_bytes(b"")
    (tmp_path / "birds" / ".cache" / "x.jpg").write_bytes(image_bytes())
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "alone.txt").write_text("of no image")
    found = [(one.name, len(one.content), one.caption) for one in read(tmp_path)]
    blue, red = len(image_bytes("blue")), len(image_bytes("red", "JPEG"))
    expected = [("b.png", blue, "A blue square."), ("birds/a.jpg", red, "Red."), ("birds/c.jpg", 0, None)]
    assert found == [("alone.txt", 11, None), *expected]


def test_a_caption_that_cannot_be_read_takes_its_image_with_it_and_says_so(tmp_path):
    for name, text in (("a", b"\xff"), ("b", b"{")):
        (tmp_path / f"{name}.png").write_bytes(image_bytes())
        (tmp_path / f"{name}.{'txt' if name == 'a' else 'json'}").write_bytes(text)
    assert [(one.content, "caption" in one.problem) for one in read(tmp_path)] == [(None, True)] * 2


def test_tar_files_are_read_sample_by_sample_and_nothing_of_them_reaches_the_disk(tmp_path):
    link = tarfile.TarInfo("shard/4.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    members = [
        ("shard/1.jpg", image_bytes("red", "JPEG")),
        ("shard/1.txt", b"Red."),
        ("shard/2.json", json.dumps({"caption": "Blue."}).encode()),
        ("shard/2.seg.png", image_bytes("blue")),
        ("../../escaped.png", image_bytes("green")),
        ("/absolute.png", image_bytes("black")),
        ("shard/4.jpg", link),
    ]
    tar(tmp_path / "a.tar", members)
    tar(tmp_path / "b.tar", [("5.png", image_bytes())])
    found = [(one.name, one.caption) for one in read(f"{tmp_path / 'a.tar'},{tmp_path / 'b.tar'}")]
    assert found == [
        ("a.tar/shard/1.jpg", "Red."),
        ("a.tar/shard/2.seg.png", "Blue."),
        ("a.tar/../../escaped.png", None),
        ("a.tar//absolute.png", None),
        ("b.tar/5.png", None),
    ]
    assert read(tmp_path) == read(f"{tmp_path / 'a.tar'},{tmp_path / 'b.tar'}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "b.tar"]
    assert not (tmp_path.parents[1] / "escaped.png").exists()


@given(st.lists(st.tuples(st.text(min_size=1, max_size=12), st.binary(max_size=4))))
def test_every_file_of_a_tar_that_is_not_hidden_is_in_one_sample(members):
    sampled = [content for _, sample in _samples(members) for _, content in sample]
    assert len(sampled) <= len(members)
    plain = [(name, content) for name, content in members if "." not in name and "/" not in name]
    assert [content for _, sample in _samples(plain) for _, content in sample] == [content for _, content in plain]


@pytest.mark.parametrize("damage", ["cut", "no tar", "missing"])
def test_a_damaged_tar_file_is_one_line(tmp_path, damage):
    path = tar(tmp_path / "a.tar", [("1.png", image_bytes()), ("2.png", image_bytes("blue") * 100)])
    content = path.read_bytes()
    {"cut": lambda: path.write_bytes(content[:3000]), "no tar": lambda: path.write_bytes(b"x" * 2000)}.get(
        damage, path.unlink
    )()
    with pytest.raises(InputError, match=r"a\.tar") as raised:
        read(path)
    assert str(raised.value).count("\n") == 0


def rows():
    images = [{"image": {"bytes": image_bytes(colour), "path": None}, "text": colour} for colour in ("red", "blue")]
    return Dataset.from_list(images, features=Features({"image": Image(), "text": Value("string")}))


def test_a_dataset_is_read_from_parquet_from_a_folder_of_it_and_as_it_was_saved(tmp_path):
    (tmp_path / "data").mkdir()
    rows().to_parquet(tmp_path / "data" / "train.parquet")
    rows().save_to_disk(tmp_path / "saved")
    DatasetDict({"train": rows(), "test": rows().select([1])}).save_to_disk(tmp_path / "splits")
    expected = [("row 0", image_bytes("red"), "red"), ("row 1", image_bytes("blue"), "blue")]
    for source in ("data/train.parquet", "data", "saved", "splits"):
        found = read(tmp_path / source, caption_column="text")
        assert [(one.name, one.content, one.caption) for one in found] == expected, source
    assert [one.name for one in read(tmp_path / "splits", split="test")] == ["row 0"]
    with pytest.raises(InputError, match="train, test"):
        read(tmp_path / "splits", split="dev")


def test_rows_may_name_their_files_and_a_missing_one_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes())
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png"}\n{"image": "b.png"}\n{"image": null}\n')
    found = read(tmp_path / "rows.jsonl")
    assert [one.content for one in found] == [image_bytes(), None, None]
    assert "b.png" in found[1].problem and "no image" in found[2].problem


def test_the_column_of_media_must_be_known(tmp_path):
    columns = Features({"photo": Image(), "clip": Video()})
    both = Dataset.from_list([{"photo": {"bytes": image_bytes(), "path": None}, "clip": None}], features=columns)
    both.to_parquet(tmp_path / "both.parquet")
    with pytest.raises(InputError, match=r"photo, clip.*media_column"):
        read(tmp_path / "both.parquet")
    assert [one.content for one in read(tmp_path / "both.parquet", media_column="photo")] == [image_bytes()]
    with pytest.raises(InputError, match="caption_column"):
        read(tmp_path / "both.parquet", media_column="photo", caption_column="text")


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"expected files.*folder or a Hub id"):
        read(tmp_path / "photos")


# ------------------------------------------------------------------------------------------------------------- attacks


def test_names_and_captions_that_are_no_utf8_stop_nothing(tmp_path):
    with open(os.fsencode(tmp_path) + b"/a\xff.png", "wb") as file:
        file.write(image_bytes())
    (tmp_path / "b.png").write_bytes(image_bytes())
    (tmp_path / "b.json").write_text('{"caption": "half a \\ud800 pair"}')
    path = tar(tmp_path.parent / f"{tmp_path.name}.tar", [(os.fsdecode(b"c\xff.png"), image_bytes())])
    escaped, caption = read(tmp_path)
    assert escaped.name == "a\\udcff.png" and caption.content is None and "caption" in caption.problem
    assert read(path)[0].name == f"{path.name}/c\\udcff.png"


def test_a_pipe_is_passed_over_and_a_huge_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with open(tmp_path / "b.png", "wb") as file:
        file.truncate(1 << 40)
    assert [(one.name, one.content) for one in read(tmp_path)] == [("b.png", None)]
    info = tarfile.TarInfo("GNUSparseFile.0/huge.png")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "huge.png"}
    info.pax_headers["GNU.sparse.realsize"] = str(1 << 40)
    info.size = 512
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info, io.BytesIO(b"1\n0\n0\n".ljust(512, b"\0")))
    (huge,) = read(path)
    assert huge.content is None and "more than 4 GB" in huge.problem


@pytest.mark.parametrize("path", ["{}", "file://{}", "https://x::file://{}", "simplecache::file://{}"])
def test_a_dataset_from_elsewhere_reaches_no_file_of_this_machine(tmp_path, path):
    (tmp_path / "private.png").write_bytes(image_bytes())
    with pytest.raises(ValueError, match="is a path of this machine"):
        _content(path.format(tmp_path / "private.png"), is_here=False)


def test_a_path_that_no_file_system_knows_is_its_rows_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(image_bytes())
    paths = ["zip://x::a.png", "strange://x", "a.png"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"image": path}) + "\n" for path in paths))
    assert [bool(one.content) for one in read(tmp_path / "rows.jsonl")] == [False, False, True]
