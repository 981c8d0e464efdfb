"""Writing files so that a reader never sees half of one: everything is written beside its place, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from granted.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary sibling of `path` (a file or a folder to create), renamed to `path` when the block succeeds.

    The parent folder is created. If the block fails the temporary is removed and `path` is as it was before. An
    existing folder at `path` is replaced as a whole.

    Raises:
        InputError: the disk is full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir():
            retired = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, path)
    except OSError as error:
        if error.filename2 is None and error.filename not in (None, str(temporary), str(path), str(path.parent)):
            raise
        raise InputError(
            f"got '{error.strerror}' while writing {path}, expected a writable place with free space: "
            "free some or choose another folder"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically. NaN is refused (it is not JSON)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        InputError: the file is missing, is not UTF-8 or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"got {path}, which does not exist, expected a JSON file: check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"got bytes in {path} that are not UTF-8 at offset {error.start}: save it as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"got malformed JSON in {path} (line {error.lineno}: {error.msg}), expected one JSON value: "
            "the file may be cut off, fetch it again"
        ) from error
