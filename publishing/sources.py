"""What a release is made from. No library is loaded with it, so that `--help` shows it at once.

Sources(checkpoint="encoder", license="apache-2.0")
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from granted.utils.options import option


Folder = str | os.PathLike | None
ALONE = ("ted", "training_data", "results", "leaderboard")  # sources that need no model


@dataclass(frozen=True)
class Sources:
    """What a release is made from: an encoder on the Hub, of which the fusion alone is released, or a checkpoint, or
    data, results or a leaderboard without either.

    Args:
        prompts (`Mapping[str, str]`): of the examples in the cards of `granted-lumina2` and `granted-wan`.
        demonstration (`bool`, defaults to `False`): say in the cards that these models are no more than that.
    """

    encoder: str | None = option(None, "Hub id of a plain encoder, of which the fusion alone is released.")
    revision: str | None = option(None, "Revision of the encoder; a branch or tag is pinned to its commit.")
    layer_weights: Folder = option(
        None, "Of the encoder: a saved GrantedModel, or safetensors with fusion.weights. Norm-Avg without."
    )
    checkpoint: Folder = option(None, "Folder of a GrantedModel, released whole, instead of an encoder.")
    aggregator: Folder = option(None, "A context aggregator for the model: makes it a SentenceTransformer.")
    lumina2: Folder = option(
        None, "Folder of a text-to-image pipeline; one without a text encoder gets the checkpoint and its tokenizer."
    )
    wan: Folder = option(None, "Folder of a text-to-video pipeline, likewise.")
    ted: Folder = option(
        None,
        "A benchmark's folder, as granted data ted or construct writes it; the synthetic one without. Alone, or with "
        "--training-data, it is released without a model.",
    )
    results: Folder = option(
        None, "Folder of results of granted evaluate: a dataset that granted leaderboard and Spaces show. Alone, too."
    )
    leaderboard: Folder = option(
        None,
        "The same, or a dataset with such results (OWNER/granted-results): a Space shows them, as granted leaderboard "
        "does; of a dataset, what it holds when the Space starts. Alone, too.",
    )
    training_data: Folder = option(None, "Folder with pairs.parquet or vqa.parquet, of granted data construct.")
    scores: Folder = option(
        None,
        "Results for the cards, of which any may be missing: ted/*.json, vqa.json, and granted-lumina2/ and "
        "granted-wan/ with shapes.json, grid.png and training_record.json.",
    )
    dtype: str | None = option(
        None, "Dtype of copied weights, bfloat16, float16 or float32; layer weights and aggregators stay in fp32."
    )
    license: str = option("", "License of the weights, such as apache-2.0; a preset has its own.")
    datasets: list[str] = option([], "Hub ids of the data that they were trained on.")
    prompts: Mapping[str, str] = field(default_factory=dict)
    demonstration: bool = False

    @property
    def without_model(self) -> bool:
        """Whether there are data, results or a leaderboard alone."""
        data = any(getattr(self, name) is not None for name in ALONE)
        return data and self.encoder is None and self.checkpoint is None
