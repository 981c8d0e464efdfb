"""What single items of TED say of encoders, and encoders of items: hard ones, doubtful ones; what margins mean.

found = item_table(groups)               # an item a row
margin_table(groups)                     # accuracy where the margin is small, ..., large
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from granted.eval_metric.seed_groups import SeedGroup


FIFTHS = 5
FEWEST = 4  # encoders and features from which agreement on an item says something


def item_table(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """One row an item: `id, category, media, right, of, alone, discrimination`.

    `right` of `of` encoders and features have it right (in most of their seeds), `alone` names the only one that has.
    `discrimination` is the correlation, over encoders and features, of having this item right with the share of the
    other items that are right: an item where it is negative is missed by good encoders and probably wrong. Nan where
    all or none have it right.

    Args:
        groups (`list[SeedGroup]`): on the same items.
    """
    shares = np.stack([group.correct.mean(0) for group in groups])  # (A, n)
    rest = (shares.sum(1, keepdims=True) - shares) / max(1, shares.shape[1] - 1)  # (A, n)
    rows = []
    for i, item in enumerate(groups[0].runs[0].items):
        right = shares[:, i] > 0.5  # (A,)
        varies = np.ptp(shares[:, i]) > 0 and np.ptp(rest[:, i]) > 0
        found = float(np.corrcoef(shares[:, i], rest[:, i])[0, 1]) if varies else float("nan")
        rows.append(
            {
                "id": item["id"],
                "category": item["category"],
                "media": item["media"],
                "right": int(right.sum()),
                "of": len(groups),
                "alone": groups[int(right.argmax())].label if right.sum() == 1 else "",
                "discrimination": found,
            }
        )
    return rows


def margin_table(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """One row an encoder and feature: `arm`, and `fifths`: accuracy from the smallest fifth of margins to the largest.

    The margin of an item is the highest score of a statement minus the second highest. Where it says how certain an
    encoder is, accuracy rises from left to right.
    """
    rows = []
    for group in groups:
        scores = [[sorted(item["scores"])[-2:] for item in run.items] for run in group.runs]  # (S, n, 2)
        margins = np.diff(np.array(scores), axis=2)[..., 0].ravel()  # (S * n,)
        right = group.correct.ravel()[margins.argsort(kind="stable")]  # (S * n,)
        rows.append({"arm": group.label, "fifths": [float(part.mean()) for part in np.array_split(right, FIFTHS)]})
    return rows
