"""Text features of its own for every block of a diffusion transformer, whose class stays as diffusers has it.

    with text_by_block(transformer, embeds, mask) as first:        # (B, N, K * D) -> (B, N, D)
        velocity = transformer(latents, timestep, first, mask)

K fusions of an encoder (`num_outputs` of the configuration) stand beside each other in the features of a token, block
by block. A transformer whose blocks attend to text apart (Wan) gives each block its features in place of the first's.
One whose text runs through the blocks beside the image (Lumina 2) adds, before a block, what changes from the
features of the block before to its own, both embedded by the transformer's own layer: equal fusions change nothing,
to the bit. Nothing is added to the transformer's weights.

Ships to the Hub as part of `pipeline_granted.py`; imports nothing but torch.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


# Where the configurations of diffusers' transformers say how wide the text features are that they read.
TEXT_WIDTHS = (
    "cap_feat_dim",
    "text_dim",
    "caption_channels",
    "joint_attention_dim",
    "text_embed_dim",
    "text_in_dim",
    "in_text_dim",
    "text_hidden_dim",
    "llm_features_dim",
    "context_in_dim",
)


def width_in(config: Mapping[str, Any]) -> int | None:
    """Width D of the text features that a diffusion model reads, as its configuration says; `None` if it does not."""
    names = ("crossattn_proj_in_channels",) if config.get("use_crossattn_projection") else TEXT_WIDTHS  # Cosmos
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def text_width(transformer: nn.Module) -> int:
    """Width D of the text features that a transformer of diffusers reads.

    Raises:
        ValueError: its configuration does not say.
    """
    width = width_in(transformer.config)
    if width is None:
        kind = type(transformer).__name__
        raise ValueError(f"got a {kind}, expected one whose configuration has one of {', '.join(TEXT_WIDTHS)}")
    return width


def check_text_width(transformer: nn.Module, width: int, hidden_states: int = 1) -> None:
    """Raise a ValueError unless a transformer reads text features of this width, and says so.

    Stock pipelines do not look; what they raise in their first step is about the shapes of two matrices.

    Args:
        transformer (`nn.Module`): of diffusers, such as `pipe.transformer`.
        width (`int`): of the features, such as `text_encoder.config.hidden_size`.
        hidden_states (`int`, defaults to 1): how many hidden states the pipeline joins; Flux 2 joins 3.
    """
    expected = text_width(transformer)
    if width * hidden_states != expected:
        joined = f" (joined {hidden_states} times: {width * hidden_states})" if hidden_states > 1 else ""
        raise ValueError(
            f"got text features of width {width}{joined} for a transformer that reads width {expected}, expected the "
            f"same: build the encoder with projection_dim={expected // hidden_states} and train the projection with "
            "the transformer, or choose a transformer of the encoder's width"
        )


def check_text_outputs(transformer: nn.Module, outputs: int) -> None:
    """Raise a ValueError unless so many features of a token are one, or one for each block of a transformer."""
    if outputs == 1:
        return
    blocks = len(text_blocks(transformer)[0])
    if outputs != blocks:
        raise ValueError(
            f"got {outputs} features of each token for a transformer of {blocks} blocks, expected one, or one for "
            f"each block: set num_outputs={blocks} of the encoder, or leave it out"
        )


def side_by_side(features: torch.Tensor) -> torch.Tensor:
    """Several features of a token (B, K, N, D) as pipelines carry them, (B, N, K * D); one (B, N, D) as it is."""
    return features if features.ndim == 3 else features.transpose(1, 2).flatten(2)


def text_blocks(transformer: nn.Module) -> tuple[nn.ModuleList, Callable]:
    """The blocks of a transformer that can read text of their own, and what is done before each of them.

    Raises:
        ValueError: it is of another kind than the pipelines here have.
    """
    if hasattr(transformer, "time_caption_embed"):  # Lumina 2
        return transformer.layers, _move_text
    if hasattr(transformer, "condition_embedder"):  # Wan
        return transformer.blocks, _replace_text
    raise ValueError(
        f"got a {type(transformer).__name__} for several features of each token, expected a transformer of Lumina 2 "
        "or Wan: choose a fusion with one output"
    )


@contextmanager
def text_by_block(transformer: nn.Module, embeds: torch.Tensor, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """While it lasts, every block of a transformer reads features of its own.

    Gradients pass; with gradient checkpointing it must last until they are there.

    Args:
        transformer (`nn.Module`): of Lumina 2 or Wan, not wrapped.
        embeds (`torch.Tensor`): (B, N, D), which all blocks read as ever, or (B, N, K * D).
        mask (`torch.Tensor`): (B, N), nonzero at real tokens, which come first.

    Yields:
        The features of the first block (B, N, D), to be given to the transformer.

    Raises:
        ValueError: K is not the number of its blocks.
    """
    features = embeds.split(text_width(transformer), dim=-1)  # K of (B, N, D)
    check_text_outputs(transformer, len(features))
    handles = []
    if len(features) > 1:
        blocks, enter = text_blocks(transformer)
        for k in range(1, len(features)):
            hook = partial(enter, transformer, features[k - 1 : k + 1], mask.bool().unsqueeze(-1))  # mask (B, N, 1)
            handles.append(blocks[k].register_forward_pre_hook(hook))
    try:
        yield features[0]
    finally:
        for handle in handles:
            handle.remove()


def _move_text(
    transformer: nn.Module, features: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, block: nn.Module, args
) -> tuple:
    """Lumina 2: the tokens of text, which come first in every row, move by the change of their embedded features."""
    embed = transformer.time_caption_embed.caption_embedder
    before, own = (embed(one) for one in features)  # (B, N, width of the blocks) each
    change = (own - before).masked_fill(~mask, 0)
    hidden = args[0]  # (B, text and image, width of the blocks); shorter than N where all of a column is padding
    length = min(change.shape[1], hidden.shape[1])
    moved = hidden[:, :length] + change[:, :length].to(hidden.dtype)
    return torch.cat([moved, hidden[:, length:]], dim=1), *args[1:]


def _replace_text(
    transformer: nn.Module, features: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, block: nn.Module, args
) -> tuple:
    """Wan: a block attends to its own features, which are zeros at padding as all are."""
    return args[0], transformer.condition_embedder.text_embedder(features[1]), *args[2:]
