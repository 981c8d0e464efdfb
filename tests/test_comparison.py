"""Correlations of instruments: known ones come out, of any kind of results; strangers are refused."""

import json

import numpy as np
import pytest

from granted.dataset_builders.scenes.world import synthetic_ted
from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.eval_metric.comparison import (
    MEASURES,
    Score,
    Scores,
    _markers,
    compare,
    comparison_figure,
    comparison_table,
    correlations,
    leave_out,
    read_scores,
    write_comparison,
)
from granted.eval_metric.results import Result, provenance
from granted.utils.errors import InputError
from granted.utils.figures import save_png


FEATURES = ("last", "penultimate", "norm_avg", "learned")
RECORDS = list(synthetic_ted(60))
BASELINES = baseline_summary(RECORDS)


def make(encoder, feature, quality, pooling="aggregator"):
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
    return Result(encoder, feature, pooling, 0, items, dataset, made, BASELINES)


def ted_folder(folder, qualities, pooling="aggregator"):
    for feature, quality in zip(FEATURES, qualities):
        make("tiny", feature, quality, pooling).save(folder)
    return folder


def scores(name, *values, width=0.0, unit="%"):
    return Scores(
        name,
        unit,
        {f"e{i} · last": Score(value, (value - width / 2, value + width / 2)) for i, value in enumerate(values)},
    )


def rows_file(path, instrument, values, **fields):
    rows = [
        {"encoder": "tiny", "feature": feature, "instrument": instrument, "wording": "word", "property": "all"}
        | {"accuracy": value, "ci95": [value - 0.05, value + 0.05], "n": 10, "seeds": 1}
        | fields
        for feature, value in zip(FEATURES, values)
    ]
    path.write_text(json.dumps({"instrument": instrument, "rows": rows}))
    return path


def test_an_instrument_agrees_with_itself_and_disagrees_with_its_reverse():
    one = scores("one", 0.2, 0.4, 0.6, 0.8)
    same, reverse = compare(one, one), compare(one, scores("reverse", 0.8, 0.6, 0.4, 0.2))
    for measure in ("pearson", "spearman", "kendall"):
        assert getattr(same, measure).value == pytest.approx(1)
        assert getattr(reverse, measure).value == pytest.approx(-1)
        assert getattr(same, measure).ci95 == pytest.approx((1, 1)), "exact scores in a line leave no doubt"


def test_correlations_are_those_of_scipy_over_what_both_have_scored():
    one, other = scores("one", 0.2, 0.4, 0.6, 0.8, 0.9), scores("other", 0.1, 0.5, 0.4, 0.8)
    found = compare(one, other)
    assert found.arms == ["e3 · last", "e2 · last", "e1 · last", "e0 · last"] and found.left_out == ["e4 · last"]
    assert found.pearson.value == pytest.approx(np.corrcoef([0.2, 0.4, 0.6, 0.8], [0.1, 0.5, 0.4, 0.8])[0, 1])
    assert found.spearman.value == pytest.approx(0.8)
    assert found.kendall.value == pytest.approx(2 / 3)


def test_correlations_of_many_draws_at_once_are_those_of_scipy_one_by_one():
    draws = np.random.default_rng(0).integers(6, size=(50, 2, 7)).astype(float)  # (R, 2, A), with many equal scores
    found = correlations(draws)
    for measure, function in MEASURES.items():
        np.testing.assert_allclose(found[measure], [function(*draw).statistic for draw in draws], rtol=0, atol=1e-12)


def test_noisy_scores_and_few_arms_widen_the_interval():
    values = np.linspace(0.2, 0.8, 12)
    exact = compare(scores("one", *values), scores("other", *values**2))
    noisy = compare(scores("one", *values, width=0.4), scores("other", *values**2, width=0.4))
    few = compare(scores("one", *values[::3], width=0.4), scores("other", *values[::3] ** 2, width=0.4))
    widths = [np.ptp(found.pearson.ci95) for found in (exact, noisy, few)]
    assert widths[0] < widths[1] < widths[2]
    assert noisy.pearson.value == exact.pearson.value


def test_constant_scores_have_no_correlation():
    out = compare(scores("one", 0.2, 0.4, 0.6, 0.8, 0.1), scores("other", 0.2, 0.4, 0.6, 0.8, 0.9))
    assert out.without["e4 · last"] == pytest.approx(1) and max(out.without.values()) == out.without["e4 · last"]
    found = compare(scores("one", 0.2, 0.4, 0.6, 0.8), scores("flat", 0.3, 0.3, 0.3, 0.3))
    assert np.isnan(found.pearson.value) and found.pearson.ci95 == (-1, 1)


def test_a_comparison_without_a_correlation_is_written_as_one(tmp_path):
    one = scores("one", 0.1, 0.2, 0.3, 0.4)
    flat, almost = compare(one, scores("flat", *[12] * 4)), compare(one, scores("almost", 9, 12, 12, 12))
    text = write_comparison([flat, almost], tmp_path)
    first, second = json.loads((tmp_path / "comparison.json").read_text())["comparisons"]
    assert first["pearson"] == [None, -1, 1] and first["p_value"] is None and set(first["without"].values()) == {None}
    assert second["pearson"][0] == round(almost.pearson.value, 4) and second["without"]["e0 · last"] is None
    assert "| flat | 4 | none | none | none | none | none |" in text and "nan" not in text


def test_two_results_of_one_name_do_not_take_each_others_place(tmp_path):
    one, other = scores("same", 0.1, 0.2, 0.3, 0.4), scores("same", 0.4, 0.2, 0.3, 0.1)
    with pytest.raises(InputError, match="got two results named same, expected different names: give --names"):
        write_comparison([compare(one, other)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_kind_of_results_is_read(tmp_path):
    ted = ted_folder(tmp_path / "ted", (0.2, 0.4, 0.6, 0.8))
    ted_folder(tmp_path / "ted", (0.1, 0.2, 0.3, 0.4), "mean")
    reading = rows_file(tmp_path / "reading.json", "reading", (0.3, 0.4, 0.5, 0.6))
    ladder = rows_file(tmp_path / "ladder.json", "ladder", (0.3, 0.4, 0.5, 0.6), wording="seen", axis="facts", rung=4)
    found = [{"encoder": "tiny", "feature": feature, "facts": 2.0, "ci95": [1.5, 2.5]} for feature in FEATURES]
    ladder.write_text(json.dumps(json.loads(ladder.read_text()) | {"thresholds": found}))
    assert read_scores(f"{ted}:aggregator").by_arm["tiny · learned"].value == pytest.approx(0.8)
    assert read_scores(f"{ted}:mean").by_arm["tiny · learned"].value == pytest.approx(0.4)
    assert len(read_scores(str(ted)).by_arm) == 8, "both poolings, apart"
    some = read_scores(f"{ted}:aggregator/OCR").by_arm["tiny · learned"].value
    rest = read_scores(f"{ted}:aggregator/without OCR").by_arm["tiny · learned"].value
    ocr = sum(record["category"] == "OCR" for record in RECORDS)
    assert some * ocr + rest * (len(RECORDS) - ocr) == pytest.approx(0.8 * len(RECORDS)), "the two parts are the whole"
    assert read_scores(f"{reading}:word/all", "read").by_arm["tiny · last"] == Score(0.3, (0.25, 0.35))
    assert read_scores(f"{ladder}:facts=4").by_arm["tiny · last"].value == 0.3
    threshold = read_scores(f"{ladder}:threshold")
    assert threshold.unit == "facts" and threshold.by_arm["tiny · last"] == Score(2.0, (1.5, 2.5))


def test_strangers_are_refused(tmp_path):
    reading = rows_file(tmp_path / "reading.json", "reading", (0.3, 0.4, 0.5, 0.6))
    with pytest.raises(InputError, match="expected one of these parts behind the colon: word/all"):
        read_scores(f"{reading}:seen/all")
    with pytest.raises(InputError, match="expected one of these parts behind the colon: word/all"):
        read_scores(f"{reading}:threshold")
    ted = ted_folder(tmp_path / "ted", (0.2, 0.4, 0.6, 0.8))
    for part in ("facts=3", "without OCRs", "Poetry"):
        with pytest.raises(InputError, match=f"got {part} behind the slash, expected one of Action Recognition"):
            read_scores(f"{ted}:aggregator/{part}")
    with pytest.raises(InputError, match="expected a folder or file of results"):
        read_scores(str(tmp_path / "nothing.json:word/all"))
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InputError, match=r"damaged\.json"):
        read_scores(f"{tmp_path / 'damaged.json'}:word/all")
    with pytest.raises(InputError, match="got 3 encoder-feature combinations"):
        compare(scores("one", 0.2, 0.4, 0.6), scores("other", 0.2, 0.4, 0.6))


def test_encoders_are_left_out_by_a_part_of_their_name_and_by_nothing_else():
    names = ("a · last", "a · norm_avg", "a, random weights · last", "b · a")
    one = Scores("one", "%", {name: Score(0.5, (0.5, 0.5)) for name in names})
    assert [list(left.by_arm) for left in leave_out([one, one], ["random weights"])] == [[*names[:2], names[3]]] * 2
    assert [list(left.by_arm) for left in leave_out([one], ["b", "random"])] == [list(names[:2])]
    assert leave_out([one], []) == [one]
    with pytest.raises(InputError, match="got 'norm_avg' to leave out, expected a part of one of a, a, random"):
        leave_out([one], ["norm_avg"])


def test_the_command_compares_several_instruments_with_one(tmp_path, granted):
    drawing = rows_file(tmp_path / "drawing.json", "drawing", (0.2, 0.3, 0.6, 0.8), property="look")
    reading = rows_file(tmp_path / "reading.json", "reading", (0.3, 0.4, 0.5, 0.6))
    ted = ted_folder(tmp_path / "ted", (0.4, 0.2, 0.8, 0.6))
    specs = [f"{drawing}:word/look", f"{reading}:word/all", f"{ted}:aggregator"]
    code, shown, error = granted("compare", *specs, "--names", "drawing,reading,TED", "--output", tmp_path / "out")
    assert code == 0, error
    assert shown.strip() == (tmp_path / "out" / "comparison.md").read_text().strip()
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert [one["other"] for one in stored] == ["reading", "TED"]
    assert stored[0]["spearman"][0] == 1 and len(stored[0]["points"]) == 4
    assert (tmp_path / "out" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    code, _, error = granted("compare", *specs, "--names", "drawing,reading", "--output", tmp_path / "none")
    assert code == 2 and "got 2 names for 3 results" in error and not (tmp_path / "none").exists()


def test_equal_scores_have_one_order_whatever_order_sets_come_in():
    """Intervals are drawn in the order of the arms: an order that changes with the process would change them."""
    names = [f"e{i} · last" for i in (3, 1, 4, 0, 2, 5)]
    tied = {name: Score(0.5 if i % 2 else 0.7, (0.4, 0.8)) for i, name in enumerate(names)}
    found = compare(Scores("a", "%", tied), Scores("b", "%", dict(reversed(tied.items()))))
    assert found.arms == sorted(names, key=lambda name: (-tied[name].value, name))


def test_the_intervals_are_those_of_a_bootstrap_over_arms_and_scores():
    rng = np.random.default_rng(1)
    one = np.linspace(0.2, 0.8, 16)  # (A,)
    other, width = one + rng.normal(0, 0.1, 16), 0.5
    found = compare(scores("one", *one, width=width), scores("other", *other, width=width))
    noisy = np.array([one, other]) + rng.normal(0, width / 2 / 1.96, (4000, 2, 16))  # (R, 2, A)
    draws = [np.corrcoef(row[:, rng.integers(16, size=16)])[0, 1] for row in noisy]
    assert found.pearson.ci95 == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.05)


def test_what_either_has_alone_is_named():
    one, other = scores("one", 0.1, 0.5, 0.4, 0.8), scores("other", 0.2, 0.4, 0.6, 0.8, 0.9)
    assert compare(one, other).left_out == ["e4 · last"] == compare(other, one).left_out


def test_every_encoder_has_a_look_of_its_own_and_its_controls_are_hollow():
    encoders = [f"e{number}" for number in range(20)]
    looks = _markers([f"{one}{more} · last" for one in encoders for more in ("", ", random weights")])
    filled = {(look["color"], look["marker"]) for look in looks.values() if "markerfacecolor" not in look}
    assert len(filled) == 20 and len(looks) == 40
    for one in encoders:
        assert looks[f"{one}, random weights · last"] == looks[f"{one} · last"] | {"markerfacecolor": "none"}


def test_names_stand_for_themselves_in_tables_and_charts(tmp_path):
    found = [compare(scores("a|b $x", 0.1, 0.5, 0.4, 0.8), scores("$_{<b>$", 0.2, 0.4, 0.6, 0.8))]
    lines = comparison_table(found).splitlines()
    assert lines[0].startswith("| against a\\|b \\$x |") and "| \\$_{\\<b\\>\\$ | 4 |" in lines[2]
    save_png(comparison_figure(found), tmp_path / "chart.png")
