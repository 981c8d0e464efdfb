"""One image of accuracies per category: a dot with its interval for every series, next to chance and word overlap.

    from granted.eval_metric.chart import category_chart
    category_chart(load_all("results"), "categories.png")

A panel per category with one row per series, so that no colour has to be decoded; colours (Okabe-Ito, safe for colour
blindness) only tell encoders apart, hollow dots are mean pooling.
"""

import os
from collections.abc import Iterable
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import SeedGroup, group_seeds, shared_baselines
from granted.eval_metric.statistics import Estimate
from granted.utils.figures import BAND, COLOURS, FAINT, INK, LINE, PAGE, chart_style, save_png


MAX_SERIES = 16
_WIDTH = 10.0  # 1600 pixels
_COLUMNS = 5
LONGEST_LABEL = 44  # characters


def category_chart(results: Iterable[Result], path: str | os.PathLike) -> None:
    """Write [`category_figure`] as PNG, 1600 pixels wide."""
    save_png(category_figure(results), path)


@chart_style()
def category_figure(results: Iterable[Result]) -> Figure:
    """Accuracy overall and per category, with 95% intervals over captions.

    Seeds are averaged, and direct answers of language models left out. Of more than 16 series the 16 most accurate are
    drawn, and the chart says so.

    Args:
        results: whole results on one dataset.

    Raises:
        InputError: the results cannot stand side by side (see `granted.eval_metric.seed_groups.group_seeds`).
    """
    everything = [one for one in group_seeds(results) if not one.direct]
    series = everything[:MAX_SERIES]
    panels = ["Overall", *series[0].categories]
    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    height = 0.85 + rows * (0.62 + 0.19 * max(3, len(series)))  # inches
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.09, wspace=0.02)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    baselines = shared_baselines(series)
    encoders = sorted({one.encoder for one in series})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(encoders)}
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_visible(False)
            continue
        estimates = [one.estimate if i == 0 else one.categories[panels[i]] for one in series]
        _panel(ax, panels[i], series, estimates, colours)
        _baseline_lines(ax, baselines, panels[i])
        ax.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(panels))
    figure.supxlabel("Accuracy, % (95% interval over captions)", fontsize=7.5, color=FAINT)
    _legend(figure, series, baselines, left_out=len(everything) - len(series))
    return figure


def _panel(
    ax: Axes,
    title: str,
    series: list[SeedGroup],
    estimates: list[Estimate],
    colours: dict[str, str],
) -> None:
    for spine in ax.spines.values():
        spine.set_visible(False)
    for y in range(0, len(series), 2):
        ax.axhspan(y - 0.5, y + 0.5, color=BAND, zorder=0, linewidth=0)
    for y, (one, estimate) in enumerate(zip(series, estimates)):
        colour = colours[one.encoder]
        ax.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=colour, linewidth=1.4, alpha=0.75, zorder=3)
        face = PAGE if one.pooling == "mean" else colour
        ax.plot(
            [100 * estimate.accuracy],
            [y],
            "o",
            markersize=4.4,
            color=colour,
            markerfacecolor=face,
            zorder=4,
            clip_on=False,
        )
    ax.set_xlim(-3, 103)
    ax.set_ylim(len(series) - 0.5, -0.5)
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.grid(axis="x", color=LINE, linewidth=0.7, zorder=1)
    ax.set_yticks(range(len(series)))
    # names are data: a $ in one is a dollar sign
    ax.set_yticklabels([_shortened(one.label) for one in series])
    ax.tick_params(length=0, labelsize=6.5, colors=INK, pad=3)
    ax.tick_params(axis="x", labelsize=6.2, colors=FAINT)
    weight = "bold" if title == "Overall" else "normal"
    ax.set_title(title, fontsize=7.3, loc="left", color=INK, weight=weight, pad=7)
    ax.text(1, 1.035, f"n = {estimates[0].n:,}", transform=ax.transAxes, ha="right", fontsize=5.8, color=FAINT)


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _baseline_lines(ax: Axes, baselines: dict, panel: str) -> None:
    for name, line in (("chance", "--"), ("word_overlap", ":")):
        if name in baselines:
            stored = baselines[name]
            value = stored["accuracy"] if panel == "Overall" else stored["categories"][panel]
            ax.axvline(100 * value, color=INK, linestyle=line, linewidth=0.9, zorder=2)
            if name == "word_overlap":
                ax.plot([100 * value], [-0.5], "v", markersize=4, color=INK, clip_on=False, zorder=5)


def _legend(figure: Figure, series: list[SeedGroup], baselines: dict, left_out: int) -> None:
    handles = [Line2D([], [], color=INK, marker="o", markersize=4.4, linewidth=1.4, label="context aggregator")]
    if any(one.pooling == "mean" for one in series):
        handles += [
            Line2D(
                [],
                [],
                color=INK,
                marker="o",
                markersize=4.4,
                markerfacecolor="none",
                linewidth=1.4,
                label="mean pooling",
            )
        ]
    if "chance" in baselines:
        handles += [Line2D([], [], color=INK, linestyle="--", linewidth=0.9, label="chance")]
    if "word_overlap" in baselines:
        handles += [
            Line2D([], [], color=INK, linestyle=":", marker="v", markersize=4, linewidth=0.9, label="word overlap")
        ]
    if left_out:
        handles += [Line2D([], [], linestyle="", label=f"the {len(series)} best of {len(series) + left_out} series")]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=7, frameon=False)
