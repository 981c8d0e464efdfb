"""Reading and writing files: a reader never sees half of one, and a bad one is named in one line.

    with atomic_path("scores.parquet") as temporary:      # written beside its place, then renamed
        write_table(table, temporary)
    for line_number, row in read_jsonl("pairs.jsonl.gz"):  # streamed
        ...
"""

import csv
import errno
import fnmatch
import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from granted.utils.errors import InputError


try:
    import fcntl
except ImportError:  # not on Windows, where the temporary files of a killed process stay
    fcntl = None

# What the operating system says when the place cannot be written to, as against a network error or a failed read.
_UNWRITABLE = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    )
)
_LOCK = "granted.lock"  # in a temporary folder: held as long as the process that made it lives
_looked_at: set[Path] = set()  # folders in which this process has looked for what killed ones left


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path (of a file or a folder to create), renamed to `path` when the block succeeds.

    The parent folder is created. If the block fails the temporary is removed and `path` is as it was before. A file
    replaces a file and a folder replaces a folder as a whole; a file never replaces a folder, nor a folder a file, and
    nothing replaces a device such as `/dev/null`, which root could.
    What a killed process has left in the same parent folder is removed.

    Args:
        path (`str` or `os.PathLike`): the file or folder to make; of a link, what it points to.

    Raises:
        InputError: the disk is full, the place is not writable, or something else than a file or folder is there.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise InputError(f"got {path}, which is neither a file nor a folder, expected a place to write to")
    workplace = None
    new_parents: list[Path] = []
    try:
        new_parents = [parent for parent in target.parents if not parent.exists()]  # the deepest first
        target.parent.mkdir(parents=True, exist_ok=True)
        with _workplace(target) as workplace:
            temporary = workplace / target.name
            yield temporary
            if temporary.is_dir() and target.is_dir():
                retired = workplace / f"{target.name}.old"
                target.rename(retired)
                try:
                    temporary.rename(target)
                except OSError:
                    retired.rename(target)
                    raise
            else:
                os.replace(temporary, target)
    except Exception as error:  # safetensors, tokenizers and torch have errors of their own
        # Before there is a workplace, any error is about the place.
        reason = unwritable(error, target.parent) if workplace else str(getattr(error, "strerror", None) or error)
        _refuse(reason, error, path, target, workplace)
        raise
    finally:
        for parent in new_parents:
            with suppress(OSError):  # not empty: the target is there, or another process writes into it
                parent.rmdir()


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A private folder beside the target: same file system, no clash with another process; removed at the end."""
    remove_abandoned(target.parent)
    workplace = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent))
    try:
        with open(workplace / f"{_LOCK}.new", "w") as lock:
            with suppress(OSError):  # a file system without locks: nobody will know when this process is dead
                if fcntl:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    os.rename(lock.name, workplace / _LOCK)  # only now: a lock that can be seen is held
            yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove from a folder what `atomic_path` has left in it when its process was killed. A process looks once.

    `atomic_path` does it itself: only for a folder into which going on may have nothing left to write.

    Args:
        parent (`Path`): the folder; what living processes are writing in it stays.
    """
    if fcntl is None or parent in _looked_at:
        return
    _looked_at.add(parent)
    for workplace in parent.glob(".*.tmp"):
        with suppress(OSError), open(workplace / _LOCK, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(workplace, ignore_errors=True)


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Remove what `atomic_path` leaves in a folder, and in those inside it, when its process is killed.

    Only for a folder that no other process is writing into: their temporaries look the same.
    """
    for path in list(Path(folder).rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def unwritable(error: Exception, folder: str | os.PathLike = ".") -> str | None:
    """The operating system's reason if a file could not be written, and `None` for any other error.

    Args:
        error (`Exception`): what a library raised.
        folder (`str` or `os.PathLike`): where it wrote; a torch that cannot write says nothing about the reason.
    """
    number = _error_number(error)
    if number is None and isinstance(error, RuntimeError) and _from_torch_save(error):
        if shutil.disk_usage(folder).free >= 1 << 16:
            return "a file that was cut short"  # by a quota, or a limit of files
        number = errno.ENOSPC
    return os.strerror(number) if number in _UNWRITABLE else None


def _from_torch_save(error: Exception) -> bool:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    places = {(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame in frames}
    return ("torch.serialization", "save") in places


@contextmanager
def writing(folder: str | os.PathLike) -> Iterator[None]:
    """For libraries that write into a folder by themselves, such as checkpoints; for all else there is `atomic_path`.

    Raises:
        InputError: the disk is full or the folder is not writable.
    """
    target = Path(os.path.abspath(folder))
    try:
        yield
    except Exception as error:
        _refuse(unwritable(error, folder), error, folder, target, target)
        raise


def _refuse(
    reason: str | None, error: Exception, path: str | os.PathLike, target: Path, workplace: Path | None
) -> None:
    """Raise an InputError if there is a reason why `path` could not be written, and the error is about that path."""
    if reason is not None and _concerns(error, target, workplace):
        raise InputError(
            f"got '{reason}' while writing {path}, expected a writable place with free space: "
            "free some or choose another place"
        ) from error


def _error_number(error: Exception) -> int | None:
    """The operating system's number of an error, which safetensors and tokenizers give in its message only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _concerns(error: Exception, target: Path, workplace: Path | None) -> bool:
    """Whether an error is about the writing of `target`: by its file, its two files if it copied, or having none."""
    names = [name for attribute in ("filename", "filename2") if (name := getattr(error, attribute, None)) is not None]
    paths = [Path(os.path.abspath(os.fsdecode(name))) for name in names if isinstance(name, str | bytes)]
    if workplace is None or not paths:
        return True
    return any(target.is_relative_to(path) or path.is_relative_to(workplace) for path in paths)


def folder_name(name: str) -> str:
    """A name for a folder or file that stands for `name` alone: itself, or what can be kept of it and a hash of it."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:80].strip("-.")
    return name if kept == name else f"{kept or 'name'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def files_below(folder: str | os.PathLike, *patterns: str) -> list[Path]:
    """The files anywhere below a folder that have one of the names, in order; behind links to folders, too.

    Args:
        folder (`Path`): where to look; each folder is looked at once, so that a link upwards does no harm.
        patterns (`str`): names such as `"*.json"`.
    """
    found, seen = [], set()
    for place, inside, names in os.walk(folder, followlinks=True):
        inside.sort()
        if (real := os.path.realpath(place)) in seen:
            inside.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if any(fnmatch.fnmatch(name, one) for one in patterns)]
    return sorted(found)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. NaN is refused (it is not JSON)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def read_text(path: str | os.PathLike) -> str:
    """Read a UTF-8 file, with or without a byte order mark, as it is: no line end is changed.

    Raises:
        InputError: the file is missing or not readable, or is not UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(error, path, "a text file") from error


def read_lines(path: str | os.PathLike) -> list[str]:
    """Read the lines of a UTF-8 text file: they end in a line feed, with or without a carriage return before it.

    Raises:
        InputError: as of `read_text`, or a line holds a carriage return.
    """
    lines = read_text(path).split("\n")
    lines = [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]
    for number, line in enumerate(lines, start=1):
        if "\r" in line:
            raise InputError(
                f"got a carriage return within line {number} of {path}, expected lines that end in a line feed: "
                "save it with the line ends of Unix or of Windows"
            )
    return lines


def read_texts(path: str | os.PathLike) -> list[str]:
    """The texts of a UTF-8 file, one a line; blank lines are none.

    Raises:
        InputError: as of `read_lines`, or there is no text.
    """
    texts = [line for line in read_lines(path) if line.strip()]
    if not texts:
        raise InputError(f"got no text in {path}, expected one a line: write some")
    return texts


def parts_of(text: str) -> list[str]:
    """The parts of an option, which commas separate. A path that exists is one part, whatever is in its name."""
    pieces, parts = text.split(","), []
    while pieces:
        several = (n for n in range(len(pieces), 1, -1) if _exists(",".join(pieces[:n]).strip()))
        count = next(several, 1)
        parts.append(",".join(pieces[:count]).strip())
        pieces = pieces[count:]
    return [part for part in parts if part]


def as_path(text: str) -> str:
    """A value of an option as its user means it: `~/` is the home folder, also where shells leave it, as in quotes and
    after `=`, and `a/../b` is `b` where there is no `a`.
    """
    text = re.sub(r"(^|[=,:])~(?=/)", lambda found: found[1] + os.path.expanduser("~"), text)
    path = text.rpartition("=")[2]
    if ".." not in Path(path).parts or os.path.exists(path):
        return text
    real = os.path.realpath(path)
    return text.removesuffix(path) + (real if os.path.isabs(path) else os.path.relpath(real))


def _exists(part: str) -> bool:
    """Whether a part of an option is a path, or ends in one, as `NAME=PATH` and `weights:PATH` do."""
    return os.path.exists(part) or os.path.exists(re.sub(r"^[^,=:]*[=:]", "", part))


def read_json(path: str | os.PathLike, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read a UTF-8 JSON file.

    Args:
        path (`str` or `os.PathLike`): the file.
        object_pairs_hook (`Callable`, defaults to `None`): makes an object of its (key, value) pairs, as in `json`.

    Raises:
        InputError: the file is missing or not readable, is not UTF-8 or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except (ValueError, RecursionError) as error:
        raise _unreadable(error, path, "one JSON value") from error


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
    """Stream the values of a UTF-8 JSON Lines file, gzipped if its name ends in `.gz`. Blank lines are passed over.

    Yields:
        `tuple[int, Any]`: the line's number, counted from 1, and its value.

    Raises:
        InputError: the file is missing or not readable, or a line (which is named) is not UTF-8 or not JSON.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                    value = json.loads(text) if text.strip() else None
                except (ValueError, RecursionError) as error:
                    raise _unreadable(error, f"{path} line {number}", "one JSON value a line") from error
                if text.strip():
                    yield number, value
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(error, f"{path} after line {number}" if number else path, "JSON Lines") from error


def _unreadable(error: Exception, place: str | os.PathLike, expected: str) -> InputError:
    """The one line that says why `place` could not be read."""
    place = " ".join(str(place).split())  # a name may have a line break
    if isinstance(error, FileNotFoundError):
        return InputError(f"got {place}, which does not exist, expected a file: check the path")
    if isinstance(error, UnicodeDecodeError):
        return InputError(
            f"got bytes that are not UTF-8 in {place} (offset {error.start}), expected UTF-8 text: save it as UTF-8"
        )
    if isinstance(error, RecursionError):
        return InputError(f"got JSON nested too deeply in {place}, expected {expected}: check that file")
    if isinstance(error, json.JSONDecodeError):
        return InputError(
            f"got malformed JSON in {place} (line {error.lineno}: {error.msg}), expected {expected}: "
            "the file may be cut off, fetch it again"
        )
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return InputError(f"got '{reason}' while reading {place}, expected {expected}: check the file and fetch it again")
