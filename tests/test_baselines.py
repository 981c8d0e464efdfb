"""Lexical baselines on texts small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.ted_6k.baselines import (
    baseline_summary,
    chance,
    shared_tie_accuracy,
    tfidf_cosine,
    word_overlap,
)
from granted.dataset_builders.ted_6k.shortcuts import statement_only
from granted.utils.errors import InputError


def record(caption, statements, label=0, category="OCR", media="image", name="a"):
    return {
        "id": f"{name}/{category}",
        "caption_id": name,
        "caption": caption,
        "media": media,
        "category": category,
        "question": "",
        "statements": statements,
        "label": label,
        "source": "test",
    }


RECORDS = [
    record("A red dog runs.", ["a RED dog", "a blue dog", "two cats", "!!"]),
    record("Two cats sleep.", ["one dog", "two cats sleep"], label=1, category="Quantity", media="video", name="b"),
]


def test_chance_follows_the_number_of_statements():
    assert chance(RECORDS).tolist() == [0.25, 0.5]


def test_word_overlap_counts_distinct_words():
    assert word_overlap(RECORDS) == [[1.0, pytest.approx(2 / 3), 0.0, 0.0], [0.0, 1.0]]


def test_tfidf_is_a_cosine_over_captions_and_statements():
    (first, second) = tfidf_cosine(RECORDS)
    assert [len(first), len(second)] == [4, 2]
    assert second == [0.0, pytest.approx(1.0)]
    assert first[0] > first[1] > first[2] == first[3] == 0.0
    # eight texts: words weigh ln(9 / (1 + df)) + 1, single letters are no words: "red dog" against "red dog runs"
    red, dog, runs = (np.log(9 / (1 + df)) + 1 for df in (2, 4, 1))
    expected = (red**2 + dog**2) / np.sqrt((red**2 + dog**2) * (red**2 + dog**2 + runs**2))
    assert first[0] == pytest.approx(expected)


def test_repeated_captions_count_once():
    twice = [RECORDS[0], RECORDS[0] | {"id": "a/Adverb", "category": "Adverb", "statements": ["red", "runs"]}]
    assert len(tfidf_cosine(twice)) == 2


def test_shared_ties():
    scores = [[3, 1, 2], [2, 2, 1], [2, 2, 2], [1, 2, 2]]
    assert shared_tie_accuracy(scores, [0, 0, 0, 0]).tolist() == [1, 0.5, pytest.approx(1 / 3), 0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_credits_over_all_labels_sum_to_one(scores):
    credits = shared_tie_accuracy([scores] * len(scores), range(len(scores)))
    assert credits.sum() == pytest.approx(1)


def test_summary_has_what_a_result_stores():
    summary = baseline_summary(RECORDS)
    assert list(summary) == ["chance", "word_overlap", "tfidf_cosine"]
    assert summary["chance"] == {
        "accuracy": 0.375,
        "categories": {"OCR": 0.25, "Quantity": 0.5},
        "media": {"image": 0.25, "video": 0.5},
    }
    assert summary["word_overlap"]["accuracy"] == 1.0


def test_statements_of_single_characters_have_scores():
    scores = statement_only([record("A 1", ["1", "2", "3", "4"], name=f"{i}") for i in range(10)])
    assert [len(row) for row in scores] == [4] * 10


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: chance([]), "no records"),
        (lambda: word_overlap([record("a", ["one"])]), "got 1 statements in 'a/OCR'"),
        (lambda: tfidf_cosine([record("?", ["!", "."])]), "without a single word"),
        (lambda: shared_tie_accuracy([[1, 2]], [2]), "got label 2 for 2 scores"),
        (lambda: shared_tie_accuracy([[1, 2]], [0, 1]), "1 lists of scores and 2 labels"),
        (lambda: shared_tie_accuracy([], []), "at least one"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
