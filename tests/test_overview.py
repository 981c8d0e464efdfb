"""The page of everything that was measured: what may be ranked is, and what may not is named."""

import csv
import json
import math
import re

import pytest

from granted.eval_metric.comparison import Score, Scores
from granted.eval_metric.overview.collection import collect, ranked
from granted.eval_metric.overview.items import item_table, margin_table
from granted.eval_metric.overview.page import is_floor, write_overview
from granted.eval_metric.published import published_scores
from granted.eval_metric.seed_groups import group_seeds
from granted.tests.ted_results import ARMS, Page, make, make_records, rows_of
from granted.utils.errors import InputError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Drawing, two of reading with other texts, TED twice, and a folder of TED that cannot be ranked."""
    folder = tmp_path_factory.mktemp("results")
    for name, content in (
        ("drawing/drawing.json", rows_of("drawing", (0.4, 0.6, 0.5, 0.9, 0.1), ["look"])),
        ("reading/reading.json", rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2), ["all", "figure"])),
        ("small/reading.json", rows_of("reading", (0.9, 0.8), ["all", "figure"], ARMS[:2])),
        ("other.json", {"kind": "something else"}),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for encoder, quality in (("tiny", 0.2), ("large", 3.0)):
        for feature in ("last", "norm_avg"):
            make(encoder, feature, quality=quality).save(folder / "ted")
    make("tiny", "last").save(folder / "mixed")
    make("tiny", "norm_avg", records=make_records(30)).save(folder / "mixed")
    return folder


@pytest.fixture(scope="module")
def report(results, tmp_path_factory):
    """The folder that `granted report` writes of them."""
    folder = tmp_path_factory.mktemp("report")
    write_overview(results, folder)
    return folder


def test_each_evaluation_is_ranked_by_itself_and_what_cannot_be_is_named(results):
    evaluations, apart = collect(results)
    assert [one.path for one in evaluations] == [
        "drawing/drawing.json",
        "reading/reading.json",
        "small/reading.json",
        "ted",
    ]
    assert [one.headline.name for one in evaluations] == ["seen wordings", "unseen words", "unseen words", "accuracy"]
    assert ranked(evaluations[2].headline)[0].arm == "tiny · last", (
        "other texts are not ranked with the first reading's"
    )
    assert [path for path, _ in apart] == ["mixed"] and "expected" in apart[0][1]


def test_places_differ_only_beyond_chance():
    def score(value, width):
        return Score(value, (value - width / 2, value + width / 2))

    scores = Scores(
        "s", "%", {"a": score(0.9, 0.01), "b": score(0.5, 0.2), "c": score(0.45, 0.2), "d": score(0.1, 0.01)}
    )
    assert [(one.arm, one.first, one.last) for one in ranked(scores)] == [
        ("a", 1, 1),
        ("b", 2, 3),
        ("c", 2, 3),
        ("d", 4, 4),
    ]


def test_items_say_who_has_them_and_which_are_doubtful():
    records = make_records(12)
    groups = group_seeds(
        [make("tiny", feature, records=records) for feature in ("last", "norm_avg", "avg", "learned")]
    )
    rows = item_table(groups)
    assert len(rows) == 12 and all(row["of"] == 4 for row in rows)
    for i, row in enumerate(rows):
        right = [group for group in groups if group.correct[0, i]]
        assert row["right"] == len(right)
        assert row["alone"] == (right[0].label if len(right) == 1 else "")
        assert math.isnan(row["discrimination"]) or row["right"] in (1, 2, 3)


def test_a_margin_that_means_something_rises():
    (sure,) = group_seeds([make("tiny", "last", quality=2.0)])
    (row,) = margin_table([sure])
    assert row["fifths"][-1] == 1.0 > row["fifths"][0]
    assert sum(row["fifths"]) / 5 == pytest.approx(sure.estimate.accuracy)


def test_the_page_has_every_figure_and_needs_nothing_else(report):
    text = (report / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and "url(" not in text and "://" not in text
    outside = [address for address in page.addresses if not address.startswith(("data:image/png;base64,", "#"))]
    assert not outside
    for said in ("90.0", "mixed", "Not ranked", "Published, not run here", "r = 0.9587", "r = 0.9974"):
        assert said in page.text, said
    assert "Pearson" in page.text and "{" not in text.split("</style>")[1], "no raw dict"
    with open(report / "figures" / "drawing_drawing.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "encoder and feature": "large · norm_avg",
        "score": "seen wordings",
        "unit": "%",
        "value": "0.9",
        "low": "0.88",
        "high": "0.92",
    }
    assert len(rows) == 5 * 3


def test_what_only_compares_is_not_taken_for_an_encoder(report):
    for arm in ("tiny, random weights · last", "random · last", "tiny, bag of words · last", "tiny · last · mean"):
        assert is_floor(arm), arm
    assert not is_floor("tiny · last")
    text = (report / "report.html").read_text()
    assert 'class="baseline"><td>tiny, random weights · last' in text
    assert "Without any encoder: Chance 25.0 %, Word overlap" in text


def test_published_scores_are_never_among_those_that_are_ranked(report):
    text = (report / "report.html").read_text()
    ranked_part, published_part = text.split('<h2 id="published">')
    for arm in published_scores("ted"):
        encoder = arm.split(" · ")[0]
        assert encoder in published_part and not re.search(rf">{re.escape(encoder)} ", ranked_part)


def test_nothing_measured_is_one_line(tmp_path):
    with pytest.raises(InputError, match="without a single result"):
        write_overview(tmp_path, tmp_path / "report")
    with pytest.raises(InputError, match="expected a folder of results"):
        write_overview(tmp_path / "none", tmp_path / "report")
    assert not (tmp_path / "report").exists()
