"""Intervals and tests against closed forms and known values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.eval_metric.statistics import bootstrap_accuracy, paired_difference
from granted.utils.errors import InputError


def half_right(n):
    return np.arange(n) % 2 == 0


def test_singletons_give_the_binomial_standard_error():
    estimate = bootstrap_accuracy(half_right(400), np.arange(400))
    se = np.sqrt(0.25 / 400)
    assert (estimate.accuracy, estimate.n, estimate.groups) == (0.5, 400, 400)
    assert estimate.standard_error == pytest.approx(se, rel=0.03)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * se, rel=0.06)


@pytest.mark.parametrize("k", [4, 9])
def test_duplicates_within_groups_widen_the_interval_by_sqrt_k(k):
    n = 3600
    correct, groups = np.repeat(half_right(n // k), k), np.repeat(np.arange(n // k), k)
    alone, grouped = bootstrap_accuracy(correct, np.arange(n)), bootstrap_accuracy(correct, groups)
    assert grouped.standard_error / alone.standard_error == pytest.approx(np.sqrt(k), rel=0.05)


def test_unequal_groups_give_the_ratio_estimators_standard_error():
    rng = np.random.default_rng(1)
    groups = rng.integers(200, size=800)
    correct = rng.random(800) < rng.random(200)[groups]
    estimate = bootstrap_accuracy(correct, groups)
    sums, counts = np.bincount(groups, correct, 200), np.bincount(groups, minlength=200)
    sums, counts = sums[counts > 0], counts[counts > 0]
    linearised = np.sqrt(((sums - correct.mean() * counts) ** 2).sum()) / counts.sum()
    assert estimate.standard_error == pytest.approx(linearised, rel=0.05)


@pytest.mark.parametrize("right", [True, False])
def test_all_alike_does_not_claim_certainty(right):
    estimate = bootstrap_accuracy(np.full(20, right), np.repeat(np.arange(10), 2))
    z2 = 1.959963984540054**2
    width = z2 / (10 + z2)  # Wilson at 0 or 1 of 10 captions
    assert (estimate.low, estimate.high) == pytest.approx((1 - width, 1) if right else (0, width))


def test_seeds_are_averaged_per_item():
    one, other = half_right(100), ~half_right(100)
    estimate = bootstrap_accuracy(np.stack([one, other]), np.arange(100))
    assert estimate.accuracy == 0.5 and estimate.standard_error == 0
    same = bootstrap_accuracy(np.stack([one, one, one]), np.arange(100))
    assert same == bootstrap_accuracy(one, np.arange(100))


def test_seed_decides():
    correct, groups = half_right(90), np.arange(90) // 3
    assert bootstrap_accuracy(correct, groups, seed=3) == bootstrap_accuracy(correct, groups, seed=3)
    assert bootstrap_accuracy(correct, groups, seed=3) != bootstrap_accuracy(correct, groups, seed=4)


def test_paired_difference_of_known_effects():
    n = 400
    base = half_right(n)
    better = base.copy()
    better[1:81:2] = True  # 40 more right, none lost
    found = paired_difference(better, base, np.arange(n))
    assert found.difference == pytest.approx(0.1)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(0.1 * 0.9 / n), rel=0.06)
    assert found.p_value == pytest.approx(2 / 10_001)
    none = paired_difference(base, base, np.arange(n))
    assert (none.difference, none.low, none.high, none.p_value) == (0, 0, 0, 1)


def test_a_single_group_says_nothing():
    found = paired_difference([True, True], [False, False], ["a", "a"])
    assert (found.low, found.high, found.p_value) == (-1, 1, 1)


def test_seeds_against_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 300)) < 0.6, rng.random((2, 300)) < 0.5
    found = paired_difference(a, b, np.arange(300) // 4)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.low < found.difference < found.high


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_properties(rows):
    a, b, groups = (np.array(column) for column in zip(*rows))
    estimate = bootstrap_accuracy(a, groups, n_resamples=200)
    assert 0 <= estimate.low <= estimate.high <= 1 and estimate.accuracy == pytest.approx(a.mean())
    order = np.random.default_rng(0).permutation(len(a))
    assert bootstrap_accuracy(a[order], groups[order], n_resamples=200) == estimate
    forth, back = (paired_difference(x, y, groups, n_resamples=200) for x, y in ((a, b), (b, a)))
    assert forth.difference == -back.difference and forth.p_value == back.p_value
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))


OK = np.array([True, False, True])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bootstrap_accuracy([], []), "shape"),
        (lambda: bootstrap_accuracy(OK, [1, 2]), "groups of shape"),
        (lambda: bootstrap_accuracy([0.0, np.nan, 1.0], [1, 2, 3]), "outside 0 to 1"),
        (lambda: bootstrap_accuracy(OK, [1, 2, 3], n_resamples=5), "n_resamples=5"),
        (lambda: paired_difference(OK, OK[:2], [1, 2, 3]), "3 items in a and 2 in b"),
        (
            lambda: paired_difference(OK, OK, [1, 2, 3], ids_a="abc", ids_b="acb"),
            "'b' in a and 'c' in b at position 1",
        ),
        (lambda: paired_difference(OK, OK, [1, 2, 3], ids_a="abc"), "ids of one side"),
        (lambda: paired_difference(OK, OK, [1, 2, 3], ids_a="ab", ids_b="ab"), "ids for 3 items"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("credit", [0.1, 0.2, 0.6, 0.8])
def test_groups_that_differ_by_rounding_are_as_equal_as_others(credit):
    found = bootstrap_accuracy([credit] * 4, [0, 1, 1, 1])
    assert found.high - found.low > 0.3, "two groups of one accuracy are no certainty"
