"""Results ready to be compared: seeds of one encoder, feature and pooling become one group.

    from granted.eval_metric.results import load_all
    from granted.eval_metric.seed_groups import compare, group_seeds
    best, second, *others = group_seeds(load_all("results"))
    compare(best, second).difference

What a language model answered directly is a group, too, but never one of an encoder: see `SeedGroup.direct`.

All results of one call must be whole, on the same data, and of encoders that read as much of every text; anything else
is refused, because the figures could not stand side by side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from statsmodels.stats.multitest import multipletests

from granted.dataset_builders.scenes.shapes.rungs import facts_of
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA
from granted.eval_metric.results import ANSWERS, Result
from granted.eval_metric.statistics import (
    Difference,
    Estimate,
    bootstrap_accuracy,
    paired_difference,
)
from granted.utils.errors import InputError


@dataclass(frozen=True)
class SeedGroup:
    """One encoder, feature and pooling with its runs, one per seed, in order of seed."""

    encoder: str
    feature: str
    pooling: str
    runs: tuple[Result, ...]

    @property
    def label(self) -> str:
        """Short name for charts and lists."""
        return f"{self.encoder} · {self.feature}" + ("" if self.pooling == "aggregator" else f" · {self.pooling}")

    @property
    def direct(self) -> bool:
        """Whether a language model answered directly, which is no score of an encoder."""
        return self.pooling in ANSWERS

    @cached_property
    def correct(self) -> np.ndarray:
        """(S, n) bool."""
        return np.stack([run.correct for run in self.runs])  # (S, n)

    @cached_property
    def estimate(self) -> Estimate:
        """Mean accuracy over seeds with its interval over captions."""
        return self.estimate_of(np.ones(self.correct.shape[1], dtype=bool))

    def estimate_of(self, mask: np.ndarray) -> Estimate:
        """The same over some of the items only; `mask` (n,) bool."""
        return bootstrap_accuracy(self.correct[:, mask], self.runs[0].column("caption_id")[mask])

    @cached_property
    def categories(self) -> dict[str, Estimate]:
        """The same per category that occurs, in the benchmark's order."""
        return self._by("category", CATEGORIES)

    @cached_property
    def media(self) -> dict[str, Estimate]:
        """The same per medium that occurs."""
        return self._by("media", MEDIA)

    @cached_property
    def facts(self) -> dict[int, Estimate]:
        """The same per number of facts that a caption tells, of a benchmark of `granted data ted --facts`."""
        facts = np.array([facts_of(caption) or 0 for caption in self.runs[0].column("caption_id")])  # (n,)
        return {int(rung): self.estimate_of(facts == rung) for rung in np.unique(facts[facts > 0])}

    @property
    def ties(self) -> float:
        """Tied items, mean over seeds."""
        return float(np.mean([run.ties for run in self.runs]))

    @property
    def parameters(self) -> dict[str, int]:
        """How many the encoder and, if there is one, the aggregator have; empty where it is not known."""
        return self.runs[0].provenance.get("parameters") or {}

    @property
    def spread(self) -> float | None:
        """Highest minus lowest accuracy of the seeds; None for a single run."""
        return float(np.ptp([run.accuracy for run in self.runs])) if len(self.runs) > 1 else None

    def _by(self, name: str, values: Sequence[str]) -> dict[str, Estimate]:
        column = self.runs[0].column(name)  # (n,)
        return {value: self.estimate_of(column == value) for value in values if (column == value).any()}


@dataclass(frozen=True)
class Comparison:
    """Seed group a against b on the same items.

    Attributes:
        difference: paired, over all seeds.
        adjusted_p: the difference's p value, Holm-adjusted over the comparisons made together.
    """

    a: SeedGroup
    b: SeedGroup
    difference: Difference
    adjusted_p: float


def group_seeds(results: Iterable[Result]) -> list[SeedGroup]:
    """Group results by their seeds, the most accurate first.

    Raises:
        InputError: no results, a shard, different datasets, encoders that read different amounts of a text, one run
            twice, or seeds of different weights or settings.
    """
    results = list(results)
    if not results:
        raise InputError("got no results, expected at least one: evaluate an encoder first")
    first = results[0]
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        if result.shard is not None:
            raise InputError(f"got shard {result.shard} of {result.encoder}, expected whole results: merge the shards")
        _check_same_data(first, result)
        groups.setdefault((result.encoder, result.feature, result.pooling), []).append(result)
    _check_same_reading([result for result in results if result.pooling not in ANSWERS])
    groups = [SeedGroup(*key, tuple(_ordered_runs(key, runs))) for key, runs in groups.items()]
    return sorted(groups, key=lambda one: (-one.estimate.accuracy, one.label))


def compare(a: SeedGroup, b: SeedGroup) -> Comparison:
    """Compare two groups item by item; positive differences favour a."""
    return compare_all([(a, b)])[0]


def compare_all(pairs: Sequence[tuple[SeedGroup, SeedGroup]]) -> list[Comparison]:
    """Compare pairs of groups, with p values Holm-adjusted over all of them (statsmodels)."""
    if not pairs:
        return []
    drafts = [_compared(a, b) for a, b in pairs]
    adjusted = multipletests([draft[2].p_value for draft in drafts], method="holm")[1]  # (pairs,)
    return [Comparison(*draft, float(p_value)) for draft, p_value in zip(drafts, adjusted)]


def within_encoders(groups: Sequence[SeedGroup]) -> list[tuple[SeedGroup, SeedGroup]]:
    """For each encoder its best group against each of its others. `groups` in order of accuracy."""
    best = best_of_encoders(groups).values()
    rest = [one for one in groups if not one.direct]
    return [(top, one) for top in best for one in rest if one.encoder == top.encoder and one is not top]


def between_encoders(groups: Sequence[SeedGroup]) -> list[tuple[SeedGroup, SeedGroup]]:
    """The best group of the best encoder against the best of every other encoder. `groups` in order of accuracy."""
    best = list(best_of_encoders(groups).values())
    return [(best[0], other) for other in best[1:]]


def best_of_encoders(groups: Sequence[SeedGroup]) -> dict[str, SeedGroup]:
    """The most accurate group of each encoder, aggregators before mean pooling. `groups` in order of accuracy.

    What a language model answers directly is left out.
    """
    best: dict[str, SeedGroup] = {}
    for one in sorted((one for one in groups if not one.direct), key=lambda one: one.pooling != "aggregator"):
        best.setdefault(one.encoder, one)
    return dict(sorted(best.items(), key=lambda pair: (pair[1].pooling != "aggregator", -pair[1].estimate.accuracy)))


def shared_baselines(groups: Sequence[SeedGroup]) -> dict:
    """The baselines stored with the results; empty if none has any.

    Raises:
        InputError: two results on the same data store different ones.
    """
    stored = [run.baselines for one in groups for run in one.runs if run.baselines]
    if any(other != stored[0] for other in stored):
        raise InputError("got different baselines for one dataset, expected the same: run the older evaluation again")
    return stored[0] if stored else {}


def _compared(a: SeedGroup, b: SeedGroup) -> tuple:
    captions, ids = a.runs[0].column("caption_id"), a.runs[0].column("id")  # (n,), (n,)
    difference = paired_difference(a.correct, b.correct, captions, ids_a=ids, ids_b=b.runs[0].column("id"))
    return a, b, difference


def _check_same_data(first: Result, other: Result) -> None:
    for name in ("name", "config", "fingerprint"):
        if first.dataset[name] != other.dataset[name]:
            raise InputError(
                f"got results on dataset {name} {first.dataset[name]!r} and {other.dataset[name]!r}, expected one "
                "dataset: report each by itself"
            )
    names = ("id", "label", "caption_id", "category")
    if not all(np.array_equal(first.column(name), other.column(name)) for name in names):
        raise InputError(
            f"got other items in {other.encoder} {other.feature} than in {first.encoder} {first.feature} under one "
            "dataset fingerprint, expected the same: run the evaluation again"
        )


def _check_same_reading(results: Sequence[Result]) -> None:
    """All encoders must have read the texts up to one length, or whole; an unknown length is one of its own."""
    read: dict[tuple, bool] = {}  # (encoder, length) -> whether it read every text whole
    for result in results:
        length = (result.provenance.get("settings") or {}).get("max_length")
        key = (result.encoder, length)
        read[key] = read.get(key, True) and length is not None and result.provenance.get("texts_cut") == 0
    if len({length for _, length in read}) > 1 and not all(read.values()):
        amounts = {
            f"{encoder} {length or 'an unknown number of'} tokens{', which is all' if whole else ''}"
            for (encoder, length), whole in read.items()
        }
        raise InputError(
            f"got encoders that read different amounts of a text: {'; '.join(sorted(amounts))}, expected one amount: "
            "evaluate them again with one --max-length"
        )


def _ordered_runs(key: tuple, runs: list[Result]) -> list[Result]:
    seeds = [run.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"got {' '.join(key)} twice with one seed, expected each run once: remove the older result")
    for name in ("encoder_revision", "weights_fingerprint", "config_hash", "dtype"):
        values = [run.provenance.get(name) for run in runs]
        if any(value != values[0] for value in values):
            raise InputError(
                f"got seeds of {' '.join(key)} with different {name}, expected one encoder: give them different names"
            )
    return sorted(runs, key=lambda run: (run.seed is None, run.seed or 0))
