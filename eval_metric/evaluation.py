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

from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import PreTrainedConfig

from granted.dataset_builders.ted_6k.records import TedRecord
from granted.embedding_cache import EmbeddingCache
from granted.errors import InputError
from granted.eval_metric.benchmark import Head, find_heads, load_head, score_encoder, select_shard, weights_hash
from granted.eval_metric.report import category_chart, html_report, markdown_table
from granted.eval_metric.results import Result, load_all
from granted.files import atomic_path
from granted.modeling_granted import GrantedModel
from granted.training.context_aggregator import AggregatorTrainingConfig, train_context_aggregators


def load_encoder(spec: str, dtype: str = "auto", **options) -> tuple[str, GrantedModel]:
    """Load an encoder given as Hub id, folder or GGUF file, or as `NAME=PATH`.

    Args:
        spec (`str`): what to load. A folder saved by [`GrantedModel`] is loaded as it is.
        dtype (`str`, defaults to `"auto"`): the encoder's dtype; `"auto"` is the checkpoint's.
        options: fields of [`GrantedConfig`] for a plain encoder; a saved model keeps its own.

    Returns:
        Display name and model, in evaluation mode.

    Raises:
        InputError: there is no such encoder, or it has no text trunk.
    """
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"got dtype {dtype!r}, expected auto, float32, bfloat16 or float16")
    name, path = split_spec(spec)
    if path.startswith((".", "/", "~")) and not os.path.exists(path):
        raise InputError(f"got encoder {path!r}, which does not exist, expected a folder or GGUF file: check the path")
    try:
        if is_fused(path):
            model = GrantedModel.from_pretrained(path, dtype=dtype)
        else:
            model = GrantedModel.from_encoder(path, dtype=dtype, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"got encoder {path!r}, which cannot be loaded ({reason}), expected a text encoder with its tokenizer: "
            "check the path or Hub id"
        ) from error
    return name, model.eval()


def split_spec(spec: str) -> tuple[str, str]:
    """Display name and path of `NAME=PATH`; the name of a bare path or Hub id is its last part."""
    name, _, path = spec.rpartition("=")
    return name or Path(path).name.removesuffix(".gguf"), path


def is_fused(path: str) -> bool:
    """Whether a folder or Hub repository was saved by [`GrantedModel`]."""
    return not path.endswith(".gguf") and PreTrainedConfig.get_config_dict(path)[0].get("model_type") == "granted"


def encode_file(
    spec: str,
    texts_file: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    fusion: str = "norm_avg",
    layer_index: int = -1,
    max_sequence_length: int = 512,
    token_budget: int = 8192,
    dtype: str = "auto",
    batch_texts: int = 256,
) -> tuple[int, int]:
    """Encode the lines of a file into an [`EmbeddingCache`] under the name `features`.

    Returns:
        Texts encoded now, and texts in the cache.

    Raises:
        InputError: the file is missing, not UTF-8 or has no text; the encoder cannot be loaded; the folder holds the
            features of another encoder.
    """
    texts_file = Path(texts_file)
    try:
        texts = [line for line in texts_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"got {texts_file}, expected a text file ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"got bytes in {texts_file} that are not UTF-8 (offset {error.start}): save it as UTF-8"
        ) from error
    if not texts:
        raise InputError(f"got no text in {texts_file}, expected one a line")
    options = {"fusion": fusion, "layer_index": layer_index, "max_sequence_length": max_sequence_length}
    _, encoder = load_encoder(spec, dtype, **options)
    cache = EmbeddingCache(output_dir, feature_identity(encoder))
    missing = cache.missing(texts)
    with tqdm(total=len(missing), desc="encoding", unit="text", disable=not missing) as bar:
        for start in range(0, len(missing), batch_texts):
            part = missing[start : start + batch_texts]
            features = encoder.encode(part, token_budget=token_budget, show_progress=False)  # (N_i, D) each
            cache.append(part, {"features": features})
            bar.update(len(part))
    return len(missing), len(cache)


def feature_identity(encoder: GrantedModel) -> dict:
    """All that decides the fused features of an encoder, as the identity of an [`EmbeddingCache`] of them."""
    identity = {
        "encoder": encoder.fingerprint(),
        "fusion": encoder.config.fusion_options(),
        "layer weights": encoder.layer_weights.tolist(),
    }
    if encoder.config.projection_dim is not None:
        identity["projection"] = weights_hash(encoder.projection)
    return identity


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
    dtype: str = "auto",
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
        dtype (`str`): the encoders'.
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
        name, encoder = load_encoder(spec, dtype)
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
