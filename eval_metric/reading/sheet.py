"""The answer sheet of a caption: questions that are the same for every caption of its kind, and the answers it gives.

    sheet = answer_sheet(caption.facts)
    sheet.kind                                # "places": which figure stands where; "groups": how many of which shape
    sheet.labels                              # (10, len(PROPERTIES)) long, UNTOLD where nothing is told

The questions of `"places"` are the nine cells, those of `"groups"` the nine shapes; the tenth is the background. Where
nothing stands, "nothing" is the right answer. It is not scored, but it teaches a reader to look for what it is asked
about: without it readers learned which figures a text tells of, and not which of them stands where.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from granted.dataset_builders.scenes.shapes.varied_captions import Fact
from granted.dataset_builders.scenes.shapes.wordings import CONCEPTS


QUERIES = {"places": (*CONCEPTS["places"], None), "groups": (*CONCEPTS["shapes"], None)}
KINDS = tuple(QUERIES)
# Of each property the answers.
CLASSES: dict[str, tuple] = {
    "shape": CONCEPTS["shapes"],
    "count": CONCEPTS["counts"],
    "colour": CONCEPTS["colours"],
    "size": CONCEPTS["sizes"],
    "texture": CONCEPTS["textures"],
    "motion": CONCEPTS["motions"],
    "background": CONCEPTS["backgrounds"],
}
PROPERTIES = tuple(CLASSES)
UNTOLD = -100  # what cross entropy leaves out
EMPTY = {"places": ("shape", "colour"), "groups": ("count", "colour")}  # answered nothing(name) where nothing stands


@dataclass(frozen=True)
class Sheet:
    """Right answers: `kind` is one of `KINDS`, `labels` (10, P) long."""

    kind: str
    labels: torch.Tensor


def answer_sheet(facts: Sequence[Fact]) -> Sheet:
    """The right answers that the facts of a caption give; what is not told of a figure is not asked."""
    kind = "groups" if any(fact.property == "count" for fact in facts) else "places"
    labels = torch.full((len(QUERIES[kind]), len(PROPERTIES)), UNTOLD)  # (10, P)
    subjects = {fact.subject for fact in facts} | {None}
    empty = [number for number, subject in enumerate(QUERIES[kind]) if subject not in subjects]
    for name in EMPTY[kind]:
        labels[empty, PROPERTIES.index(name)] = nothing(name)
    for fact in facts:
        labels[position(fact, kind)] = CLASSES[fact.property].index(fact.value)
    return Sheet(kind, labels)


def position(fact: Fact, kind: str) -> tuple[int, int]:
    """Where on a sheet of a kind a fact stands: number of the query, number of the property."""
    return QUERIES[kind].index(fact.subject), PROPERTIES.index(fact.property)


def nothing(name: str) -> int:
    """The answer that there is nothing, of a property: the one after its values."""
    return len(CLASSES[name])


def guess_rate(fact: Fact) -> float:
    """How often an even guess is right."""
    return 1 / len(CLASSES[fact.property])
