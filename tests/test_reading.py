"""The reading instrument: what a reader is asked, its controls, its scores and thresholds, going on after a stop."""

import csv
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from granted.dataset_builders.scenes.shapes.varied_captions import Fact
from granted.encoding.controls import random_weights, words_alone
from granted.encoding.features import feature_encoder
from granted.encoding.loading import load_encoder
from granted.encoding.options import EncoderOptions
from granted.encoding.token_features import TokenFeatures, encode_features
from granted.eval_metric.reading import threshold
from granted.eval_metric.reading.ceiling import scene_features
from granted.eval_metric.reading.evaluation import evaluate
from granted.eval_metric.reading.examples import AXES, Texts, ladder_texts, reading_texts
from granted.eval_metric.reading.reader import Reader, reading_loss, right_answers
from granted.eval_metric.reading.results import Arm, Run, differences, marks, thresholds
from granted.eval_metric.reading.settings import ReadingSettings
from granted.eval_metric.reading.sheet import CLASSES, PROPERTIES, QUERIES, UNTOLD, answer_sheet, guess_rate, nothing
from granted.eval_metric.reading.threshold import fit_threshold
from granted.eval_metric.reading.training import train_reader
from granted.utils.errors import InputError


OPTIONS = EncoderOptions(dtype="float32", device="cpu")


@pytest.fixture
def settings(tiny_bert_folder, tmp_path):
    return ReadingSettings(
        encoders=[f"tiny={tiny_bert_folder}"],
        output=tmp_path / "out",
        training_texts=40,
        test_scenes=6,
        steps=3,
        batch_size=8,
    )


def test_a_sheet_asks_what_a_text_tells_and_nothing_else():
    facts = (Fact((2, 0), "shape", "star"), Fact((2, 0), "colour", "red"), Fact(None, "background", "navy"))
    sheet = answer_sheet(facts)
    assert sheet.kind == "places" and sheet.labels.shape == (10, len(PROPERTIES))
    told = {(QUERIES["places"].index((2, 0)), PROPERTIES.index("shape")): CLASSES["shape"].index("star")}
    told[QUERIES["places"].index((2, 0)), PROPERTIES.index("colour")] = CLASSES["colour"].index("red")
    told[9, PROPERTIES.index("background")] = CLASSES["background"].index("navy")
    # Of the other cells that nothing stands there; of this one's size, texture and motion nothing is asked.
    empty = {(cell, PROPERTIES.index(name)): nothing(name) for cell in range(9) for name in ("shape", "colour")}
    assert {
        tuple(place): int(sheet.labels[tuple(place)]) for place in (sheet.labels != UNTOLD).nonzero().tolist()
    } == empty | told
    without_colour = answer_sheet(facts[:1]).labels[QUERIES["places"].index((2, 0))]  # (P,)
    assert without_colour[PROPERTIES.index("colour")] == UNTOLD, "what is not told of a figure is not asked"
    assert answer_sheet((Fact("star", "count", 3),)).kind == "groups"
    assert guess_rate(facts[0]) == 1 / 9 and guess_rate(facts[2]) == 1 / 5


def test_uniform_answers_lose_the_logarithm_of_the_number_of_classes():
    answers = {name: torch.zeros(2, 10, nothing(name) + 1) for name in PROPERTIES}
    labels = torch.full((2, 10, len(PROPERTIES)), UNTOLD)
    labels[0, 3, PROPERTIES.index("shape")] = 4
    labels[1, 9, PROPERTIES.index("background")] = 0
    assert reading_loss(answers, labels).item() == pytest.approx((np.log(10) + np.log(6)) / 2, rel=1e-6)
    assert right_answers(answers, labels).sum() == 1  # the first class is chosen everywhere


def test_that_there_is_nothing_is_never_an_answer():
    answers = {name: torch.zeros(1, 10, nothing(name) + 1) for name in PROPERTIES}
    for logits in answers.values():
        logits[..., -1], logits[..., 2] = 9.0, 1.0
    labels = torch.full((1, 10, len(PROPERTIES)), UNTOLD)
    labels[0, 0] = 2
    assert right_answers(answers, labels)[0, 0].all()


def test_the_scene_itself_is_read_without_fault_and_shuffled_labels_at_chance():
    texts = reading_texts(training=600, test=40, seed=0)
    settings = ReadingSettings(encoders=["x"], steps=350, batch_size=32, learning_rate=3e-3)
    examples = [*texts.training, *texts.test]
    right = [mark for row in train_reader(scene_features(examples), texts, 0, settings, "").right for mark in row]
    assert np.mean(right) > 0.95
    noise = TokenFeatures(
        [torch.randn(4, 16, generator=torch.Generator().manual_seed(i)) for i in range(len(examples))]
    )
    marks_of_noise = zip(train_reader(noise, texts, 0, replace(settings, steps=60), "").right, texts.test)
    pairs = [(mark, guess_rate(fact)) for row, one in marks_of_noise for mark, fact in zip(row, one.facts)]
    assert np.mean([mark for mark, _ in pairs]) < np.mean([guess for _, guess in pairs]) + 0.12


def test_texts_of_the_test_share_no_scene_and_no_text_with_training():
    texts = reading_texts(training=300, test=40, seed=0)
    assert not {one.text for one in texts.training} & {one.text for one in texts.test}
    assert {one.wording for one in texts.training} == {"seen"}
    by_scene = {one.scene: {other.wording for other in texts.test if other.scene == one.scene} for one in texts.test}
    assert all({"seen", "form", "word", "both"} <= wordings for wordings in by_scene.values())


def test_a_ladder_has_as_many_texts_of_every_rung_and_tells_as_many_facts_as_it_says():
    test = ladder_texts(training=16, test=5, seed=0).test
    counts = Counter((one.axis, one.rung) for one in test)
    assert counts == {(axis, rung): 5 for axis, rungs in AXES.items() for rung in rungs}
    assert all(len(one.facts) == one.rung for one in test if one.axis == "facts")
    for one in test:
        if one.axis == "distance":
            between = one.text.split(".", 1)[1].rsplit("The ", 1)[0]
            assert len(between.split()) >= one.rung and {fact.property for fact in one.facts} == {"colour"}
        if one.axis == "distractors":
            shapes = [label for label in one.sheet.labels[:-1, 0].tolist() if label != nothing("shape")]
            assert max(Counter(shapes).values()) == one.rung + 1
            assert [fact.property for fact in one.facts] == ["colour"]


def test_features_are_those_of_the_encoder_whatever_the_batches(tiny_bert_folder):
    _, encoder = load_encoder(f"{tiny_bert_folder}", OPTIONS)
    texts = ["a red cube", "an old man slowly opens the green door , then he walks away", "a bird"]
    found = encode_features(encoder, ["last", "norm_avg"], texts, token_budget=16)
    for feature, features in found.items():
        alone = feature_encoder(encoder, feature).encode(texts)
        for one, other in zip(features.rows, alone):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="got the feature learned, whose layer weights nothing learns here"):
        encode_features(encoder, ["norm_avg", "learned"], texts)
    rows = torch.cat(found["last"].standardized(3).rows)
    torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), atol=1e-5, rtol=0)


def test_controls_know_no_context_and_a_bag_of_words_no_order(tiny_bert_folder):
    _, encoder = load_encoder(f"{tiny_bert_folder}", OPTIONS)
    words, bag = words_alone(encoder), words_alone(encoder, positions=False)
    one, other = (words.encode([text])[0] for text in ("a red cube on a blue sphere", "a red bird on a blue sphere"))
    same = [i for i in range(len(one)) if i != 3]  # all but the word that differs; the first is [CLS]
    torch.testing.assert_close(one[same], other[same])
    assert not torch.allclose(one[3], other[3])
    there, back = (bag.encode([text])[0] for text in ("red cube", "cube red"))
    torch.testing.assert_close(there[1:3], back[1:3].flip(0))
    assert not torch.allclose(words.encode(["red cube"])[0][1], words.encode(["cube red"])[0][2])
    first, again, another = (random_weights(encoder, seed) for seed in (5, 5, 6))
    assert first.fingerprint() == again.fingerprint() != another.fingerprint() != encoder.fingerprint()


def test_a_threshold_is_found_where_the_curve_crosses_and_censored_where_not():
    rungs, rng = [1, 2, 4, 8, 16], np.random.default_rng(0)

    def answers(rates):
        return [(rng.random((1, 400)) < rate).astype(float) for rate in rates]

    scenes = [[str(i) for i in range(400)]] * len(rungs)
    true = [0.1 + 0.85 / (1 + 2 ** (2 * (np.log2(rung) - 2))) for rung in rungs]  # half way at 4 facts
    found = fit_threshold(rungs, answers(true), scenes, guess=0.1)
    assert found.ci95[0] <= 4 <= found.ci95[1] and not found.censored and abs(found.ceiling - 0.95) < 0.06
    assert str(fit_threshold(rungs, answers([0.1] * 5), scenes, guess=0.1)).startswith("<")
    assert str(fit_threshold(rungs, answers([0.97] * 5), scenes, guess=0.1)) == "> 16"


def test_one_command_writes_rows_of_one_schema_and_goes_on_where_it_stopped(settings):
    evaluate("reading", settings, OPTIONS)
    runs = sorted((settings.output / "reading_runs").glob("*.json"))
    written = {path: path.stat().st_mtime_ns for path in runs}
    first = (settings.output / "reading.json").read_bytes()
    content = json.loads(first)
    assert {row["wording"] for row in content["rows"]} >= {"seen", "form", "word", "both"}
    expected = [
        "encoder",
        "feature",
        "instrument",
        "wording",
        "axis",
        "rung",
        "property",
        "accuracy",
        "ci95",
        "n",
        "guess",
        "seeds",
    ]
    assert all(list(row) == expected for row in content["rows"])
    encoders = {row["encoder"] for row in content["rows"]}
    assert encoders == {
        "the scene itself", "tiny", "tiny, random weights", "tiny, words with positions", "tiny, bag of words",
    }  # fmt: skip
    runs[0].unlink()
    evaluate("reading", settings, OPTIONS)
    again = json.loads((settings.output / "reading.json").read_bytes())
    assert again["rows"] == content["rows"], "a run made again gives other scores"
    assert all(path.stat().st_mtime_ns == written[path] for path in runs[1:]), "a finished run was made again"
    assert (settings.output / "reading.md").exists() and (settings.output / "reading.png").exists()


def test_layers_become_curves_by_wording_and_by_property(settings):
    evaluate("reading", replace(settings, features=["all_layers", "cumulative"], controls=[]), OPTIONS)
    rows = json.loads((settings.output / "reading.json").read_bytes())["rows"]
    layers = {row["feature"] for row in rows}
    wordings = {row["wording"] for row in rows}
    for name, scored in (("reading_layers", wordings), ("reading_layers_properties", {"place"})):
        assert (settings.output / f"{name}.png").is_file()
        with open(settings.output / f"{name}.csv", newline="") as file:
            points = list(csv.DictReader(file))
        assert {point["scored"] for point in points} >= scored
        assert len({(point["curve"], point["layer"]) for point in points}) == len(layers)
    own = {row["property"] for row in rows if row["wording"] == "word"} - {"all", "figure"}
    assert {point["scored"] for point in points} == own | {"place"}


def test_a_ladder_is_written_with_thresholds(settings):
    evaluate("ladder", replace(settings, controls=[], features=["last"]), OPTIONS)
    content = json.loads((settings.output / "ladder.json").read_bytes())
    assert [(one["encoder"], one["feature"]) for one in content["thresholds"]] == [("tiny", "last")]
    assert {(row["axis"], row["rung"]) for row in content["rows"]} == {
        (axis, rung) for axis, rungs in AXES.items() for rung in rungs
    }


def test_runs_of_other_settings_are_refused_before_anything_is_read(settings):
    settings = replace(settings, controls=[], features=["last"])
    evaluate("reading", settings, OPTIONS)
    with pytest.raises(InputError, match="other reader"):
        evaluate("reading", replace(settings, steps=4), OPTIONS)
    with pytest.raises(InputError, match="different names"):
        evaluate("reading", replace(settings, encoders=["a=x", "a=y"]), OPTIONS)
    with pytest.raises(InputError, match="each once"):
        evaluate("reading", replace(settings, seeds=[0, 0]), OPTIONS)


def test_figures_are_right_when_all_that_is_told_of_them_is_and_equal_arms_do_not_differ():
    texts = reading_texts(training=1, test=4, seed=0)
    rng = random.Random(0)
    right = [[rng.random() < 0.5 for _ in one.facts] for one in texts.test]
    arm = Arm("a", "last", (Run("a", "last", 0, right, 1.0, {}, {}),))
    values, scenes, _ = marks(arm, texts.test, ("seen", "", 0), "figure")
    expected = []
    for one, row in zip(texts.test, right):
        if one.wording == "seen":
            subjects = dict.fromkeys(fact.subject for fact in one.facts if fact.subject is not None)
            expected += [all(m for m, f in zip(row, one.facts) if f.subject == subject) for subject in subjects]
    assert values.tolist() == [[float(value) for value in expected]] and len(scenes) == len(expected)
    same = differences([arm, replace(arm, encoder="b")], texts.test)
    assert all(one["difference"] == 0 and one["ci95"] == [0, 0] for one in same)


def test_a_reader_does_not_see_padding():
    torch.manual_seed(0)
    reader = Reader(8).eval()
    features, kinds = torch.randn(1, 5, 8), torch.zeros(1, dtype=torch.long)
    padded = torch.cat([features, torch.full((1, 3, 8), 7.0)], 1)
    mask = torch.arange(8).unsqueeze(0) < 5
    alone, beside = reader(features, torch.ones(1, 5, dtype=torch.bool), kinds), reader(padded, mask, kinds)
    for name in CLASSES:
        torch.testing.assert_close(alone[name], beside[name])


def test_a_difference_is_the_first_arm_minus_the_second():
    texts = reading_texts(training=1, test=4, seed=0).test
    good, bad = (
        Arm(name, "last", (Run(name, "last", 0, [[right] * len(one.facts) for one in texts], 1.0, {}, {}),))
        for name, right in (("good", True), ("bad", False))
    )
    assert {(one["a"][0], one["b"][0], one["difference"]) for one in differences([good, bad], texts)} == {
        ("good", "bad", 1.0)
    }


def curve(repeat: int = 1, seed: int = 0, scenes: int = 60):
    """Answers on five rungs, each of a scene `repeat` times, as `fit_threshold` takes them; half way is at 4."""
    rungs, rng = [1, 2, 4, 8, 16], np.random.default_rng(seed)
    rates = [0.1 + 0.85 / (1 + 2 ** (2 * (np.log2(rung) - 2))) for rung in rungs]
    credits = [np.repeat((rng.random((1, scenes)) < rate).astype(float), repeat, axis=1) for rate in rates]
    return rungs, credits, [[f"{i}" for i in range(scenes) for _ in range(repeat)]] * 5, 0.1


def test_facts_of_one_scene_are_drawn_together_and_the_same_each_time():
    alone, eight = fit_threshold(*curve()), fit_threshold(*curve(repeat=8))
    assert eight.facts == pytest.approx(alone.facts, rel=1e-2) and eight.ci95 == pytest.approx(alone.ci95, rel=1e-2)
    assert fit_threshold(*curve()) == alone


def test_the_interval_of_a_threshold_is_as_wide_as_samples_differ(monkeypatch):
    found = fit_threshold(*curve(scenes=300))
    monkeypatch.setattr(threshold, "RESAMPLES", 1)
    others = [fit_threshold(*curve(seed=seed, scenes=300)).facts for seed in range(1, 41)]
    assert np.ptp(np.log(found.ci95)) / 2 == pytest.approx(1.96 * np.std(np.log(others), ddof=1), rel=0.35)


def test_the_guessing_of_a_threshold_is_that_of_its_facts(monkeypatch):
    texts = ladder_texts(training=1, test=60, seed=0).test
    rng = random.Random(0)
    right = [[rng.random() < guess_rate(fact) for fact in one.facts] for one in texts]
    found = thresholds([Arm("a", "last", (Run("a", "last", 0, right, 1.0, {}, {}),))], texts)
    assert found["a", "last"].censored == "<", "who only guesses carries no fact"


@pytest.fixture
def small():
    """Twelve texts of training, two of each wording of the test, their features at random, settings of a reader."""
    texts = reading_texts(training=12, test=2, seed=0)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(6, 8, generator=generator) for _ in [*texts.training, *texts.test]]  # (N, D) each
    return texts, rows, ReadingSettings(encoders=["x"], output=None, steps=60, batch_size=4)


def test_texts_of_the_test_have_no_part_in_standardising(small):
    texts, rows, settings = small
    moved = rows[:12] + [100 * row + 7 for row in rows[12:]]
    one, two = (train_reader(TokenFeatures(own), texts, 0, settings, "") for own in (rows, moved))
    assert one.loss == two.loss and one.learned == two.learned


def test_a_trained_reader_answers_one_text_alike(small):
    texts, rows, settings = small
    twenty = Texts(texts.training, [texts.test[0]] * 20)
    right = train_reader(TokenFeatures(rows[:12] + [rows[12]] * 20), twenty, 0, settings, "").right
    assert all(row == right[0] for row in right)
