"""Diffusion transformers of real classes, small enough to draw in no time; their text features are 32 wide."""

from typing import Any

import torch
from diffusers import Lumina2Transformer2DModel, WanTransformer3DModel


IMAGE_VAE = {
    "block_out_channels": (4, 4, 4, 4),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 1,
}
SCALED_IMAGE_VAE = {**IMAGE_VAE, "scaling_factor": 0.36, "shift_factor": 0.12}


def image_transformer(channels: int = 3, **options: Any) -> Lumina2Transformer2DModel:
    torch.manual_seed(1)
    return Lumina2Transformer2DModel(
        **{
            "sample_size": 8,
            "in_channels": channels,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 8,
            "axes_dim_rope": (4, 4, 4),
            "axes_lens": (300, 32, 32),
            "cap_feat_dim": 32,
            **options,
        }
    )


def video_transformer(channels: int = 3, **options: Any) -> WanTransformer3DModel:
    torch.manual_seed(1)
    return WanTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": channels,
            "out_channels": channels,
            "text_dim": 32,
            "freq_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
            **options,
        }
    )
