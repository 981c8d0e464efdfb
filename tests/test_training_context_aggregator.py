"""Contrastive training: the loss in closed form, which parameters move, and that an interruption changes nothing."""

import fcntl
import json
import math
import signal
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from granted.encoding.features import expand_features, feature_label, new_aggregator
from granted.encoding.token_features import encode_features
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.training.aggregator.contrastive import contrastive_loss
from granted.training.aggregator.training import (
    AggregatorTrainingConfig,
    batch_indices,
    learning_rate_factor,
    pair_texts,
    split_pairs,
    train_context_aggregators,
)
from granted.utils.errors import InputError


COLOURS = ("red", "blue", "green", "yellow", "black")
THINGS = ("cube", "sphere", "table", "door", "dog", "cats", "ball", "river")


def make_pairs(count=40, negatives=0):
    """`count` pairs of which no two texts are equal."""
    rows = []
    for i in range(count):
        colour, thing = COLOURS[i % 5], THINGS[i // 5]
        other = [f"the {COLOURS[(i + n + 1) % 5]} {thing} in the wet street" for n in range(negatives)]
        rows.append({"caption_a": f"a {colour} {thing}", "caption_b": f"the old {thing} is {colour} at night"})
        rows[-1] |= {"negatives": other} if negatives else {}
    return rows


class StopsAt(list):
    """Pairs whose reader is interrupted at the `left`-th read."""

    left = 0

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return GrantedModel.from_encoder(tiny_encoder_folder)


def train(encoder, folder, pairs=None, **settings):
    """Train in fp32 with small batches; the weights of every feature."""
    small = {"batch_size": 4, "max_steps": 3, "mixed_precision": "no", "learning_rates": [1e-3]}
    config = AggregatorTrainingConfig(**(small | settings))
    folders = train_context_aggregators(encoder, pairs or make_pairs(), folder, config, show_progress=False)
    return {name: load_file(path / "model.safetensors") for name, path in folders.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def interrupt(encoder, folder, steps, **settings):
    """Train, and be interrupted after `steps` steps."""
    pairs = StopsAt(make_pairs())
    pairs.left = len(pairs) + 4 * steps
    with pytest.raises(KeyboardInterrupt):
        train(encoder, folder, pairs, **settings)


# ---------------------------------------------------------------------------------------------------------------- loss


def plain_loss(rows, ids, num_pairs, temperature):
    """The loss as its description reads, one candidate at a time."""
    rows = [row / row.norm() for row in rows]  # (D,) each
    total = 0
    for anchor in range(2 * num_pairs):
        partner = (anchor + num_pairs) % (2 * num_pairs)
        no_negative = {ids[anchor].item(), ids[partner].item(), -1}
        candidates = [j for j in range(len(rows)) if j == partner or ids[j].item() not in no_negative]
        logits = torch.stack([rows[anchor] @ rows[j] / temperature for j in candidates])  # (N,)
        total = total + logits.logsumexp(0) - rows[anchor] @ rows[partner] / temperature
    return total / (2 * num_pairs)


@pytest.mark.parametrize(("num_pairs", "negatives"), [(1, 0), (2, 0), (8, 0), (3, 5)])
def test_equal_embeddings_cost_the_logarithm_of_the_number_of_candidates(num_pairs, negatives):
    rows = torch.ones(2 * num_pairs + negatives, 4)
    loss = contrastive_loss(rows, torch.arange(len(rows)), num_pairs)
    assert loss.item() == pytest.approx(math.log(2 * num_pairs - 1 + negatives), abs=1e-6)


def test_a_text_that_occurs_again_is_no_negative_of_itself_nor_of_its_partner():
    rows = torch.ones(6, 4)  # pairs (0, 3), (1, 4), (2, 5)
    loss = contrastive_loss(rows, torch.tensor([7, 7, 2, 3, 4, 5]), 3)
    # Texts 0 and 1 are equal: 0 and 3 leave out 1, 1 and 4 leave out 0, while 2 and 5 keep all.
    assert loss.item() == pytest.approx((4 * math.log(4) + 2 * math.log(5)) / 6, abs=1e-6)


def test_rows_numbered_minus_one_are_left_out():
    rows = torch.randn(8, 4)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, -1, -1])
    assert contrastive_loss(rows, ids, 3).item() == contrastive_loss(rows[:6], ids[:6], 3).item()


def test_a_partner_of_the_same_text_is_still_the_positive():
    assert contrastive_loss(torch.ones(4, 4), torch.tensor([0, 1, 0, 1]), 2).item() == pytest.approx(math.log(3))


def test_loss_and_gradient_are_those_of_a_plain_loop():
    ids = torch.tensor([0, 1, 2, 3, 1, 0, 6, 2, 8, -1, 10])  # 4 pairs and 3 more, with repetitions
    rows = torch.randn(11, 6, requires_grad=True)
    loss = contrastive_loss(rows, ids, 4, temperature=0.2)
    (gradient,) = torch.autograd.grad(loss, rows)  # (11, 6)
    exact = rows.detach().double().requires_grad_()  # (11, 6)
    plain = plain_loss(exact, ids, 4, 0.2)
    (expected,) = torch.autograd.grad(plain, exact)  # (11, 6)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    torch.testing.assert_close(gradient.double(), expected, atol=1e-5, rtol=1e-4)
    assert gradient[9].count_nonzero() == 0


def test_texts_come_as_captions_a_then_b_then_negatives_with_gaps_numbered_minus_one():
    pairs = [
        {"caption_a": "a", "caption_b": "b", "negatives": ["n", "m", "o"]},
        {"caption_a": "c", "caption_b": "a"},
    ]
    texts, ids = pair_texts(pairs, [1, 0], hard_negatives=2)
    assert texts == ["c", "a", "a", "b", "c", "c", "n", "m"]
    assert ids[4:6].tolist() == [-1, -1]
    assert ids[1] == ids[2] and len(set(ids.tolist())) == 6


# ------------------------------------------------------------------------------------------------------------ schedule


def test_the_learning_rate_rises_linearly_and_then_stays_or_falls_as_a_cosine():
    assert [learning_rate_factor(step, 10, "constant", 3) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    expected = [1 / 3, 2 / 3] + [0.5 + 0.5 * math.cos(math.pi * k / 8) for k in range(8)]
    assert [learning_rate_factor(step, 10, "cosine", 2) for step in range(10)] == pytest.approx(expected)


def test_every_pair_comes_once_an_epoch_in_an_order_that_an_interruption_does_not_change():
    whole = list(batch_indices(10, 3, 2, seed=5, first=0))
    assert len(whole) == 6 and all(len(batch) == 3 for batch in whole)
    for epoch in (whole[:3], whole[3:]):
        assert len({i for batch in epoch for i in batch}) == 9
    assert whole[:3] != whole[3:]
    for first in range(7):
        assert list(batch_indices(10, 3, 2, seed=5, first=first)) == whole[first:]
    assert list(batch_indices(10, 3, 2, seed=6, first=0)) != whole


def test_held_out_pairs_are_never_trained_on_and_the_same_for_every_seed():
    config = AggregatorTrainingConfig(held_out=7, seed=1)
    held_out, training = split_pairs(100, config)
    assert len(held_out) == 7 and sorted(held_out + training) == list(range(100))
    assert split_pairs(100, AggregatorTrainingConfig(held_out=7, seed=2)) == (held_out, training)
    assert len(split_pairs(30, config)[0]) == 3  # at most a tenth


# ------------------------------------------------------------------------------------------------------------ features


def test_all_layers_means_every_single_layer_and_no_feature_comes_twice():
    names = ["layer_0", "layer_1", "layer_2", "layer_3"]
    assert expand_features(["layer_1", "all_layers", "last", "last"], 4) == ["layer_1", *names[:1], *names[2:], "last"]


def test_cumulative_means_the_mean_of_ever_more_layers_to_the_bit(encoder):
    assert expand_features(["cumulative"], 4) == [f"norm_avg_first_{count}" for count in (1, 2, 3, 4)]
    texts = ["the dog is red", "a green ball in the wet street"]
    found = encode_features(encoder, expand_features(["norm_avg", "cumulative", "all_layers"], 4), texts)
    for first_4, norm_avg in zip(found["norm_avg_first_4"].rows, found["norm_avg"].rows, strict=True):
        assert torch.equal(first_4, norm_avg)
    layers = [[F.layer_norm(row, row.shape[-1:]) for row in found[f"layer_{i}"].rows] for i in (0, 1)]  # (N, D) each
    for i in range(len(texts)):
        assert torch.equal(found["norm_avg_first_1"].rows[i], layers[0][i])
        torch.testing.assert_close(found["norm_avg_first_2"].rows[i], (layers[0][i] + layers[1][i]) / 2)


def test_an_aggregator_of_the_first_layers_is_loaded_with_them(encoder, tmp_path):
    aggregator = new_aggregator("norm_avg_first_2", encoder, "tiny", "fingerprint", seed=0)
    aggregator.save_pretrained(tmp_path)
    loaded = ContextAggregator.from_pretrained(tmp_path)
    assert loaded.fusion.layer_weights().tolist() == [0.5, 0.5, 0, 0] and loaded.config.layers == [0, 1]


@pytest.mark.parametrize("name", ["layer_4", "layer_-1", "layer_x", "norm_avg_first_0", "norm_avg_first_5", ""])
def test_an_unknown_feature_is_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match="layer_0 to layer_3, all_layers, avg, norm_avg, norm_avg_first_1 to"):
        expand_features([name], 4)


def test_two_files_of_layer_weights_that_would_share_a_folder_are_refused():
    assert feature_label("weights:runs/b-1/model.safetensors") == "frozen_b_1"
    assert feature_label("weights:MyRun.safetensors") == "frozen_myrun"  # a name that results take
    with pytest.raises(InputError, match="frozen_w"):
        expand_features(["weights:a/w.safetensors", "weights:b/w.safetensors"], 4)


def test_layer_weights_of_another_encoder_or_of_no_file_are_refused(encoder, tmp_path):
    save_file({"fusion.weights": torch.zeros(7)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"got 7 layer weights .*expected 4"):
        train(encoder, tmp_path / "out", features=[f"weights:{tmp_path}/w.safetensors"])
    save_file({"fusion.weights": torch.zeros(3, 4)}, tmp_path / "rows.safetensors")
    with pytest.raises(InputError, match=r"layer weights of 3 blocks in .*expected one learned row"):
        train(encoder, tmp_path / "out", features=[f"weights:{tmp_path}/rows.safetensors"])
    signed = tmp_path / "signed"
    signed.mkdir()
    save_file({"fusion.weights": torch.zeros(4)}, signed / "model.safetensors")
    (signed / "config.json").write_text('{"fusion": "signed"}')
    with pytest.raises(InputError, match=r"layer weights of a signed fusion in .*expected one learned row"):
        train(encoder, tmp_path / "out", features=[f"weights:{signed}"])
    for path in (tmp_path / "no", tmp_path):
        with pytest.raises(InputError, match=r"fusion\.weights"):
            train(encoder, tmp_path / "out", features=[f"weights:{path}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", "linear"),
        ("mixed_precision", "fp16"),
        ("tracker", "wandb"),
        ("batch_size", 0),
        ("temperature", float("nan")),
        ("warmup_steps", -1),
        ("held_out", -1),
        ("max_steps", 0),
        ("max_steps", -3),
        ("learning_rates", []),
        ("learning_rates", [1e-3, -1.0]),
        ("learning_rates", [math.inf]),
        ("features", []),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        AggregatorTrainingConfig(**{name: value})


# ------------------------------------------------------------------------------------------------------------ training


def test_all_parameters_of_every_head_move_and_nothing_else(encoder, tmp_path):
    save_file({"fusion.weights": torch.tensor([0.1, -0.2, 0.3, 0.0])}, tmp_path / "found.safetensors")
    frozen = f"weights:{tmp_path}/found.safetensors"
    features = ["last", "norm_avg", "learned", frozen]
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    trained = train(encoder, tmp_path / "out", features=features)
    assert list(trained) == ["last", "norm_avg", "learned", "frozen_found"]
    for feature in features:
        fresh = new_aggregator(feature, encoder, "tiny", "", seed=0).state_dict()
        weights = trained[feature_label(feature)]
        unmoved = {name for name in fresh if torch.equal(fresh[name], weights[name])}
        assert unmoved == ({"fusion.weights"} if feature == frozen else set())
    assert same(before, encoder.state_dict())


@pytest.mark.parametrize("cached", [False, True])
def test_channels_are_standardised_by_the_captions_that_an_aggregator_learns_from(encoder, tmp_path, cached):
    cache = {"feature_cache": str(tmp_path / "features")} if cached else {}
    trained = train(encoder, tmp_path / "out", features=["last", "norm_avg"], standardize=True, **cache)
    pairs = make_pairs()
    _, training = split_pairs(len(pairs), AggregatorTrainingConfig())
    found = encode_features(encoder, ["last", "norm_avg"], [pairs[i]["caption_a"] for i in training])
    for feature, weights in trained.items():
        tokens = torch.cat(found[feature].rows)  # (sum N_i, D)
        torch.testing.assert_close(weights["standardization.mean"], tokens.mean(0))
        torch.testing.assert_close(weights["standardization.deviation"], tokens.std(0, correction=0))
    with pytest.raises(InputError, match="a run with other settings"):
        train(encoder, tmp_path / "out", features=["last"], **cache)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_head_comes_out_the_same_to_the_bit_whatever_is_trained_beside_it(encoder, tmp_path, precision):
    together = train(
        encoder,
        tmp_path / "together",
        features=["last", "learned", "norm_avg"],
        learning_rates=[1e-3, 1e-2],
        mixed_precision=precision,
    )
    for feature in ("learned", "norm_avg"):
        report = json.loads((tmp_path / "together" / feature / "training.json").read_text())
        options = {"learning_rates": [report["learning_rate"]], "mixed_precision": precision}
        alone = train(encoder, tmp_path / "alone", features=[feature], **options)
        assert same(together[feature], alone[feature])


def test_recomputed_and_stored_layers_train_the_same_weights(encoder, tmp_path):
    recomputed = train(encoder, tmp_path / "a", features=["learned"])["learned"]
    stored = train(encoder, tmp_path / "b", features=["learned"], recompute_layers=False)["learned"]
    for name, tensor in recomputed.items():
        torch.testing.assert_close(tensor, stored[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("template", "dropped", "kept"),
    [(None, 0, False), ("A photo of: {prompt} .", 3, False), ("A photo of: {prompt} .", 3, True)],
)
def test_features_from_the_disk_train_the_weights_that_an_encoder_in_the_loop_trains(
    tiny_encoder_folder, tmp_path, template, dropped, kept
):
    """Nor is a text encoded twice, whatever runs follow."""
    options = {"prompt_template": template, "template_drop_tokens": dropped, "template_keep_first": kept}
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, **options)
    settings = {"features": ["last", "norm_avg"], "hard_negatives": True, "max_steps": 6, "batch_size": 2}
    plain = train(encoder, tmp_path / "plain", make_pairs(negatives=2), **settings)
    settings |= {"feature_cache": str(tmp_path / "features")}
    cached = train(encoder, tmp_path / "cached", make_pairs(negatives=2), **settings)
    shards = sorted((tmp_path / "features").rglob("*.safetensors"))
    for name, weights in plain.items():
        torch.testing.assert_close(cached[name], weights, rtol=0, atol=1e-4)  # six steps of 1e-3
    encoder.encoder.forward = None  # from here on the trunk cannot be run
    train(encoder, tmp_path / "more", make_pairs(negatives=2), **settings | {"seed": 1})
    assert shards and sorted((tmp_path / "features").rglob("*.safetensors")) == shards
    with pytest.raises(InputError, match="learned layer weights"):
        AggregatorTrainingConfig(features=["learned"], feature_cache="features")


def test_training_lowers_the_loss_and_writes_what_was_done(encoder, tmp_path):
    settings = {"epochs": 4, "max_steps": None, "learning_rates": [1e-3], "log_steps": 5, "warmup_steps": 2}
    train(encoder, tmp_path, features=["norm_avg"], **settings)
    curve = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [5, 10, 15, 20, 25, 30, 35, 36]
    losses = [next(row[name] for name in row if name.startswith("loss/")) for row in curve]
    assert sum(losses[4:]) < sum(losses[:4])
    report = json.loads((tmp_path / "norm_avg" / "training.json").read_text())
    assert report["pairs"] == {"training": 36, "held_out": 4} and report["steps"] == 36
    aggregator = ContextAggregator.from_pretrained(tmp_path / "norm_avg")
    assert aggregator.config.encoder_fingerprint == encoder.fingerprint()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["norm_avg", "training.jsonl"]


def test_of_several_learning_rates_the_one_with_the_lowest_held_out_loss_is_kept_and_all_are_told(encoder, tmp_path):
    rates = [1e-6, 3e-3]
    both = train(encoder, tmp_path / "both", learning_rates=rates, max_steps=8)["norm_avg"]
    report = json.loads((tmp_path / "both" / "norm_avg" / "training.json").read_text())
    tried = {rate: report["learning_rates_tried"][f"{rate:g}"]["loss"] for rate in rates}
    assert report["learning_rate"] == min(tried, key=tried.get) and tried[1e-6] != tried[3e-3]
    assert report["held_out"]["loss"] == min(tried.values())
    one = train(encoder, tmp_path / "one", learning_rates=[report["learning_rate"]], max_steps=8)["norm_avg"]
    assert same(both, one)
    with pytest.raises(InputError, match="held_out"):
        train(encoder, tmp_path / "none", learning_rates=rates, held_out=0)


def test_held_out_pairs_are_measured_in_fp32_whatever_the_training_runs_in(encoder, tmp_path):
    pairs = make_pairs()
    train(encoder, tmp_path, pairs, mixed_precision="bf16")
    aggregator = ContextAggregator.from_pretrained(tmp_path / "norm_avg")
    held_out, _ = split_pairs(len(pairs), AggregatorTrainingConfig())
    texts, ids = pair_texts(pairs, held_out)
    with torch.no_grad():
        fused = [encoder.encode([text])[0] for text in texts]  # (N_i, D) each: Norm-Avg is where weights begin
        rows = torch.cat([aggregator(one[None]).context_embedding for one in fused])  # (8, context_dim)
    stored = json.loads((tmp_path / "norm_avg" / "training.json").read_text())["held_out"]
    assert stored["loss"] == pytest.approx(contrastive_loss(rows, ids, len(held_out)).item(), abs=1e-5)


@pytest.mark.parametrize("width", [16, 48])
def test_an_aggregator_may_be_of_another_width_than_the_encoder(encoder, tmp_path, width):
    trained = train(encoder, tmp_path, aggregator_width=width)["norm_avg"]
    assert trained["in_proj.weight"].shape == (width, 32) and trained["context_token"].shape == (1, 1, width)
    assert "in_proj.weight" not in train(encoder, tmp_path / "own", aggregator_width=32)["norm_avg"]
    with pytest.raises(InputError, match="got an aggregator of width 24, expected a multiple of 16"):
        train(encoder, tmp_path / "none", aggregator_width=24)


def test_hard_negatives_count_only_where_they_are_asked_for(encoder, tmp_path):
    pairs = make_pairs(negatives=2)
    plain = train(encoder, tmp_path / "plain")["norm_avg"]
    ignored = train(encoder, tmp_path / "ignored", pairs)["norm_avg"]
    used = train(encoder, tmp_path / "used", pairs, hard_negatives=True)["norm_avg"]
    assert same(plain, ignored)
    assert not same(plain, used)
    with pytest.raises(InputError, match="negatives"):
        train(encoder, tmp_path / "none", hard_negatives=True)


def test_too_few_pairs_are_refused(encoder, tmp_path):
    with pytest.raises(InputError, match="got 3 pairs to train on, expected at least one batch of 4"):
        train(encoder, tmp_path, make_pairs(3))
    with pytest.raises(InputError, match="raise batch_size"):
        train(encoder, tmp_path, batch_size=1)
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_ends_the_training_with_its_step(encoder, tmp_path):
    broken = GrantedModel(encoder.config).eval()
    broken.load_state_dict(encoder.state_dict())
    broken._tokenizer = encoder.tokenizer
    with torch.no_grad():
        broken.encoder.embed_tokens.weight[encoder.tokenizer.convert_tokens_to_ids("red")] = math.nan
    with pytest.raises(InputError, match=r"last@.* at step 1, expected a finite loss"):
        train(broken, tmp_path, features=["last"], log_steps=1)


# -------------------------------------------------------------------------------------------------------- interruption


def test_a_finished_run_is_not_repeated(encoder, tmp_path):
    train(encoder, tmp_path)
    file = tmp_path / "norm_avg" / "model.safetensors"
    written = file.stat().st_mtime_ns
    files = sorted(path for path in tmp_path.rglob("*"))
    for left in ("checkpoint-3", ".last.x1y2.tmp"):  # by a kill after the last file
        (tmp_path / left / "half").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    train(encoder, tmp_path)
    assert file.stat().st_mtime_ns == written and sorted(tmp_path.rglob("*")) == files


def test_the_folder_of_another_run_is_refused_and_left_as_it_is(encoder, tmp_path, monkeypatch):
    first = train(encoder, tmp_path)["norm_avg"]
    for change in ({"batch_size": 5}, {"pairs": make_pairs(39)}, {"features": ["last", "norm_avg"]}):
        with pytest.raises(InputError, match=r"other (settings|pairs), .*choose another output folder"):
            train(encoder, tmp_path, **change)
    for name, value in (("max_sequence_length", 64), ("prompt_template", "draw {prompt}")):
        monkeypatch.setattr(encoder.config, name, value)
        with pytest.raises(InputError, match=r"other (max length|prompt template), .*choose another output folder"):
            train(encoder, tmp_path)
        monkeypatch.undo()
    assert same(first, load_file(tmp_path / "norm_avg" / "model.safetensors"))
    assert not (tmp_path / "last").exists()


def test_the_checkpoint_of_another_run_or_number_of_processes_is_refused(encoder, tmp_path):
    interrupt(encoder, tmp_path, steps=2, save_steps=1)
    with pytest.raises(InputError, match="other settings"):
        train(encoder, tmp_path, seed=1)
    state = tmp_path / "checkpoint-2" / "state.json"
    whole = state.read_text()
    state.write_text(json.dumps(json.loads(whole) | {"pairs_per_step": 8}))
    with pytest.raises(InputError, match="8 pairs a step, expected 4"):
        train(encoder, tmp_path)
    (tmp_path / "checkpoint-mine").mkdir()  # is none
    for file, content in (
        ("state.json", "[]"),
        ("state.json", "{"),
        ("state.json", json.dumps(json.loads(whole) | {"step": None})),
        ("heads.safetensors", "cut"),
        ("optimizer.safetensors", "cut"),
    ):
        kept = (tmp_path / "checkpoint-2" / file).read_bytes()
        (tmp_path / "checkpoint-2" / file).write_text(content)
        with pytest.raises(InputError, match="checkpoint-2") as caught:
            train(encoder, tmp_path)
        assert "\n" not in str(caught.value)
        (tmp_path / "checkpoint-2" / file).write_bytes(kept)
    state.write_text(json.dumps(json.loads(whole) | {"seconds": 5000.0}))
    train(encoder, tmp_path)
    assert json.loads((tmp_path / "norm_avg" / "training.json").read_text())["seconds"] >= 5000  # of both parts
    assert (tmp_path / "checkpoint-mine").exists()


def test_a_run_interrupted_again_and_again_gives_the_weights_of_an_uninterrupted_one(encoder, tmp_path):
    settings = {"features": ["learned"], "learning_rates": [1e-3, 1e-2], "max_steps": 6, "schedule": "cosine"}
    whole = train(encoder, tmp_path / "whole", **settings)["learned"]
    for _ in range(2):
        interrupt(encoder, tmp_path / "parts", steps=2, save_steps=1, **settings)
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-4"]
    parts = train(encoder, tmp_path / "parts", **settings)["learned"]
    assert same(whole, parts)
    curves = [(tmp_path / name / "training.jsonl").read_text() for name in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_two_trainings_in_one_folder_are_refused(encoder, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process holds it until it ends
        with pytest.raises(InputError, match="where another process is training"):
            train(encoder, tmp_path)
    train(encoder, tmp_path)


KILLED = """
import sys
from granted.tests.test_training_context_aggregator import GrantedModel, train
train(GrantedModel.from_encoder(sys.argv[1]), sys.argv[2], features=["learned", "last"], epochs=500, max_steps=150,
      save_steps=3)
"""


def test_a_killed_process_loses_nothing_before_its_last_checkpoint(encoder, tiny_encoder_folder, forked, tmp_path):
    folder = tmp_path / "killed"
    process = forked(KILLED, tiny_encoder_folder, folder)
    while not any(folder.glob("checkpoint-*")):
        assert process.is_alive(), f"it ended before its first checkpoint: {forked.said()}"
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "last").exists()
    settings = {"features": ["learned", "last"], "epochs": 500, "max_steps": 150}
    resumed = train(encoder, folder, **settings)
    whole = train(encoder, tmp_path / "whole", **settings)
    assert all(same(resumed[name], whole[name]) for name in whole)


def test_normalised_embeddings_and_the_loss_do_not_depend_on_the_token_budget(encoder, tmp_path):
    wide = train(encoder, tmp_path / "a", features=["norm_avg"])["norm_avg"]
    narrow = train(encoder, tmp_path / "b", features=["norm_avg"], token_budget=16)["norm_avg"]
    for name, tensor in wide.items():
        assert F.mse_loss(tensor, narrow[name]).item() < 1e-6


def test_the_rate_of_a_step_is_the_schedules(encoder, tmp_path):
    options = {"features": ["last"], "max_steps": 1, "schedule": "constant"}
    one, late = (train(encoder, tmp_path / f"{n}", warmup_steps=n, **options)["last"] for n in (0, 10**6))
    assert not all(torch.allclose(one[name], late[name], atol=1e-5) for name in one)


def test_gradients_of_every_aggregator_are_clipped(encoder, tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def noted(optimizer, *args, **kwargs):
        for group in optimizer.param_groups:
            norms.append(torch.stack([p.grad.norm() for p in group["params"]]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    train(encoder, tmp_path, features=["last", "norm_avg"], max_grad_norm=1e-3)
    assert len(norms) >= 6 and max(norms) <= 1.001e-3


def test_the_temperature_is_that_of_the_settings(encoder, tmp_path):
    losses = []
    for temperature in (0.07, 10.0):
        folder = tmp_path / f"{temperature}"
        train(encoder, folder, temperature=temperature, log_steps=1, features=["last"])
        row = json.loads((folder / "training.jsonl").read_text().splitlines()[0])
        losses += [value for name, value in row.items() if name.startswith("loss/")]
    # So hot all 7 candidates (3 others of the batch, in both columns) are as likely.
    assert losses[1] == pytest.approx(math.log(7), abs=0.05) and abs(losses[0] - losses[1]) > 0.05
