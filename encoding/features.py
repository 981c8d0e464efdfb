"""What aggregators read: features by name (single layers, averages, learned layer weights), and how much of a text.

expand_features(["all_layers", "norm_avg"], num_layers=2)      # ["layer_0", "layer_1", "norm_avg"]
new_aggregator("norm_avg", encoder, "smollm2", encoder.fingerprint(), seed=0)
reading_of(encoder)                                            # {"max_length": 512, "prompt_template": None, ...}
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from granted.configuration_granted import ContextAggregatorConfig, FusionOptions
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError
from granted.utils.files import read_json


# Fields of an encoder's configuration that change how it reads a text, and what they are for most.
USUAL_READING = {
    "text_cleaning": "none",
    "add_special_tokens": True,
    "split_quotes": False,
    "template_keep_first": False,
    "fill_to_multiple_of": None,
}


def expand_features(features: Sequence[str], num_layers: int) -> list[str]:
    """Check feature names against an encoder of L = `num_layers` layers; no name twice.

    `"all_layers"` becomes each single layer, `"cumulative"` Norm-Avg of the first 1, 2, ..., L layers.

    Raises:
        InputError: an unknown name, or two files of layer weights that would be stored under one label.
    """
    expanded: list[str] = []
    for name in features:
        for one in _spelt_out(name, num_layers):
            feature_fusion(one, num_layers)
            if one not in expanded:
                expanded.append(one)
    labels = [feature_label(one) for one in expanded]
    for one, label in zip(expanded, labels):
        if labels.count(label) > 1:
            raise InputError(f"got several features stored as {label!r}, one of them {one!r}: rename one file")
    return expanded


def _spelt_out(name: str, num_layers: int) -> list[str]:
    if name == "all_layers":
        return [f"layer_{i}" for i in range(num_layers)]
    if name == "cumulative":
        return [f"norm_avg_first_{count}" for count in range(1, num_layers + 1)]
    return [name]


def feature_fusion(feature: str, num_layers: int) -> dict[str, Any]:
    """`fusion`, `layer_index` and `layers` of a feature name, as [`GrantedConfig`] takes them."""
    single = {"last": -1, "penultimate": -2}
    if feature in single:
        return _fusion("single", layer_index=single[feature])
    if feature in ("avg", "norm_avg", "learned"):
        return _fusion(feature)
    if feature.startswith("weights:"):
        return _fusion("learned")
    layer = re.fullmatch(r"layer_(\d+)", feature)
    if layer and int(layer[1]) < num_layers:
        return _fusion("single", layer_index=int(layer[1]))
    first = re.fullmatch(r"norm_avg_first_([1-9]\d*)", feature)
    if first and int(first[1]) <= num_layers:
        return _fusion("norm_avg", layers=list(range(int(first[1]))))
    raise InputError(
        f"got feature {feature!r}, expected last, penultimate, layer_0 to layer_{num_layers - 1}, all_layers, avg, "
        f"norm_avg, norm_avg_first_1 to norm_avg_first_{num_layers}, cumulative, learned or weights:PATH"
    )


def _fusion(fusion: str, layer_index: int = -1, layers: list[int] | None = None) -> dict[str, Any]:
    return {"fusion": fusion, "layer_index": layer_index, "layers": layers}


def refuse_learned(features: Iterable[str]) -> None:
    """For what trains nothing with the layer weights: there `learned` would be Norm-Avg under another name.

    Raises:
        InputError: the feature `learned`.
    """
    if "learned" in features:
        raise InputError(
            "got the feature learned, whose layer weights nothing learns here, expected another: norm_avg, or "
            "weights:PATH of learned ones"
        )


def feature_label(feature: str) -> str:
    """The name under which a feature is stored and shown: itself, or `frozen_NAME` for `weights:PATH`."""
    if not feature.startswith("weights:"):
        return feature
    path = Path(feature.removeprefix("weights:"))
    name = path.parent.name if path.name == "model.safetensors" else path.stem
    return "frozen_" + re.sub(r"[^a-z0-9]+", "_", name.lower())  # as results take it


def read_layer_weights(path: str | os.PathLike, num_layers: int) -> torch.Tensor:
    """The learned layer weights w (L,), before the softmax, of a saved model, aggregator or safetensors file."""
    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    try:
        with safe_open(file, framework="pt") as tensors:
            weights = tensors.get_tensor("fusion.weights").float()  # (L,)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"got {path}, expected a saved model or safetensors file with 'fusion.weights' ({error})"
        ) from error
    settings = Path(path) / "config.json"
    kind = read_json(settings).get("fusion", "learned") if settings.is_file() else "learned"
    if weights.ndim > 1 or kind != "learned":
        what = f"of {len(weights)} blocks" if weights.ndim > 1 else f"of a {kind} fusion"
        raise InputError(f"got layer weights {what} in {path}, expected one learned row: load the model itself")
    if weights.shape != (num_layers,):
        raise InputError(f"got {weights.numel()} layer weights in {path}, expected {num_layers}: another encoder's")
    if not torch.isfinite(weights).all():
        raise InputError(f"got NaN or infinite layer weights in {path}, expected finite ones: train them again")
    return weights


def feature_encoder(encoder: GrantedModel, feature: str) -> GrantedModel:
    """A model whose output is one feature of an encoder; the trunk is shared, not copied.

    Raises:
        InputError: the encoder has no such feature.
    """
    num_layers = encoder.config.num_hidden_layers
    options = encoder.config.fusion_options() | {"projection_dim": None, "standardize": False}
    options |= {"layer_norm": "auto", "embeddings": False, "num_outputs": None}
    options |= feature_fusion(feature, num_layers)
    model = GrantedModel.from_loaded(encoder.encoder, encoder.tokenizer, **options)
    if feature.startswith("weights:"):
        model.fusion.weights.data.copy_(read_layer_weights(feature.removeprefix("weights:"), num_layers))
        model.freeze_layer_weights()
    return model


def reading_of(encoder: GrantedModel) -> dict[str, Any]:
    """How an encoder reads a text: `max_length` (most tokens, template included) and the template around it.

    What else of its configuration changes the tokens or which of them are read is in it where it is not the default.
    """
    config = encoder.config
    more = {name: getattr(config, name) for name, value in USUAL_READING.items() if getattr(config, name) != value}
    return {
        "max_length": encoder.token_limit(),
        "prompt_template": config.prompt_template,
        "template_drop_tokens": config.template_drop_tokens,
        **more,
    }


def new_aggregator(
    feature: str,
    encoder: GrantedModel,
    encoder_name: str,
    fingerprint: str,
    seed: int,
    width: int | None = None,
    standardize: bool = False,
) -> ContextAggregator:
    """A freshly initialised aggregator for one feature of an encoder; the same for the same seed.

    Args:
        feature (`str`): as of [`feature_fusion`].
        encoder ([`GrantedModel`]), encoder_name (`str`), fingerprint (`str`): what it is for, and of which weights.
        seed (`int`): of its weights.
        width (`int`, *optional*): of its blocks; by default the feature's.
        standardize (`bool`, defaults to `False`): as of its configuration; nothing is calibrated yet.

    Raises:
        InputError: an unknown feature, or a width that its heads cannot share.
    """
    num_layers = encoder.config.num_hidden_layers
    fusion = feature_fusion(feature, num_layers)
    try:
        feature_width = encoder.config.layer_width(FusionOptions(num_layers=num_layers, **fusion).used_layers())
    except ValueError as error:
        raise InputError(f"{error}, or leave out the feature {feature}") from error
    heads = ContextAggregatorConfig().num_heads
    if (width or feature_width) % (2 * heads):
        raise InputError(
            f"got an aggregator of width {width or feature_width}, expected a multiple of {2 * heads}: choose one by "
            "--aggregator-width"
        )
    config = ContextAggregatorConfig(
        encoder_hidden_size=feature_width,
        hidden_size=width,
        **fusion,
        num_layers=num_layers,
        feature=feature_label(feature),
        encoder=encoder_name,
        encoder_fingerprint=fingerprint,
        standardize=standardize,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        aggregator = ContextAggregator(config)
    if feature.startswith("weights:"):
        aggregator.fusion.weights.data.copy_(read_layer_weights(feature.removeprefix("weights:"), num_layers))
        aggregator.fusion.requires_grad_(False)
    return aggregator
