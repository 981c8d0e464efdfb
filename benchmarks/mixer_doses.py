"""What emphasis and other layer weights do to images of shapes, by their dose: read exactly from the pixels.

    granted push --preset tiny --build-only --output release
    granted data shapes text-to-image --captions plain --large-solid --split benchmark --count 60 --size 32 \\
        --things 1,1 --output prompts.parquet
    python benchmarks/mixer_doses.py release/granted-lumina2 --prompts prompts.parquet --output doses

Every prompt names one figure. Emphasis is put on its colour word, then on its shape word, by factors from -1 to 4: the
named property should depend on the factor, the other should not. The layer weights go from the model's own (0) to the
first or last layer alone (1), and as far to the other side (-1). The same noise for a prompt in all arms. Writes
`doses.json` and `doses.png`; each arm is drawn once, however often the script is broken off.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.drawing import Drawing
from granted.eval_metric.drawing.arm import compare, largest_figure
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.versions import library_versions


FACTORS = (-1.0, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0)
DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)
SHOWN = ("shape", "colour", "position")
STEPS = 20


def main() -> None:
    """Draw and read every arm that is not in the output yet, then draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", help="folder of a text-to-image pipeline with a GrantedModel")
    parser.add_argument("--prompts", required=True, help="Parquet of granted data shapes text-to-image")
    parser.add_argument("--output", type=Path, default=Path("doses"))
    arguments = parser.parse_args()
    rows = load_dataset("parquet", data_files=arguments.prompts, split="train")
    captions, drawings = list(rows["caption"]), [Drawing.from_json(one) for one in rows["drawing"]]
    pipe = DiffusionPipeline.from_pretrained(arguments.pipeline, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    path = arguments.output / "doses.json"
    arms = read_json(path)["arms"] if path.exists() else {}
    for name, dose, given in tqdm(list(plan(captions, drawings, pipe.text_encoder.layer_weights)), desc="arms"):
        key = f"{name} {dose:g}"
        if key not in arms:
            arms[key] = {"name": name, "dose": dose} | scores(pipe, drawings, **given)
            versions = library_versions("granted", "torch", "transformers", "diffusers")
            write_json(path, {"prompts": len(captions), "steps": STEPS, "versions": versions, "arms": arms})
    with atomic_path(arguments.output / "doses.png") as temporary:
        curves(list(arms.values())).savefig(temporary, dpi=150, format="png")


def plan(captions: list[str], drawings: list[Drawing], weights: torch.Tensor):
    """Every arm: its name, its dose, and what the pipeline is called with."""
    for word in ("colour", "shape"):
        for factor in FACTORS:
            prompts = []
            for caption, drawing in zip(captions, drawings):
                figure = drawing.figures[0]
                figure_words = f"{figure.colour} {figure.shape}"
                marked = {"colour": f"({figure.colour}:{factor}) {figure.shape}"}
                marked["shape"] = f"{figure.colour} ({figure.shape}:{factor})"
                before, found, after = caption.partition(figure_words)
                if not found:
                    raise ValueError(f"got {caption!r}, expected {figure_words!r} in it")
                prompts.append(before + marked[word] + after)
            yield f"emphasis on the {word}", factor, {"prompt": prompts, "emphasis": True}
    for layer in (0, len(weights) - 1):
        alone = torch.eye(len(weights))[layer]  # (L,)
        for dose in DOSES:
            mixed = weights + dose * (alone - weights)  # (L,)
            yield f"layer {layer}", dose, {"prompt": captions, "layer_weights": mixed}


def scores(pipe: DiffusionPipeline, drawings: list[Drawing], **given: Any) -> dict[str, Any]:
    """The share of images with the shape, the colour and the place asked for, with intervals over prompts."""
    seeds = [torch.Generator().manual_seed(number) for number in range(len(drawings))]
    options = {"negative_prompt": "", "num_inference_steps": STEPS, "generator": seeds}
    images = pipe(**given, **options).images
    right = [compare(drawing, largest_figure(image)) for drawing, image in zip(drawings, images)]
    found = {}
    for name in SHOWN:
        estimate = bootstrap_accuracy([[one[name] for one in right]], range(len(right)))
        interval = [round(estimate.low, 4), round(estimate.high, 4)]
        found[name] = {"accuracy": round(estimate.accuracy, 4), "ci95": interval}
    return found


def curves(arms: list[dict[str, Any]]) -> Figure:
    """A panel for each name: accuracy by dose, a line for each property with its interval."""
    names = list(dict.fromkeys(arm["name"] for arm in arms))
    figure = Figure(figsize=(3.1 * len(names), 3), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for ax, name in zip(panels, names):
        own = sorted((arm for arm in arms if arm["name"] == name), key=lambda arm: arm["dose"])
        for prop in SHOWN:
            values = [100 * arm[prop]["accuracy"] for arm in own]
            low, high = zip(*([100 * end for end in arm[prop]["ci95"]] for arm in own))
            (line,) = ax.plot([arm["dose"] for arm in own], values, marker=".", label=prop)
            ax.fill_between([arm["dose"] for arm in own], low, high, alpha=0.15, color=line.get_color())
        emphasis = name.startswith("emphasis")
        ax.axvline(1 if emphasis else 0, color="grey", linestyle=":", linewidth=1)
        ax.set(title=name, xlabel="factor (1: the prompt as it is)" if emphasis else "0: own weights, 1: it alone")
    panels[0].set(ylabel="drawn right, %", ylim=(-3, 103))
    panels[0].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main())
