"""Charts of the reading instrument: dots for wordings, curves for the ladder and over layers.

    reading_chart(rows, "reading.png")
    ladder_chart(rows, "ladder.png")
    layers_chart(rows, "reading_layers.png")          # of encoders with several single layers

The rows are those of a results file, see `results.py`.
"""

import os
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from granted.utils.files import atomic_path


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#444444")  # Okabe-Ito
INK, FAINT = "#1c2330", "#6b7484"


def _arms(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["encoder"], row["feature"]) for row in rows))


def _label(arm: tuple[str, str]) -> str:
    return f"{arm[0]} · {arm[1]}"


def _finish(figure: Figure, path: str | os.PathLike) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


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
    figure = Figure(figsize=(3 + 1.25 * len(wordings), 0.9 + 0.22 * len(arms)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
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
        ax.set_yticklabels([_label(arm) for arm in arms], parse_math=False)
        ax.tick_params(labelsize=6.5, length=0)
        ax.grid(axis="x", linewidth=0.4)
        ax.spines[:].set_visible(False)
    figure.supxlabel(f"{title} (95% interval over scenes)", fontsize=7, color=FAINT)
    _finish(figure, path)


def ladder_chart(rows: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """A panel an axis, a curve an arm: facts read right on every rung; the dotted line is guessing."""
    rows = [row for row in rows if row["property"] == "all"]
    arms, axes = _arms(rows), list(dict.fromkeys(row["axis"] for row in rows))
    titles = {
        "facts": "facts told",
        "distance": "words between the halves of a fact",
        "distractors": "figures of its shape",
    }
    figure = Figure(figsize=(3.2 * len(axes), 3.4 + 0.14 * len(arms)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for ax, axis in zip(panels, axes):
        for number, arm in enumerate(arms):
            own = [row for row in rows if (row["encoder"], row["feature"]) == arm and row["axis"] == axis]
            places = [str(row["rung"]) for row in own]
            errors = [[100 * (row["accuracy"] - row["ci95"][0]) for row in own]]
            errors.append([100 * (row["ci95"][1] - row["accuracy"]) for row in own])
            style = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
            }
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
    _finish(figure, path)


def single_layers(rows: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """The layers of each encoder that has at least three of them in the rows, the first block being 0."""
    found: dict[str, list[int]] = {}
    for encoder, feature in _arms(rows):
        if feature.startswith("layer_"):
            found.setdefault(encoder, []).append(int(feature.removeprefix("layer_")))
    return {encoder: sorted(layers) for encoder, layers in found.items() if len(layers) > 2}


def layers_chart(rows: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """A panel a wording, a curve an encoder: single layers, Norm-Avg and last as levels; dotted is guessing.

    Args:
        rows (`list[dict]`): of a results file, with encoders as [`single_layers`] finds them.
        path (`str` or `os.PathLike`): the PNG.
    """
    cells = {(row["encoder"], row["feature"], row["wording"]): row for row in rows if row["property"] == "all"}
    wordings, layers = list(dict.fromkeys(wording for _, _, wording in cells)), single_layers(rows)
    figure = Figure(figsize=(1.2 + 1.5 * len(wordings), 2.9), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, wording in zip(figure.subplots(1, len(wordings), sharey=True, squeeze=False)[0], wordings):
        for colour, (encoder, numbers) in zip(cycle(COLOURS), layers.items()):
            own = [cells[encoder, f"layer_{number}", wording] for number in numbers]
            accuracy, ends = ([100 * row["accuracy"] for row in own], [[100 * x for x in row["ci95"]] for row in own])
            ax.fill_between(numbers, *zip(*ends), color=colour, alpha=0.15, linewidth=0)
            ax.plot(numbers, accuracy, "-o", color=colour, linewidth=1.2, markersize=3, label=f"{encoder}, one layer")
            for feature, style in (("norm_avg", "--"), ("last", "-.")):
                if (encoder, feature, wording) in cells:
                    level = 100 * cells[encoder, feature, wording]["accuracy"]
                    ax.axhline(level, color=colour, linestyle=style, linewidth=1, label=f"{encoder}, {feature}")
        guesses = [row["guess"] for row in cells.values() if row["wording"] == wording]
        ax.axhline(100 * sum(guesses) / len(guesses), color=FAINT, linestyle=":", linewidth=0.8)
        ax.set(ylim=(0, 103), xlabel="layer")
        ax.xaxis.label.set(fontsize=7)
        ax.set_title(wording, fontsize=8, loc="left", color=INK)
        ax.tick_params(labelsize=6.5)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7, frameon=False
    )
    figure.supylabel("Facts read right, %", fontsize=7, color=FAINT)
    _finish(figure, path)
