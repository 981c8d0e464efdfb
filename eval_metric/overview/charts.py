"""The charts of the page, each with its data as CSV beside it.

scores_figure(evaluation)
scores_csv(evaluation, Path("figures/drawing.csv"))
"""

from pathlib import Path

from matplotlib.figure import Figure

from granted.eval_metric.overview.collection import Evaluation, ranked
from granted.utils.figures import ACCENT, FAINT, chart_style
from granted.utils.files import write_csv


MOST_PANELS = 5


@chart_style()
def scores_figure(evaluation: Evaluation) -> Figure:
    """A panel a score, a row an encoder and feature, the best at the top: dots with 95% intervals.

    Args:
        evaluation ([`Evaluation`]): at most five of its columns are drawn.
    """
    arms = [one.arm for one in ranked(evaluation.headline)]
    columns = evaluation.columns[:MOST_PANELS]
    size = (2.6 + 1.45 * len(columns), 0.7 + 0.2 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    for ax, scores in zip(figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns):
        factor = 100 if scores.unit == "%" else 1
        for y, arm in enumerate(arms):
            if (score := scores.by_arm.get(arm)) is None:
                continue
            ax.plot([factor * end for end in score.ci95], [y, y], color=ACCENT, linewidth=1.4, alpha=0.6)
            ax.plot([factor * score.value], [y], "o", markersize=4, color=ACCENT)
        ax.set(ylim=(len(arms) - 0.5, -0.5))
        ax.set_title(f"{scores.name}, {scores.unit}", fontsize=7, loc="left")
        ax.set_yticks(range(len(arms)))
        ax.set_yticklabels(arms)
        ax.tick_params(labelsize=6.5, length=0, colors=FAINT)
        ax.grid(axis="x", linewidth=0.4)
        ax.spines[:].set_visible(False)
    return figure


def scores_csv(evaluation: Evaluation, path: Path) -> None:
    """One row an encoder, feature and score: value and 95% interval, shares as fractions of 1."""
    rows = [
        (one.arm, scores.name, scores.unit.replace("%", "share"), score.value, *score.ci95)
        for one in ranked(evaluation.headline)
        for scores in evaluation.columns
        if (score := scores.by_arm.get(one.arm)) is not None
    ]
    write_csv(path, ("encoder and feature", "score", "unit", "value", "low", "high"), rows)
