"""One evaluation from encoders to report: train the aggregators that are not there, score, write the report.

    evaluate(["smollm2=SmolLM2.gguf"], records, info, "out", pairs=pairs, settings=AggregatorTrainingConfig(...))

The output folder holds `aggregators/ENCODER/seedN/FEATURE`, `cache`, `results` and the report made from the results
(`table.md`, `categories.png`, `report.html`). Running again goes on where it stopped and repeats nothing.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from granted.dataset_builders.ted_6k.records import TedRecord
from granted.encoding.loading import EncoderOptions, load_encoder, split_spec
from granted.errors import InputError
from granted.eval_metric.benchmark import Head, find_heads, load_head, score_encoder, select_shard
from granted.eval_metric.report import category_chart, html_report, markdown_table
from granted.eval_metric.results import Result, load_all
from granted.files import atomic_path
from granted.training.context_aggregator import AggregatorTrainingConfig, train_context_aggregators


def dataset_description(records: Sequence[TedRecord], info: dict) -> dict:
    """The `dataset` of a [`Result`]."""
    return {
        "name": "ted-6k",
        "config": info["config"],
        "fingerprint": info["fingerprint"],
        "instances": len(records),
        "captions": len({record["caption_id"] for record in records}),
    }


def evaluate(
    encoders: Sequence[str],
    records: Sequence[TedRecord],
    info: dict,
    output_dir: str | os.PathLike,
    *,
    pairs: Sequence[dict] | None = None,
    settings: AggregatorTrainingConfig | None = None,
    seeds: Sequence[int] = (0,),
    aggregator: str | os.PathLike | None = None,
    options: EncoderOptions | None = None,
    max_length: int | None = None,
    shard: str | None = None,
    show_progress: bool = True,
) -> list[Result]:
    """Score encoders on TED and save the results.

    Args:
        encoders (`list[str]`): see [`load_encoder`].
        records, info: what `read_ted` returns.
        output_dir (`str`): where everything goes.
        pairs (`list[dict]`, *optional*): caption pairs to train aggregators on.
        settings ([`AggregatorTrainingConfig`], *optional*): of the training; its `features` are the ones scored.
        seeds (`list[int]`): an aggregator of every feature is trained for each.
        aggregator (`str`, *optional*): a trained aggregator, or a folder of them, to use instead of training.
        options ([`EncoderOptions`], *optional*): how and where the encoders are loaded.
        max_length (`int`, *optional*): most tokens that each encoder reads of a text; its own limit by default.
        shard (`str`, *optional*): `"i/n"`; results of shards are merged by `merge_shards`.

    Returns:
        The results, as saved.

    Raises:
        InputError: anything given that cannot be used, before anything is trained where that can be known.
    """
    output_dir = Path(output_dir)
    if (pairs is None) == (aggregator is None):
        raise InputError("got both or neither of pairs and aggregator, expected pairs to train on or an aggregator")
    if pairs is not None and not seeds:
        raise InputError("got no seeds, expected at least one")
    names = [split_spec(spec)[0] for spec in encoders]
    if len(set(names)) < len(names):
        raise InputError(f"got encoders called {', '.join(names)}, expected different names: give them as NAME=PATH")
    select_shard(records, shard)
    for earlier in load_all(output_dir / "results") if (output_dir / "results").is_dir() else ():
        if earlier.dataset["fingerprint"] != info["fingerprint"]:
            raise InputError(
                f"got {output_dir} with results on another benchmark ({earlier.dataset['config']}), expected none or "
                "results on this one: choose another output folder"
            )
    results = []
    for spec in encoders:
        name, encoder = load_encoder(spec, options, max_length=max_length)
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
        heads: list[Head] = find_heads(aggregator) if aggregator is not None else []
        for seed in seeds if pairs is not None else ():
            folder = output_dir / "aggregators" / slug / f"seed{seed}"
            run = replace(settings or AggregatorTrainingConfig(), seed=seed)
            folders = train_context_aggregators(
                encoder, pairs, folder, run, encoder_name=name, show_progress=show_progress
            )
            heads += [load_head(path) for path in folders.values()]
        found = score_encoder(
            encoder,
            name,
            heads,
            records,
            dataset_description(records, info),
            output_dir / "cache",
            shard=shard,
            show_progress=show_progress,
        )
        for result in found:
            result.save(output_dir / "results")
        results += found
    return results


def write_report(results: Sequence[Result], records: Sequence[TedRecord], output_dir: str | os.PathLike) -> list[Path]:
    """Write `table.md`, `categories.png` and `report.html` from results; the paths written."""
    output_dir = Path(output_dir)
    table, chart, page = (output_dir / name for name in ("table.md", "categories.png", "report.html"))
    with atomic_path(table) as temporary:
        temporary.write_text(markdown_table(results) + "\n", encoding="utf-8")
    category_chart(results, chart)
    html_report(results, records, page)
    return [table, chart, page]
