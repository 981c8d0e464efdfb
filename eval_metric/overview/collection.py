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
from granted.eval_metric.overview.results_files import check_rows, read_content, ted_benchmark
from granted.eval_metric.part_tables import is_floor
from granted.eval_metric.results import KIND, Result, load
from granted.eval_metric.seed_groups import SeedGroup, group_seeds
from granted.utils.errors import InputError, refusing
from granted.utils.files import files_below
from granted.utils.shown import fact_count


# Of each instrument what it is called, and what it asks.
TITLES = {
    "drawing": (
        "Drawing",
        "A small text-to-image model is trained from scratch with each feature; its images are read exactly.",
    ),
    "reading": ("Reading", "A small reader learns to answer every fact of a caption from its token features."),
    "ladder": ("Ladder", "How many facts a caption may tell before half of what is above guessing is lost."),
    "ted": ("TED", "Is the true statement closer to its caption than the false ones?"),
}
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

    The same items make two scores go together, so this is careful: a paired test would tell more of them apart. What
    [`is_floor`] names stands for comparison only: it takes no place, and has that which it would take.
    """
    arms = sorted(scores.by_arm.items(), key=lambda one: (-one[1].value, one[0]))
    places = []
    for arm, score in arms:
        others = [other for name, other in arms if name != arm and not is_floor(name)]
        better = sum(_differs(other, score) for other in others if other.value > score.value)
        worse = sum(_differs(other, score) for other in others if other.value < score.value)
        places.append(Ranked(arm, score, 1 + better, 1 + len(others) - worse))
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
        TED in this order; and (path, reason) of what cannot be ranked: a damaged file, one of another benchmark than
        most in its folder, scores that do not go together. It takes no other file along.

    Raises:
        InputError: no such folder, or nothing measured in it.
    """
    if not folder.is_dir():
        raise InputError(f"got {folder}, expected a folder of results of granted evaluate")
    evaluations: list[Evaluation] = []
    apart: list[tuple[str, str]] = []
    ted: dict[Path, dict[str, list[Result]]] = {}  # by folder and benchmark
    for path in files_below(folder, "*.json"):
        name = str(path.relative_to(folder))
        try:
            content = read_content(path)
            instrument = content.get("instrument")
            if content.get("kind") == KIND:
                with refusing(str(path), "a result as it was saved: fetch it again"):
                    result = load(path)
                if result.name != path.stem:
                    raise InputError(f"got a result called {path.stem}, expected it under its own name, {result.name}")
                ted.setdefault(path.parent, {}).setdefault(ted_benchmark(result), []).append(result)
            elif isinstance(instrument, str) and instrument in COLUMNS:
                check_rows(content)
                evaluations.append(_of_rows(path, name, content))
                apart += _without_headline(evaluations[-1])
        except InputError as error:
            apart.append((name, str(error)))
    for path, benchmarks in ted.items():
        name = str(path.relative_to(folder))
        try:
            found, others = _of_ted_folder(benchmarks, name)
            evaluations += found
            apart += others
        except InputError as error:
            apart.append((name, str(error)))
    if not evaluations:
        first = f", but {apart[0][0]}: {apart[0][1]}" if apart else ""
        raise InputError(f"got {folder} without a single result, expected results of granted evaluate in it{first}")
    order = [*COLUMNS, "ted"]
    evaluations.sort(key=lambda one: (order.index(one.instrument), -len(one.headline.by_arm), one.path))
    return evaluations, sorted(apart)


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


def _without_headline(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Encoders and features of a file that cannot be ranked, since what is ranked by was not scored."""
    arms = {f"{row['encoder']} · {row['feature']}" for row in evaluation.rows} - evaluation.headline.by_arm.keys()
    return [(evaluation.path, f"got no score of {arm} in {evaluation.headline.name}") for arm in sorted(arms)]


def _of_most(benchmarks: dict[str, list[Result]]) -> tuple[list[Result], list[tuple[Result, str]]]:
    """The results on that benchmark which most in a folder are on, and the others with the reason why they are not
    ranked; all of them where no benchmark has the most."""
    most, *others = sorted(benchmarks.values(), key=len, reverse=True)
    if others and len(others[0]) == len(most):
        return [result for own in (most, *others) for result in own], []  # `group_seeds` says what differs
    expected = most[0].dataset
    reasons = []
    for result in (one for own in others for one in own):
        found = result.dataset
        differing = [name for name in found if found[name] != expected[name]]
        said = ", ".join(f"{name} {found[name]}" for name in differing) or "other items under the same fingerprint"
        reasons.append((result, f"got a result on another benchmark than most in its folder: {said}"))
    return most, reasons


def _of_ted_folder(
    benchmarks: dict[str, list[Result]], name: str
) -> tuple[list[Evaluation], list[tuple[str, str]]]:
    """What encoders have scored in a folder, if any have, and (path, reason) of what is not ranked with it."""
    results, others = _of_most(benchmarks)
    everything = group_seeds(results)
    groups = [group for group in everything if not group.direct]
    apart = [(str(Path(name, f"{one.name}.json")), reason) for one, reason in others]
    if len(groups) < len(everything):
        apart.append((name, "answers of language models are no scores of encoders"))
    return [_of_ted(groups, name)] if groups else [], apart


def _of_ted(groups: list[SeedGroup], name: str) -> Evaluation:
    columns = [_scores("accuracy", groups, [group.estimate for group in groups])]
    for kind in ("facts", "categories"):
        parts = getattr(groups[0], kind)
        if len(parts) > 1:
            for part in parts:
                title = fact_count(part) if kind == "facts" else part
                columns.append(_scores(title, groups, [getattr(group, kind)[part] for group in groups]))
    return Evaluation(name, "ted", columns, groups=groups)


def _scores(title: str, groups: Sequence[SeedGroup], estimates: Sequence) -> Scores:
    by_arm = {
        group.label: Score(one.accuracy, (one.low, one.high)) for group, one in zip(groups, estimates, strict=True)
    }
    return Scores(title, "%", by_arm)
