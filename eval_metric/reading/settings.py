"""Options of `granted evaluate reading` and `granted evaluate ladder`. No library is loaded with them."""

from dataclasses import dataclass
from pathlib import Path

from granted.utils.options import option
from granted.utils.settings import Count, Positive, Seed


READER = "Reader"


@dataclass
class ReadingSettings:
    """What is read, and how the reader learns."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    features: list[str] = option(
        ["last", "norm_avg"], "last, penultimate, layer_0, ..., all_layers, avg, norm_avg, weights:PATH."
    )
    output: Path = option(Path("evaluation"), "Folder of the results.")
    seeds: list[Seed] = option([0], "A reader of every feature is trained for each seed.")
    controls: bool = option(
        True,
        "Also read random weights of each encoder, its words without context, a bag of words, and the scene itself.",
    )
    texts_seed: Seed = option(0, "Seed of the texts.", group=READER)
    training_texts: Count = option(4000, "Texts that the reader learns from.", group=READER)
    test_scenes: Count = option(150, "Scenes that it is scored on; of a ladder, texts of each rung.", group=READER)
    steps: Count = option(1000, "Steps of its training.", group=READER)
    batch_size: Count = option(64, "Texts of a step.", group=READER)
    learning_rate: Positive = option(2e-3, "Peak learning rate of AdamW, one cycle.", group=READER)
