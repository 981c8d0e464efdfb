"""Images of the drawing probe side by side: a row a prompt, a column an arm.

    arms = finished_arms("out/drawing_runs")
    drawing_sheet(list(arms.values()), list(arms), "out/drawing_images.png")

The first prompts of the first wording, the next of the second, as they come: nothing is chosen.
"""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from granted.eval_metric.drawing.scenes import WORDINGS, scored_prompts
from granted.utils.files import atomic_path


EACH = 2  # prompts of a wording


def feature_name(arm: dict[str, Any]) -> str:
    """The feature of an arm, as tables and charts call it."""
    return arm["feature"] + ("" if arm["standardized"] else ", raw")


def drawing_sheet(arms: Sequence[dict[str, Any]], folders: Sequence[Path], path: str | os.PathLike) -> None:
    """Write a PNG of the first prompts of every wording by every arm.

    Args:
        arms (`list[dict]`): of `finished_arms`, in the order of the columns; all of one budget.
        folders (`list[Path]`): their folders.
        path (`str` or `os.PathLike`): the file to write.
    """
    count = arms[0]["budget"]["prompts"]
    prompts = scored_prompts(count, seed=arms[0]["budget"]["images_seed"])
    # The prompts of the wordings are about the same drawings: each wording shows others of them.
    each = min(EACH, count // len(WORDINGS)) or 1
    shown = [wording * count + (wording * each + i) % count for wording in range(len(WORDINGS)) for i in range(each)]
    figure = Figure(figsize=(2.9 + 0.95 * len(arms), 0.35 + 0.95 * len(shown)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 1 + len(arms), squeeze=False, width_ratios=[3, *[1] * len(arms)])
    for row, number in zip(panels, shown):
        prompt = prompts[number]
        text = "\n".join(textwrap.wrap(f"{prompt.wording}: {prompt.text}", 42))
        row[0].text(1, 0.5, text, fontsize=6.5, ha="right", va="center", parse_math=False)
        row[0].axis("off")
        for ax, folder in zip(row[1:], folders):
            with PIL.Image.open(folder / "images" / f"{number:04d}.png") as image:
                ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color("#cccccc")
    for ax, arm in zip(panels[0][1:], arms):
        title = "\n".join(textwrap.wrap(f"{arm['encoder']}, {feature_name(arm)}", 16))
        ax.set_title(title, fontsize=6.5, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
