"""Who reviews what, and in which order: worked out from names and a seed alone, so that nothing has to be kept.

Whole images and videos are given out, with all their instances: who has read a caption answers all about it. For each
of them every reviewer has a rank, a hash; the first gets it, the first two where it is among the share for two. So a
reviewer who joins takes some from each of the others and moves nothing between them, and whoever has begun with an
image keeps it. Gold instances go to everyone, strewn among the rest. Whoever is done helps with what others have left.

Tests: tests/test_review.py.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .decisions import Decision
from .instances import STATEMENTS, Instance


@dataclass(frozen=True)
class Plan:
    """Everything that decides who reviews what.

    Attributes:
        instances (`dict[str, Instance]`): those to review, by name.
        reviewers (`tuple[str, ...]`): who have joined.
        decisions (`list[Decision]`): that stand, in their order.
        gold (`frozenset[str]`): names of the instances that everyone gets.
        seed (`int`): another seed, another order and other reviewers.
        share (`float`): the share of images and videos that two people review.
    """

    instances: Mapping[str, Instance]
    reviewers: Sequence[str]
    decisions: Sequence[Decision]
    gold: frozenset[str]
    seed: int
    share: float


@dataclass(frozen=True)
class Queue:
    """What a reviewer has still to do: their own, and, once that is done, what is left of others."""

    own: list[str]
    help: list[str]

    def next(self) -> str | None:
        """The instance to show now."""
        return next(iter(self.own or self.help), None)


@lru_cache(maxsize=1 << 20)
def fraction(*names: str | int) -> float:
    """A number from 0 to 1 that names alone decide."""
    text = "\x1f".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def needed(seed: int, share: float, item: str) -> int:
    """How many people review an image or video: 1 or 2. With a larger share others are added, and none is left out."""
    return 2 if fraction(seed, "two", item) < share else 1


def assigned(plan: Plan) -> dict[str, list[str]]:
    """By image or video the reviewers it is given to: those who have begun with it, then those of the first ranks."""
    begun: dict[str, list[str]] = {}
    for one in plan.decisions:
        instance = plan.instances.get(one.instance)
        if instance and one.instance not in plan.gold and one.reviewer not in begun.setdefault(instance.id, []):
            begun[instance.id].append(one.reviewer)
    given = {}
    for item in dict.fromkeys(one.id for one in plan.instances.values()):
        ranked = sorted(plan.reviewers, key=lambda name: fraction(plan.seed, "rank", item, name))
        first = dict.fromkeys([*begun.get(item, ()), *ranked])
        given[item] = list(first)[: needed(plan.seed, plan.share, item)]
    return given


def queue_of(plan: Plan, reviewer: str) -> Queue:
    """What a reviewer has still to do, in the order in which it is shown."""
    by, given = decided_by(plan.decisions), assigned(plan)
    own, others = [], []
    for one in sorted(plan.instances.values(), key=lambda one: _place(plan, one, reviewer)):
        done = by.get(one.instance, [])
        if reviewer in done:
            continue
        if one.instance in plan.gold:
            own.append(one.instance)
        elif len(done) < needed(plan.seed, plan.share, one.id):
            (own if reviewer in given[one.id] else others).append(one.instance)
    return Queue(own, others)


def _place(plan: Plan, one: Instance, reviewer: str) -> float:
    """Where in a reviewer's order an instance stands: beside the others of its image, or for itself if it is gold."""
    return fraction(plan.seed, "order", one.instance if one.instance in plan.gold else one.id, reviewer)


def made_of_needed(plan: Plan) -> tuple[int, int]:
    """How many of the decisions that the review needs, gold aside, have been made, and how many it needs."""
    by = decided_by(plan.decisions)
    needs = {
        name: needed(plan.seed, plan.share, one.id) for name, one in plan.instances.items() if name not in plan.gold
    }
    return sum(min(len(by.get(name, ())), count) for name, count in needs.items()), sum(needs.values())


def shown_order(seed: int, reviewer: str, instance: Instance) -> list[int]:
    """The indices of an instance's statements in the order in which a reviewer sees them."""
    name = instance.instance
    return sorted(range(STATEMENTS), key=lambda index: fraction(seed, "statement", name, reviewer, index))


def decided_by(decisions: Iterable[Decision]) -> dict[str, list[str]]:
    """By instance who has decided about it."""
    by: dict[str, list[str]] = {}
    for one in decisions:
        by.setdefault(one.instance, []).append(one.reviewer)
    return by
