"""Does the seed of an aggregator decide? The spread over seeds beside the interval over captions, and changed places.

    seed_rows(groups)          # of every feature with several seeds: accuracy, interval over captions, spread
    seed_flips(groups)         # of every two of them: in how many pairs of seeds their order is not that of the means
    stability_table(results)   # both in Markdown; empty without several seeds

The paper trains each aggregator five times and finds 0.02 points between them (Section 4.4). Tests:
tests/test_stability.py.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np

from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import SeedGroup, group_seeds
from granted.utils.shown import markdown_escaped


def with_seeds(groups: Iterable[SeedGroup]) -> list[SeedGroup]:
    """Those with aggregators of several seeds."""
    return [one for one in groups if one.pooling == "aggregator" and len(one.runs) > 1]


def seed_rows(groups: Iterable[SeedGroup]) -> list[dict[str, Any]]:
    """How far seeds are apart.

    Args:
        groups (`list[SeedGroup]`): of one benchmark.

    Returns:
        For each with several seeds: `arm` (`"encoder · feature"`), `seeds`, `accuracy`, `ci95` (over captions, seeds
        taken as fixed), `spread` (highest minus lowest) and `deviation` (standard, over seeds).
    """
    return [
        {
            "arm": one.label,
            "seeds": len(one.runs),
            "accuracy": one.estimate.accuracy,
            "ci95": [one.estimate.low, one.estimate.high],
            "spread": one.spread,
            "deviation": float(_accuracies(one).std(ddof=1)),
        }
        for one in with_seeds(groups)
    ]


def seed_flips(groups: Iterable[SeedGroup]) -> list[dict[str, Any]]:
    """How often two features change places with the seeds.

    Args:
        groups (`list[SeedGroup]`): of one benchmark, the most accurate first.

    Returns:
        For each two with several seeds: `better` and `worse` by their means, `difference` of these, and `flipped`, the
        share of pairs of seeds (one of each) in which the worse one is ahead; equal ones count half.
    """
    rows = []
    for a, b in combinations(with_seeds(groups), 2):
        behind = _accuracies(b)[:, None] - _accuracies(a)[None]  # (S_b, S_a)
        flipped = float((np.sign(behind) / 2 + 0.5).mean())
        difference = a.estimate.accuracy - b.estimate.accuracy
        rows.append({"better": a.label, "worse": b.label, "difference": difference, "flipped": flipped})
    return rows


def stability_table(results: Iterable[Result]) -> str:
    """Both tables in GitHub's Markdown; empty unless a feature has several seeds."""
    groups = group_seeds(results)
    rows, flips = seed_rows(groups), seed_flips(groups)
    if not rows:
        return ""
    lines = ["| Encoder · feature | Seeds | Accuracy, % | Interval over captions | Spread over seeds | Deviation |"]
    lines.append("|---|" + "--:|" * 5)
    for row in rows:
        low, high = (f"{100 * end:.1f}" for end in row["ci95"])
        figures = [f"{100 * row[name]:.1f}" for name in ("accuracy", "spread", "deviation")]
        cells = [markdown_escaped(row["arm"]), str(row["seeds"]), figures[0], f"{low} to {high}", *figures[1:]]
        lines.append(f"| {' | '.join(cells)} |")
    turned = [row for row in flips if row["flipped"]]
    if turned:
        lines += ["", "| Better on the mean of seeds | Worse | Difference | Pairs of seeds with the worse ahead, % |"]
        lines.append("|---|---|--:|--:|")
    for row in turned:
        named = [markdown_escaped(row[name]) for name in ("better", "worse")]
        lines.append(f"| {' | '.join(named)} | {100 * row['difference']:.1f} | {100 * row['flipped']:.0f} |")
    if flips:
        kept = len(flips) - len(turned)
        lines += ["", f"{kept} of {len(flips)} pairs of features keep their order whatever the seeds."]
    return "\n".join(lines) + "\n"


def _accuracies(group: SeedGroup) -> np.ndarray:
    return np.array([run.accuracy for run in group.runs])  # (S,)
