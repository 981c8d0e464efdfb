"""One evaluation from encoders to report: train the aggregators that are not there, score, write the report.

    evaluate(["smollm2=SmolLM2.gguf"], records, info, "out", pairs=pairs, settings=AggregatorTrainingConfig(...))

The output folder holds `aggregators/ENCODER/seedN/FEATURE`, `cache`, `results` and the report made from the results
(`table.md`, `categories.png`, `report.html`). Running again goes on where it stopped and repeats nothing.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm.auto import tqdm

from granted.dataset_builders.ted_6k.records import TedRecord
from granted.dataset_builders.ted_6k.statistics import shared_texts
from granted.encoding.controls import controls_of
from granted.encoding.features import expand_features
from granted.encoding.loading import EncoderOptions, check_encoders, load_encoder, split_spec
from granted.eval_metric.benchmark import (
    TrainedAggregator,
    find_aggregators,
    load_aggregator,
    score_encoder,
    select_shard,
)
from granted.eval_metric.chart import category_chart
from granted.eval_metric.report import facts_table, html_report, markdown_table
from granted.eval_metric.results import Result, load_all
from granted.eval_metric.stability import stability_table
from granted.modeling_granted import GrantedModel
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.aggregator.training import train_context_aggregators
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, folder_name
from granted.utils.settings import check_seeds


# Settings in which the aggregators of one table may differ: what is scored, and what leaves the weights as they are.
FREE = (
    *("features", "seed", "recompute_layers", "token_budget"),
    *("feature_cache", "save_steps", "log_steps", "tracker"),
)


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
    controls: Sequence[str] = (),
    aggregator: str | os.PathLike | None = None,
    options: EncoderOptions | None = None,
    max_length: int | None = None,
    shard: str | None = None,
    tunings: Sequence[str] = (),
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
        controls (`list[str]`): of `CONTROLS`, scored beside each encoder as `controls_of` reads them.
        aggregator (`str`, *optional*): a trained aggregator, or a folder of them, to use instead of training.
        options ([`EncoderOptions`], *optional*): how and where the encoders are loaded.
        max_length (`int`, *optional*): most tokens that every encoder reads of a text; by default the smallest of
            their own limits, so that all read as much.
        shard (`str`, *optional*): `"i/n"`; results of shards are merged by `merge_shards`.
        tunings (`list[str]`): one of `TUNINGS` for each encoder, in their order, to note with the results; or none.

    Returns:
        The results, as saved.

    Raises:
        InputError: anything given that cannot be used, before anything is trained where that can be known.
    """
    output_dir = Path(output_dir)
    if (pairs is None) == (aggregator is None):
        raise InputError("got both or neither of pairs and aggregator, expected pairs to train on or an aggregator")
    check_encoders(encoders)
    if len(tunings) not in (0, len(encoders)):
        raise InputError(f"got {len(tunings)} tunings for {len(encoders)} encoders, expected one for each, or none")
    if pairs is not None:
        check_seeds(seeds)
        check_apart(pairs, records)
    elif controls:
        raise InputError("got controls beside an aggregator, expected pairs: those of controls must be trained, too")
    select_shard(records, shard)
    settings = settings or AggregatorTrainingConfig()
    _check_folder(output_dir / "results", info, settings if pairs is not None else None)
    max_length = common_length(encoders, options, max_length)
    results = []
    tuning_of = dict(zip(encoders, tunings))
    for spec in (bar := tqdm(encoders, unit="encoder", disable=None if show_progress else True)):
        bar.set_description(f"evaluating {split_spec(spec)[0]}")
        loaded = load_encoder(spec, options, max_length=max_length)
        for name, encoder, run in _with_controls(*loaded, settings, controls):
            heads: list[TrainedAggregator] = find_aggregators(aggregator) if aggregator is not None else []
            for seed in seeds if pairs is not None else ():
                folder = output_dir / "aggregators" / folder_name(name) / f"seed{seed}"
                folders = train_context_aggregators(
                    encoder, pairs, folder, replace(run, seed=seed), encoder_name=name, show_progress=show_progress
                )
                heads += [load_aggregator(path) for path in folders.values()]
            found = score_encoder(
                encoder,
                name,
                heads,
                records,
                dataset_description(records, info),
                output_dir / "cache",
                shard=shard,
                tuning=tuning_of.get(spec),
                show_progress=show_progress,
            )
            results += [result.keep(output_dir / "results") for result in found]
    return results


def _check_folder(results: Path, info: dict, settings: AggregatorTrainingConfig | None) -> None:
    """Refuse to rank encoders beside those of another benchmark, or whose aggregators had another training."""
    usual = asdict(AggregatorTrainingConfig())  # of settings that are newer than a result
    own = {name: value for name, value in asdict(settings or AggregatorTrainingConfig()).items() if name not in FREE}
    for earlier in load_all(results) if results.is_dir() else ():
        if earlier.dataset["fingerprint"] != info["fingerprint"]:
            raise InputError(
                f"got {results.parent} with results on another benchmark ({earlier.dataset['config']}), expected none "
                "or results on this one: choose another output folder"
            )
        stored = (earlier.provenance.get("aggregator") or {}).get("settings")
        different = [name for name, value in own.items() if stored and stored.get(name, usual[name]) != value]
        if settings is not None and different:
            raise InputError(
                f"got {results.parent}, where {earlier.encoder} has aggregators with other {', '.join(different)}, "
                "expected one training for all encoders of a folder: choose another output folder"
            )


def _with_controls(
    name: str, encoder: GrantedModel, settings: AggregatorTrainingConfig, controls: Sequence[str]
) -> Iterator[tuple[str, GrantedModel, AggregatorTrainingConfig]]:
    """An encoder, then its controls that are asked for: name, model, and settings with the features it has."""
    yield name, encoder, settings
    features = expand_features(settings.features, encoder.config.num_hidden_layers) if controls else []
    for control, feature, model in controls_of(encoder, controls, features):
        yield f"{name}, {control}", model, replace(settings, features=[feature])


def check_apart(pairs: Sequence[dict], records: Sequence[TedRecord]) -> None:
    """Refuse to train aggregators on texts of the benchmark that they will be scored by.

    Raises:
        InputError: a text of the pairs is a caption or a statement of the benchmark.
    """
    shared = shared_texts(pairs, records)
    if shared:
        raise InputError(
            f"got {len(shared)} texts in the pairs that are in the benchmark, too, first {shared[0][:60]!r}, expected "
            "none: leave those pairs out (granted data pairs --apart-from), or train on others"
        )


def common_length(encoders: Sequence[str], options: EncoderOptions | None, max_length: int | None) -> int | None:
    """The most tokens that all encoders read of a text: what is asked for, else the smallest of their own limits.

    Raises:
        InputError: an encoder does not read as much as is asked for, or cannot be loaded.
    """
    if len(encoders) == 1 and max_length is None:
        return None
    bare = replace(options or EncoderOptions(), device="auto", device_map="meta", quantization=None)  # no weights
    loaded = dict(load_encoder(spec, bare, max_length=max_length) for spec in encoders)
    limits = {name: encoder.token_limit() for name, encoder in loaded.items()}
    least = min(limits, key=limits.get)
    if max_length is not None and limits[least] < max_length:
        raise InputError(
            f"got max_length {max_length}, expected at most {limits[least]}, which is all that {least} reads of a "
            "text: lower --max-length"
        )
    if limits[least] < max(limits.values()):
        warnings.warn(
            f"every encoder reads at most {limits[least]} tokens of a text, the limit of {least}, so that all read as "
            "much; --max-length lowers it",
            stacklevel=2,
        )
    return limits[least]


def write_report(results: Sequence[Result], records: Sequence[TedRecord], output_dir: str | os.PathLike) -> list[Path]:
    """Write `table.md`, `categories.png` and `report.html` from results; the paths written."""
    output_dir = Path(output_dir)
    table, chart, page = (output_dir / name for name in ("table.md", "categories.png", "report.html"))
    tables = [markdown_table(results), facts_table(results), stability_table(results)]
    with atomic_path(table) as temporary:
        temporary.write_text("\n".join(filter(None, tables)), encoding="utf-8")
    category_chart(results, chart)
    html_report(results, records, page)
    return [table, chart, page]
