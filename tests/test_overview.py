"""The page of everything that was measured: what may be ranked is, and what may not is named."""

import csv
import dataclasses
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.eval_metric.comparison import Score, Scores
from granted.eval_metric.overview.collection import collect, ranked
from granted.eval_metric.overview.items import browsable, embedded, item_table, margin_table
from granted.eval_metric.overview.layer_weights import find_layer_weights
from granted.eval_metric.overview.page import write_overview
from granted.eval_metric.overview.results_files import LARGEST
from granted.eval_metric.part_tables import is_floor, overlap_credits, stratum_of
from granted.eval_metric.published import published_scores
from granted.eval_metric.reading.settings import VERSION
from granted.eval_metric.results import MOST_ITEMS
from granted.eval_metric.seed_groups import group_seeds
from granted.tests.ted_results import ARMS, ATTACK, RECORDS, Page, make, make_records, rows_of
from granted.utils.errors import InputError


LAYERS = ("layer_0", "layer_1", "layer_2", "norm_avg_first_1", "norm_avg_first_2", "norm_avg_first_3", "norm_avg")
PATH = {
    "mode": "two_step",
    "frozen_at": 1200,
    "trajectory": [{"step": step, "weights": [0.5 + step / 10000, 0.5 - step / 10000]} for step in (0, 1200, 2000)],
}
RECORD = {"settings": {"layer_weights": "continuous"}, "layer_weights": [0.25, 0.75], "frozen_at": None}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Drawing, two of reading with other texts, TED in two folders, one that cannot be ranked, and trainings."""
    folder = tmp_path_factory.mktemp("results")
    for name, content in (
        ("drawing/drawing.json", rows_of("drawing", (0.4, 0.6, 0.5, 0.9, 0.1), ["look"])),
        ("reading/reading.json", rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2), ["all", "figure"])),
        ("small/reading.json", rows_of("reading", (0.9, 0.8), ["all", "figure"], ARMS[:2])),
        ("other.json", {"kind": "something else"}),
        ("kept/layer_weights.json", PATH),
        ("lost/training_record.json", RECORD),
        ("plain/layer_weights.json", PATH | {"mode": "norm_avg", "frozen_at": 0}),
        ("vqa/training_record.json", {"settings": {}}),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    for encoder, quality in (("tiny", 0.2), ("large", 3.0)):
        for feature in ("last", "norm_avg"):
            make(encoder, feature, quality=quality).save(folder / "ted")
    for feature in LAYERS:
        make("deep", feature, family="language model", tuning="base").save(folder / "layers")
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
        "layers",
        "ted",
    ]
    assert [one.headline.name for one in evaluations[:4]] == [
        "seen wordings",
        "unseen words",
        "unseen words",
        "accuracy",
    ]
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
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"url\((?!#)", text) and "://" not in text
    for said in ("90.0", "mixed", "Not ranked", "Published, not run here", "r = 0.9587", "r = 0.9974"):
        assert said in page.text, said
    shown = re.sub("<(script|style).*?</(script|style)>", "", text, flags=re.DOTALL)
    assert "Pearson" in page.text and "{" not in shown, "no raw dict"
    with open(report / "figures" / "drawing_drawing.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "encoder and feature": "large · norm_avg",
        "score": "seen wordings",
        "unit": "share",
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


def with_row(**changes):
    """Of a results file of reading whose first row has something else in it."""

    def change(content):
        content["rows"][0] |= changes

    return change


DAMAGED = {
    "another value": (with_row(accuracy=1.2), "accuracy=1.2"),
    "no number": (with_row(accuracy="0.4"), "accuracy='0.4'"),
    "nan": (with_row(accuracy=math.nan), "accuracy=nan"),
    "another interval": (with_row(ci95=[0.9, 1.0]), "between two ends"),
    "half an interval": (with_row(ci95=[0.1]), "between two ends"),
    "a name that is none": (with_row(encoder=["<b>"]), "encoder="),
    "a long name": (with_row(encoder="x" * 201), "1 to 200 characters"),
    "items missing": (with_row(n=99), "99 for another|99 items for"),
    "an axis that is none": (with_row(axis={}), "axis="),
    "a row that is none": (lambda content: content["rows"].append(3), "an entry of rows=3"),
    "a row twice": (lambda content: content["rows"].append(content["rows"][0]), "twice"),
    "no rows": (lambda content: content.update(rows="x"), "rows='x'"),
    "a newer version": (lambda content: content.update(version=VERSION + 1), f"version {VERSION + 1}"),
    "an arm of an older one": (lambda content: content.update(arms=[{"version": 1}]), "version 1"),
    "a version that is none": (lambda content: content.update(version=[{}]), "version"),
    "a difference that is none": (lambda content: content.update(differences=[{"a": 1}]), "wording=None"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_of_rows_is_named_and_takes_no_other_along(tmp_path, name):
    change, reason = DAMAGED[name]
    content = rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2), ["all", "figure"])
    (tmp_path / "good.json").write_text(json.dumps(content))
    change(content)
    (tmp_path / "other.json").write_text(json.dumps(content))
    evaluations, ((path, said),) = collect(tmp_path)
    assert [one.path for one in evaluations] == ["good.json"]
    assert path == "other.json" and re.search(reason, said) and "\n" not in said and len(said) < 400


def test_arms_without_a_score_to_rank_by_are_named(tmp_path):
    content = rows_of("reading", (0.3, 0.5, 0.4, 0.7, 0.2), ["all"])
    content["rows"] = [row for row in content["rows"] if (row["encoder"], row["wording"]) != ("large", "word")]
    (tmp_path / "reading.json").write_text(json.dumps(content))
    ((evaluation,), apart) = collect(tmp_path)
    assert len(evaluation.headline.by_arm) == 3
    assert [said for _, said in apart] == [
        f"got no score of large · {feature} in unseen words" for feature in ("last", "norm_avg")
    ]


def test_a_result_on_ted_that_does_not_belong_there_is_named_and_takes_no_other_along(tmp_path):
    def rewritten(path, **changes):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path.name

    ranked_ones = [make("tiny", "last"), make("tiny", "norm_avg"), make("large", "last")]
    for one in ranked_ones:
        one.save(tmp_path / "ted")
    expected = {}
    name = make("fewer", "last", records=make_records(57)).save(tmp_path / "ted").name
    expected[name] = "another benchmark.*instances 57"
    forged = make("forged", "last")
    forged.items[0]["label"] = (forged.items[0]["label"] + 1) % 4
    expected[forged.save(tmp_path / "ted").name] = "other items under the same fingerprint"
    expected[rewritten(make("newer", "last").save(tmp_path / "ted"), schema=2)] = "unknown field 'schema'"
    expected[rewritten(make("typed", "last").save(tmp_path / "ted"), summary=[])] = "summary"
    path = make("lacking", "last").save(tmp_path / "ted")
    table = path.with_suffix(".parquet")
    pq.write_table(pq.read_table(table).slice(0, 50), table)
    stored = {"file": table.name, "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    expected[rewritten(path, items=stored)] = "50 instances"
    path = make("unpaired", "last").save(tmp_path / "ted")
    path.with_suffix(".parquet").unlink()
    expected[path.name] = "without unpaired"
    path = make("cut", "last").save(tmp_path / "ted")
    path.write_text(path.read_text()[:300])
    expected[path.name] = "malformed JSON"
    part = dataclasses.replace(make("part", "last"), shard="1/2")
    expected[part.save(tmp_path / "ted").name] = "shard 1/2"
    (evaluation,), apart = collect(tmp_path)
    assert evaluation.headline.by_arm.keys() == {f"{one.encoder} · {one.feature}" for one in ranked_ones}
    assert {path.removeprefix("ted/") for path, _ in apart} == expected.keys()
    for path, said in apart:
        assert re.search(expected[path.removeprefix("ted/")], said), said


def test_a_table_that_would_fill_the_memory_is_not_read(tmp_path):
    make("tiny", "last").save(tmp_path)
    path = make("bomb", "last").save(tmp_path)
    table = path.with_suffix(".parquet")
    many = pa.DictionaryArray.from_arrays(np.zeros(MOST_ITEMS + 1, np.int32), ["x" * 1000])
    pq.write_table(pa.table({"id": many}), table, compression="zstd")
    assert table.stat().st_size < 1_000_000
    stored = {"file": table.name, "sha256": hashlib.sha256(table.read_bytes()).hexdigest()}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"items": stored}))
    _, ((name, said),) = collect(tmp_path)
    assert name == path.name and f"{MOST_ITEMS + 1:,} items" in said


def test_files_that_cannot_be_read_are_named(tmp_path):
    make("tiny", "last").save(tmp_path)
    (tmp_path / "list.json").write_text("[1]")  # somebody else's, and none of ours
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.json").write_bytes(b"\xff\x00")
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate(LARGEST + 1)
    _, apart = collect(tmp_path)
    assert [path for path, _ in apart] == ["bytes.json", "deep.json", "huge.json"]
    for (_, said), reason in zip(apart, ("not UTF-8", "too deeply", "at most")):
        assert reason in said
    next(tmp_path.glob("tiny*.json")).unlink()
    with pytest.raises(InputError, match=r"without a single result.*bytes\.json"):
        collect(tmp_path)


def test_nothing_measured_is_one_line(tmp_path):
    with pytest.raises(InputError, match="without a single result"):
        write_overview(tmp_path, tmp_path / "report")
    with pytest.raises(InputError, match="expected a folder of results"):
        write_overview(tmp_path / "none", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_curves_over_layers_are_drawn_where_there_are_layers(report):
    with open(report / "figures" / "layers_layers.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["scored"] == "all"]
    found = {(row["curve"], row["layer"]) for row in rows}
    curves = ("one layer", "Norm-Avg up to it")
    assert found == {(curve, str(layer)) for curve in curves for layer in range(3)} | {("norm_avg", "")}
    assert (report / "figures" / "layers_layers.png").is_file()
    assert not (report / "figures" / "ted_layers.png").exists(), "two features are no curve"


def test_families_are_those_that_results_say(report):
    page = Page((report / "report.html").read_text())
    assert re.search(r"deep\s*\d+\.\d\s*\d+\.\d–\d+\.\d\s*language model\s*base\s*–", page.text)


def test_items_are_stored_once_and_short(results):
    groups = group_seeds([make("tiny", feature) for feature in ("last", "norm_avg", "avg", "learned")])
    rows = item_table(groups)
    credits = overlap_credits(RECORDS)
    data = browsable(rows, credits, {one["id"]: one["statements"][one["label"]] for one in RECORDS})
    names = [column["name"] for column in data["columns"]]
    assert names[:3] == ["Item", "Right, of 4", "Shared words"] and names[-1] == "True statement"
    by_id = {row["id"]: row for row in rows}
    for row in data["rows"]:
        cells = {
            column["name"]: column["names"][value] if column["names"] else value
            for column, value in zip(data["columns"], row, strict=True)
        }
        own = by_id[cells["Item"]]
        assert (cells["Right, of 4"], cells["Category"], cells["Only by"]) == (
            own["right"],
            own["category"],
            own["alone"],
        )
        assert cells["Shared words"] == stratum_of(credits[own["id"]])
    assert [row[1] for row in data["rows"]] == sorted(row["right"] for row in rows)
    text = embedded(data)
    assert "<" not in text and json.loads(text)["rows"][0][-1].startswith(ATTACK)


def test_six_thousand_items_are_less_than_a_megabyte():
    row = {"category": "Spatial Relationship", "media": "image", "right": 3, "of": 12, "alone": ""}
    rows = [row | {"id": f"facts_4/0/{number}/spatial_relationship", "discrimination": 0.5} for number in range(6641)]
    credits = {one["id"]: 0.5 for one in rows}
    said = "The large striped triangle in the middle is left of the small solid red star."
    statements = {one["id"]: said for one in rows}
    assert len(embedded(browsable(rows, credits))) < 400_000
    assert len(embedded(browsable(rows, credits, statements))) < 1_000_000


@pytest.fixture(scope="module")
def with_texts(tmp_path_factory):
    """A report of one benchmark that is known: its fingerprint is the records' own."""
    folder = tmp_path_factory.mktemp("known")
    export_dataset(RECORDS, folder / "ted-6k", config_name="custom", source_note="made by a test")
    _, info = read_ted(folder / "ted-6k")
    for feature in ("last", "norm_avg", "avg", "learned"):
        one = make("tiny", feature)
        replace(one, dataset=one.dataset | {"fingerprint": info["fingerprint"]}).save(folder / "results")
    for texts in (False, True):
        write_overview(folder / "results", folder / f"texts_{texts}", [str(folder / "ted-6k")], texts)
    return folder


def test_shared_words_need_the_benchmark_and_texts_are_asked_for(report, with_texts):
    without, plain, shown = (
        (folder / "report.html").read_text()
        for folder in (report, with_texts / "texts_False", with_texts / "texts_True")
    )
    assert "words answer" not in without and "--ted BENCHMARK" in without
    assert "words answer" in plain and "--ted BENCHMARK" not in plain
    assert "alert" not in plain and "alert" in shown
    page = Page(shown)
    assert page.tags.count("script") == 2 and f"{ATTACK} 1" in page.text, "statements arrive as text"


def test_a_benchmark_that_was_not_scored_is_refused(results, with_texts, tmp_path):
    with pytest.raises(InputError, match=r"got --ted .* of which there are no results here .*leave it out"):
        write_overview(results, tmp_path / "report", [str(with_texts / "ted-6k")])
    assert not (tmp_path / "report").exists()


def test_learned_weights_are_shown_with_their_path_or_without(results, report):
    (kept, lost), apart = find_layer_weights(results)
    assert apart == []
    assert (kept.folder, kept.frozen_at, kept.last) == ("kept", 1200, [0.7, 0.3])
    assert kept.trajectory[1] == (1200, [0.62, 0.38])
    assert (lost.folder, lost.frozen_at, lost.last, lost.trajectory) == ("lost", None, [0.25, 0.75], [])
    text = Page((report / "report.html").read_text()).text
    assert "two_step, frozen at step 1,200. At the end, from the first block on: 0.70 0.30." in text
    assert "continuous, never frozen. At the end, from the first block on: 0.25 0.75. Their path was not kept." in text
    assert (report / "figures" / "kept_layer_weights.png").is_file()


DAMAGED_WEIGHTS = {
    "layer_weights.json": [
        {},
        [1],
        {"mode": "two_step", "frozen_at": None, "trajectory": []},
        {"mode": "two_step", "frozen_at": None, "trajectory": [{"step": 0, "weights": ["0.5", "0.5"]}]},
        {
            "mode": "two_step",
            "frozen_at": None,
            "trajectory": [{"step": 0, "weights": [0.5, 0.5]}, {"step": 1, "weights": [0.5]}],
        },
    ],
    "training_record.json": [[1], {"layer_weights": [0.5]}, {"layer_weights": {"a": 1}, "frozen_at": None}],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name, contents in DAMAGED_WEIGHTS.items() for content in contents]
)
def test_damaged_layer_weights_are_named_and_take_no_page_along(name, content, results, tmp_path):
    run = tmp_path / "results" / "run"
    run.mkdir(parents=True)
    (run / name).write_text(json.dumps(content))
    found, ((path, reason),) = find_layer_weights(tmp_path / "results")
    assert (found, path) == ([], f"run/{name}")
    assert "expected those that a training wrote" in reason and "\n" not in reason


def test_files_of_evaluations_have_names_of_their_own(results, tmp_path):
    """The folder of results itself, and places whose names differ by a slash alone."""
    folder = tmp_path / "results"
    source = next(results.rglob("reading.json"))
    (folder / "x").mkdir(parents=True)
    for name in ("x/reading.json", "x_reading.json"):
        (folder / name).write_bytes(source.read_bytes())
    for feature in ("last", "norm_avg"):
        make("tiny", feature).save(folder)
    write_overview(folder, tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", "figures"}
    names = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"results.csv", "x_reading.csv", "x_reading_.csv"} <= names


def test_what_is_for_comparison_takes_no_place():
    def score(value):
        return Score(value, (value - 0.01, value + 0.01))

    by_arm = {"the scene itself · facts": score(1.0), "a · last": score(0.9), "b · last": score(0.5)}
    found = ranked(Scores("s", "%", by_arm))
    assert [(one.arm, one.first, one.last) for one in found] == [
        ("the scene itself · facts", 1, 1),
        ("a · last", 1, 1),
        ("b · last", 2, 2),
    ]


def test_all_that_this_repository_has_measured_has_its_place_but_direct_answers():
    evaluations, apart = collect(Path(__file__).parents[1] / "results")
    assert {path.split("/")[0] for path, _ in apart} == {"direct_qa"}, apart
    assert {one.instrument for one in evaluations} == {"drawing", "reading", "ladder", "ted"}
