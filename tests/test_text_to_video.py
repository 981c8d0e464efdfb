"""Text-to-video training: images and videos in turn, Wan's conventions, new text embedding, runs that go on."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from diffusers import DiffusionPipeline, WanTransformer3DModel
from PIL import Image as PILImage
from safetensors.torch import load_file

from granted.training.diffusion.text_to_video import TextToVideoConfig, TextToVideoTrainer, is_image_step
from granted.training.flow_matching import Draw
from granted.utils.errors import InputError
from granted.utils.files import read_json
from granted.utils.options import read_options


DIT = {
    "patch_size": [1, 4, 4],
    "num_attention_heads": 1,
    "attention_head_dim": 24,
    "ffn_dim": 32,
    "num_layers": 1,
    "freq_dim": 16,
    "rope_max_seq_len": 32,
}


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> str:
    """Ten videos of four frames that grow brighter."""
    path = tmp_path_factory.mktemp("clips") / "clips.parquet"
    rows = [
        {
            "frames": [PILImage.new("RGB", (16, 16), (i * 20, t * 60, 0)) for t in range(4)],
            "caption": f"the cube on the table at {i}",
        }
        for i in range(10)
    ]
    features = Features({"frames": List(Image()), "caption": Value("string")})
    Dataset.from_list([features.encode_example(row) for row in rows], features=features).to_parquet(path)
    return str(path)


@pytest.fixture
def settings(tiny_encoder_folder, write_images, videos, tmp_path):
    """`settings(name, **changes)`: a run of 6 steps, frozen after 3, into a folder of that name."""
    images = write_images(tmp_path / "images.parquet")

    def make(name: str = "run", **changes) -> TextToVideoConfig:
        common = {
            "encoder": tiny_encoder_folder,
            "data": videos,
            "image_data": images,
            "output_dir": str(tmp_path / name),
            "transformer": DIT,
            "height": 16,
            "width": 16,
            "num_frames": 4,
            "max_sequence_length": 16,
            "batch_size": 2,
            "image_batch_size": 4,
            "max_steps": 6,
            "freeze_at": "3",
            "learning_rate": 1e-2,
            "mixed_precision": "no",
            "sample_count": 2,
            "num_inference_steps": 2,
            "log_steps": 2,
            "save_steps": 2,
        }
        return TextToVideoConfig(**common | changes)

    return make


def outcome(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "pipeline/transformer/diffusion_pytorch_model.safetensors")
    return weights | {
        "fusion": load_file(folder / "pipeline/text_encoder/model.safetensors")["fusion.weights"],
    }


@pytest.mark.parametrize("share", [0, 1, 3, 7, 9])
def test_of_any_ten_steps_in_a_row_so_many_are_of_images(share):
    kinds = [is_image_step(step, share) for step in range(1000)]
    assert {sum(kinds[start : start + 10]) for start in range(990)} == {share}


def test_steps_are_of_images_and_videos_in_turn_and_the_same_after_a_resume(settings):
    trainer = TextToVideoTrainer(settings(), show_progress=False)

    def first(steps: int, start: int) -> list:
        found = trainer.batches(start, None)
        return [next(found) for _ in range(steps)]

    whole = first(15, 0)
    assert [batch.samples.ndim == 4 for batch in whole] == [is_image_step(step, 7) for step in range(15)]
    for batch in whole:
        expected = (4, 3, 16, 16) if batch.samples.ndim == 4 else (2, 3, 4, 16, 16)
        assert batch.samples.shape == expected
        shape = trainer.samples(batch).shape
        assert shape == ((4, 3, 1, 16, 16) if batch.samples.ndim == 4 else expected)
    for start in (1, 4, 11):
        assert [batch.rows for batch in first(15 - start, start)] == [batch.rows for batch in whole[start:]]
    clip = next(batch for batch in whole if batch.samples.ndim == 5)
    greens = clip.samples[0, 1, :, 0, 0].add(1).mul(127.5).round().tolist()
    assert greens == [0, 60, 120, 180]  # frames in their order


class Oracle(WanTransformer3DModel):
    """Knows the video: predicts, in Wan's convention of time and sign, exactly the way to it."""

    def forward(self, hidden_states, timestep, encoder_hidden_states, **_):
        sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)  # (B, 1, 1, 1, 1)
        return ((hidden_states - self.target) / sigma,)  # noise - x


def test_training_and_sampling_agree_on_the_direction_of_time(settings):
    trainer = TextToVideoTrainer(settings(guidance_scale=1.0, caption_dropout=0.0), show_progress=False)
    oracle = Oracle(**DIT, in_channels=3, out_channels=3, text_dim=32)
    oracle.target = trainer.videos[0][0]  # (3, 4, 16, 16)
    trainer.transformer = oracle
    batch = next(trainer.videos.batches(0, [slice(0, 2)]))
    batch.samples = oracle.target.expand(2, -1, -1, -1, -1)
    assert trainer.loss(batch, [Draw(trainer.config, 0, i) for i in range(2)], ExitStack()) < 1e-9
    for clip in trainer.sample(["a red cube", "x"]):
        torch.testing.assert_close(clip.transpose(0, 1), oracle.target / 2 + 0.5, atol=1e-5, rtol=0)


class Killed(TextToVideoTrainer):
    """Dies at step 4."""

    def train_step(self, step, batches):
        if step == 4:
            raise KeyboardInterrupt
        return super().train_step(step, batches)


def test_a_resumed_run_equals_an_uninterrupted_one_and_its_pipeline_loads(settings):
    whole = TextToVideoTrainer(settings("whole"), show_progress=False).run()
    with pytest.raises(KeyboardInterrupt):
        Killed(settings("parts"), show_progress=False).run()
    parts = TextToVideoTrainer(settings("parts"), show_progress=False).run()
    expected, found = outcome(whole), outcome(parts)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert (parts / "training.jsonl").read_text() == (whole / "training.jsonl").read_text()
    record = read_json(whole / "training_record.json")
    assert record["frozen_at"] == 3 and (expected["fusion"] != 0).all()
    with PILImage.open(whole / "grids/step_000006.png") as grid:
        assert grid.size == (4 * 96, 2 * 96)  # a row of frames for each prompt
    pipeline = DiffusionPipeline.from_pretrained(whole / "pipeline", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.text_encoder.config.max_sequence_length == 512  # the encoder's own
    assert pipeline.encode_prompt("a cube", "")[2].shape == (1, 16, 32)  # padded to what the transformer always reads
    frames = pipeline("a cube", height=16, width=16, num_frames=4, num_inference_steps=2, negative_prompt="").frames
    assert frames.shape == (1, 4, 16, 16, 3)


def test_a_pretrained_transformer_keeps_all_but_its_text_embedding(settings, tmp_path):
    torch.manual_seed(5)
    WanTransformer3DModel(**DIT, in_channels=3, out_channels=3, text_dim=48).save_pretrained(tmp_path / "wan")
    saved = load_file(tmp_path / "wan/diffusion_pytorch_model.safetensors")
    trainer = TextToVideoTrainer(settings(pretrained=str(tmp_path / "wan"), transformer={}), show_progress=False)
    found = trainer.make_transformer().state_dict()
    new = [name for name in saved if not torch.equal(saved[name], found[name])]
    assert new == [name for name in saved if ".text_embedder." in name] and len(new) == 4
    assert found["condition_embedder.text_embedder.linear_1.weight"].shape == (24, 32)
    assert all(parameter.requires_grad for parameter in trainer.pretrained.parameters())
    torch.manual_seed(6)
    other = WanTransformer3DModel(**DIT, in_channels=3, out_channels=3, text_dim=48)
    identity = trainer.content()["pretrained"]
    other.save_pretrained(tmp_path / "other")
    another = TextToVideoTrainer(settings(pretrained=str(tmp_path / "other"), transformer={}), show_progress=False)
    assert another.content()["pretrained"] != identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_steps": 0}, "got image_steps=0 with image_data"),
        ({"num_frames": 5}, "got a video of 4 frames, expected at least 5"),
        ({"height": 18}, "frames of 18 x 16"),
        ({"pretrained": "/nowhere"}, "got transformer '/nowhere'"),
        ({"image_batch_size": 3, "gradient_accumulation_steps": 2}, "batch_size=3, expected a multiple of 2"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(settings, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        TextToVideoTrainer(settings(**changes), show_progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t2v_paper", "t2v_miniature"])
def test_the_settings_in_the_repository_are_legal(name):
    path = Path(__file__).parents[1] / "training/configs" / f"{name}.yaml"
    given = ["--config", str(path), "--encoder=e", "--data=d", "--output-dir=o", "--image-data=i"]
    (config,) = read_options({"": TextToVideoConfig}, given, "train")
    assert config.image_steps == 7
