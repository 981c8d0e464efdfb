"""`granted data review` without its page: reports, Label Studio, users, and what is refused."""

import io
import json
import stat

import pyarrow.parquet as pq
import pytest

from granted.dataset_builders.construction.review.login import (
    ADDRESS,
    MOST_KEPT,
    TRIES,
    WAIT,
    Door,
    Users,
    hashed,
    is_loopback,
)
from granted.dataset_builders.construction.review.refusal import ReviewError
from granted.dataset_builders.construction.review.reviewing import Review
from granted.tests.review_runs import make_run, write_run


@pytest.fixture
def run(tmp_path):
    """A run of two images and a video, decided in part by two people."""
    run = make_run(tmp_path / "run", items=2, videos=1)
    review = Review(run, seed=5, share=0.5)
    for name, one in list(review.instances.items())[:4]:
        review.decide(name, "ana", "accept", seconds=4.0)
        if one.category == "Quantity":
            review.decide(name, "bo", "reject", seconds=2.0, reason="too easy")
    return run


def is_one_line(found, *words):
    code, _, error = found
    assert code == 2, error
    assert error.startswith("granted: ") and error.count("\n") == 1, error
    for word in words:
        assert str(word) in error
    return True


def test_a_report_is_printed_and_written_for_the_export(granted, run, tmp_path):
    names = [row["instance"] for row in pq.read_table(run / "check" / "rows.parquet").to_pylist()]
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"instance": name, "decision": "accept"}) + "\n" for name in names[:2]))
    code, out, error = granted("data", "review", run, "--report", "--gold", gold)
    assert code == 0, error
    for line in ("ana", "2 of 2", "0 of 1", "Cohen's kappa of 2 reviewers", "Quantity", "decisions that are needed"):
        assert line in out
    rows = pq.read_table(run / "review" / "rows.parquet").to_pylist()
    assert [(row["instance"], row["reviewer"], row["decision"], row["gold"]) for row in rows] == [
        (names[0], "ana", "accept", True),
        (names[1], "ana", "accept", True),
        (names[1], "bo", "reject", True),
        (names[2], "ana", "accept", False),
        (names[3], "ana", "accept", False),
        (names[3], "bo", "reject", False),
    ]
    record = json.loads((run / "review" / "stage.json").read_text())
    assert record["counts"] == {
        **{"instances": 6, "decided": 4, "decided_by_two": 2},
        **{"accept": 4, "fix": 0, "reject": 2, "null": 0},
    }
    assert record["seed"] == 5 and record["share"] == 0.5 and len(record["input_hash"]) == 64
    assert {row["category"] for row in record["agreement"]} == {"all", "Quantity"}
    assert [(one["reviewer"], one["right"], one["decided"]) for one in record["gold"]] == [("ana", 2, 2), ("bo", 0, 1)]


def test_decisions_go_to_label_studio_and_into_another_copy_of_the_run(granted, run, tmp_path):
    code, out, error = granted("data", "review", run, "--to-label-studio", tmp_path / "studio")
    assert code == 0, error
    assert {path.name for path in (tmp_path / "studio").iterdir()} == {
        "image.json",
        "image.xml",
        "video.json",
        "video.xml",
    }
    other = make_run(tmp_path / "other", items=2, videos=1)
    for media, new in (("image", 6), ("video", 0)):
        code, out, error = granted(
            "data", "review", other, "--from-label-studio", tmp_path / "studio" / f"{media}.json"
        )
        assert code == 0 and f"took in {new} new decisions" in out, error
    key = lambda one: (one.when, one.reviewer)  # noqa: E731
    assert sorted(Review(other).decisions(), key=key) == sorted(Review(run).decisions(), key=key)
    code, out, error = granted("data", "review", other, "--from-label-studio", tmp_path / "studio" / "image.json")
    assert code == 0 and "took in 0 new decisions" in out, error


def test_bad_input_is_one_line_and_changes_nothing(granted, run, tmp_path):
    before = Review(run).decisions()
    name = before[0].instance
    bad = tmp_path / "bad.jsonl"

    def refused(*arguments, words=()):
        assert is_one_line(granted("data", "review", *arguments), *words)

    refused(tmp_path / "none", "--report", words=["which is no folder"])
    refused(run, "--report", "--seed", "9", words=["got seed 9", "begun with 5"])
    refused(run, "--report", "--share", "1", words=["share"])
    for line, words in (
        ("{", "malformed JSON"),
        ("[]", "line 1"),
        (json.dumps({"instance": "x", "decision": "accept"}), "got the gold instance 'x'"),
        (json.dumps({"instance": name, "decision": "good"}), "got 'good'"),
        ("\n".join([json.dumps({"instance": name, "decision": "null"})] * 2), "twice"),
        ("", "no line"),
    ):
        bad.write_text(line)
        refused(run, "--report", "--gold", bad, words=[words])
    bad.write_text('[{"data": ')
    refused(run, "--from-label-studio", bad, words=["malformed JSON"])
    bad.write_text('[{"data": {"instance": "x"}, "annotations": []}]')
    refused(run, "--from-label-studio", bad, words=["got the instance 'x' in task 0"])
    assert granted("data", "review", run, "--to-label-studio", tmp_path / "studio")[0] == 0
    tasks = json.loads((tmp_path / "studio" / "image.json").read_text())
    (said,) = [one for one in tasks[0]["annotations"][0]["result"] if one["from_name"] == "decision"]
    said["value"]["choices"] = ["Not in the caption"]
    tasks[1]["annotations"].append(tasks[1]["annotations"][0] | {"result": [said]})
    bad.write_text(json.dumps(tasks))
    refused(run, "--from-label-studio", bad, words=["got no reviewer"])
    bad.write_text(json.dumps(tasks[:1]))
    refused(run, "--from-label-studio", bad, words=["got null as ana's decision", "which is decided already (accept)"])
    users = tmp_path / "users.txt"
    users.write_text(f"cy:{hashed('long enough')}\n")
    refused(
        run, "--from-label-studio", tmp_path / "studio" / "image.json", "--users-file", users, words=["'ana'", "cy"]
    )
    assert Review(run).decisions() == before and Review(run).store.gold() == {}


def test_a_page_that_others_reach_needs_users(granted, run, tmp_path, monkeypatch):
    monkeypatch.delenv("REVIEW_USERS", raising=False)
    for host in ("0.0.0.0", "192.168.0.7", "::", "example.org"):
        assert is_one_line(granted("data", "review", run, "--host", host), f"got host {host} without users")
    monkeypatch.setenv("REVIEW_USERS", "ana:password")
    assert is_one_line(granted("data", "review", run, "--host", "0.0.0.0"), "got line 1 of the environment variable")
    assert is_one_line(granted("data", "review", run, "--users-file", tmp_path / "none"), "No such file")
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8", "10.0.0.1", "")] == [
        *[True] * 4,
        False,
        False,
    ]


def test_users_are_added_and_their_passwords_stand_nowhere(granted, run, tmp_path, monkeypatch):
    path, secret = tmp_path / "users.txt", "correct horse"

    def add(name, password):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
        return granted("data", "review", run, "--users-file", path, "--add-user", name)

    for name, password in (("ana", secret), ("bo", "another one"), ("ana", secret + "!")):
        code, out, error = add(name, password)
        assert code == 0 and "added" in out and password not in out + error
    assert secret not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    users = Users.read(path)
    assert users.names() == ["ana", "bo"] or users.names() == ["bo", "ana"]
    assert users.allows("ana", secret + "!") and users.allows("bo", "another one")
    for name, password in (("ana", secret), ("bo", secret + "!"), ("cy", "another one"), ("", ""), ("ana", "")):
        assert not users.allows(name, password)
    before = path.read_text()
    assert is_one_line(add("cy", "short"), "got a password of 5 characters")
    assert is_one_line(add("a:b", "long enough"), "without a colon")
    assert is_one_line(granted("data", "review", run, "--add-user", "cy"), "without --users-file")
    assert path.read_text() == before


@pytest.mark.parametrize(
    "lines", ["", "# none\n", "ana", "ana:secret", "ana:scrypt$x", ":scrypt$YQ==$YQ==", "a:md5$a$b"]
)
def test_malformed_users_are_refused_without_showing_them(lines):
    with pytest.raises(ReviewError) as caught:
        Users(lines, "users.txt")
    assert "secret" not in str(caught.value) and "users.txt" in str(caught.value)


PASSWORD = "correct horse"


@pytest.fixture
def from_address():
    """`from_address(address)`: what is asked from now on comes from there."""
    before = ADDRESS.set("")
    yield ADDRESS.set
    ADDRESS.reset(before)


def test_after_some_wrong_passwords_the_right_one_has_to_wait(from_address):
    now = [1000.0]
    door = Door(Users(f"ana:{hashed(PASSWORD)}\nbo:{hashed(PASSWORD)}", "users"), clock=lambda: now[0])
    from_address("192.0.2.1")
    for number in range(TRIES - 1):
        assert not door.allows("ana", f"wrong {number}")
    assert door.allows("ana", PASSWORD), "the right one ends the count"
    for number in range(TRIES):
        now[0] += 1
        assert not door.allows("ana", f"wrong {number}")
    assert not door.allows("ana", PASSWORD) and not door.allows(" ana ", PASSWORD)
    assert door.allows("bo", PASSWORD)
    from_address("192.0.2.2")
    assert door.allows("ana", PASSWORD), "somebody else's tries keep nobody out"
    from_address("192.0.2.1")
    now[0] += WAIT - TRIES
    assert not door.allows("ana", PASSWORD)
    now[0] += 1
    assert door.allows("ana", PASSWORD), "tries while waiting make the wait no longer"


def test_addresses_of_one_network_count_as_one_and_what_is_kept_is_bounded(from_address):
    asked = []

    class Nobody:
        def allows(self, *given):
            return asked.append(given) or False

    door = Door(Nobody(), clock=lambda: 0.0)
    for number in range(TRIES + 3):
        from_address(f"2001:db8::{number}")
        door.allows("ana", "wrong")
    assert len(asked) == TRIES
    from_address("2001:db8:0:1::1")
    door.allows("ana", "wrong")
    assert len(asked) == TRIES + 1
    for number in range(MOST_KEPT):
        door.allows(f"name {number}", "wrong")
    assert len(door._failed) == MOST_KEPT


def test_rows_that_were_changed_after_decisions_are_refused(granted, run):
    rows = pq.read_table(run / "check" / "rows.parquet").to_pylist()
    write_run(run, [row | {"caption": "Another."} for row in rows])
    assert is_one_line(granted("data", "review", run, "--report"), "decisions about other texts (4 instances")
