"""The calls of a run: one row for each answer of the endpoint, in SQLite, written the moment it arrives.

    with CallStore(run / "calls.sqlite") as store:
        call = store.find(key)                     # what was answered then, or None
        store.add(key, call)                       # in a transaction of its own; a row never changes
        store.spent()                              # Spent(calls=..., tokens=...)

The key is a hash of all that decides the answer (see `Request.key`), so a run that was killed finds every answer that
it had received. The file is in WAL mode: what was added survives kill -9 of the process. Tests:
tests/test_construction_store.py.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from granted.utils.errors import InputError


# Answers that are on their way have to find a place: no call is begun with less space than this.
RESERVE = 32 << 20
COLUMNS = (
    "key TEXT PRIMARY KEY",
    "stage TEXT NOT NULL",
    "unit TEXT NOT NULL",
    "attempt INTEGER NOT NULL",
    "answer TEXT NOT NULL",
    "finish TEXT NOT NULL",
    "fault TEXT",  # why the answer cannot be used, or NULL
    "prompt_tokens INTEGER",
    "completion_tokens INTEGER",
    "seconds REAL NOT NULL",
    "at REAL NOT NULL",
)
SCHEMA = f"CREATE TABLE IF NOT EXISTS calls ({', '.join(COLUMNS)}) WITHOUT ROWID"
# Fields of a request that the server did not take, so that some calls of a stage went without them.
NOT_SENT = "CREATE TABLE IF NOT EXISTS not_sent (stage TEXT, field TEXT, PRIMARY KEY (stage, field))"


@dataclass(frozen=True)
class Call:
    """An answer of the endpoint.

    Fields:
        stage, unit (`str`): what it was asked for.
        attempt (`int`): 0 at first, 1 when it was asked again, ...
        answer (`str`): the text, as it came.
        finish (`str`): why it ended, such as `"stop"` or `"length"`.
        fault (`str`, *optional*): why it cannot be used.
        prompt_tokens, completion_tokens (`int`, *optional*): what the server counted.
        seconds (`float`): from the request to the answer.
    """

    stage: str
    unit: str
    attempt: int
    answer: str
    finish: str
    fault: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


@dataclass(frozen=True)
class Spent:
    """What calls have cost so far.

    Fields:
        calls (`int`): answers, of which `faulty` cannot be used; `refused` of these got no answer but a refusal, and
            of `uncounted` the server did not say the tokens.
        prompt_tokens, completion_tokens (`int`): read and written.
        seconds (`float`): waited, all calls together.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    faulty: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class CallStore:
    """The file of calls. Use it as a context manager; one process at a time, which `run.py` sees to.

    Args:
        path (`Path`): the file, made if it is not there.

    Raises:
        InputError: it is no file of calls, or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "CallStore":
        with self._refusing():
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # safe against kill -9; a power cut may take the last rows
            self._db.execute(SCHEMA)
            self._db.execute(NOT_SENT)
        self.find("")  # a file of another program, or of another version, is refused
        return self

    def __exit__(self, *error: Any) -> None:
        self._db.close()

    def find(self, key: str) -> Call | None:
        """The call of a key, if it has been answered."""
        names = ", ".join(Call.__dataclass_fields__)
        with self._refusing():
            row = self._db.execute(f"SELECT {names} FROM calls WHERE key = ?", (key,)).fetchone()
        return Call(*row) if row else None

    def add(self, key: str, call: Call, not_sent: Iterable[str] = ()) -> None:
        """Keep an answer.

        Args:
            key (`str`), call ([`Call`]): the answer, and of what.
            not_sent (`Iterable[str]`): fields of the request that the server does not take.

        Raises:
            InputError: the disk is full.
        """
        values = (key, *vars(call).values(), time.time())
        names = ", ".join(("key", *vars(call), "at"))
        with self._refusing():
            self._db.execute("BEGIN")
            self._db.execute(f"INSERT INTO calls ({names}) VALUES ({', '.join('?' * len(values))})", values)
            fields = [(call.stage, field) for field in not_sent]
            self._db.executemany("INSERT OR IGNORE INTO not_sent VALUES (?, ?)", fields)
            self._db.execute("COMMIT")

    def not_sent(self, stage: str) -> list[str]:
        """Fields of requests that calls of a stage were made without, sorted."""
        with self._refusing():
            rows = self._db.execute("SELECT field FROM not_sent WHERE stage = ? ORDER BY field", (stage,)).fetchall()
        return [field for (field,) in rows]

    def take(self, path: Path, stage: str) -> None:
        """Keep the calls of a stage from another file, too, which nobody has open.

        Raises:
            InputError: it cannot be read, or the disk is full.
        """
        names = ", ".join(("key", *Call.__dataclass_fields__, "at"))
        marks = ", ".join("?" * len(names.split()))
        # Read as a file that does not change, so that many machines can do so over a network.
        with self._refusing(), closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as other:
            rows = other.execute(f"SELECT {names} FROM calls WHERE stage = ?", (stage,))
            known = other.execute("SELECT 1 FROM sqlite_master WHERE name = 'not_sent'").fetchone()
            fields = other.execute("SELECT stage, field FROM not_sent WHERE stage = ?", (stage,)) if known else ()
            self._db.execute("BEGIN")
            self._db.executemany(f"INSERT OR IGNORE INTO calls ({names}) VALUES ({marks})", rows)
            self._db.executemany("INSERT OR IGNORE INTO not_sent VALUES (?, ?)", fields)
            self._db.execute("COMMIT")

    def spent(self, stage: str | None = None) -> Spent:
        """What the calls of a stage, or all, have cost."""
        sums = (
            "COUNT(*), TOTAL(prompt_tokens), TOTAL(completion_tokens), "
            "TOTAL(prompt_tokens IS NULL OR completion_tokens IS NULL), TOTAL(fault IS NOT NULL), "
            "TOTAL(finish = 'refused'), TOTAL(seconds)"
        )
        with self._refusing():
            row = self._db.execute(f"SELECT {sums} FROM calls WHERE ?1 IS NULL OR stage = ?1", (stage,)).fetchone()
        return Spent(*map(int, row[:6]), row[6])

    def require_space(self) -> None:
        """Raise while the answers that are on their way still find a place.

        Raises:
            InputError: the disk is almost full.
        """
        if shutil.disk_usage(self.path.parent).free < RESERVE:
            raise self._full()

    def _full(self) -> InputError:
        return InputError(
            f"got a full disk at {self.path}, expected {RESERVE >> 20} MB of free space for answers: free some and "
            "run the same command again; every answer so far is kept"
        )

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "full" in str(error):
                raise self._full() from error
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise  # a mistake of ours
            raise InputError(
                f"got '{error}' from {self.path}, expected a file of calls that can be read and written: check the "
                "path and the disk"
            ) from error
