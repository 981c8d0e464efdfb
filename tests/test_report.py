"""Tables, chart and page made from real results."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from granted.eval_metric.chart import category_chart
from granted.eval_metric.report import HEADER, html_report, markdown_table, table_rows
from granted.eval_metric.seed_groups import between_encoders, compare, group_seeds, within_encoders
from granted.model_cards.figures import ted_section
from granted.tests.ted_results import ATTACK, RECORDS, Page, make, make_records
from granted.utils.errors import InputError


@pytest.fixture(scope="module")
def results():
    return [
        *(make("Big|one", "norm_avg", seed, quality=2.0) for seed in (0, 1, 2)),
        make("Big|one", "last", quality=1.0),
        make("Small $x$", "norm_avg", quality=0.5),
        make("Big|one", "norm_avg", None, quality=0.2, pooling="mean"),
    ]


def test_rows_are_ordered_and_baselines_below(results):
    rows = table_rows(results[::-1])
    assert rows == table_rows(results)
    models, baselines = [r for r in rows if not r.baseline], [r for r in rows if r.baseline]
    assert rows == models + baselines
    assert next((r.encoder, r.feature) for r in models) == ("Big|one", "norm_avg") and len(models) == 3
    assert {r.encoder for r in baselines} == {"Chance", "Word overlap", "TF-IDF cosine", "Big|one"}
    for part in (models, baselines):
        assert [r.accuracy for r in part] == sorted((r.accuracy for r in part), reverse=True)


def test_seeds_are_averaged(results):
    row = table_rows(results)[0]
    accuracies = [result.accuracy for result in results[:3]]
    assert row.accuracy == pytest.approx(np.mean(accuracies)) and row.seeds == 3
    assert row.spread == pytest.approx(max(accuracies) - min(accuracies))
    assert row.low < row.accuracy < row.high
    assert len(row.cells()) == len(HEADER) and row.cells()[4].startswith("3 (")


def test_markdown_keeps_its_columns(results):
    lines = markdown_table(results).splitlines()
    assert len(lines) == 2 + 7
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(HEADER) + 1}
    assert r"Big\|one" in lines[2] and "*25.0*" in lines[-1] + lines[-2] + lines[-3] + lines[-4]


def test_comparisons(results):
    series = group_seeds(results)
    found = compare(series[0], series[-1])
    expected = series[0].estimate.accuracy - series[-1].estimate.accuracy
    assert found.difference.difference == pytest.approx(expected)
    assert found.adjusted_p == found.difference.p_value
    assert [(a.encoder, b.encoder) for a, b in between_encoders(series)] == [("Big|one", "Small $x$")]
    assert {(b.feature, b.pooling) for a, b in within_encoders(series)} == {
        ("last", "aggregator"),
        ("norm_avg", "mean"),
    }


def test_chart_is_a_readable_png(results, tmp_path):
    category_chart(results, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.format == "PNG" and image.width == 1600
        assert image.convert("L").getpixel((2, image.height - 2)) == 255


def test_chart_of_many_series(tmp_path):
    records = make_records(12)
    category_chart([make("One", f"layer_{i}", records=records) for i in range(24)], tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.width == 1600


def write_page(results, records, folder):
    html_report(results, records, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_escapes_and_needs_nothing_else(results, tmp_path):
    text = write_page(results, RECORDS, tmp_path)
    page = Page(text)
    assert "script" not in page.tags and "<script>" not in text
    assert page.text.count(ATTACK + " 1") == 20  # statements of the examples arrive as text
    assert page.tags.count("article") == 20
    assert page.addresses and all(address.startswith("#") for address in page.addresses)
    assert "@import" not in text and not re.search(r"url\((?!#)", text) and "://" not in text
    for heading in ("Accuracy", "What was measured", "By category", "Where shared words mislead", "Provenance"):
        assert heading in page.text
    assert "prefers-color-scheme" in text and page.tags.count("svg") == 1
    assert page.text.count("✓") == 21  # one per example and the explanation


@pytest.mark.parametrize(
    "config, said, title",
    [
        ("synthetic", "are synthetic", "synthetic instances"),
        ("sample", "written by hand", "the TED sample"),
        ("custom", "not the official TED-6K", "TED-style instances"),
        ("official", "60 of the 6,641 instances", "part of TED-6K"),
    ],
)
def test_page_says_which_dataset_it_is(tmp_path, config, said, title):
    text = write_page([make("One", "last", config=config)], RECORDS, tmp_path)
    assert said in text and f"<title>Text encoders on {title}</title>" in text
    assert "badge official" not in text
    assert "nothing to compare it with" in text


def test_bold_is_what_nothing_is_above(results, tmp_path):
    assert write_page([make("Good", "last", quality=9.0)], RECORDS, tmp_path).count("strong") > 1
    lost = write_page([make("Bad", "last", quality=-9.0)], RECORDS, tmp_path)  # all that uses no encoder is better
    assert "strong" not in lost.split("</style>")[1]


def test_notes_of_any_depth_are_lines(tmp_path):
    notes = {"settings": {"features": ["last", "avg"], "held_out": {"loss": 0.5}}, "steps": None}
    text = Page(write_page([make("One", "last", aggregator=notes)], RECORDS, tmp_path)).text
    assert re.search(r"aggregator settings features\s*last, avg\s*aggregator settings held out loss\s*0.5", text)
    assert "{" not in text.split("Provenance")[1] and "aggregator steps" not in text


def test_page_of_mean_pooling_only(tmp_path):
    assert "One · last · mean" in write_page([make("One", "last", None, pooling="mean")], RECORDS, tmp_path)


def test_results_that_cannot_stand_side_by_side(results):
    one = results[0]
    part = dict(one.dataset, instances=999)
    for other, message in [
        (replace(one, dataset=one.dataset | {"fingerprint": "f01"}), "dataset fingerprint 'f00' and 'f01'"),
        (replace(one, dataset=one.dataset | {"config": "official"}), "dataset config"),
        (replace(one, shard="1/2", dataset=part), "merge the shards"),
        (one, "twice with one seed"),
        (replace(one, seed=9, provenance=one.provenance | {"encoder_revision": "def"}), "different encoder_revision"),
        (replace(one, feature="avg", baselines={}, items=[i | {"label": 3} for i in one.items]), "other items"),
    ]:
        with pytest.raises(InputError, match=message):
            table_rows([one, other])
    with pytest.raises(InputError, match="no results"):
        table_rows([])


def read(encoder, length, cut, **origin):
    settings = None if length is None else {"max_length": length}
    return make(encoder, "last", settings=settings, texts_cut=cut, **origin)


def test_encoders_that_read_different_amounts_of_a_text_are_not_ranked(results, tmp_path):
    for side_by_side in (
        [read("A", 77, 12), read("B", 77, 9)],  # one length
        [read("A", 77, 0), read("B", 512, 0)],  # whole texts
        [read("A", None, None), read("B", None, None)],  # of before lengths were noted
    ):
        assert len(table_rows(side_by_side)) == 2 + 3
    short, refusal = read("A", 77, 12), "different amounts of a text: A 77 tokens; {}.*one --max-length"
    for other, told in ((read("B", 512, 0), "B 512 tokens, which is all"), (read("B", None, None), "B an unknown")):
        for rank in (
            table_rows,
            markdown_table,
            group_seeds,
            lambda found: category_chart(found, tmp_path / "chart.png"),
            lambda found: html_report(found, RECORDS, tmp_path / "report.html"),
            lambda found: ted_section(found)["table"],
        ):
            with pytest.raises(InputError, match=refusal.format(told)):
                rank([short, other])
    assert not list(tmp_path.iterdir())


def test_parameters_stand_beside_an_accuracy():
    parameters = {"encoder": 134_515_008, "aggregator": 9_061_888}
    known, unknown, *_ = table_rows([make("A", "last", quality=3.0, parameters=parameters), make("B", "last")])
    assert known.cells()[-1] == "134.5M + 9.1M" and unknown.cells()[-1] == "–"


def test_records_that_were_not_scored_are_refused(results, tmp_path):
    for records in (RECORDS[:-1], [*RECORDS[:-1], RECORDS[0]]):
        with pytest.raises(InputError, match="with other ids"):
            html_report(results, records, tmp_path / "report.html")
    changed = [RECORDS[0] | {"label": 3}, *RECORDS[1:]]
    with pytest.raises(InputError, match="other statements"):
        html_report(results, changed, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
