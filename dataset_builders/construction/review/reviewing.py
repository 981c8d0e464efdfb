"""One review: the instances of a run and the decisions about them. What the page and the command both use.

    review = Review("run")
    review.join("ana")
    instance = review.next("ana")
    review.decide(instance.instance, "ana", "accept", seconds=8.5)

Tests: tests/test_review.py.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .agreement import Agreement, GoldScore, agreement, gold_scores
from .assignment import Plan, made_of_needed, queue_of, shown_order
from .decisions import DECISIONS, FILE, Decision, DecisionStore
from .instances import Instance, read_instances
from .refusal import ReviewError


@dataclass(frozen=True)
class Progress:
    """How far a reviewer has come, and how far all have.

    Attributes:
        reviewer (`str`): the name.
        counts (`dict[str, int]`): by decision how often it was taken.
        left (`int`): instances of their own that are left.
        help (`int`): instances of others that are left, for one whose own are done.
        seconds (`float`): median time of a decision.
        made, needed (`int`): decisions of all reviewers, gold aside.
    """

    reviewer: str
    counts: Mapping[str, int]
    left: int
    help: int
    seconds: float
    made: int
    needed: int

    @property
    def done(self) -> int:
        """Decisions of this reviewer."""
        return sum(self.counts.values())


class Review:
    """The review of one run.

    Args:
        run (`str` or `os.PathLike`): its folder.
        seed, share: as of [`DecisionStore`].

    Raises:
        ReviewError: the run cannot be reviewed, or its file of decisions is of another run.
    """

    def __init__(self, run: str | os.PathLike, seed: int | None = None, share: float | None = None):
        self.run = Path(os.path.abspath(run))
        everything = read_instances(self.run)
        self.instances = {name: one for name, one in everything.items() if one.kept}
        self.store = DecisionStore(self.run / FILE, seed, share)
        foreign = [
            name
            for name, content in self.store.contents().items()
            if name not in everything or everything[name].content() != content
        ]
        if foreign:
            raise ReviewError(
                f"got {self.store.path} with decisions about other texts ({len(foreign)} instances, such as "
                f"{foreign[0]}), expected those about the rows of {self.run}: move it away to begin another review"
            )

    @property
    def seed(self) -> int:
        """Of the order and of who gets what."""
        return self.store.seed

    def add_gold(self, expected: Mapping[str, str]) -> None:
        """Make instances gold; by name the decision that is right.

        Raises:
            ReviewError: an instance is unknown, or the decision is none.
        """
        for name, decision in expected.items():
            if name not in self.instances:
                raise ReviewError(f"got the gold instance {name!r:.90}, expected one that is reviewed: correct it")
            if decision not in DECISIONS:
                expected_one = ", ".join(DECISIONS)
                raise ReviewError(f"got {decision!r:.80} for the gold instance {name}, expected one of {expected_one}")
        self.store.add_gold(expected)

    def join(self, name: str) -> str:
        """Make a reviewer known. Returns the name without spaces around it."""
        return self.store.join(name)

    def decisions(self) -> list[Decision]:
        """Those that stand about instances that are reviewed, in their order."""
        return [one for one in self.store.decisions() if one.instance in self.instances]

    def next(self, reviewer: str) -> Instance | None:
        """What a reviewer is to decide now; `None` where nothing is left."""
        name = queue_of(self._plan(), reviewer).next()
        return self.instances[name] if name else None

    def shown_order(self, reviewer: str, instance: Instance) -> list[int]:
        """The indices of its statements in the order in which a reviewer sees them."""
        return shown_order(self.seed, reviewer, instance)

    def decide(
        self,
        name: str,
        reviewer: str,
        decision: str,
        *,
        seconds: float,
        reason: str | None = None,
        fixed: tuple[list[str], int] | None = None,
    ) -> None:
        """Save a decision; it is on disk when this returns.

        Args:
            name, reviewer, decision (`str`): what, who, and one of `DECISIONS`.
            seconds (`float`): since it was shown.
            reason (`str`, *optional*): of a rejection.
            fixed (`tuple[list[str], int]`, *optional*): of a fix: the statements and the index of the true one.

        Raises:
            ReviewError: it is malformed, or there is one already.
        """
        if name not in self.instances:
            raise ReviewError(f"got the instance {name!r:.100}, expected one that is reviewed: load the page again")
        instance = self.instances[name]
        statements, label = fixed or (None, instance.label)
        texts = None if statements is None else tuple(text.strip() for text in statements)
        one = Decision(name, reviewer, decision, texts, label, reason and reason.strip(), seconds)
        self.store.add(one, instance)

    def undo(self, reviewer: str) -> Decision | None:
        """Take back a reviewer's last decision that stands; `None` where there is none."""
        return self.store.undo(reviewer)

    def progress(self, reviewer: str) -> Progress:
        """How far a reviewer has come."""
        plan = self._plan()
        queue, mine = queue_of(plan, reviewer), [one for one in plan.decisions if one.reviewer == reviewer]
        seconds = median([one.seconds for one in mine] or [0.0])
        counts = Counter(one.decision for one in mine)
        return Progress(reviewer, counts, len(queue.own), len(queue.help), seconds, *made_of_needed(plan))

    def all_progress(self) -> list[Progress]:
        """How far each reviewer has come."""
        return [self.progress(name) for name in self.store.reviewers()]

    def agreement(self) -> list[Agreement]:
        """How far reviewers agree."""
        return agreement(self.decisions(), self.instances, self.store.gold(), seed=self.seed)

    def gold_scores(self) -> list[GoldScore]:
        """How often each reviewer was right about gold instances."""
        return gold_scores(self.decisions(), self.store.gold())

    def _plan(self) -> Plan:
        gold, reviewers = frozenset(self.store.gold()), self.store.reviewers()
        return Plan(self.instances, reviewers, self.decisions(), gold, self.seed, self.store.share)


Table = tuple[str, list[str], list[list[str]]]  # title, head and rows


def tables_of(everyone: Sequence[Progress], gold: Sequence[GoldScore], agreed: Sequence[Agreement]) -> list[Table]:
    """Progress, gold and agreement as the page and the command show them."""
    right = {one.reviewer: f"{one.right} of {one.decided}" for one in gold}
    rows = []
    for one in everyone:
        figures = (one.done, one.left, *(one.counts.get(name, 0) for name in DECISIONS))
        rows.append([one.reviewer, *map(str, figures), f"{one.seconds:.0f}", right.get(one.reviewer, "")])
    tables = [("Progress", ["reviewer", "done", "left", *DECISIONS, "s each", "gold right"], rows)]
    if agreed:
        name = {"cohen": "Cohen's", "fleiss": "Fleiss'"}[agreed[0].method]
        head = ["category", "on", "instances", "agreed, %", "kappa", "95% interval"]
        tables.append((f"{name} kappa of {agreed[0].reviewers} reviewers", head, [_cells(one) for one in agreed]))
    return tables


def _cells(one: Agreement) -> list[str]:
    """A row of agreement; kappa and its interval are empty where there is none."""
    interval = f"[{one.ci95[0]:.2f}, {one.ci95[1]:.2f}]" if one.ci95 else ""
    kappa = "" if one.kappa is None else f"{one.kappa:.2f}"
    return [one.category, one.of, str(one.instances), f"{100 * one.agreed:.0f}", kappa, interval]
