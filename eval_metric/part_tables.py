"""Tables over parts of a benchmark: categories, media, and where shared words answer, tie or mislead.

    part_tables(groups)                                  # by category and by medium, the baselines below
    strata_table(groups, overlap_credits(records))
    family_table(groups)                                 # an encoder a row, a feature a column (Table 1)

Tests: tests/test_part_tables.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from granted.dataset_builders.ted_6k.baselines import shared_tie_accuracy, word_overlap
from granted.eval_metric.seed_groups import SeedGroup, shared_baselines
from granted.eval_metric.statistics import Estimate


BASELINE_NAMES = {"chance": "Chance", "word_overlap": "Word overlap", "tfidf_cosine": "TF-IDF cosine"}
STRATA = ("words answer", "words tie", "words mislead")
FAMILIES = ("encoder-only", "language model", "multimodal")
FEATURES = ("norm_avg", "last", "penultimate", "learned", "avg")  # first, in this order; single layers are curves
FLOORS = ("random weights", "words with positions", "bag of words", "the scene itself")  # in an encoder's name


def is_floor(arm: str) -> bool:
    """Whether `"encoder · feature"` stands for comparison only: no knowledge of an encoder in it, or no aggregator."""
    return any(name in arm for name in FLOORS) or arm.startswith("random · ") or arm.endswith(" · mean")


def part_tables(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """By category and by medium, see [`part_table`]."""
    tables = []
    for title, kind in (("By category", "categories"), ("By medium", "media")):
        stored = shared_baselines(groups).items()
        baselines = {BASELINE_NAMES[name]: one[kind] for name, one in stored}
        tables.append(part_table(title, groups, [getattr(one, kind) for one in groups], baselines))
    return tables


def overlap_credits(records: Sequence[dict]) -> dict[str, float]:
    """What word overlap makes of each item, by its id: 1, 1 / k where k statements share most words, or 0."""
    credits = shared_tie_accuracy(word_overlap(records), [record["label"] for record in records])  # (n,)
    return dict(zip((record["id"] for record in records), credits.tolist()))


def stratum_of(credit: float) -> str:
    """`STRATA`: the true statement alone shares most words with its caption, with others, or another shares more."""
    return STRATA[0] if credit == 1 else STRATA[1] if credit > 0 else STRATA[2]


def strata_table(groups: Sequence[SeedGroup], credits: Mapping[str, float]) -> dict[str, Any]:
    """Accuracy where shared words answer, where they tie and where they mislead, see [`part_table`].

    Args:
        groups (`list[SeedGroup]`): on one benchmark.
        credits (`dict[str, float]`): of [`overlap_credits`].
    """
    items = groups[0].runs[0].items
    own = np.array([credits[item["id"]] for item in items])  # (n,)
    chances = np.array([1 / len(item["scores"]) for item in items])  # (n,)
    masks = {name: np.array([stratum_of(credit) == name for credit in own]) for name in STRATA}  # (n,) each
    masks = {name: mask for name, mask in masks.items() if mask.any()}
    parts = [{name: group.estimate_of(mask) for name, mask in masks.items()} for group in groups]
    baselines = {
        label: {name: float(values[mask].mean()) for name, mask in masks.items()}
        for label, values in (("Chance", chances), ("Word overlap", own))
    }
    return part_table("By shared words", groups, parts, baselines)


def part_table(
    title: str,
    groups: Sequence[SeedGroup],
    parts: Sequence[Mapping[str, Estimate]],
    baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """A table as pages show it: `title`, `columns` (name, n) and `rows` (label, baseline, cells).

    What [`is_floor`] names and direct answers of language models are baselines, too. A cell is `None` or has
    `accuracy`, `low`, `high` and `best`, which is never true of a baseline and of nothing that is below one.

    Args:
        title (`str`): of the table.
        groups (`list[SeedGroup]`): the rows.
        parts (`list[dict]`): of each group its estimates by column.
        baselines (`dict[str, dict]`): accuracies by column of what uses no encoder, by its label.
    """
    ranked = [own for group, own in zip(groups, parts, strict=True) if not group.direct]
    best = {
        name: max([own[name].accuracy for own in ranked] + [values.get(name, 0) for values in baselines.values()])
        for name in parts[0]
    }
    rows = []
    for group, own in zip(groups, parts, strict=True):
        baseline = is_floor(group.label) or group.direct
        cells = [
            {
                "accuracy": one.accuracy,
                "low": one.low,
                "high": one.high,
                "best": not baseline and one.accuracy == best[name],
            }
            for name, one in own.items()
        ]
        rows.append({"label": group.label, "baseline": baseline, "cells": cells})
    for label, values in baselines.items():
        own = [values.get(name) for name in parts[0]]
        cells = [None if v is None else {"accuracy": v, "low": None, "high": None, "best": False} for v in own]
        rows.append({"label": label, "baseline": True, "cells": cells})
    rows.sort(key=lambda row: row["baseline"])  # stable: the most accurate first, baselines below
    return {"title": title, "columns": [(name, one.n) for name, one in parts[0].items()], "rows": rows}


def family_table(groups: Sequence[SeedGroup]) -> dict[str, Any]:
    """Aggregators as Table 1 of the paper: `features` and `rows` (encoder, family, tuning, size, cells of estimates).

    Args:
        groups (`list[SeedGroup]`): the most accurate first; family and tuning of results that do not say are `None`.
    """
    pooled = [group for group in groups if group.pooling == "aggregator"]
    known = {group.feature for group in pooled if not group.feature.startswith(("layer_", "norm_avg_first_"))}
    features = [name for name in FEATURES if name in known] + sorted(known - set(FEATURES))
    rows = []
    for encoder in dict.fromkeys(group.encoder for group in pooled if group.feature in known):
        own = {group.feature: group for group in pooled if group.encoder == encoder}
        made = next(iter(own.values())).runs[0].provenance
        count = (made.get("parameters") or {}).get("encoder")
        rows.append(
            {
                "encoder": encoder,
                "family": made.get("family"),
                "tuning": made.get("tuning"),
                "size": None if count is None else size_name(count),
                "cells": [own[name].estimate if name in own else None for name in features],
            }
        )
    order = {name: place for place, name in enumerate(FAMILIES)}
    rows.sort(key=lambda row: order.get(row["family"], len(order)))
    return {"features": features, "rows": rows}


def size_name(parameters: int) -> str:
    """`"22.7M"` or `"8.0B"`."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 999_950_000 else f"{parameters / 1e6:.1f}M"
