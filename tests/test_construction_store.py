"""The store of calls: what was answered stays, whatever happens to the process, the disk or the file."""

import os
import signal
import sqlite3
from collections import namedtuple

import pytest

from granted.dataset_builders.construction import store as store_module
from granted.dataset_builders.construction.store import Call, CallStore, Spent
from granted.utils.errors import InputError


CALL = Call("caption", "a", 0, '{"caption": "ein Bär\\u0000 \\ud800"}', "stop", None, 10, 5, 0.5)


def test_what_was_added_is_found_as_it_was(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        store.add("k", CALL)
        assert store.find("k") == CALL and store.find("other") is None
    with CallStore(tmp_path / "calls.sqlite") as store:
        assert store.find("k") == CALL


def test_a_row_never_changes(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        store.add("k", CALL)
        with pytest.raises(Exception, match="UNIQUE"):
            store.add("k", CALL)


def test_the_cost_is_the_sum_of_the_calls(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        assert store.spent() == Spent()
        store.add("1", CALL)
        store.add("2", Call("caption", "b", 0, "?", "length", "cut", 7, 3, 1.0))
        store.add("3", Call("positive", "b", 0, "no", "refused", "HTTP 400", None, None, 1.0))
        assert store.spent() == Spent(3, 17, 8, uncounted=1, faulty=2, refused=1, seconds=2.5)
        assert store.spent("caption") == Spent(2, 17, 8, uncounted=0, faulty=1, refused=0, seconds=1.5)
        assert store.spent("caption").tokens == 25


def test_an_answer_survives_a_kill_the_moment_it_is_added(tmp_path):
    child = os.fork()
    if child == 0:
        with CallStore(tmp_path / "calls.sqlite") as store:
            for number in range(50):
                store.add(str(number), CALL)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with CallStore(tmp_path / "calls.sqlite") as store:
        assert store.spent().calls == 50


def test_a_full_disk_is_one_line_and_what_was_added_stays(tmp_path):
    with CallStore(tmp_path / "calls.sqlite") as store:
        store._db.execute("PRAGMA max_page_count = 8")  # SQLite then says what it says on a full disk
        added = 0
        with pytest.raises(InputError, match=r"got a full disk at .*free some"):
            for added in range(1000):
                store.add(str(added), CALL)
        assert 0 < store.spent().calls == added


def test_no_call_is_begun_where_its_answer_may_find_no_place(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with CallStore(tmp_path / "calls.sqlite") as store:
        store.require_space()
        monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
        with pytest.raises(InputError, match="got a full disk"):
            store.require_space()


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\1" * 500])
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content):
    (tmp_path / "calls.sqlite").write_bytes(content)
    with pytest.raises(InputError, match="expected a file of calls"), CallStore(tmp_path / "calls.sqlite"):
        pass
    assert (tmp_path / "calls.sqlite").read_bytes() == content


def test_a_file_of_other_columns_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "calls.sqlite") as db:
        db.execute("CREATE TABLE calls (key TEXT)")
    with pytest.raises(InputError, match="no such column"), CallStore(tmp_path / "calls.sqlite"):
        pass
