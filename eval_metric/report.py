"""Tables, the chart and one self-contained page from results.

    from granted.eval_metric.report import html_report, markdown_table
    results = load_all("results")
    markdown_table(results)                              # for a README or a model card
    html_report(results, records, "report.html")         # records: the TED records that were scored

Seeds of one encoder, feature and pooling are averaged. Every figure comes from the result files; text of the dataset
is escaped wherever it appears.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from granted.dataset_builders.ted_6k.records import OFFICIAL_INSTANCES
from granted.eval_metric.chart import category_figure
from granted.eval_metric.part_tables import BASELINE_NAMES, is_floor, overlap_credits, part_tables, strata_table
from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import (
    SeedGroup,
    between_encoders,
    compare_all,
    group_seeds,
    shared_baselines,
    within_encoders,
)
from granted.utils.errors import InputError
from granted.utils.figures import inline_svg
from granted.utils.files import atomic_path
from granted.utils.shown import fact_count, markdown_escaped, p_text, percent, percent_estimate, signed
from granted.utils.templates import fill_template


HEADER = ("Encoder", "Feature", "Pooling", "Accuracy, % [95% interval]", "Seeds (spread)", "Ties", "Parameters")
CHART_ALT = "Accuracy of every series overall and per category, with 95% intervals: the figures of the tables below."
_EXAMPLES_EACH = 10


@dataclass(frozen=True)
class Row:
    """A line of the main table; fractions of 1.

    Attributes:
        encoder: display name, or the baseline's.
        feature, pooling: None for a lexical baseline.
        accuracy, low, high: mean over seeds and its interval; no interval (None) for a lexical baseline.
        seeds: number of runs; 0 for a lexical baseline.
        spread: highest minus lowest accuracy of the seeds, if several.
        ties: tied items, mean over seeds; None for a lexical baseline, which shares them.
        parameters: of encoder and aggregator, in millions, such as "134.5M + 9.1M"; None where they are not known.
        baseline: True below the line: mean pooling, random weights, direct answers of language models and the lexical
            baselines.
    """

    encoder: str
    feature: str | None
    pooling: str | None
    accuracy: float
    low: float | None
    high: float | None
    seeds: int
    spread: float | None
    ties: float | None
    parameters: str | None
    baseline: bool

    def cells(self) -> tuple[str, ...]:
        """The row as text, one cell per entry of HEADER."""
        known = self.low is not None
        accuracy = percent_estimate(self.accuracy, (self.low, self.high)) if known else percent(self.accuracy)
        seeds = "–" if not self.seeds else str(self.seeds)
        if self.spread is not None:
            seeds += f" ({percent(self.spread)})"
        ties = "shared" if self.ties is None else f"{self.ties:.1f}".removesuffix(".0")
        named = (self.encoder, self.feature or "–", self.pooling or "–")
        return (*named, accuracy, seeds, ties, self.parameters or "–")


def table_rows(results: Iterable[Result]) -> list[Row]:
    """Rows of the main table: encoders by accuracy, then the baselines by accuracy.

    Raises:
        InputError: the results cannot stand side by side (see `granted.eval_metric.seed_groups.group_seeds`).
    """
    return _rows(group_seeds(results))


def markdown_table(results: Iterable[Result]) -> str:
    """The main table in GitHub's Markdown; baselines in italics. Ends with a newline."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * 3 + "--:|" * (len(HEADER) - 3)]
    for row in table_rows(results):
        cells = [markdown_escaped(cell) if i < 3 else cell for i, cell in enumerate(row.cells())]
        lines.append("| " + " | ".join(f"*{cell}*" if row.baseline and cell != "–" else cell for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def facts_table(results: Iterable[Result]) -> str:
    """Accuracy by the number of facts that a caption tells, in Markdown; empty for a benchmark without such rungs."""
    groups = [group for group in group_seeds(results) if group.facts]
    if not groups:
        return ""
    rungs = list(groups[0].facts)
    lines = [f"| Encoder | Feature | Pooling | {' | '.join(map(fact_count, rungs))} |"]
    lines.append("|" + "---|" * 3 + "--:|" * len(rungs))
    for group in groups:
        shown = [percent_estimate(one.accuracy, (one.low, one.high)) for one in group.facts.values()]
        named = (markdown_escaped(cell) for cell in (group.encoder, group.feature, group.pooling))
        lines.append(f"| {' | '.join([*named, *shown])} |")
    return "\n".join(lines) + "\n"


def html_report(results: Iterable[Result], records: Sequence[dict], path: str | os.PathLike) -> None:
    """Write one HTML page that needs nothing else: no script, no request, charts inline.

    Where shared words answer, tie or mislead is known from the records.

    Args:
        results: whole results on one dataset.
        records: the TED records that were scored, all of them; their text makes the examples.
        path: of the page, written atomically.

    Raises:
        InputError: the results cannot stand side by side, or the records are not the ones that were scored.
    """
    groups = group_seeds(results)
    record_of = _records_by_id(groups[0].runs[0], records)
    best = next((one for one in groups if one.pooling == "aggregator"), groups[0])
    runs, rows = [run for one in groups for run in one.runs], _rows(groups)
    page = fill_template(
        Path(__file__).with_name("report.html"),
        {"percent": percent, "signed": signed, "p": p_text, "flat": _flat},
        style=page_style(),
        **_heading(groups[0].runs[0].dataset),
        dataset=groups[0].runs[0].dataset,
        rows=rows,
        top=max(row.accuracy for row in rows),
        parts=part_tables(groups),
        strata_part=strata_table(groups, overlap_credits(records)),
        within=compare_all(within_encoders(groups)),
        between=compare_all(between_encoders(groups)),
        chart=inline_svg(category_figure(runs), "categories", CHART_ALT),
        best=best,
        examples=_examples(best.runs[0], record_of),
        runs=runs,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def page_style() -> Markup:
    """The style sheet of pages, light and dark, on a phone and in print."""
    return Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))


def _rows(groups: Sequence[SeedGroup]) -> list[Row]:
    rows = [
        Row(
            encoder=one.encoder,
            feature=one.feature,
            pooling=one.pooling,
            accuracy=one.estimate.accuracy,
            low=one.estimate.low,
            high=one.estimate.high,
            seeds=len(one.runs),
            spread=one.spread,
            ties=one.ties,
            parameters=" + ".join(f"{count / 1e6:.1f}M" for count in one.parameters.values()) or None,
            baseline=is_floor(one.label) or one.direct,
        )
        for one in groups
    ]
    for name, stored in shared_baselines(groups).items():
        rows.append(Row(BASELINE_NAMES[name], None, None, stored["accuracy"], None, None, 0, None, None, None, True))
    return sorted(rows, key=lambda row: (row.baseline, -row.accuracy))


def _heading(dataset: dict) -> dict[str, str]:
    """Title, badge and notice, so that no dataset can pass for another."""
    config, count = dataset["config"], dataset["instances"]
    if config == "official" and count == OFFICIAL_INSTANCES:
        return {"title": "Text encoders on TED-6K", "badge": "official TED-6K", "tone": "official", "notice": ""}
    if config == "official":
        notice = (
            f"These are {count:,} of the {OFFICIAL_INSTANCES:,} instances of TED-6K. "
            "The figures are not comparable with published ones."
        )
        return {"title": "Text encoders on part of TED-6K", "badge": "incomplete", "tone": "other", "notice": notice}
    if config == "sample":
        notice = (
            f"These {count:,} instances are the sample shipped with granted: written by hand in the spirit of TED-6K "
            "and no part of it. The figures say nothing about scores on TED-6K."
        )
        return {"title": "Text encoders on the TED sample", "badge": "sample", "tone": "other", "notice": notice}
    if config == "synthetic":
        notice = (
            "These instances are synthetic: made by a program in the format of TED-6K, not taken from it. "
            "The figures say nothing about scores on TED-6K."
        )
        title = "Text encoders on synthetic instances"
        return {"title": title, "badge": "synthetic", "tone": "other", "notice": notice}
    notice = (
        f"These {count:,} instances are of the configuration “{config}”, which is not the official TED-6K of "
        f"{OFFICIAL_INSTANCES:,}. The figures are not comparable with published ones."
    )
    return {"title": "Text encoders on TED-style instances", "badge": config, "tone": "other", "notice": notice}


def _records_by_id(result: Result, records: Sequence[dict]) -> dict[str, dict]:
    record_of = {record["id"]: record for record in records}
    if len(record_of) != len(records) or set(record_of) != {item["id"] for item in result.items}:
        raise InputError(
            f"got {len(records)} records for {len(result.items)} scored items with other ids, expected the same "
            "instances: load the dataset that was scored"
        )
    for item in result.items:
        record = record_of[item["id"]]
        if len(record["statements"]) != len(item["scores"]) or record["label"] != item["label"]:
            raise InputError(
                f"got record {item['id']!r} with other statements than were scored, expected the same instances: "
                "load the dataset that was scored"
            )
    return record_of


def _examples(run: Result, record_of: dict[str, dict]) -> list[dict]:
    """Up to ten right and ten wrong items, drawn with a fixed seed in turn from every category."""
    order = np.random.default_rng(0).permutation(len(run.items))  # (n,)
    examples = []
    for right in (False, True):
        by_category: dict[str, list[int]] = {}
        for i in order:
            if run.correct[i] == right:
                by_category.setdefault(run.items[i]["category"], []).append(i)
        turns = [(turn, name, i) for name, found in by_category.items() for turn, i in enumerate(found)]
        chosen = [i for _, _, i in sorted(turns)[:_EXAMPLES_EACH]]
        examples += [_example(run.items[i], record_of[run.items[i]["id"]], right) for i in chosen]
    return examples


def _example(item: dict, record: dict, right: bool) -> dict:
    best, low, span = max(item["scores"]), min(item["scores"]), np.ptp(item["scores"])
    statements = [
        {
            "text": text,
            "score": score,
            "positive": i == item["label"],
            "chosen": score == best,
            "width": 100.0 if span == 0 else round(100 * (score - low) / span, 1),
        }
        for i, (text, score) in enumerate(zip(record["statements"], item["scores"]))
    ]
    return {"right": right, "item": item, "caption": record["caption"], "statements": statements}


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Names and values of nested notes, a line each: `{"a": {"b": 1}}` is `a b` and 1."""
    if isinstance(value, dict):
        own = ((f"{name} {key}".replace("_", " ").strip(), one) for key, one in value.items())
        return [line for key, one in own for line in _flat(one, key)]
    if isinstance(value, list):
        return [(name, ", ".join(map(str, value)))]
    return [] if value is None else [(name, str(value))]
