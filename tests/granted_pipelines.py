"""The pipelines of this package around a tiny encoder, without a VAE, so that they draw pixels in no time.

images = sample(image_pipeline(make_encoder(tokenizer)), "image", SHORT)         # (1, 3, 8, 8) in [0, 1]
"""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import LlamaConfig, LlamaModel

from granted import GrantedModel
from granted.pipeline_granted import GrantedLumina2Pipeline, GrantedWanPipeline
from granted.tests.tiny_models import image_transformer, video_transformer


SHORT, LONG = "a red cube", "two black cats sleep under the old wooden table"


def make_encoder(tokenizer, **options) -> GrantedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
    )
    model = GrantedModel.from_loaded(LlamaModel(config), tokenizer, **options)
    if model.config.fusion == "learned":
        torch.nn.init.normal_(model.fusion.weights)
    return model


def image_pipeline(encoder, transformer=None, scheduler=None, **components) -> GrantedLumina2Pipeline:
    pipe = GrantedLumina2Pipeline(
        transformer or image_transformer(),
        scheduler or FlowMatchEulerDiscreteScheduler(),
        text_encoder=encoder,
        **{"vae": None, "tokenizer": None, **components},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def video_pipeline(encoder, transformer=None, scheduler=None, **components) -> GrantedWanPipeline:
    pipe = GrantedWanPipeline(
        transformer or video_transformer(),
        scheduler or FlowMatchEulerDiscreteScheduler(),
        text_encoder=encoder,
        **{"vae": None, "tokenizer": None, **components},
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MAKERS = {"image": image_pipeline, "video": video_pipeline}
SIZES = {"image": {"height": 8, "width": 8}, "video": {"height": 8, "width": 8, "num_frames": 3}}
EACH = pytest.mark.parametrize("kind", MAKERS)


def seeds(count) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(count)]


def sample(pipe, kind, prompt=None, count=1, **options) -> torch.Tensor:
    """Images (B, 3, H, W) or videos (B, T, 3, H, W) in [0, 1], each from a seed of its own."""
    options = {**SIZES[kind], "num_inference_steps": 2, "output_type": "pt", "generator": seeds(count), **options}
    return torch.as_tensor(pipe(prompt, **options, return_dict=False)[0])


@torch.no_grad()
def conditioning(pipe, *args, **kwargs) -> dict[str, torch.Tensor]:
    """What `encode_prompt` gives, by the names under which `__call__` takes it."""
    names = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
    return dict(zip(names, pipe.encode_prompt(*args, **kwargs)))
