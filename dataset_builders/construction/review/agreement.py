"""How far reviewers agree: kappa with an interval, for all instances and for each category.

    for row in agreement(decisions, instances, gold):
        print(row.category, row.of, row.kappa, row.ci95)

Cohen's kappa where two people have reviewed the instances that are reviewed twice, Fleiss' where more have; both of
statsmodels. On what was decided (accept, fix, reject, null), and on whether the instance is kept. Intervals are
percentiles of a bootstrap over images and videos with all their instances. Gold instances are left out: they were
chosen, not drawn.

Tests: tests/test_review.py.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
from statsmodels.stats.proportion import proportion_confint

from .decisions import DECISIONS, KEPT, Decision
from .instances import Instance


RESAMPLES = 1_000
LEVEL = 0.95
OF = {
    "decision": (DECISIONS, {name: name for name in DECISIONS}),
    "kept": (("kept", "not kept"), {name: "kept" if name in KEPT else "not kept" for name in DECISIONS}),
}


@dataclass(frozen=True)
class Agreement:
    """Agreement of the reviewers on some instances.

    Attributes:
        category (`str`): of the instances, or `"all"`.
        of (`str`): `"decision"` or `"kept"`.
        method (`str`): `"cohen"` or `"fleiss"`.
        reviewers (`int`): how many people.
        ratings (`int`): decisions of each instance that count, the first ones.
        instances (`int`): those with so many.
        items (`int`): images and videos that these are about.
        agreed (`float`): the share of pairs of decisions about one instance that are the same.
        kappa (`float`, *optional*): none where all decisions are the same, which leaves nothing to chance to be above.
        ci95 (`tuple[float, float]`, *optional*): over resamples that have a kappa.
        defined (`float`): the share of resamples that have one.
    """

    category: str
    of: str
    method: str
    reviewers: int
    ratings: int
    instances: int
    items: int
    agreed: float
    kappa: float | None
    ci95: tuple[float, float] | None
    defined: float


def agreement(
    decisions: Sequence[Decision],
    instances: Mapping[str, Instance],
    gold: Collection[str] = (),
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Agreement]:
    """The agreement on all instances that were reviewed more than once, and on those of each category.

    Args:
        decisions (`Sequence[Decision]`): those that stand, in their order.
        instances (`Mapping[str, Instance]`): by name.
        gold (`Collection[str]`): names of instances that are left out.
        seed (`int`, defaults to 0): of the bootstrap.
        resamples (`int`, defaults to 1000): of the bootstrap.
    """
    by: dict[str, dict[str, str]] = {}
    for one in decisions:
        if one.instance in instances and one.instance not in gold:
            by.setdefault(one.instance, {})[one.reviewer] = one.decision
    shared = {name: said for name, said in by.items() if len(said) > 1}
    reviewers = sorted({reviewer for said in shared.values() for reviewer in said})
    parts = {"all": list(shared)}
    for name in shared:
        parts.setdefault(instances[name].category, []).append(name)
    rows = []
    for category in ["all", *sorted(set(parts) - {"all"})]:
        names = parts[category]
        if not names:
            continue
        ratings = min(len(shared[name]) for name in names)
        items = [instances[name].id for name in names]
        for of, (classes, class_of) in OF.items():
            said = [{who: classes.index(class_of[what]) for who, what in shared[name].items()} for name in names]
            tables = _tables(said, reviewers, ratings, len(classes))
            method = "cohen" if len(reviewers) == 2 else "fleiss"
            figures = _figures(tables, np.unique(items, return_inverse=True)[1], method, seed, resamples)
            head = (category, of, method, len(reviewers), ratings, len(names), len(set(items)))
            rows.append(Agreement(*head, *figures))
    return rows


def _tables(said: list[dict[str, int]], reviewers: list[str], ratings: int, classes: int) -> np.ndarray:
    """For each instance what statsmodels counts: with two reviewers who said what, with more how many said what."""
    if len(reviewers) == 2:
        one, other = reviewers
        tables = np.zeros((len(said), classes, classes))  # (instances, classes, classes)
        for number, classes_of in enumerate(said):
            tables[number, classes_of[one], classes_of[other]] = 1
        return tables
    counts = np.zeros((len(said), classes))  # (instances, classes)
    for number, classes_of in enumerate(said):
        np.add.at(counts[number], list(classes_of.values())[:ratings], 1)
    return counts


def _figures(
    tables: np.ndarray, items: np.ndarray, method: str, seed: int, resamples: int
) -> tuple[float, float | None, tuple[float, float] | None, float]:
    """The share that agreed, kappa, its interval, and the share of resamples that have a kappa."""
    kappa, agreed, chance = _kappa(tables, method)
    rng, count = np.random.default_rng(seed), items.max() + 1
    members = [np.flatnonzero(items == item) for item in range(count)]
    drawn = []
    for _ in range(resamples):
        rows = np.concatenate([members[item] for item in rng.integers(0, count, count)])
        drawn.append(_kappa(tables[rows], method)[0])
    defined = np.array([one for one in drawn if one is not None])
    share = len(defined) / resamples
    if kappa is None:
        return agreed, None, None, share
    if not len(defined) or np.ptp(defined) < 1e-12:  # no resample differs, which is no certainty
        low, high = proportion_confint(agreed * count, count, alpha=1 - LEVEL, method="wilson")
        ends = [(end - chance) / (1 - chance) for end in (low, high)]
    else:
        ends = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return agreed, kappa, (float(ends[0]), float(ends[1])), share


def _kappa(tables: np.ndarray, method: str) -> tuple[float | None, float, float]:
    """Kappa, the share that agreed, and the share expected by chance. Kappa is none where chance agrees always."""
    if method == "cohen":
        table = tables.sum(0)  # (classes, classes)
        shares = table / table.sum()
        agreed, chance = np.trace(shares), shares.sum(0) @ shares.sum(1)
    else:
        ratings = tables[0].sum()
        shares = tables.sum(0) / tables.sum()  # (classes,)
        agreed, chance = ((tables**2).sum(1) - ratings).mean() / (ratings * (ratings - 1)), shares @ shares
    if chance > 1 - 1e-12:
        return None, float(agreed), float(chance)
    kappa = cohens_kappa(table, return_results=False) if method == "cohen" else fleiss_kappa(tables)
    return float(kappa), float(agreed), float(chance)


@dataclass(frozen=True)
class GoldScore:
    """How often a reviewer decided about gold instances as is right.

    Attributes:
        reviewer (`str`): the name.
        decided (`int`): gold instances that were decided.
        right (`int`): with the decision that is right.
        kept_right (`int`): kept or not, as is right.
        ci95 (`tuple[float, float]`): Wilson's interval of the share that is right.
    """

    reviewer: str
    decided: int
    right: int
    kept_right: int
    ci95: tuple[float, float]


def gold_scores(decisions: Sequence[Decision], gold: Mapping[str, str]) -> list[GoldScore]:
    """How often each reviewer was right about gold instances.

    Args:
        decisions (`Sequence[Decision]`): those that stand.
        gold (`Mapping[str, str]`): by instance the decision that is right.
    """
    scores = []
    for reviewer in sorted({one.reviewer for one in decisions if one.instance in gold}):
        mine = [one for one in decisions if one.reviewer == reviewer and one.instance in gold]
        said = [(one.decision, gold[one.instance]) for one in mine]
        right = sum(got == expected for got, expected in said)
        kept = sum((got in KEPT) == (expected in KEPT) for got, expected in said)
        low, high = proportion_confint(right, len(said), alpha=1 - LEVEL, method="wilson")
        scores.append(GoldScore(reviewer, len(said), right, kept, (float(low), float(high))))
    return scores
