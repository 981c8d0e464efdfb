"""The pipelines: equal to the stock ones where those are right, and right where they are not."""

import ast
import inspect
import math
import os
import warnings

import accelerate
import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.hooks import apply_layerwise_casting
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import BertModel

from granted import GrantedModel
from granted.pipeline_base import NEGATIVE_PROMPT, as_one_file
from granted.pipeline_granted import GrantedLumina2Pipeline, GrantedWanPipeline
from granted.tests.fresh_process import run_without_package
from granted.tests.granted_pipelines import (
    EACH,
    LONG,
    MAKERS,
    SHORT,
    SIZES,
    conditioning,
    image_pipeline,
    make_encoder,
    sample,
    seeds,
    video_pipeline,
)
from granted.tests.tiny_models import SCALED_IMAGE_VAE, image_transformer, video_transformer


@pytest.fixture
def encoder(make_tokenizer) -> GrantedModel:
    return make_encoder(make_tokenizer("[BOS]", None))


# ------------------------------------------------------------------------------------------- equal to the stock ones


def test_images_are_those_of_the_stock_pipeline_where_it_is_right(encoder):
    vae = AutoencoderKL(**SCALED_IMAGE_VAE)
    pipe = image_pipeline(encoder, image_transformer(4), FlowMatchEulerDiscreteScheduler(shift=6.0), vae=vae)
    stock = Lumina2Pipeline(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    # Of equal length, as the stock pipeline wants them.
    given = conditioning(pipe, SHORT, negative_prompt="a blue bird")
    options = {**given, "height": 32, "width": 48, "num_inference_steps": 3, "output_type": "np"}
    for more in ({}, {"cfg_normalization": False}, {"cfg_trunc_ratio": 0.5}, {"guidance_scale": 1.0}):
        ours = pipe(**options, **more, generator=seeds(1)).images
        theirs = stock(**options, **more, generator=seeds(1)).images
        assert ours.shape == (1, 32, 48, 3)
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=str(more))


def test_videos_are_those_of_the_stock_pipeline(encoder):
    torch.manual_seed(2)
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = video_pipeline(encoder, video_transformer(16), scheduler, vae=vae)
    stock = WanPipeline(**pipe.components)
    stock.set_progress_bar_config(disable=True)
    given = conditioning(pipe, LONG, negative_prompt=SHORT)
    options = {"height": 16, "width": 32, "num_frames": 5, "num_inference_steps": 3}
    ours = pipe(**given, **options, generator=seeds(1)).frames
    given = {name: given[name] for name in ("prompt_embeds", "negative_prompt_embeds")}
    theirs = stock(**given, **options, generator=seeds(1)).frames
    assert ours.shape == (1, 5, 16, 32, 3)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_defaults_are_those_of_the_paper(encoder):
    for pipeline, scale in ((GrantedLumina2Pipeline, 4.0), (GrantedWanPipeline, 5.0)):
        defaults = inspect.signature(pipeline.__call__).parameters
        assert defaults["num_inference_steps"].default == 50 and defaults["guidance_scale"].default == scale
    for maker in MAKERS.values():
        pipe = maker(encoder)
        given = conditioning(pipe, SHORT)
        wanted = conditioning(pipe, SHORT, negative_prompt=NEGATIVE_PROMPT)
        assert torch.equal(given["negative_prompt_embeds"], wanted["negative_prompt_embeds"])


# ------------------------------------------------------------------------------------------------------- conditioning


@EACH
@pytest.mark.parametrize("keep_first", [False, True])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_the_template_is_put_on_once_and_its_tokens_are_dropped_once(kind, padding_side, keep_first, make_tokenizer):
    encoder = make_encoder(
        make_tokenizer("[BOS]", None),
        prompt_template="describe the image in detail . prompt : {prompt} at night",
        template_drop_tokens=9 - keep_first,
        template_keep_first=keep_first,
        padding_side=padding_side,
    )
    given = conditioning(MAKERS[kind](encoder), [SHORT, LONG], negative_prompt="a bird")
    embeds, mask = given["prompt_embeds"], given["prompt_attention_mask"]
    for row, valid, want in zip(embeds, mask.bool(), encoder.encode([SHORT, LONG])):
        torch.testing.assert_close(row[valid], want)
        assert not row[~valid].any()
    assert mask.dtype == torch.long and mask.sum(1).tolist() == [5 + keep_first, 11 + keep_first]
    assert mask.shape[1] == (11 if kind == "image" else 512 - 9) + keep_first
    assert given["negative_prompt_attention_mask"].sum(1).tolist() == [4 + keep_first] * 2


@EACH
def test_gradients_pass_to_the_layer_weights_alone_and_none_are_kept_in_sampling(kind, encoder):
    encoder.encoder.requires_grad_(False)
    pipe = MAKERS[kind](encoder)
    for transformer_part in (pipe.transformer, encoder):
        transformer_part.zero_grad()
    embeds, *_ = pipe.encode_prompt([SHORT, LONG], do_classifier_free_guidance=False)
    embeds.square().sum().backward()
    moved = [name for name, parameter in encoder.named_parameters() if parameter.grad is not None]
    assert moved == ["fusion.weights"] and encoder.fusion.weights.grad.abs().min() > 0
    assert not sample(pipe, kind, SHORT, output_type="latent").requires_grad


@EACH
def test_saved_embeddings_make_the_same_images_without_the_encoder(kind, encoder):
    pipe = MAKERS[kind](encoder)
    want = sample(pipe, kind, [SHORT, LONG], 2)
    given = conditioning(pipe, [SHORT, LONG])
    assert torch.equal(sample(pipe, kind, count=2, **given), want)
    bare = MAKERS[kind](None, pipe.transformer)
    assert bare.text_encoder is None and bare.tokenizer is None
    assert torch.equal(sample(bare, kind, count=2, **given), want)


def test_wan_reads_compact_embeddings_at_the_length_of_its_encoder(encoder):
    pipe = video_pipeline(encoder)
    given = conditioning(pipe, [SHORT, LONG])
    compact = {name: tensor[:, : 64 if "negative" in name else 10] for name, tensor in given.items()}
    want = sample(pipe, "video", [SHORT, LONG], 2)
    assert torch.equal(sample(pipe, "video", count=2, **compact), want)
    bare = video_pipeline(None, pipe.transformer)
    assert torch.equal(sample(bare, "video", count=2, **compact, max_sequence_length=512), want)


@EACH
def test_a_batch_of_prompts_gives_the_images_of_single_prompts(kind, encoder):
    pipe = MAKERS[kind](encoder)
    batch = sample(pipe, kind, [SHORT, LONG], 2)
    for i, prompt in enumerate((SHORT, LONG)):
        single = sample(pipe, kind, prompt, generator=seeds(2)[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-4, rtol=0)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


@EACH
def test_several_images_of_prompts_of_uneven_length_follow_their_prompts(kind, encoder):
    pipe = MAKERS[kind](encoder)
    more = {"num_images_per_prompt" if kind == "image" else "num_videos_per_prompt": 2}
    made = sample(pipe, kind, [SHORT, LONG], 4, negative_prompt=[LONG, SHORT], **more)
    assert len(made) == 4
    for i, (prompt, negative) in enumerate([(SHORT, LONG)] * 2 + [(LONG, SHORT)] * 2):
        single = sample(pipe, kind, prompt, generator=seeds(4)[i : i + 1], negative_prompt=negative)
        torch.testing.assert_close(made[i : i + 1], single, atol=1e-4, rtol=0)


@EACH
@pytest.mark.parametrize("opening", ["[BOS]", None])
def test_an_empty_prompt_is_legal_and_has_a_token(kind, opening, make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    if opening is None:  # as of Qwen, which puts no token before a text
        tokenizer.backend_tokenizer.post_processor = None
    pipe = MAKERS[kind](make_encoder(tokenizer))
    given = conditioning(pipe, ["", SHORT], negative_prompt="")
    assert given["prompt_attention_mask"].sum(1).tolist() == ([1, 4] if opening else [1, 3])
    assert given["negative_prompt_attention_mask"].sum(1).tolist() == [1, 1]
    assert torch.isfinite(sample(pipe, kind, ["", SHORT], 2, negative_prompt="")).all()


@EACH
def test_truncation_warns_once_with_counts_and_the_way_out(kind, encoder):
    pipe = MAKERS[kind](encoder)
    with pytest.warns(UserWarning) as caught:
        given = conditioning(pipe, [SHORT, LONG], negative_prompt=LONG, max_sequence_length=6)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert "2 of 3 texts" in said and "8 tokens were cut" in said and "raise max_sequence_length" in said
    assert given["prompt_attention_mask"].shape == (2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditioning(pipe, [SHORT, LONG], negative_prompt=LONG, max_sequence_length=10)


@EACH
def test_prompts_in_any_kind_of_list_are_read_up_to_the_encoders_last_position(kind, tiny_bert_folder):
    pipe = MAKERS[kind](GrantedModel.from_encoder(tiny_bert_folder))
    prompts = [SHORT, "a red cube " * 30]
    with pytest.warns(UserWarning, match="longer than 64 tokens .* the encoder has positions for no more"):
        expected = conditioning(pipe, prompts, max_sequence_length=100)
    assert expected["prompt_attention_mask"].sum(1).tolist() == [5, 64]
    for column in (Dataset.from_dict({"text": prompts})["text"], np.array(prompts), tuple(prompts)):
        with pytest.warns(UserWarning):
            given = conditioning(pipe, column, max_sequence_length=100)
        assert all(torch.equal(given[name], expected[name]) for name in expected), type(column)


def test_a_prompt_whose_features_are_not_finite_is_named(encoder):
    encoder.get_input_embeddings().weight.data[encoder.tokenizer.convert_tokens_to_ids("cube")] = torch.nan
    with pytest.raises(ValueError, match=f"NaN or infinite features for the text '{SHORT}', expected finite ones"):
        conditioning(image_pipeline(encoder), [LONG, SHORT])


def test_lumina_reads_and_draws_no_more_than_it_has_positions_for(encoder):
    pipe = image_pipeline(encoder, image_transformer(axes_lens=(8, 32, 32)))
    with pytest.warns(UserWarning, match="longer than 7 tokens"):
        sample(pipe, "image", LONG, negative_prompt="")
    with pytest.raises(ValueError, match=r"max_sequence_length=9, expected at most 7.*axes_lens"):
        pipe.encode_prompt(LONG, max_sequence_length=9)
    given = conditioning(image_pipeline(encoder), LONG, False)
    with pytest.raises(ValueError, match=r"10 tokens, expected at most 7.*axes_lens"):
        pipe(**given, guidance_scale=1.0)
    pipe = image_pipeline(encoder, image_transformer(axes_lens=(128, 8, 4)))
    assert sample(pipe, "image", SHORT, height=16, width=8).shape[-2:] == (16, 8)
    with pytest.raises(ValueError, match=r"width=16, expected at most 8.*axes_lens"):
        sample(pipe, "image", SHORT, height=16, width=16)


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize(("kind", "tokens"), [("image", 4 * 6), ("video", 3 * 4 * 6)])
def test_the_time_shift_is_from_the_true_number_of_tokens(kind, tokens, encoder):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=8, max_image_seq_len=96)
    pipe = MAKERS[kind](encoder, scheduler=scheduler)
    sample(pipe, kind, SHORT, height=8, width=12, num_inference_steps=4, guidance_scale=1.0)
    shift = math.exp(0.5 + (1.15 - 0.5) * (tokens - 8) / (96 - 8))
    even = [1, 0.75, 0.5, 0.25] if kind == "image" else np.linspace(1, 0.001, 4)
    want = [shift / (shift + 1 / sigma - 1) for sigma in even]
    np.testing.assert_allclose(scheduler.sigmas, [*want, 0], rtol=1e-5)


def test_sampling_adds_up_in_fp32_whatever_the_transformer_computes_in(encoder):
    for kind, maker in MAKERS.items():
        pipe = maker(encoder)
        want = sample(pipe, kind, SHORT, output_type="latent", guidance_scale=1.0)
        pipe.transformer.to(torch.bfloat16)
        got = sample(pipe, kind, SHORT, output_type="latent", guidance_scale=1.0)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, atol=0.1, rtol=0.1)


@EACH
def test_without_a_vae_pixels_come_out_and_with_one_its_factors_count(kind, encoder):
    pipe = MAKERS[kind](encoder)
    image = pipe(SHORT, **SIZES[kind], num_inference_steps=1, output_type="pil", return_dict=False)[0][0]
    frames = image if kind == "video" else [image]
    assert len(frames) == SIZES[kind].get("num_frames", 1) and all(frame.size == (8, 8) for frame in frames)
    latents = sample(pipe, kind, SHORT, output_type="latent")
    torch.testing.assert_close(sample(pipe, kind, SHORT), _as_images(latents, kind))
    with pytest.raises(ValueError, match="4 channels and no VAE"):
        transformer = image_transformer(4) if kind == "image" else video_transformer(4)
        sample(MAKERS[kind](encoder, transformer), kind, SHORT)
    if kind == "image":
        options = {name: value[:2] if isinstance(value, tuple) else value for name, value in SCALED_IMAGE_VAE.items()}
        pipe = image_pipeline(encoder, image_transformer(4), vae=AutoencoderKL(**options))
        assert pipe.vae_scale_factor == 2 and sample(pipe, kind, SHORT, height=12, width=8).shape[-2:] == (12, 8)
        assert pipe(SHORT, num_inference_steps=1).images[0].size == (16, 16)


def _as_images(latents, kind) -> torch.Tensor:
    """Pixels in [-1, 1] as images in [0, 1], frames before channels."""
    pixels = (latents / 2 + 0.5).clamp(0, 1)
    return pixels if kind == "image" else pixels.permute(0, 2, 1, 3, 4)


@EACH
def test_callbacks_see_and_replace_tensors_and_can_stop(kind, encoder):
    pipe = MAKERS[kind](encoder)
    seen = []

    def stop(pipe, step, t, tensors):
        seen.append((step, sorted(tensors)))
        pipe._interrupt = step == 1
        return {"latents": torch.zeros_like(tensors["latents"]), "mine": step}

    names = ["latents", "prompt_embeds"]
    latents = sample(
        pipe,
        kind,
        SHORT,
        num_inference_steps=5,
        output_type="latent",
        callback_on_step_end=stop,
        callback_on_step_end_tensor_inputs=names,
    )
    assert seen == [(0, names), (1, names)] and not latents.any()


# -------------------------------------------------------------------------------- offloading, quantised encoders, LoRA


@EACH
def test_offloaded_pipelines_make_the_same_images(kind, encoder, tmp_path):
    """The hooks of all ways of offloading, with the CPU in the accelerator's place."""
    want = sample(MAKERS[kind](encoder), kind, [SHORT, LONG], 2)
    cpu = torch.device("cpu")
    for how in ("model", "submodule", "group leaf", "group block", "group disk"):
        tokenizer = encoder.tokenizer
        pipe = MAKERS[kind](make_encoder(tokenizer))
        if how == "model":
            pipe.enable_model_cpu_offload(device="cpu")
        elif how == "submodule":  # what enable_sequential_cpu_offload does; weights wait on the meta device
            for part in (pipe.text_encoder, pipe.transformer):
                accelerate.cpu_offload(part, cpu)
            assert pipe.text_encoder.device.type == "meta"
        else:
            level = "block_level" if how == "group block" else "leaf_level"
            disk = str(tmp_path / kind) if how == "group disk" else None
            pipe.enable_group_offload(cpu, offload_type=level, num_blocks_per_group=1, offload_to_disk_path=disk)
        for _ in range(2):  # the hooks outlive a call
            torch.testing.assert_close(sample(pipe, kind, [SHORT, LONG], 2), want, atol=1e-5, rtol=0, msg=how)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@EACH
def test_offloaded_pipelines_make_the_same_images_on_an_accelerator(kind, encoder):
    want = sample(MAKERS[kind](encoder), kind, [SHORT, LONG], 2)
    for how in ("model", "sequential", "group"):
        pipe = MAKERS[kind](make_encoder(encoder.tokenizer))
        if how == "model":
            pipe.enable_model_cpu_offload()
        elif how == "sequential":
            pipe.enable_sequential_cpu_offload()
        else:
            pipe.enable_group_offload(torch.device("cuda"), offload_type="leaf_level", use_stream=True)
        got = sample(pipe, kind, [SHORT, LONG], 2).cpu()
        torch.testing.assert_close(got, want, atol=1e-3, rtol=0, msg=how)


@EACH
@pytest.mark.parametrize("how", ["int8", "fp8 storage"])
def test_quantised_encoders_make_images_close_to_the_plain_ones(kind, how, encoder):
    want = sample(MAKERS[kind](encoder), kind, [SHORT, LONG], 2)
    if how == "int8":
        torchao = pytest.importorskip("torchao.quantization")
        torchao.quantize_(encoder.encoder, torchao.Int8WeightOnlyConfig())
    else:
        apply_layerwise_casting(encoder.encoder, torch.float8_e4m3fn, torch.float32)
    got = sample(MAKERS[kind](encoder), kind, [SHORT, LONG], 2)
    torch.testing.assert_close(got, want, atol=0.15, rtol=0)
    assert not torch.equal(got, want)


@EACH
def test_adapters_load_scale_and_unload_as_in_the_parents(kind, encoder, tmp_path):
    pipe = MAKERS[kind](encoder)
    plain = sample(pipe, kind, SHORT)
    torch.manual_seed(3)
    pipe.transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    adapted = sample(pipe, kind, SHORT)
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    assert not torch.equal(adapted, plain)

    transformer = image_transformer() if kind == "image" else video_transformer()
    pipe = MAKERS[kind](encoder, transformer)
    pipe.load_lora_weights(tmp_path, adapter_name="tiny")
    torch.testing.assert_close(sample(pipe, kind, SHORT), adapted)
    torch.testing.assert_close(sample(pipe, kind, SHORT, attention_kwargs={"scale": 0.0}), plain)
    pipe.unload_lora_weights()
    torch.testing.assert_close(sample(pipe, kind, SHORT), plain)


# -------------------------------------------------------------------------------------------------------------- saving

# Runs beside the folders `image` and `video`, where this package cannot be imported.
PROGRAM = """
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file

results = {}
for kind, more in (("image", {}), ("video", {"num_frames": 3})):
    options = {"height": 8, "width": 8, "num_inference_steps": 2, "output_type": "pt", "return_dict": False, **more}
    for folder in (kind, f"{kind}_again", f"{kind}_without"):
        given = {"text_encoder": None} if folder.endswith("without") else {}
        pipe = DiffusionPipeline.from_pretrained(
            kind if given else folder, trust_remote_code=True, dtype=torch.float32, **given
        )
        assert type(pipe).__module__ == "diffusers_modules.local.pipeline_granted", type(pipe)
        if given:
            assert pipe.text_encoder is None
            continue
        assert type(pipe.text_encoder).__module__ == "diffusers_modules.local.granted_text_encoder"
        generator = torch.Generator().manual_seed(0)
        results[folder] = torch.as_tensor(pipe("a red cube", generator=generator, **options)[0]).contiguous()
        if folder == kind:
            pipe.save_pretrained(f"{kind}_again")
assert "granted" not in sys.modules
save_file(results, "images.safetensors")
"""


def test_saved_folders_load_in_a_fresh_process_without_this_package(encoder, tmp_path):
    wanted = {}
    for kind, maker in MAKERS.items():
        pipe = maker(encoder)
        pipe.save_pretrained(tmp_path / kind)
        # Of a component on the Hub diffusers fetches one file of code.
        code = [path.name for path in (tmp_path / kind / "text_encoder").glob("*.py")]
        assert code == ["granted_text_encoder.py"]
        wanted[kind] = sample(pipe, kind, SHORT)
    run_without_package(PROGRAM, tmp_path)
    got = load_file(tmp_path / "images.safetensors")
    for kind, want in wanted.items():
        for folder in (kind, f"{kind}_again"):  # the loaded pipeline saved it again
            torch.testing.assert_close(got[folder], want, atol=1e-5, rtol=0, msg=folder)


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("pipeline_granted.py", {"GrantedLumina2Pipeline", "GrantedWanPipeline", "GrantedPipelineMixin"}),
        ("text_encoder/granted_text_encoder.py", {"GrantedModel", "GrantedConfig", "LayerFusion", "find_text_trunk"}),
    ],
)
def test_saved_code_is_one_file_with_no_name_twice(file, some, encoder, tmp_path):
    image_pipeline(encoder).save_pretrained(tmp_path)
    assert as_one_file(tmp_path / file) == (tmp_path / file).read_text(), "what was loaded is not saved as it was"
    body = ast.parse((tmp_path / file).read_text()).body
    names = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    names += [node.targets[0].id for node in body if isinstance(node, ast.Assign)]
    assert some <= set(names)
    assert len(set(names)) == len(names)
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in body)


def test_a_folder_without_an_encoder_or_a_vae_is_whole(encoder, tmp_path):
    image_pipeline(None).save_pretrained(tmp_path / "bare")
    assert sorted(os.listdir(tmp_path / "bare")) == [
        "model_index.json",
        "pipeline_granted.py",
        "scheduler",
        "transformer",
    ]
    with pytest.raises(ValueError, match="trust_remote_code"):
        GrantedLumina2Pipeline.from_pretrained(tmp_path / "bare")


# ----------------------------------------------------------------------------------------------------------- bad input


def embeds(tokens=3, width=32, rows=1) -> torch.Tensor:
    return torch.zeros(rows, tokens, width)


def mask(tokens=3, rows=1) -> torch.Tensor:
    return torch.ones(rows, tokens, dtype=torch.long)


BAD = {
    "no prompt": ({}, "neither prompt nor prompt_embeds"),
    "a number": ({"prompt": 3}, "got prompt=3, expected a text or a list of texts"),
    "a number in a list": ({"prompt": ["a", 3]}, "expected a text or a list of texts"),
    "an empty list": ({"prompt": []}, "expected a text or a list of texts"),
    "bytes": ({"prompt": b"a"}, "expected a text or a list of texts"),
    "half a surrogate pair": ({"prompt": ["a", "\ud83d"]}, "expected a text or a list of texts: .* at position 1"),
    "a mapping": ({"prompt": {"text": "a"}}, "got prompt={'text': 'a'}, expected a text or a list of texts"),
    "a number to avoid": ({"prompt": "a", "negative_prompt": 3}, "got negative_prompt=3, expected a text"),
    "both": ({"prompt": "a", "prompt_embeds": embeds(), "prompt_attention_mask": mask()}, "both prompt and"),
    "no mask": ({"prompt_embeds": embeds()}, "prompt_embeds without prompt_attention_mask"),
    "a mask alone": ({"prompt": "a", "prompt_attention_mask": mask()}, "no prompt_embeds for the prompt_attention_"),
    "a mask of another length": (
        {"prompt_embeds": embeds(), "prompt_attention_mask": mask(4)},
        r"prompt_embeds \(1, 3, 32\) with prompt_attention_mask \(1, 4\)",
    ),
    "a negative mask of another length": (
        {"prompt": "a", "negative_prompt_embeds": embeds(), "negative_prompt_attention_mask": mask(4)},
        r"negative_prompt_embeds \(1, 3, 32\) with negative_prompt_attention_mask \(1, 4\)",
    ),
    "a mask for more rows": (
        {"prompt_embeds": embeds(), "prompt_attention_mask": mask(rows=2)},
        r"prompt_attention_mask \(2, 3\)",
    ),
    "padding on the left": (
        {"prompt_embeds": embeds(), "prompt_attention_mask": torch.tensor([[0, 1, 1]])},
        "padding on the right alone",
    ),
    "another width": (
        {"prompt_embeds": embeds(width=48), "prompt_attention_mask": mask()},
        "width 48 for a transformer that reads width 32.*projection_dim=32",
    ),
    "no room for a token": ({"prompt": "a", "max_sequence_length": 0}, "max_sequence_length=0, expected more"),
    "negatives of another number": ({"prompt": ["a"] * 3, "negative_prompt": ["b"] * 2}, "2 negative prompts for 3"),
    "a height between patches": ({"prompt": "a", "height": 7}, "height=7, expected a multiple of 2"),
    "a height of nothing": ({"prompt": "a", "height": -2}, "height=-2, expected a multiple of 2"),
    "generators for others": ({"prompt": "a", "generator": seeds(2)}, "2 generators for 1 results"),
    "latents of another shape": ({"prompt": "a", "latents": torch.zeros(1, 3, 4)}, r"got latents \(1, 3, 4\)"),
    "an unknown tensor": ({"prompt": "a", "callback_on_step_end_tensor_inputs": ["noise"]}, r"got callback tensors"),
}


@EACH
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_error(kind, case, encoder):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        MAKERS[kind](encoder)(**SIZES[kind] | options)
    assert "\n" not in str(caught.value)


@EACH
def test_what_is_missing_without_an_encoder_is_named(kind, encoder):
    bare = MAKERS[kind](None)
    given = conditioning(MAKERS[kind](encoder), SHORT, do_classifier_free_guidance=False)
    del given["negative_prompt_embeds"], given["negative_prompt_attention_mask"]
    with pytest.raises(ValueError, match="no text encoder, expected embeddings and masks"):
        sample(bare, kind, SHORT)
    with pytest.raises(ValueError, match="guidance_scale=1"):
        sample(bare, kind, **given)
    assert torch.isfinite(sample(bare, kind, **given, guidance_scale=1.0)).all()


@EACH
def test_an_encoder_of_another_width_or_kind_is_refused_at_once(kind, make_tokenizer, tiny_bert_folder):
    encoder = make_encoder(make_tokenizer("[BOS]", None), projection_dim=48)
    with pytest.raises(ValueError, match=r"width 48 for a transformer that reads width 32.*projection_dim=32"):
        MAKERS[kind](encoder)
    with pytest.raises(ValueError, match="BertModel, expected a GrantedModel"):
        MAKERS[kind](BertModel.from_pretrained(tiny_bert_folder))
    with pytest.raises(ValueError, match="got 3 features of each token for a transformer of"):
        MAKERS[kind](make_encoder(make_tokenizer("[BOS]", None), fusion="learned", num_outputs=3))


def test_frames_are_counted_as_the_vae_counts_them(encoder):
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    pipe = video_pipeline(encoder, video_transformer(16), vae=vae)
    for frames in (0, 4, 6):
        with pytest.raises(ValueError, match=f"num_frames={frames}, expected one more than a multiple of 4"):
            pipe(SHORT, height=16, width=16, num_frames=frames)


def test_more_frames_or_pixels_than_the_transformer_has_positions_for_are_refused(encoder):
    pipe = video_pipeline(encoder)
    most = pipe.transformer.config.rope_max_seq_len
    for options in ({"num_frames": most + 1}, {"num_frames": 3, "width": 2 * most + 2}):
        with pytest.raises(ValueError, match="for which this transformer has positions"):
            pipe(SHORT, **{"height": 8, "width": 8} | options)


def test_the_pipelines_tokenizer_is_the_encoders(encoder, make_tokenizer):
    other = make_tokenizer("[CLS]", "[SEP]")
    pipe = image_pipeline(encoder, tokenizer=other)
    assert pipe.tokenizer is other and encoder.tokenizer is other
    assert pipe.encode_prompt(SHORT, False)[1].sum() == 5
    assert image_pipeline(encoder).tokenizer is other
