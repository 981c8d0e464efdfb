"""Scoring an encoder on TED: every text encoded once, for all features and aggregators at once (Section 3.3).

    heads = [load_aggregator("aggregators/norm_avg")]
    results = score_encoder(encoder, "smollm2", heads, records, dataset, cache_dir="cache")

A caption is encoded as `Caption Type: ...` and `Caption: ...`, statements as they are; an instance is right when the
positive has the strictly highest cosine with its caption. The encoder runs in its own dtype, all after its layers
(features, aggregators, means, cosines) in fp32. Beside every aggregator stands the mean pooling of the same features,
which needs no training.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.dataset_builders.ted_6k.records import TedRecord, caption_text
from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.families import encoder_family
from granted.encoding.features import USUAL_READING, reading_of
from granted.encoding.loading import device_name
from granted.eval_metric.results import Result, provenance
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_fingerprint import weights_hash
from granted.modeling_granted import GrantedModel
from granted.modeling_text_input import length_sorted_batches
from granted.modeling_text_trunk import evaluating
from granted.training.aggregator.contrastive import AggregatorGroup
from granted.utils.errors import InputError, refusing
from granted.utils.files import files_below, read_json


TOGETHER = 16384  # texts tokenised and sorted by length at a time
AT_A_TIME = 512  # instances whose vectors are in memory


@dataclass
class TrainedAggregator:
    """A trained aggregator with the seed it was trained from and the settings of its training."""

    aggregator: ContextAggregator
    seed: int | None = None
    training: dict | None = None

    @property
    def feature(self) -> str:
        """The feature it reads, such as `"norm_avg"`."""
        return self.aggregator.config.feature

    @property
    def name(self) -> str:
        """Unique among the heads of one evaluation."""
        return f"{self.feature}@{self.seed}"


def load_aggregator(folder: str | os.PathLike) -> TrainedAggregator:
    """Load an aggregator that `train_context_aggregators` wrote.

    Raises:
        InputError: there is none, it is damaged, or it does not say which feature it reads.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(config, dict) or config.get("model_type") != ContextAggregator.config_class.model_type:
        raise InputError(f"got {folder}, expected the folder of a trained aggregator: train one, or check the path")
    with refusing(f"the aggregator {folder}", "one as it was trained: copy it again"):
        aggregator = ContextAggregator.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        for name, weights in aggregator.named_parameters():
            if not torch.isfinite(weights).all():
                raise ValueError(f"NaN or infinite values in {name}")
        training = read_json(folder / "training.json") if (folder / "training.json").exists() else None
        seed = None if training is None else int(training["settings"]["seed"])
        if training is not None and not isinstance(training.get("reading"), dict | None):
            raise ValueError("training.json does not say how texts were read")
    if aggregator.fusion is None or aggregator.config.feature is None:
        raise InputError(f"got {folder}, an aggregator without a feature in its configuration: set fusion and feature")
    return TrainedAggregator(aggregator.eval(), seed, training)


def find_aggregators(folder: str | os.PathLike) -> list[TrainedAggregator]:
    """The aggregator in a folder, or all those anywhere below it, such as the seeds of one encoder."""
    folder = Path(folder)
    if (folder / "config.json").is_file():
        return [load_aggregator(folder)]
    below = [path.parent for path in files_below(folder, "config.json")]
    if not below:
        raise InputError(f"got {folder}, which holds no aggregator, expected one or a folder of them: check the path")
    return [load_aggregator(path) for path in below]


def check_aggregators(
    encoder: GrantedModel, encoder_name: str, fingerprint: str, heads: Sequence[TrainedAggregator]
) -> None:
    """Refuse aggregators made for an encoder of another width, depth, weights or reading, or that share a name.

    Args:
        encoder ([`GrantedModel`]), encoder_name (`str`): what they are to be used with.
        fingerprint (`str`): of its weights and dtype.
        heads (`Sequence[TrainedAggregator]`): to be checked.

    Raises:
        InputError: which one does not fit, and why.
    """
    layers = encoder.config.num_hidden_layers
    names, reading = [head.name for head in heads], reading_of(encoder)
    for head in heads:
        if names.count(head.name) > 1:
            raise InputError(
                f"got several aggregators of the feature {head.feature} and seed {head.seed}, expected one of each: "
                "evaluate them one by one"
            )
        config = head.aggregator.config
        width = encoder.config.layer_width(head.aggregator.fusion.layers)
        if config.encoder_hidden_size != width or config.num_layers != layers:
            raise InputError(
                f"got an aggregator for {config.encoder} ({config.num_layers} layers of width "
                f"{config.encoder_hidden_size}), expected one for {encoder_name} ({layers} of {width}): train one"
            )
        if config.encoder_fingerprint != fingerprint:
            raise InputError(
                f"got an aggregator trained for other weights or another dtype ({config.encoder}), expected "
                f"{encoder_name} as it is loaded now: load the encoder it was trained for, or train one"
            )
        trained = (head.training or {}).get("reading") or reading  # older aggregators do not say
        for name in reading | trained:
            then, now = ((USUAL_READING | one).get(name) for one in (trained, reading))
            if then != now:
                raise InputError(
                    f"got an aggregator trained on texts read with {name} {then!r}, expected {now!r} as "
                    f"{encoder_name} reads now: set it as in the training, or train one"
                )


def select_shard(records: Sequence[TedRecord], shard: str | None) -> list[TedRecord]:
    """Part `"i/n"` (i from 1 to n) of the records: whole captions, chosen by their id alone.

    Raises:
        InputError: `shard` is not of that form, or nothing falls into it.
    """
    if shard is None:
        return list(records)
    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"got shard {shard!r}, expected i/n with i from 1 to n, such as 1/4")

    def place(caption_id: str) -> int:
        return int(hashlib.sha256(caption_id.encode()).hexdigest(), 16) % int(parts) + 1

    kept = [record for record in records if place(record["caption_id"]) == int(part)]
    if not kept:
        raise InputError(f"got shard {shard} without a single caption, expected some: use fewer shards")
    return kept


@torch.no_grad()
def score_encoder(
    encoder: GrantedModel,
    encoder_name: str,
    heads: Sequence[TrainedAggregator],
    records: Sequence[TedRecord],
    dataset: dict,
    cache_dir: str | os.PathLike,
    *,
    shard: str | None = None,
    tuning: str | None = None,
    token_budget: int = 8192,
    show_progress: bool = True,
    captions: Callable[[TedRecord], str] = caption_text,
    as_trained: bool = True,
) -> list[Result]:
    """Score aggregators of one encoder, and the mean pooling of each of their features.

    Args:
        encoder ([`GrantedModel`]): its layers are read, its own fusion is not.
        encoder_name (`str`): display name.
        heads (`list[TrainedAggregator]`): aggregators trained for this encoder.
        records (`list[TedRecord]`): the benchmark, validated.
        dataset (`dict`): `name`, `config`, `fingerprint`, `instances`, `captions` of the whole benchmark.
        cache_dir (`str`): finished batches are kept here, from which an interrupted run goes on.
        shard (`str`, *optional*): `"i/n"`, the part to score.
        tuning (`str`, *optional*): what is known of the encoder, one of `TUNINGS`; noted with the results.
        token_budget (`int`, defaults to 8192): most tokens, padding included, of a batch.
        captions (`Callable`): what is encoded for the caption of a record.
        as_trained (`bool`, defaults to `True`): refuse aggregators that learned from other weights, another dtype or
            another reading than the encoder's is now; without it scores say what such a change does.

    Returns:
        One [`Result`] per head and one per feature with mean pooling (seed None where no weights are learned).

    Raises:
        InputError: an aggregator made for something else, or scores that are not finite.
    """
    fingerprint = encoder.fingerprint()
    if as_trained:
        check_aggregators(encoder, encoder_name, fingerprint, heads)
    all_records, records = records, select_shard(records, shard)
    model = AggregatorGroup({head.name: head.aggregator for head in heads})
    model = model.to(encoder.input_device, torch.float32).eval()
    reading = reading_of(encoder)
    identity = {
        "encoder": fingerprint,
        "reading": reading,
        "fusion epsilon": encoder.config.layer_norm_eps,
        "aggregators": {head.name: weights_hash(head.aggregator) for head in heads},
        "aggregators' dtype": "float32",
    }
    cache = EmbeddingCache(Path(cache_dir) / identity_hash(identity), identity)
    texts = unique_texts(records, captions)
    encode_missing(encoder, model, texts, cache, token_budget, f"encoding by {encoder_name}" * show_progress)
    tokens, cut = count_tokens(cache, texts)
    work = cache.work(texts)
    if cut:
        warnings.warn(
            f"{encoder_name} reads at most {reading['max_length']} tokens of a text: {len(cut)} of {len(texts)} texts "
            f"are longer, {sum(cut)} of their tokens were cut; --max-length (max_length) sets the limit",
            stacklevel=3,  # past the decorator
        )
    common = provenance(
        device=", ".join(sorted({part["device"] for part, _ in work})),
        dtype=str(encoder.dtype).removeprefix("torch."),
        seconds=round(sum(part["seconds"] * share for part, share in work), 2),
        tokens=tokens,
        texts=len(texts),
        texts_cut=len(cut),
        tokens_cut=sum(cut),
        encoder_revision=encoder.config.encoder_revision,
        weights_fingerprint=fingerprint,
        config_hash=hashlib.sha256(encoder.config.to_json_string().encode()).hexdigest(),
        family=encoder_family(encoder.config.encoder_config),
        tuning=tuning,
        settings=reading,
    )
    shared = {
        "encoder": encoder_name,
        "dataset": dataset,
        "baselines": baseline_summary(all_records),
        "shard": shard,
    }
    results = []
    means = {model.feature_key(head.name): head for head in reversed(heads)}
    for pooling, column, head in [("aggregator", head.name, head) for head in heads] + [
        ("mean", f"mean/{key}", head) for key, head in means.items()
    ]:
        learned = head.aggregator.fusion.fusion == "learned"
        seed = head.seed if pooling == "aggregator" or learned else None
        # What differs between machines that trained the same head is left out, so that their shards can be merged.
        training = {k: v for k, v in (head.training or {}).items() if k not in ("identity", "seconds")}
        parameters = {"encoder": encoder.encoder.num_parameters()}
        origin = common | {"seed": seed, "parameters": parameters}
        if pooling == "aggregator":
            parameters["aggregator"] = head.aggregator.num_parameters()
            origin["aggregator"] = training
        results.append(
            Result(
                feature=head.feature,
                pooling=pooling,
                seed=seed,
                items=score_items(cache, column, records, captions),
                provenance=origin,
                **shared,
            )
        )
    return results


def unique_texts(records: Sequence[TedRecord], captions: Callable[[TedRecord], str] = caption_text) -> list[str]:
    """What is encoded for records, each text once: the caption of a record, then its statements."""
    return list(dict.fromkeys(text for record in records for text in (captions(record), *record["statements"])))


def encode_missing(
    encoder: GrantedModel,
    model: AggregatorGroup,
    texts: Sequence[str],
    cache: EmbeddingCache,
    token_budget: int,
    shown: str,
) -> None:
    """Encode the texts that the cache lacks, length-sorted among those near them, one shard per batch.

    Args:
        encoder ([`GrantedModel`]), model ([`AggregatorGroup`]): what texts pass through.
        texts (`Sequence[str]`): all texts.
        cache ([`EmbeddingCache`]): what it lacks is added.
        token_budget (`int`): most tokens of a batch, padding included.
        shown (`str`): the name of the progress bar; there is none without.
    """
    missing = cache.missing(texts)
    limit, device = encoder.token_limit(), encoder.input_device
    silent = not (shown and missing)
    with evaluating(encoder), tqdm(total=len(missing), desc=shown, unit="text", disable=silent) as bar:
        started = time.perf_counter()
        for start in range(0, len(missing), TOGETHER):
            part = missing[start : start + TOGETHER]
            with warnings.catch_warnings():  # what is cut is counted, and told of all texts at once
                warnings.simplefilter("ignore")
                token_ids = encoder.tokenize(part)
            lengths = [len(ids) for ids in token_ids]
            full = [i for i, length in enumerate(lengths) if length >= limit]
            cut = dict(zip(full, encoder.count_tokens([part[i] for i in full])))
            for batch in length_sorted_batches(lengths, token_budget):
                input_ids, attention_mask = encoder.pad([token_ids[i] for i in batch])
                with torch.autocast(device.type, enabled=False):  # also where a training around this has it on
                    features, rows = model.embed(encoder, input_ids, attention_mask)  # rows: (b, context_dim) each
                count = encoder.kept_tokens(attention_mask).sum(1, keepdim=True)  # (b, 1)
                for name, feature in features.items():
                    rows[f"mean/{model.feature_key(name)}"] = feature.sum(1) / count  # (b, D), zeros where masked
                counted = [(lengths[i], cut.get(i, lengths[i]) - lengths[i]) for i in batch]
                rows["tokens"] = torch.tensor(counted)  # (b, 2): read, cut
                now = time.perf_counter()
                work = {"seconds": now - started, "device": device_name(device)}
                cache.append([part[i] for i in batch], rows, work)
                started = now
                bar.update(len(batch))


def count_tokens(cache: EmbeddingCache, texts: Sequence[str]) -> tuple[int, list[int]]:
    """Tokens read of all texts together, and the tokens cut from each text that was cut."""
    counts = cache.read_vectors("tokens", texts)  # (texts, 2)
    return int(counts[:, 0].sum()), [cut for cut in counts[:, 1].tolist() if cut]


def score_items(
    cache: EmbeddingCache,
    column: str,
    records: Sequence[TedRecord],
    captions: Callable[[TedRecord], str] = caption_text,
) -> list[dict]:
    """Cosines of every record's caption with its statements, in fp32, as the items of a [`Result`].

    Args:
        cache ([`EmbeddingCache`]), column (`str`): where the embeddings of all texts are.
        records (`Sequence[TedRecord]`): what is scored.
        captions (`Callable`, defaults to TED's): the text that a caption was embedded as.
    """
    items = []
    for start in range(0, len(records), AT_A_TIME):
        part = records[start : start + AT_A_TIME]
        texts = unique_texts(part, captions)
        vectors = F.normalize(cache.read_vectors(column, texts), dim=-1)  # (texts, D)
        row = {text: i for i, text in enumerate(texts)}
        for record in part:
            caption = vectors[row[captions(record)]]  # (D,)
            statements = vectors[[row[s] for s in record["statements"]]]  # (S, D)
            kept = {name: record[name] for name in ("id", "caption_id", "category", "media", "label")}
            items.append(kept | {"scores": (statements * caption).sum(-1).tolist()})
    return items
