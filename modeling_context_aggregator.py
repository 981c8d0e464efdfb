"""The context aggregator: token features of any encoder to one embedding, the same head for all (Appendix A).

    aggregator = ContextAggregator(ContextAggregatorConfig(encoder_hidden_size=576))
    embedding = aggregator(features, attention_mask=mask).context_embedding  # (B, 1024)

Ships to the Hub; imports nothing but torch and transformers.
"""

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_granted import COMPARED, ContextAggregatorConfig, check_weights, missing_and_unexpected
from .modeling_layer_fusion import LayerFusion, Standardization


@dataclass
class ContextAggregatorOutput(ModelOutput):
    """Output of [`ContextAggregator`]: `context_embedding` (B, context_dim), not normalised."""

    context_embedding: torch.FloatTensor | None = None


def rotary(position: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary angles in fp32, each (B, 1, N, head_dim), for positions (B, N)."""
    # Positions beyond 256 are not distinct in bf16, so the angles never leave fp32, autocast or not.
    exponent = torch.arange(0, head_dim, 2, device=position.device, dtype=torch.float32) / head_dim  # (head_dim / 2,)
    angle = position[:, None, :, None].float() * theta**-exponent  # (B, 1, N, head_dim / 2)
    angle = torch.cat([angle, angle], dim=-1)  # (B, 1, N, head_dim)
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads (B, H, N, head_dim) by split halves, computed in fp32, returned in the dtype of `x`."""
    x32 = x.float()  # (B, H, N, head_dim)
    first, second = x32.chunk(2, dim=-1)
    return (x32 * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)  # (B, H, N, head_dim)


class AggregatorBlock(nn.Module):
    """Pre-LayerNorm Transformer block: bidirectional attention without biases, then a GELU MLP."""

    def __init__(self, config: ContextAggregatorConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_ratio * width), nn.GELU(), nn.Linear(config.mlp_ratio * width, width)
        )

    def forward(self, x, cos, sin, key_mask, context_only: bool = False):
        """(B, 1 + N, D) to the same, or to (B, 1, D) for the context position alone.

        Args:
            x (`torch.Tensor` of shape `(B, 1 + N, D)`): the context token and the features.
            cos, sin (`torch.Tensor` of shape `(B, 1, 1 + N, D / H)`): of [`rotary`].
            key_mask (`torch.Tensor` of shape `(B, 1, 1, 1 + N)`, *optional*): positions to attend to; all without it.
            context_only (`bool`, defaults to `False`): compute the context position alone.
        """
        normed = self.norm1(x)  # (B, 1 + N, D)
        queries = 1 if context_only else x.shape[1]
        q = self._heads(self.q_proj(normed[:, :queries]))  # (B, H, queries, D / H)
        k = self._heads(self.k_proj(normed))  # (B, H, 1 + N, D / H)
        v = self._heads(self.v_proj(normed))  # (B, H, 1 + N, D / H)
        q = rotate(q, cos[:, :, :queries], sin[:, :, :queries])
        k = rotate(k, cos, sin)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)  # (B, H, queries, D / H)
        x = x[:, :queries] + self.o_proj(attended.transpose(1, 2).flatten(2))  # (B, queries, D)
        return x + self.mlp(self.norm2(x))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, D / H)


class ContextAggregator(PreTrainedModel):
    """Two self-attention blocks and a learnable context token that reads a sentence into one vector.

    A context token is put before the token features, two pre-LayerNorm blocks mix them (rotary positions on all but
    the context token, counted over real tokens from 1), and the context position, normalised and projected, is the
    embedding. Keep its weights in fp32: at a learning rate of 1e-5 bf16 weights lose most updates. Under autocast
    the products of its blocks are in bf16, positions and embedding in fp32.

    Source: Equations 5-9; details that the paper leaves open as in the authors' code.
    """

    config: ContextAggregatorConfig
    config_class = ContextAggregatorConfig
    base_model_prefix = "aggregator"
    main_input_name = "features"
    _supports_sdpa = True

    def __init__(self, config: ContextAggregatorConfig):
        super().__init__(config)
        width = config.hidden_size
        self.fusion = None
        if config.fusion is not None:
            self.fusion = LayerFusion(
                config.fusion,
                config.num_layers,
                layer_index=config.layer_index,
                layers=config.layers,
                eps=config.layer_norm_eps,
            )
        self.standardization = Standardization(config.encoder_hidden_size) if config.standardize else nn.Identity()
        self.in_proj = nn.Identity()
        if width != config.encoder_hidden_size:
            self.in_proj = nn.Linear(config.encoder_hidden_size, width)
        self.context_token = nn.Parameter(torch.empty(1, 1, width))  # (1, 1, D)
        self.blocks = nn.ModuleList(AggregatorBlock(config) for _ in range(config.num_blocks))
        self.out_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.out_proj = nn.Linear(width, config.context_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ContextAggregator):
            nn.init.trunc_normal_(module.context_token, std=0.02)
        elif module is self.out_proj:
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, LayerFusion | Standardization | nn.Linear):
            module.reset_parameters()

    def forward(self, features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> ContextAggregatorOutput:
        """Aggregate token features.

        Args:
            features (`torch.Tensor`): fused features (B, N, D), or the encoder's layers (B, L, N, D), which are fused
                first as the configuration says.
            attention_mask (`torch.Tensor`, *optional*): (B, N), nonzero at real tokens; padding may be on any side.

        Returns:
            [`ContextAggregatorOutput`] with `context_embedding` (B, context_dim).

        Raises:
            ValueError: features of another width or number of layers, or a mask of another shape.
        """
        if features.ndim == 4:
            if self.fusion is None:
                raise ValueError("got features (B, L, N, D), expected (B, N, D): this aggregator has no layer fusion")
            features = self.fusion(features)  # (B, N, D)
        if features.ndim != 3 or features.shape[-1] != self.config.encoder_hidden_size:
            raise ValueError(
                f"got features of shape {tuple(features.shape)}, expected (B, N, {self.config.encoder_hidden_size}): "
                "this aggregator was made for an encoder of that width"
            )
        batch, length, _ = features.shape
        if attention_mask is None:
            attention_mask = torch.ones(batch, length, dtype=torch.bool, device=features.device)  # (B, N)
        elif attention_mask.shape != (batch, length):
            raise ValueError(f"got attention_mask {tuple(attention_mask.shape)}, expected {(batch, length)}")
        mask = F.pad(attention_mask.bool(), (1, 0), value=True)  # (B, 1 + N)
        # The context token sits at position 0, where the rotation is the identity; real tokens count 1, 2, ...
        position = mask.cumsum(-1) - 1  # (B, 1 + N)
        head_dim = self.config.hidden_size // self.config.num_heads
        cos, sin = rotary(position, head_dim, self.config.rope_theta)  # (B, 1, 1 + N, head_dim) each
        key_mask = None if bool(mask.all()) else mask[:, None, None, :]  # (B, 1, 1, 1 + N)

        features = self.standardization(features)  # (B, N, D)
        # A zero attention weight does not remove the NaN that an encoder may leave at padding; zeroing does.
        features = features.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)  # (B, N, D)
        tokens = self.in_proj(features.to(self.context_token.dtype))  # (B, N, D)
        x = torch.cat([self.context_token.expand(batch, -1, -1), tokens], dim=1)  # (B, 1 + N, D)
        for block in self.blocks[:-1]:
            x = block(x, cos, sin, key_mask)  # (B, 1 + N, D)
        # Only the context position is read out (Equation 8), so the last block computes nothing else.
        x = self.blocks[-1](x, cos, sin, key_mask, context_only=True)  # (B, 1, D)
        # Rounded to bf16, close cosines would tie or change places, so that autocast ends before the embedding.
        with torch.autocast(x.device.type, enabled=False):
            embedding = self.out_proj(self.out_norm(x[:, 0].to(self.out_proj.weight.dtype)))  # (B, context_dim)
        return ContextAggregatorOutput(context_embedding=embedding)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a saved aggregator.

        Raises:
            OSError, ValueError: there is none, or it lacks weights or has unknown ones.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        aggregator, loaded = super().from_pretrained(name, *model_args, **kwargs | COMPARED)
        check_weights(name, *missing_and_unexpected(aggregator, loaded))
        return (aggregator, loaded) if with_info else aggregator

    @classmethod
    def from_authors_checkpoint(cls, path: str | os.PathLike) -> "ContextAggregator":
        """Read a file of the authors' training (`epoch_N.pt`), in fp32.

        Raises:
            ValueError: the file is not such a checkpoint; the message names the keys that are missing or unknown.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # torch.load raises many types on a file that is no checkpoint
            reason = str(error).partition("\n")[0]
            raise ValueError(f"got {path}, expected a torch file of plain tensors: {reason}") from error
        weights = checkpoint.get("model") if isinstance(checkpoint, dict) else None
        if not isinstance(weights, dict) or not all(torch.is_tensor(value) for value in weights.values()):
            raise ValueError(f"got {path}, expected a dict whose 'model' is the aggregator's state dict")
        state = {_own_key(key): value.float() for key, value in weights.items()}
        if "context_token" not in state or "out_proj.weight" not in state or state["out_proj.weight"].ndim != 2:
            raise ValueError(f"got {path} without 'pool_token' or 'proj.weight', expected an aggregator's state dict")
        state["context_token"] = state["context_token"].reshape(1, 1, -1)  # (1, 1, D)
        context_dim, width = state["out_proj.weight"].shape
        state.setdefault("out_proj.bias", torch.zeros(context_dim))  # (context_dim,)
        blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        config = ContextAggregatorConfig(
            encoder_hidden_size=width, context_dim=context_dim, num_blocks=max(len(blocks), 1), num_heads=8
        )
        aggregator = cls(config)
        try:
            missing, unknown = aggregator.load_state_dict(state, strict=False)
        except RuntimeError as error:  # tensors of another shape
            raise ValueError(f"got {path}, expected an aggregator of width {width}: {error}") from error
        if missing or unknown:
            raise ValueError(f"got {path} with missing keys {missing} and unknown keys {unknown}, expected neither")
        return aggregator.eval()


def _own_key(key: str) -> str:
    """What a weight of the authors' aggregator is called here."""
    key = key.removeprefix("module.")
    if key == "pool_token":
        return "context_token"
    if key.startswith("encoder."):
        # Their MLP holds a dropout between its two linear layers.
        return key.replace("encoder.", "blocks.", 1).replace(".mlp.3.", ".mlp.2.")
    return f"out_{key}" if key.startswith("proj.") else key


ContextAggregator.register_for_auto_class("AutoModel")
