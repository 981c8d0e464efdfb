"""Options of `granted evaluate drawing`. No library is loaded with them."""

from dataclasses import dataclass
from pathlib import Path

from granted.utils.options import option
from granted.utils.settings import Count, Positive, Seed


TRAINING = "Training of an arm"


@dataclass
class DrawingSettings:
    """What draws, and for how long it learns."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    features: list[str] = option(["last", "norm_avg"], "As of granted evaluate ted; each is an arm.")
    output: Path = option(Path("evaluation"), "Folder of the results.")
    standardize: bool = option(True, "Standardise every channel of a feature before the diffusion model reads it.")
    control: bool = option(True, "Also an arm of random weights for each encoder, of its last feature.")
    seed: Seed = option(0, "Seed of images, initialisation and noise.")
    images: Count = option(4000, "Training images, each with one caption.", group=TRAINING)
    prompts: Count = option(50, "Test prompts of each wording.", group=TRAINING)
    steps: Count = option(1500, "Steps.", group=TRAINING)
    batch_size: Count = option(32, "Images of a step.", group=TRAINING)
    learning_rate: Positive = option(3e-3, "Peak learning rate, of Muon.", group=TRAINING)
