"""What the page says of each evaluation: its table, charts, parts and items.

    list(sections(evaluations, Path("report/figures"), benchmarks={}))

Every chart and table of items is also a file, as PNG and CSV.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from granted.eval_metric.layer_curves import Point, layer_points, layers_csv, layers_figure
from granted.eval_metric.overview.charts import scores_csv, scores_figure
from granted.eval_metric.overview.collection import TITLES, Evaluation
from granted.eval_metric.overview.items import FEWEST as FEWEST_OF_ITEMS
from granted.eval_metric.overview.items import browsable, embedded, item_table, margin_table
from granted.eval_metric.part_tables import BASELINE_NAMES, family_table, overlap_credits, strata_table
from granted.eval_metric.reading.charts import property_points, wording_points
from granted.eval_metric.seed_groups import SeedGroup, shared_baselines
from granted.utils.figures import inline_svg, save_png
from granted.utils.files import write_csv
from granted.utils.shown import fact_count


SHOWN_ITEMS = 20


def sections(
    evaluations: Sequence[Evaluation], figures: Path, benchmarks: Mapping[str, Sequence[dict]], texts: bool = False
) -> Iterator[dict[str, Any]]:
    """One an evaluation; the largest of an instrument comes first and is the one whose scores are drawn on the page.

    Args:
        evaluations (`list[Evaluation]`): in the order of the page.
        figures (`Path`): the folder for charts and their data.
        benchmarks (`dict[str, list[dict]]`): TED records by the fingerprint of their benchmark.
        texts (`bool`, defaults to `False`): show true statements beside items.
    """
    seen, names = set(), set()
    for one in evaluations:
        name = file_name(one.path)
        while name in names:  # "a/b" and "a_b"
            name += "_"
        names.add(name)
        first = one.instrument not in seen
        seen.add(one.instrument)
        section = _common(one, figures / name, first)
        if one.groups:
            dataset = one.groups[0].runs[0].dataset
            section["title"] += f", {dataset['config']}"
            section |= _of_ted(one.groups, figures / name, benchmarks.get(dataset["fingerprint"]), texts)
        yield section


def file_name(path: str) -> str:
    """What the files of something below the folder of results are called; `"."` is that folder."""
    return "results" if path == "." else path.removesuffix(".json").replace("/", "_")


def _common(evaluation: Evaluation, path: Path, first: bool) -> dict[str, Any]:
    title, what = TITLES[evaluation.instrument]
    scores_csv(evaluation, path.with_name(f"{path.name}.csv"))
    figure, chart = scores_figure(evaluation), None
    save_png(figure, path.with_name(f"{path.name}.png"))
    if first:
        chart = inline_svg(figure, path.name, "The scores of the table with their intervals.")
    layers = []
    if evaluation.instrument == "reading":
        layers.append(("Layer by layer", wording_points(evaluation.rows), "layers"))
        layers.append(("Which layer knows what, in unseen words", property_points(evaluation.rows), "properties"))
    return {
        "title": title,
        "what": what,
        "first": first,
        "evaluation": evaluation,
        "counts": {},
        "chart": chart,
        "layers": list(_layer_charts(layers, path)),
        "baselines": "",
        **dict.fromkeys(("families", "strata", "margins", "browse", "item_parts")),
        "provenance": list(_provenance(evaluation)),
    }


def drawn(figure: Figure, path: Path, alt: str) -> Markup:
    """A chart on the disk and as part of the page."""
    save_png(figure, path.with_name(f"{path.name}.png"))
    return inline_svg(figure, path.name, alt)


def _layer_charts(curves: Sequence[tuple[str, list[Point], str]], path: Path) -> Iterator[dict[str, Any]]:
    for title, points, name in curves:
        if points:
            own = path.with_name(f"{path.name}_{name}")
            write_csv(own.with_name(f"{own.name}.csv"), *layers_csv(points))
            alt = "What each layer is worth, and Norm-Avg of all up to it, beside Norm-Avg and the last layer."
            yield {"title": title, "chart": drawn(layers_figure(points), own, alt)}


def _of_ted(groups: Sequence[SeedGroup], path: Path, records: Sequence[dict] | None, texts: bool) -> dict[str, Any]:
    stored = {BASELINE_NAMES[name]: one["accuracy"] for name, one in shared_baselines(groups).items()}
    credits = overlap_credits(records) if records else None
    section = {
        "baselines": ", ".join(f"{name} {100 * value:.1f} %" for name, value in stored.items()),
        "counts": {name: one.n for name, one in groups[0].categories.items()}
        | {fact_count(rung): one.n for rung, one in groups[0].facts.items()},
        "families": family_table(groups),
        "strata": strata_table(groups, credits) if credits else None,
        "margins": margin_table(groups),
        "layers": list(_layer_charts([("Layer by layer", _ted_points(groups), "layers")], path)),
        "csv": f"figures/{path.name}_items.csv",
    }
    pooled = [group for group in groups if group.pooling == "aggregator"]
    if len(pooled) >= FEWEST_OF_ITEMS:
        rows = item_table(pooled)
        write_csv(path.with_name(f"{path.name}_items.csv"), list(rows[0]), [list(row.values()) for row in rows])
        section["item_parts"] = list(_item_parts(rows))
        true_of = {one["id"]: one["statements"][one["label"]] for one in records} if records and texts else None
        data = browsable(rows, credits, true_of)
        shown = {"id": f"items-{path.name}", "first": data["rows"][:SHOWN_ITEMS], "json": embedded(data)}
        section["browse"] = shown | data
    return section


def _ted_points(groups: Sequence[SeedGroup]) -> list[Point]:
    """All items, then each number of facts, or else each category."""
    chance = float(np.mean([1 / len(item["scores"]) for item in groups[0].runs[0].items]))
    rows = []
    for group in groups:
        rungs = {fact_count(rung): one for rung, one in group.facts.items()}
        for panel, one in ({"all": group.estimate} | (rungs or group.categories)).items():
            row = {"encoder": group.encoder, "feature": group.feature, "panel": panel, "guess": chance}
            if group.pooling == "aggregator":
                rows.append(row | {"accuracy": one.accuracy, "ci95": (one.low, one.high)})
    return layer_points(rows)


def _item_parts(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    missed = sorted((row for row in rows if row["right"] <= row["of"] // 4), key=lambda row: row["right"])
    alone = [row for row in rows if row["alone"]]
    doubtful = sorted((row for row in rows if row["discrimination"] < 0), key=lambda row: row["discrimination"])
    parts = (
        ("Items that most miss", "At most a quarter of encoders and features have them right.", missed),
        ("Items that only one has right", "By one encoder and feature alone.", alone),
        (
            "Items that the better ones miss",
            "Having one right goes with a low score on the others (negative correlation): look whether it is wrong.",
            doubtful,
        ),
    )
    for title, what, found in parts:
        yield {"title": title, "what": what, "count": len(found), "rows": found[:SHOWN_ITEMS]}


def _provenance(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """Of TED what its data is; of rows how many items and seeds there are, and of all: what ran."""
    if evaluation.groups:
        dataset = evaluation.groups[0].runs[0].dataset
        yield from ((name, str(dataset[name])) for name in ("name", "config", "instances", "captions", "fingerprint"))
        for group in evaluation.groups:
            made = group.runs[0].provenance
            versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
            yield group.label, f"{len(group.runs)} seed(s), {made['dtype']}, {made['device']}, {versions}"
        return
    for arm in evaluation.headline.by_arm:
        own = next(row for row in evaluation.rows if f"{row['encoder']} · {row['feature']}" == arm)
        yield arm, f"{own['seeds']} seed(s), n = {own['n']}"
