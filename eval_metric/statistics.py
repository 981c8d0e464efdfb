"""Intervals and tests for accuracies whose items come in groups: the several instances that share one caption.

    from granted.eval_metric.statistics import bootstrap_accuracy, paired_difference
    bootstrap_accuracy(correct, groups=caption_ids)                  # accuracy and its 95% interval
    paired_difference(correct_a, correct_b, groups=caption_ids)      # difference, interval, p value

Everything is numpy on CPU and takes well under a second for the 6,641 instances of TED-6K.

Captions are what is resampled, with all their items: instances of one caption are not independent, and an interval
that takes them as such is too narrow. Where several seeds are given as (S, n), an item counts by its mean over seeds;
the seeds are taken as fixed, so the interval says what other captions would change, not what other seeds would.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from granted.utils.errors import InputError


CONFIDENCE = 0.95
TOLERANCE = 1e-12  # of equality, after rounding


@dataclass(frozen=True)
class Estimate:
    """An accuracy with its interval, as fractions of 1.

    Attributes:
        accuracy: the point estimate, the mean over items (not the mean of resamples).
        low, high: ends of the interval.
        standard_error: standard deviation over resamples.
        n: number of items.
        groups: number of groups (captions).
    """

    accuracy: float
    low: float
    high: float
    standard_error: float
    n: int
    groups: int


@dataclass(frozen=True)
class Difference:
    """Accuracy of a minus accuracy of b on the same items, as fractions of 1.

    Attributes:
        difference: the point estimate; positive where a is better.
        low, high: ends of the interval.
        p_value: two-sided, from the same resamples: twice the share beyond 0, at least 2 / (resamples + 1).
        n, groups: numbers of items and of groups.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    groups: int


def bootstrap_accuracy(
    correct: np.ndarray,
    groups: Sequence,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Accuracy with a percentile interval from a bootstrap over groups.

    Each resample draws as many groups as there are, with replacement, and divides the sum of correct items by the
    number of items drawn. Where no resample can differ (one group, or every group equally right) the bootstrap would
    claim certainty; the interval is then Wilson's with the number of groups as the sample size.

    Args:
        correct: (n,) or (S, n) bool, or credits between 0 and 1. Several rows are averaged per item.
        groups: n labels of any sortable kind (caption ids); items with equal labels are resampled together.
        n_resamples: default 10,000.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        InputError: no items, lengths that differ, credits outside 0 to 1, or a setting out of range.
    """
    credits = _credits(correct, "correct")  # (n,) float64
    sums, counts = _group_totals(credits, groups)  # (G,), (G,)
    resampled = _resample(sums, counts, n_resamples, seed)  # (n_resamples,)
    accuracy = sums.sum() / counts.sum()
    if np.ptp(sums / counts) < TOLERANCE:
        low, high = proportion_confint(accuracy * len(counts), len(counts), alpha=1 - CONFIDENCE, method="wilson")
    else:
        low, high = _percentiles(resampled)
    spread = float(resampled.std(ddof=1))
    return Estimate(float(accuracy), float(low), float(high), spread, len(credits), len(counts))


def paired_difference(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    groups: Sequence,
    n_resamples: int = 10_000,
    ids_a: Sequence | None = None,
    ids_b: Sequence | None = None,
) -> Difference:
    """Difference of two accuracies on the same items, resampling groups for both at once.

    A single group says nothing about others: the interval is then -1 to 1 and the p value 1.

    Args:
        correct_a, correct_b: (n,) or (S, n); the numbers of seeds may differ, the items may not.
        groups, n_resamples: as in `bootstrap_accuracy`.
        ids_a, ids_b: identities of the items, compared if given.

    Raises:
        InputError: as in `bootstrap_accuracy`, or the items of a and b do not line up.
    """
    credits_a, credits_b = _credits(correct_a, "correct_a"), _credits(correct_b, "correct_b")  # (n,), (n,)
    _check_lined_up(credits_a, credits_b, ids_a, ids_b)
    sums, counts = _group_totals(credits_a - credits_b, groups)  # (G,), (G,)
    resampled = _resample(sums, counts, n_resamples, seed=0)  # (n_resamples,)
    if len(counts) == 1:
        return Difference(float(sums[0] / counts[0]), -1.0, 1.0, 1.0, len(credits_a), 1)
    low, high = _percentiles(resampled)
    # A difference of exactly 0 must not become a signed rounding error.
    beyond = min((resampled <= TOLERANCE).sum(), (resampled >= -TOLERANCE).sum())
    p_value = min(1.0, 2 * (1 + beyond) / (1 + n_resamples))
    difference = float(sums.sum() / counts.sum())
    return Difference(difference, float(low), float(high), float(p_value), len(credits_a), len(counts))


def _credits(correct: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(correct, dtype=np.float64)  # (n,) or (S, n)
    if values.ndim not in (1, 2) or not values.size:
        raise InputError(f"got {name} of shape {values.shape}, expected (n,) or (seeds, n) with n > 0: pass items")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"got {name} with values outside 0 to 1, expected bool or credits: pass right and wrong")
    return values if values.ndim == 1 else values.mean(axis=0)  # (n,)


def _check_lined_up(a: np.ndarray, b: np.ndarray, ids_a: Sequence | None, ids_b: Sequence | None) -> None:
    if len(a) != len(b):
        raise InputError(f"got {len(a)} items in a and {len(b)} in b, expected the same items: compare on one dataset")
    if (ids_a is None) != (ids_b is None):
        raise InputError("got ids of one side only, expected both or neither: pass ids_a and ids_b")
    if ids_a is None:
        return
    ids_a, ids_b = list(ids_a), list(ids_b)
    if len(ids_a) != len(a) or len(ids_b) != len(b):
        raise InputError(f"got {len(ids_a)} and {len(ids_b)} ids for {len(a)} items, expected one each: pass all ids")
    for i, (one, other) in enumerate(zip(ids_a, ids_b)):
        if one != other:
            raise InputError(
                f"got item {one!r} in a and {other!r} in b at position {i}, expected the same items in order: "
                "compare on one dataset"
            )


def _group_totals(values: np.ndarray, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of items per group, (G,) each."""
    labels = np.asarray(groups)  # (n,)
    if labels.shape != values.shape:
        raise InputError(f"got groups of shape {labels.shape} for {len(values)} items, expected one label per item")
    unique, index = np.unique(labels, return_inverse=True)  # (G,), (n,)
    sums = np.bincount(index, weights=values, minlength=len(unique))  # (G,)
    return sums, np.bincount(index, minlength=len(unique))


def _resample(sums: np.ndarray, counts: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Ratio of sums to counts for each resample of the groups, (n_resamples,)."""
    if n_resamples < 100:
        raise InputError(f"got n_resamples={n_resamples}, expected 100 or more: use the default of 10,000")
    # Equal groups are drawn together: how often each kind occurs in a resample is multinomial. Kinds have the order of
    # their first groups, so that a difference and its reverse draw alike.
    pairs = np.stack([sums, counts], axis=1)  # (G, 2)
    _, first, times = np.unique(pairs, axis=0, return_index=True, return_counts=True)  # (K,) each
    kinds, times = pairs[np.sort(first)], times[first.argsort()]  # (K, 2), (K,)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sums), times / len(sums), size=n_resamples)  # (n_resamples, K)
    return drawn @ kinds[:, 0] / (drawn @ kinds[:, 1])  # (n_resamples,)


def _percentiles(resampled: np.ndarray) -> np.ndarray:
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(resampled, [tail, 1 - tail])  # (2,)
