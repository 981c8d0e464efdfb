"""What the arms of the drawing probe have drawn, as rows of one schema, a table and a chart.

    write_report(finished_arms("out/drawing_runs"), "out")         # out/drawing.json, .md, .png

The rows of `drawing.json` are those of `granted evaluate reading` (`encoder, feature, instrument, wording, axis, rung,
property, accuracy, ci95, n, guess, seeds`), with `control` in place of `guess`: the score of the same images on one
another's prompts, and `by_seed`, the accuracy of each. `differences` says what seeds allow to tell apart.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t
from scipy.stats import ttest_ind

from granted.eval_metric.drawing.arm import PROPERTIES
from granted.eval_metric.drawing.charts import RAW, drawing_sheet, feature_name, steps_chart
from granted.eval_metric.drawing.scenes import WORDINGS
from granted.eval_metric.drawing.settings import VERSION
from granted.eval_metric.reading.charts import reading_chart
from granted.eval_metric.reading.results import accuracy_text
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.shown import markdown_escaped, signed_estimate


# By shape and colour together arms are ranked. The place is learned all at once, with one seed before the last step
# and with another not, so that it says little about a feature; `all` is the mean of the three.
HEADLINE = "look"
# Columns of the table: a property in a wording.
SHOWN = (*((HEADLINE, wording) for wording in WORDINGS), ("position", "seen"), ("position", "word"))


def finished_arms(runs: str | os.PathLike, wanted: dict[str, Any] | None = None) -> dict[Path, dict[str, Any]]:
    """What the arms that have ended have scored, by their folders.

    Args:
        runs (`str` or `os.PathLike`): the folder of all arms.
        wanted (`dict`, *optional*): budget and version that they must have to stand side by side.

    Raises:
        InputError: one of them has others.
    """
    arms = {path.parent: read_json(path) for path in sorted(Path(runs).glob("*/scores.json"))}
    for folder, arm in arms.items():
        own = {name: arm.get(name) for name in wanted or {}}
        if own != (wanted or {}):
            raise InputError(f"got {folder}, a run with other settings ({own}) than {wanted}: choose another folder")
    return arms


def write_report(arms: Mapping[Path, dict[str, Any]], output: str | os.PathLike) -> list[dict[str, Any]]:
    """Write `drawing.json`, `.md` and `.png`, `drawing_images.png` and `drawing_steps.png` of arms that have ended.

    Args:
        arms (`dict[Path, dict]`): of [`finished_arms`].
        output (`str` or `os.PathLike`): the folder that gets the files.

    Returns:
        `list[dict]`: the rows of `drawing.json`.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for arm in arms.values():
        groups.setdefault((arm["encoder"], feature_name(arm)), []).append(arm)
    rows = [row for key, own in groups.items() for row in _rows(key, own)]
    scored = [row for row in rows if row["property"] == HEADLINE]
    order = sorted(groups, key=lambda key: -sum(row["accuracy"] for row in scored if _arm(row) == key))
    rows.sort(key=lambda row: order.index(_arm(row)))
    rest = [{name: value for name, value in arm.items() if name != "items"} for arm in arms.values()]
    content = {"instrument": "drawing", "version": VERSION, "rows": rows, "differences": seed_differences(rows)}
    content |= {"standardized_minus_raw": standardizing_effect(rows), "arms": rest}
    write_json(Path(output) / "drawing.json", content)
    with atomic_path(Path(output) / "drawing.md") as temporary:
        temporary.write_text(drawing_table(content), encoding="utf-8")
    reading_chart(rows, Path(output) / "drawing.png", "Shape and colour both drawn right, %", HEADLINE)
    first = {(arm["encoder"], feature_name(arm)): folder for folder, arm in reversed(arms.items())}
    folders = [first[key] for key in reversed(order)]  # the best last
    drawing_sheet([arms[folder] for folder in folders], folders, Path(output) / "drawing_images.png")
    steps_chart(list(arms.values()), Path(output) / "drawing_steps.png")
    return rows


def _arm(row: dict[str, Any]) -> tuple[str, str]:
    return row["encoder"], row["feature"]


def _rows(key: tuple[str, str], arms: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of all seeds of one encoder and feature."""
    for wording in WORDINGS:
        items = [[item for item in arm["items"] if item["wording"] == wording] for arm in arms]  # S x n
        for name in PROPERTIES:
            score, control = (
                [[item[kind][name] for item in own] for own in items] for kind in ("score", "control")
            )  # (S, n) each
            estimate = bootstrap_accuracy(score, range(len(items[0])))
            yield {
                "encoder": key[0],
                "feature": key[1],
                "instrument": "drawing",
                "wording": wording,
                "axis": "",
                "rung": 0,
                "property": name,
                "accuracy": round(estimate.accuracy, 4),
                "ci95": [round(estimate.low, 4), round(estimate.high, 4)],
                "n": len(items[0]),
                "control": round(sum(map(sum, control)) / sum(map(len, control)), 4),
                "seeds": len(arms),
                "by_seed": [round(sum(own) / len(own), 4) for own in score],
            }


def seed_differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What two arms of one encoder or of one feature differ by, beyond what seeds differ by.

    An interval over prompts takes a training as it is; this one is over trainings: Welch's, of the means of each seed.

    Args:
        rows (`list[dict]`): of `drawing.json`; arms of one seed are passed over, and two that no seed changes.

    Returns:
        `list[dict]`: `a` and `b` (encoder and feature each), `wording`, `difference` of `HEADLINE`, `ci95` and `p`.
    """
    found = []
    for wording in WORDINGS:
        arms = [row for row in rows if (row["wording"], row["property"]) == (wording, HEADLINE) and row["seeds"] > 1]
        for one, other in combinations(arms, 2):
            pair = (one["by_seed"], other["by_seed"])
            alike = one["encoder"] == other["encoder"] or one["feature"] == other["feature"]
            if not alike or all(len(set(seeds)) == 1 for seeds in pair):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # if the seeds of one of them are equal: that is exact
                outcome = ttest_ind(*pair, equal_var=False)
                interval = outcome.confidence_interval()
            found.append(
                {
                    "a": list(_arm(one)),
                    "b": list(_arm(other)),
                    "wording": wording,
                    "difference": round(one["accuracy"] - other["accuracy"], 4),
                    "ci95": [round(max(-1.0, float(interval.low)), 4), round(min(1.0, float(interval.high)), 4)],
                    "p": round(float(outcome.pvalue), 4),
                }
            )
    return found


def standardizing_effect(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What standardised channels are worth: standardised minus raw, the mean over all features that have both.

    The interval is over trainings: by the variances over seeds of all these arms, with Satterthwaite's degrees of
    freedom, so that it is Welch's where there is one feature.

    Args:
        rows (`list[dict]`): of `drawing.json`; arms of one seed are passed over.

    Returns:
        `list[dict]`: for each wording the number of `features`, the `difference` of `HEADLINE` and its `ci95`; empty
        if there are no such features, or if no seed changes anything.
    """
    found = []
    for wording in WORDINGS:
        own = [row for row in rows if (row["wording"], row["property"]) == (wording, HEADLINE) and row["seeds"] > 1]
        seeds = {_arm(row): row["by_seed"] for row in own}
        pairs = [(seeds[arm], seeds[raw]) for arm in seeds if (raw := (arm[0], f"{arm[1]}{RAW}")) in seeds]
        if all(len(set(arm)) == 1 for pair in pairs for arm in pair):
            continue
        errors = [(np.var(arm, ddof=1) / len(arm), len(arm) - 1) for pair in pairs for arm in pair]
        difference = float(np.mean([np.mean(plain) - np.mean(raw) for plain, raw in pairs]))
        freedom = sum(error for error, _ in errors) ** 2 / sum(error**2 / degrees for error, degrees in errors)
        half = student_t.ppf(0.975, freedom) * np.sqrt(sum(error for error, _ in errors)) / len(pairs)
        ends = [round(float(np.clip(difference + side * half, -1, 1)), 4) for side in (-1, 1)]
        found.append({"wording": wording, "features": len(pairs), "difference": round(difference, 4), "ci95": ends})
    return found


def _differences_table(differences: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines: two arms a row, what they differ by in each wording; none if there are no differences."""
    pairs: dict[tuple[str, ...], dict[str, str]] = {}
    for one in differences:
        shown = signed_estimate(one["difference"], one["ci95"], digits=0)
        pairs.setdefault((*one["a"], *one["b"]), {})[one["wording"]] = shown
    if not pairs:
        return []
    lines = ["", f"| look: this | minus that | {' | '.join(WORDINGS)} |", f"|---|---|{'--:|' * len(WORDINGS)}"]
    for arms, cells in pairs.items():
        sides = [markdown_escaped(" · ".join(one)) for one in (arms[:2], arms[2:])]
        lines.append(f"| {' | '.join([*sides, *(cells.get(wording, '') for wording in WORDINGS)])} |")
    return [*lines, "", "Points [95% interval over seeds, Welch's], of arms with several seeds."]


def drawing_table(content: dict[str, Any]) -> str:
    """Markdown of `drawing.json`: an arm a row, in the order of the rows; then what seeds allow to tell apart."""
    rows = content["rows"]
    cells = {(row["encoder"], row["feature"], row["wording"], row["property"]): row for row in rows}
    arms = list(dict.fromkeys(map(_arm, rows)))
    lines = [f"| encoder | feature | by seed | {' | '.join(f'{name}, {wording}' for name, wording in SHOWN)} |"]
    lines.append(f"|---|---|---|{'--:|' * len(SHOWN)}")
    for arm in arms:
        shown = [accuracy_text(cells[(*arm, wording, name)]) for name, wording in SHOWN]
        by_seed = ", ".join(f"{100 * share:.0f}" for share in cells[(*arm, WORDINGS[0], HEADLINE)]["by_seed"])
        encoder, feature = map(markdown_escaped, arm)
        lines.append(f"| {encoder} | {feature} | {by_seed} | {' | '.join(shown)} |")
    others = {name: [row["control"] for row in rows if row["property"] == name] for name, _ in SHOWN}
    means = ", ".join(f"{name} {100 * sum(own) / max(len(own), 1):.0f}" for name, own in others.items())
    note = "% [95% interval over prompts]. look: shape and colour both right; by seed: the first column of it. Seeds"
    note += " differ more than prompts, most of all in the place. The same images on one another's prompts:"
    lines += ["", f"{note} {means}.", *_differences_table(content["differences"])]
    if effect := content["standardized_minus_raw"]:
        shown = (f"{one['wording']} {signed_estimate(one['difference'], one['ci95'], digits=0)}" for one in effect)
        of = f"the mean over {effect[0]['features']} features of encoders"
        lines += ["", f"Look, standardised minus raw, {of}: {', '.join(shown)}."]
    return "\n".join(lines) + "\n"
