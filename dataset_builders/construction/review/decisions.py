"""Decisions of reviewers in one SQLite file that is only ever added to: each is on disk before the next item is shown.

    store = DecisionStore("run/review/decisions.sqlite", seed=0, share=0.1)
    store.add(Decision("a1-quantity", "ana", "accept", None, 2, None, 8.5), instance)
    store.undo("ana")                     # adds a row that says so; nothing is removed

Tests: tests/test_review.py.
"""

import json
import os
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from .instances import CONTROLS, Instance, bare_words, statements_problem
from .refusal import ReviewError


DECISIONS = ("accept", "fix", "reject", "null")
KEPT = ("accept", "fix")  # an instance that is rejected, or about what its caption does not say, is not
UNDO = "undo"
FILE = "review/decisions.sqlite"  # in the folder of a run
LONGEST = 2_000  # characters of a statement or a reason
LONGEST_TIME = 10**9  # seconds
LONGEST_NAME = 80
SEED, SHARE = 0, 0.1
VERSION = 1
SMALLEST = 512  # bytes of a database; SQLite writes over any file that is smaller
WAIT = 30  # seconds for another process that is writing

SCHEMA = (  # one by one: a script would end the transaction that they belong to
    "CREATE TABLE review (seed INTEGER NOT NULL, share REAL NOT NULL)",
    'CREATE TABLE reviewers (name TEXT PRIMARY KEY, "when" TEXT NOT NULL)',
    """CREATE TABLE gold (
    number INTEGER PRIMARY KEY AUTOINCREMENT, instance TEXT NOT NULL, decision TEXT NOT NULL, "when" TEXT NOT NULL
)""",
    f"""CREATE TABLE decisions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    instance TEXT NOT NULL,
    content TEXT NOT NULL,
    reviewer TEXT NOT NULL REFERENCES reviewers (name),
    decision TEXT NOT NULL CHECK (decision IN {(*DECISIONS, UNDO)}),
    statements TEXT,
    label INTEGER NOT NULL,
    reason TEXT,
    seconds REAL NOT NULL,
    "when" TEXT NOT NULL,
    undoes INTEGER UNIQUE REFERENCES decisions (number)
)""",
    "CREATE INDEX decided ON decisions (instance, reviewer)",
    """CREATE VIEW standing AS SELECT * FROM decisions
    WHERE undoes IS NULL AND number NOT IN (SELECT undoes FROM decisions WHERE undoes IS NOT NULL)""",
    *(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'rows are only added'); END"
        for table in ("review", "reviewers", "gold", "decisions")
        for verb in ("UPDATE", "DELETE")
    ),
)
FIELDS = 'instance, reviewer, decision, statements, label, reason, seconds, "when"'
COLUMNS = pa.schema(
    [
        ("instance", pa.string()),
        ("reviewer", pa.string()),
        ("decision", pa.string()),
        ("statements", pa.list_(pa.string())),
        ("label", pa.int64()),
        ("reason", pa.string()),
        ("gold", pa.bool_()),
        ("seconds", pa.float64()),
        ("when", pa.string()),
    ]
)


@dataclass(frozen=True)
class Decision:
    """What one reviewer decided about one instance.

    Attributes:
        instance, reviewer (`str`): names.
        decision (`str`): `"accept"`; `"fix"`, with other texts; `"reject"`, with a reason; or `"null"`: the caption
            says nothing of this category.
        statements (`tuple[str, ...]`, *optional*): of a fix, all four.
        label (`int`): the index of the true one, which a fix may change.
        reason (`str`, *optional*): of a rejection.
        seconds (`float`): since the instance was shown.
        when (`str`): ISO time, UTC; set when it is added.
    """

    instance: str
    reviewer: str
    decision: str
    statements: tuple[str, ...] | None
    label: int
    reason: str | None
    seconds: float
    when: str = ""


def check_decision(one: Decision, instance: Instance) -> None:
    """Refuse a decision that says too little or too much.

    Raises:
        ReviewError: what is wrong with it.
    """
    place = f"{one.reviewer}'s decision about {one.instance}"
    if one.decision not in DECISIONS:
        raise ReviewError(f"got {one.decision!r:.80} as {place}, expected one of {', '.join(DECISIONS)}")
    if not 0 <= one.seconds <= LONGEST_TIME:
        raise ReviewError(f"got {one.seconds} seconds in {place}, expected 0 to {LONGEST_TIME:,}")
    if one.decision == "fix":
        _check_fix(one, instance, place)
    elif one.statements is not None or one.label != instance.label:
        raise ReviewError(f"got other statements in {place}, which is {one.decision}, expected them of a fix alone")
    if (one.decision == "reject") != bool(one.reason and one.reason.strip()):
        problem = "no reason" if one.decision == "reject" else "a reason"
        raise ReviewError(f"got {problem} in {place}, which is {one.decision}, expected one of each rejection alone")
    texts = (*(one.statements or ()), one.reason or "")
    if any(len(text) > LONGEST for text in texts):
        raise ReviewError(f"got a text of more than {LONGEST:,} characters in {place}: shorten it")
    odd = [letter for text in one.statements or () for letter in text if unicodedata.category(letter) in CONTROLS]
    odd += [letter for letter in one.reason or "" if unicodedata.category(letter) == "Cs"]  # half a character
    if odd:
        raise ReviewError(f"got the character U+{ord(odd[0]):04X} in {place}, expected text on one line: remove it")


def _check_fix(one: Decision, instance: Instance, place: str) -> None:
    if problem := statements_problem(one.statements, one.label):
        raise ReviewError(f"got {problem} in {place}, expected four different statements and the true one")
    if len({bare_words(text) for text in one.statements}) < len(one.statements):
        raise ReviewError(
            f"got statements that differ in punctuation at most in {place}, expected four different ones: change one"
        )
    if tuple(one.statements or ()) == instance.statements and one.label == instance.label:
        raise ReviewError(f"got nothing changed in {place}, which is a fix: change a text, or accept it as it is")


def check_name(name: str) -> str:
    """The name of a reviewer without spaces around it.

    Raises:
        ReviewError: it is empty, too long or not printable.
    """
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ReviewError(f"got {name!r:.100} as a reviewer's name, expected 1 to {LONGEST_NAME} printable characters")
    return name


class AlreadyDecidedError(ReviewError):
    """This reviewer has decided about this instance before, perhaps in another window."""


class DecisionStore:
    """The file of decisions of one review, and what the review was begun with.

    Args:
        path (`str` or `os.PathLike`): the SQLite file, made if it is not there.
        seed (`int`, *optional*): of the order and of who gets what; that of the file, or 0.
        share (`float`, *optional*): the share of images and videos that two people review; that of the file, or 0.1.

    Raises:
        ReviewError: it is no such file, or was begun with another seed or share.
    """

    def __init__(self, path: str | os.PathLike, seed: int | None = None, share: float | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self.path.stat().st_size < SMALLEST and self.path.read_bytes():
            raise ReviewError(f"got {self.path}, which is no database, expected a file of decisions: move it away")
        with self._writing() as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not version and db.execute("SELECT name FROM sqlite_master").fetchone():
                raise ReviewError(f"got {self.path}, which another program has written, expected decisions: move it")
            if version not in (0, VERSION):
                raise ReviewError(f"got {self.path} of version {version}, expected {VERSION}: use the code it is of")
            if not version:
                for statement in SCHEMA:
                    db.execute(statement)
                values = (SEED if seed is None else seed, SHARE if share is None else share)
                db.execute("INSERT INTO review VALUES (?, ?)", values)
                db.execute(f"PRAGMA user_version = {VERSION}")
            self.seed, self.share = db.execute("SELECT seed, share FROM review").fetchone()
        for name, given in (("seed", seed), ("share", share)):
            if given is not None and given != getattr(self, name):
                begun = getattr(self, name)
                raise ReviewError(
                    f"got {name} {given} for {self.path}, which was begun with {begun}, expected the same: "
                    "leave it out, or begin another review"
                )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this call alone: the page answers in many threads."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")  # on disk when it is said to be, also when the power fails
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except (sqlite3.DatabaseError, OSError) as error:
            raise ReviewError(
                f"got '{error}' with {self.path}, expected a file of decisions in a writable place with free space: "
                "check the place, or move the file away"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection within a transaction that no other process can come between."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def join(self, name: str) -> str:
        """Make a reviewer known, who may be already. Returns the name as it is stored."""
        name = check_name(name)
        if name not in self.reviewers():
            with self._writing() as db:
                db.execute("INSERT OR IGNORE INTO reviewers VALUES (?, ?)", (name, now()))
        return name

    def reviewers(self) -> list[str]:
        """Those who have joined, in that order."""
        with self._open() as db:
            return [name for (name,) in db.execute("SELECT name FROM reviewers ORDER BY rowid")]

    def add_gold(self, expected: Mapping[str, str]) -> None:
        """Make instances gold, with the decision that is right about each; a later one replaces an earlier."""
        known = self.gold()
        rows = [(name, decision, now()) for name, decision in expected.items() if known.get(name) != decision]
        with self._writing() as db:
            db.executemany('INSERT INTO gold (instance, decision, "when") VALUES (?, ?, ?)', rows)

    def gold(self) -> dict[str, str]:
        """By gold instance the decision that is right."""
        with self._open() as db:
            return dict(db.execute("SELECT instance, decision FROM gold ORDER BY number"))

    def add(self, one: Decision, instance: Instance) -> None:
        """Save a decision; it is on disk when this returns.

        Raises:
            AlreadyDecidedError: this reviewer has already decided about this instance.
            ReviewError: it is malformed.
        """
        if self.add_all([one], {instance.instance: instance}) == 0:
            raise AlreadyDecidedError(f"got {one.reviewer}'s decision about {one.instance} again: it is there already")

    def add_all(self, decisions: Iterable[Decision], instances: Mapping[str, Instance]) -> int:
        """Save decisions, all or none; those that are there already, from anywhere, are passed over.

        Returns:
            `int`: how many were new.

        Raises:
            AlreadyDecidedError: one differs from what its reviewer has decided.
            ReviewError: one is malformed.
        """
        rows = []
        for one in decisions:
            check_decision(one, instances[one.instance])
            rows.append(replace(one, reviewer=check_name(one.reviewer), when=one.when or now()))
        new = 0
        with self._writing() as db:
            for one in rows:
                found = db.execute(
                    "SELECT decision, statements, label, reason FROM standing WHERE instance = ? AND reviewer = ?",
                    (one.instance, one.reviewer),
                ).fetchone()
                said = (one.decision, _json(one.statements), one.label, one.reason)
                if found == said:
                    continue
                if found:
                    raise AlreadyDecidedError(
                        f"got {one.decision} as {one.reviewer}'s decision about {one.instance}, which is decided "
                        f"already ({found[0]}): undo that one first"
                    )
                db.execute("INSERT OR IGNORE INTO reviewers VALUES (?, ?)", (one.reviewer, now()))
                content = instances[one.instance].content()
                self._insert(db, (one.instance, content, one.reviewer, *said, one.seconds, one.when, None))
                new += 1
        return new

    def undo(self, reviewer: str) -> Decision | None:
        """Take back the last decision of a reviewer that stands; `None` where there is none."""
        with self._writing() as db:
            found = db.execute(
                f"SELECT number, content, {FIELDS} FROM standing WHERE reviewer = ? ORDER BY number DESC LIMIT 1",
                (reviewer,),
            ).fetchone()
            if found is None:
                return None
            number, content, undone = *found[:2], _decision(found[2:])
            self._insert(db, (undone.instance, content, reviewer, UNDO, None, undone.label, None, 0.0, now(), number))
        return undone

    @staticmethod
    def _insert(db: sqlite3.Connection, values: tuple[Any, ...]) -> None:
        db.execute(
            "INSERT INTO decisions (instance, content, reviewer, decision, statements, label, reason, seconds, "
            f'"when", undoes) VALUES ({", ".join("?" * len(values))})',
            values,
        )

    def decisions(self) -> list[Decision]:
        """Those that stand, in the order in which they were made."""
        with self._open() as db:
            return [_decision(row) for row in db.execute(f"SELECT {FIELDS} FROM standing ORDER BY number")]

    def contents(self) -> dict[str, str]:
        """By instance the hash of what was judged."""
        with self._open() as db:
            return dict(db.execute("SELECT instance, content FROM standing"))


def decisions_table(decisions: Iterable[Decision], gold: Iterable[str]) -> pa.Table:
    """The decisions as they are exported, one a row, with whether their instance is gold."""
    gold = set(gold)
    rows = [
        {name: getattr(one, name) for name in COLUMNS.names if name != "gold"} | {"gold": one.instance in gold}
        for one in decisions
    ]
    return pa.Table.from_pylist(rows, schema=COLUMNS)


def now() -> str:
    """The time, as it is stored."""
    return datetime.now(timezone.utc).isoformat()


def _json(statements: tuple[str, ...] | None) -> str | None:
    return None if statements is None else json.dumps(list(statements), ensure_ascii=False)


def _decision(row: tuple[Any, ...]) -> Decision:
    statements = None if row[3] is None else tuple(json.loads(row[3]))
    return Decision(*row[:3], statements, *row[4:])
