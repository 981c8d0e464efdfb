"""utils/program.py: a user's mistake is one line and exit code 2, ours keep their traceback, a signal cleans up."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch

from granted.cli import adapt, construct, data, doctor, encode, evaluate, generate, push, review, train  # noqa: F401  they register commands
from granted.cli.registry import COMMANDS
from granted.utils.errors import InputError
from granted.utils.program import run_as_command


def raising(error):
    def command():
        raise error

    return command


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run something as a command; its exit code and the lines on stderr."""
    monkeypatch.setattr(sys, "argv", ["granted"])

    def run(command):
        try:
            run_as_command(command)
            code = 0
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("got a,\texpected b"), "granted: got a, expected b"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "'No space left on device' while writing /x/y"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (torch.OutOfMemoryError("CUDA out of memory"), "too little memory"),
        (MemoryError(), "too little memory"),
        (ModuleNotFoundError("No module named 'trl'", name="trl.trainer"), "pip install '.[train]' in a clone"),
        (ModuleNotFoundError("no", name="sentence_transformers"), "pip install '.[sentence-transformers]' in a clone"),
    ],
)
def test_what_the_user_or_the_machine_lacks_is_one_line_and_exit_code_2(ended, error, words):
    code, lines = ended(raising(error))
    assert code == 2 and len(lines) == 1 and words in lines[0] and lines[0].startswith("granted: ")


def test_the_traceback_of_a_users_mistake_is_shown_on_request(ended, monkeypatch):
    monkeypatch.setenv("GRANTED_DEBUG", "1")
    code, lines = ended(raising(InputError("got a")))
    assert code == 2 and lines[0].startswith("Traceback") and lines[-1] == "granted: got a"


@pytest.mark.parametrize("error", [KeyError("x"), ModuleNotFoundError("no", name="granted.x"), ValueError("a\nb")])
def test_a_mistake_of_ours_keeps_its_traceback_before_the_line_that_says_so(ended, error):
    code, lines = ended(raising(error))
    assert code == 1 and lines[0].startswith("Traceback")
    assert lines[-1].startswith(f"granted: this is a bug of granted ({type(error).__name__}: ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_lets_finally_run_and_says_how_to_go_on(ended, number, code):
    cleaned = []

    def command():
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)

    before = signal.getsignal(number)
    words = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert ended(command) == (code, [f"granted: {words}; run the same command again to go on"])
    assert cleaned == [True] and signal.getsignal(number) is before


def test_an_interrupt_while_libraries_load_ends_as_any_other():
    command = [sys.executable, "-X", "importtime", "-m", "granted.cli", "evaluate", "ted", "x", "--aggregator", "y"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if " torch." in line:
            break
    process.send_signal(signal.SIGINT)
    last = process.stderr.readlines()[-1]
    assert process.wait() == 130 and last == "granted: interrupted; run the same command again to go on\n"


def test_a_reader_that_goes_away_or_a_closed_stdout_is_no_error(tmp_path):
    command = f"{sys.executable} -m granted.cli data ted --kind sample --output {tmp_path}"
    for ending in ("/a | true", "/b >&-"):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command + ending], stderr=subprocess.PIPE, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "a" / "README.md").read_bytes() == (tmp_path / "b" / "README.md").read_bytes()


HELP = """
import sys
sys.argv[0] = "granted"                # as the command is started
sys.modules["diffusers"] = None        # an extra that is not installed
from granted import cli
for words in {commands}:
    sys.argv[1:] = [*words, "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, words
    assert "torch" not in sys.modules or words == ["train", "vqa"], words
"""


def test_help_needs_no_library_and_no_extra():
    # Stage 1 last: it shows the settings of a library.
    commands = sorted([[], *(name.split() for name in COMMANDS)], key=lambda words: words == ["train", "vqa"])
    code = HELP.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_package_that_runs_as_a_module_has_the_classes_registered(tmp_path):
    """Python finds a package's modules before it says in argv which one is run."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("import granted\n")
    (package / "__main__.py").write_text("from transformers import AutoConfig\nAutoConfig.for_model('granted')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-m", "mine"], os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`import granted` did not register its classes: {done.stderr[:400]}"
