"""Builds the release: one folder for each Hub repository, named as people type it, with its card.

    build_release("release", miniature())
    build_release("release", Sources(encoder="Qwen/Qwen3-VL-8B-Instruct", layer_weights="run/pipeline/text_encoder"))

    release/
        granted/             the fused encoder; with an aggregator also for sentence-transformers
        ted-6k/              the benchmark
        ted_accuracy/        the metric, a Space
        granted-lumina2/     text to image, if there is a pipeline
        granted-wan/         text to video, likewise

The same sources give the same bytes: weights are copied, code is this package's. Tiny, on CPU: tests/test_build.py.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import cached_file, extract_commit_hash

from granted import ContextAggregator, GrantedModel
from granted.dataset_builders.scenes.world import synthetic_ted
from granted.dataset_builders.ted_6k.authors_layout import read_ted
from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.records import OFFICIAL_COUNTS, SYNTHETIC
from granted.errors import InputError
from granted.files import atomic_path, read_json, write_json
from granted.model_cards import cards
from granted.pipeline_granted import ENCODER_FILE, as_one_file
from granted.publishing.checks import ReleasedFile, check_folder
from granted.publishing.sentence_transformers_files import write_sentence_transformers_files
from granted.training.aggregator_features import read_layer_weights
from granted.training.run_folder import RECORD


ROOT = Path(__file__).parents[1]
TINY = ROOT / "results" / "tiny"
# What each folder is, for its checks, its card and its type of repository.
KINDS = {
    "granted": "model",
    "ted-6k": "dataset",
    "ted_accuracy": "metric",
    "granted-lumina2": "pipeline",
    "granted-wan": "pipeline",
}
PIPELINE_CLASSES = {"granted-lumina2": "GrantedLumina2Pipeline", "granted-wan": "GrantedWanPipeline"}
MODEL_CODE = [
    ROOT / name
    for name in (
        "configuration_granted.py",
        "modeling_granted.py",
        "modeling_layer_fusion.py",
        "modeling_text_trunk.py",
    )
]
# Weights, configurations and tokenizers; what else a training leaves behind is not released.
RELEASED_SUFFIXES = (".json", ".safetensors", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class Sources:
    """What a release is made from.

    Args:
        encoder (`str`, *optional*): Hub id of a plain encoder; the release carries the fusion only, and fetches it.
        revision (`str`, *optional*): the encoder's; a branch or tag is pinned to its commit.
        layer_weights (`str`, *optional*): a saved model or safetensors file with the encoder's learned layer weights;
            Norm-Avg without.
        checkpoint (`str`, *optional*): instead of an encoder: folder of a [`GrantedModel`], released as it is.
        aggregator (`str`, *optional*): folder of a [`ContextAggregator`] trained on the model's feature.
        lumina2, wan (`str`, *optional*): folders of pipelines, such as a training writes.
        ted (`str`, *optional*): a benchmark's folder, as `granted data ted` writes it; without, the synthetic one.
        scores (`str`, *optional*): folder with the results that the cards report, of which any may be missing:
            `ted/*.json` (`granted evaluate`), `vqa.json` (`granted vqa`), `granted-lumina2/` and `granted-wan/` with
            `shapes.json` and `grid.png` (`granted evaluate-generation`) and `training_record.json`.
        dtype (`str`, *optional*): in which copied weights are released, `"bfloat16"`, `"float16"` or `"float32"`; as
            they are without. Layer weights and aggregators stay in fp32.
        license (`str`, defaults to `"apache-2.0"`): of the weights.
        prompt (`str`): of the example in the pipelines' cards.
        demonstration (`bool`, defaults to `False`): say in the cards that these models are no more than that.
    """

    encoder: str | None = None
    revision: str | None = None
    layer_weights: str | os.PathLike | None = None
    checkpoint: str | os.PathLike | None = None
    aggregator: str | os.PathLike | None = None
    lumina2: str | os.PathLike | None = None
    wan: str | os.PathLike | None = None
    ted: str | os.PathLike | None = None
    scores: str | os.PathLike | None = None
    dtype: str | None = None
    license: str = "apache-2.0"
    prompt: str = "a red cube on a blue sphere"
    demonstration: bool = False


def miniature() -> Sources:
    """The release of the miniature trained here: `make miniature`, then stage 2 for pictures and for clips.

    Raises:
        InputError: its weights are not there: they are part of the repository, not of an installed package.
    """
    if not TINY.is_dir():
        raise InputError("got a package without results/tiny, expected a clone of the repository: install it editable")
    return Sources(
        checkpoint=TINY / "granted",
        aggregator=None,
        lumina2=TINY / "granted-lumina2",
        wan=None,
        scores=TINY / "scores",
        prompt="On a white background, a red star in the centre.",
        demonstration=True,
    )


def build_release(
    output: str | os.PathLike, sources: Sources, *, owner: str = "", tag: str | None = None
) -> dict[str, list[ReleasedFile]]:
    """Build, fill in the cards, check.

    Args:
        output (`str` or `os.PathLike`): the folder to make. One that this function made earlier is replaced.
        sources ([`Sources`]): what from.
        owner (`str`, *optional*): user or organisation whose repositories the cards name; without, the cards' code
            runs beside the folders.
        tag (`str`, *optional*): the release's tag, which the cards pin.

    Returns:
        The files of each repository by its name.

    Raises:
        InputError: a source is missing or does not fit, or the result may not be published. Nothing is written then.
    """
    output = Path(output)
    if owner and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", owner):
        raise InputError(f"got owner {owner!r}, expected the name of a user or an organisation on the Hub: correct it")
    if (sources.encoder is None) == (sources.checkpoint is None):
        raise InputError("got both or neither of encoder and checkpoint, expected one of them: choose")
    if sources.encoder is None and (sources.revision or sources.layer_weights):
        raise InputError("got a revision or layer weights with a checkpoint, which has its own: leave them out")
    if sources.dtype not in (None, "bfloat16", "float16", "float32"):
        raise InputError(f"got dtype {sources.dtype!r}, expected bfloat16, float16 or float32: correct it")
    if output.is_dir() and (others := {path.name for path in output.iterdir()} - set(KINDS)):
        raise InputError(f"got {output}, which holds {min(others)}, expected a new folder: choose another")
    owner = f"{owner}/" if owner else ""
    with atomic_path(output) as folder:
        _build_model(folder / "granted", sources)
        _build_dataset(folder / "ted-6k", sources.ted, owner, tag)
        metric = ROOT / "eval_metric" / "ted_accuracy"
        shutil.copytree(metric, folder / "ted_accuracy", ignore=_all_but(lambda path: path.suffix in (".py", ".txt")))
        for name, source in (("granted-lumina2", sources.lumina2), ("granted-wan", sources.wan)):
            if source is not None:
                _build_pipeline(folder / name, Path(source), PIPELINE_CLASSES[name], sources.dtype)
        _write_cards(folder, sources, owner, tag)
        return {path.name: check_folder(path, KINDS[path.name]) for path in sorted(folder.iterdir())}


def _build_model(folder: Path, sources: Sources) -> None:
    if sources.checkpoint is not None:
        _copy_encoder(Path(sources.checkpoint), folder, sources.dtype)
        for code in MODEL_CODE:
            shutil.copyfile(code, folder / code.name)
    else:
        learned = sources.layer_weights is not None
        model = _without_weights(sources.encoder, sources.revision, "learned" if learned else "norm_avg")
        if learned:
            weights = read_layer_weights(sources.layer_weights, model.config.num_hidden_layers)  # (L,)
            model.fusion.weights.data.copy_(weights)
        model.save_pretrained(folder, fusion_only=True)
    if sources.aggregator is not None:
        with _readable(sources.aggregator, "a context aggregator"):
            aggregator = ContextAggregator.from_pretrained(sources.aggregator)
        write_sentence_transformers_files(folder, aggregator)


def _copy_encoder(source: Path, folder: Path, dtype: str | None) -> None:
    """A saved GrantedModel without its code."""
    config = read_json(source / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "granted":
        raise InputError(f"got {source}, expected the folder of a GrantedModel: granted export makes one")
    shutil.copytree(source, folder, ignore=_all_but(lambda path: path.is_file() and path.suffix in RELEASED_SUFFIXES))
    if config.get("encoder_revision") is None:  # then its encoder is no repository on the Hub but a path
        config["encoder_name_or_path"] = None
        config["encoder_config"]["_name_or_path"] = ""
    if dtype is not None:
        config["dtype"] = config["encoder_config"]["dtype"] = dtype
        _cast(folder, dtype)
    write_json(folder / "config.json", config)


def _cast(folder: Path, dtype: str) -> None:
    """The weights of a model's folder in another dtype."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not name.startswith("fusion."):
                tensors[name] = tensor.to(getattr(torch, dtype))
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, file, metadata={"format": "pt"})
    for index in folder.glob("*.safetensors.index.json"):
        described = read_json(index)
        described["metadata"]["total_size"] = total
        write_json(index, described)


def _without_weights(name: str, revision: str | None, fusion: str) -> GrantedModel:
    """A fusion of an encoder on the Hub, of which configuration and tokenizer alone are fetched."""
    with _readable(f"{name} at revision {revision or 'main'}", "an encoder on the Hub"):
        config = AutoConfig.from_pretrained(name, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, config=config)
        commit = extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    if commit is None:
        raise InputError(f"got {name}, which is no repository on the Hub, expected one: release a checkpoint")
    with torch.device("meta"):
        encoder = AutoModel.from_config(config, dtype=config.dtype)
    return GrantedModel.from_loaded(
        encoder, tokenizer, fusion=fusion, encoder_name_or_path=name, encoder_revision=commit
    )


def _build_dataset(folder: Path, ted: str | os.PathLike | None, owner: str, tag: str | None) -> None:
    if ted is None:
        records, config_name = list(synthetic_ted(sum(map(sum, OFFICIAL_COUNTS.values())), seed=0)), SYNTHETIC
        note = "Generated by granted (seed 0, compositional negatives)."
    else:
        records, info = read_ted(ted)
        config_name, written = info["config"], Path(ted) / "statistics.json"
        if not written.is_file():
            raise InputError(f"got {ted} as benchmark, expected a folder that `granted data ted` wrote: make one")
        note = read_json(written)["source_note"]
    export_dataset(records, folder, config_name=config_name, source_note=note, repo_id=f"{owner}ted-6k", revision=tag)


def _build_pipeline(folder: Path, source: Path, class_name: str, dtype: str | None) -> None:
    """A saved pipeline with the code of this package."""
    index = read_json(source / "model_index.json")
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found != ["pipeline_granted", class_name]:
        raise InputError(f"got {source} with a pipeline of class {found}, expected {class_name}: check the path")
    _copy_encoder(source / "text_encoder", folder / "text_encoder", dtype)
    config = read_json(folder / "text_encoder" / "config.json")
    config["auto_map"] = {"AutoConfig": f"{ENCODER_FILE}.GrantedConfig", "AutoModel": f"{ENCODER_FILE}.GrantedModel"}
    write_json(folder / "text_encoder" / "config.json", config)
    (folder / "text_encoder" / f"{ENCODER_FILE}.py").write_text(as_one_file(MODEL_CODE[1]), encoding="utf-8")
    index["text_encoder"] = [ENCODER_FILE, "GrantedModel"]
    for name, entry in index.items():
        if isinstance(entry, list) and entry[0] in ("diffusers", "transformers"):
            shutil.copytree(source / name, folder / name, ignore=_all_but(lambda path: path.suffix != ".py"))
            if dtype is not None:
                _cast(folder / name, dtype)
    write_json(folder / "model_index.json", index)
    shutil.copyfile(ROOT / "pipeline_granted.py", folder / "pipeline_granted.py")


def _write_cards(folder: Path, sources: Sources, owner: str, tag: str | None) -> None:
    """The cards of all but the benchmark, which came with its own."""
    scores = Path(sources.scores) if sources.scores is not None else None
    config = read_json(folder / "granted" / "config.json")
    record = folder / "granted" / RECORD
    base = config["encoder_name_or_path"] or (read_json(record).get("base_model") if record.exists() else None)
    shared = {"license": sources.license, "revision": tag, "demonstration": sources.demonstration}
    card = cards.model_card(
        folder / "granted",
        repo_id=f"{owner}granted",
        base_model=base,
        base_revision=config["encoder_revision"],
        ted_results=sorted((scores / "ted").glob("*.json")) if scores else (),
        ted_repo=f"{owner}ted-6k",
        vqa_scores=_found(scores, "vqa.json"),
        training_record=record if record.exists() else None,
        **shared,
    )
    _write_card(folder / "granted", card)
    for name in PIPELINE_CLASSES:
        if (folder / name).is_dir():
            grid = _found(scores, name, "grid.png")
            if grid is not None:
                shutil.copyfile(grid, folder / name / grid.name)
            card = cards.pipeline_card(
                folder / name,
                repo_id=f"{owner}{name}",
                encoder_repo=f"{owner}granted",
                scores=_found(scores, name, "shapes.json"),
                training_record=_found(scores, name, RECORD),
                grid=folder / name / grid.name if grid is not None else None,
                prompt=sources.prompt,
                **shared,
            )
            _write_card(folder / name, card)
    metric = folder / "ted_accuracy"
    _write_card(metric, cards.metric_card(metric, repo_id=f"{owner}ted_accuracy", revision=tag))


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")


def _found(folder: Path | None, *parts: str) -> Path | None:
    """A file of a folder, if it is there."""
    path = folder.joinpath(*parts) if folder is not None else None
    return path if path is not None and path.is_file() else None


def _all_but(wanted: Callable[[Path], bool]) -> Callable[[str, list[str]], list[str]]:
    """For `copytree`: what to leave out, caches among it."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        paths = [Path(folder, name) for name in names]
        return [path.name for path in paths if path.name.startswith("_") or not wanted(path)]

    return left_out


@contextmanager
def _readable(source: str | os.PathLike, expected: str) -> Iterator[None]:
    """What libraries raise about a source as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"got {source}, expected {expected}: check the name ({said})") from error
