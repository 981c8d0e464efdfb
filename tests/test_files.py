"""utils/files.py: a reader never sees half of a file, and what cannot be read or written is named in one line."""

import errno
import gzip
import json
import os
import shutil
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.utils.errors import InputError
from granted.utils.files import (
    as_path,
    atomic_path,
    files_below,
    parts_of,
    read_json,
    read_jsonl,
    read_lines,
    read_texts,
    write_json,
)


def one_line(caught) -> str:
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_a_written_file_is_complete_and_leaves_nothing_beside_it(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"é": [1, None]})
    assert read_json(tmp_path / "new" / "a.json") == {"é": [1, None]}
    assert os.listdir(tmp_path / "new") == ["a.json"]


def test_files_behind_a_link_are_found_and_a_link_upwards_is_followed_once(tmp_path):
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (tmp_path / "runs" / "b.json", tmp_path / "runs" / "deep" / "a.json", elsewhere / "c.json"):
        path.write_text("{}")
    (elsewhere / "c.txt").write_text("")
    (tmp_path / "runs" / "linked").symlink_to(elsewhere)
    (tmp_path / "runs" / "deep" / "up").symlink_to(tmp_path / "runs")
    found = [str(path.relative_to(tmp_path / "runs")) for path in files_below(tmp_path / "runs", "*.json")]
    assert found == ["b.json", "deep/a.json", "linked/c.json"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failing_block_leaves_everything_as_it_was(tmp_path, kind, exists):
    target = tmp_path / "target" if exists else tmp_path / "a" / "b" / "target"
    if exists:
        target.mkdir() if kind == "folder" else target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.mkdir() if kind == "folder" else temporary.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == (["target"] if exists else [])
    if exists and kind == "file":
        assert target.read_text() == "old"


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "stale").touch()
    with atomic_path(tmp_path / "d") as temporary:
        temporary.mkdir()
        (temporary / "fresh").touch()
    assert os.listdir(tmp_path / "d") == ["fresh"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    target = tmp_path / "d"
    target.mkdir()
    (target / "old").touch()
    rename, calls = type(target).rename, []

    def failing_second(self, other):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, other)

    monkeypatch.setattr(type(target), "rename", failing_second)
    with pytest.raises(InputError, match="No space left"), atomic_path(target) as temporary:
        temporary.mkdir()
    assert os.listdir(target) == ["old"]


def test_nothing_replaces_a_device(tmp_path):
    os.mkfifo(tmp_path / "null")  # as /dev/null is neither a file nor a folder
    with pytest.raises(InputError, match="neither a file nor a folder"):
        write_json(tmp_path / "null", {})
    assert (tmp_path / "null").is_fifo() and os.listdir(tmp_path) == ["null"]


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "precious").touch()
    with pytest.raises(InputError) as caught:
        write_json(tmp_path / "d", 1)
    assert "Is a directory" in one_line(caught)
    assert (tmp_path / "d" / "precious").exists()


@pytest.mark.parametrize("copied", [False, True])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, tmp_path_factory, copied):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full, a device without free space, is absent")
    with pytest.raises(InputError) as caught, atomic_path(tmp_path / "a") as temporary:
        temporary.symlink_to("/dev/full")
        if copied:  # such an error names the source first
            source = tmp_path_factory.mktemp("elsewhere") / "source"
            source.write_bytes(b"x" * 100_000)
            shutil.copyfile(source, temporary)
        temporary.write_bytes(b"x" * 100_000)
    assert "No space left on device" in one_line(caught) and str(tmp_path / "a") in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_parent_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.json", tmp_path / "file" / "b" / "a.json"):
        with pytest.raises(InputError) as caught:
            write_json(path, 1)
        assert str(path) in one_line(caught)


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), FileNotFoundError(errno.ENOENT, "none", "other")]
)
def test_an_error_that_is_not_about_writing_is_passed_on(tmp_path, error):
    with pytest.raises(type(error)), atomic_path(tmp_path / "a"):
        raise error
    with pytest.raises(PermissionError), atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "denied", "/another/input.json")
    assert os.listdir(tmp_path) == []


def test_two_writers_of_one_path_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def in_a_child(work) -> int:
    """Do something in a forked process that ends with it; its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there_and_a_living_one_goes_on(tmp_path):
    ready, tell = os.pipe()

    def write(name, then):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("half")
            os.write(tell, b".")
            then()

    killed = in_a_child(lambda: write("killed", lambda: os.kill(os.getpid(), signal.SIGKILL)))
    os.waitpid(killed, 0)
    living = in_a_child(lambda: write("living", signal.pause))
    try:
        os.read(ready, 1), os.read(ready, 1)
        write_json(tmp_path / "a.json", 1)
        temporary, written = sorted(os.listdir(tmp_path))
        assert temporary.startswith(".living.") and written == "a.json"
    finally:
        os.kill(living, signal.SIGKILL)
        os.waitpid(living, 0)


def test_a_link_is_followed_and_a_folder_that_is_not_there_can_be_left_again(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a.json")
    write_json(tmp_path / "link", 1)
    assert read_json(tmp_path / "far" / "a.json") == 1 and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path)
    write_json("none/../b.json", 2)
    assert read_json("b.json") == 2 and not os.path.exists("none")


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", float("nan"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "malformed JSON"),
        (b'{"a": ', "malformed JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (None, "does not exist"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_json(path)
    assert str(path) in one_line(caught)
    with pytest.raises(InputError):
        read_json(tmp_path)


@settings(deadline=None)
@given(
    values=st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3), max_size=5)
)
def test_json_lines_round_trip(tmp_path_factory, values):
    for name, opener in (("a.jsonl", open), ("a.jsonl.gz", gzip.open)):
        path = tmp_path_factory.mktemp("jsonl") / name
        with opener(path, "wt", encoding="utf-8", newline="") as file:
            file.writelines(json.dumps(value, ensure_ascii=False) + "\r\n\n" for value in values)
        assert list(read_jsonl(path)) == [(2 * index + 1, value) for index, value in enumerate(values)]


def test_bad_json_lines_are_named_by_number(tmp_path):
    path = tmp_path / "a.jsonl"
    for bad, words in ((b"{", "malformed"), (b'"\xff"', "not UTF-8"), (b"[" * 200_000, "deeply")):
        path.write_bytes(b"1\n\n" + bad + b"\n")
        rows = read_jsonl(path)
        assert next(rows) == (1, 1)
        with pytest.raises(InputError, match=words) as caught:
            next(rows)
        assert "line 3" in one_line(caught)
    compressed = gzip.compress(b"1\n" * 100_000)
    for content in (compressed[:-20], b"no gzip", compressed[:60] + b"\0" * 40):
        (tmp_path / "b.jsonl.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.jsonl\.gz") as caught:
            list(read_jsonl(tmp_path / "b.jsonl.gz"))
        one_line(caught)
    with pytest.raises(InputError, match="does not exist"):
        list(read_jsonl(tmp_path / "none.jsonl"))


# ----------------------------------------------------------------------------------------- lines, and parts of options


def test_lines_end_in_a_line_feed_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\ufeffa\u2028b\x0cc\x85d\r\n\n e\n", encoding="utf-8", newline="")
    assert read_lines(path) == ["a\u2028b\x0cc\x85d", "", " e"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    with pytest.raises(InputError, match=r"got no text in .*, expected one a line"):
        read_texts(path)
    path.write_text("a\n \n\n b\n")
    assert read_texts(path) == ["a", " b"]
    for content, words in ((b"a\rb", "carriage return within line 1"), ("a".encode("utf-16"), "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            read_lines(path)
        assert str(path) in one_line(caught)
    path.write_text('\ufeff{"a": 1}', encoding="utf-8")
    assert read_json(path) == {"a": 1} and list(read_jsonl(path)) == [(1, {"a": 1})]


def test_a_path_that_exists_is_one_part_of_an_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "x=y,z"):
        (tmp_path / name).touch()
    assert parts_of("last, avg,,") == ["last", "avg"]
    assert parts_of("c,a,b,weights:a,b,d") == ["c", "a,b", "weights:a,b", "d"]
    assert parts_of("n=a,b,x=y,z") == ["n=a,b", "x=y,z"]


def test_a_path_is_what_its_user_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "there").mkdir()
    for typed, meant in {
        "~/a": "/home/me/a",
        "--output=~/a": "--output=/home/me/a",
        "n=~/a,~/b": "n=/home/me/a,/home/me/b",
        "a~/b": "a~/b",
        "~": "~",
        "none/../b": "b",
        "--output=none/../b": "--output=b",
        "/none/../b": "/b",
        "there/..": "there/..",
        "..": "..",
    }.items():
        assert as_path(typed) == meant
