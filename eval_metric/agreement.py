"""Do two benchmarks rank encoders alike? The correlation of their scores over the same encoders and features.

    found = agreement(load_all("results/ted_dev"), load_all("results/synthetic"))
    found.pearson, found.interval, found.spearman

Few encoders and noisy scores make wide intervals: read them before the figure.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr

from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import group_seeds
from granted.utils.errors import InputError
from granted.utils.files import atomic_path


@dataclass(frozen=True)
class Agreement:
    """How the scores of two benchmarks go together.

    Attributes:
        points (`list[tuple[str, float, float]]`): label of encoder and feature, accuracy on each benchmark.
        pearson, spearman (`float`): correlations over the points.
        interval (`tuple[float, float]`): 95% interval of `pearson` (Fisher's z, points taken as independent).
    """

    points: list[tuple[str, float, float]]
    pearson: float
    interval: tuple[float, float]
    spearman: float

    def markdown(self, reference: str, other: str) -> str:
        """Table of the points and a line of figures; the names are those of the benchmarks."""
        lines = [f"| Encoder and feature | {reference}, % | {other}, % |", "|---|--:|--:|"]
        lines += [f"| {label} | {100 * x:.1f} | {100 * y:.1f} |" for label, x, y in self.points]
        low, high = self.interval
        figures = (
            f"r = {self.pearson:.2f} [{low:.2f}, {high:.2f}], Spearman {self.spearman:.2f}, n = {len(self.points)}"
        )
        return "\n".join([*lines, "", figures]) + "\n"


def agreement(reference: Iterable[Result], other: Iterable[Result]) -> Agreement:
    """Correlate two benchmarks over the encoders, features and poolings that both have scored, seeds averaged.

    Args:
        reference, other (`Iterable[Result]`): whole results, each on one dataset.

    Raises:
        InputError: fewer than four encoder-feature combinations occur in both.
    """
    scores = [
        {(one.encoder, one.feature, one.pooling): one for one in group_seeds(results)}
        for results in (reference, other)
    ]
    shared = sorted(scores[0].keys() & scores[1].keys(), key=lambda key: -scores[0][key].estimate.accuracy)
    if len(shared) < 4:
        raise InputError(f"got {len(shared)} encoder-feature combinations in both, expected at least 4: score more")
    points = [
        (scores[0][key].label, scores[0][key].estimate.accuracy, scores[1][key].estimate.accuracy) for key in shared
    ]
    _, x, y = zip(*points)
    pearson = pearsonr(x, y)
    low, high = pearson.confidence_interval()
    return Agreement(points, float(pearson.statistic), (float(low), float(high)), float(spearmanr(x, y).statistic))


def agreement_chart(found: Agreement, path: str | os.PathLike, reference: str, other: str) -> None:
    """Draw the points as PNG, 960 pixels wide, each encoder in a colour, mean pooling hollow."""
    figure = Figure(figsize=(6, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    encoders = sorted({label.split(" · ")[0] for label, _, _ in found.points})
    for i, encoder in enumerate(encoders):
        for hollow in (False, True):
            points = [
                (100 * x, 100 * y)
                for label, x, y in found.points
                if label.split(" · ")[0] == encoder and label.endswith(" · mean") == hollow
            ]
            if points:
                name = f"{encoder}, mean pooling" if hollow else encoder
                ax.scatter(*zip(*points), edgecolors=f"C{i}", facecolors="none" if hollow else f"C{i}", label=name)
    ax.axhline(25, color="#999999", linewidth=0.8, linestyle=":")
    ax.axvline(25, color="#999999", linewidth=0.8, linestyle=":", label="chance")
    ax.set(xlabel=f"{reference}, %", ylabel=f"{other}, %")
    ax.set_title(f"r = {found.pearson:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]", fontsize=10)
    ax.legend(fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
