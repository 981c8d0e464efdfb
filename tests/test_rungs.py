"""Captions of few or many facts, as a benchmark and as caption pairs: what they tell, and how scores are shown."""

import random
from collections import Counter

import pytest

from granted.cli.data import DataPairs, DataTed
from granted.dataset_builders.scenes import check
from granted.dataset_builders.scenes.shapes import rungs
from granted.dataset_builders.scenes.shapes.drawing import Drawing
from granted.dataset_builders.scenes.shapes.rungs import drawing_of_facts, facts_of, rung_pairs, rung_ted
from granted.dataset_builders.scenes.shapes.varied_captions import varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import is_held_out
from granted.dataset_builders.ted_6k.records import validate_records
from granted.eval_metric.report import facts_table
from granted.eval_metric.results import Result, provenance
from granted.utils.errors import InputError


RUNGS = [1, 2, 3, 8]


@pytest.mark.parametrize("facts", [1, 2, 3, 12, 18])
def test_a_caption_tells_as_many_facts_as_its_rung_says(facts):
    rng = random.Random(0)
    for held_out in (False, True):
        drawing, looks = drawing_of_facts(rng, facts, held_out)
        assert is_held_out(drawing) == held_out
        assert len(varied_caption(drawing, "seen", rng, looks=looks).facts) == facts


def test_a_benchmark_of_rungs_is_a_benchmark():
    records = list(rung_ted(80, RUNGS))
    validate_records(records)
    assert Counter(facts_of(record["caption_id"]) for record in records) == dict.fromkeys(RUNGS, 20)
    assert all(len(set(record["statements"])) == 4 for record in records)
    assert {record["label"] for record in records} == {0, 1, 2, 3}
    assert records == list(rung_ted(80, RUNGS)) != list(rung_ted(80, RUNGS, seed=1))
    assert facts_of("scene/3") is None


def test_one_statement_is_true_of_the_drawing_and_the_others_are_not(monkeypatch):
    report = check.check_rungs(400)
    assert check.broken_promises(report, {}) == []
    assert Counter(facts_of(record["caption_id"]) for record in report["records"]) == dict.fromkeys((1, 2, 4, 8), 100)
    # The check sees a statement about a figure that stands there as well, and one about none.
    ((record, drawing, figures),) = rungs.rung_questions(1)
    true = figures[record["label"]]
    monkeypatch.setattr(check, "rung_questions", lambda *_, **options: [(record, drawing, [true] * 4)])
    assert check.check_rungs(1)["wrong_statements"] == 3
    elsewhere = Drawing((), drawing.background)
    monkeypatch.setattr(check, "rung_questions", lambda *_, **options: [(record, elsewhere, figures)])
    assert check.check_rungs(1)["wrong_statements"] == 1


def test_pairs_tell_of_the_same_drawing_and_their_negatives_of_another():
    for pair in rung_pairs(40, RUNGS, hard_negatives=2):
        assert len({pair["caption_b"], *pair["negatives"]}) == 3
        assert len(pair["caption_b"].split()) <= 2 * max(len(pair["caption_a"].split()), 30)


@pytest.mark.parametrize("rungs", [[], [0], [19], [2, 2]])
def test_rungs_that_cannot_be_told_are_refused(rungs):
    with pytest.raises(InputError, match="expected different numbers from 1 to 18"):
        next(rung_ted(4, rungs))


def test_accuracy_is_reported_for_every_rung():
    records = list(rung_ted(40, RUNGS))
    items = [
        {name: record[name] for name in ("id", "caption_id", "media", "category", "label")}
        | {"scores": [float((i == record["label"]) == (facts_of(record["caption_id"]) < 3)) for i in range(4)]}
        for record in records
    ]
    dataset = {"name": "ted-6k", "config": "synthetic", "fingerprint": "f", "instances": 40, "captions": 40}
    made = provenance(device="cpu", dtype="float32", seconds=1.0, tokens=10, encoder_revision="abc")
    table = facts_table([Result("tiny", "last", "mean", None, items, dataset, made, {})])
    assert "| 1 fact | 2 facts | 3 facts | 8 facts |" in table
    cells = [cell.split()[0] for cell in table.splitlines()[-1].strip("| ").split(" | ")]
    assert cells == ["tiny", "last", "mean", "100.0", "100.0", "0.0", "0.0"]


def test_the_commands_write_both(tmp_path, granted):
    ted, pairs = tmp_path / "ted-6k", tmp_path / "pairs.parquet"
    for command in (
        ("data", "ted", "--instances", "8", "--output", ted),
        ("data", "pairs", "--scenes", "8", "--apart-from", ted, "--output", pairs),
    ):
        code, _, error = granted(*command)
        assert code == 0, error
    assert ted.is_dir() and pairs.is_file()
    code, _, error = granted("data", "pairs", "--facts", "1,2", "--output", tmp_path / "none.parquet")
    assert code == 2 and "--facts" in error and not (tmp_path / "none.parquet").exists()
    assert DataTed(output=ted).facts == DataPairs(output=pairs).facts == list(rungs.RUNGS)
    for unused in (("--difficulty", "lexical"), ("--scene-words", "10,20"), ("--per-caption", "2")):
        code, _, error = granted("data", "ted", *unused, "--output", tmp_path / "none")
        assert code == 2 and f"got {unused[0]} for --world shapes" in error and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "source"),
    [
        (("--limit", "3"), "groups"),
        (("--hard-negatives", "2"), "scenes"),
        (("--categories", "1"), "scenes"),
        (("--world", "everyday"), "scenes"),
        (("--columns", "a,b"), "dataset"),
    ],
)
def test_an_option_that_has_no_effect_is_refused(tmp_path, granted, given, source):
    """Nothing that somebody asks for is passed over in silence."""
    own = ("--authors", tmp_path / "pairs.jsonl") if source == "scenes" else ("--scenes", "2")
    code, _, error = granted("data", "pairs", *own, *given, "--output", tmp_path / "pairs.parquet")
    assert code == 2 and f"got {given[0]} without --{source}" in error
