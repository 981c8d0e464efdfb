"""What reviewers have decided about each instance, from the rows that the review has written.

    verdicts_of(rows)["a1-quantity"]        # Verdict("fixed", ["...", "...", "...", "..."], 2)

Tests: tests/test_construction_export.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


KEPT = ("accepted", "fixed")
NAMES = {"accept": "accepted", "fix": "fixed", "reject": "rejected", "null": "null"}


@dataclass(frozen=True)
class Verdict:
    """What holds for an instance.

    Attributes:
        name (`str`): `"accepted"`, `"fixed"`, `"rejected"`, `"null"` (the caption says nothing of its category),
            `"undecided"` (as many would keep it as not) or `"gold"` (it tests reviewers, and is not exported).
        statements (`tuple[str, ...]`, *optional*), label (`int`, *optional*): of one that was fixed.
    """

    name: str
    statements: tuple[str, ...] | None = None
    label: int | None = None

    @property
    def kept(self) -> bool:
        """Whether it is exported."""
        return self.name in KEPT


def verdicts_of(decisions: Iterable[Mapping[str, Any]]) -> dict[str, Verdict]:
    """The verdict on every instance that was reviewed: of each reviewer the last decision counts, and most decide.

    First on whether it is kept, then on how: of equally many, a fix goes before what was accepted as it is, the latest
    fix before earlier ones, and a rejection before a null.

    Args:
        decisions (`Iterable[Mapping]`): `instance`, `reviewer`, `decision`, `statements`, `label`, `gold` and `when`
            each; those that were undone are not among them.
    """
    last: defaultdict[str, dict[str, Verdict]] = defaultdict(dict)
    for one in sorted(decisions, key=lambda one: one["when"]):
        said = last[one["instance"]]
        said.pop(one["reviewer"], None)  # so that the latest stands at the end
        fixed = (tuple(one["statements"]), one["label"]) if one["decision"] == "fix" else (None, None)
        said[one["reviewer"]] = Verdict("gold") if one["gold"] else Verdict(NAMES[one["decision"]], *fixed)
    return {name: _verdict(list(said.values())) for name, said in last.items()}


def _verdict(said: list[Verdict]) -> Verdict:
    if any(one.name == "gold" for one in said):
        return Verdict("gold")
    kept = [one for one in said if one.kept]
    if 2 * len(kept) == len(said):
        return Verdict("undecided")
    votes = Counter(kept if 2 * len(kept) > len(said) else [one for one in said if not one.kept])
    order = ("null", "accepted", "rejected", "fixed")
    latest = {one: place for place, one in enumerate(said)}
    return max(votes, key=lambda one: (votes[one], order.index(one.name), latest[one]))
