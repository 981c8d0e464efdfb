"""The layer weights' schedule: what moves, when it stops, and that nothing moves afterwards."""

import json

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from granted.modeling_granted import GrantedModel
from granted.training.diffusion.layer_weights_chart import draw_trajectory
from granted.training.diffusion.two_step import (
    LayerWeightSchedule,
    freeze_step,
    moved,
    set_fusion,
    stopped_falling,
)
from granted.utils.errors import InputError


@pytest.fixture
def encoder(tiny_encoder_folder):
    return GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")


def one_step(schedule: LayerWeightSchedule, step: int) -> bool:
    """A step whose loss asks for more of the last layer; whether it froze the weights."""
    frozen_now = schedule.begin(step)
    if schedule.learning:
        (-schedule.encoder.fusion.layer_weights()[-1]).backward()
    schedule.update(Accelerator())
    schedule.observe(step + 1)
    return frozen_now


def test_two_steps_move_the_layer_weights_alone_and_then_never_again(encoder):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    schedule = LayerWeightSchedule(encoder, mode="two_step", freeze_at="4", total_steps=8, learning_rate=0.1)
    assert encoder.config.fusion == "learned" and torch.equal(encoder.fusion.weights, torch.zeros(4))
    assert [name for name, p in encoder.named_parameters() if p.requires_grad] == ["fusion.weights"]
    assert not any(one_step(schedule, step) for step in range(4))
    learned = encoder.fusion.weights.detach().clone()
    assert (learned != 0).all() and schedule.optimizer is not None

    assert one_step(schedule, 4)
    assert schedule.optimizer is None and encoder.fusion.weights.grad is None
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(one_step(schedule, step) for step in range(5, 8))
    assert torch.equal(encoder.fusion.weights, learned)
    for name, value in before.items():
        assert torch.equal(encoder.state_dict()[name], value), name


def test_the_weights_start_as_norm_avg_and_have_no_weight_decay(encoder):
    schedule = LayerWeightSchedule(encoder, mode="continuous", total_steps=4)
    torch.testing.assert_close(encoder.layer_weights, torch.full((4,), 0.25))
    assert [group["weight_decay"] for group in schedule.optimizer.param_groups] == [0.0]
    with torch.no_grad():
        encoder.fusion.weights.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    kept = encoder.fusion.weights.detach().clone()
    schedule.update(Accelerator())  # without a gradient Adam moves nothing: only decay would
    assert torch.equal(encoder.fusion.weights, kept)


@pytest.mark.parametrize(("mode", "fusion"), [("norm_avg", "norm_avg"), ("as_saved", "single")])
def test_fixed_modes_have_nothing_to_learn(tiny_encoder_folder, mode, fusion):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="single", layer_index=1)
    schedule = LayerWeightSchedule(encoder, mode=mode, total_steps=3)
    assert encoder.config.fusion == encoder.fusion.fusion == fusion
    assert schedule.optimizer is None and schedule.frozen_at == 0
    assert not any(one_step(schedule, step) for step in range(3))


def test_continuous_learning_goes_on_to_the_end(encoder):
    schedule = LayerWeightSchedule(encoder, mode="continuous", total_steps=5, learning_rate=0.1)
    seen = []
    for step in range(5):
        one_step(schedule, step)
        seen.append(encoder.fusion.weights[-1].item())
    assert seen == sorted(set(seen)) and schedule.learning


def test_a_fusion_set_in_place_is_that_of_a_model_built_with_it(encoder, tiny_encoder_folder, sentences):
    set_fusion(encoder, "learned")
    expected = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned").encode(sentences)
    for one, other in zip(encoder.encode(sentences), expected):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_resumed_schedule_goes_on_to_the_bit(tiny_encoder_folder):
    def new():
        encoder = GrantedModel.from_encoder(tiny_encoder_folder)
        return LayerWeightSchedule(
            encoder, mode="two_step", freeze_at="0.75", total_steps=12, learning_rate=0.03, record_steps=1
        )

    whole = new()
    for step in range(12):
        one_step(whole, step)
    for stop in (0, 5, 9, 11):  # before, in and after the joint steps
        parts = new()
        for step in range(stop):
            one_step(parts, step)
        state = json.loads(json.dumps(parts.state()))
        parts = new()
        parts.load_state(state)
        for step in range(stop, 12):
            one_step(parts, step)
        assert torch.equal(parts.encoder.fusion.weights, whole.encoder.fusion.weights), stop
        assert parts.trajectory == whole.trajectory and parts.frozen_at == 9


def test_auto_freezes_when_the_distance_stops_falling(encoder):
    schedule = LayerWeightSchedule(encoder, mode="two_step", freeze_at="auto", total_steps=100, window=1)
    logits = torch.zeros(4)
    distances = [0.1, 0.3, 0.2, 0.1, 0.05, 0.06, 0.055, 0.07, 0.01]
    for step, distance in enumerate([0.0, *distances]):
        logits[3] += distance
        if schedule.begin(step):
            break
        with torch.no_grad():
            encoder.fusion.weights.copy_(logits)
        schedule.observe(step + 1)
    assert step == 9 and schedule.frozen_at == 9  # three windows after the low of the fifth


def test_stopped_falling_in_closed_form():
    assert not stopped_falling([])
    assert not stopped_falling([1, 2, 3, 4, 5])  # still rising: no fall to stop
    assert not stopped_falling([5, 4, 3, 2, 1])
    assert not stopped_falling([5, 1, 2, 2])
    assert stopped_falling([5, 1, 2, 2, 1])
    assert not stopped_falling([5, 1, 2, 2, 0.5])
    assert not stopped_falling([1, 9, 8, 7, 6, 5])  # lower at the very beginning does not count
    assert stopped_falling([3, 3, 3, 3])
    assert moved([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]) == 0.25
    assert moved([1.0, 0.0], [0.0, 1.0]) == 1.0


def test_the_freeze_is_a_step_or_a_fraction_within_the_run():
    assert freeze_step("96000", 144_000) == 96_000
    assert freeze_step("2/3", 144_000) == 96_000
    assert freeze_step("0.6", 20_000) == 12_000
    assert freeze_step("0.5", 3) == 2
    for wrong in ("0", "144000", "-3", "1.5", "3/2", "1/0", "soon", "nan", "inf", "0.000001"):
        with pytest.raises(InputError, match="freeze_at"):
            freeze_step(wrong, 144_000)


def test_an_unknown_mode_is_refused(encoder):
    with pytest.raises(InputError, match="got layer weights 'three_step', expected one of norm_avg"):
        LayerWeightSchedule(encoder, mode="three_step", total_steps=3)


def test_the_trajectory_is_saved_and_drawn(encoder, tmp_path):
    schedule = LayerWeightSchedule(
        encoder, mode="two_step", freeze_at="2", total_steps=4, learning_rate=0.1, record_steps=2
    )
    for step in range(4):
        one_step(schedule, step)
    schedule.save(tmp_path)
    saved = json.loads((tmp_path / "layer_weights.json").read_text())
    assert saved["mode"] == "two_step" and saved["frozen_at"] == 2
    assert [point["step"] for point in saved["trajectory"]] == [0, 2, 4]
    assert saved["trajectory"][0]["weights"] == [0.25] * 4
    assert saved["trajectory"][1]["weights"] == saved["trajectory"][2]["weights"] == encoder.layer_weights.tolist()
    with Image.open(tmp_path / "layer_weights.png") as image:
        assert image.format == "PNG" and min(image.size) > 300


def test_one_layer_and_one_point_can_be_drawn(tmp_path):
    draw_trajectory([(0, [1.0])], tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()


def test_a_resumed_schedule_that_freezes_by_itself_freezes_where_the_whole_one_does(tiny_encoder_folder):
    moves = [0.0, 0.1, 0.3, 0.2, 0.1, 0.05, 0.06, 0.055, 0.07, 0.01, 0.01, 0.01]

    def go_on(state, first, last):
        encoder = GrantedModel.from_encoder(tiny_encoder_folder)
        schedule = LayerWeightSchedule(encoder, mode="two_step", freeze_at="auto", total_steps=100, window=1)
        if state:
            schedule.load_state(state)
        for step in range(first, last):
            if schedule.begin(step):
                break
            encoder.fusion.weights.data.copy_(torch.tensor([0, 0, 0, sum(moves[: step + 1])]))
            schedule.observe(step + 1)
        return schedule

    whole, state = go_on(None, 0, 12), go_on(None, 0, 7).state()
    assert whole.frozen_at == 9 == go_on(json.loads(json.dumps(state)), 7, 12).frozen_at
