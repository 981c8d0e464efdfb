"""The factors of an encoder's layers over a run, as a chart: lines for one fusion, heat maps for one a block.

draw_trajectory([(0, [0.5, 0.5]), (10, [0.6, 0.4])], "layer_weights.png", frozen_at=10)
"""

import os
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure

from granted.utils.figures import FAINT, INK, chart_style, save_png


# Of every layer, L numbers, or of several fusions K rows of L.
Factors = Sequence[float] | Sequence[Sequence[float]]


def draw_trajectory(
    trajectory: Sequence[tuple[int, Factors]], path: str | os.PathLike, frozen_at: int | None = None
) -> None:
    """Write [`trajectory_figure`] as PNG."""
    save_png(trajectory_figure(trajectory, frozen_at), path)


@chart_style()
def trajectory_figure(trajectory: Sequence[tuple[int, Factors]], frozen_at: int | None = None) -> Figure:
    """The factors of the layers over a run.

    Those of one fusion as Figure 4 does: over the steps a line a layer, and over the layers. Those of several as
    heat maps, a row a block of the diffusion model and a column a layer, at six steps of the run.

    Args:
        trajectory (`list`): pairs of step and L factors, or K rows of them.
        frozen_at (`int`, *optional*): step of the freeze, marked if above 0.
    """
    several = isinstance(trajectory[0][1][0], Sequence)
    return _heat_maps(trajectory, frozen_at) if several else _lines(trajectory, frozen_at)


def _shown(trajectory: Sequence[tuple[int, Factors]]) -> list[tuple[int, Factors]]:
    """Six points of a trajectory, evenly spread, the first and the last among them."""
    return [trajectory[k] for k in sorted({round(k * (len(trajectory) - 1) / 5) for k in range(6)})]


def _shade(colours: str, number: int, count: int) -> tuple[float, ...]:
    """The colour of one of so many lines: neither too dark for a dark page nor too light for a light one."""
    return colormaps[colours](0.3 + 0.55 * number / max(1, count - 1))


def _heat_maps(trajectory: Sequence[tuple[int, Factors]], frozen_at: int | None) -> Figure:
    rows, layers = len(trajectory[0][1]), len(trajectory[0][1][0])
    shown = _shown(trajectory)
    figure = Figure(figsize=(1.5 + 1.55 * len(shown), max(2.6, 0.9 + 0.16 * rows)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    equal = 1 / layers  # what every factor is at the beginning: white
    farthest = max(abs(value - equal) for _, block in shown for row in block for value in row) or equal
    for ax, (step, factors) in zip(panels, shown):
        norm = CenteredNorm(vcenter=equal, halfrange=farthest)
        image = ax.imshow(factors, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
        frozen = ", frozen" if frozen_at and step >= frozen_at else ""
        ax.set(title=f"step {step}{frozen}", xlabel="layer (0 is the first)")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.yaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("block of the diffusion model")
    figure.colorbar(image, ax=panels, label=f"weight (white: 1 / {layers}, Norm-Avg)")
    return figure


def _lines(trajectory: Sequence[tuple[int, Sequence[float]]], frozen_at: int | None) -> Figure:
    steps = [step for step, _ in trajectory]
    layers = len(trajectory[0][1])
    figure = Figure(figsize=(11, 4), layout="constrained")
    over_steps, over_layers = figure.subplots(1, 2)
    for i in range(layers):
        label = f"{i}" if i in (0, layers // 2, layers - 1) or layers <= 12 else None
        colour = _shade("viridis", i, layers)
        over_steps.plot(steps, [weights[i] for _, weights in trajectory], color=colour, label=label, linewidth=1.2)
    if frozen_at:
        over_steps.axvline(frozen_at, color=INK, linestyle="--", linewidth=1, label="frozen")
    over_steps.set(xlabel="training step", ylabel="weight", title="over the run, a line per layer")
    over_steps.legend(fontsize=8, ncols=2)
    shown = _shown(trajectory)
    for number, (step, weights) in enumerate(shown):
        colour = _shade("plasma", number, len(shown))
        over_layers.plot(range(layers), weights, marker=".", color=colour, label=f"step {step}", linewidth=1.2)
    over_layers.axhline(1 / layers, color=FAINT, linestyle=":", linewidth=1, label="Norm-Avg")
    over_layers.set(xlabel="layer (0 is the first block)", title="over the layers")
    over_layers.legend(fontsize=8)
    return figure
