"""Images of the drawing probe side by side, a row a prompt and a column an arm, and what was right after which step.

    arms = finished_arms("out/drawing_runs")
    drawing_sheet(list(arms.values()), list(arms), "out/drawing_images.png")
    steps_chart(list(arms.values()), "out/drawing_steps.png")

Of images, the first prompts of the first wording, the next of the second, as they come: nothing is chosen.
"""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from matplotlib.figure import Figure

from granted.eval_metric.drawing.scenes import WORDINGS, scored_prompts
from granted.utils.figures import FAINT, INK, line_style, save_png


TITLES = {"look": "shape and colour", "position": "place"}  # of what is scored during the training
RAW = ", raw"  # behind the name of a feature whose channels are as they come
EACH = 2  # prompts of a wording


def feature_name(arm: dict[str, Any]) -> str:
    """The feature of an arm, as tables and charts call it."""
    return arm["feature"] + ("" if arm["standardized"] else RAW)


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
    figure = Figure(figsize=(2.9 + 0.95 * len(arms), 0.35 + 0.95 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1 + len(arms), squeeze=False, width_ratios=[3, *[1] * len(arms)])
    for row, number in zip(panels, shown):
        prompt = prompts[number]
        text = "\n".join(textwrap.wrap(f"{prompt.wording}: {prompt.text}", 42))
        row[0].text(1, 0.5, text, fontsize=6.5, ha="right", va="center")
        row[0].axis("off")
        for ax, folder in zip(row[1:], folders):
            with PIL.Image.open(folder / "images" / f"{number:04d}.png") as image:
                ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_color("#cccccc")
    for ax, arm in zip(panels[0][1:], arms):
        title = "\n".join(textwrap.wrap(f"{arm['encoder']}, {feature_name(arm)}", 16))
        ax.set_title(title, fontsize=6.5)
    save_png(figure, path)


def steps_chart(arms: Sequence[dict[str, Any]], path: str | os.PathLike) -> None:
    """Write a chart of what was right in wordings of training after how many steps: does a feature only learn sooner?

    A panel for shape and colour together and one for the place; a line the mean of an arm's seeds, each of which is
    drawn thin. The points on the way are of the first 60 prompts, the last one is of all.

    Args:
        arms (`list[dict]`): of `finished_arms`; those whose training logged nothing of this are left out.
        path (`str` or `os.PathLike`): the file to write; there is none if no arm is left.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        if any("look" in entry for entry in arm["log"]):
            groups.setdefault(f"{arm['encoder']} · {feature_name(arm)}", []).append(arm)
    if not groups:
        return
    figure = Figure(figsize=(3.4 * len(TITLES), 2.6 + 0.14 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for ax, (name, title) in zip(panels, TITLES.items()):
        for number, (label, own) in enumerate(groups.items()):
            style = line_style(number)
            curves = [_over_steps(arm, name) for arm in own]
            for curve in curves:
                ax.plot(*zip(*curve.items()), linewidth=0.6, alpha=0.5, **style)
            shared = [step for step in curves[0] if all(step in curve for curve in curves)]
            means = [sum(curve[step] for curve in curves) / len(curves) for step in shared]
            ax.plot(shared, means, marker="o", markersize=3, linewidth=1.4, label=label, **style)
        ax.set(ylim=(-3, 103))
        ax.set_xlabel("steps", fontsize=7, color=FAINT)
        ax.set_title(title, fontsize=8, loc="left", color=INK)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", fontsize=6.5, ncols=2, frameon=False)
    figure.supylabel("Drawn right in wordings of training, %", fontsize=7, color=FAINT)
    save_png(figure, path)


def _over_steps(arm: dict[str, Any], name: str) -> dict[int, float]:
    """Percent right by step; at the end of all prompts in the first wording."""
    curve = {entry["step"]: 100 * entry[name] for entry in arm["log"] if name in entry}
    scores = [item["score"][name] for item in arm["items"] if item["wording"] == WORDINGS[0]]
    return curve | {arm["budget"]["steps"]: 100 * sum(scores) / len(scores)}
