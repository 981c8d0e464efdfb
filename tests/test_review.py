"""The review without its page: decisions that are only added, who gets what, agreement, and what is refused."""

import contextlib
import multiprocessing
import os
import signal
import sqlite3
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from granted.dataset_builders.construction.review import markup
from granted.dataset_builders.construction.review.agreement import agreement, gold_scores
from granted.dataset_builders.construction.review.assignment import (
    Plan,
    assigned,
    made_of_needed,
    needed,
    queue_of,
    shown_order,
)
from granted.dataset_builders.construction.review.decisions import (
    DECISIONS,
    AlreadyDecidedError,
    Decision,
    DecisionStore,
    check_decision,
    decisions_table,
)
from granted.dataset_builders.construction.review.instances import Instance, read_instances
from granted.dataset_builders.construction.review.refusal import ReviewError
from granted.dataset_builders.construction.review.reviewing import Review
from granted.tests.review_runs import make_run, run_rows, write_run


def instance(name, item="a", category="OCR"):
    return Instance(name, item, "image", "media/a.png", "A sign.", category, "", ("It", "is", "a", "sign."), 3)


def decision(name, reviewer, said="accept", **more):
    return Decision(name, reviewer, said, None, 3, "because" if said == "reject" else None, 1.0, **more)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three images and a video, two instances each."""
    return make_run(tmp_path_factory.mktemp("review") / "run", items=3, videos=1)


@pytest.fixture
def review(run):
    """A review that has just begun."""
    for file in (run / "review").glob("*"):
        file.unlink()
    return Review(run, seed=1, share=0.0)


# ---------------------------------------------------------------------------------------------------- decisions


def test_decisions_stand_until_they_are_undone_and_nothing_is_removed(review):
    review.join("ana")
    first = review.next("ana")
    review.decide(first.instance, "ana", "accept", seconds=2.5)
    second = review.next("ana")
    review.decide(second.instance, "ana", "reject", seconds=1.0, reason=" too easy ")
    assert first.id == second.id, "the instances of one image are not reviewed one after the other"
    assert [(one.instance, one.decision, one.reason) for one in review.decisions()] == [
        (first.instance, "accept", None),
        (second.instance, "reject", "too easy"),
    ]
    undone = review.undo("ana")
    assert undone.instance == second.instance and undone.reason == "too easy"
    assert review.next("ana") == second and [one.instance for one in review.decisions()] == [first.instance]
    review.decide(second.instance, "ana", "null", seconds=1.0)
    assert [one.decision for one in review.decisions()] == ["accept", "null"]
    assert review.undo("ana").decision == "null" and review.undo("ana").decision == "accept"
    assert review.undo("ana") is None and review.undo("bo") is None and review.decisions() == []
    with sqlite3.connect(review.store.path) as db:
        said = [row[0] for row in db.execute("SELECT decision FROM decisions ORDER BY number")]
        assert said == ["accept", "reject", "undo", "null", "undo", "undo"]
        for statement in ("UPDATE decisions SET decision = 'accept'", "DELETE FROM decisions", "DELETE FROM review"):
            with pytest.raises(sqlite3.IntegrityError, match="only added"):
                db.execute(statement)


def test_a_decision_says_who_and_when_and_is_exported_with_its_gold(review):
    name = review.next("ana").instance
    review.add_gold({name: "accept"})
    review.decide(name, "ana", "accept", seconds=2.5)
    (row,) = decisions_table(review.decisions(), review.store.gold()).to_pylist()
    assert row.pop("when").endswith("+00:00")
    assert row == {
        "instance": name,
        "reviewer": "ana",
        "decision": "accept",
        "statements": None,
        "label": review.instances[name].label,
        "reason": None,
        "gold": True,
        "seconds": 2.5,
    }


def test_a_fix_has_other_texts_or_another_true_statement(review):
    one = next(iter(review.instances.values()))
    texts = list(one.statements)
    with pytest.raises(ReviewError, match="nothing changed"):
        review.decide(one.instance, "ana", "fix", seconds=1.0, fixed=(texts, one.label))
    with pytest.raises(ReviewError, match="no text as statement 2"):
        review.decide(one.instance, "ana", "fix", seconds=1.0, fixed=([texts[0], " ", *texts[2:]], one.label))
    with pytest.raises(ReviewError, match="twice"):
        review.decide(one.instance, "ana", "fix", seconds=1.0, fixed=([texts[1], *texts[1:]], one.label))
    for text, message in (("A line\nbreak", "U\\+000A"), (f"{texts[1]}!", "punctuation at most")):
        with pytest.raises(ReviewError, match=message):
            review.decide(one.instance, "ana", "fix", seconds=1.0, fixed=([text, *texts[1:]], one.label))
    other = ["It is -5 degrees.", "It is 5 degrees.", "C++ wins 2:1.", "C# wins 2-1."]
    review.decide(one.instance, "bo", "fix", seconds=1.0, fixed=(other, 2))
    review.undo("bo")
    review.decide(one.instance, "ana", "fix", seconds=1.0, fixed=([" Another. ", *texts[1:]], 2))
    (saved,) = review.decisions()
    assert saved.statements == ("Another.", *texts[1:]) and saved.label == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"decision": "maybe"}, "expected one of accept, fix, reject, null"),
        ({"decision": "reject"}, "no reason"),
        ({"decision": "reject", "reason": " "}, "no reason"),
        ({"reason": "why"}, "got a reason"),
        ({"label": 1}, "other statements"),
        ({"statements": ("a", "b", "c", "d")}, "other statements"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"decision": "reject", "reason": "x" * 2_001}, "more than 2,000 characters"),
    ],
)
def test_a_decision_that_says_too_little_or_too_much_is_refused(wrong, message):
    with pytest.raises(ReviewError, match=message) as caught:
        check_decision(replace(decision("a", "ana"), **wrong), instance("a"))
    assert "\n" not in str(caught.value)


def test_two_windows_of_one_reviewer_save_one_decision(review):
    name = review.next("ana").instance
    review.decide(name, "ana", "accept", seconds=1.0)
    for said, reason in (("accept", None), ("reject", "why")):
        with pytest.raises(AlreadyDecidedError):
            review.decide(name, "ana", said, seconds=1.0, reason=reason)
    review.decide(name, "bo", "null", seconds=1.0)
    assert [(one.reviewer, one.decision) for one in review.decisions()] == [("ana", "accept"), ("bo", "null")]


def decide_everything(run, pipe):
    """Decide one after the other, and say so after each."""
    review = Review(run)
    while one := review.next("ana"):
        review.decide(one.instance, "ana", "accept", seconds=1.0)
        pipe.send(one.instance)


def test_what_was_said_to_be_saved_is_there_after_kill_9(tmp_path):
    run, said = make_run(tmp_path / "run", items=12), []
    for _ in range(4):
        here, there = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=decide_everything, args=(run, there))
        process.start()
        there.close()
        said.append(here.recv())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with contextlib.suppress(EOFError):  # what it said before it was killed
            while True:
                said.append(here.recv())
        saved = [one.instance for one in Review(run).decisions()]
        assert saved[: len(said)] == said and len(saved) <= len(said) + 1
        said = saved
    assert len(set(said)) == len(said), "the review did not go on where it was"


def test_the_settings_of_a_review_are_kept_and_others_refused(tmp_path):
    path = tmp_path / "review" / "decisions.sqlite"
    DecisionStore(path, seed=3, share=0.25)
    again = DecisionStore(path)
    assert (again.seed, again.share) == (3, 0.25)
    with pytest.raises(ReviewError, match=r"got seed 4 .* begun with 3"):
        DecisionStore(path, seed=4)
    with pytest.raises(ReviewError, match=r"got share 0.5 .* begun with 0.25"):
        DecisionStore(path, share=0.5)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, "\u202eana"])
def test_names_that_are_none_are_refused(review, name):
    with pytest.raises(ReviewError, match="reviewer's name"):
        review.join(name)


# ---------------------------------------------------------------------------------------------------- assignment

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=5, unique=True)


def plan(reviewers, items=40, seed=0, share=0.3, decisions=(), gold=()):
    instances = {f"{i}-{c}": instance(f"{i}-{c}", str(i), c) for i in range(items) for c in ("OCR", "Adverb")}
    return Plan(instances, tuple(reviewers), tuple(decisions), frozenset(gold), seed, share)


@given(NAMES, st.integers(0, 9), st.text("xyz", min_size=1, max_size=2))
def test_a_reviewer_who_joins_moves_nothing_between_the_others(reviewers, seed, newcomer):
    before = assigned(plan(reviewers, seed=seed))
    after = assigned(plan([*reviewers, newcomer], seed=seed))
    for item, names in after.items():
        assert [name for name in names if name != newcomer] == before[item][: len(names) - (newcomer in names)]
        assert len(names) == min(needed(seed, 0.3, item), len(reviewers) + 1)
    assert assigned(plan(reversed(reviewers), seed=seed)) == before, "it matters who joined first"


@given(NAMES, st.integers(0, 9), st.floats(0, 0.99))
def test_everything_is_decided_as_often_as_it_is_to_be(reviewers, seed, share):
    gold, decisions = ["0-OCR", "7-Adverb"], []
    while True:
        now = plan(reviewers, items=8, seed=seed, share=share, decisions=decisions, gold=gold)
        shown = {name: queue_of(now, name).next() for name in reviewers}
        if not any(shown.values()):
            break
        who = min((name for name in reviewers if shown[name]), key=lambda name: hash((name, len(decisions))) % 7)
        decisions.append(decision(shown[who], who))
    counts = Counter(one.instance for one in decisions)
    assert len({(one.instance, one.reviewer) for one in decisions}) == len(decisions)
    for name, one in now.instances.items():
        expected = len(reviewers) if name in gold else min(needed(seed, share, one.id), len(reviewers))
        assert counts[name] == expected, name
    made, total = made_of_needed(now)
    assert made == total or len(reviewers) == 1


def test_work_is_shared_out_evenly_and_the_share_goes_to_two():
    given_out = assigned(plan(["ana", "bo", "cy", "di"], items=2_000, share=0.25))
    counts = Counter(name for names in given_out.values() for name in names)
    assert all(abs(count / 2_000 - 1.25 / 4) < 0.05 for count in counts.values())
    twice = {item for item, names in given_out.items() if len(names) == 2}
    assert abs(len(twice) / 2_000 - 0.25) < 0.04
    more = {item for item in given_out if needed(0, 0.5, item) == 2}
    assert twice < more, "a larger share is not the smaller one and others"


def test_whoever_has_begun_with_an_image_keeps_it_and_others_help_when_they_are_done():
    begun = [decision("5-OCR", "ana")]
    for others in (["ana"], ["ana", "bo"], ["ana", "bo", "cy", "di"]):
        now = plan(others, share=0.0, decisions=begun)
        assert assigned(now)["5"] == ["ana"] and "5-Adverb" in queue_of(now, "ana").own
    now = plan(["ana", "bo"], items=4, share=0.0)
    mine = [decision(name, "bo") for name in queue_of(now, "bo").own]
    now = plan(["ana", "bo"], items=4, share=0.0, decisions=mine)
    queue = queue_of(now, "bo")
    assert queue.own == [] and queue.next() in queue_of(now, "ana").own


def test_gold_is_strewn_among_the_rest_for_everyone():
    gold = [f"{i}-OCR" for i in range(0, 40, 4)]
    for name in ("ana", "bo"):
        queue = queue_of(plan(["ana", "bo"], gold=gold), name).own
        places = [queue.index(one) for one in gold]
        assert min(places) < len(queue) / 2 < max(places)


@given(st.integers(0, 99), NAMES)
def test_the_order_of_statements_is_seeded_and_says_nothing(seed, reviewers):
    one = instance("a")
    for name in reviewers:
        order = shown_order(seed, name, one)
        assert sorted(order) == [0, 1, 2, 3] and order == shown_order(seed, name, one)


def test_the_true_statement_stands_in_each_place_as_often():
    places = Counter(shown_order(0, "ana", instance(str(number))).index(3) for number in range(4_000))
    assert all(abs(count - 1_000) < 120 for count in places.values())


# ---------------------------------------------------------------------------------------------------- agreement


def two_raters(one, other, category="OCR"):
    """Decisions of ana and bo about instances, and the instances."""
    instances = {str(n): instance(str(n), str(n), category) for n in range(len(one))}
    return [
        decision(str(n), who, said[n]) for n in range(len(one)) for who, said in (("ana", one), ("bo", other))
    ], instances


def test_cohens_kappa_of_a_table_that_is_known():
    # 50 proposals, two readers (20 yes both, 5 and 10 apart, 15 no both): 0.4 by hand: (0.7 - 0.5) / (1 - 0.5).
    one = ["accept"] * 25 + ["null"] * 25
    other = ["accept"] * 20 + ["null"] * 5 + ["accept"] * 10 + ["null"] * 15
    decisions, instances = two_raters(one, other)
    rows = {(row.category, row.of): row for row in agreement(decisions, instances)}
    assert set(rows) == {("all", "decision"), ("all", "kept"), ("OCR", "decision"), ("OCR", "kept")}
    for row in rows.values():
        assert row.method == "cohen" and row.kappa == pytest.approx(0.4) and row.agreed == pytest.approx(0.7)
        assert row.ci95[0] < 0.4 < row.ci95[1] and row.instances == row.items == 50


@given(st.lists(st.tuples(st.sampled_from(DECISIONS), st.sampled_from(DECISIONS)), min_size=4, max_size=30))
def test_kappa_is_that_of_another_library_and_of_any_order(pairs):
    decisions, instances = two_raters(*zip(*pairs))
    row = agreement(decisions, instances, resamples=2)[0]
    if len({said for pair in pairs for said in pair}) == 1:
        assert row.kappa is None and row.ci95 is None and row.agreed == 1.0
    else:
        assert row.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs)))
    assert agreement(decisions[::-1], instances, resamples=2)[0].kappa == row.kappa


def test_fleiss_kappa_where_more_than_two_have_reviewed():
    said = [("accept", "accept"), ("accept", "null"), ("reject", "reject"), ("fix", "accept"), ("null", "null")]
    people = [("ana", "bo"), ("bo", "cy"), ("cy", "ana"), ("ana", "bo"), ("bo", "cy")]
    instances = {str(n): instance(str(n), str(n)) for n in range(5)}
    decisions = [decision(str(n), who, what) for n in range(5) for who, what in zip(people[n], said[n])]
    decisions.append(decision("0", "cy", "reject"))  # a third one, who helped: the first two count
    row, kept = agreement(decisions, instances)[:2]
    counts = np.array([[pair.count(name) for name in DECISIONS] for pair in said])
    assert (row.method, row.reviewers, row.ratings, row.instances) == ("fleiss", 3, 2, 5)
    assert row.kappa == pytest.approx(fleiss_kappa(counts)) and row.agreed == pytest.approx(3 / 5)
    # Kept or not: four of five agree, and 5 of 10 decisions are each.
    assert kept.of == "kept" and kept.agreed == pytest.approx(4 / 5) and kept.kappa == pytest.approx((0.8 - 0.5) / 0.5)


def test_agreement_of_all_is_no_certainty_and_the_interval_is_seeded():
    decisions, instances = two_raters(["accept", "null"] * 5, ["accept", "null"] * 5)
    row = agreement(decisions, instances, resamples=200)[0]
    assert row.kappa == 1.0 and row.ci95[0] < 0.7 and row.ci95[1] == pytest.approx(1.0)
    decisions, instances = two_raters(["accept", "null"] * 8, ["accept", "null", "null"] * 5 + ["null"])
    first, again, other = (agreement(decisions, instances, seed=seed, resamples=200) for seed in (1, 1, 2))
    assert first == again and first[0].ci95 != other[0].ci95


def test_instances_of_one_image_are_drawn_together():
    one, other = ["accept", "null"] * 20, (["accept", "null"] * 5 + ["null", "accept"] * 5) * 2
    decisions, alone = two_raters(one, other)
    together = {name: replace(value, id=str(int(name) // 10)) for name, value in alone.items()}
    wide, narrow = (agreement(decisions, which, resamples=300)[0].ci95 for which in (together, alone))
    assert wide[1] - wide[0] > 1.3 * (narrow[1] - narrow[0])


def test_gold_is_left_out_of_agreement_and_scores_its_reviewers():
    decisions, instances = two_raters(["accept"] * 4, ["accept", "fix", "null", "accept"])
    gold = {"0": "accept", "1": "accept", "2": "accept"}
    assert agreement(decisions, instances, gold)[0].instances == 1
    ana, bo = gold_scores(decisions, gold)
    assert (ana.right, ana.decided, ana.kept_right) == (3, 3, 3) and (bo.right, bo.kept_right) == (1, 2)
    assert bo.ci95[0] < 1 / 3 < bo.ci95[1]


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_run_that_cannot_be_reviewed_is_one_clear_line(tmp_path):
    rows = run_rows(tmp_path / "good", items=2)

    def refused(name, changed, message):
        run = write_run(tmp_path / name, changed)
        if not (run / "media").exists():
            os.symlink(tmp_path / "good" / "media", run / "media")
        with pytest.raises(ReviewError, match=message) as caught:
            read_instances(run)
        assert "\n" not in str(caught.value)

    with pytest.raises(ReviewError, match="is no folder"):
        read_instances(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReviewError, match=r"without check/rows\.parquet"):
        read_instances(tmp_path / "empty")
    refused("dropped", [row | {"kept": False} for row in rows], "no row that was kept")
    refused("twice", [rows[0], rows[0]], "twice")
    refused("columns", [{"instance": "a"}], "without the columns id, media")
    refused("film", [rows[0] | {"media": "film"}], "expected one of image, video")
    refused("three", [rows[0] | {"statements": ["a", "b", "c"]}], "expected 4 different statements")
    refused("same", [rows[0] | {"statements": ["a", "b", "c", " A"]}], "twice in row 0")
    refused("label", [rows[0] | {"label": 4}], "label 4")
    refused("null", [rows[0] | {"caption": None}], "got caption None in row 0")
    refused("outside", [rows[0] | {"file": "media/../secret.png"}], "expected one within")
    refused("absolute", [rows[0] | {"file": "/etc/passwd"}], "expected one within")
    refused("page", [rows[0] | {"file": "media/a.SVG"}], "expected an image or a video")
    (tmp_path / "text" / "check").mkdir(parents=True)
    (tmp_path / "text" / "check" / "rows.parquet").write_text("no")
    with pytest.raises(ReviewError, match="is not Parquet"):
        read_instances(tmp_path / "text")
    run = make_run(tmp_path / "missing", items=2)
    next((run / "media").iterdir()).unlink()
    with pytest.raises(ReviewError, match=r"1 of 2 are missing"):
        read_instances(run)


def test_a_file_of_decisions_of_another_run_is_refused_and_of_fewer_rows_is_not(tmp_path):
    run = make_run(tmp_path / "run", items=2)
    rows = pq.read_table(run / "check" / "rows.parquet").to_pylist()
    review = Review(run)
    for name in list(review.instances)[:2]:
        review.decide(name, "ana", "accept", seconds=1.0)
    write_run(run, [rows[0] | {"kept": False}, *rows[1:]])
    assert [one.instance for one in Review(run).decisions()] == [rows[1]["instance"]]
    write_run(run, [rows[0] | {"caption": "Another."}, *rows[1:]])
    with pytest.raises(ReviewError, match=rf"about other texts \(1 instances, such as {rows[0]['instance']}\)"):
        Review(run)
    write_run(run, rows[2:])
    with pytest.raises(ReviewError, match=r"about other texts \(2 instances"):
        Review(run)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 40, b"x"])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "decisions.sqlite"
    path.write_bytes(content)
    with pytest.raises(ReviewError, match="expected a file of decisions"):
        DecisionStore(path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "decisions.sqlite") as db:
        db.execute("CREATE TABLE other (x)")
    with pytest.raises(ReviewError, match="another program"):
        DecisionStore(tmp_path / "decisions.sqlite")


def test_gold_of_unknown_instances_and_decisions_is_refused(review):
    name = next(iter(review.instances))
    with pytest.raises(ReviewError, match="got the gold instance 'x'"):
        review.add_gold({name: "accept", "x": "accept"})
    with pytest.raises(ReviewError, match="got 'good' for the gold instance"):
        review.add_gold({name: "good"})
    assert review.store.gold() == {}
    review.add_gold({name: "accept"})
    review.add_gold({name: "reject"})
    assert review.store.gold() == {name: "reject"}


# ---------------------------------------------------------------------------------------------------- markup


@given(st.text(max_size=40))
def test_texts_are_shown_as_texts(words):
    shown = markup.text(words)
    assert shown.startswith('<bdi dir="auto">') and shown.endswith("</bdi>")
    inside = shown.removeprefix('<bdi dir="auto">').removesuffix("</bdi>")
    assert not set("<>\"'") & set(inside)
