"""Every block of a diffusion transformer reads a fusion of its own: in pipelines, in trainings, saved and drawn."""

import copy
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image as PILImage
from transformers import LlamaConfig, LlamaModel

from granted.modeling_granted import GrantedModel
from granted.pipeline_blocks import check_text_outputs, text_blocks, text_by_block
from granted.pipeline_granted import GrantedLumina2Pipeline, GrantedWanPipeline
from granted.tests.tiny_models import image_transformer, video_transformer
from granted.training.diffusion.layer_weights_chart import draw_trajectory
from granted.training.diffusion.text_to_image import TextToImageConfig, TextToImageTrainer
from granted.training.diffusion.text_to_video import TextToVideoConfig, TextToVideoTrainer
from granted.training.diffusion.two_step import LayerWeightSchedule, moved, set_fusion


BLOCKS, LAYERS, WIDTH = 3, 4, 32
SIZES = {"image": {"height": 8, "width": 8}, "video": {"height": 8, "width": 8, "num_frames": 3}}
EACH = pytest.mark.parametrize("kind", SIZES)
SHORT, LONG = "a red cube", "two black cats sleep under the old wooden table"


def transformer_of(kind: str):
    """Of three blocks, with all weights random: new modulations of diffusers would let no text through."""
    make = {"image": image_transformer, "video": video_transformer}[kind]
    small = make()
    torch.manual_seed(1)
    transformer = type(small).from_config({**small.config, "num_layers": BLOCKS}).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_(std=0.2)
    return transformer


def encoder_of(tokenizer, **options) -> GrantedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
    )
    return GrantedModel.from_loaded(LlamaModel(config), tokenizer, fusion="learned", **options)


def pipeline_of(kind: str, encoder: GrantedModel):
    pipe = {"image": GrantedLumina2Pipeline, "video": GrantedWanPipeline}[kind]
    made = pipe(
        transformer_of(kind), FlowMatchEulerDiscreteScheduler(), vae=None, text_encoder=encoder, tokenizer=None
    )
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, kind: str, prompts, first_seed: int = 0) -> torch.Tensor:
    count = 1 if isinstance(prompts, str) else len(prompts)
    seeds = [torch.Generator().manual_seed(first_seed + i) for i in range(count)]
    options = {**SIZES[kind], "num_inference_steps": 2, "output_type": "pt", "generator": seeds}
    return torch.as_tensor(pipe(prompts, **options, return_dict=False)[0])


def with_weights(encoder: GrantedModel, weights: torch.Tensor) -> GrantedModel:
    encoder.fusion.weights.data.copy_(weights)
    return encoder


# ---------------------------------------------------------------------------------------------------------- pipelines


@EACH
def test_equal_rows_draw_what_one_fusion_draws_to_the_bit(kind, make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    weights = torch.randn(LAYERS, generator=torch.Generator().manual_seed(3))
    one = pipeline_of(kind, with_weights(encoder_of(tokenizer), weights))
    each = pipeline_of(kind, with_weights(encoder_of(tokenizer, num_outputs=BLOCKS), weights))
    assert torch.equal(draw(one, kind, [SHORT, LONG]), draw(each, kind, [SHORT, LONG]))


@EACH
def test_rows_that_differ_draw_something_else_alike_in_any_batch(kind, make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    weights = 3 * torch.randn(BLOCKS, LAYERS, generator=torch.Generator().manual_seed(3))
    each = pipeline_of(kind, with_weights(encoder_of(tokenizer, num_outputs=BLOCKS), weights))
    one = pipeline_of(kind, with_weights(encoder_of(tokenizer), weights[0]))
    batch = draw(each, kind, [SHORT, LONG])
    assert (batch - draw(one, kind, [SHORT, LONG])).abs().max() > 1e-3
    for i, prompt in enumerate((SHORT, LONG)):  # of uneven length: padding is read by no block
        torch.testing.assert_close(batch[i : i + 1], draw(each, kind, prompt, first_seed=i), atol=1e-4, rtol=0)


@EACH
def test_each_block_reads_its_own_features_and_hooks_do_not_stay(kind, make_tokenizer):
    transformer = transformer_of(kind)
    embeds = torch.randn(1, 5, BLOCKS * WIDTH, requires_grad=True)
    mask = torch.ones(1, 5, dtype=torch.long)
    noisy = torch.randn(1, transformer.config.in_channels, *((2, 8, 8) if kind == "video" else (8, 8)))
    given = [noisy, torch.full((1,), 0.5)]
    with text_by_block(transformer, embeds, mask) as first:
        text = [first, mask] if kind == "image" else [first]
        out = transformer(*given, *text, return_dict=False)[0]
    out.square().sum().backward()
    per_block = embeds.grad.unflatten(-1, (BLOCKS, WIDTH)).abs().sum((0, 1, 3))  # (K,)
    assert (per_block > 0).all()
    blocks, _ = text_blocks(transformer)
    assert not any(block._forward_pre_hooks for block in blocks)


def test_a_count_that_is_not_the_number_of_blocks_is_refused():
    transformer = transformer_of("video")
    check_text_outputs(transformer, BLOCKS)
    with pytest.raises(ValueError, match=r"got 2 features .* of 3 blocks, expected one, or one for each"):
        check_text_outputs(transformer, 2)
    with pytest.raises(ValueError, match="got a Linear for several features"):
        check_text_outputs(torch.nn.Linear(2, 2), 2)


# ------------------------------------------------------------------------------------------------------ layer weights


def test_rows_start_as_norm_avg_learn_apart_and_freeze_together(make_tokenizer):
    encoder = encoder_of(make_tokenizer("[BOS]", None))
    schedule = LayerWeightSchedule(encoder, mode="per_block", freeze_at="2", total_steps=3, blocks=BLOCKS)
    assert torch.equal(encoder.layer_weights, torch.full((BLOCKS, LAYERS), 1 / LAYERS))
    assert encoder.fusion.weights.requires_grad and schedule.learning
    encoder.fusion.layer_weights()[1, 2].backward()
    assert (encoder.fusion.weights.grad[1] != 0).all() and (encoder.fusion.weights.grad[0] == 0).all()
    assert schedule.begin(2) and not encoder.fusion.weights.requires_grad


def test_signed_factors_move_as_fast_as_softmaxed_ones(make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    rates = {}
    for mode in ("two_step", "signed"):
        schedule = LayerWeightSchedule(encoder_of(tokenizer), mode=mode, total_steps=9, learning_rate=0.1)
        rates[mode] = schedule.optimizer.param_groups[0]["lr"]
    assert rates["signed"] == rates["two_step"] / LAYERS


def test_what_standardises_one_fusion_standardises_each_of_several(make_tokenizer):
    encoder = encoder_of(make_tokenizer("[BOS]", None))
    encoder.calibrate([SHORT, LONG])
    expected = encoder.encode([LONG])[0]  # (N, D)
    set_fusion(encoder, "learned", BLOCKS)
    for found in encoder.encode([LONG])[0]:  # (K, N, D)
        assert torch.equal(found, expected)


def test_the_distance_of_several_rows_is_their_mean():
    assert moved([1.0, 0.0], [0.0, 1.0]) == 1
    assert moved([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]) == 0.5


def test_the_trajectory_of_several_rows_is_drawn_as_heat_maps(tmp_path):
    still, later = [[0.5, 0.5]] * 2, [[0.9, 0.1], [-0.2, 1.2]]
    draw_trajectory([(0, still), (5, later), (10, later)], tmp_path / "maps.png", frozen_at=5)
    draw_trajectory([(0, still)], tmp_path / "one.png")
    for name in ("maps.png", "one.png"):
        with PILImage.open(tmp_path / name) as picture:
            assert picture.width > picture.height


# ---------------------------------------------------------------------------------------------------------- trainings


@pytest.fixture
def run(tiny_encoder_folder, write_images, tmp_path):
    """`run(kind, name, **changes)`: a training of 4 steps into a folder of that name, and the folder."""
    images = write_images(tmp_path / "images.parquet")

    def make(kind: str, name: str, **changes) -> Path:
        common = {
            "encoder": tiny_encoder_folder,
            "data": images,
            "output_dir": str(tmp_path / name),
            "max_sequence_length": 32,
            "batch_size": 4,
            "max_steps": 4,
            "freeze_at": "2",
            "learning_rate": 1e-2,
            "mixed_precision": "no",
            "sample_count": 2,
            "num_inference_steps": 2,
            "log_steps": 1,
            "layer_weights": "per_block",
        }
        small = {"image": image_transformer, "video": video_transformer}[kind]().config
        fixed = ("in_channels", "out_channels", "cap_feat_dim", "text_dim", "sample_size")
        fields = {n: v for n, v in small.items() if not n.startswith("_") and n not in fixed}
        common["transformer"] = fields | {"num_layers": BLOCKS}
        if kind == "image":
            config = TextToImageConfig(**common | {"resolution": 16} | changes)
            return TextToImageTrainer(config, show_progress=False).run()
        frames = [PILImage.new("RGB", (16, 16), (t * 60, 0, 0)) for t in range(2)]
        features = Features({"frames": List(Image()), "caption": Value("string")})
        rows = [features.encode_example({"frames": frames, "caption": f"video {i}"}) for i in range(4)]
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / "videos.parquet")
        one = {"height": 16, "width": 16, "num_frames": 2, "image_data": images, "image_batch_size": 4}
        one |= {"data": str(tmp_path / "videos.parquet")}
        return TextToVideoTrainer(TextToVideoConfig(**common | one | changes), show_progress=False).run()

    return make


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


def test_a_training_starts_as_with_one_fusion_and_its_pipeline_draws_with_all(run):
    folder = run("image", "each")
    assert losses(folder)[0] == losses(run("image", "one", layer_weights="two_step"))[0]
    points = json.loads((folder / "layer_weights.json").read_text())
    assert points["frozen_at"] == 2
    last = torch.tensor(points["trajectory"][-1]["weights"])  # (K, L)
    assert last.shape == (BLOCKS, LAYERS) and (last[0] != last[1]).any() and (last[1] != last[2]).any()
    pipe = DiffusionPipeline.from_pretrained(folder / "pipeline", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    torch.testing.assert_close(pipe.text_encoder.layer_weights, last)
    assert pipe.encode_prompt(SHORT, False)[0].shape[-1] == BLOCKS * WIDTH
    assert pipe(SHORT, num_inference_steps=2).images[0].size == (16, 16)


def test_blocks_that_are_run_again_for_their_gradients_read_their_own_text_again(run):
    plain, again = run("image", "plain"), run("image", "again", gradient_checkpointing=True)
    torch.testing.assert_close(torch.tensor(losses(plain)), torch.tensor(losses(again)))
    records = [json.loads((folder / "training_record.json").read_text()) for folder in (plain, again)]
    torch.testing.assert_close(*(torch.tensor(record["layer_weights"]) for record in records))


def test_a_wan_training_has_rows_for_its_blocks(run):
    folder = run("video", "video", save_steps=2)
    record = json.loads((folder / "training_record.json").read_text())
    rows = torch.tensor(record["layer_weights"])  # (K, L)
    assert rows.shape == (BLOCKS, LAYERS) and (rows[0] != rows[2]).any()
    pipe = DiffusionPipeline.from_pretrained(folder / "pipeline", trust_remote_code=True)
    assert copy.deepcopy(pipe.text_encoder.config).num_outputs == BLOCKS
