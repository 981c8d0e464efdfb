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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import SeedGroup, group_seeds, shared_baselines
from granted.eval_metric.statistics import Estimate
from granted.utils.files import atomic_path


MAX_SERIES = 16
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933")
_LIGHT = {"page": "#ffffff", "ink": "#1c2330", "faint": "#6b7484", "grid": "#e4e7ec", "band": "#f5f6f8"}
_DARK = {"page": "#161b24", "ink": "#e6e9ef", "faint": "#99a2b3", "grid": "#2a3240", "band": "#1c222d"}
_WIDTH, _DPI = 10.0, 160  # 1600 pixels
_COLUMNS = 5


def category_chart(results: Iterable[Result], path: str | os.PathLike, dark: bool = False) -> None:
    """Draw accuracy overall and per category as PNG, 1600 pixels wide, with 95% intervals over captions.

    Seeds are averaged, and direct answers of language models left out. Of more than 16 series the 16 most accurate are
    drawn, and the chart says so.

    Args:
        results: whole results on one dataset.
        path: of the PNG, written atomically.
        dark: light ink on a dark page; default False.

    Raises:
        InputError: the results cannot stand side by side (see `granted.eval_metric.seed_groups.group_seeds`).
    """
    everything = [one for one in group_seeds(results) if not one.direct]
    series, style = everything[:MAX_SERIES], _DARK if dark else _LIGHT
    panels = ["Overall", *series[0].categories]
    columns = min(_COLUMNS, len(panels))
    rows = ceil(len(panels) / columns)
    height = 0.85 + rows * (0.62 + 0.19 * max(3, len(series)))  # inches
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=style["page"], layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.09, wspace=0.02)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    baselines = shared_baselines(series)
    encoders = sorted({one.encoder for one in series})
    colours = {name: _OKABE_ITO[i % len(_OKABE_ITO)] for i, name in enumerate(encoders)}
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_visible(False)
            continue
        estimates = [one.estimate if i == 0 else one.categories[panels[i]] for one in series]
        _panel(ax, panels[i], series, estimates, colours, style)
        _baseline_lines(ax, baselines, panels[i], style)
        ax.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(panels))
    figure.supxlabel("Accuracy, % (95% interval over captions)", fontsize=7.5, color=style["faint"])
    _legend(figure, series, baselines, style, left_out=len(everything) - len(series))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _panel(
    ax: Axes,
    title: str,
    series: list[SeedGroup],
    estimates: list[Estimate],
    colours: dict[str, str],
    style: dict[str, str],
) -> None:
    ax.set_facecolor(style["page"])
    for spine in ax.spines.values():
        spine.set_visible(False)
    for y in range(0, len(series), 2):
        ax.axhspan(y - 0.5, y + 0.5, color=style["band"], zorder=0, linewidth=0)
    for y, (one, estimate) in enumerate(zip(series, estimates)):
        colour = colours[one.encoder]
        ax.plot([100 * estimate.low, 100 * estimate.high], [y, y], color=colour, linewidth=1.4, alpha=0.75, zorder=3)
        face = style["page"] if one.pooling == "mean" else colour
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
    ax.grid(axis="x", color=style["grid"], linewidth=0.7, zorder=1)
    ax.set_yticks(range(len(series)))
    # names are data: a $ in one is a dollar sign
    ax.set_yticklabels([_shortened(one.label) for one in series], parse_math=False)
    ax.tick_params(length=0, labelsize=6.5, colors=style["ink"], pad=3)
    ax.tick_params(axis="x", labelsize=6.2, colors=style["faint"])
    weight = "bold" if title == "Overall" else "normal"
    ax.set_title(title, fontsize=7.3, loc="left", color=style["ink"], weight=weight, pad=7)
    ax.text(
        1, 1.035, f"n = {estimates[0].n:,}", transform=ax.transAxes, ha="right", fontsize=5.8, color=style["faint"]
    )


def _shortened(label: str, limit: int = 44) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"


def _baseline_lines(ax: Axes, baselines: dict, panel: str, style: dict[str, str]) -> None:
    for name, line in (("chance", "--"), ("word_overlap", ":")):
        if name in baselines:
            stored = baselines[name]
            value = stored["accuracy"] if panel == "Overall" else stored["categories"][panel]
            ax.axvline(100 * value, color=style["ink"], linestyle=line, linewidth=0.9, zorder=2)
            if name == "word_overlap":
                ax.plot([100 * value], [-0.5], "v", markersize=4, color=style["ink"], clip_on=False, zorder=5)


def _legend(figure: Figure, series: list[SeedGroup], baselines: dict, style: dict[str, str], left_out: int) -> None:
    ink = style["ink"]
    handles = [Line2D([], [], color=ink, marker="o", markersize=4.4, linewidth=1.4, label="context aggregator")]
    if any(one.pooling == "mean" for one in series):
        handles += [
            Line2D(
                [],
                [],
                color=ink,
                marker="o",
                markersize=4.4,
                markerfacecolor="none",
                linewidth=1.4,
                label="mean pooling",
            )
        ]
    if "chance" in baselines:
        handles += [Line2D([], [], color=ink, linestyle="--", linewidth=0.9, label="chance")]
    if "word_overlap" in baselines:
        handles += [
            Line2D([], [], color=ink, linestyle=":", marker="v", markersize=4, linewidth=0.9, label="word overlap")
        ]
    if left_out:
        handles += [Line2D([], [], linestyle="", label=f"the {len(series)} best of {len(series) + left_out} series")]
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_color(ink)
