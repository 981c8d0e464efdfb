"""Charts of the reading instrument: dots for wordings, curves for the ladder, and what is drawn over layers.

    reading_chart(rows, "reading.png")
    ladder_chart(rows, "ladder.png")
    wording_points(rows), property_points(rows)       # for `layers_figure`, of encoders with several layers

The rows are those of a results file, see `results.py`.
"""

import os
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from granted.eval_metric.layer_curves import Point, layer_points
from granted.utils.figures import COLOURS, FAINT, INK, line_style, save_png


def _arms(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["encoder"], row["feature"]) for row in rows))


def _label(arm: tuple[str, str]) -> str:
    return f"{arm[0]} · {arm[1]}"


def reading_chart(
    rows: Sequence[dict[str, Any]],
    path: str | os.PathLike,
    title: str = "Facts read right, %",
    scored: str = "all",
) -> None:
    """A panel a wording, a row an arm, with 95% intervals; the dotted line is guessing, or other prompts.

    Args:
        rows (`Sequence[dict]`): of a results file.
        path (`str` or `os.PathLike`): the file to write.
        title (`str`), scored (`str`, defaults to `"all"`): what is shown, and its property in the rows.
    """
    rows = [row for row in rows if row["property"] == scored]
    arms, wordings = _arms(rows), list(dict.fromkeys(row["wording"] for row in rows))
    figure = Figure(figsize=(3 + 1.25 * len(wordings), 0.9 + 0.22 * len(arms)), layout="constrained")
    for ax, wording in zip(figure.subplots(1, len(wordings), sharey=True, squeeze=False)[0], wordings):
        for y, arm in enumerate(arms):
            row = next((r for r in rows if (r["encoder"], r["feature"]) == arm and r["wording"] == wording), None)
            if row is None:
                continue
            low, high = (100 * value for value in row["ci95"])
            ax.plot([low, high], [y, y], color=COLOURS[0], linewidth=1.4, alpha=0.7)
            ax.plot([100 * row["accuracy"]], [y], "o", markersize=4, color=COLOURS[0])
        chance = [row.get("guess", row.get("control")) for row in rows if row["wording"] == wording]
        ax.axvline(100 * sum(chance) / len(chance), color=FAINT, linestyle=":", linewidth=0.8)
        ax.set(xlim=(-3, 103), ylim=(len(arms) - 0.5, -0.5), xticks=[0, 50, 100])
        ax.set_title(wording, fontsize=8, loc="left", color=INK)
        ax.set_yticks(range(len(arms)))
        ax.set_yticklabels([_label(arm) for arm in arms])
        ax.tick_params(labelsize=6.5, length=0)
        ax.grid(axis="x", linewidth=0.4)
        ax.spines[:].set_visible(False)
    figure.supxlabel(f"{title} (95% interval over scenes)", fontsize=7, color=FAINT)
    save_png(figure, path)


def ladder_chart(rows: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """A panel an axis, a curve an arm: facts read right on every rung; the dotted line is guessing."""
    rows = [row for row in rows if row["property"] == "all"]
    arms, axes = _arms(rows), list(dict.fromkeys(row["axis"] for row in rows))
    titles = {
        "facts": "facts told",
        "distance": "words between the halves of a fact",
        "distractors": "figures of its shape",
    }
    figure = Figure(figsize=(3.2 * len(axes), 3.4 + 0.14 * len(arms)), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for ax, axis in zip(panels, axes):
        for number, arm in enumerate(arms):
            own = [row for row in rows if (row["encoder"], row["feature"]) == arm and row["axis"] == axis]
            places = [str(row["rung"]) for row in own]
            errors = [[100 * (row["accuracy"] - row["ci95"][0]) for row in own]]
            errors.append([100 * (row["ci95"][1] - row["accuracy"]) for row in own])
            style = line_style(number)
            ax.errorbar(
                places,
                [100 * row["accuracy"] for row in own],
                errors,
                linewidth=1.2,
                markersize=3,
                marker="o",
                **style,
            )
        ax.axhline(100 * own[0]["guess"], color=FAINT, linestyle=":", linewidth=0.8)
        ax.set(ylim=(0, 103))
        ax.set_title(titles[axis], fontsize=8, loc="left", color=INK)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    handles = panels[0].containers
    figure.legend(
        handles, [_label(arm) for arm in arms], loc="outside lower center", fontsize=6.5, ncols=2, frameon=False
    )
    figure.supylabel("Facts read right, %", fontsize=7, color=FAINT)
    save_png(figure, path)


def wording_points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Which layer reads what, a panel a wording: all facts."""
    return layer_points({**row, "panel": row["wording"]} for row in rows if row["property"] == "all")


def property_points(rows: Sequence[dict[str, Any]]) -> list[Point]:
    """Which layer knows colour, place, count: a panel a property, in words for it that no training text has."""
    named = [row | {"panel": row["property"]} for row in rows if row["wording"] == "word"]
    named += [row | {"panel": "place"} for row in rows if row["wording"] == "place" and row["property"] == "all"]
    return layer_points(row for row in named if row["panel"] not in ("all", "figure"))
