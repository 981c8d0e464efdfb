"""How many facts an encoder carries: the point where accuracy falls half way from its ceiling to guessing.

    found = fit_threshold([1, 2, 4, 8], credits, scenes, guess=0.11)
    str(found)                                     # "5.2 [4.4, 6.3]", "< 1" or "> 8"

The curve is a psychometric function: logistic in the logarithm of the number of facts, its guess rate fixed, its lapse
rate (what is missed however little is told) fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


RESAMPLES = 200
MOST_LAPSES = 0.6


@dataclass(frozen=True)
class Threshold:
    """A threshold with its interval, where the curve crosses; else `censored` says on which side it lies.

    Attributes:
        facts (`float`): the number of facts; the first or last rung where it is censored.
        ci95 (`tuple[float, float]`): scenes resampled.
        ceiling (`float`): accuracy of few facts, of the fit.
        censored (`str`): `"<"`, `">"` or `""`.
    """

    facts: float
    ci95: tuple[float, float]
    ceiling: float
    censored: str = ""

    def __str__(self) -> str:
        if self.censored:
            return f"{self.censored} {self.facts:g}"
        return f"{self.facts:.1f} [{self.ci95[0]:.1f}, {self.ci95[1]:.1f}]"


def fit_threshold(
    rungs: Sequence[int], credits: Sequence[np.ndarray], scenes: Sequence[Sequence[str]], guess: float
) -> Threshold:
    """Fit the curve of one arm.

    Args:
        rungs (`list[int]`): numbers of facts, rising.
        credits (`list[np.ndarray]`): for each rung what was right, (S, n) for S seeds.
        scenes (`list[list[str]]`): for each rung the scene of each of the n facts.
        guess (`float`): the guess rate.
    """
    # Right answers and answers of every scene; its facts and seeds are not independent and are drawn together.
    totals = []
    for credit, names in zip(credits, scenes):
        _, index = np.unique(np.asarray(names), return_inverse=True)  # (n,)
        counts = np.bincount(index)  # (G,)
        totals.append((np.bincount(index, weights=credit.mean(0)), counts))  # (G,) each
    point, ceiling = _fit(rungs, [(right.sum(), counts.sum()) for right, counts in totals], guess)
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = [rng.integers(len(counts), size=len(counts)) for _, counts in totals]  # (G,) each
        sums = [(right[own].sum(), counts[own].sum()) for (right, counts), own in zip(totals, drawn)]
        resampled.append(_fit(rungs, sums, guess)[0])
    low, high = np.clip(np.quantile(resampled, [0.025, 0.975]), rungs[0], rungs[-1])
    censored = "<" if point < rungs[0] else ">" if point > rungs[-1] else ""
    return Threshold(float(np.clip(point, rungs[0], rungs[-1])), (float(low), float(high)), float(ceiling), censored)


def _fit(rungs: Sequence[int], totals: Sequence[tuple[float, float]], guess: float) -> tuple[float, float]:
    """Threshold and ceiling of greatest likelihood; all facts at the guess rate carry none."""
    x = np.log2(rungs)  # (R,)
    right, counts = np.array(totals).T  # (R,) each

    def accuracy(parameters: np.ndarray) -> np.ndarray:
        middle, slope, lapse = parameters
        return guess + (1 - guess - lapse) * expit(-slope * (x - middle))  # (R,)

    def loss(parameters: np.ndarray) -> float:
        p = np.clip(accuracy(parameters), 1e-6, 1 - 1e-6)  # (R,)
        return -float(right @ np.log(p) + (counts - right) @ np.log(1 - p))

    if right.sum() <= guess * counts.sum():
        return 0.0, guess
    bounds = [(x[0] - 3, x[-1] + 3), (0.3, 6), (0, MOST_LAPSES * (1 - guess))]
    starts = [(middle, 1.5, 0.05) for middle in (x[0] - 1, x.mean(), x[-1] + 1)]
    best = min((minimize(loss, start, bounds=bounds, method="L-BFGS-B") for start in starts), key=lambda one: one.fun)
    return float(2 ** best.x[0]), float(1 - best.x[2])
