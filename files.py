"""Reading and writing files: a reader never sees half of one, and a bad one is named in one line.

    with atomic_path("scores.parquet") as temporary:      # written beside its place, then renamed
        write_table(table, temporary)
    for line_number, row in read_jsonl("pairs.jsonl.gz"):  # streamed
        ...
"""

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from granted.errors import InputError


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


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path (of a file or a folder to create), renamed to `path` when the block succeeds.

    The parent folder is created. If the block fails the temporary is removed and `path` is as it was before. A file
    replaces a file and a folder replaces a folder as a whole; a file never replaces a folder, nor a folder a file.

    Args:
        path (`str` or `os.PathLike`): the file or folder to make.

    Raises:
        InputError: the disk is full or the place is not writable.
    """
    target = Path(os.path.abspath(path))
    workplace = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A private folder beside the target: same file system, no clash with another process or with a stale one.
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent))
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
    except Exception as error:  # safetensors and tokenizers have errors of their own
        number = _error_number(error)
        if number not in _UNWRITABLE or not _concerns(error, target, workplace):
            raise
        raise InputError(
            f"got '{os.strerror(number)}' while writing {path}, expected a writable place with free space: "
            "free some or choose another place"
        ) from error
    finally:
        if workplace is not None:
            shutil.rmtree(workplace, ignore_errors=True)


def remove_temporaries(folder: str | os.PathLike) -> None:
    """Remove what `atomic_path` leaves in a folder, and in those inside it, when its process is killed.

    Only for a folder that no other process is writing into: their temporaries look the same.
    """
    for path in list(Path(folder).rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


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


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. NaN is refused (it is not JSON)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read a UTF-8 JSON file.

    Args:
        path (`str` or `os.PathLike`): the file.
        object_pairs_hook (`Callable`, defaults to `None`): makes an object of its (key, value) pairs, as in `json`.

    Raises:
        InputError: the file is missing or not readable, is not UTF-8 or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=object_pairs_hook)
    except (OSError, ValueError, RecursionError) as error:
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
                    text = line.decode("utf-8")
                    value = json.loads(text) if text.strip() else None
                except (ValueError, RecursionError) as error:
                    raise _unreadable(error, f"{path} line {number}", "one JSON value a line") from error
                if text.strip():
                    yield number, value
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(error, f"{path} after line {number}" if number else path, "JSON Lines") from error


def _unreadable(error: Exception, place: str | os.PathLike, expected: str) -> InputError:
    """The one line that says why `place` could not be read."""
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
