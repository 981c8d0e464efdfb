"""The folder of a training run: whose it is, who is at work in it, and checkpoints that are whole or not there.

if check_identity(output, identity):                   # this very run was begun: go on
    ...
lock = hold_folder(output)                             # no other process trains in it until leave_folder(lock)
with shared_folder(accelerator, output / "checkpoint-100") as folder:   # written by all processes, then renamed
    accelerator.save_state(folder)
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from filelock import BaseFileLock, FileLock, Timeout

from granted.utils.errors import InputError
from granted.utils.files import atomic_path, parts_of, read_json, remove_temporaries


LOCK = ".lock"  # held by the process that trains in a folder
RUN = "run.json"  # what is known of a run at its start
RECORD = "training_record.json"  # of a finished run
STATE = "trainer_state.json"  # of a checkpoint of transformers' trainer


def check_identity(
    output: Path, identity: dict[str, Any], identity_of: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> bool:
    """Whether the folder holds this very run.

    Args:
        output (`Path`): the folder.
        identity (`dict`): what makes two runs the same.
        identity_of (`Callable`): the identity in what `run.json` holds; by default it holds nothing else.

    Raises:
        InputError: it holds another run, or something else.
    """
    if not (output / RUN).exists():
        if output.exists() and not (output.is_dir() and all(path.name.startswith(".") for path in output.iterdir())):
            raise InputError(f"got {output}, which holds no run of this kind, expected a new folder: choose another")
        return False
    found = identity_of(read_json(output / RUN))
    different = [name for name in sorted({*identity, *found}) if found.get(name) != identity.get(name)]
    if different:
        raise InputError(
            f"got {output}, which holds a run with other {', '.join(different)}, expected this run's: choose another "
            "output folder or remove it"
        )
    return True


class FolderHeld(InputError):
    """Another process trains in a folder."""


def hold_folder(output: Path) -> BaseFileLock:
    """Keep other trainings out of a folder, and remove what killed ones have left half-written in it.

    The main process holds the folder for all processes of a run, until [`leave_folder`] or until it ends, however it
    ends: the lock is the operating system's (`flock`), and the file alone means nothing. A process that holds a folder
    may hold it again, as a notebook does after an error.

    Args:
        output (`Path`): the folder; created if it is not there.

    Returns:
        The lock, to be kept: it is released when nothing refers to it.

    Raises:
        FolderHeld: another process trains in it. In all processes of the run, as what follows.
        InputError: it cannot be written to.
    """
    lock = FileLock(output / LOCK, timeout=0, thread_local=False, is_singleton=True)
    refusal: list[InputError | None] = [None]
    if PartialState().is_main_process:
        try:
            output.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            remove_temporaries(output)
        except Timeout:
            message = "where another process is training, expected one training at a time: wait for it, stop it, or"
            refusal = [FolderHeld(f"got {output}, {message} choose another folder")]
        except OSError as error:
            refusal = [InputError(f"got '{error.strerror}' for {output}, expected a writable folder: choose another")]
    broadcast_object_list(refusal)
    if refusal[0]:
        raise refusal[0]
    return lock


def leave_folder(lock: BaseFileLock) -> None:
    """Let other processes train in a folder that [`hold_folder`] has held."""
    if lock.is_locked:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who opens it meanwhile sees that it is gone
        lock.release(force=True)


def clear_finished(output: Path, *, with_checkpoints: bool = False) -> None:
    """Remove what a run that was killed after its last file has left: its lock, temporaries and checkpoints.

    Nothing is done, and nothing need be writable, where nothing is left or another process is still at it.

    Args:
        output (`Path`): the folder.
        with_checkpoints (`bool`): whether a run of this kind removes its checkpoints at its end.
    """
    left = checkpoints(output) if with_checkpoints else []
    if not PartialState().is_main_process or not (left or (output / LOCK).exists()):
        return
    lock = FileLock(output / LOCK, timeout=0, thread_local=False, is_singleton=True)
    with suppress(Timeout, OSError):
        lock.acquire()
        remove_temporaries(output)
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
        leave_folder(lock)


def data_fingerprint(source: str, dataset: Dataset) -> str:
    """SHA-256 of the rows' files, not of media to which they only refer; of data on the Hub, datasets' own."""
    digest = hashlib.sha256()
    for path in map(Path, parts_of(source)):
        if not path.exists():
            digest.update(dataset._fingerprint.encode())
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()


def stream_fingerprint(source: str) -> str:
    """Hash of the names and sizes of local files, whose content a stream does not read in advance, or the Hub id."""
    digest = hashlib.sha256()
    for path in map(Path, parts_of(source)):
        if not path.exists():
            digest.update(str(path).encode())
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}".encode())
    return digest.hexdigest()


def checkpoints(output: Path) -> list[Path]:
    """The folders `checkpoint-STEP` of a run, in order of step."""
    found = [path for path in output.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def remove_checkpoints(output: Path, but: Path | None = None) -> None:
    """Remove the checkpoints of a run, all but one."""
    for folder in checkpoints(output):
        if folder != but:
            shutil.rmtree(folder)


@contextmanager
def shared_folder(accelerator: Accelerator, path: Path) -> Iterator[Path]:
    """A folder that all processes write into, and that appears at `path` when all have: whole or not at all."""
    with ExitStack() as stack:
        place: list[Path | None] = [None]
        if accelerator.is_main_process:
            place = [stack.enter_context(atomic_path(path))]
            place[0].mkdir()
        broadcast_object_list(place)
        yield place[0]
        accelerator.wait_for_everyone()
    accelerator.wait_for_everyone()
