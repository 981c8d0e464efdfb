"""A GrantedModel as text encoder of the stock pipelines of diffusers: real classes at tiny size make images."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    Lumina2Pipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    WanPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import LlamaConfig, LlamaModel

from granted import GrantedModel
from granted.pipeline_base import check_text_width
from granted.tests.tiny_models import IMAGE_VAE, SCALED_IMAGE_VAE, image_transformer, video_transformer


CHAT_TEMPLATE = (
    "{% for message in messages %}[BOS] {{ message['role'] }} {{ message['content'] }} [EOS]{% endfor %}"
    "{% if add_generation_prompt %}[BOS] assistant{% endif %}"
)
PROMPT, OTHER = "a red cube on a blue sphere", "two black cats sleep under the old wooden table"
VIDEO_VAE = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}


def lumina2(width, encoder, tokenizer):
    transformer = image_transformer(channels=4, cap_feat_dim=width)
    vae = AutoencoderKL(**SCALED_IMAGE_VAE)
    return Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer)


def wan(width, encoder, tokenizer):
    transformer = video_transformer(channels=16, text_dim=width)
    vae = AutoencoderKLWan(**VIDEO_VAE)
    return WanPipeline(tokenizer, encoder, vae, FlowMatchEulerDiscreteScheduler(), transformer)


def qwen_image(width, encoder, tokenizer):
    transformer = QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=width,
        axes_dims_rope=(8, 4, 4),
    )
    scheduler = FlowMatchEulerDiscreteScheduler()
    return QwenImagePipeline(scheduler, AutoencoderKLQwenImage(**VIDEO_VAE), encoder, tokenizer, transformer)


def z_image(width, encoder, tokenizer):
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=width,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    vae = AutoencoderKL(**SCALED_IMAGE_VAE)
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer, transformer)


def sana(width, encoder, tokenizer):
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=width,
        sample_size=32,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41,
    )
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(tokenizer, encoder, vae, transformer, scheduler)


def flux2_klein(width, encoder, tokenizer):
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * width,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(**IMAGE_VAE)
    return Flux2KleinPipeline(FlowMatchEulerDiscreteScheduler(), vae, encoder, tokenizer, transformer)


PIPELINES = {
    "Lumina2": (lumina2, {"height": 16, "width": 16}),
    "Wan": (wan, {"height": 16, "width": 16, "num_frames": 5}),
    "QwenImage": (qwen_image, {"height": 16, "width": 16}),
    "Z-Image": (z_image, {"height": 16, "width": 16}),
    "Sana": (sana, {"height": 32, "width": 32, "use_resolution_binning": False}),
    "Flux2 Klein": (flux2_klein, {"height": 16, "width": 16}),
}


@pytest.fixture(scope="module")
def encoder(make_tokenizer) -> GrantedModel:
    """28 layers, as Flux 2 asks for the 27th."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer("[BOS]", None)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
    )
    model = GrantedModel.from_loaded(LlamaModel(config), tokenizer, fusion="learned")
    torch.nn.init.normal_(model.fusion.weights)
    return model.requires_grad_(False)


def build(name, encoder, width=32):
    torch.manual_seed(1)
    make, size = PIPELINES[name]
    pipe = make(width, encoder, encoder.tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**size, "num_inference_steps": 2, "output_type": "np"}


def make(pipe, options, prompt, **more):
    result = pipe(prompt=prompt, **options, **more, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    return np.asarray(result)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_stock_pipeline_makes_images_that_depend_on_the_prompt(name, encoder):
    pipe, options = build(name, encoder)
    one, other, again = (make(pipe, options, prompt) for prompt in (PROMPT, OTHER, PROMPT))
    assert np.isfinite(one).all() and one.shape[-3:] == (options["height"], options["width"], 3)
    assert np.array_equal(one, again) and np.abs(one - other).max() > 1e-6


def features(encoder, text) -> torch.Tensor:
    """Fused features (N, D) of a text as it stands."""
    inputs = encoder.tokenizer(text, return_tensors="pt")
    return encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state[0]


def chat(encoder, thinking) -> str:
    messages = [{"role": "user", "content": PROMPT}]
    return encoder.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )


def test_lumina2_gets_the_fused_features_of_its_system_prompt_and_the_prompt(encoder):
    pipe, _ = build("Lumina2", encoder)
    embeds, mask, _, _ = pipe.encode_prompt(PROMPT)
    want = features(encoder, f"{pipe.system_prompt} <Prompt Start> {PROMPT}")
    assert embeds.shape[1] == 256
    torch.testing.assert_close(embeds[0][mask[0].bool()], want)


def test_wan_gets_the_fused_features_of_the_prompt_and_zeros(encoder):
    pipe, _ = build("Wan", encoder)
    embeds, _ = pipe.encode_prompt(PROMPT, max_sequence_length=512)
    want = features(encoder, PROMPT)
    torch.testing.assert_close(embeds[0, : len(want)], want)
    assert embeds.shape[1] == 512 and not embeds[0, len(want) :].any()


def test_qwen_image_gets_the_fused_features_without_its_template_once_it_knows_how_long_that_is(encoder):
    pipe, options = build("QwenImage", encoder)
    prefix = pipe.prompt_template_encode.partition("{}")[0]
    pipe.prompt_template_encode_start_idx = len(encoder.tokenizer(prefix)["input_ids"])  # 34 with Qwen's tokenizer
    embeds, mask = pipe.encode_prompt([PROMPT, OTHER])
    text = pipe.prompt_template_encode.format(PROMPT)
    want = features(encoder, text)[pipe.prompt_template_encode_start_idx :]
    torch.testing.assert_close(embeds[0][mask[0].bool()], want)
    words = encoder.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    assert encoder.tokenizer(text)["input_ids"][pipe.prompt_template_encode_start_idx :][: len(words)] == words
    assert np.isfinite(make(pipe, options, PROMPT, true_cfg_scale=4.0, negative_prompt="a bird")).all()


def test_z_image_gets_the_fused_features_of_the_chat_template(encoder):
    pipe, _ = build("Z-Image", encoder)
    (embeds,), _ = pipe.encode_prompt([PROMPT])
    torch.testing.assert_close(embeds, features(encoder, chat(encoder, thinking=True)))


def test_sana_gets_the_fused_features_of_the_prompt(encoder):
    pipe, _ = build("Sana", encoder)
    embeds, mask, _, _ = pipe.encode_prompt(PROMPT, device=torch.device("cpu"))
    assert embeds.shape[1] == 300
    torch.testing.assert_close(embeds[0][mask[0].bool()], features(encoder, PROMPT))


def test_flux2_klein_gets_the_fused_features_three_times_over(encoder):
    pipe, _ = build("Flux2 Klein", encoder)
    embeds, _ = pipe.encode_prompt(PROMPT)
    want = features(encoder, chat(encoder, thinking=False))
    assert embeds.shape[1:] == (512, 3 * 32)
    torch.testing.assert_close(embeds[0, : len(want)], torch.cat([want] * 3, dim=-1))


@pytest.mark.parametrize("name", PIPELINES)
def test_another_width_is_one_clear_error_that_names_both_and_the_way_out(name, encoder):
    pipe, _ = build(name, encoder, width=48)
    joined = 3 if name == "Flux2 Klein" else 1
    with pytest.raises(ValueError, match=rf"width 32.*reads width {48 * joined}.*projection_dim=48"):
        check_text_width(pipe.transformer, encoder.config.hidden_size, hidden_states=joined)
    pipe, _ = build(name, encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_text_width(pipe.transformer, encoder.config.hidden_size, hidden_states=joined)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_trained_projection_is_the_way_out(name, encoder):
    torch.manual_seed(0)
    model = GrantedModel.from_loaded(encoder.encoder, encoder.tokenizer, projection_dim=48, projection_trained=True)
    pipe, options = build(name, model, width=48)
    assert np.isfinite(make(pipe, options, PROMPT)).all()
