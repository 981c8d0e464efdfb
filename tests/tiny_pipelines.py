"""What draws in stock pipelines: diffusion models of real classes, small enough to run in no time.

    pipe = drawing_pipeline("flux2", encoder, tokenizer)
    latents = draw("flux2", pipe, "a red cube")             # what a VAE would make an image of

Their encoders are those of test_pipeline_rules.py, 32 wide.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.ltx2 import LTX2TextConnectors
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from granted.tests.test_pipeline_rules import VIDEO_VAE, byt5, pipeline_of
from granted.tests.tiny_models import IMAGE_VAE, image_transformer, video_transformer


@dataclass
class Drawing:
    """What a pipeline needs besides its text encoder to draw.

    Args:
        make (`Callable`): makes the diffusion model.
        call (`dict`): options of the call.
        more (`Callable`): makes further parts, from the tokenizer.
        component (`str`): what the pipeline calls the diffusion model.
    """

    make: Callable[[], torch.nn.Module]
    call: dict[str, Any]
    more: Callable[[Any], dict[str, Any]] = lambda tokenizer: {}
    component: str = "transformer"


class Harmless(diffusers.ModelMixin):
    """Stands for the guardrail of Cosmos, whose models are not here."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def check_text_safety(self, text: str) -> bool:
        return True


def flux2(guidance: bool) -> torch.nn.Module:
    return diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=96, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip


def prx(channels: int) -> torch.nn.Module:
    return diffusers.PRXTransformer2DModel(
        in_channels=channels, context_in_dim=32, hidden_size=32, num_heads=2, depth=1, axes_dim=[8, 8]
    )


def kandinsky5() -> torch.nn.Module:
    return diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16, model_dim=16, ff_dim=32,
        num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 2, 2), patch_size=(1, 2, 2),
    )  # fmt: skip


def hunyuan15_parts(tokenizer) -> dict[str, Any]:
    vae = diffusers.AutoencoderKLHunyuanVideo15(block_out_channels=(32,) * 5, layers_per_block=1)
    return {"vae": vae, **byt5(tokenizer), **guided(tokenizer)}


def hidream_parts(tokenizer) -> dict[str, Any]:
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=99,
        projection_dim=16, max_position_embeddings=512,
    )  # fmt: skip
    clips = {f"text_encoder{end}": CLIPTextModelWithProjection(config) for end in ("", "_2")}
    tokenizers = {f"tokenizer{end}": tokenizer for end in ("", "_2", "_3")}
    return {**clips, **tokenizers, "text_encoder_3": byt5(tokenizer)["text_encoder_2"]}


def ltx2_parts(tokenizer) -> dict[str, Any]:
    connector = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": None}
    both = {f"{kind}_connector_{name}": value for kind in ("video", "audio") for name, value in connector.items()}
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1, patch_size_t=1,
    )  # fmt: skip
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    connectors = LTX2TextConnectors(caption_channels=32, text_proj_in_factor=5, **both)
    return {"vae": vae, "audio_vae": audio_vae, "connectors": connectors}


def guided(tokenizer) -> dict[str, Any]:
    return {"guider": diffusers.ClassifierFreeGuidance(guidance_scale=2.0)}


def part(name: str, make: Callable[[], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda tokenizer: {name: make()}


IMAGE = {"height": 32, "width": 32}
SANA = {
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": 32,
}
VIDEO = {**IMAGE, "num_frames": 5}
DRAWINGS: dict[str, Drawing] = {
    "cogview4": Drawing(
        lambda: diffusers.CogView4Transformer2DModel(
            in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
            text_embed_dim=32, time_embed_dim=8, condition_dim=4,
        ),
        IMAGE,
    ),
    "cosmos2.5": Drawing(
        lambda: diffusers.CosmosTransformer3DModel(
            in_channels=17, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=1, mlp_ratio=2,
            text_embed_dim=32, use_crossattn_projection=True, crossattn_proj_in_channels=128,
            encoder_hidden_states_channels=32, adaln_lora_dim=4, max_size=(4, 32, 32), extra_pos_embed_type=None,
        ),
        VIDEO,
        lambda tokenizer: {
            "scheduler": diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
            "safety_checker": Harmless(),
        },
    ),
    "dreamlite": Drawing(
        lambda: diffusers.DreamLiteUNetModel(
            sample_size=4, block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4,
            cross_attention_dim=32, attention_head_dim=4,
        ),
        IMAGE, part("vae", diffusers.AutoencoderTiny), "unet",
    ),
    "easyanimate": Drawing(
        lambda: diffusers.EasyAnimateTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, patch_size=2, num_layers=1,
            mmdit_layers=1, time_embed_dim=8, text_embed_dim=32,
        ),
        {**VIDEO, "negative_prompt": "a bird"},
        part("vae", lambda: diffusers.AutoencoderKLMagvit(
            latent_channels=4, block_out_channels=[8] * 4, layers_per_block=1, norm_num_groups=2,
        )),
    ),
    "ernie-image": Drawing(
        lambda: diffusers.ErnieImageTransformer2DModel(
            hidden_size=32, num_attention_heads=2, num_layers=1, ffn_hidden_size=32, in_channels=16, out_channels=16,
            text_in_dim=32, rope_axes_dim=(4, 6, 6),
        ),
        IMAGE,
    ),
    "fibo": Drawing(
        lambda: diffusers.BriaFiboTransformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=64, text_encoder_dim=32, axes_dims_rope=[0, 4, 4],
        ),
        {**IMAGE, "negative_prompt": "a bird"},
    ),
    "flux2": Drawing(lambda: flux2(True), IMAGE),
    "flux2-klein": Drawing(
        lambda: flux2(False), IMAGE, part("vae", lambda: diffusers.AutoencoderKLFlux2(**IMAGE_VAE))
    ),
    "hidream": Drawing(
        lambda: diffusers.HiDreamImageTransformer2DModel(
            patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
            num_attention_heads=4, caption_channels=[32, 32], text_emb_dim=32, num_routed_experts=2,
            num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=[0, 1],
        ),
        IMAGE, hidream_parts,
    ),
    "hunyuan-image": Drawing(
        lambda: diffusers.HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32, rope_axes_dim=(8, 8),
        ),
        IMAGE, guided,
    ),
    "hunyuan-video": Drawing(
        lambda: diffusers.HunyuanVideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1,
            num_single_layers=1, num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=16,
            rope_axes_dim=(4, 4, 4),
        ),
        VIDEO,
    ),
    "hunyuan-video-1.5": Drawing(
        lambda: diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=65, out_channels=32, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32, image_embed_dim=8, rope_axes_dim=(4, 6, 6),
            target_size=16, task_type="t2v",
        ),
        VIDEO, hunyuan15_parts,
    ),
    "kandinsky5-image": Drawing(kandinsky5, IMAGE),
    "kandinsky5-video": Drawing(kandinsky5, VIDEO),
    "kandinsky6": Drawing(
        lambda: diffusers.Kandinsky6Transformer3DModel(
            in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16, model_dim=16, ff_dim=32,
            num_text_blocks=1, num_visual_blocks=1, axes_dims=(4, 2, 2),
        ),
        {**VIDEO, "sample_audio": False},
    ),
    "krea2": Drawing(
        lambda: diffusers.Krea2Transformer2DModel(
            in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=32, text_num_attention_heads=2,
            text_num_key_value_heads=1, text_intermediate_size=32, num_layerwise_text_blocks=1,
            num_refiner_text_blocks=1, axes_dims_rope=(4, 2, 2),
        ),
        IMAGE,
    ),
    "longcat-image": Drawing(
        lambda: diffusers.LongCatImageTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 6, 6],
        ),
        {**IMAGE, "enable_prompt_rewrite": False},
    ),
    "ltx2": Drawing(
        lambda: diffusers.LTX2VideoTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
            audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
            audio_cross_attention_dim=8, num_layers=1, caption_channels=32,
        ),
        {**VIDEO, "spatio_temporal_guidance_blocks": [0]}, ltx2_parts,
    ),
    "lumina": Drawing(
        lambda: diffusers.LuminaNextDiT2DModel(
            sample_size=4, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3, num_kv_heads=1,
            multiple_of=16, cross_attention_dim=32,
        ),
        {**IMAGE, "clean_caption": False},
    ),
    "lumina2": Drawing(lambda: image_transformer(channels=4), IMAGE),
    "motif-video": Drawing(
        lambda: diffusers.MotifVideoTransformer3DModel(
            in_channels=33, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=1,
            num_single_layers=1, text_embed_dim=32, rope_axes_dim=(4, 6, 6),
        ),
        VIDEO, lambda tokenizer: {"vae": diffusers.AutoencoderKLWan(**VIDEO_VAE), **guided(tokenizer)},
    ),
    "nucleus-image": Drawing(
        lambda: diffusers.NucleusMoEImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(8, 4, 4), moe_enabled=False,
        ),
        IMAGE,
    ),
    "ovis-image": Drawing(
        lambda: diffusers.OvisImageTransformer2DModel(
            in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ),
        IMAGE,
    ),
    "qwen-image": Drawing(
        lambda: diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(8, 4, 4),
        ),
        {**IMAGE, "negative_prompt": "a bird"},
    ),
    "prx": Drawing(
        lambda: prx(4), {**IMAGE, "use_resolution_binning": False, "tokenizer_max_length": 512},
    ),
    "prx-pixel": Drawing(lambda: prx(3), {**IMAGE, "use_resolution_binning": False}),
    "sana": Drawing(
        lambda: diffusers.SanaTransformer2DModel(**SANA, in_channels=4, out_channels=4, sample_size=32),
        {**IMAGE, "use_resolution_binning": False},
    ),
    "sana-video": Drawing(
        lambda: diffusers.SanaVideoTransformer3DModel(**SANA),
        {"height": 32, "width": 32, "frames": 5, "use_resolution_binning": False},
    ),
    "wan": Drawing(lambda: video_transformer(channels=16), VIDEO),
    "z-image": Drawing(
        lambda: diffusers.ZImageTransformer2DModel(
            in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
            axes_dims=[8, 4, 4], axes_lens=[1024, 32, 32],
        ),
        IMAGE,
    ),
}  # fmt: skip


def drawing_pipeline(name: str, encoder: torch.nn.Module, tokenizer) -> diffusers.DiffusionPipeline:
    """The stock pipeline with a text encoder and all that draws latents; the same weights every time."""
    torch.manual_seed(1)
    drawing = DRAWINGS[name]
    model = drawing.make().eval()
    with torch.no_grad():  # what ends a block starts with zeros, and then no text matters
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler(), drawing.component: model} | drawing.more(tokenizer)
    pipe = pipeline_of(name, encoder, tokenizer, parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def draw(name: str, pipe: diffusers.DiffusionPipeline, prompt: str) -> torch.Tensor:
    """The latents of a prompt, from the same noise every time."""
    options = {"num_inference_steps": 2, "output_type": "latent", "return_dict": False}
    noise = torch.Generator().manual_seed(0)
    return pipe(prompt=prompt, **DRAWINGS[name].call, **options, generator=noise)[0]
