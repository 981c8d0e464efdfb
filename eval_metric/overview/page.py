"""The page: every evaluation below a folder, correlations between instruments, and what the paper printed.

    write_overview(Path("results"), Path("report"))      # report/report.html, report/figures/*.png and *.csv

It needs nothing else: no script, no request, charts inline.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import groupby, product
from pathlib import Path
from typing import Any

from granted.eval_metric.comparison import (
    FEWEST,
    Correlation,
    Score,
    compare,
    comparison_chart,
    published_pair,
)
from granted.eval_metric.overview.charts import scores_chart, scores_csv, write_csv
from granted.eval_metric.overview.collection import Evaluation, collect, ranked
from granted.eval_metric.overview.items import FEWEST as FEWEST_OF_ITEMS
from granted.eval_metric.overview.items import item_table, margin_table
from granted.eval_metric.published import published
from granted.eval_metric.reading.charts import layers_chart, single_layers
from granted.eval_metric.report import BASELINE_NAMES, page_style
from granted.eval_metric.seed_groups import shared_baselines
from granted.utils.files import atomic_path
from granted.utils.templates import fill_template


TITLES = {
    "drawing": (
        "Drawing",
        "A small text-to-image model is trained from scratch with each feature; its images are read exactly.",
    ),
    "reading": ("Reading", "A small reader learns to answer every fact of a caption from its token features."),
    "ladder": ("Ladder", "How many facts a caption may tell before half of what is above guessing is lost."),
    "ted": ("TED", "Is the true statement closer to its caption than the false ones?"),
}
FLOORS = ("random weights", "words with positions", "bag of words", "the scene itself")  # in an encoder's name
SHOWN_ITEMS = 20
PUBLISHED_FEATURES = ("norm_avg", "last", "penultimate", "learned")


def write_overview(folder: Path, output: Path) -> list[Evaluation]:
    """Write `report.html` and `figures/`, whole or not at all each.

    Args:
        folder (`Path`): of results, however deep, see [`collect`].
        output (`Path`): the folder to write to.

    Returns:
        The evaluations that are on the page.

    Raises:
        InputError: nothing was measured there, or a results file is damaged.
    """
    evaluations, apart = collect(folder)
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    correlations = list(correlations_of(evaluations))
    scatters = []
    for name, own in groupby(correlations, key=lambda one: one.reference.name):
        path = figures / f"correlation_{name.removeprefix('drawn, ').replace(' ', '_')}.png"
        comparison_chart(list(own), path)
        scatters.append({"light": _uri(path), "dark": ""})
    page = fill_template(
        Path(__file__).with_name("page.html"),
        {"ranked": ranked, "interval": _interval, "floor": is_floor},
        title="Text encoders, as measured here",
        style=page_style(),
        sections=list(_sections(evaluations, figures)),
        correlations=correlations,
        scatters=scatters,
        published=published_table(),
        apart=apart,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return evaluations


def correlations_of(evaluations: Sequence[Evaluation]) -> Iterator[Correlation]:
    """What each other instrument's headline says of what is drawn in each wording, where four arms have both."""
    drawn = [one for one in evaluations if one.instrument == "drawing"]
    others = [one for one in evaluations if one.instrument != "drawing"]
    for scores, other in product(drawn[0].columns if drawn else [], others):
        if len(scores.by_arm.keys() & other.headline.by_arm.keys()) >= FEWEST:
            yield compare(replace(scores, name=f"drawn, {scores.name}"), other.named())


def _sections(evaluations: Sequence[Evaluation], figures: Path) -> Iterator[dict[str, Any]]:
    """The largest evaluation of an instrument comes first and is the one that is drawn."""
    seen = set()
    for one in evaluations:
        yield _section(one, figures) | {"first": one.instrument not in seen}
        seen.add(one.instrument)


def _section(evaluation: Evaluation, figures: Path) -> dict[str, Any]:
    title, what = TITLES[evaluation.instrument]
    if evaluation.instrument == "ted":
        title += f", {evaluation.groups[0].runs[0].dataset['config']}"
    name = evaluation.path.removesuffix(".json").replace("/", "_")
    scores_csv(evaluation, figures / f"{name}.csv")
    section = {
        "title": title,
        "what": what,
        "evaluation": evaluation,
        "chart": _both(figures / f"{name}.png", lambda path, dark: scores_chart(evaluation, path, dark)),
        "layers": None,
        "baselines": _baselines(evaluation),
        "margins": [],
        "item_parts": [],
        "csv": f"figures/{name}_items.csv",
        "provenance": list(_provenance(evaluation)),
    }
    if evaluation.instrument == "reading" and single_layers(evaluation.rows):
        path = figures / f"{name}_layers.png"
        layers_chart(evaluation.rows, path)
        section["layers"] = {"light": _uri(path), "dark": ""}
    if evaluation.groups:
        section["margins"] = margin_table(evaluation.groups)
    pooled = [group for group in evaluation.groups if group.pooling == "aggregator"]
    if len(pooled) >= FEWEST_OF_ITEMS:
        rows = item_table(pooled)
        write_csv(figures / f"{name}_items.csv", list(rows[0]), [list(row.values()) for row in rows])
        section["item_parts"] = list(_item_parts(rows))
    return section


def _baselines(evaluation: Evaluation) -> str:
    """What is scored without any encoder, in words; empty where nothing is."""
    stored = shared_baselines(evaluation.groups) if evaluation.groups else {}
    return ", ".join(f"{BASELINE_NAMES[name]} {100 * one['accuracy']:.1f} %" for name, one in stored.items())


def is_floor(arm: str) -> bool:
    """Whether it stands for comparison only: no knowledge of an encoder goes into it, or no aggregator."""
    return any(name in arm for name in FLOORS) or arm.startswith("random · ") or arm.endswith(" · mean")


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


def published_table() -> dict[str, Any]:
    content = published()
    table = content["tables"]["ted"]
    rows = [
        {
            "encoder": encoder,
            "family": ", ".join(content["families"][encoder]),
            "cells": [scores.get(feature) for feature in PUBLISHED_FEATURES],
        }
        for encoder, scores in sorted(table["scores"].items(), key=lambda one: -one[1]["norm_avg"])
    ]
    correlations = []
    for kind, printed in content["correlations"].items():
        found = published_pair(kind)
        correlations.append({"what": kind, "found": found.pearson.value, "n": len(found.arms), "printed": printed})
    return {
        "source": content["source"],
        "where": table["where"],
        "features": PUBLISHED_FEATURES,
        "rows": rows,
        "correlations": correlations,
    }


def _both(path: Path, draw: Callable[[Path, bool], None]) -> dict[str, str]:
    """The chart for a light and a dark page, as addresses of their own content; the light one stays on the disk."""
    dark = path.with_stem(f"{path.stem}_dark")
    draw(dark, True)
    uris = {"dark": _uri(dark)}
    dark.unlink()
    draw(path, False)
    return uris | {"light": _uri(path)}


def _uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _interval(score: Score) -> str:
    return f"{score.value:.2f} [{score.ci95[0]:.2f}, {score.ci95[1]:.2f}]"
