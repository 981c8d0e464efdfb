"""publishing/upload.py: what a push does to a Hub, what it never does, and how it ends when something fails.

The Hub is the one of loopback_hub.py; the client is huggingface_hub itself.
"""

import hashlib
import json
import traceback

import pytest
from huggingface_hub import constants

from granted.publishing import hub as asking
from granted.publishing.upload import push_folder
from granted.tests import loopback_hub as loopback
from granted.tests.loopback_hub import OWNER, READ_TOKEN, TOKEN, File, log_in
from granted.utils.errors import InputError


REPO = f"{OWNER}/granted"
WEIGHTS = bytes(range(256)) * 4000  # a megabyte, more than one packet
COMMIT, TAG, BLOB = "/commit/", "/tag/", "^/lfs/.*[0-9a-f]{64}$"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The seconds between retries, ours and the library's, which nobody waits."""
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def answer_first(monkeypatch):
    """`answer_first(method, path, do)`: a request with `path` in its own first meets `do(hub, request)`."""

    def hook(method, path, do):
        def both(route):
            return lambda hub, request: do(hub, request) or route(hub, request)

        routes = [
            (methods, pattern, both(route) if method in methods and path in pattern else route)
            for methods, pattern, route in loopback.ROUTES
        ]
        monkeypatch.setattr(loopback, "ROUTES", routes)

    return hook


@pytest.fixture
def folder(tmp_path):
    """A small release: a card, a folder in it, and two large files."""
    path = tmp_path / "release"
    (path / "aggregator").mkdir(parents=True)
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Granted\n")
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "aggregator" / "model.safetensors").write_bytes(WEIGHTS[::-1])
    return path


def push(folder, repo_id=REPO, repo_type="model", **options):
    return push_folder(folder, repo_id, repo_type, **{"message": "Release"} | options)


def refused(folder, *arguments, **options) -> str:
    """The one line with which a push ends."""
    with pytest.raises(InputError) as caught:
        push(folder, *arguments, **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 600
    for secret in (TOKEN, READ_TOKEN, "Bearer", "uthorization:", "Signature", "?"):
        assert secret not in line, line
    return line


def content(hub, repo_id=REPO, kind="models") -> dict[str, bytes]:
    files = hub.repos[kind, repo_id].head.files
    return {path: file.content for path, file in files.items() if path != ".gitattributes"}


def local(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("repo_type", "kind", "url"),
    [("model", "models", ""), ("dataset", "datasets", "datasets/"), ("space", "spaces", "spaces/")],
)
def test_a_push_makes_the_repository_equal_to_the_folder_in_one_commit(hub, folder, repo_type, kind, url):
    sdk = "static" if repo_type == "space" else None
    pushed = push(folder, REPO, repo_type, tag="v0.1.0", message="Release 0.1.0", space_sdk=sdk)
    repo = hub.repos[kind, REPO]
    assert content(hub, REPO, kind) == local(folder)
    assert [commit.title for commit in repo.commits] == ["initial commit", "Release 0.1.0"]
    assert pushed.commit == repo.head.oid and repo.tags == {"v0.1.0": repo.head.oid}
    assert (pushed.repo_id, pushed.url, pushed.tag) == (REPO, f"{hub.url}/{url}{REPO}", "v0.1.0")
    assert repo.sdk == sdk


def test_large_files_go_to_the_large_file_storage_and_small_ones_into_the_commit(hub, folder):
    push(folder)
    files = hub.repos["models", REPO].head.files
    assert {path for path, file in files.items() if file.is_lfs} == {
        "model.safetensors",
        "aggregator/model.safetensors",
    }
    assert hub.count("PUT", BLOB) == 2
    assert len(hub.requests("POST", COMMIT)[0].body) < 2000


def test_a_second_push_makes_no_commit_and_sends_no_file(hub, folder):
    first = push(folder, tag="v1")
    hub.log.clear()
    second = push(folder, tag="v1")
    assert second.commit is None and second.url == first.url and second.tag == "v1"
    assert {request.method for request in hub.log} == {"GET"}
    assert len(hub.repos["models", REPO].commits) == 2


def test_a_tag_can_be_added_to_what_was_pushed_before(hub, folder):
    first = push(folder)
    assert push(folder, tag="v1").commit is None
    assert push(folder, tag="v2").commit is None
    assert hub.repos["models", REPO].tags == {"v1": first.commit, "v2": first.commit}


def test_a_changed_folder_sends_only_what_changed_and_deletes_what_is_gone(hub, folder):
    push(folder, tag="v1")
    (folder / "config.json").write_text("[]")  # as long as before
    (folder / "aggregator" / "model.safetensors").unlink()
    (folder / "notes.md").write_text("new")
    hub.log.clear()
    push(folder, tag="v2")
    assert content(hub) == local(folder)
    assert hub.count("POST", COMMIT) == 1 and hub.count("PUT", BLOB) == 0
    sent = [json.loads(line) for line in hub.requests("POST", COMMIT)[0].body.splitlines()]
    assert [(line["key"], line["value"]["path"]) for line in sent[1:]] == [
        ("deletedFile", "aggregator/model.safetensors"),
        ("file", "config.json"),
        ("file", "notes.md"),
    ]
    repo = hub.repos["models", REPO]
    assert ".gitattributes" in repo.head.files
    assert set(repo.at("v1").files) - set(repo.at("v2").files) == {"aggregator/model.safetensors"}


def test_large_content_of_the_same_size_is_told_apart(hub, folder):
    push(folder)
    (folder / "model.safetensors").write_bytes(b"\1" + WEIGHTS[1:])
    hub.log.clear()
    assert push(folder).commit
    assert hub.count("PUT", BLOB) == 1 and content(hub) == local(folder)


def test_a_release_of_many_files_is_still_one_commit(hub, tmp_path):
    for i in range(300):  # upload_folder of huggingface_hub 2 would make two
        (tmp_path / f"{i}.txt").write_text(str(i))
    push(tmp_path)
    assert hub.count("POST", COMMIT) == 1
    assert content(hub) == local(tmp_path)


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_unless_asked_and_an_existing_one_stays_as_it_is(hub, folder, private):
    push(folder, **({} if private else {"private": False}))
    assert hub.repos["models", REPO].private is private
    (folder / "config.json").write_text("{ }")
    push(folder, private=not private)
    assert hub.repos["models", REPO].private is private
    assert hub.count("POST", "/api/repos/create") == 1


@pytest.mark.parametrize("changed", [True, False])
def test_a_tag_at_another_commit_is_refused_before_anything_is_sent(hub, folder, changed):
    first = push(folder, tag="v1")
    (folder / "config.json").write_text("[1]")
    if not changed:
        push(folder)  # the folder is as the head, but not as the tag
    hub.log.clear()
    line = refused(folder, tag="v1")
    assert "v1" in line and first.commit[:7] in line and "choose another" in line
    assert {request.method for request in hub.log} == {"GET"}
    assert hub.repos["models", REPO].tags == {"v1": first.commit}


def test_a_name_in_use_as_another_type_is_refused(hub, folder):
    push(folder, REPO, "dataset")
    line = refused(folder, REPO, "model")
    assert "is a dataset" in line and "choose another" in line
    assert list(hub.repos) == [("datasets", REPO)]


def test_where_it_cannot_be_seen_whether_a_name_is_in_use_the_push_goes_on(hub, folder):
    hub.fail_next("GET", "/api/(datasets|spaces)/", 403, times=2)
    assert push(folder).commit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repo_id": "granted"}, "namespace/name"),
        ({"repo_id": "me/my granted"}, "me/my granted"),
        ({"repo_type": "models"}, "model, dataset or space"),
        ({"repo_type": "space"}, "SDK"),
        ({"space_sdk": "gradio"}, "SDK"),
        ({"repo_type": "space", "space_sdk": "flask"}, "got the SDK 'flask'"),
        ({"tag": "v 1"}, "tag"),
        ({"tag": "-v1"}, "tag"),
        ({"tag": "v1..2"}, "tag"),
        ({"tag": "v1.lock"}, "tag"),
        ({"tag": "0.1.0"}, "expected a v before the numbers: v0.1.0"),
        ({"message": " "}, "message"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line_and_changes_nothing(hub, folder, options, words):
    assert words in refused(folder, **options)
    assert {request.method for request in hub.log} <= {"GET"}


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_a_folder_without_files_is_refused_rather_than_emptying_a_repository(hub, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "empty":
        (path / "deeper").mkdir(parents=True)
    elif kind == "file":
        path.write_text("a file")
    assert "holds no files" in refused(path)
    assert hub.log == []


def test_a_card_whose_metadata_is_broken_is_refused_before_anything_is_sent(hub, folder):
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert "README.md" in refused(folder)
    assert hub.count("PUT", BLOB) == hub.count("POST", COMMIT) == 0


def test_a_folder_takes_the_place_of_a_file(hub, folder):
    push(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    (folder / "config.json" / "x").write_text("a folder where a file was")
    push(folder)
    assert content(hub) == local(folder)


def test_a_git_folder_is_refused(hub, folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    assert ".git" in refused(folder)
    assert hub.log == []


def test_results_in_a_hidden_folder_are_pushed_as_the_hub_looks_for_them(hub, folder):
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "ted-6k.yaml").write_text("- dataset: {id: a/b, task_id: c}\n  value: 0.5\n")
    push(folder)
    assert ".eval_results/ted-6k.yaml" in hub.repos["models", REPO].head.files


# Tokens.


def test_without_a_token_nothing_is_asked_of_the_hub(hub, folder, tmp_path, monkeypatch):
    log_in(tmp_path, monkeypatch, None)
    assert "hf auth login" in refused(folder)
    assert hub.log == []


def test_a_token_that_no_header_can_carry_is_not_quoted(hub, folder, tmp_path, monkeypatch):
    log_in(tmp_path, monkeypatch, "hf_with\x01control")
    line = refused(folder)
    assert "hf auth login" in line and "control" not in line


def test_a_wrong_token_is_one_line(hub, folder, tmp_path, monkeypatch):
    log_in(tmp_path, monkeypatch, "hf_wrong")
    line = refused(folder)
    assert "401" in line and "hf auth login" in line and "hf_wrong" not in line


def test_a_token_without_permission_is_one_line_for_a_new_and_for_an_existing_repository(
    hub, folder, tmp_path, monkeypatch
):
    log_in(tmp_path, monkeypatch, READ_TOKEN)
    assert "403" in refused(folder)
    log_in(tmp_path, monkeypatch, TOKEN)
    push(folder)
    (folder / "config.json").write_text("[1]")
    log_in(tmp_path, monkeypatch, READ_TOKEN)
    assert "may not write" in refused(folder)
    log_in(tmp_path, monkeypatch, TOKEN)
    assert "403" in refused(folder, "somebody/else")
    assert len(hub.repos) == 1


@pytest.mark.parametrize("token", [TOKEN, "eyJhbGciOi.J9.not-of-the-usual-form"])
def test_what_a_server_quotes_does_not_bring_secrets_into_the_message(
    hub, folder, tmp_path, monkeypatch, answer_first, token
):
    def echo(hub, request):
        authorization, place = request.headers["Authorization"], "https://storage/a?Signature=secret&more"
        raise loopback.Refusal(400, f"cannot read {request.token} of '{authorization}' at {place}")

    hub.tokens[token] = (OWNER, True)
    log_in(tmp_path, monkeypatch, token)
    answer_first("GET", "/api/", echo)
    line = refused(folder)
    assert "400" in line and "https://storage/a" in line and token not in line


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("failure", [500, "drop"])
def test_neither_output_nor_log_nor_traceback_of_a_push_shows_the_token_or_a_signed_address(
    hub, folder, capfd, caplog, failure, times
):
    caplog.set_level("DEBUG")
    hub.fail_next("PUT", BLOB, failure, times)
    lines = []
    try:
        push(folder, tag="v1", report=lines.append)
    except InputError:
        lines.append(traceback.format_exc())
    out, err = capfd.readouterr()
    assert hub.count("PUT", BLOB) > 1 and "/lfs/" in caplog.text, "this test would see nothing"
    for secret in (TOKEN, "Signature"):
        assert secret not in out + err + caplog.text + "".join(lines)


# Failures on the way.

STEPS = [
    ("GET", "^/api/models/[^/]*/[^/]*$"),
    ("POST", "/api/repos/create"),
    ("GET", "/tree/"),
    ("GET", "/refs"),
    ("POST", "/api/validate-yaml"),
    ("POST", "/preupload/"),
    ("POST", "/objects/batch"),
    ("PUT", BLOB),
    ("POST", "/verify"),
    ("POST", COMMIT),
    ("POST", TAG),
]


def pushed_once(hub, folder, repo_id=REPO) -> bool:
    """Whether the Hub has the folder, by one commit, and the tag."""
    repo = hub.repos["models", repo_id]
    return (
        content(hub, repo_id) == local(folder)
        and [commit.title for commit in repo.commits] == ["initial commit", "Release"]
        and repo.tags == {"v1": repo.head.oid}
    )


def test_a_push_finishes_by_itself_where_three_of_ten_requests_go_wrong(hub, folder, monkeypatch):
    monkeypatch.setattr(asking, "TIMEOUT", 0.5)
    for seed in range(6):
        hub.fail_at_random(0.3, seed)
        commit = push(folder, f"{OWNER}/{seed}", tag="v1").commit
        assert pushed_once(hub, folder, f"{OWNER}/{seed}"), "something is missing, or was done twice"
        assert commit == hub.repos["models", f"{OWNER}/{seed}"].head.oid


@pytest.mark.parametrize("failure", [500, 429, "drop", "lose"])
@pytest.mark.parametrize(("method", "path"), STEPS)
def test_a_push_that_broke_off_anywhere_is_finished_by_a_rerun_and_nothing_is_doubled(
    hub, folder, monkeypatch, method, path, failure
):
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    hub.fail_next(method, path, failure, times=1000)
    line = refused(folder, tag="v1")
    assert "run it again to go on" in line and REPO in line
    hub.stop_failing()
    push(folder, tag="v1")
    assert pushed_once(hub, folder)
    stored = [request.path for request in hub.requests("PUT", BLOB) if request.status == 200]
    assert len(stored) == len(set(stored)) <= 2


@pytest.mark.parametrize(("method", "path"), STEPS)
def test_an_effect_whose_answer_was_lost_is_not_repeated(hub, folder, method, path):
    hub.fail_next(method, path, "lose")
    assert push(folder, tag="v1").commit == hub.repos["models", REPO].head.oid
    assert pushed_once(hub, folder)


@pytest.mark.parametrize(("method", "path"), STEPS)
def test_a_hub_that_never_answers_is_given_up(hub, folder, monkeypatch, method, path):
    monkeypatch.setattr(asking, "ATTEMPTS", 1)
    monkeypatch.setattr(asking, "TIMEOUT", 0.3)
    hub.fail_next(method, path, "hang", times=1000)
    assert "check the network, run it again" in refused(folder, tag="v1")


OTHER_JSON = [
    b"",
    b"<html>",
    b"null",
    b"5",
    b'"yes"',
    b"[]",
    b"[[]]",
    b"{}",
    b'{"sha": 5, "commitOid": 5, "commitUrl": 5, "files": 5, "objects": 5, "tags": 5, "id": 5}',
    b'{"files": [{}], "objects": [{}], "tags": [{}], "branches": [{}], "sha": null, "url": null}',
    b'[{"type": "file", "path": 5, "size": "x", "oid": []}]',
]


@pytest.mark.parametrize(("method", "path"), STEPS)
def test_an_answer_that_is_not_the_hubs_is_one_line_if_it_matters(hub, folder, monkeypatch, method, path):
    monkeypatch.setattr(asking, "ATTEMPTS", 2)
    for i, other in enumerate(OTHER_JSON):
        repo_id = f"{OWNER}/{i}"
        hub.fail_next(method, path, loopback.Answer(other), times=1000)
        try:
            push(folder, repo_id, tag="v1")
            assert pushed_once(hub, folder, repo_id)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, other
            hub.stop_failing()
            push(folder, repo_id, tag="v1")
            assert pushed_once(hub, folder, repo_id)
        hub.stop_failing()


@pytest.mark.parametrize("headers", [{"Retry-After": "77"}, {"RateLimit": '"api";r=0;t=77'}])
def test_the_hub_is_given_the_time_it_asks_for(hub, folder, no_waiting, headers):
    hub.fail_next("GET", "/refs", loopback.Answer(b"{}", 429, headers))
    lines = []
    push(folder, tag="v1", report=lines.append)
    assert max(no_waiting) >= 77 and "HTTP 429" in lines[0] and "trying again in 77 s" in lines[0]
    hub.fail_next("GET", "/refs", loopback.Answer(b"{}", 429, {"Retry-After": "86400"}))
    assert "wait 86400 s, then run it again" in refused(folder, tag="v2")


@pytest.mark.parametrize("failure", [500, "drop"])
def test_a_short_trouble_is_not_noticed(hub, folder, no_waiting, failure):
    hub.fail_next("PUT", BLOB, failure)
    hub.fail_next("POST", "/preupload/", failure)
    assert push(folder).commit
    assert content(hub) == local(folder)
    assert len(no_waiting) >= 2, "the library waits before it tries again"


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_whoever_ends_a_push_is_obeyed_at_once(hub, end):
    calls = []

    def interrupted():
        calls.append(end)
        raise end

    with pytest.raises(end):
        asking.Hub(REPO, "model", report=print).ask(interrupted)
    assert len(calls) == 1, "it was asked again after Ctrl-C or SIGTERM"


def test_large_files_that_arrived_before_a_failure_are_not_sent_again(hub, folder):
    hub.fail_next("POST", COMMIT, 403)
    refused(folder)
    assert hub.count("PUT", BLOB) == 2
    push(folder)
    assert hub.count("PUT", BLOB) == 2
    assert set(hub.repos["models", REPO].lfs) == {
        hashlib.sha256(WEIGHTS).hexdigest(),
        hashlib.sha256(WEIGHTS[::-1]).hexdigest(),
    }


def test_a_commit_of_somebody_else_in_the_meantime_is_not_overwritten(hub, folder, answer_first):
    push(folder)
    repo = hub.repos["models", REPO]
    (folder / "config.json").write_text("[1]")
    theirs = repo.head.files | {"theirs.md": File(b"kept")}
    answer_first("POST", "/preupload/", lambda hub, request: repo.commit("theirs", theirs))
    assert "412" in refused(folder, tag="v1")
    assert repo.head.title == "theirs" and repo.tags == {}


def test_a_hub_that_is_not_there_is_one_line(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert "check the network" in refused(folder)


def test_offline_mode_is_named(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_goes_away_during_the_push_is_named(hub, folder, answer_first, name):
    answer_first("POST", "/preupload/", lambda hub, request: (folder / name).unlink())
    line = refused(folder)
    assert str(folder / name) in line and "No such file" in line
    assert hub.count("POST", COMMIT) == 0
