"""What readers had right: on disk a file a reader, and from these the table, the curves and the comparisons.

    run = Run.load("out/reading_runs/minilm__norm_avg__seed0.json")
    write_report("reading", texts.test, runs, "out")       # out/reading.json, .md, .png

The rows of `reading.json` are `encoder, feature, instrument, wording, axis, rung, property, accuracy, ci95, n, guess,
seeds`; `property` is one of the sheet's, `"all"` facts, or `"figure"`: everything told of one figure at once.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from granted.eval_metric.layer_curves import layers_csv, layers_figure
from granted.eval_metric.reading.charts import ladder_chart, property_points, reading_chart, wording_points
from granted.eval_metric.reading.examples import Example
from granted.eval_metric.reading.settings import VERSION
from granted.eval_metric.reading.sheet import guess_rate
from granted.eval_metric.reading.threshold import Threshold, fit_threshold
from granted.eval_metric.statistics import bootstrap_accuracy, paired_difference
from granted.utils.errors import InputError, refusing
from granted.utils.figures import save_png
from granted.utils.files import atomic_path, read_json, write_csv, write_json
from granted.utils.shown import markdown_escaped, percent, percent_interval


SATURATED = 0.9  # share of training facts from which a reader counts as one that has learned its texts
COMPARED = "all"  # the property that differences are of


@dataclass(frozen=True)
class Run:
    """One trained reader: of which encoder and feature, and which facts of the test it has right."""

    encoder: str
    feature: str
    seed: int
    right: list[list[bool]]
    learned: float
    identity: dict[str, Any]
    provenance: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; what is right as one string of 0 and 1 a text."""
        right = ["".join("01"[one] for one in row) for row in self.right]
        write_json(path, asdict(self) | {"right": right})

    @classmethod
    def load(cls, path: Path, identity: dict[str, Any] | None = None) -> "Run":
        """Read it; `identity` is what it must have, if anything.

        Raises:
            InputError: it is damaged, or not of this identity.
        """
        with refusing(f"{path}", "what a reader's run wrote: remove it and run again"):
            stored = read_json(path)
            run = cls(**stored | {"right": [[mark == "1" for mark in row] for row in stored["right"]]})
        different = [name for name, value in (identity or {}).items() if run.identity.get(name) != value]
        if different:
            raise InputError(
                f"got {path} of a run with other {', '.join(different)}, expected this run's: choose another output "
                "folder or remove it"
            )
        return run


@dataclass(frozen=True)
class Arm:
    """The runs of one encoder and feature, one a seed."""

    encoder: str
    feature: str
    runs: tuple[Run, ...]

    @property
    def learned(self) -> float:
        """Share of the facts of training texts that its readers have right, the mean over seeds."""
        return float(np.mean([run.learned for run in self.runs]))

    @property
    def accuracy(self) -> float:
        """Share of all facts of the test that its readers have right."""
        return float(np.mean([mark for run in self.runs for row in run.right for mark in row]))


def group_runs(runs: Iterable[Run]) -> list[Arm]:
    """Seeds of one encoder and feature together, the one that reads most first."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.encoder, run.feature), []).append(run)
    arms = [Arm(*key, tuple(own)) for key, own in groups.items()]
    return sorted(arms, key=lambda arm: (-arm.accuracy, arm.encoder, arm.feature))


def marks(arm: Arm, examples: Sequence[Example], part: tuple, name: str) -> tuple[np.ndarray, list[str], list[float]]:
    """What an arm has right in one part of the test.

    Args:
        arm ([`Arm`]): whose.
        examples (`list[Example]`): the test texts.
        part (`tuple`): wording, axis and rung.
        name (`str`): a property, `"all"` or `"figure"`.

    Returns:
        (S, n) floats for S seeds and n facts; the scene of each; the guess rate of each.
    """
    rows: list[list[float]] = []
    scenes: list[str] = []
    guesses: list[float] = []
    for number, example in enumerate(examples):
        if (example.wording, example.axis, example.rung) != part:
            continue
        groups: dict[object, list[int]] = {}
        for i, fact in enumerate(example.facts):
            if name == "figure" and fact.subject is None:
                continue
            if name in ("all", "figure", fact.property):
                groups.setdefault(fact.subject if name == "figure" else i, []).append(i)
        for own in groups.values():
            rows.append([float(all(run.right[number][i] for i in own)) for run in arm.runs])
            scenes.append(example.scene)
            guesses.append(float(np.prod([guess_rate(example.facts[i]) for i in own])))
    return np.array(rows).T, scenes, guesses  # (S, n)


def rows_of(instrument: str, arms: Sequence[Arm], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The rows of a results file."""
    parts = list(dict.fromkeys((example.wording, example.axis, example.rung) for example in examples))
    names = ["all", "figure", *dict.fromkeys(fact.property for example in examples for fact in example.facts)]
    rows = []
    for arm in arms:
        for part in parts:
            for name in names:
                right, scenes, guesses = marks(arm, examples, part, name)
                if not scenes:
                    continue
                estimate = bootstrap_accuracy(right, scenes, n_resamples=2000)
                rows.append(
                    {
                        "encoder": arm.encoder,
                        "feature": arm.feature,
                        "instrument": instrument,
                        "wording": part[0],
                        "axis": part[1],
                        "rung": part[2],
                        "property": name,
                        "accuracy": round(estimate.accuracy, 4),
                        "ci95": [round(estimate.low, 4), round(estimate.high, 4)],
                        "n": len(scenes),
                        "guess": round(float(np.mean(guesses)), 4),
                        "seeds": len(arm.runs),
                    }
                )
    return rows


def differences(arms: Sequence[Arm], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Paired differences of every two arms over all facts of a wording, scenes resampled."""
    found = []
    for wording in dict.fromkeys(example.wording for example in examples):
        own = [example for example in examples if example.wording == wording]
        part = (wording, own[0].axis, own[0].rung)
        marked = [(arm, *marks(arm, examples, part, COMPARED)[:2]) for arm in arms]
        for (one, a, scenes), (other, b, _) in combinations(marked, 2):
            outcome = paired_difference(a, b, scenes, n_resamples=2000)
            found.append(
                {
                    "a": [one.encoder, one.feature],
                    "b": [other.encoder, other.feature],
                    "wording": wording,
                    "difference": round(outcome.difference, 4),
                    "ci95": [round(outcome.low, 4), round(outcome.high, 4)],
                    "p": round(outcome.p_value, 4),
                }
            )
    return found


def thresholds(arms: Sequence[Arm], examples: Sequence[Example]) -> dict[tuple[str, str], Threshold]:
    """Of every arm how many facts it carries, see [`fit_threshold`]."""
    rungs = sorted({example.rung for example in examples if example.axis == "facts"})
    found = {}
    for arm in arms:
        credits, scenes, guesses = zip(*(marks(arm, examples, ("seen", "facts", rung), "all") for rung in rungs))
        guess = float(np.mean([value for own in guesses for value in own]))
        found[arm.encoder, arm.feature] = fit_threshold(rungs, credits, scenes, guess)
    return found


def write_report(instrument: str, examples: Sequence[Example], runs: Sequence[Run], output: str | os.PathLike) -> None:
    """Write `INSTRUMENT.json`, `.md` and `.png` into the output folder.

    Of encoders with several layers also `reading_layers.png` (by wording) and `reading_layers_properties.png`, each
    with its data as `.csv`.

    Args:
        instrument (`str`): `"reading"` or `"ladder"`.
        examples (`Sequence[Example]`): the test texts.
        runs (`Sequence[Run]`): their answers, by encoder, feature and seed.
        output (`str`): the folder.
    """
    output, arms = Path(output), group_runs(runs)
    rows = rows_of(instrument, arms, examples)
    content: dict[str, Any] = {"instrument": instrument, "version": VERSION, "rows": rows}
    content["arms"] = [
        {"encoder": arm.encoder, "feature": arm.feature, "learned": round(arm.learned, 4)} | arm.runs[0].provenance
        for arm in arms
    ]
    if instrument == "reading":
        content["differences"] = differences(arms, examples)
        text, chart = reading_table(arms, rows), reading_chart
    else:
        found = thresholds(arms, examples)
        content["thresholds"] = [
            {"encoder": encoder, "feature": feature} | asdict(value) for (encoder, feature), value in found.items()
        ]
        text, chart = ladder_table(arms, rows, found), ladder_chart
    write_json(output / f"{instrument}.json", content)
    with atomic_path(output / f"{instrument}.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    chart(rows, output / f"{instrument}.png")
    if instrument == "reading":
        for name, points in (("", wording_points(rows)), ("_properties", property_points(rows))):
            if points:
                save_png(layers_figure(points), output / f"reading_layers{name}.png")
                write_csv(output / f"reading_layers{name}.csv", *layers_csv(points))


def _cell(rows: Sequence[dict], arm: Arm, **wanted: Any) -> dict | None:
    wanted |= {"encoder": arm.encoder, "feature": arm.feature}
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def accuracy_text(row: dict | None) -> str:
    """The accuracy of a row in percent with its interval; nothing of no row."""
    if row is None:
        return ""
    return f"{percent(row['accuracy'])} {percent_interval(row['ci95'], digits=0)}"


def _learned(arm: Arm) -> str:
    return f"{100 * arm.learned:.0f}{'' if arm.learned >= SATURATED else ' (not saturated)'}"


def reading_table(arms: Sequence[Arm], rows: Sequence[dict]) -> str:
    """Markdown: an arm a row, a wording a column, all facts."""
    wordings = list(dict.fromkeys(row["wording"] for row in rows))
    lines = [f"| encoder | feature | learned | {' | '.join(wordings)} |", f"|---|---|--:|{'--:|' * len(wordings)}"]
    for arm in arms:
        cells = [accuracy_text(_cell(rows, arm, wording=wording, property="all")) for wording in wordings]
        names = map(markdown_escaped, (arm.encoder, arm.feature))
        lines.append(f"| {' | '.join([*names, _learned(arm), *cells])} |")
    guess = np.mean([row["guess"] for row in rows if row["property"] == "all"])
    notes = (
        f"Facts read right, % [95% interval over scenes]; guessing: {100 * guess:.0f}. `learned`: of training texts."
    )
    return "\n".join([*lines, "", notes]) + "\n"


def ladder_table(arms: Sequence[Arm], rows: Sequence[dict], found: dict[tuple[str, str], Threshold]) -> str:
    """Markdown: an arm a row, its threshold, and the accuracy on every rung of every axis."""
    rungs = list(dict.fromkeys((row["axis"], row["rung"]) for row in rows))
    heads = [f"{axis} {rung}" for axis, rung in rungs]
    lines = [
        f"| encoder | feature | learned | facts carried | {' | '.join(heads)} |",
        f"|---|---|--:|--:|{'--:|' * len(rungs)}",
    ]
    for arm in arms:
        cells = (_cell(rows, arm, axis=axis, rung=rung, property="all") for axis, rung in rungs)
        values = [f"{100 * cell['accuracy']:.0f}" if cell else "" for cell in cells]
        threshold = found[arm.encoder, arm.feature]
        names = map(markdown_escaped, (arm.encoder, arm.feature))
        lines.append(f"| {' | '.join([*names, _learned(arm), str(threshold), *values])} |")
    notes = (
        "Facts carried: where accuracy falls half way from its ceiling to guessing [95% interval]; else % read right. "
        "`learned`: of training texts; where a reader has not learned them, its threshold says how fast it learns."
    )
    return "\n".join([*lines, "", notes]) + "\n"
