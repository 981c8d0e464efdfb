"""The drawing probe: its images survive its latent space, an arm draws and is scored, and goes on where it stopped."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from filelock import FileLock

from granted.dataset_builders.scenes.shapes.drawing import render_image
from granted.dataset_builders.scenes.shapes.varied_scenes import single_figures
from granted.encoding.options import EncoderOptions
from granted.eval_metric.drawing.arm import compare, largest_figure, to_tensor
from granted.eval_metric.drawing.codec import CHANNELS, CellCodec
from granted.eval_metric.drawing.evaluation import SIDE, evaluate
from granted.eval_metric.drawing.results import seed_differences, standardizing_effect
from granted.eval_metric.drawing.scenes import WORDINGS, scored_prompts, training_rows
from granted.eval_metric.drawing.settings import VERSION, DrawingSettings
from granted.eval_metric.overview.collection import collect
from granted.eval_metric.overview.results_files import check_rows
from granted.training.diffusion.conditioning import Conditioning
from granted.utils.errors import InputError


OPTIONS = EncoderOptions(dtype="float32", device="cpu")


def test_images_come_back_from_the_latent_space_to_the_pixel():
    images = torch.stack([to_tensor(render_image(one, SIDE)) for one in single_figures(held_out=False)[::2]])
    codec = CellCodec.of(images)
    unseen = torch.stack([to_tensor(render_image(one, SIDE)) for one in single_figures(held_out=True)[:20]])
    latents = codec.encode(unseen)
    assert latents.shape == (20, CHANNELS, 3, 3)
    assert (codec.decode(latents) - unseen).abs().max() < 2 / 127.5  # two grey levels


def test_a_figure_is_right_by_shape_colour_and_place():
    one, *others = single_figures(held_out=False)
    image = render_image(one, SIDE)
    assert set(compare(one, largest_figure(image)).values()) == {1.0}
    moved = next(other for other in others if other.figures[0].cell != one.figures[0].cell)
    elsewhere = replace(one, figures=(replace(one.figures[0], cell=moved.figures[0].cell),))
    scores = compare(elsewhere, largest_figure(image))
    assert scores["look"] == 1 and scores["position"] == 0 and scores["figure"] == 0
    assert scores["all"] == pytest.approx(2 / 3)


def test_no_test_prompt_is_about_a_figure_of_training():
    trained = {row["drawing"] for row in training_rows(300, seed=0, size=SIDE)}
    prompts = scored_prompts(10, seed=0)
    assert not trained & {prompt.drawing.to_json() for prompt in prompts}
    assert [prompt.wording for prompt in prompts] == [wording for wording in WORDINGS for _ in range(10)]


def test_more_prompts_than_there_are_drawings_are_refused():
    with pytest.raises(InputError, match="ask for fewer"):
        scored_prompts(1000, seed=0)


def test_seeds_say_what_two_arms_differ_by():
    def row(encoder, feature, by_seed):
        accuracy = sum(by_seed) / len(by_seed)
        own = {"encoder": encoder, "feature": feature, "accuracy": accuracy, "by_seed": by_seed, "seeds": len(by_seed)}
        return own | {"wording": "seen", "property": "look"}

    rows = [
        row("a", "norm_avg", [0.9, 0.7, 0.8]),
        row("a", "last", [0.5, 0.4, 0.6]),
        row("a", "layer_0", [0.9]),  # one seed says nothing
        row("b", "norm_avg", [0.3, 0.3, 0.3]),  # of another feature than a's last
        row("c", "last", [0.2, 0.2]),
    ]
    found = {(*one["a"], *one["b"]): one for one in seed_differences(rows)}
    assert set(found) == {
        ("a", "norm_avg", "a", "last"),
        ("a", "norm_avg", "b", "norm_avg"),
        ("a", "last", "c", "last"),
    }
    # Variances of 0.01 each: a standard error of sqrt(0.02 / 3) and four degrees of freedom; then two, of 0.01 and 0.
    for arms, difference, error, quantile in (
        (("a", "norm_avg", "a", "last"), 0.3, math.sqrt(0.02 / 3), 2.7764),
        (("a", "norm_avg", "b", "norm_avg"), 0.5, math.sqrt(0.01 / 3), 4.3027),
    ):
        one = found[arms]
        assert one["difference"] == pytest.approx(difference)
        ends = [difference - quantile * error, difference + quantile * error]
        assert one["ci95"] == pytest.approx([max(-1, ends[0]), min(1, ends[1])], abs=2e-4)
    wide = [row("a", "norm_avg", [1.0, 0.4]), row("a", "last", [0.0, 0.1])]
    (one,) = seed_differences(wide)
    assert one["ci95"] == [-1, 1] and 0 < one["p"] < 1, "no two shares differ by more"
    check_rows({"instrument": "drawing", "version": VERSION, "rows": [], "differences": [*found.values(), one]})


def test_the_worth_of_standardised_channels_is_a_mean_over_features_with_an_interval_over_seeds():
    def row(feature, by_seed):
        own = {"encoder": "a", "feature": feature, "wording": "seen", "property": "look", "seeds": len(by_seed)}
        return own | {"accuracy": sum(by_seed) / len(by_seed), "by_seed": by_seed}

    one = [row("last", [0.9, 0.7, 0.8]), row("last, raw", [0.5, 0.4, 0.6])]
    alone = [row("layer_0", [0.9, 0.8]), row("norm_avg", [0.9]), row("norm_avg, raw", [0.1])]  # not both with seeds
    (found,) = standardizing_effect(one + alone)
    (welch,) = [other for other in seed_differences(one) if other["a"][1] == "last"]
    assert found["features"] == 1 and (found["difference"], found["ci95"]) == (welch["difference"], welch["ci95"])
    # Four variances of 0.01, each of three seeds: eight degrees of freedom, and half the error of the sum.
    (found,) = standardizing_effect([*one, row("avg", [0.3, 0.4, 0.5]), row("avg, raw", [0.2, 0.3, 0.4])])
    half = 2.3060 * math.sqrt(4 * 0.01 / 3) / 2
    assert found["difference"] == pytest.approx(0.2)
    assert found["ci95"] == pytest.approx([0.2 - half, 0.2 + half], abs=2e-4)
    assert standardizing_effect(alone) == []
    assert standardizing_effect([row("last", [0.7] * 3), row("last, raw", [0.1] * 3)]) == []  # no seed changes it


def test_arms_are_drawn_scored_and_not_made_again(tiny_bert_folder, tmp_path):
    settings = DrawingSettings(
        encoders=[f"tiny={tiny_bert_folder}"],
        features=["norm_avg"],
        output=tmp_path,
        images=12,
        prompts=1,
        steps=2,
        batch_size=4,
    )
    rows = evaluate(settings, OPTIONS)
    assert {(row["encoder"], row["wording"]) for row in rows} == {
        (encoder, wording)
        for encoder in ("tiny", "tiny, random weights", "tiny, words with positions", "the scene itself")
        for wording in WORDINGS
    }
    scores = {path: path.stat().st_mtime_ns for path in tmp_path.glob("drawing_runs/*/scores.json")}
    assert len(scores) == 4 and all(len(list((path.parent / "images").iterdir())) == 4 for path in scores)
    assert evaluate(settings, OPTIONS) == rows
    assert all(path.stat().st_mtime_ns == written for path, written in scores.items())
    assert json.loads((tmp_path / "drawing.json").read_text())["rows"] == rows
    for mode in ("two_step", "continuous", "per_block", "signed"):
        learning = replace(settings, features=["learned"], layer_weights=mode, controls=[], steps=2)
        rows = evaluate(learning, OPTIONS)
        assert ("tiny", f"learned_{mode}") in {(row["encoder"], row["feature"]) for row in rows}
        scores = json.loads((tmp_path / f"drawing_runs/tiny__learned_{mode}__seed0/scores.json").read_text())
        weights = np.array(scores["layer_weights"])
        assert np.abs(weights - 1 / weights.shape[-1]).max() > 5e-5, "the weights have moved"
    with pytest.raises(InputError, match="an arm with other settings"):
        evaluate(replace(learning, layer_weights_learning_rate=0.5), OPTIONS)
    held = replace(settings, seeds=[2], controls=[])
    folder = tmp_path / "drawing_runs/tiny__norm_avg__seed2"
    folder.mkdir()
    with FileLock(folder / ".lock"):  # as another process that trains this arm
        evaluate(held, OPTIONS)
        assert not (folder / "scores.json").exists()
    with pytest.raises(InputError, match="run with other"):
        evaluate(replace(settings, steps=3), OPTIONS)
    more = {row["encoder"]: row["seeds"] for row in evaluate(replace(settings, seeds=[1], controls=[]), OPTIONS)}
    assert more.pop("tiny") == 2 and set(more.values()) == {1}, "a later command adds a seed"
    evaluate(replace(settings, features=["last"], seeds=[0, 1], controls=[]), OPTIONS)
    found, apart = collect(tmp_path)
    assert [one.path for one in found] == ["drawing.json"] and not apart, "a report takes what is written"


def test_what_is_right_on_the_way_is_logged_and_drawn_over_steps(tiny_bert_folder, tmp_path):
    encoders = [f"tiny={tiny_bert_folder}"]
    settings = DrawingSettings(encoders, ["last"], tmp_path, controls=[], images=12, prompts=1, steps=12, batch_size=4)
    evaluate(settings, OPTIONS)
    (arm,) = json.loads((tmp_path / "drawing.json").read_text())["arms"]
    assert [entry["step"] for entry in arm["log"] if "look" in entry and "position" in entry] == [10]
    with PIL.Image.open(tmp_path / "drawing_steps.png") as image:
        assert image.width > image.height > 100


def test_all_layers_of_a_caption_are_read_once_while_weights_are_learned(tiny_bert_folder, tmp_path, monkeypatch):
    read: list[tuple[str, str]] = []
    encode, forward = Conditioning._encode_many, Conditioning._encode

    def noted(conditioning, encoder, texts):
        read.extend((encoder.config.fusion, text) for text in texts)
        return encode(conditioning, encoder, texts)

    monkeypatch.setattr(Conditioning, "_encode_many", noted)
    monkeypatch.setattr(Conditioning, "_encode", lambda *call: pytest.fail("the trunk runs within a step"))
    size = {"controls": [], "images": 12, "prompts": 1, "steps": 3, "batch_size": 4}
    encoders = [f"tiny={tiny_bert_folder}"]
    both = DrawingSettings(encoders, ["learned"], tmp_path / "both", seeds=[0, 1], **size)
    evaluate(both, OPTIONS)
    layers = [text for fusion, text in read if fusion == "stack"]
    assert len(layers) == len(set(layers)) > 8
    monkeypatch.setattr(Conditioning, "_encode", forward)
    monkeypatch.setattr(Conditioning, "store_layers", lambda *call: None)
    evaluate(replace(both, output=tmp_path / "plain"), OPTIONS)
    one, other = (
        json.loads((tmp_path / name / "drawing_runs/tiny__learned_two_step__seed1/scores.json").read_text())
        for name in ("both", "plain")
    )
    assert (one["layer_weights"], one["items"]) == (other["layer_weights"], other["items"])


def test_captions_are_encoded_once_for_all_seeds_and_the_outcome_is_that_of_each_alone(
    tiny_bert_folder, tmp_path, monkeypatch
):
    encoded: list[str] = []
    encode = Conditioning._encode_many

    def noted(conditioning, encoder, texts):
        encoded.extend(texts)
        return encode(conditioning, encoder, texts)

    monkeypatch.setattr(Conditioning, "_encode_many", noted)
    size = {"controls": [], "images": 12, "prompts": 1, "steps": 3, "batch_size": 4}
    both = DrawingSettings([f"tiny={tiny_bert_folder}"], ["last"], tmp_path / "both", seeds=[0, 1], **size)
    evaluate(both, OPTIONS)
    assert len(encoded) == len(set(encoded)) > 12
    runs = tmp_path / "both/drawing_runs"
    folders = sorted(path.name for path in runs.iterdir())
    assert folders == ["embeddings", "tiny__last__seed0", "tiny__last__seed1"]
    assert not list((runs / "embeddings").iterdir()), "hundreds of megabytes stay behind"
    held = runs / "embeddings/tiny__last__0"
    (held / "of another process").mkdir(parents=True)
    (runs / "embeddings/tiny__last__1/of one that was killed").mkdir(parents=True)
    more = replace(both, seeds=[2, 3])
    with FileLock(held / ".lock"):
        evaluate(more, OPTIONS)
    assert [path.name for path in (runs / "embeddings").iterdir()] == ["tiny__last__0"]
    assert (held / "of another process").exists(), "what another process reads is removed under it"
    shutil.rmtree(runs / "embeddings")
    evaluate(replace(both, output=tmp_path / "one", seeds=[1]), OPTIONS)
    one, other = (
        json.loads((tmp_path / name / "drawing_runs/tiny__last__seed1/scores.json").read_text())
        for name in ("both", "one")
    )
    assert (one["items"], one["log"]) == (other["items"], other["log"])
