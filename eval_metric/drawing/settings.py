"""Options of `granted evaluate drawing`. No library is loaded with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from granted.utils.options import option
from granted.utils.settings import Count, Positive, Seed


VERSION = 2  # of the instrument: raised whenever scenes, training or scoring change
TRAINING = "Training of an arm"


@dataclass
class DrawingSettings:
    """What draws, and for how long it learns."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    features: list[str] = option(
        ["last", "norm_avg"], "As of granted evaluate ted, each an arm; learned learns layer weights with the drawing."
    )
    output: Path = option(Path("evaluation"), "Folder of the results.")
    standardize: bool = option(True, "Standardise every channel of a feature before the diffusion model reads it.")
    controls: list[Literal["random", "words", "scene"]] = option(
        ["random", "words", "scene"],
        "Also arms of the scene itself, and of each encoder's random weights and of its words with positions.",
    )
    seeds: list[Seed] = option([0], "An arm for each: its initialisation, order and noise.")
    images_seed: Seed = option(0, "Seed of images, captions and prompts.", group=TRAINING)
    layer_weights: Literal["two_step", "continuous", "per_block", "signed"] = option(
        "two_step",
        "For learned, as of granted train text-to-image; frozen after two thirds of the steps, but for continuous.",
        group=TRAINING,
    )
    layer_weights_learning_rate: Positive = option(1e-2, "For learned: constant, of AdamW.", group=TRAINING)
    images: Count = option(4000, "Training images, each with one caption.", group=TRAINING)
    prompts: Count = option(120, "Test prompts of each wording.", group=TRAINING)
    steps: Count = option(1000, "Steps.", group=TRAINING)
    batch_size: Count = option(32, "Images of a step.", group=TRAINING)
    learning_rate: Positive = option(3e-3, "Peak learning rate, of Muon.", group=TRAINING)
