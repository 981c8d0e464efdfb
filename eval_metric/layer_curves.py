"""What single layers are worth, and Norm-Avg of ever more of them: curves over the layers of each encoder.

    points = layer_points(rows_with_panels)          # of `--features all_layers,cumulative`
    save_png(layers_figure(points), "layers.png")
    write_csv("layers.csv", *layers_csv(points))

A row has `encoder, feature, panel, accuracy, ci95, guess`; `panel` names what was scored. Tests:
tests/test_layer_curves.py.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from granted.utils.figures import COLOURS, FAINT, INK, chart_style


FEWEST = 3  # layers of an encoder that make a curve
COLUMNS = 5
STYLES = {"one layer": "-o", "Norm-Avg up to it": "--s"}
LEVELS = {"norm_avg": "-.", "last": ":"}


@dataclass(frozen=True)
class Point:
    """One score of an encoder, on a curve over layers or, without a layer, a level beside them.

    Attributes:
        encoder, panel (`str`): whose, and of what.
        curve (`str`): one of `STYLES`, or of `LEVELS`.
        layer (`int`, *optional*): 0 is the first block; of Norm-Avg of the first K layers it is K - 1.
        accuracy, low, high (`float`): fractions of 1 with the 95% interval.
        guess (`float`): what guessing gives.
    """

    encoder: str
    panel: str
    curve: str
    layer: int | None
    accuracy: float
    low: float
    high: float
    guess: float


def layer_points(rows: Iterable[dict[str, Any]]) -> list[Point]:
    """The points of all encoders that have at least three layers on one curve; none where there is no such encoder."""
    points = []
    for row in rows:
        place = _place(row["feature"])
        if place is not None:
            score = (row["accuracy"], *row["ci95"], row["guess"])
            points.append(Point(row["encoder"], row["panel"], *place, *score))
    curved = {one.encoder for one in points if len(_curve(points, one.encoder, one.panel, one.curve)) >= FEWEST}
    return [one for one in points if one.encoder in curved]


def _place(feature: str) -> tuple[str, int | None] | None:
    """Curve and layer of a feature; of one that is on no curve nothing."""
    if single := re.fullmatch(r"layer_(\d+)", feature):
        return "one layer", int(single[1])
    if first := re.fullmatch(r"norm_avg_first_(\d+)", feature):
        return "Norm-Avg up to it", int(first[1]) - 1
    return (feature, None) if feature in LEVELS else None


def _curve(points: Iterable[Point], encoder: str, panel: str, curve: str) -> list[Point]:
    own = [one for one in points if (one.encoder, one.panel, one.curve) == (encoder, panel, curve)]
    return sorted((one for one in own if one.layer is not None), key=lambda one: one.layer)


@chart_style()
def layers_figure(points: Sequence[Point]) -> Figure:
    """A panel for all that was scored, a colour an encoder; Norm-Avg and last as levels, dotted grey is guessing."""
    panels = list(dict.fromkeys(one.panel for one in points))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 1.75 * columns, 0.9 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for ax in grid[len(panels) :]:
        ax.set_visible(False)
    colours = dict(zip(dict.fromkeys(one.encoder for one in points), cycle(COLOURS)))
    for ax, panel in zip(grid, panels):
        _draw(ax, panel, [one for one in points if one.panel == panel], colours)
    figure.supylabel("right, %", fontsize=7, color=FAINT)
    figure.supxlabel("layer (0 is the first block)", fontsize=7, color=FAINT)
    handles = {label: line for ax in grid for line, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=4, fontsize=6.5, frameon=False
    )
    return figure


def _draw(ax: Axes, panel: str, points: Sequence[Point], colours: dict[str, str]) -> None:
    for encoder, colour in colours.items():
        for curve, style in STYLES.items():
            own = _curve(points, encoder, panel, curve)
            layers = [one.layer for one in own]
            if own:
                ends = ([100 * one.low for one in own], [100 * one.high for one in own])
                ax.fill_between(layers, *ends, color=colour, alpha=0.15, linewidth=0)
                label = {"label": f"{encoder}, {curve}", "color": colour, "linewidth": 1.2, "markersize": 2.5}
                ax.plot(layers, [100 * one.accuracy for one in own], style, **label)
        for one in points:
            if one.encoder == encoder and one.layer is None:
                label = {"label": f"{encoder}, {one.curve}", "color": colour, "linewidth": 1}
                ax.axhline(100 * one.accuracy, linestyle=LEVELS[one.curve], **label)
    ax.axhline(100 * sum(one.guess for one in points) / len(points), color=FAINT, linestyle=":", linewidth=0.8)
    ax.set(ylim=(0, 103))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title(panel, fontsize=7.5, loc="left", color=INK)
    ax.tick_params(labelsize=6.5, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def layers_csv(points: Sequence[Point]) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows of the data of the chart."""
    header = ("encoder", "scored", "curve", "layer", "accuracy", "low", "high", "guess")
    rows = [
        (one.encoder, one.panel, one.curve, one.layer, one.accuracy, one.low, one.high, one.guess) for one in points
    ]
    return header, rows
