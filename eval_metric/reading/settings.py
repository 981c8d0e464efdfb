"""Options of `granted evaluate reading` and `granted evaluate ladder`. No library is loaded with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from granted.utils.options import option
from granted.utils.settings import Count, Positive, Seed


VERSION = 2  # of the instrument: raised whenever texts, reader or scoring change, so that scores are never mixed
READER = "Reader"


@dataclass
class ReadingSettings:
    """What is read, and how the reader learns."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    features: list[str] = option(
        ["last", "norm_avg"],
        "last, penultimate, layer_0, ..., all_layers, avg, norm_avg, norm_avg_first_1, ..., cumulative (all those), "
        "weights:PATH.",
    )
    output: Path = option(Path("evaluation"), "Folder of the results.")
    seeds: list[Seed] = option([0], "A reader of every feature is trained for each seed.")
    controls: list[Literal["scene", "random", "words", "bag"]] = option(
        ["scene", "random", "words", "bag"],
        "Also read the scene itself, and of each encoder random weights, its words with positions, a bag of words.",
    )
    texts_seed: Seed = option(0, "Seed of the texts.", group=READER)
    training_texts: Count = option(4000, "Texts that the reader learns from.", group=READER)
    test_scenes: Count = option(150, "Scenes that it is scored on; of a ladder, texts of each rung.", group=READER)
    steps: Count = option(1000, "Steps of its training.", group=READER)
    batch_size: Count = option(64, "Texts of a step.", group=READER)
    learning_rate: Positive = option(2e-3, "Peak learning rate of AdamW, one cycle.", group=READER)
