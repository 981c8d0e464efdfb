"""Settings of the contrastive training. No library is loaded with them, so that `--help` shows them at once.

AggregatorTrainingConfig(features=["last", "norm_avg"], learning_rates=[1e-4])
"""

from dataclasses import dataclass
from typing import Literal

from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count, Natural, NonNegative, Positive, Seed, check_settings


@dataclass
class AggregatorTrainingConfig:
    """Settings of the contrastive training; the defaults are the paper's (Appendix C.1).

    Every text of the other pairs, on all processes, is a negative. An incomplete last batch of an epoch is left out.

    Raises:
        InputError: a value is of another type or out of range.
    """

    features: list[str] = option(
        ["norm_avg"],
        "What the aggregators read: last, penultimate, layer_I (0 is the first block), all_layers (every single one), "
        "avg, norm_avg, norm_avg_first_K (of the first K layers), cumulative (of every K), learned (layer weights "
        "learned with the aggregator), weights:PATH (learned elsewhere).",
    )
    learning_rates: list[Positive] = option([1e-5], "Peak rate, or several from which held-out pairs choose.")
    batch_size: Count = option(16, "Pairs per process and step.")
    epochs: Count = option(1, "Passes over the pairs.")
    max_steps: Count | None = option(None, "Stop after so many steps.")
    schedule: Literal["constant", "cosine"] = option("constant", "Of the learning rate; cosine ends at zero.")
    warmup_steps: Natural = option(0, "Steps of linear rise of the learning rate.")
    weight_decay: NonNegative = option(1e-5, "AdamW weight decay.")
    max_grad_norm: Positive = option(0.5, "Gradient clipping, per aggregator.")
    temperature: Positive = option(0.07, "Temperature of the contrastive loss.")
    aggregator_width: Count | None = option(
        None, "Width of the aggregators' blocks, a multiple of 16; the encoder's by default (the paper prints 1024)."
    )
    standardize: bool = option(False, "Standardise every channel of a feature by training captions, unlike the paper.")
    hard_negatives: bool = option(False, "Add the pairs' negatives column to the negatives.")
    held_out: Natural = option(500, "Pairs kept to measure on, at most a tenth of all.")
    seed: Seed = option(0, "Seed of initialisation and data order.")
    mixed_precision: Literal["bf16", "no"] = option(
        "bf16", "Of the aggregators' matrix products; weights, positions and similarities are fp32."
    )
    recompute_layers: bool = option(True, "Least memory, not least time, for learned layer weights.")
    token_budget: Count = option(8192, "Most tokens that the encoder reads at a time, padding included.")
    feature_cache: str = option(
        "", "Folder that keeps the features of all texts: each is encoded once, however many steps and runs follow."
    )
    save_steps: Count = option(200, "Steps between checkpoints, from which an interrupted run goes on.")
    log_steps: Count = option(10, "Steps between points of the curve.")
    tracker: Literal["file", "trackio"] = option("file", "Where curves go; file is training.jsonl.")

    def __post_init__(self):
        check_settings(self)
        if not self.features or not self.learning_rates:
            raise InputError("got no features or no learning_rates, expected at least one of each")
        if self.feature_cache and "learned" in self.features:
            raise InputError("got feature_cache and learned layer weights, expected fixed features: leave one out")
