"""The page: every evaluation below a folder, correlations between instruments, and what the paper printed.

    write_overview(Path("results"), Path("report"))      # report/report.html, report/figures/*.png and *.csv

It needs nothing else: no request, charts inline, and a script of its own for the tables of items, which are there
without it, too. Tests: tests/test_overview.py, tests/test_overview_browser.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import groupby, product
from pathlib import Path
from typing import Any

from markupsafe import Markup

from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.records import OFFICIAL_COUNTS
from granted.eval_metric.comparison import (
    FEWEST,
    Correlation,
    compare,
    comparison_figure,
    interval_text,
    published_pair,
)
from granted.eval_metric.overview.collection import Evaluation, collect, ranked
from granted.eval_metric.overview.layer_weights import LearnedWeights, find_layer_weights
from granted.eval_metric.overview.sections import drawn, file_name, sections
from granted.eval_metric.part_tables import is_floor
from granted.eval_metric.published import published
from granted.eval_metric.report import page_style
from granted.training.diffusion.layer_weights_chart import trajectory_figure
from granted.utils.errors import InputError
from granted.utils.files import atomic_path
from granted.utils.templates import fill_template


PUBLISHED_FEATURES = ("norm_avg", "last", "penultimate", "learned")
PUBLISHED_CATEGORIES = ("Qwen3-VL-8B-Instruct · norm_avg", "GRAN-TED · norm_avg")  # the columns of Table 2


def write_overview(folder: Path, output: Path, ted: Sequence[str] = (), texts: bool = False) -> list[Evaluation]:
    """Write `report.html` and `figures/`, whole or not at all each.

    Args:
        folder (`Path`): of results, however deep, see [`collect`].
        output (`Path`): the folder to write to.
        ted (`list[str]`): benchmarks that were scored, as `read_ted` takes them, to tell where shared words mislead.
        texts (`bool`, defaults to `False`): show the true statements of these benchmarks.

    Returns:
        The evaluations that are on the page.

    Raises:
        InputError: nothing was measured there, a results file is damaged, or a benchmark is of none of the results.
    """
    evaluations, apart = collect(folder)
    weights, damaged = find_layer_weights(folder)
    benchmarks = dict(_scored_benchmark(path, evaluations) for path in ted)
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    correlations = list(correlations_of(evaluations))
    scatters = []
    for name, own in groupby(correlations, key=lambda one: one.reference.name):
        path = figures / f"correlation_{name.removeprefix('drawn, ').replace(' ', '_')}"
        alt = "A point an encoder and feature: the reference upwards, what predicts it to the right."
        scatters.append(drawn(comparison_figure(list(own)), path, alt))
    page = fill_template(
        Path(__file__).parents[1] / "overview.html",
        {"ranked": ranked, "interval": interval_text, "floor": is_floor},
        title="Text encoders, as measured here",
        style=page_style(),
        script=Markup(Path(__file__).with_name("items.js").read_text(encoding="utf-8")),
        sections=list(sections(evaluations, figures, benchmarks, texts)),
        correlations=correlations,
        scatters=scatters,
        weights=[_shown_weights(one, figures) for one in weights],
        published=published_table(),
        apart=sorted(apart + damaged),
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return evaluations


def _scored_benchmark(path: str, evaluations: Sequence[Evaluation]) -> tuple[str, Sequence[dict]]:
    """Fingerprint and records of a benchmark that some of the results are of."""
    records, info = read_ted(path)
    scored = {one.groups[0].runs[0].dataset["fingerprint"] for one in evaluations if one.groups}
    if info["fingerprint"] not in scored:
        raise InputError(
            f"got --ted {path}, of which there are no results here (fingerprint {info['fingerprint'][:12]}), expected "
            "a benchmark that was scored: leave it out, or name the one that was"
        )
    return info["fingerprint"], records


def correlations_of(evaluations: Sequence[Evaluation]) -> Iterator[Correlation]:
    """What each other instrument's headline says of what is drawn in each wording, where four arms have both."""
    drawings = [one for one in evaluations if one.instrument == "drawing"]
    others = [one for one in evaluations if one.instrument != "drawing"]
    for scores, other in product(drawings[0].columns if drawings else [], others):
        if len(scores.by_arm.keys() & other.headline.by_arm.keys()) >= FEWEST:
            yield compare(replace(scores, name=f"drawn, {scores.name}"), other.named())


def _shown_weights(one: LearnedWeights, figures: Path) -> dict[str, Any]:
    """A run with its chart, or where its path was not kept, with its last weights in words."""
    several = isinstance(one.last[0], Sequence)
    last = f"{len(one.last)} sums of {len(one.last[0])}" if several else " ".join(f"{value:.2f}" for value in one.last)
    shown = {"run": one, "last": last, "chart": None}
    if one.trajectory:
        path = figures / f"{file_name(one.folder)}_layer_weights"
        alt = "The weight of every layer over the steps of the training, and over the layers."
        shown["chart"] = drawn(trajectory_figure(one.trajectory, one.frozen_at), path, alt)
    return shown


def published_table() -> dict[str, Any]:
    content = published()
    table = content["tables"]["ted"]
    rows = [
        {
            "encoder": encoder,
            "family": content["families"][encoder],
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
        "categories": [(name, sum(OFFICIAL_COUNTS[name])) for name in content["categories"]],
        "by_category": list(zip(PUBLISHED_CATEGORIES, zip(*content["categories"].values()))),
        "correlations": correlations,
    }
