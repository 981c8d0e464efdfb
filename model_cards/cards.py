"""Cards of the release, filled from files: the built folder, results, training records. No figure is typed by hand.

    text = model_card(Path("release/granted"), base_model="Qwen/Qwen3-VL-8B-Instruct", license="apache-2.0",
                      ted_results=sorted(Path("results").glob("*.json")))

Tiny, on CPU: tests/test_model_cards.py. The text is in the templates beside this file, what they are filled with comes
from `figures.py`, front matter is made by huggingface_hub. What no file says, the card says it does not know. A card
that is returned is finished in the sense of `validation.py`. The dataset's card is made with its folder
(`dataset_builders/ted_6k/export.py`).
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, DatasetCardData, ModelCardData, SpaceCardData

from granted.configuration_granted import FusionOptions, GrantedConfig
from granted.eval_metric.results import load
from granted.model_cards.figures import (
    at_chance,
    by_dataset,
    code_of,
    count_parameters,
    example_call,
    feature_name,
    is_of,
    layer_weights,
    read_record,
    read_shapes_scores,
    shapes_eval_results,
    ted_eval_results,
    ted_in_training,
    ted_section,
    training_rows,
    vqa_table,
    without_folders,
)
from granted.model_cards.validation import validate_card
from granted.sentence_granted import AGGREGATOR_FOLDER
from granted.utils.citation import bibtex
from granted.utils.errors import InputError
from granted.utils.files import read_json
from granted.utils.shown import percent, percent_interval
from granted.utils.templates import fill_template


GRADIO_VERSION = "6.31.0"  # the one that the page of the metric was tried with
_TAGS = ["granted", "text-encoder"]
_PIPELINES = {
    "GrantedLumina2Pipeline": ("text-to-image", "images"),
    "GrantedWanPipeline": ("text-to-video", "videos"),
}
_FUSIONS = {
    "learned": "the sum of its normalised layers, weighted by the softmax of learned weights",
    "norm_avg": "the mean of its normalised layers",
    "avg": "the mean of its layers",
    "single": "one of its layers",
    "signed": "a sum of its layers with learned factors of any sign",
    "concat": "chosen layers beside each other",
    "interleave": "chosen layers beside each other, channel by channel",
    "stack": "chosen layers, each by itself",
}


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
        datasets (`Sequence[str]`, defaults to none): Hub ids of datasets it was trained on.
        ted_results (`Iterable[Path]`, defaults to none): results of this very encoder on TED, as `Result.save` writes
            them. Seeds are averaged, each dataset gets its table; the metadata get those of the folder's fusion.
        ted_repo (`str`, defaults to `"ted-6k"`): the Hub id of the benchmark.
        vqa_scores (`Path`, *optional*): `vqa.json` of `granted evaluate vqa`.
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
    fused = GrantedConfig.from_dict(config)
    options = FusionOptions(**fused.layer_fusion())
    results = [load(path) for path in ted_results]
    if len({result.encoder for result in results}) > 1:
        names = ", ".join(sorted({result.encoder for result in results}))
        raise InputError(
            f"got results of {names}, expected those of the encoder in {folder} alone: leave the others out"
        )
    tables, feature = by_dataset(results), feature_name(fused)
    record = read_record(training_record) if training_record else {}
    sentence = (folder / "modules.json").is_file()
    aggregator = count_parameters(folder / AGGREGATOR_FOLDER) if sentence else None
    own = [one for one in results if one.pooling == "aggregator" and is_of(one.feature, feature_name(fused))]
    counts = [(one.provenance.get("parameters") or {}).get("aggregator") for one in own]
    aggregator_scored = aggregator is not None and aggregator in counts  # of this size, at least
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
        eval_results=[result for runs in tables.values() for result in ted_eval_results(runs, ted_repo, feature)]
        or None,
    )
    return _fill(
        "model",
        data,
        folder,
        repo_id=repo_id,
        revision=revision,
        base_model=base_model,
        base_revision=base_revision,
        config=fused,
        fusion=_FUSIONS[fused.fusion],
        encoder_type=fused.encoder_config.model_type,
        layers=fused.num_hidden_layers,
        width=fused.hidden_size,
        states=options.output_count() if options.arrangement() == "stack" else None,
        parameters=count_parameters(folder),
        layer_weights=layer_weights(folder),
        sentence_transformers=sentence,
        ted=[ted_section(runs) for runs in tables.values()],
        vqa=vqa_table(vqa_scores) if vqa_scores else None,
        at_chance=aggregator_scored and at_chance(results, feature),
        aggregator_scored=aggregator_scored,
        ted_in_training=ted_in_training(record),
        ted_settings=without_folders(record.get("settings", {})),
        training=training_rows(record) if record else None,
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
    revision: str | None = None,
    demonstration: bool = False,
) -> str:
    """The card of a diffusers pipeline.

    Args:
        folder (`Path`): a folder that a pipeline's `save_pretrained` wrote.
        repo_id (`str`), encoder_repo (`str`): where it and its text encoder will be on the Hub.
        license, datasets, revision, demonstration: as of [`model_card`].
        scores (`Path`, *optional*): `shapes.json` of `granted evaluate generation`.
        training_record (`Path`, *optional*): `training_record.json` of stage 2.
        grid (`Path`, *optional*): an image of results, in the folder.
        prompt (`str`): of the example, which is called as for the scored images, else for the training's samples.

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
        raise InputError(f"got the image {grid}, expected one in {folder}: copy it there")
    scored = read_shapes_scores(scores) if scores else None
    record = read_record(training_record) if training_record else None
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
        eval_results=shapes_eval_results(scored, task) if scored else None,
    )
    transformer = read_json(folder / "transformer" / "config.json")
    return _fill(
        "pipeline",
        data,
        folder,
        repo_id=repo_id,
        revision=revision,
        encoder_repo=encoder_repo,
        pipeline=kind,
        results=results,
        video=task == "text-to-video",
        transformer=transformer["_class_name"],
        parameters=count_parameters(folder / "transformer"),
        has_vae=index.get("vae", [None])[0] is not None,
        layer_weights=layer_weights(folder / "text_encoder"),
        prompt=prompt,
        call=example_call(scored, record),
        shapes=scored["report"] if scored else None,
        images=scored["pictures"]["scored"] if scored else 0,
        grid=Path(grid).resolve().relative_to(folder.resolve()).as_posix() if grid else None,
        training=training_rows(record) if record else None,
        demonstration=demonstration,
    )


def metric_card(folder: Path, *, repo_id: str = "ted_accuracy", revision: str | None = None) -> str:
    """The card of the metric's Space.

    Args:
        folder (`Path`): the folder with `ted_accuracy.py` and `app.py`.
        repo_id (`str`, defaults to `"ted_accuracy"`), revision (`str`, *optional*): as of [`model_card`].
    """
    data = _space(
        title="TED accuracy",
        emoji="📏",
        tags=["evaluate", "metric", *_TAGS, "text-to-image", "text-to-video"],
        short_description="How often an encoder ranks the true statement first",
        description="How often a text encoder places the true statement about a caption above the contradicting ones.",
    )
    return _fill("metric", data, Path(folder), repo_id=repo_id, revision=revision)


def leaderboard_card(
    folder: Path, *, repo_id: str = "granted-leaderboard", revision: str | None = None, dataset: str = ""
) -> str:
    """The card of a leaderboard's Space.

    Args:
        folder (`Path`): the folder with `app.py` and, without `dataset`, `leaderboard.json`.
        repo_id (`str`, defaults to `"granted-leaderboard"`), revision (`str`, *optional*): as of [`model_card`].
        dataset (`str`, *optional*): the Hub id of the results that the Space shows; its app reads it from this card.
    """
    data = _space(
        title="Text encoders, as measured",
        emoji="📊",
        tags=["leaderboard", *_TAGS, "text-to-image", "text-to-video"],
        short_description="Text encoders of diffusion models, compared",
        **({"datasets": [dataset]} if dataset else {}),
    )
    shown = None if dataset else read_json(folder / "leaderboard.json")
    source = {"source": dataset or repo_id, "source_type": "dataset" if dataset else "space"}
    revision = None if dataset else revision
    return _fill("leaderboard", data, folder, repo_id=repo_id, revision=revision, shown=shown, **source)


def results_card(folder: Path, *, repo_id: str = "granted-results", revision: str | None = None) -> str:
    """The card of a dataset of results files.

    Args:
        folder (`Path`): the folder with them and `leaderboard.json`.
        repo_id (`str`, defaults to `"granted-results"`), revision (`str`, *optional*): as of [`model_card`].
    """
    data = DatasetCardData(
        license="apache-2.0",
        pretty_name="Text encoders, as measured: results",
        tags=["leaderboard", *_TAGS, "text-to-image", "text-to-video"],
        viewer=False,  # files of several shapes are no table
    )
    shown = read_json(folder / "leaderboard.json")
    source = {"source": repo_id, "source_type": "dataset"}
    return _fill("results", data, folder, repo_id=repo_id, revision=revision, shown=shown, **source)


def _space(**own: Any) -> SpaceCardData:
    """The front matter of a page that runs as a Space, with what is its own."""
    sdk = {"sdk": "gradio", "sdk_version": GRADIO_VERSION, "app_file": "app.py"}
    return SpaceCardData(**own, **sdk, colorFrom="blue", colorTo="green", pinned=False, license="apache-2.0")


def _fill(kind: str, data: CardData, folder: Path, *, repo_id: str, **values: Any) -> str:
    """The card of a kind: front matter and its template with everything filled in."""
    text = fill_template(
        Path(__file__).with_name(f"{kind}.md"),
        {"percent": percent, "interval": percent_interval, "number": _number, "cell": _cell, "python": _python},
        name=_short(repo_id),
        repo_id=repo_id,
        code=code_of(folder),
        citation=bibtex(),
        **values,
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip()  # where parts were left out
    card = f"---\n{data.to_yaml()}\n---\n\n{text}\n"
    validate_card(card, kind)
    return card


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


def _short(repo_id: str) -> str:
    return repo_id.rpartition("/")[2]
