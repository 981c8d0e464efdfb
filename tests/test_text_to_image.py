"""Text-to-image training: flow matching as the scheduler has it, what moves when, caches, and runs that go on."""

import fcntl
import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, Lumina2Transformer2DModel
from PIL import Image as PILImage
from safetensors.torch import load_file

from granted.encoding.embedding_cache import EmbeddingCache
from granted.modeling_granted import GrantedModel
from granted.pipeline_granted import GrantedLumina2Pipeline
from granted.tests.forked import GRANTED
from granted.training.diffusion.settings import CALIBRATION
from granted.training.diffusion.text_to_image import TextToImageConfig, TextToImageTrainer
from granted.training.flow_matching import Draw, flow_matching
from granted.training.optimizers import Muon, make_optimizers
from granted.utils.errors import InputError
from granted.utils.files import read_json
from granted.utils.options import read_options


DIT = {
    "patch_size": 4,
    "hidden_size": 24,
    "num_layers": 1,
    "num_refiner_layers": 1,
    "num_attention_heads": 1,
    "num_kv_heads": 1,
    "multiple_of": 8,
    "axes_dim_rope": [8, 8, 8],
    "axes_lens": [64, 16, 16],
}
TWO_BLOCKS = DIT | {"num_layers": 2}


@pytest.fixture(scope="session")
def image_file(write_images, tmp_path_factory) -> str:
    return write_images(tmp_path_factory.mktemp("pictures") / "images.parquet")


@pytest.fixture
def settings(tiny_encoder_folder, image_file, tmp_path):
    """`settings(name, **changes)`: a run of 6 steps, frozen after 3, into a folder of that name."""

    def make(name: str = "run", **changes) -> TextToImageConfig:
        common = {
            "encoder": tiny_encoder_folder,
            "data": image_file,
            "output_dir": str(tmp_path / name),
            "transformer": DIT,
            "resolution": 16,
            "max_sequence_length": 32,
            "batch_size": 4,
            "max_steps": 6,
            "freeze_at": "3",
            "learning_rate": 1e-2,
            "caption_dropout": 0.2,
            "mixed_precision": "no",
            "sample_count": 2,
            "num_inference_steps": 2,
            "log_steps": 1,
        }
        return TextToImageConfig(**common | changes)

    return make


def train(config: TextToImageConfig) -> Path:
    return TextToImageTrainer(config, show_progress=False).run()


def outcome(folder: Path) -> dict[str, torch.Tensor]:
    """The averaged weights, the layer weights and the standardisation of a finished run."""
    weights = load_file(folder / "pipeline/transformer/diffusion_pytorch_model.safetensors")
    encoder = load_file(folder / "pipeline/text_encoder/model.safetensors")
    return weights | {name: value for name, value in encoder.items() if name.startswith(("fusion", "standardization"))}


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "training.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------- flow matching


def test_the_noisy_sample_is_the_schedulers_and_the_velocity_leads_to_the_sample():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    samples, noise = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    chosen = torch.tensor([0, 100, 500, 900, 999])
    noisy, velocity = flow_matching(samples, noise, scheduler.sigmas[chosen])
    torch.testing.assert_close(noisy, scheduler.scale_noise(samples, scheduler.timesteps[chosen], noise))
    # One Euler step of the scheduler from anywhere on the way along the velocity ends at the sample.
    for i, sigma in enumerate(scheduler.sigmas[chosen].tolist()):
        sampler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        sampler.set_timesteps(sigmas=[sigma])
        found = sampler.step(velocity[i], sampler.timesteps[0], noisy[i]).prev_sample
        torch.testing.assert_close(found, samples[i], atol=1e-6, rtol=1e-5)


def test_the_shift_of_training_is_the_schedulers(settings):
    plain, shifted = settings(timestep_sampling="uniform"), settings(timestep_sampling="uniform", shift=3.0)
    sigmas = torch.cat([Draw(plain, 0, place).sigma() for place in range(500)])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    found = torch.cat([Draw(shifted, 0, place).sigma() for place in range(500)])
    torch.testing.assert_close(found, scheduler.sigmas[:-1])
    assert 0.45 < sigmas.mean() < 0.55 and sigmas.min() > 0 and sigmas.max() < 1


class Oracle(Lumina2Transformer2DModel):
    """Knows the image: predicts, in Lumina 2's convention of time and sign, exactly the way to it."""

    def forward(self, hidden_states, timestep, encoder_hidden_states, encoder_attention_mask, **_):
        sigma = (1 - timestep).view(-1, 1, 1, 1)  # (B, 1, 1, 1)
        return ((self.target - hidden_states) / sigma,)  # x - noise


def test_training_and_sampling_agree_on_the_direction_of_time(settings):
    trainer = TextToImageTrainer(settings(guidance_scale=1.0, caption_dropout=0.0), show_progress=False)
    oracle = Oracle(**DIT, in_channels=3, sample_size=16, cap_feat_dim=32)
    oracle.target = trainer.images[0][0]  # (3, 16, 16)
    trainer.transformer = oracle
    batch = next(trainer.images.batches(0, [slice(0, 4)]))
    batch.samples = oracle.target.expand(4, -1, -1, -1)
    assert trainer.loss(batch, [Draw(trainer.config, 0, i) for i in range(4)], ExitStack()) < 1e-9
    for picture in trainer.sample(["a red cube", "x"]):
        torch.testing.assert_close(picture, oracle.target / 2 + 0.5, atol=1e-5, rtol=0)


def test_noise_belongs_to_a_place_of_a_step_and_the_empty_caption_takes_its_share(settings):
    config = settings(caption_dropout=0.25)
    assert torch.equal(Draw(config, 3, 1).noise((2, 2)), Draw(config, 3, 1).noise((2, 2)))
    seen = {tuple(Draw(config, step, place).noise((2,)).tolist()) for step in range(20) for place in range(20)}
    assert len(seen) == 400
    captions = [Draw(config, step, place).caption(["one", "two"]) for step in range(50) for place in range(40)]
    shares = [captions.count(text) / len(captions) for text in ("", "one", "two")]
    assert np.allclose(shares, [0.25, 0.375, 0.375], atol=0.04), shares


# ------------------------------------------------------------------------------------------------------ the two phases


class Watched(TextToImageTrainer):
    """Keeps what the weights were before every step."""

    def train_step(self, step, batches):
        if not hasattr(self, "history"):
            self.history, self.trunk = [], {n: p.clone() for n, p in self.encoder.encoder.named_parameters()}
        weights = {n: p.detach().clone() for n, p in self.transformer.named_parameters()}
        self.history.append((weights, self.encoder.fusion.weights.detach().clone(), hasattr(self.encoder, "encoder")))
        return super().train_step(step, batches)


def test_each_phase_moves_exactly_what_it_should_and_frees_the_trunk(settings):
    trainer = Watched(settings(), show_progress=False)
    folder = trainer.run()
    for step in range(5):
        (before, weights, _), (after, later, _) = trainer.history[step], trainer.history[step + 1]
        assert [name for name in before if torch.equal(before[name], after[name])] == [], step
        assert torch.equal(weights, later) == (step >= 3), step
    assert [trunk for *_, trunk in trainer.history] == [True] * 3 + [False] * 3
    assert trainer.schedule.optimizer is None
    (optimizer,) = trainer.optimizers
    assert len(optimizer.optimizer.state) == len(list(trainer.transformer.parameters()))
    saved = load_file(folder / "pipeline/text_encoder/model.safetensors")
    for name, value in trainer.trunk.items():
        assert torch.equal(saved[f"encoder.{name}"], value), name
    assert torch.equal(saved["fusion.weights"], trainer.history[-1][1])
    record = read_json(folder / "training_record.json")
    assert record["frozen_at"] == 3 and len(record["layer_weights"]) == 4


def average_of(history: list[torch.Tensor]) -> torch.Tensor:
    """As diffusers averages: decay min(0.5, (1 + n) / (10 + n)) with n = 0, 1, 2, the first step taken whole."""
    average = history[0]
    for n, weights in enumerate(history[1:], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weights
    return average


@pytest.mark.parametrize("mode", ["continuous", "two_step"])
def test_averaged_weights_and_the_layer_weights_that_belong_to_them_are_what_is_saved(settings, mode):
    trainer = Watched(settings(ema_decay=0.5, max_steps=4, layer_weights=mode, freeze_at=2), show_progress=False)
    folder = trainer.run()
    name, saved = "x_embedder.weight", outcome(folder)
    history = [weights[name] for weights, *_ in trainer.history[1:]]
    history.append(dict(trainer.transformer.named_parameters())[name].detach())
    torch.testing.assert_close(saved[name], average_of(history))
    learned = [weights for _, weights, _ in trainer.history[1:]] + [trainer.encoder.fusion.weights.detach()]
    if mode == "continuous":
        torch.testing.assert_close(saved["fusion.weights"], average_of(learned))
        assert not torch.allclose(saved["fusion.weights"], learned[-1])
    else:  # what was frozen, which the diffusion model has gone on with
        assert torch.equal(saved["fusion.weights"], learned[1]) and torch.equal(learned[1], learned[-1])
    record = read_json(folder / "training_record.json")
    assert record["layer_weights"] == torch.softmax(saved["fusion.weights"], 0).tolist()


class WatchedRates(TextToImageTrainer):
    """Keeps the learning rates of every step: the diffusion model's, and the layer weights'."""

    def after_step(self, bar):
        self.rates = getattr(self, "rates", [])
        self.rates.append([one.param_groups[0]["lr"] for one in (self.optimizers[0], self.schedule.optimizer)])
        super().after_step(bar)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_layer_weights_have_a_schedule_of_their_own(settings, schedule):
    changes = {"layer_weights": "continuous", "schedule": "cosine", "layer_weights_schedule": schedule}
    changes |= {"layer_weights_learning_rate": 0.1, "warmup_steps": 1, "max_steps": 5}
    trainer = WatchedRates(settings(**changes), show_progress=False)
    trainer.run()
    falling = [0.5, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]  # half a cosine after one step of warm-up
    np.testing.assert_allclose([rate for rate, _ in trainer.rates], [1e-2 * factor for factor in falling])
    expected = falling if schedule == "cosine" else [0.5, 1, 1, 1, 1]
    np.testing.assert_allclose([rate for _, rate in trainer.rates], [0.1 * factor for factor in expected])


@pytest.mark.parametrize("mode", ["two_step", "per_block", "signed", "norm_avg", "as_saved"])
def test_a_run_from_the_cache_equals_one_without(settings, mode):
    cached = train(settings("cached", layer_weights=mode, transformer=TWO_BLOCKS))
    plain = train(settings("plain", layer_weights=mode, transformer=TWO_BLOCKS, cache=False))
    assert (cached / "embeddings").exists() and not (plain / "embeddings").exists()
    np.testing.assert_allclose(losses(cached), losses(plain), rtol=1e-5)
    for name, value in outcome(plain).items():
        torch.testing.assert_close(outcome(cached)[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_cache_holds_what_will_be_drawn_and_nothing_else(settings):
    changes = {"sample_count": 1, "batch_size": 2, "caption_columns": ["caption", "short"]}
    trainer = TextToImageTrainer(settings(**changes), show_progress=False)
    asked, embed = set(), trainer.conditioning.embed
    trainer.conditioning.embed = lambda texts: (trainer.schedule.learning or asked.update(texts), embed(texts))[1]
    trainer.run()
    (folder,) = (trainer.output / "embeddings").iterdir()
    assert len(EmbeddingCache(folder, read_json(folder / "identity.json"))) == len(asked) < 15


def test_recomputed_and_kept_layers_train_the_same(settings):
    one, other = train(settings("one")), train(settings("other", recompute_layers=False))
    for name, value in outcome(one).items():
        torch.testing.assert_close(outcome(other)[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_accumulated_parts_are_the_whole_batch(settings):
    one, parts = train(settings("one")), train(settings("parts", gradient_accumulation_steps=2))
    np.testing.assert_allclose(losses(one), losses(parts), rtol=1e-5)
    for name, value in outcome(one).items():
        torch.testing.assert_close(outcome(parts)[name], value, atol=2e-5, rtol=1e-3, msg=name)


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_the_rest(settings):
    model = Lumina2Transformer2DModel(**DIT, in_channels=3, sample_size=16, cap_feat_dim=16)
    adamw, muon = make_optimizers(model, settings(optimizer="muon"))
    held = [parameter for optimizer in (adamw, muon) for parameter in optimizer.param_groups[0]["params"]]
    assert len(held) == len({id(parameter) for parameter in held}) == len(list(model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    blocks = ("layers.0", "noise_refiner.0", "context_refiner.0")
    parts = [f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    parts += [f"feed_forward.linear_{number}" for number in (1, 2, 3)]
    found = {names[id(parameter)] for parameter in muon.param_groups[0]["params"]}
    assert found == {f"{block}.{part}.weight" for block in blocks for part in parts}
    assert [type(one) for one in make_optimizers(model, settings())] == [torch.optim.AdamW]


def test_a_step_of_muon_orthogonalises_the_update_of_a_matrix(settings):
    model = Lumina2Transformer2DModel(**DIT, in_channels=3, sample_size=16, cap_feat_dim=16)
    _, muon = make_optimizers(model, settings(optimizer="muon", learning_rate=1e-2))
    matrix = model.layers[0].attn.to_q.weight  # (24, 24)
    before = matrix.detach().clone()
    matrix.grad = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    muon.step()
    scales = torch.linalg.svdvals((matrix.detach() - before) / (1e-2 * 0.2 * 24**0.5))  # (24,), near 1 but for noise
    assert scales.min() > 0.3 and scales.max() < 1.4
    assert torch.linalg.svdvals(matrix.grad).max() / torch.linalg.svdvals(matrix.grad).min() > 10


# ------------------------------------------------------------------------------------------------------------ going on


class Killed(TextToImageTrainer):
    """Dies at a step."""

    def train_step(self, step, batches):
        if step == self.dies_at:
            raise KeyboardInterrupt
        return super().train_step(step, batches)


@pytest.mark.parametrize(
    ("dies_at", "streaming", "optimizer", "mode"),
    [
        (2, False, "adamw", "continuous"),
        (4, False, "adamw", "two_step"),
        (4, True, "adamw", "two_step"),
        (4, False, "muon", "two_step"),
        (2, False, "adamw", "per_block"),
        (4, False, "adamw", "signed"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(settings, dies_at, streaming, optimizer, mode):
    changes = {"save_steps": 2, "log_steps": 3, "caption_columns": ["caption", "short"]}
    changes |= {"streaming": streaming, "optimizer": optimizer, "layer_weights": mode, "transformer": TWO_BLOCKS}
    changes["standardize"] = streaming or mode == "per_block"
    whole = train(settings("whole", **changes))
    trainer = Killed(settings("parts", **changes), show_progress=False)
    trainer.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert [path.name for path in Path(trainer.output).glob("checkpoint-*")] == [f"checkpoint-{dies_at}"]
    parts = train(settings("parts", **changes))
    assert losses(whole) == losses(parts)
    assert read_json(whole / "layer_weights.json") == read_json(parts / "layer_weights.json")
    expected, found = outcome(whole), outcome(parts)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not list(parts.glob("checkpoint-*"))


def test_kill_9_loses_nothing_but_the_steps_since_the_last_checkpoint(settings, forked, tmp_path):
    changes = {"max_steps": 12, "save_steps": 1, "freeze_at": "6"}
    whole, killed = train(settings("whole", **changes)), tmp_path / "killed"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(vars(settings("killed", **changes))))
    command = [GRANTED, "train", "text-to-image", "--config", tmp_path / "run.yaml"]
    process = forked(*command, ACCELERATE_USE_CPU="true")
    while not list(killed.glob("checkpoint-[3-9]")):
        assert process.is_alive(), forked.said()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (killed / "pipeline").exists()
    for left_over in (".pipeline.abcdefgh.tmp", "grids/.step_000004.png.abcdefgh.tmp", "embeddings/0/.x.abcdefgh.tmp"):
        (killed / left_over / "half").mkdir(parents=True)
    assert forked.done(*command, ACCELERATE_USE_CPU="true") == 0, forked.said()
    assert losses(whole) == losses(killed)
    expected, found = outcome(whole), outcome(killed)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not [path for path in killed.rglob("*") if path.name.startswith((".", "checkpoint"))]


def test_two_trainings_in_one_folder_are_refused(settings):
    folder = Path(settings().output_dir)
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process holds it until it ends
        with pytest.raises(InputError, match="where another process is training"):
            train(settings(max_steps=1, layer_weights="norm_avg"))
    assert not (folder / "run.json").exists()
    train(settings(max_steps=1, layer_weights="norm_avg"))


def test_processes_that_do_not_know_of_one_another_are_refused(settings, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="got 2 processes that do not know of one another"):
        TextToImageTrainer(settings())


def test_a_finished_run_is_left_alone_and_another_one_is_refused(settings):
    folder = train(settings(max_steps=1, layer_weights="norm_avg"))
    before = (folder / "training_record.json").stat().st_mtime_ns
    assert train(settings(max_steps=1, layer_weights="norm_avg", sample_count=1)) == folder
    assert (folder / "training_record.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="a run with other settings"):
        train(settings(max_steps=2, layer_weights="norm_avg"))


def test_another_feature_of_the_same_encoder_is_another_run(settings, tiny_encoder_folder, tmp_path):
    for index in (0, 1):
        layer = GrantedModel.from_encoder(tiny_encoder_folder, fusion="single", layer_index=index)
        layer.save_pretrained(tmp_path / f"layer{index}")
    changes = {"max_steps": 1, "layer_weights": "as_saved"}
    train(settings(encoder=str(tmp_path / "layer0"), **changes))
    with pytest.raises(InputError, match="a run with other fusion"):
        train(settings(encoder=str(tmp_path / "layer1"), **changes))


def test_the_pipeline_of_a_run_loads_by_itself_and_draws(settings):
    folder = train(settings(max_steps=2, freeze_at="1"))
    pipeline = DiffusionPipeline.from_pretrained(folder / "pipeline", trust_remote_code=True)
    assert type(pipeline).__name__ == GrantedLumina2Pipeline.__name__
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a red cube", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (16, 16)
    record = read_json(folder / "training_record.json")
    assert pipeline.text_encoder.layer_weights.tolist() == record["layer_weights"]
    assert pipeline.text_encoder.config.max_sequence_length == 512  # the encoder's own
    with pytest.warns(UserWarning, match="longer than 32 tokens"):
        assert pipeline.encode_prompt("a red cube " * 20, False)[0].shape == (1, 32, 32)
    with PILImage.open(folder / "grids/step_000002.png") as grid:
        assert grid.size == (2 * 96, 96)
    assert (folder / "grids/prompts.txt").read_text().splitlines() == [
        "a red cube on a table at 0",
        "a blue cube on a table at 1",
    ]


@pytest.mark.parametrize("mode", ["norm_avg", "two_step", "per_block"])
def test_channels_are_standardised_before_anything_is_learned_and_the_pipeline_keeps_it(
    settings, image_file, tiny_encoder_folder, mode
):
    folder = train(settings("run", layer_weights=mode, transformer=TWO_BLOCKS, standardize=True))
    plain = train(settings("plain", layer_weights=mode, transformer=TWO_BLOCKS))
    assert losses(folder) != losses(plain), "the diffusion model has read what it would have read anyway"
    encoder = GrantedModel.from_pretrained(folder / "pipeline/text_encoder")
    assert encoder.config.standardize
    start = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")  # learned weights begin equal
    captions = Dataset.from_parquet(image_file)["caption"][:CALIBRATION]
    start.calibrate(captions, max_sequence_length=32)
    for name in ("mean", "deviation"):
        own, expected = getattr(encoder.standardization, name), getattr(start.standardization, name)
        torch.testing.assert_close(own, expected.expand_as(own), atol=1e-5, rtol=1e-4)  # (D,) or (K, 1, D)
    if mode == "norm_avg":
        tokens = torch.cat(encoder.encode(captions, max_sequence_length=32))  # (sum N_i, D)
        torch.testing.assert_close(tokens.mean(0), torch.zeros(tokens.shape[1]), atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens.std(0, correction=0), torch.ones(tokens.shape[1]), atol=1e-3, rtol=0)


WORKER = """
import json, sys
from granted.tests.test_text_to_image import TextToImageConfig, train
train(TextToImageConfig(**json.loads(sys.argv[1])))
"""


def test_two_processes_train_the_weights_of_one(settings, forked, tmp_path):
    one = train(settings("one", standardize=True))
    forked.both_done(WORKER, json.dumps(vars(settings("two", standardize=True))), ACCELERATE_USE_CPU="true")
    two = tmp_path / "two"
    np.testing.assert_allclose(losses(one), losses(two), rtol=1e-4)
    for name, value in outcome(one).items():
        torch.testing.assert_close(outcome(two)[name], value, atol=1e-4, rtol=1e-3, msg=name)


# ------------------------------------------------------------------------------------------------------ data, settings


def test_latents_are_cached_as_the_pipeline_scales_them(settings, tmp_path):
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    )
    vae.save_pretrained(tmp_path / "vae")
    changes = {"vae": str(tmp_path / "vae"), "transformer": DIT | {"patch_size": 2}, "max_steps": 2, "freeze_at": "1"}
    trainer = TextToImageTrainer(settings("cached", **changes), show_progress=False)
    pixels, _, _ = trainer.images[3]
    trainer.run()
    latents, _, _ = trainer.images[3]
    assert latents.shape == (4, 8, 8)
    expected = (vae.encode(pixels[None]).latent_dist.mode()[0] - 0.1) * 0.5
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-4)
    plain = train(settings("plain", cache=False, **changes))
    np.testing.assert_allclose(losses(trainer.output), losses(plain), rtol=1e-4)


def test_settings_come_from_a_file_and_options_and_nothing_unknown_passes(tmp_path):
    path = tmp_path / "settings.yaml"
    values = {"encoder": "e", "data": "d", "output_dir": "o", "transformer": DIT, "freeze_at": 0.5, "max_steps": 7}
    path.write_text(yaml.safe_dump(values | {"learning_rate": "1e-3", "cache": False}))
    (config,) = read_options({"": TextToImageConfig}, ["--config", str(path), "--max_steps", "9", "--seed=2"], "train")
    assert (config.transformer, config.freeze_at, config.max_steps, config.seed) == (DIT, "0.5", 9, 2)
    assert config.learning_rate == 1e-3 and config.cache is False and config.caption_columns == ["caption"]
    for wrong in (["--resolution", "big"], ["--unknown", "1"], ["--mixed_precision", "fp8"], ["--transformer", "3"]):
        with pytest.raises(InputError, match="expected"):
            read_options({"": TextToImageConfig}, ["--config", str(path), *wrong], "train")
    path.write_text("learning_rates: 3")
    with pytest.raises(InputError, match="got learning_rates in"):
        read_options({"": TextToImageConfig}, ["--config", str(path)], "train")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("t2i_paper", 2610), ("t2i_miniature_32", 4.84), ("t2i_miniature_64", 5.14), ("t2i_gpu_64", 82.9)],
)
def test_the_settings_in_the_repository_are_legal(name, millions):
    path = Path(__file__).parents[1] / "training/configs" / f"{name}.yaml"
    given = ["--config", str(path), "--encoder=e", "--data=d", "--output-dir=o"]
    (config,) = read_options({"": TextToImageConfig}, given, "train")
    with torch.device("meta"):
        model = Lumina2Transformer2DModel(**config.transformer, cap_feat_dim=4096 if name == "t2i_paper" else 192)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3, "gradient_accumulation_steps": 2}, "batch_size=3, expected a multiple of 2"),
        ({"resolution": 18}, "resolution 18, expected a multiple of 4"),
        ({"data": "nowhere.parquet"}, "got nowhere.parquet, which is not a file"),
        ({"caption_columns": ["text"]}, "expected text: set image_column"),
        ({"batch_size": 16}, "got 10 images, expected at least one batch of 16"),
        ({"transformer": DIT | {"cap_feat_dim": 8}}, "cap_feat_dim"),
        ({"transformer": DIT | {"width": 8}}, "width"),
        ({"transformer": DIT | {"axes_lens": [32, 16, 16]}}, "axes_lens"),
        ({"vae": "/nowhere"}, "got vae '/nowhere'"),
        ({"sample_prompts": "/nowhere.txt"}, "got /nowhere.txt, which does not exist"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_and_leaves_no_pipeline(settings, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        train(settings(**changes))
    assert "\n" not in str(caught.value)
    assert not (Path(settings().output_dir) / "pipeline").exists()


def test_muon_is_the_rule_of_pytorch():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in ((48, 48), (48, 48), (96, 32), (16, 64))]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in ours]
    own = Muon(ours, lr=1e-2, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        own.step()
        reference.step()
    for one, other in zip(ours, theirs):
        assert (one - other).norm() < 0.01 * other.norm()  # theirs multiplies in bf16


def test_other_seeds_draw_other_noise(settings):
    one, other = (Draw(settings(seed=seed), 0, 0).noise((4,)) for seed in (0, 1))
    assert not torch.equal(one, other)


def test_gradients_are_clipped_before_a_step(settings):
    norms = []

    class Noting(TextToImageTrainer):
        def train_step(self, step, batches):
            if step == 0:
                optimizer, plain = self.optimizers[0], self.optimizers[0].step

                def noted():
                    norms.append(torch.stack([p.grad.norm() for p in self.parameters]).norm().item())
                    plain()

                optimizer.step = noted
            return super().train_step(step, batches)

    Noting(settings(max_grad_norm=1e-3), show_progress=False).run()
    assert len(norms) == 6 and max(norms) <= 1.001e-3
