"""Cards of the release, filled from files: the built folder, results, training records. No figure is typed by hand.

    text = model_card(Path("release/granted"), base_model="Qwen/Qwen3-VL-8B-Instruct", license="apache-2.0",
                      ted_results=sorted(Path("results").glob("*.json")))
    validate_card(text, "model")          # raises on an unfilled field, an empty section, missing metadata

Tiny, on CPU: tests/test_model_cards.py. The text is in the templates beside this file; front matter is made by
huggingface_hub. What no file says, the card says it does not know. The data set's card is made with its folder
(`dataset_builders/ted_6k/export.py`).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CardData, DatasetCardData, EvalResult, ModelCardData, SpaceCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from safetensors import SafetensorError, safe_open

from granted.citation import bibtex
from granted.errors import InputError
from granted.eval_metric.report import markdown_table
from granted.eval_metric.results import Result, load
from granted.eval_metric.series import group_seeds
from granted.files import read_json


GRADIO_VERSION = "6.31.0"  # the one that the page of the metric was tried with
# What the Hub shows and filters by; a card without one of them is not finished.
METADATA = {
    "model": ("language", "license", "library_name", "pipeline_tag", "tags"),
    "pipeline": ("language", "license", "library_name", "pipeline_tag", "tags", "base_model"),
    "dataset": ("language", "license", "pretty_name", "task_categories", "tags", "size_categories", "configs"),
    "metric": ("title", "sdk", "sdk_version", "app_file", "license", "tags"),
}
_CARD_DATA = {"dataset": DatasetCardData, "metric": SpaceCardData}
_TAGS = ["granted", "text-encoder"]
_DATASETS = {
    "official": "TED-6K",
    "sample": "TED sample (no part of TED-6K)",
    "synthetic": "TED synthetic (no part of TED-6K)",
    "custom": "TED custom (not the whole TED-6K)",
}
_PIPELINES = {
    "GrantedLumina2Pipeline": ("text-to-image", "pictures"),
    "GrantedWanPipeline": ("text-to-video", "videos"),
}
_FUSIONS = {
    "learned": "the sum of its normalised layers, weighted by the softmax of learned weights",
    "norm_avg": "the mean of its normalised layers",
    "avg": "the mean of its layers",
    "single": "one of its layers",
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


# ----------------------------------------------------------------------------------------------------------- the cards


def model_card(
    folder: Path,
    *,
    repo_id: str = "granted",
    license: str,
    base_model: str | None = None,
    base_revision: str | None = None,
    datasets: Sequence[str] = (),
    ted_results: Iterable[Path] = (),
    ted_repo: str = "ted-6k",
    vqa_scores: Path | None = None,
    training_record: Path | None = None,
    revision: str | None = None,
    demonstration: bool = False,
) -> str:
    """The card of a fused encoder.

    Args:
        folder (`Path`): what `GrantedModel.save_pretrained` wrote, perhaps with files for sentence-transformers.
        repo_id (`str`, defaults to `"granted"`): where it will be on the Hub; code in the card loads it from there.
        license (`str`): of the weights, an identifier of the Hub.
        base_model (`str`, *optional*): Hub id of the model it was made from; base_revision (`str`, *optional*): its
            commit.
        datasets (`Sequence[str]`, defaults to none): Hub ids of data sets it was trained on.
        ted_results (`Iterable[Path]`, defaults to none): results of this very encoder on TED, as `Result.save` writes
            them. Seeds are averaged, each data set gets its table; the metadata get those of the folder's fusion.
        ted_repo (`str`, defaults to `"ted-6k"`): the Hub id of the benchmark.
        vqa_scores (`Path`, *optional*): `vqa.json` of `granted vqa`.
        training_record (`Path`, *optional*): `training_record.json` of stage 1.
        revision (`str`, *optional*): the tag the release will have; the card's examples pin it.
        demonstration (`bool`, defaults to `False`): say that this is a demonstration and no encoder to build on.

    Raises:
        InputError: a file cannot be read, or is not what it is given for.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "granted":
        raise InputError(f"got {folder}, expected the folder of a GrantedModel: check the path")
    encoder = config["encoder_config"]
    trunk = encoder.get("text_config") or encoder
    results = [load(path) for path in ted_results]
    if len({result.encoder for result in results}) > 1:
        names = ", ".join(sorted({result.encoder for result in results}))
        raise InputError(
            f"got results of {names}, expected those of the encoder in {folder} alone: leave the others out"
        )
    tables, feature = _by_dataset(results), _feature(config)
    record = _record(training_record)
    sentence = (folder / "modules.json").is_file()
    data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=[*_TAGS, "custom_code", *(["sentence-transformers"] if sentence else [])],
        base_model=base_model,
        datasets=list(datasets) or None,
        metrics=["accuracy"] if tables or vqa_scores else None,
        model_name=_short(repo_id),
        eval_results=[result for runs in tables.values() for result in _ted_eval_results(runs, ted_repo, feature)]
        or None,
    )
    return _fill(
        "model.md",
        data,
        folder,
        repo_id=repo_id,
        revision=revision,
        base_model=base_model,
        base_revision=base_revision,
        config=config,
        fusion=_FUSIONS[config["fusion"]],
        encoder_type=encoder["model_type"],
        layers=_entry(trunk, "num_hidden_layers", "num_layers", "n_layer"),
        width=config.get("projection_dim") or _entry(trunk, "hidden_size", "d_model", "n_embd"),
        parameters=_parameters(folder),
        layer_weights=_layer_weights(folder) if config["fusion"] == "learned" else None,
        sentence_transformers=sentence,
        ted=[_ted_section(runs) for runs in tables.values()],
        vqa=_vqa_table(vqa_scores),
        ted_in_training=_ted_in_training(record),
        training=_training(record),
        demonstration=demonstration,
    )


def pipeline_card(
    folder: Path,
    *,
    repo_id: str,
    encoder_repo: str,
    license: str,
    datasets: Sequence[str] = (),
    scores: Path | None = None,
    training_record: Path | None = None,
    grid: Path | None = None,
    prompt: str = "a red cube on a blue sphere",
    call: Mapping[str, Any] | None = None,
    revision: str | None = None,
    demonstration: bool = False,
) -> str:
    """The card of a diffusers pipeline.

    Args:
        folder (`Path`): a folder that a pipeline's `save_pretrained` wrote.
        repo_id (`str`), encoder_repo (`str`): where it and its text encoder will be on the Hub.
        license, datasets, revision, demonstration: as of [`model_card`].
        scores (`Path`, *optional*): `shapes.json` of `granted evaluate-generation`.
        training_record (`Path`, *optional*): `training_record.json` of stage 2.
        grid (`Path`, *optional*): a picture of results, in the folder.
        prompt (`str`): of the example.
        call (`Mapping[str, Any]`, *optional*): other arguments of the example's call; by default those of the scored
            pictures, else those of the training's samples.

    Raises:
        InputError: a file cannot be read, or is not what it is given for.
    """
    folder = Path(folder)
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name") if isinstance(index, dict) else None
    kind = name[-1] if isinstance(name, list) else name
    if kind not in _PIPELINES:
        raise InputError(f"got {folder} with a pipeline {kind!r}, expected one of {', '.join(_PIPELINES)}")
    task, results = _PIPELINES[kind]
    if grid is not None and (not Path(grid).is_file() or not Path(grid).resolve().is_relative_to(folder.resolve())):
        raise InputError(f"got the picture {grid}, expected one in {folder}: copy it there")
    scored, record = _shapes_scores(scores), _record(training_record)
    data = ModelCardData(
        language="en",
        license=license,
        library_name="diffusers",
        pipeline_tag=task,
        tags=[*_TAGS, task, "custom_code"],
        base_model=encoder_repo,
        datasets=list(datasets) or None,
        metrics=["accuracy"] if scored else None,
        model_name=_short(repo_id),
        eval_results=_shapes_eval_results(scored, task) or None,
    )
    transformer = read_json(folder / "transformer" / "config.json")
    return _fill(
        "pipeline.md",
        data,
        folder,
        repo_id=repo_id,
        revision=revision,
        encoder_repo=encoder_repo,
        pipeline=kind,
        results=results,
        video=task == "text-to-video",
        transformer=transformer["_class_name"],
        parameters=_parameters(folder / "transformer"),
        has_vae=index.get("vae", [None])[0] is not None,
        layer_weights=_layer_weights(folder / "text_encoder"),
        prompt=prompt,
        call=_call(scored, record) if call is None else dict(call),
        shapes=_shapes_tables(scored),
        pictures=scored["pictures"]["scored"] if scored else 0,
        grid=Path(grid).resolve().relative_to(folder.resolve()).as_posix() if grid else None,
        training=_training(record),
        demonstration=demonstration,
    )


def metric_card(folder: Path, *, repo_id: str = "ted_accuracy", revision: str | None = None) -> str:
    """The card of the metric's Space.

    Args:
        folder (`Path`): the folder with `ted_accuracy.py` and `app.py`.
        repo_id (`str`, defaults to `"ted_accuracy"`), revision (`str`, *optional*): as of [`model_card`].
    """
    data = SpaceCardData(
        title="TED accuracy",
        emoji="📏",
        colorFrom="blue",
        colorTo="green",
        sdk="gradio",
        sdk_version=GRADIO_VERSION,
        app_file="app.py",
        pinned=False,
        license="apache-2.0",
        tags=["evaluate", "metric", *_TAGS, "text-to-image", "text-to-video"],
        short_description="How often an encoder ranks the true statement first",
        description="How often a text encoder places the true statement about a caption above the contradicting ones.",
    )
    return _fill("metric.md", data, Path(folder), repo_id=repo_id, revision=revision)


def _fill(template: str, data: CardData, folder: Path, *, repo_id: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "number": _number, "cell": _cell}
    environment.filters["python"] = _python
    text = environment.get_template(template).render(
        name=_short(repo_id), repo_id=repo_id, code=_code(folder), citation=bibtex(), **values
    )
    text = re.sub(r"\n{3,}", "\n\n", text)
    return f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"


# -------------------------------------------------------------------------------------------------- figures from files


def _code(folder: Path) -> list[tuple[str, str]]:
    """Every Python file of a folder with its SHA-256."""
    paths = sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)
    return [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def _parameters(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold."""
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _layer_weights(folder: Path) -> list[float] | None:
    """The softmax of an encoder's learned layer weights, first layer first; none where nothing is learned."""
    for path in sorted(folder.glob("*.safetensors")):
        with _opened(path) as weights:
            if "fusion.weights" in weights.keys():  # noqa: SIM118
                powers = [math.exp(value) for value in weights.get_tensor("fusion.weights").tolist()]
                return [power / sum(powers) for power in powers]
    return None


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(f"got {path}, expected weights in safetensors: build the folder again") from error


def _by_dataset(results: Sequence[Result]) -> dict[tuple, list[Result]]:
    """Results on the same data together, the benchmark itself first."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        dataset = result.dataset
        groups.setdefault((dataset["name"], dataset["config"], dataset["fingerprint"]), []).append(result)
    return dict(sorted(groups.items(), key=lambda pair: (list(_DATASETS).index(pair[0][1]), pair[0])))


def _ted_section(results: Sequence[Result]) -> dict[str, Any]:
    dataset = results[0].dataset
    aggregators = [run.provenance.get("aggregator") or {} for run in results]
    pairs = sorted({entry["pairs"]["training"] for entry in aggregators if "training" in (entry.get("pairs") or {})})
    return {
        "name": _DATASETS[dataset["config"]],
        "config": dataset["config"],
        "instances": dataset["instances"],
        "captions": dataset["captions"],
        "table": markdown_table(results).strip(),
        "has_baselines": any(run.baselines for run in results),
        "pairs": pairs,
    }


def _feature(config: Mapping[str, Any]) -> str:
    """What results call the feature that a configuration computes."""
    if config["fusion"] != "single":
        return config["fusion"]
    index = config["layer_index"]
    return {-1: "last", -2: "penultimate"}.get(index, f"layer_{index}")


def _ted_eval_results(results: Sequence[Result], repo: str, feature: str) -> list[EvalResult]:
    dataset = results[0].dataset
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name="Telling true from false statements about a caption",
            dataset_type=repo,
            dataset_name=_DATASETS[dataset["config"]],
            dataset_config=dataset["config"] if dataset["config"] in ("official", "synthetic") else "default",
            dataset_split="test",
            dataset_args={"fingerprint": dataset["fingerprint"], "instances": dataset["instances"]},
            metric_type="accuracy",
            metric_name=f"TED accuracy ({one.feature}, {one.pooling})",
            metric_value=one.estimate.accuracy,
            metric_args={"ci95": [one.estimate.low, one.estimate.high], "seeds": len(one.runs)},
        )
        for one in group_seeds(results)
        if one.feature == feature
    ]


def _vqa_table(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    report = read_json(path)
    if not isinstance(report, dict) or "all" not in report.get("accuracy", {}):
        raise InputError(f"got {path}, expected the report of granted vqa: check the path")
    parts = report["accuracy"]
    return {"columns": [name for name in parts["all"] if name != "n"], "parts": parts}


def _record(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or "steps" not in record:
        raise InputError(f"got {path}, expected the record of a training: check the path")
    return record


def _training(record: dict[str, Any] | None) -> list[tuple[str, str]] | None:
    """What a record says of the data and the procedure, as rows of a table."""
    if record is None:
        return None
    settings = record["settings"]
    identity = record.get("identity") or {}
    rows = [("began from", _shown(record.get("base_model"))), ("fingerprint of the encoder", identity.get("encoder"))]
    rows += [("data", _shown(record.get("data") or settings.get("data"))), ("rows", record.get("rows"))]
    rows += [("fingerprint of the data", record.get("data_fingerprint") or identity.get("data"))]
    rows += [("steps", record["steps"])]
    rows += [(label, settings.get(name)) for name, label in _SETTINGS.items()]
    rows += [("layer weights fixed after step", record.get("frozen_at"))]
    rows += [("loss at the end", record.get("final_loss", record.get("loss")))]
    rows += [("seconds since the last start", record.get("seconds_of_last_start"))]
    rows += [("processes", record.get("processes")), ("device", record.get("device"))]
    rows += [("versions", ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()))]
    return [(label, _number(value)) for label, value in rows if value not in (None, "", [], {})]


def _shown(source: str | None) -> str | None:
    """Where something came from, without the folders of the machine it was on."""
    if source is None:
        return None
    return ", ".join(Path(part).name if Path(part).is_absolute() else part for part in source.split(","))


def _ted_in_training(record: dict[str, Any] | None) -> list[dict[str, Any]]:
    """TED as it was scored inside a training: a line for each step and feature."""
    scored = (record or {}).get("ted") or {}
    return [
        {
            "step": int(step),
            "feature": feature,
            **{name: value[name] for name in ("accuracy", "ci95", "n", "captions")},
        }
        for step, features in sorted(scored.items(), key=lambda pair: int(pair[0]))
        for feature, value in features.items()
    ]


def _shapes_scores(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    scores = read_json(path)
    if not isinstance(scores, dict) or scores.get("score") != "shapes" or not scores.get("report"):
        raise InputError(f"got {path}, expected shapes.json of granted evaluate-generation: check the path")
    return scores


def _shapes_tables(scores: dict[str, Any] | None) -> list[dict[str, Any]]:
    return [{"part": part, "rows": list(rows.items())} for part, rows in (scores or {"report": {}})["report"].items()]


def _shapes_eval_results(scores: dict[str, Any] | None, task: str) -> list[EvalResult]:
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
        for part, rows in (scores or {"report": {}})["report"].items()
        for name, row in rows.items()
    ]


def _call(scores: dict[str, Any] | None, record: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments that pictures were made with: the scored ones, else the training's samples."""
    if scores is not None:
        given = scores["pictures"]["generation"]["identity"]["arguments"]
    else:
        given = dict((record or {"settings": {}})["settings"])
        if given.get("caption_dropout"):  # what it was trained to see without a caption
            given["negative_prompt"] = ""
    return {name: given[name] for name in _CALL if given.get(name) is not None}


def _entry(config: Mapping[str, Any], *names: str) -> Any:
    """The first of some names that a configuration has: model types differ in how they call a thing."""
    found = next((config[name] for name in names if config.get(name) is not None), None)
    if found is None:
        raise InputError(f"got a config.json without {' or '.join(names)}, expected one of them: save the model again")
    return found


def _short(repo_id: str) -> str:
    return repo_id.rpartition("/")[2]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(ends: Sequence[float]) -> str:
    return f"[{_percent(ends[0])}, {_percent(ends[1])}]"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _python(value: Any) -> str:
    """As it is written in code, texts in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _cell(value: str) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


# ---------------------------------------------------------------------------------------------------------- validation

_FENCED = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t]*#*$")
_UNFILLED = {
    "a field that was not filled": re.compile(r"\{\{|\{%|\{#"),
    "[More Information Needed]": re.compile(r"\[More Information Needed\]", re.IGNORECASE),
    "a note of something to do": re.compile(r"\b(?:TODO|FIXME|TBD)\b"),
}
# In prose and tables only: code may say None.
_NOTHING = re.compile(r"(?<![\w.])(?:None|nan|undefined)(?![\w.]*\w)(?! of\b)")


def validate_card(text: str, kind: str) -> None:
    """Raise unless a card is finished.

    Args:
        text (`str`): the card, front matter included.
        kind (`str`): `"model"`, `"dataset"`, `"metric"` or `"pipeline"`.

    Raises:
        InputError: an unfilled field, a section without text, missing or malformed metadata. Each finding is a line.
    """
    if kind not in METADATA:
        raise InputError(f"got kind {kind!r}, expected one of {', '.join(METADATA)}")
    front, body, offset = _split(text)
    findings = _metadata_findings(front, kind) + _body_findings(body, offset)
    if findings:
        raise InputError(
            f"got a card with {len(findings)} findings, expected a finished one: fill in what is listed\n"
            + "\n".join(findings)
        )


def _split(text: str) -> tuple[str | None, str, int]:
    """Front matter if there is some, the rest, and the number of lines before the rest."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", text, re.DOTALL | re.MULTILINE)
    if not found:
        return None, text, 0
    return found[1], text[found.end() :], text.count("\n", 0, found.end())


def _metadata_findings(front: str | None, kind: str) -> list[str]:
    if front is None:
        return ["metadata is missing, expected YAML between two lines of ---"]
    try:
        metadata = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError):
        return ["metadata is no YAML"]
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        return ["metadata is no mapping of names"]
    findings = [f"metadata lacks {name}" for name in METADATA[kind] if metadata.get(name) in (None, "", [], {})]
    findings += [f"metadata has {place} without a value" for place in _empty(metadata)]
    findings += [
        f"metadata has {what}" for what, pattern in _UNFILLED.items() if pattern.search(front) and what not in findings
    ]
    try:
        _CARD_DATA.get(kind, ModelCardData)(**metadata)
    except (ValueError, TypeError, KeyError, AttributeError):
        findings.append("metadata cannot be read by huggingface_hub, expected what its card data takes")
    return findings


def _empty(value: Any, place: str = "") -> list[str]:
    """Places in metadata that hold nothing, or a word for it."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _empty(inner, f"{place}.{key}".strip("."))]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in _empty(inner, f"{place}[{i}]")]
    nothing = (
        value is None or value in ("None", "null", "nan") or (isinstance(value, float) and not math.isfinite(value))
    )
    return [place] if nothing else []


def _body_findings(body: str, offset: int) -> list[str]:
    findings = []
    for number, line in enumerate(body.splitlines(), start=offset + 1):
        findings += [f"line {number} has {what}" for what, pattern in _UNFILLED.items() if pattern.search(line)]
    prose = _FENCED.sub(lambda block: "code" + "\n" * block[0].count("\n"), body)
    lines = prose.splitlines()
    for number, line in enumerate(lines, start=offset + 1):
        if _NOTHING.search(_INLINE_CODE.sub("code", line)):
            findings.append(f"line {number} has a field without a value")
    headings = [(i, len(found[1]), found[2]) for i, line in enumerate(lines) if (found := _HEADING.match(line))]
    if not headings:
        findings.append("text has no heading")
    for (i, level, title), (end, next_level, _) in zip(headings, [*headings[1:], (len(lines), 0, "")]):
        if not title:
            findings.append(f"line {offset + i + 1} has a heading without a title")
        if next_level <= level and not any(line.strip() for line in lines[i + 1 : end]):
            findings.append(f"line {offset + i + 1} has a section without text")
    return findings
