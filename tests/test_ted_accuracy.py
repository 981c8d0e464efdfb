"""The `evaluate` metric as a user loads it: offline, from its folder, in batches and in two processes."""

import math
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA


FOLDER = Path(__file__).parents[1] / "eval_metric" / "ted_accuracy"


@pytest.fixture
def metric(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path))


def wilson(k, n, z=1.959963984540054):
    centre, half = (k + z * z / 2) / (n + z * z), z * math.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
    return [centre - half, centre + half]


def test_known_values(metric):
    scores = [[0.9, 0.2, 0.1, 0.3], [0.4, 0.4, 0.1, 0.2], [0.1, 0.5], [0.3, 0.2, 0.2]]
    result = metric.compute(
        predictions=scores,
        references=[0, 0, 1, 1],
        categories=["OCR", "Adverb", "OCR", "Temporal"],
        media=["image", "image", "video", "video"],
    )
    assert (result["accuracy"], result["ties"], result["n"]) == (0.5, 1, 4)
    assert result["accuracy_ci95"] == pytest.approx(wilson(2, 4))
    assert list(result["categories"]) == ["Adverb", "OCR", "Temporal"]
    assert result["categories"]["OCR"] == {"accuracy": 1.0, "ci95": pytest.approx(wilson(2, 2)), "n": 2, "ties": 0}
    assert result["categories"]["Adverb"]["ties"] == 1
    assert result["media"]["video"]["accuracy"] == 0.5


def test_a_tie_among_negatives_only_is_no_tie(metric):
    assert metric.compute(predictions=[[0.9, 0.2, 0.2], [0.1, 0.5, 0.5]], references=[0, 0])["ties"] == 0


def test_float64_scores_are_not_rounded_into_ties(metric):
    assert metric.compute(predictions=[[1.0, 1.0 - 1e-12]], references=[0])["accuracy"] == 1.0


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_indices_and_arrays(metric, form):
    result = metric.compute(predictions=form([0, 3, 1]), references=form([0, 2, 1]))
    assert (result["accuracy"], result["ties"]) == (pytest.approx(2 / 3), 0)
    assert metric.compute(predictions=form([[0.5, 0.1], [0.5, 0.1]]), references=form([0, 1]))["accuracy"] == 0.5


def test_batches_equal_one_call(metric):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 4)), rng.integers(4, size=50)
    whole = metric.compute(predictions=scores, references=labels)
    for start in range(0, 40, 20):
        metric.add_batch(predictions=scores[start : start + 20], references=labels[start : start + 20])
    for i in range(40, 50):
        metric.add(prediction=scores[i], reference=labels[i])
    assert metric.compute() == whole


ERRORS = [
    ({"predictions": [], "references": []}, "got no instances"),
    ({"predictions": [[1.0, 2.0]], "references": [0, 1]}, "got 1 predictions and 2 references"),
    ({"predictions": [[1.0, math.nan]], "references": [0]}, "got score nan at instance 0"),
    ({"predictions": [[1.0, 2.0], [math.inf, 1.0]], "references": [0, 0]}, "got score inf at instance 1"),
    ({"predictions": [[1.0, None]], "references": [0]}, "got score None"),
    ({"predictions": [[1.0]], "references": [0]}, "got 1 scores at instance 0, expected 2 or more"),
    ({"predictions": [[1.0, 2.0]], "references": [2]}, "got label 2 at instance 0 with 2 scores, expected 0 to 1"),
    ({"predictions": [[1.0, 2.0]], "references": [-1]}, "got label -1"),
    ({"predictions": [[1.0, 2.0]], "references": [2**63]}, f"got label {2**63}"),
    ({"predictions": [2**63], "references": [0]}, f"got prediction {2**63}"),
    ({"predictions": [[10**400, 2.0]], "references": [0]}, r"got score 10+\.\.\.0+ at instance 0"),
    ({"predictions": [1.7], "references": [0]}, "got prediction 1.7"),
    ({"predictions": [[1.0, 2.0], 1], "references": [0, 0]}, "mixed"),
    ({"predictions": [[1.0, 2.0]], "references": None}, "missing"),
    ({"predictions": [0], "references": [0], "categories": ["ocr"]}, "Action Recognition.*Temporal"),
    ({"predictions": [0], "references": [0], "media": ["audio"]}, "'audio' in media, expected one of image, video"),
    ({"predictions": [0], "references": [0], "categories": ["OCR", "OCR"]}, "got 2 categories for 1 instances"),
]


@pytest.mark.parametrize("arguments, message", ERRORS)
def test_bad_input_is_one_clear_line_and_leaves_the_metric_usable(metric, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        metric.compute(**arguments)
    assert "\n" not in str(caught.value)
    assert metric.compute(predictions=[1, 0], references=[1, 1])["n"] == 2


def test_scores_and_indices_in_turn_are_one_clear_line_and_what_was_added_stays(metric):
    metric.add_batch(predictions=[[0.9, 0.1]], references=[0])
    with pytest.raises(ValueError, match="scores and indices mixed"):
        metric.add_batch(predictions=[1], references=[1])
    with pytest.raises(ValueError, match="scores and indices mixed"):
        metric.add(prediction=1, reference=1)
    assert metric.compute(predictions=[[0.1, 0.9]], references=[0])["accuracy"] == 0.5


RANK = """
import json, sys, evaluate
rank, folder, cache = int(sys.argv[1]), sys.argv[2], sys.argv[3]
metric = evaluate.load(folder, num_process=2, process_id=rank, experiment_id="two", cache_dir=cache)
metric.add_batch(predictions=[[[0.9, 0.1]] * 3, [[0.1, 0.9, 0.2]] * 2][rank], references=[[0] * 3, [0] * 2][rank])
print(json.dumps(metric.compute(categories=["OCR"] * 3 + ["Adverb"] * 2 if rank == 0 else None)))
"""


def test_two_processes(forked, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    processes = [
        forked(RANK, rank, FOLDER, tmp_path / "cache", **offline, HF_MODULES_CACHE=str(tmp_path / str(rank)))
        for rank in (0, 1)
    ]
    for process in processes:
        process.join(600)
    second, first = sorted((line for line in forked.said().splitlines() if line.startswith(("null", "{"))), key=len)
    assert second == "null"
    assert '"accuracy": 0.6' in first and '"n": 5' in first
    assert '"OCR": {"accuracy": 1.0' in first and '"Adverb": {"accuracy": 0.0' in first


BY_NAME = """
import evaluate, os, sys
os.chdir(sys.argv[1])
print("accuracy", evaluate.load("ted_accuracy").compute(predictions=[0], references=[0])["accuracy"])
"""


def test_loads_by_name_offline(forked, tmp_path):
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path)}
    assert forked.done(BY_NAME, FOLDER.parent, **environment) == 0 and "accuracy 1.0" in forked.said()


def test_names_are_the_benchmarks(metric):
    module = sys.modules[type(metric).__module__]
    assert (tuple(module.CATEGORIES), tuple(module.MEDIA)) == (tuple(CATEGORIES), tuple(MEDIA))
