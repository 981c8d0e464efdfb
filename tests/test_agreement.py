"""Agreement of two benchmarks: known correlations come out, strangers are refused."""

import pytest

from granted.dataset_builders.scenes.world import synthetic_ted
from granted.eval_metric.agreement import agreement, agreement_chart
from granted.eval_metric.baselines import baseline_summary
from granted.eval_metric.results import Result, provenance
from granted.utils.errors import InputError


FEATURES = ("last", "penultimate", "norm_avg", "learned")
RECORDS = list(synthetic_ted(60))
BASELINES = baseline_summary(RECORDS)


def make(encoder, feature, quality):
    """A result that is right on the first `quality` of the items."""
    items = []
    for i, record in enumerate(RECORDS):
        scores = [0.5] * 4
        scores[record["label"]] = 1.0 if i < quality * len(RECORDS) else 0.0
        items.append(
            {name: record[name] for name in ("id", "caption_id", "media", "category", "label")} | {"scores": scores}
        )
    dataset = {"name": "ted-6k", "config": "synthetic", "fingerprint": "f", "instances": len(RECORDS), "captions": 15}
    made = provenance(device="cpu", dtype="float32", seconds=1.0, tokens=10, encoder_revision="abc")
    return Result(encoder, feature, "aggregator", 0, items, dataset, made, BASELINES)


def results(qualities, encoder="tiny"):
    return [make(encoder, feature, quality=quality) for feature, quality in zip(FEATURES, qualities)]


def test_a_benchmark_agrees_with_itself_and_the_points_are_its_accuracies():
    found = agreement(results((0.2, 0.4, 0.6, 0.8)), results((0.2, 0.4, 0.6, 0.8)))
    assert found.pearson == pytest.approx(1)
    assert found.spearman == pytest.approx(1)
    for expected, (_, x, y) in zip((0.8, 0.6, 0.4, 0.2), found.points):
        assert x == y == pytest.approx(expected)


def test_a_reversed_ranking_disagrees():
    found = agreement(results((0.2, 0.4, 0.6, 0.8)), results((0.8, 0.7, 0.3, 0.1)))
    assert found.spearman == pytest.approx(-1)
    assert found.interval[0] <= found.pearson <= found.interval[1] < 0


def test_only_what_both_have_scored_counts():
    found = agreement([*results((0.2, 0.4, 0.6, 0.8)), make("other", "last", 0.5)], results((0.2, 0.4, 0.6, 0.8)))
    assert len(found.points) == 4
    with pytest.raises(InputError, match="got 1 encoder-feature combinations"):
        agreement(results((0.2, 0.4, 0.6, 0.8)), results((0.2,)))


def test_the_chart_and_the_table_are_written(tmp_path):
    found = agreement(results((0.2, 0.4, 0.6, 0.8)), results((0.4, 0.2, 0.8, 0.6)))
    agreement_chart(found, tmp_path / "agreement.png", "a", "b")
    assert (tmp_path / "agreement.png").read_bytes()[:4] == b"\x89PNG"
    text = found.markdown("real", "synthetic")
    assert text.startswith("| Encoder and feature | real, % | synthetic, % |") and "n = 4" in text


def test_the_command_compares_two_folders(tmp_path, granted):
    for name, qualities in (("real", (0.2, 0.4, 0.6, 0.8)), ("synthetic", (0.4, 0.2, 0.8, 0.6))):
        for result in results(qualities):
            result.save(tmp_path / name)
    code, shown, error = granted(
        "compare", tmp_path / "real", tmp_path / "synthetic", "--names", "a,b", "--output", tmp_path / "out"
    )
    assert code == 0, error
    assert shown.strip() == (tmp_path / "out" / "agreement.md").read_text().strip()
