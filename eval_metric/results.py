"""The results contract: one run of one encoder on TED, on disk as `{name}.json` with `{name}.parquet` beside it.

    from granted.eval_metric.results import Result, load_all, merge_shards, provenance
    result = Result(encoder="SmolLM2-135M", feature="norm_avg", pooling="aggregator", seed=0, items=items,
                    dataset=dataset, provenance=provenance(device="cpu", dtype="float32", seconds=34.0, tokens=250))
    result.save("results")          # results/SmolLM2-135M__norm_avg__aggregator__seed0__1a2b3c4d.json and .parquet
    load_all("results")

Tables, charts, cards and the leaderboard are made from these files only. Everything is checked when a `Result` is
made, so one that exists can be trusted: known fields only, finite scores, as many items as the dataset says.
"""

import hashlib
import json
import math
import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, files_below, read_json, write_json
from granted.utils.versions import library_versions


KIND = "granted.result"
BASELINES = ("chance", "word_overlap", "tfidf_cosine")
ANSWERS = ("likelihood", "generation")  # how a language model answers directly, see eval_metric/direct_qa
POOLINGS = ("aggregator", "mean", *ANSWERS)
MOST_ITEMS = 2_000_000  # of a result; TED-6K has 6641
ITEM_FIELDS = ("id", "caption_id", "category", "media", "label", "scores")
DATASET_FIELDS = ("name", "config", "fingerprint", "instances", "captions")
PROVENANCE_FIELDS = (
    "versions",
    "encoder_revision",
    "weights_fingerprint",
    "config_hash",
    "family",
    "tuning",
    "aggregator",
    "settings",
    "seed",
    "parameters",
    "device",
    "dtype",
    "seconds",
    "tokens",
    "texts",
    "texts_cut",
    "tokens_cut",
    "date",
)
# what may differ between the shards of one run
_SUMMED = ("seconds", "tokens", "texts", "texts_cut", "tokens_cut")
_PER_SHARD = (*_SUMMED, "device", "date")
_ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("caption_id", pa.string()),
        ("category", pa.string()),
        ("media", pa.string()),
        ("label", pa.int64()),
        ("scores", pa.list_(pa.float64())),
    ]
)


def provenance(
    *,
    device: str,
    dtype: str,
    seconds: float,
    tokens: int,
    texts: int | None = None,
    texts_cut: int | None = None,
    tokens_cut: int | None = None,
    encoder_revision: str | None = None,
    weights_fingerprint: str | None = None,
    config_hash: str | None = None,
    family: str | None = None,
    tuning: str | None = None,
    aggregator: dict | None = None,
    settings: dict | None = None,
    parameters: dict | None = None,
    seed: int | None = None,
) -> dict:
    """Where a result comes from, in the form a `Result` takes.

    Args:
        device: such as "cpu" or the accelerator's name.
        dtype: in which the encoder ran.
        seconds: wall-clock time of the run.
        tokens: tokens encoded.
        texts, texts_cut, tokens_cut: texts encoded, how many of them were longer than the encoder reads, and the
            tokens that were cut from them.
        encoder_revision: commit of the encoder on the Hub.
        weights_fingerprint: hash of the weights, for an encoder without a revision.
        config_hash: of the GrantedConfig.
        family: see `granted.encoding.families.encoder_family`.
        tuning: what whoever evaluates says of it: one of `granted.encoding.families.TUNINGS`.
        aggregator: settings and training of the context aggregator; None for mean pooling.
        settings: anything else that changes the scores; of an encoder `max_length`, the most tokens that it reads of
            a text, and its prompt template; of a language model that answers directly also what was `seen` of it.
        parameters: how many the `encoder` and the `aggregator` have.
        seed: of the run; if given it must be the result's.

    Returns:
        The arguments, with `versions` of granted, torch, transformers, datasets and python, and `date` (UTC).
    """
    return {
        "versions": library_versions("granted", "torch", "transformers", "datasets"),
        "encoder_revision": encoder_revision,
        "weights_fingerprint": weights_fingerprint,
        "config_hash": config_hash,
        "family": family,
        "tuning": tuning,
        "aggregator": aggregator,
        "settings": settings,
        "seed": seed,
        "parameters": parameters,
        "device": device,
        "dtype": dtype,
        "seconds": seconds,
        "tokens": tokens,
        "texts": texts,
        "texts_cut": texts_cut,
        "tokens_cut": tokens_cut,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Result:
    """Scores of one encoder, feature, pooling and seed on one dataset.

    Attributes:
        encoder: display name.
        feature: such as "last", "penultimate", "avg", "norm_avg", "learned" or "layer_7"; of a language model that
            answers directly what it was shown: "caption", "shuffled" or "none".
        pooling: "aggregator" or "mean"; "likelihood" or "generation" where a language model answers directly.
        seed: of the aggregator, or of the order of shuffled captions; None where nothing is random.
        items: one dict per instance with id, caption_id, category, media, label and scores (one float per
            statement). They are kept in order of id, so that results on the same data line up.
        dataset: name, config ("official", "sample", "synthetic" or "custom"), fingerprint, instances, captions; of
            the whole dataset, also in a shard.
        provenance: see `provenance`.
        baselines: see `granted.dataset_builders.ted_6k.baselines.baseline_summary`; default none.
        shard: "i/n" with i from 1 to n where this is a part; default None, the whole.

    Raises:
        InputError: on construction, naming the field that is wrong.
    """

    encoder: str
    feature: str
    pooling: str
    seed: int | None
    items: list[dict]
    dataset: dict
    provenance: dict
    baselines: dict = field(default_factory=dict)
    shard: str | None = None

    def __post_init__(self) -> None:
        _check_identity(self)
        _check_keys(self.dataset, DATASET_FIELDS, "dataset", required=True)
        _check_keys(self.provenance, PROVENANCE_FIELDS, "provenance")
        if self.provenance.get("seed") not in (None, self.seed):
            raise InputError(f"got seed {self.seed} and provenance seed {self.provenance['seed']}, expected one seed")
        _check_json(self.dataset, "dataset")
        _check_json(self.provenance, "provenance")
        _check_notes(self.provenance)
        _check_baselines(self.baselines)
        items = sorted((_checked_item(item) for item in self.items), key=lambda item: item["id"])
        object.__setattr__(self, "items", items)
        _check_counts(self)

    @cached_property
    def correct(self) -> np.ndarray:
        """(n,) bool: the true statement scores strictly highest. A tie is wrong."""
        return self._signs > 0

    @cached_property
    def tied(self) -> np.ndarray:
        """(n,) bool: the true statement ties with another for the best score."""
        return self._signs == 0

    @property
    def ties(self) -> int:
        """Number of tied items."""
        return int(self.tied.sum())

    @property
    def accuracy(self) -> float:
        """Fraction of correct items."""
        return float(self.correct.mean())

    @cached_property
    def _signs(self) -> np.ndarray:
        """(n,) sign of the true statement's score minus the best other score."""
        signs = []
        for item in self.items:
            scores, label = item["scores"], item["label"]
            best_other = max(score for i, score in enumerate(scores) if i != label)
            signs.append((scores[label] > best_other) - (scores[label] < best_other))
        return np.array(signs)  # (n,)

    def column(self, name: str) -> np.ndarray:
        """(n,) array of one of id, caption_id, category, media and label."""
        return np.array([item[name] for item in self.items])  # (n,)

    def summary(self) -> dict:
        """Accuracy with its 95% interval (bootstrap over captions), overall and per category and medium.

        Returns:
            `{"accuracy", "ci95", "n", "captions", "ties", "categories": {"OCR": {...}}, "media": {"image": {...}}}`
        """
        return self._summary

    @cached_property
    def _summary(self) -> dict:
        everything = np.ones(len(self.items), dtype=bool)  # (n,)
        return self._part(everything) | {
            "categories": self._parts("category", CATEGORIES),
            "media": self._parts("media", MEDIA),
        }

    def _parts(self, name: str, values: Sequence[str]) -> dict[str, dict]:
        column = self.column(name)  # (n,)
        return {value: self._part(column == value) for value in values if (column == value).any()}

    def _part(self, mask: np.ndarray) -> dict:
        estimate = bootstrap_accuracy(self.correct[mask], self.column("caption_id")[mask])
        part = {"accuracy": estimate.accuracy, "ci95": [estimate.low, estimate.high]}
        return part | {"n": estimate.n, "captions": estimate.groups, "ties": int(self.tied[mask].sum())}

    @property
    def name(self) -> str:
        """File name without suffix: readable, and unique to encoder, feature, pooling, seed, dataset and shard."""
        parts = [_slug(self.encoder), self.feature, self.pooling]
        if self.seed is not None:
            parts.append(f"seed{self.seed}")
        if self.shard is not None:
            parts.append(f"shard-{self.shard.replace('/', '-of-')}")
        digest = hashlib.sha256(json.dumps([*_identity(self), self.shard]).encode()).hexdigest()
        return "__".join([*parts, digest[:8]])

    def save(self, folder: str | os.PathLike) -> Path:
        """Write both files into `folder` (created if needed), atomically, replacing an earlier run of the same name.

        Returns:
            The path of the JSON file.
        """
        path = Path(folder) / f"{self.name}.json"
        table = path.with_suffix(".parquet")
        with atomic_path(table) as temporary:
            pq.write_table(pa.Table.from_pylist(self.items, schema=_ITEM_SCHEMA), temporary)
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        # the table first: a crash in between leaves a pair that `load` refuses
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "items"}
        stored = {"file": table.name, "sha256": digest}
        write_json(path, {"kind": KIND} | kept | {"summary": self.summary(), "items": stored})
        return path

    def keep(self, folder: str | os.PathLike) -> "Result":
        """Save it, unless `folder` has it already with the same scores from the same run; what is there then.

        A finished evaluation that runs again thus keeps what was noted when it was computed.
        """
        path = Path(folder) / f"{self.name}.json"
        if path.exists() and (earlier := load(path))._without_notes() == self._without_notes():
            return earlier
        self.save(folder)
        return self

    def _without_notes(self) -> "Result":
        """The result without what is noted of the run that computed it."""
        return replace(self, provenance=self.provenance | dict.fromkeys((*_PER_SHARD, "versions")))


def load(path: str | os.PathLike) -> Result:
    """Read one result from its JSON file and the Parquet file beside it.

    Raises:
        InputError: either file is missing or malformed, has unknown fields, or the two are not of one run.
    """
    path = Path(path)
    stored = read_json(path)
    names = [f.name for f in fields(Result)]
    if not isinstance(stored, dict) or stored.get("kind") != KIND:
        raise InputError(f"got {path}, which is not a result, expected a file written by Result.save: check the path")
    _check_keys(stored, ["kind", "summary", *names], str(path), required=True)
    items = _load_items(path, stored["items"])
    with refusing(f"the result {path}", "one as it was saved: fetch it again"):
        result = Result(**{name: stored[name] for name in names if name != "items"}, items=items)
    found = {"accuracy": result.accuracy, "n": len(items), "ties": result.ties}
    if not isinstance(stored["summary"], dict) or any(stored["summary"].get(key) != found[key] for key in found):
        raise InputError(
            f"got a summary in {path} that its items do not give ({found}), expected the summary as saved: "
            "run the evaluation again"
        )
    return result


def load_all(folder: str | os.PathLike) -> list[Result]:
    """Read every result below `folder`, in order of path. JSON files of another kind are passed over.

    Raises:
        InputError: the folder does not exist, or a result in it cannot be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"got {folder}, which is not a folder, expected one with results: check the path")
    return [load(path) for path in files_below(folder, "*.json") if _is_result(path)]


def merge_shards(results: Sequence[Result]) -> Result:
    """Join all shards 1/n ... n/n of one run into the result that one process would have given.

    Seconds, texts and tokens are summed, devices listed, the latest date kept.

    Raises:
        InputError: no shards, a shard missing or given twice, an item given twice or missing, or shards of different
            runs (encoder, feature, pooling, seed, dataset, versions, weights, settings).
    """
    if not results or any(result.shard is None for result in results):
        raise InputError("got whole results or none, expected the shards of one run: leave whole results as they are")
    first = results[0]
    for result in results[1:]:
        for name, one, other in _comparable(first, result):
            if one != other:
                raise InputError(
                    f"got shards with {name} {one!r} and {other!r}, expected one run: merge each by itself"
                )
    numbers_given = sorted(int(result.shard.split("/")[0]) for result in results)
    total = int(first.shard.split("/")[1])
    if numbers_given != list(range(1, total + 1)):
        raise InputError(
            f"got shards {', '.join(map(str, numbers_given))} of {total}, expected each of 1 to {total} once: "
            "run the missing ones, drop the repeated ones"
        )
    parts = [result.provenance for result in results]
    joined = dict(first.provenance)
    for name, join in (*((name, sum) for name in _SUMMED), ("date", max), ("device", _listed)):
        values = [part[name] for part in parts if part.get(name) is not None]
        if values:
            joined[name] = join(values)
    items = [item for result in results for item in result.items]
    return replace(first, items=items, provenance=joined, shard=None)


def _identity(result: Result) -> tuple:
    dataset = result.dataset
    run = (result.encoder, result.feature, result.pooling, result.seed)
    return (*run, dataset["name"], dataset["config"], dataset["fingerprint"])


def _comparable(one: Result, other: Result) -> list[tuple]:
    """(name, value, value) of everything that must be equal in the shards of one run."""
    pairs = [(name, getattr(one, name), getattr(other, name)) for name in ("encoder", "feature", "pooling", "seed")]
    pairs += [(f"dataset {name}", one.dataset[name], other.dataset[name]) for name in DATASET_FIELDS]
    same = [name for name in PROVENANCE_FIELDS if name not in _PER_SHARD]
    pairs += [(f"provenance {name}", one.provenance.get(name), other.provenance.get(name)) for name in same]
    pairs += [("number of shards", one.shard.split("/")[1], other.shard.split("/")[1])]
    return [*pairs, ("baselines", one.baselines, other.baselines)]


def _listed(values: list[str]) -> str:
    return ", ".join(sorted(set(values)))


def _is_result(path: Path) -> bool:
    stored = read_json(path)
    return isinstance(stored, dict) and stored.get("kind") == KIND


def _load_items(path: Path, stored: dict) -> list[dict]:
    _check_keys(stored, ("file", "sha256"), f"items of {path}", required=True)
    table = path.with_suffix(".parquet")
    if stored["file"] != table.name:
        raise InputError(
            f"got {path}, saved beside {stored['file']}, expected {table.name}: rename both files or neither"
        )
    try:
        content = table.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"got {path} without {table.name} beside it, expected both: move them together") from error
    if hashlib.sha256(content).hexdigest() != stored["sha256"]:
        raise InputError(
            f"got {table}, which is not the table saved with {path.name}, expected a pair: fetch both again"
        )
    try:
        # By what it says of itself: a repeated value takes no space in a file, and all of it in memory.
        if (rows := pq.read_metadata(pa.BufferReader(content)).num_rows) > MOST_ITEMS:
            raise InputError(f"got {table} with {rows:,} items, expected at most {MOST_ITEMS:,}")
        return pq.read_table(pa.BufferReader(content)).to_pylist()
    except pa.ArrowInvalid as error:
        raise InputError(f"got {table}, which is not Parquet, expected a table of scores: fetch it again") from error


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("/", "--")).strip("-.")[:80] or "encoder"


def _check_identity(result: Result) -> None:
    if not isinstance(result.encoder, str) or not result.encoder.strip():
        raise InputError(f"got encoder {result.encoder!r}, expected a name: pass the encoder's display name")
    if not isinstance(result.feature, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", result.feature):
        raise InputError(f"got feature {result.feature!r}, expected a name such as 'norm_avg' or 'layer_7'")
    if result.pooling not in POOLINGS:
        raise InputError(f"got pooling {result.pooling!r}, expected one of {', '.join(POOLINGS)}")
    if result.seed is not None and (isinstance(result.seed, bool) or not isinstance(result.seed, int)):
        raise InputError(f"got seed {result.seed!r}, expected a whole number or None")
    if result.shard is None:
        return
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", result.shard) if isinstance(result.shard, str) else None
    if match is None or int(match[1]) > int(match[2]):
        raise InputError(f"got shard {result.shard!r}, expected 'i/n' with i from 1 to n, such as '1/4'")


def _check_keys(value: dict, known: Sequence[str], name: str, required: bool = False) -> None:
    if not isinstance(value, dict):
        raise InputError(f"got {type(value).__name__} as {name}, expected a dict with {', '.join(known)}")
    unknown = [str(key) for key in value if key not in known]
    missing = [key for key in known if key not in value] if required else []
    if unknown:
        raise InputError(f"got unknown field {unknown[0]!r} in {name}, expected only {', '.join(known)}")
    if missing:
        raise InputError(f"got no field {missing[0]!r} in {name}, expected {', '.join(known)}")


def _check_json(value: dict, name: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"got {name} that is not JSON ({error}), expected plain finite values: convert them"
        ) from error


def _check_notes(stored: dict) -> None:
    for name in _SUMMED:
        value = stored.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, numbers.Real) or value < 0):
            raise InputError(f"got {name} {value!r} in provenance, expected a number, 0 or more")
    for name in ("aggregator", "settings", "parameters"):
        if not isinstance(stored.get(name), dict | None):
            raise InputError(f"got {name} {stored[name]!r} in provenance, expected a dict or none")


def _check_baselines(baselines: dict) -> None:
    _check_keys(baselines, BASELINES, "baselines")
    for name, stored in baselines.items():
        _check_keys(stored, ("accuracy", "categories", "media"), f"baseline {name}", required=True)
        parts = [("accuracy", {"overall": stored["accuracy"]}, ("overall",))]
        parts += [("categories", stored["categories"], CATEGORIES), ("media", stored["media"], MEDIA)]
        for part, values, known in parts:
            _check_keys(values, known, f"{part} of baseline {name}")
            for value in values.values():
                if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
                    raise InputError(f"got {value!r} in {part} of baseline {name}, expected a fraction from 0 to 1")


def _checked_item(item: dict) -> dict:
    """The item in the order of ITEM_FIELDS with Python numbers, once it has been found valid."""
    _check_keys(item, ITEM_FIELDS, "an item", required=True)
    where = f"item {item['id']!r}"
    for name in ("id", "caption_id"):
        if not isinstance(item[name], str) or not item[name]:
            raise InputError(f"got {name} {item[name]!r} in {where}, expected a non-empty string")
    for name, legal in (("category", CATEGORIES), ("media", MEDIA)):
        if item[name] not in legal:
            raise InputError(f"got {name} {item[name]!r} in {where}, expected one of {', '.join(legal)}")
    scores = list(item["scores"])
    if len(scores) < 2 or not all(isinstance(score, numbers.Real) and math.isfinite(score) for score in scores):
        raise InputError(
            f"got scores {scores} in {where}, expected 2 or more finite numbers: check the encoder's output"
        )
    label = item["label"]
    if isinstance(label, bool) or not isinstance(label, numbers.Integral) or not 0 <= label < len(scores):
        raise InputError(f"got label {label!r} in {where}, expected 0 to {len(scores) - 1}")
    return {name: item[name] for name in ITEM_FIELDS} | {
        "label": int(label),
        "scores": [float(score) for score in scores],
    }


def _check_counts(result: Result) -> None:
    if not result.items:
        raise InputError("got no items, expected at least one: evaluate a dataset that is not empty")
    ids = [item["id"] for item in result.items]
    for one, other in pairwise(ids):
        if one == other:
            raise InputError(f"got item {one!r} twice, expected every item once: remove the repeated one")
    captions = len({item["caption_id"] for item in result.items})
    found = (len(ids), captions)
    expected = (result.dataset["instances"], result.dataset["captions"])
    if result.shard is None and found != expected:
        raise InputError(
            f"got {found[0]} instances of {found[1]} captions, expected {expected[0]} of {expected[1]} as the dataset "
            "says: evaluate all of it, or name the shard"
        )
    if result.shard is not None and found[0] > expected[0]:
        raise InputError(
            f"got {found[0]} instances in shard {result.shard} of a dataset of {expected[0]}, expected fewer"
        )
