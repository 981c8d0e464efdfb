"""Everything that was measured and lies below a folder: evaluations, each with scores that can stand side by side.

    evaluations, apart = collect(Path("results"))
    ranked(evaluations[0].headline)[0].arm        # "gemma · norm_avg"

One results file of reading, ladder or drawing is an evaluation, and so is one folder of TED results: what lies in
different ones was made with other texts, pairs or budgets and is never ranked together. Tests: tests/test_overview.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from granted.eval_metric.comparison import DEVIATIONS_OF_CI95, Score, Scores, read_scores
from granted.eval_metric.results import KIND, load_all
from granted.eval_metric.seed_groups import SeedGroup, group_seeds
from granted.utils.errors import InputError
from granted.utils.files import read_json


# Of the instruments with rows: what is shown, what is ranked by first, as parts of `read_scores`.
COLUMNS = {
    "drawing": {
        "seen wordings": "seen/look",
        "unseen sentences": "form/look",
        "unseen words": "word/look",
    },
    "reading": {
        "unseen words": "word/all",
        "unseen sentences": "form/all",
        "seen wordings": "seen/all",
        "whole figures, unseen words": "word/figure",
    },
    "ladder": {"facts carried": "threshold", "4 facts": "facts=4", "8 facts": "facts=8", "12 facts": "facts=12"},
}
SIGNIFICANT = 1.96  # standard deviations that two scores must differ by, at 5 %


@dataclass(frozen=True)
class Evaluation:
    """Scores of several encoders and features that were made alike.

    Args:
        path (`str`): where it lies, below the folder.
        instrument (`str`): `"ted"`, `"reading"`, `"ladder"` or `"drawing"`.
        columns (`list[Scores]`): what was scored; encoders are ranked by the first.
        rows (`list[dict]`): of a results file; none for TED.
        groups (`list[SeedGroup]`): results on TED; none for the others.
    """

    path: str
    instrument: str
    columns: list[Scores]
    rows: list[dict[str, Any]] = field(default_factory=list)
    groups: list[SeedGroup] = field(default_factory=list)

    @property
    def headline(self) -> Scores:
        """What is ranked by."""
        return self.columns[0]

    def named(self) -> Scores:
        """The headline, with the instrument and place of the evaluation in its name."""
        return replace(self.headline, name=f"{self.instrument}, {self.headline.name} ({self.path})")


@dataclass(frozen=True)
class Ranked:
    """An encoder and feature among others.

    Attributes:
        arm (`str`): `"encoder · feature"`.
        score (`Score`): its own.
        first, last (`int`): the places that it may have: one behind those that are better beyond chance, and before
            those that are worse beyond chance.
    """

    arm: str
    score: Score
    first: int
    last: int


def ranked(scores: Scores) -> list[Ranked]:
    """From the best to the worst. Scores differ beyond chance if their difference does, as of independent ones.

    The same items make two scores go together, so this is careful: a paired test would tell more of them apart.
    """
    arms = sorted(scores.by_arm.items(), key=lambda one: (-one[1].value, one[0]))
    places = []
    for arm, score in arms:
        better = sum(_differs(other, score) for _, other in arms if other.value > score.value)
        worse = sum(_differs(other, score) for _, other in arms if other.value < score.value)
        places.append(Ranked(arm, score, 1 + better, len(arms) - worse))
    return places


def _differs(one: Score, other: Score) -> bool:
    widths = [(score.ci95[1] - score.ci95[0]) / DEVIATIONS_OF_CI95 for score in (one, other)]
    return abs(one.value - other.value) > SIGNIFICANT * math.hypot(*widths)


def collect(folder: Path) -> tuple[list[Evaluation], list[tuple[str, str]]]:
    """Find all evaluations below a folder.

    Args:
        folder (`Path`): of results of `granted evaluate ted`, `reading`, `ladder` and `drawing`, however deep.

    Returns:
        The evaluations, those of most encoders and features first within an instrument, drawing, reading, ladder and
        TED in this order; and (path, reason) of what cannot be ranked.

    Raises:
        InputError: no such folder, nothing measured in it, or damaged rows; results on TED are set apart then.
    """
    if not folder.is_dir():
        raise InputError(f"got {folder}, expected a folder of results of granted evaluate")
    evaluations, apart, ted_folders = [], [], set()
    for path in sorted(folder.rglob("*.json")):
        content = read_json(path)
        name = str(path.relative_to(folder))
        if not isinstance(content, dict):
            continue
        if content.get("kind") == KIND:
            ted_folders.add(path.parent)
        elif content.get("instrument") in COLUMNS:
            evaluations.append(_of_rows(path, name, content))
    for path in sorted(ted_folders):
        name = str(path.relative_to(folder))
        found, reason = _of_ted(path, name)
        evaluations += found
        apart += [(name, reason)] if reason else []
    if not evaluations and not apart:
        raise InputError(f"got {folder} without a single result, expected results of granted evaluate in it")
    order = [*COLUMNS, "ted"]
    evaluations.sort(key=lambda one: (order.index(one.instrument), -len(one.headline.by_arm), one.path))
    return evaluations, apart


def _of_rows(path: Path, name: str, content: dict[str, Any]) -> Evaluation:
    instrument = content["instrument"]
    columns = []
    for title, part in COLUMNS[instrument].items():
        try:
            columns.append(read_scores(f"{path}:{part}", title))
        except InputError:
            if not columns:
                raise
            # a column that this file does not have, such as a rung
    return Evaluation(name, instrument, columns, rows=content["rows"])


def _of_ted(path: Path, name: str) -> tuple[list[Evaluation], str]:
    """The evaluation of a folder if encoders were scored in it, and the reason if something in it is not ranked."""
    try:
        everything = group_seeds(_of_one_folder(path))
    except InputError as error:
        return [], str(error)
    groups = [group for group in everything if not group.direct]
    reason = "answers of language models are no scores of encoders" if len(groups) < len(everything) else ""
    return [_ranked_by_accuracy(groups, name)] if groups else [], reason


def _ranked_by_accuracy(groups: list[SeedGroup], name: str) -> Evaluation:
    columns = [_scores("accuracy", groups, [group.estimate for group in groups])]
    for kind in ("facts", "categories"):
        parts = getattr(groups[0], kind)
        if len(parts) > 1:
            for part in parts:
                title = f"{part} facts" if kind == "facts" else part
                columns.append(_scores(title, groups, [getattr(group, kind)[part] for group in groups]))
    return Evaluation(name, "ted", columns, groups=groups)


def _of_one_folder(path: Path) -> list:
    """The results of a folder without those of folders in it."""
    return [result for result in load_all(path) if (path / f"{result.name}.json").is_file()]


def _scores(title: str, groups: Sequence[SeedGroup], estimates: Sequence) -> Scores:
    by_arm = {
        group.label: Score(one.accuracy, (one.low, one.high)) for group, one in zip(groups, estimates, strict=True)
    }
    return Scores(title, "%", by_arm)
