"""The charts of the page, each with its data as CSV beside it.

scores_chart(evaluation, "figures/drawing", dark=False)      # figures/drawing.png, figures/drawing.csv
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from granted.eval_metric.overview.collection import Evaluation, ranked
from granted.utils.files import atomic_path


MOST_PANELS = 5
INKS = {False: ("#1c2330", "#5d6675", "#0063a0", "#ffffff"), True: ("#e6e9ef", "#99a2b3", "#6cb8ee", "#161b24")}


def scores_chart(evaluation: Evaluation, path: Path, dark: bool = False) -> None:
    """A panel a score, a row an encoder and feature, the best at the top: dots with 95% intervals.

    Args:
        evaluation ([`Evaluation`]): at most five of its columns are drawn.
        path (`Path`): the PNG.
        dark (`bool`, defaults to `False`): for a dark page.
    """
    ink, faint, colour, page = INKS[dark]
    arms = [one.arm for one in ranked(evaluation.headline)]
    columns = evaluation.columns[:MOST_PANELS]
    size = (2.6 + 1.45 * len(columns), 0.7 + 0.2 * len(arms))
    figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor=page)
    FigureCanvasAgg(figure)
    for ax, scores in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns):
        factor = 100 if scores.unit == "%" else 1
        for y, arm in enumerate(arms):
            if (score := scores.by_arm.get(arm)) is None:
                continue
            ax.plot([factor * end for end in score.ci95], [y, y], color=colour, linewidth=1.4, alpha=0.6)
            ax.plot([factor * score.value], [y], "o", markersize=4, color=colour)
        ax.set(ylim=(len(arms) - 0.5, -0.5), facecolor=page)
        ax.set_title(f"{scores.name}, {scores.unit}", fontsize=7, loc="left", color=ink)
        ax.set_yticks(range(len(arms)))
        ax.set_yticklabels(arms, parse_math=False)
        ax.tick_params(labelsize=6.5, length=0, colors=faint)
        ax.grid(axis="x", linewidth=0.4, color=faint, alpha=0.4)
        ax.spines[:].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """The data of a chart or table; written whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def scores_csv(evaluation: Evaluation, path: Path) -> None:
    """One row an encoder, feature and score: value and 95% interval, as they are stored."""
    rows = [
        (one.arm, scores.name, scores.unit, score.value, *score.ci95)
        for one in ranked(evaluation.headline)
        for scores in evaluation.columns
        if (score := scores.by_arm.get(one.arm)) is not None
    ]
    write_csv(path, ("encoder and feature", "score", "unit", "value", "low", "high"), rows)
