"""What single items of TED say of encoders, and encoders of items: hard ones, doubtful ones; what margins mean.

found = item_table(groups)               # an item a row
margin_table(groups)                     # accuracy where the margin is small, ..., large
browsable(found)                         # for a table that can be searched and sorted (`items.js`)
"""

import json
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
from markupsafe import Markup

from granted.eval_metric.part_tables import stratum_of
from granted.eval_metric.seed_groups import SeedGroup


FIFTHS = 5
NAMED = ("Category", "Medium", "Shared words", "Only by")  # columns of few different texts
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


def browsable(
    rows: Sequence[dict[str, Any]],
    credits: Mapping[str, float] | None = None,
    true_of: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All items as `items.js` takes them: `columns` (name, numeric, names) and `rows`, those that most miss first.

    Cells of a column with `names` are numbers that stand for these, so that a row of thousands is short.

    Args:
        rows (`list[dict]`): of [`item_table`].
        credits (`dict[str, float]`, *optional*): what word overlap makes of each item, by its id.
        true_of (`dict[str, str]`, *optional*): the true statement of each item, to show it.
    """
    rows = sorted(rows, key=lambda row: row["right"])
    cells: dict[str, list] = {"Item": [row["id"] for row in rows]}
    cells[f"Right, of {rows[0]['of']}"] = [row["right"] for row in rows]
    if credits is not None:
        cells["Shared words"] = [stratum_of(credits[row["id"]]) for row in rows]
    cells["Category"] = [row["category"] for row in rows]
    cells["Medium"] = [row["media"] for row in rows]
    found = [row["discrimination"] for row in rows]
    cells["Discrimination"] = [None if isnan(value) else f"{value:.2f}" for value in found]
    cells["Only by"] = [row["alone"] for row in rows]
    if true_of is not None:
        cells["True statement"] = [true_of[row["id"]] for row in rows]
    columns = []
    for name, own in cells.items():
        names = sorted(set(own)) if name in NAMED else None
        if names is not None:
            own[:] = map(names.index, own)
        columns.append({"name": name, "numeric": name.startswith("Right") or name == "Discrimination", "names": names})
    return {"columns": columns, "rows": list(zip(*cells.values()))}


def embedded(data: dict[str, Any]) -> Markup:
    """Data as JSON within a page: no text in it can end the element that holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
