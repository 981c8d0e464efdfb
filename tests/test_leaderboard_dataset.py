"""Results that are pushed as a dataset: others' boards and Spaces show what was measured, from a Hub and offline.

The Hub is the one of loopback_hub.py; every command is a process of its own.
"""

import json
import subprocess
import sys
import urllib.request

import pytest

from granted.eval_metric.leaderboard.board import Board
from granted.tests.loopback_hub import OWNER, TOKEN, Answer
from granted.tests.ted_results import ARMS, make, rows_of
from granted.tests.test_leaderboard import served
from granted.tests.test_review_page import free_port


DATASET = f"{OWNER}/granted-results"
READ = """
import json
import sys

from granted.eval_metric.leaderboard.dataset import read_board
from granted.utils.errors import InputError

answers = []
for spec in sys.argv[1:]:
    lines = []
    try:
        answers.append([read_board(spec, lines.append).content, lines])
    except InputError as error:
        answers.append([str(error), lines])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """TED of two encoders, reading, and a file that is damaged."""
    folder = tmp_path_factory.mktemp("results")
    for encoder, quality in (("tiny", 0.2), ("large", 2.0)):
        make(encoder, "last", quality=quality).save(folder / "ted")
    (folder / "reading").mkdir()
    content = rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2), ["all"])
    (folder / "reading" / "reading.json").write_text(json.dumps(content))
    (folder / "reading" / "cut.json").write_text(json.dumps(content)[:100])
    return folder


def run(*command, environment):
    ran = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return ran.stdout


def read(*specs, environment):
    """Of each spec what a board shows, or the line with which it was refused; and the lines said before."""
    return json.loads(run("-c", READ, *specs, environment=environment))


def test_what_is_pushed_is_shown_by_other_boards_and_by_a_space(results, loopback_hub, tmp_path):
    hub, release = loopback_hub, tmp_path / "release"
    command = ("-m", "granted.cli", "push", "--results", results, "--to", OWNER, "--public", "--output")
    owner = hub.environment(tmp_path / "owner", TOKEN)
    said = run(*command, release, "--leaderboard", DATASET, environment=owner)
    assert "left out reading/cut.json: got malformed JSON" in said
    pushed = hub.repos["datasets", DATASET].head.files
    files = {path.relative_to(results).as_posix() for path in results.rglob("*.*") if path.name != "cut.json"}
    assert pushed.keys() - {".gitattributes"} == files | {"README.md", "leaderboard.json"}
    assert all(pushed[name].content == (results / name).read_bytes() for name in files)

    reader = hub.environment(tmp_path / "reader")
    expected = {name: value for name, value in Board(results).content.items() if name != "apart"} | {"apart": []}
    expected = json.loads(json.dumps(expected))
    ((online, lines),) = read(DATASET, environment=reader)
    assert (online, lines) == (expected, [])
    last = hub.repos["datasets", DATASET].head.oid
    ((offline, lines),) = read(DATASET, environment=reader | {"HF_HUB_OFFLINE": "1"})
    assert offline == expected and lines == [
        f"the Hub was not reached: these are the results of commit {last[:7]}, from the cache"
    ]

    # A Space shows what is there when it starts; it is not built again.
    assert sorted(path.name for path in (release / "granted-leaderboard").iterdir()) == [
        "README.md",
        "app.py",
        "requirements.txt",
    ]
    more = rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2, 0.9), ["all"], [*ARMS, ("huge", "last")])
    (results / "reading" / "reading.json").write_text(json.dumps(more))
    run(*command, tmp_path / "second", environment=owner)
    space = (release / "granted-leaderboard").rename(tmp_path / "space")
    port, known = free_port(), hub.environment(tmp_path / "home")
    environment = {name: known[name] for name in ("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET")}
    environment |= {"HF_HUB_OFFLINE": "0", "GRADIO_SERVER_PORT": str(port)}
    with (
        served(["-I", "app.py"], space, port, **environment) as address,
        urllib.request.urlopen(f"{address}config") as answer,
    ):
        page = answer.read().decode()
    assert "huge · last" in page and "large · last" in page


def test_a_dataset_that_cannot_be_read_is_one_line(loopback_hub, tmp_path):
    hub = loopback_hub
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "other" / "list.json").write_text("[]")
    for name in ("other", "gated"):
        hub.hold(tmp_path / "other", f"{OWNER}/{name}")
    hub.hold(tmp_path / "other", f"{OWNER}/private").private = True
    gated = Answer(b"", 403, {"X-Error-Code": "GatedRepo"})
    hub.fail_next("HEAD", f"{OWNER}/gated/resolve", gated, times=100)
    expected = {
        f"{OWNER}/nothing": "no dataset on the Hub that this login may see",
        f"{OWNER}/private": "no dataset on the Hub that this login may see",
        f"{OWNER}/gated": "the gated dataset me/gated",
        f"{OWNER}/other@v9": "no revision v9 of me/other",
        f"{OWNER}/other": "the dataset me/other without a single result",
        "no-such-folder": "got no-such-folder, expected a folder",
        "a/b/c": "got a/b/c, expected a folder",
    }
    reader = hub.environment(tmp_path / "reader")
    for (said, lines), reason in zip(read(*expected, environment=reader), expected.values(), strict=True):
        assert reason in said and "\n" not in said and str(tmp_path) not in said and lines == []
    assert not hub.requests("GET", "safetensors"), "something else than results was fetched"
    ((said, _),) = read(f"{OWNER}/elsewhere", environment=reader | {"HF_HUB_OFFLINE": "1"})
    assert "not whole in the cache" in said and "\n" not in said
