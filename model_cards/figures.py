"""What the cards tell, read from files: the built folder, results, training records.

    ted_section(results)["table"]         # a Markdown table
    training_rows(read_record(path))      # [("steps", 2100), ("learning rate", 0.003), ...]

Tiny, on CPU: tests/test_model_cards.py. A file of another kind than it is given for is refused.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from safetensors import SafetensorError, safe_open

from granted.configuration_granted import FusionOptions, GrantedConfig
from granted.dataset_builders.ted_6k.hub_task import SPLIT, subset
from granted.encoding.features import feature_fusion
from granted.eval_metric.report import markdown_table
from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import group_seeds
from granted.utils.errors import InputError
from granted.utils.files import read_json


PLAIN = {"layer_norm": "auto", "embeddings": False, "num_outputs": None}  # of the features of results
_DATASETS = {
    "official": "TED-6K",
    "sample": "TED sample (no part of TED-6K)",
    "synthetic": "TED synthetic (no part of TED-6K)",
    "custom": "TED custom (not the whole TED-6K)",
}
# Entries of a training record that say how the training was done, and what they are called.
_SETTINGS = {
    "num_train_epochs": "epochs",
    "learning_rate": "learning rate",
    "per_device_train_batch_size": "batch size of a process",
    "batch_size": "batch size",
    "gradient_accumulation_steps": "accumulated batches a step",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up steps",
    "weight_decay": "weight decay",
    "adapter": "adapter",
    "train_vision": "vision tower trained",
    "assistant_only_loss": "loss on answers only",
    "layer_weights": "layer weights",
    "layer_weights_learning_rate": "learning rate of the layer weights",
    "caption_dropout": "captions dropped",
    "timestep_sampling": "time steps drawn",
    "ema_decay": "decay of the averaged weights",
    "resolution": "resolution",
    "height": "height",
    "width": "width",
    "num_frames": "frames",
    "bf16": "bf16",
    "mixed_precision": "mixed precision",
    "seed": "seed",
}
_CALL = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "negative_prompt")


def code_of(folder: Path) -> list[tuple[str, str]]:
    """Every Python file of a folder with its SHA-256."""
    paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def count_parameters(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def layer_weights(folder: Path) -> dict[str, Any] | None:
    """The factor of every layer of a saved encoder, first layer first; none where nothing is learned.

    Of several fusions, one for each block of a diffusion model, the mean of their factors: `values`, and `blocks`.
    """
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as weights:
            if "fusion.weights" in weights.keys():  # noqa: SIM118
                factors = weights.get_tensor("fusion.weights").double()  # (L,) or (K, L)
                if read_json(folder / "config.json")["fusion"] == "learned":
                    factors = factors.softmax(-1)  # (L,) or (K, L)
                rows = factors.unsqueeze(0) if factors.ndim == 1 else factors  # (K, L)
                return {"values": rows.mean(0).tolist(), "blocks": len(rows)}
    return None


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"got {path}, expected weights in safetensors: build the folder again") from error


def by_dataset(results: Sequence[Result]) -> dict[tuple, list[Result]]:
    """Results on the same data together, the benchmark itself first."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        dataset = result.dataset
        groups.setdefault((dataset["name"], dataset["config"], dataset["fingerprint"]), []).append(result)
    return dict(sorted(groups.items(), key=lambda pair: (list(_DATASETS).index(pair[0][1]), pair[0])))


def ted_section(results: Sequence[Result]) -> dict[str, Any]:
    """What the card tells of results on one dataset: its name and size, their table, how the aggregators learned."""
    dataset = results[0].dataset
    aggregators = [run.provenance.get("aggregator") or {} for run in results]
    settings = [run.provenance.get("settings") or {} for run in results]
    table = markdown_table(results).strip()
    for feature, label in feature_labels(results).items():
        table = table.replace(f"| {feature} |", f"| {label} |")
    pairs = sorted({entry["pairs"]["training"] for entry in aggregators if "training" in (entry.get("pairs") or {})})
    return {
        "name": _DATASETS[dataset["config"]],
        "config": dataset["config"],
        "instances": dataset["instances"],
        "captions": dataset["captions"],
        "table": table,
        "has_baselines": any(run.baselines for run in results),
        "pairs": pairs,
        "dtypes": sorted({run.provenance["dtype"] for run in results}),
        "lengths": sorted({one["max_length"] for one in settings if "max_length" in one}),
    }


def feature_labels(results: Sequence[Result]) -> dict[str, str]:
    """What people read for the features of results: `frozen_NAME` is what `weights:PATH` is stored under."""
    features = {run.feature for run in results}
    frozen = sorted(feature for feature in features if feature.startswith("frozen_"))
    labels = {feature: feature for feature in features}
    for feature in frozen:
        labels[feature] = "learned layer weights, frozen"
        if len(frozen) > 1:
            labels[feature] += f" ({feature.removeprefix('frozen_')})"
    return labels


def at_chance(results: Sequence[Result], feature: str) -> bool:
    """Whether aggregators of a feature (as of [`feature_name`]) do not score above chance on any data."""
    scored = [
        one
        for runs in by_dataset(results).values()
        for one in group_seeds(runs)
        if one.pooling == "aggregator" and is_of(one.feature, feature)
    ]
    chances = [one.runs[0].baselines.get("chance", {}).get("accuracy", 0.0) for one in scored]
    return bool(scored) and all(one.estimate.low <= chance for one, chance in zip(scored, chances))


def is_of(stored: str, feature: str) -> bool:
    """Whether results are of what a model computes; its learned weights are stored as those of a saved model, frozen.

    Weights that results call `learned` an aggregator has learned for itself.
    """
    return stored.startswith("frozen_") if feature == "learned" else stored == feature


def feature_name(config: GrantedConfig) -> str:
    """What results call the feature that a configuration computes; empty where they have no name for it."""
    if config.standardize or config.projection_dim:  # results are of features as they are
        return ""
    count, own = config.num_hidden_layers, FusionOptions(**config.layer_fusion())
    layers = [f"layer_{index}" for index in range(count)]
    firsts = [f"norm_avg_first_{index}" for index in range(1, count + 1)]
    for name in ("last", "penultimate", *layers, "norm_avg", *firsts, "avg", "learned"):
        other = FusionOptions(**config.layer_fusion() | PLAIN | feature_fusion(name, count))
        if _sums(own) == _sums(other):
            return name
    return ""


def _sums(options: FusionOptions) -> tuple:
    """What a fusion computes, however it is spelt."""
    kind = options.fusion if options.has_weights() else "mean"  # of one layer, or several
    return kind, options.arrangement(), options.used_layers(), options.norm(), options.num_outputs


def ted_eval_results(results: Sequence[Result], repo: str, feature: str) -> list[EvalResult]:
    """Results on one dataset as metadata, those of one feature: a model is scored by what it computes.

    Args:
        results (`Sequence[Result]`): on the same data.
        repo (`str`): the Hub id of the data.
        feature (`str`): as of [`feature_name`].
    """
    dataset, shown = results[0].dataset, feature_labels(results)
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name="Telling true from false statements about a caption",
            dataset_type=repo,
            dataset_name=_DATASETS[dataset["config"]],
            dataset_config=subset(dataset["config"]),
            dataset_split=SPLIT,
            dataset_args={"fingerprint": dataset["fingerprint"], "instances": dataset["instances"]},
            metric_type="accuracy",
            metric_name=f"TED accuracy ({shown[one.feature]}, {one.pooling})",
            metric_value=one.estimate.accuracy,
            metric_args={"ci95": [one.estimate.low, one.estimate.high], "seeds": len(one.runs)},
        )
        for one in group_seeds(results)
        if is_of(one.feature, feature)
    ]


def vqa_table(path: Path) -> dict[str, Any]:
    """The columns and, per aspect, the figures of `vqa.json` of `granted evaluate vqa`."""
    report = read_json(path)
    if not isinstance(report, dict) or "all" not in report.get("accuracy", {}):
        raise InputError(f"got {path}, expected the report of granted evaluate vqa: check the path")
    parts = report["accuracy"]
    return {"columns": [name for name in parts["all"] if name != "n"], "parts": parts}


def read_record(path: Path) -> dict[str, Any]:
    """The record that a training of stage 1 or 2 wrote."""
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or "steps" not in record:
        raise InputError(f"got {path}, expected the record of a training: check the path")
    return record


def training_rows(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a record says of the data and the procedure, as rows of a table."""
    record = without_folders(record)
    settings = record["settings"]
    identity = record.get("identity") or {}
    rows = [("began from", record.get("base_model")), ("fingerprint of the encoder", identity.get("encoder"))]
    data = record.get("data") or settings.get("data") or ""
    rows += [("data", data.replace(",", ", ")), ("rows", record.get("rows"))]
    rows += [("fingerprint of the data", record.get("data_fingerprint") or identity.get("data"))]
    rows += [("steps", record["steps"])]
    rows += [(label, settings.get(name)) for name, label in _SETTINGS.items()]
    rows += [("layer weights fixed after step", record.get("frozen_at"))]
    rows += [("loss at the end", record.get("final_loss", record.get("loss")))]
    rows += [("seconds since the last start", record.get("seconds_of_last_start"))]
    rows += [("processes", record.get("processes")), ("device", record.get("device"))]
    rows += [("versions", ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()))]
    return [(label, value) for label, value in rows if value not in (None, "", [], {})]


def without_folders(value: Any) -> Any:
    """A JSON value in which absolute paths, lists of them with commas too, have lost the folders of their machine."""
    if isinstance(value, dict):
        return {name: without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and any(Path(part).is_absolute() for part in value.split(",")):
        return ",".join(Path(part).name if Path(part).is_absolute() else part for part in value.split(","))
    return value


def ted_in_training(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """TED as it was scored inside a training, if it was: a line for each step and feature."""
    scored = record.get("ted") or {}
    return [
        {
            "step": int(step),
            "feature": feature,
            **{name: value[name] for name in ("accuracy", "ci95", "n", "captions")},
        }
        for step, features in sorted(scored.items(), key=lambda pair: int(pair[0]))
        for feature, value in features.items()
    ]


def read_shapes_scores(path: Path) -> dict[str, Any]:
    """`shapes.json` of `granted evaluate generation`."""
    scores = read_json(path)
    if not isinstance(scores, dict) or scores.get("score") != "shapes" or not scores.get("report"):
        raise InputError(f"got {path}, expected shapes.json of granted evaluate generation: check the path")
    return scores


def shapes_eval_results(scores: Mapping[str, Any], task: str) -> list[EvalResult]:
    """The scores of images as metadata."""
    return [
        EvalResult(
            task_type=task,
            dataset_type="shapes",
            dataset_name=f"Prompts of shapes ({part})",
            metric_type="accuracy",
            metric_name=name.replace("_", " "),
            metric_value=row["score"],
            metric_args={"ci95": row["ci95"], "pictures": row["n"]},
        )
        for part, rows in scores["report"].items()
        for name, row in rows.items()
    ]


def example_call(scores: Mapping[str, Any] | None, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments that images were made with: the scored ones, else the training's samples."""
    given: dict[str, Any] = {}
    if scores is not None:
        generation = scores["pictures"].get("generation") or {}  # images may be from elsewhere
        given = generation.get("identity", {}).get("arguments", {})
    elif record is not None:
        given = dict(record["settings"])
        if given.get("caption_dropout"):  # what it was trained to see without a caption
            given["negative_prompt"] = ""
    return {name: given[name] for name in _CALL if given.get(name) is not None}
