"""Results files that lie in a dataset on the Hub.

    read_board("me/granted-results@v1", print)       # of a folder likewise

The files are fetched by `huggingface_hub` into its cache: JSON and Parquet alone, nothing of a repository is run. They
are somebody else's: `Board` checks each. Tests: tests/test_leaderboard_dataset.py.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from granted.eval_metric.leaderboard.board import Board
from granted.utils.errors import InputError


FILES = ["*.json", "*.parquet"]
LARGEST = 2**30  # bytes of all files together
DATASET = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)


def read_board(results: str, report: Callable[[str], object]) -> Board:
    """The board of a folder of results, or of a dataset on the Hub with such files.

    Args:
        results (`str`): the folder, or OWNER/NAME or OWNER/NAME@REVISION.
        report (`Callable`): called with a line where the Hub was not reached and the cache is read.

    Raises:
        InputError: there is neither, it may not be read, or nothing in it can be ranked.
    """
    if Path(results).exists():
        return Board(Path(results))
    found = DATASET.fullmatch(results)
    if found is None:
        raise InputError(
            f"got {results}, expected a folder of results of granted evaluate, or a dataset on the Hub with such "
            "files, OWNER/NAME or OWNER/NAME@REVISION"
        )
    folder = _fetched(found["id"], found["revision"], report)
    try:
        return Board(folder)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), f"the dataset {results}")) from error


def _fetched(name: str, revision: str | None, report: Callable[[str], object]) -> Path:
    """The folder in the cache with the files of a dataset."""
    asked = {"repo_id": name, "repo_type": "dataset", "revision": revision, "allow_patterns": FILES}
    try:
        size = sum(one.file_size for one in snapshot_download(**asked, dry_run=True))
        if size > LARGEST:
            raise InputError(f"got {name} with {size:,} bytes of results, expected at most {LARGEST:,}")
        return Path(snapshot_download(**asked))
    except InputError:
        raise
    except Exception as error:  # besides its own, huggingface_hub raises what its HTTP library does
        reason = error.__cause__ if isinstance(error, DryRunError) else error
        _refuse(name, revision, reason)
        return _cached(asked, " ".join(str(reason).split())[:200], report)


def _cached(asked: dict[str, Any], reason: str, report: Callable[[str], object]) -> Path:
    """What the cache has of a dataset, as far as it is whole."""
    try:
        folder = Path(snapshot_download(**asked, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"got {asked['repo_id']}, which is no folder here and not whole in the cache, and no Hub ({reason}), "
            "expected one of them: check the path, or try again when the Hub can be reached"
        ) from error
    report(f"the Hub was not reached: these are the results of commit {folder.name[:7]}, from the cache")
    return folder


def _refuse(name: str, revision: str | None, reason: BaseException | None) -> None:
    """Raise if the Hub's answer was no."""
    if isinstance(reason, GatedRepoError):
        raise InputError(
            f"got the gated dataset {name}, expected leave to read it: ask for it on its page, then `hf auth login`"
        ) from reason
    if isinstance(reason, RepositoryNotFoundError):
        raise InputError(
            f"got {name}, which is no folder here and no dataset on the Hub that this login may see, expected one of "
            "them: check the name, or run `hf auth login`"
        ) from reason
    if isinstance(reason, RevisionNotFoundError):
        raise InputError(f"got no revision {revision} of {name}, expected a branch, a tag or a commit") from reason
