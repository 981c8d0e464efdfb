"""Settings hold what their dataclasses declare, or are refused by name."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import pytest

from granted.encoding.loading import EncoderOptions
from granted.eval_metric.generation.settings import SamplingSettings
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.diffusion.text_to_image import TextToImageConfig
from granted.training.diffusion.text_to_video import TextToVideoConfig
from granted.training.diffusion.two_step import freeze_step
from granted.training.flow_matching import Draw
from granted.utils.errors import InputError
from granted.utils.options import read_options
from granted.utils.settings import Count, NonNegative, Positive, Seed, Share, check_settings


@dataclass
class Everything:
    count: Count = 1
    whole: int = 0
    number: float = 0.5
    positive: Positive | None = None
    share: Share = 0.5
    seed: Seed = 0
    on: bool = True
    name: str = ""
    rates: list[NonNegative] = field(default_factory=list)
    options: dict = field(default_factory=dict)
    schedule: Literal["constant", "cosine"] = "constant"


@pytest.mark.parametrize(
    ("name", "legal", "wrong"),
    [
        ("count", [1, 10**30], [0, -1, True, 16.0, 1.5, "16", None, math.inf]),
        ("whole", [-3, 0], [False, 0.0, "0"]),
        ("number", [-1, 2, 0.5, 10**400], [math.nan, math.inf, -math.inf, True, "0.5", None]),
        ("positive", [None, 1, 1e-9], [0, -1.0, math.nan, math.inf, True]),
        ("share", [0, 0.99], [1, -0.1, math.nan, False]),
        ("seed", [0, 20251126, 2**32 - 1], [-1, 2**32, 1.0, True]),
        ("on", [True, False], [1, 0, "false", "no", None]),
        ("name", ["", "true"], [None, 3, True, ["a"]]),
        ("rates", [[], [0, 1e-3]], [1e-3, "1e-3", [-1.0], [math.nan], [True], (1.0,), None]),
        ("options", [{}, {"a": 1}], [None, [], "a", 3]),
        ("schedule", ["cosine"], ["linear", "Cosine", None, True]),
    ],
)
def test_a_value_is_of_its_declared_type_and_in_bounds_or_refused_by_name(name, legal, wrong):
    for value in legal:
        check_settings(Everything(**{name: value}))
    for value in wrong:
        with pytest.raises(InputError, match=f"^got {name}=.*, expected ") as caught:
            check_settings(Everything(**{name: value}))
        assert "\n" not in str(caught.value)
        check_settings(Everything(**{name: value}), names=[one.name for one in fields(Everything) if one.name != name])


GIVEN = {"encoder": "e", "data": "d", "output_dir": "o"}


@pytest.mark.parametrize(
    ("kind", "given", "wrong"),
    [
        (EncoderOptions, {}, {"trust_remote_code": "false", "revision": 3}),
        (SamplingSettings, {}, {"steps": True, "batch_size": 2.0, "guidance": math.nan, "fps": math.inf, "seed": 0.5}),
        (
            AggregatorTrainingConfig,
            {},
            {"features": "last", "learning_rates": 1e-3, "epochs": True, "held_out": 1.5, "weight_decay": math.inf},
        ),
        (
            TextToImageConfig,
            GIVEN,
            {"resolution": True, "caption_columns": "caption", "layer_weights_learning_rate": -1.0, "cache": "no"}
            | {"data_workers": -1, "guidance_scale": -1.0, "seed": 2**32, "freeze_at": "soon", "trust_remote_code": 1},
        ),
        (TextToVideoConfig, GIVEN | {"image_data": "i"}, {"num_frames": 0, "image_steps": 7.0, "height": None}),
    ],
)
def test_all_settings_are_checked_before_anything_is_loaded(kind, given, wrong):
    kind(**given)
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"^got {name}="):
            kind(**given | {name: value})


PAPER = {"resolution": 256, "batch_size": 512, "max_steps": 144_000, "guidance_scale": 4}
PAPER_VIDEO = {"batch_size": 128, "image_batch_size": 512, "image_steps": 7, "max_steps": 20_000, "guidance_scale": 5}


@pytest.mark.parametrize(
    ("kind", "name", "expected", "frozen_at"),
    [(TextToImageConfig, "t2i_paper", PAPER, 96_000), (TextToVideoConfig, "t2v_paper", PAPER_VIDEO, 12_000)],
)
def test_the_papers_settings_are_the_papers_as_defaults_and_as_a_file(kind, name, expected, frozen_at):
    given = GIVEN | ({"image_data": "i"} if kind is TextToVideoConfig else {})
    path = Path(__file__).parents[1] / "training/configs" / f"{name}.yaml"
    words = ["--config", str(path), *(f"--{name}={value}" for name, value in given.items())]
    (from_file,) = read_options({"": kind}, words, "train")
    for config in (kind(**given), from_file):
        assert {name: getattr(config, name) for name in expected} == expected
        assert (config.learning_rate, config.num_inference_steps) == (1e-4, 50)
        assert freeze_step(config.freeze_at, config.max_steps) == frozen_at
        assert config.layer_weights == "two_step" and config.schedule == config.layer_weights_schedule == "constant"
    assert from_file.ema_decay == (0 if kind is TextToVideoConfig else 0.9999)
    assert str(from_file.template).endswith("<Prompt Start> {prompt}") == (kind is TextToImageConfig)


def test_every_legal_seed_draws():
    noises = [Draw(TextToImageConfig(**GIVEN, seed=seed), 143_999, 511).noise((2,)) for seed in (20251126, 2**32 - 1)]
    assert not noises[0].equal(noises[1])
