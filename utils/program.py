"""How a program of ours begins and ends: what the user got wrong is one line, and an interrupt says how to go on.

    run_as_command(main)                             # of `granted`

Exit codes: 2 for what the user got wrong or the machine lacks, 128 and the signal's number for Ctrl-C (130), SIGTERM
(143) and SIGHUP (129), and 1 for a mistake of ours, whose traceback is shown; that of a user's mistake is shown with
GRANTED_DEBUG=1. Hardly anything is imported before
`run_as_command` begins: an interrupt while libraries load ends as any other. Tests: tests/test_program.py.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from granted.utils.errors import InputError


def run_as_command(command: Callable[[], object]) -> None:
    """Run a command and end the process as its outcome asks, see above; one that succeeds returns."""
    code = 0
    try:
        with _signals_as_exits():
            _open_streams()
            sys.argv[1:] = _arguments(sys.argv[1:])
            command()
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:  # nobody reads on, as in `granted ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + 13  # SIGPIPE
    except Exception as error:
        code, line = _explain(error)
        _say(line)
    if code == 128 + signal.SIGINT:
        _say("interrupted; run the same command again to go on")
    elif code in _STOPPED:
        _say(f"stopped by {_STOPPED[code].name}; run the same command again to go on")
    if code:
        sys.exit(code)


def prepare_libraries() -> None:
    """What a command's work begins with: our classes are known to transformers, which is silent from here on."""
    import warnings

    import transformers

    import granted

    granted.register()
    # About names that its own libraries use: nothing that a user of a command could change.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_STOPPED = {128 + number: number for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number}


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Make an exception of the signals that end a process, so that it removes what it has not finished."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    # A signal that the caller ignores, as nohup does, stays ignored.
    before = {number: signal.getsignal(number) for number in _STOPPED.values()}
    before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_streams() -> None:
    """No file gets the number of a stream that is closed; what stdout cannot spell is escaped."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115  it takes the lowest free number
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _arguments(arguments: Sequence[str]) -> list[str]:
    from granted.utils.files import as_path

    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"got {argument!r}, which is not UTF-8, as libraries expect names: rename it") from error
    return [as_path(argument) for argument in arguments]


def _explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for what ended a command; of a mistake of ours the traceback is printed."""
    from granted.utils.files import unwritable

    reason = " ".join(str(error).split())
    name = type(error).__name__  # of what loads torch, which is not loaded for a message
    if isinstance(error, InputError) or name == "NotFiniteError":
        if os.environ.get("GRANTED_DEBUG"):
            _show_traceback(error)
        return 2, str(error)
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_of(error.name or "")):
        return 2, f"got no {error.name}, expected the extra {extra}: pip install '.[{extra}]' in a clone of granted"
    if isinstance(error, OSError) and (problem := unwritable(error)):
        place = f" while writing {error.filename}" if error.filename else ""
        return 2, f"got '{problem}'{place}, expected a writable place with free space: free some or choose another"
    if name in ("MemoryError", "OutOfMemoryError") or "allocate memory" in reason:
        return 2, f"got too little memory ({reason}): lower batch size or token budget, or choose another dtype"
    _show_traceback(error)
    return 1, f"this is a bug of granted ({name}: {reason}): report it with the traceback above"


def _show_traceback(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)


def _extra_of(module: str) -> str | None:
    """The extra of this package that installs a module."""
    import re
    from importlib.metadata import PackageNotFoundError, requires

    wanted = module.partition(".")[0].replace("_", "-")
    if wanted == "granted":
        return None
    try:
        lines = requires("granted") or []
    except PackageNotFoundError:
        return None
    found = (re.match(r"([\w.-]+).*extra\s*==\s*[\"']([\w-]+)[\"']", line) for line in lines)
    return next((match[2] for match in found if match and match[1].replace("_", "-") == wanted), None)


def _say(message: str) -> None:
    """Print a message, each of its lines as one."""
    lines = [" ".join(line.split()) for line in message.split("\n")]
    print("granted:", "\n".join(lines), file=sys.stderr)  # noqa: T201
