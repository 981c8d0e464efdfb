"""Does one instrument predict another? The correlation of their scores over the same encoders and features.

    drawing = read_scores("results/drawing/drawing.json:word/look")
    found = compare(drawing, read_scores("results/reading/reading.json:word/all"))
    found.pearson, found.spearman, found.kendall            # each with its interval

Whatever `granted evaluate ted`, `reading`, `ladder` and `drawing` write can be compared, and what the paper printed.
Few encoders and noisy scores make wide intervals: read them before the figure.
"""

import math
import os
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kendalltau, norm, pearsonr, rankdata, spearmanr

from granted.eval_metric.published import published_scores
from granted.eval_metric.results import POOLINGS, load_all
from granted.eval_metric.seed_groups import SeedGroup, group_seeds
from granted.eval_metric.statistics import Estimate
from granted.utils.errors import InputError, refusing
from granted.utils.figures import COLOURS, chart_style, save_png
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.shown import markdown_escaped


FEWEST = 4  # arms that a correlation is made of
RESAMPLES = 1000
POWER, LEVEL = 0.8, 0.05  # of the number of arms that a correlation needs
PUBLISHED, WITHOUT = "published", "without "
DEVIATIONS_OF_CI95 = 3.92  # how many standard deviations a 95% interval is wide
MEASURES: dict[str, Callable] = {"pearson": pearsonr, "spearman": spearmanr, "kendall": kendalltau}


@dataclass(frozen=True)
class Score:
    """An accuracy, or a number of facts, with its 95% interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """What one instrument says of encoders and features.

    Args:
        name (`str`): for tables and axes.
        unit (`str`): `"%"` or `"facts"`.
        by_arm (`dict[str, Score]`): keys are `"encoder · feature"`.
    """

    name: str
    unit: str
    by_arm: dict[str, Score]


@dataclass(frozen=True)
class Correlation:
    """How two instruments go together.

    Attributes:
        reference, other ([`Scores`]): the two.
        arms (`list[str]`): those that both have scored, the best of the reference first.
        left_out (`list[str]`): those that only one of them has scored.
        pearson, spearman, kendall (`Score`): each with its interval over arms and scores, see [`compare`].
        p_value (`float`): of Pearson's, two-sided, exact where scores are normal; nan where there is none.
        without (`dict[str, float]`): Pearson's when one arm is left out, by that arm; nan where there is none.
    """

    reference: Scores
    other: Scores
    arms: list[str]
    left_out: list[str]
    pearson: Score
    spearman: Score
    kendall: Score
    p_value: float
    without: dict[str, float]

    def without_one(self) -> str:
        """From which to which Pearson's is when one arm is left out."""
        known = [value for value in self.without.values() if not math.isnan(value)]
        return f"{min(known):.2f} to {max(known):.2f}" if known else "none"


def read_scores(spec: str, name: str = "") -> Scores:
    """The scores of `PATH` or `PATH:PART`.

    Args:
        spec (`str`): a folder of TED results, PART being `aggregator` or `mean` (both without it), or `likelihood` or
            `generation` of language models that answered directly, and behind a slash, if only some items shall count,
            a category, `without` a category, or a rung such as `facts=4`;
            `reading.json` or `drawing.json`, PART being `WORDING/PROPERTY` such as `word/all`; `ladder.json`, PART
            being `threshold` or a rung; the word `published`, PART being a table of `published.yaml`.
        name (`str`): what to call them; the spec without its folder by default.

    Raises:
        InputError: there are no such results, or no such part of them.
    """
    path, part = (spec, "") if Path(spec).exists() else spec.rpartition(":")[::2]
    if path == PUBLISHED:
        scores = {arm: value / 100 for arm, value in published_scores(part).items()}
        return Scores(name or spec, "%", {arm: Score(value, (value, value)) for arm, value in scores.items()})
    if not path or not Path(path).exists():
        raise InputError(f"got {spec}, expected a folder or file of results, with :PART behind it if need be")
    name = name or Path(path).name + (f":{part}" if part else "")
    if Path(path).is_dir():
        return Scores(name, "%", _of_ted(path, part))
    with refusing(path, "a results file of granted evaluate reading, ladder or drawing"):
        content = read_json(Path(path))
        rows, found = content["rows"], content.get("thresholds", [])
    if part == "threshold":
        by_arm = {_arm(row): Score(row["facts"], tuple(row["ci95"])) for row in found}
    else:
        by_arm = {_arm(row): Score(row["accuracy"], tuple(row["ci95"])) for row in rows if part in _parts(row)}
    parts = [*(["threshold"] if found else []), *sorted({one for row in rows for one in _parts(row)})]
    return Scores(name, "facts" if part == "threshold" else "%", _some(by_arm, spec, parts))


def leave_out(scores: Sequence[Scores], names: Sequence[str]) -> list[Scores]:
    """The scores without the encoders whose name holds one of some words, of which each must be found.

    Raises:
        InputError: no encoder has one of them in its name.
    """
    encoders = {arm.split(" · ")[0] for one in scores for arm in one.by_arm}
    for name in names:
        if not any(name in encoder for encoder in encoders):
            raise InputError(f"got {name!r} to leave out, expected a part of one of {', '.join(sorted(encoders))}")
    out = {encoder for encoder in encoders if any(name in encoder for name in names)}
    return [
        replace(one, by_arm={arm: score for arm, score in one.by_arm.items() if arm.split(" · ")[0] not in out})
        for one in scores
    ]


def published_pair(kind: str) -> Correlation:
    """What TED says of GenAI-Bench in the paper's own columns, of `"images"` (Table 3) or `"videos"` (Table 4)."""
    return compare(read_scores(f"{PUBLISHED}:{kind}_genai"), read_scores(f"{PUBLISHED}:{kind}_ted"))


def _of_ted(path: str, part: str) -> dict[str, Score]:
    groups = group_seeds(load_all(path))
    pooling, _, items = part.partition("/")
    groups = [group for group in groups if (group.pooling == pooling if pooling else not group.direct)]
    by_arm = {}
    for group in groups:
        estimate = _of_items(group, items) if items else group.estimate
        label = f"{group.encoder} · {group.feature}" if pooling else group.label
        by_arm[label] = Score(estimate.accuracy, (estimate.low, estimate.high))
    return _some(by_arm, f"{path}:{part}", POOLINGS)


def _of_items(group: SeedGroup, items: str) -> Estimate:
    """Of one category, of all others, or of one rung."""
    parts = group.categories | {f"facts={rung}": estimate for rung, estimate in group.facts.items()}
    left_out = items.removeprefix(WITHOUT)
    if items.startswith(WITHOUT) and left_out in group.categories and len(group.categories) > 1:
        return group.estimate_of(group.runs[0].column("category") != left_out)
    if items not in parts:
        raise InputError(f"got {items} behind the slash, expected one of {', '.join(parts)}, or 'without CATEGORY'")
    return parts[items]


def _some(by_arm: dict[str, Score], spec: str, parts: Sequence[str]) -> dict[str, Score]:
    if not by_arm:
        raise InputError(f"got {spec}, expected one of these parts behind the colon: {', '.join(parts)}")
    return by_arm


def _arm(row: dict[str, Any]) -> str:
    return f"{row['encoder']} · {row['feature']}"


def _parts(row: dict[str, Any]) -> tuple[str, ...]:
    """By which PART a row is asked for."""
    if row.get("axis"):
        return (f"{row['axis']}={row['rung']}",) if row["property"] == "all" else ()
    return (f"{row['wording']}/{row['property']}",)


def compare(reference: Scores, other: Scores) -> Correlation:
    """Correlate two instruments over the arms that both have scored.

    The intervals resample arms with replacement, and draw each score anew from a normal distribution as wide as its
    own interval: so they hold for other encoders and for other scenes.

    Args:
        reference, other ([`Scores`]): the two.

    Raises:
        InputError: fewer than four arms occur in both.
    """
    arms = _best_first(reference.by_arm.keys() & other.by_arm.keys(), reference)
    if len(arms) < FEWEST:
        raise InputError(
            f"got {len(arms)} encoder-feature combinations in both {reference.name} and {other.name}, expected at "
            f"least {FEWEST}: score more"
        )
    sides = [[scores.by_arm[arm] for arm in arms] for scores in (reference, other)]
    values = np.array([[score.value for score in side] for side in sides])  # (2, A)
    widths = np.array([[score.ci95[1] - score.ci95[0] for score in side] for side in sides])  # (2, A)
    rng = np.random.default_rng(0)
    draws = np.empty((RESAMPLES, *values.shape))  # (R, 2, A)
    for draw in draws:
        drawn = rng.integers(len(arms), size=len(arms))  # (A,)
        draw[:] = (values + rng.standard_normal(values.shape) * widths / DEVIATIONS_OF_CI95)[:, drawn]  # (2, A)
    draws = draws[(np.ptp(draws, axis=2) > 0).all(axis=1)]  # constant scores have no correlation
    resampled = correlations(draws)
    found, p_values = {}, {}
    for measure in MEASURES:
        value, p_values[measure] = _correlation(measure, values)
        low, high = np.quantile(resampled[measure], [0.025, 0.975]) if len(draws) else (-1.0, 1.0)
        found[measure] = Score(value, (float(low), float(high)))
    left_out = sorted(reference.by_arm.keys() ^ other.by_arm.keys())
    without = {arm: _correlation("pearson", np.delete(values, i, axis=1))[0] for i, arm in enumerate(arms)}
    return Correlation(reference, other, arms, left_out, **found, p_value=p_values["pearson"], without=without)


def correlations(draws: np.ndarray) -> dict[str, np.ndarray]:
    """What scipy's functions of [`MEASURES`] give for each of many draws, all at once.

    Args:
        draws (`np.ndarray`): (R, 2, A), no row of them constant.

    Returns:
        `dict[str, np.ndarray]`: (R,) by measure.
    """
    above = (draws[..., :, None] > draws[..., None, :]).astype(np.int8)  # (R, 2, A, A)
    order = above - above.swapaxes(2, 3)  # (R, 2, A, A), 0 where two arms are equal
    unequal = np.count_nonzero(order, axis=(2, 3))  # (R, 2)
    kendall = (order[:, 0] * order[:, 1]).sum(axis=(1, 2)) / np.sqrt(unequal.prod(axis=1))  # (R,)
    return {"pearson": _pearson(draws), "spearman": _pearson(rankdata(draws, axis=2)), "kendall": kendall}


def _pearson(draws: np.ndarray) -> np.ndarray:
    """Of each of many draws (R, 2, A): (R,)."""
    centred = draws - draws.mean(axis=2, keepdims=True)  # (R, 2, A)
    centred /= np.linalg.norm(centred, axis=2, keepdims=True)
    return (centred[:, 0] * centred[:, 1]).sum(axis=1)


def _correlation(measure: str, values: np.ndarray) -> tuple[float, float]:
    """Of two rows (2, A), with its p value; nan where one of them is constant."""
    if (np.ptp(values, axis=1) == 0).any():
        return float("nan"), float("nan")
    found = MEASURES[measure](*values)
    return float(found.statistic), float(found.pvalue)


def arms_needed(correlation: float) -> int:
    """How many arms show that a true Pearson correlation is not 0: power 80 %, two-sided at 5 % (Fisher's z)."""
    quantiles = norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)
    return max(FEWEST, int(np.ceil((quantiles / np.arctanh(abs(correlation))) ** 2 + 3)))


def _best_first(arms: Set[str], reference: Scores) -> list[str]:
    """In the order of the reference's scores, equal ones by name: a set has no order of its own."""
    return sorted(arms, key=lambda arm: (-reference.by_arm[arm].value, arm))


def write_comparison(found: Sequence[Correlation], output: str | os.PathLike) -> str:
    """Write `comparison.json`, `.md` and `.png` of several instruments against one reference; the Markdown.

    Raises:
        InputError: two instruments of one name, of which one would stand in the other's place.
    """
    output = Path(output)
    sides = [found[0].reference.name, *(one.other.name for one in found)]
    if twice := [name for name in sides if sides.count(name) > 1]:
        raise InputError(f"got two results named {twice[0]}, expected different names: give --names")
    content = []
    for one in found:
        measures = {name: _stored(getattr(one, name)) for name in MEASURES}
        points = [
            {"arm": arm} | {side.name: _stored(side.by_arm[arm]) for side in (one.reference, one.other)}
            for arm in one.arms
        ]
        names = {"reference": one.reference.name, "other": one.other.name}
        without = {arm: _number(value) for arm, value in one.without.items()}
        more = {"p_value": _number(one.p_value), "without": without, "points": points, "left_out": one.left_out}
        content.append(names | measures | more)
    text = comparison_table(found)
    write_json(output / "comparison.json", {"comparisons": content})
    with atomic_path(output / "comparison.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    save_png(comparison_figure(found), output / "comparison.png")
    return text


def _stored(score: Score) -> list[float | None]:
    """Value and interval."""
    return [_number(round(one, 4)) for one in (score.value, *score.ci95)]


def _number(value: float) -> float | None:
    """As JSON has it: constant scores have no correlation."""
    return None if math.isnan(value) else value


def comparison_table(found: Sequence[Correlation]) -> str:
    """Markdown: an instrument a row with its correlations, then an arm a row with all scores."""
    reference = found[0].reference
    against = markdown_escaped(reference.name)
    lines = [f"| against {against} | n | Pearson | p | without one of them | Spearman | Kendall |"]
    lines.append(f"|---|{'--:|' * 6}")
    for one in found:
        pearson, *others = (interval_text(getattr(one, measure)) for measure in MEASURES)
        p_value = "none" if math.isnan(one.p_value) else f"{one.p_value:.2g}"
        cells = (markdown_escaped(one.other.name), str(len(one.arms)), pearson, p_value, one.without_one(), *others)
        lines.append(f"| {' | '.join(cells)} |")
    sides = [reference, *(one.other for one in found)]
    arms = _best_first({arm for one in found for arm in one.arms}, reference)
    columns = [markdown_escaped(f"{side.name}, {side.unit}") for side in sides]
    lines += ["", f"| encoder and feature | {' | '.join(columns)} |"]
    lines.append(f"|---|{'--:|' * len(sides)}")
    for arm in arms:
        scores = [(side.by_arm.get(arm), side.unit) for side in sides]
        lines.append(f"| {markdown_escaped(arm)} | {' | '.join(_shown(*score) for score in scores)} |")
    lines += ["", "[95% interval, over encoder-feature combinations and over each one's scenes]"]
    needed = ", ".join(f"{arms_needed(size)} for {size}" for size in (0.9, 0.7, 0.5, 0.3))
    lines += ["", f"Combinations that show a true Pearson correlation, with a power of 80 %: {needed}."]
    left_out = sorted({arm for one in found for arm in one.left_out})
    if left_out:
        lines += ["", f"Scored by only one of two and left out there: {', '.join(map(markdown_escaped, left_out))}."]
    return "\n".join(lines) + "\n"


def interval_text(score: Score) -> str:
    """A correlation with its interval; constant scores have none."""
    if math.isnan(score.value):
        return "none"
    return f"{score.value:.2f} [{score.ci95[0]:.2f}, {score.ci95[1]:.2f}]"


def _shown(score: Score | None, unit: str) -> str:
    return "" if score is None else f"{_scaled(score.value, unit):.1f}"


def _scaled(value: float, unit: str) -> float:
    return 100 * value if unit == "%" else value


def _markers(arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """How the point of an arm looks: each encoder has a colour and a shape, its controls are hollow."""
    encoders = {arm: arm.partition(" · ")[0].partition(", ") for arm in sorted(arms)}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one[0] for one in encoders.values()))}
    looks = {}
    for arm, (name, _, control) in encoders.items():
        row, column = divmod(numbers[name], len(COLOURS))
        own = {"color": COLOURS[column], "marker": "osD^v"[row % 5], "linestyle": "none"}
        looks[arm] = own | ({"markerfacecolor": "none"} if control else {})
    return looks


@chart_style()
def comparison_figure(found: Sequence[Correlation]) -> Figure:
    """A panel an instrument: the reference upwards, a numbered point an arm, named at the side."""
    arms = _best_first({arm for one in found for arm in one.arms}, found[0].reference)
    numbers = {arm: number for number, arm in enumerate(arms, 1)}
    markers = _markers(arms)
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.75 * columns + 2.6, max(2.9 * rows, 0.17 * len(arms) + 0.6)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for ax in panels[len(found) :]:
        ax.set_visible(False)
    for ax, one in zip(panels, found):
        for arm in one.arms:
            x, y = (_scaled(side.by_arm[arm].value, side.unit) for side in (one.other, one.reference))
            errors = [
                [[abs(_scaled(end, side.unit) - value)] for end in side.by_arm[arm].ci95]
                for side, value in ((one.other, x), (one.reference, y))
            ]
            colour = markers[arm]["color"]
            ax.errorbar(x, y, yerr=errors[1], xerr=errors[0], color=colour, elinewidth=0.5, alpha=0.5)
            ax.plot(x, y, markersize=4, **markers[arm])
            ax.annotate(str(numbers[arm]), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6)
        ax.set_xlabel(f"{one.other.name}, {one.other.unit}", fontsize=7)
        title = f"Pearson {interval_text(one.pearson)}\nKendall {interval_text(one.kendall)}"
        ax.set_title(title, fontsize=7, loc="left")
        ax.tick_params(labelsize=6.5)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supylabel(f"{found[0].reference.name}, {found[0].reference.unit}", fontsize=7)
    handles = [figure.axes[0].plot([], [], **markers[arm])[0] for arm in arms]
    labels = [f"{numbers[arm]} {arm}" for arm in arms]
    figure.legend(handles, labels, loc="outside right center", fontsize=6.5, frameon=False)
    return figure
