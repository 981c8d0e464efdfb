"""Builds the release: one folder for each Hub repository, named as people type it, with its card.

    build_release("release", miniature())
    build_release("release", Sources(encoder="Qwen/Qwen3-VL-8B-Instruct", layer_weights="run/pipeline/text_encoder",
                                     license="apache-2.0"))

    release/
        granted/             the fused encoder; with an aggregator also for sentence-transformers
        ted-6k/              the benchmark
        training-data/       caption pairs, and questions about images and videos, if there are some
        ted_accuracy/        the metric, a Space
        granted-lumina2/     text to image, if there is a pipeline
        granted-wan/         text to video, likewise
        granted-results/     results files, if there is a folder of them
        granted-leaderboard/ a page of results, a Space, if there is a folder or a dataset of them

The same sources give the same bytes: weights are copied, code is this package's. Tiny, on CPU: tests/test_release.py.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from granted import ContextAggregator, GrantedConfig, GrantedModel
from granted.dataset_builders.scenes.shapes.rungs import rung_note, rung_ted
from granted.dataset_builders.ted_6k.export import Origin, export_dataset
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.dataset_builders.ted_6k.records import OFFICIAL_INSTANCES, SYNTHETIC
from granted.encoding.features import read_layer_weights
from granted.eval_metric.leaderboard.board import STORED, Board
from granted.eval_metric.results import load as load_result
from granted.model_cards import cards
from granted.model_cards.figures import feature_name, read_record, without_folders
from granted.model_cards.hub_results import FOLDER as HUB_RESULTS
from granted.model_cards.hub_results import results_yaml, ted_entry
from granted.model_cards.kinds import REPOSITORIES
from granted.modeling_checkpoint import auto_class, load_added_weights, load_config, load_tokenizer, locate
from granted.pipeline_base import write_code
from granted.pipeline_granted import GrantedLumina2Pipeline, GrantedWanPipeline
from granted.publishing.checks import ReleasedFile, check_folder
from granted.publishing.code_checks import with_imports
from granted.publishing.sentence_transformers_files import (
    AGGREGATOR_FOLDER,
    load_saved,
    write_sentence_transformers_files,
)
from granted.publishing.sources import ALONE, Sources
from granted.publishing.upload import check_tag
from granted.training.run_folder import RECORD
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, read_text, write_json


ROOT = Path(__file__).parents[1]
TINY = ROOT / "checkpoints" / "tiny"
PIPELINES = {"granted-lumina2": GrantedLumina2Pipeline, "granted-wan": GrantedWanPipeline}
LISTING = "release.json"  # beside the repositories: what was built, so that it is not taken for other files
# What of a model's folder is released; a training leaves more in it.
WEIGHTS = r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
_TOKENIZER = (
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|chat_template\.(jinja|json)|"
    r"(merges|vocab)\.txt|(spiece|tokenizer|sentencepiece\.bpe)\.model"
)
TOKENIZER_FILES = re.compile(_TOKENIZER)
# What cards show of a folder of scores: of the model, and of each pipeline.
SCORES = ("ted/*.json", "vqa.json", *(f"{name}/{file}" for name in PIPELINES for file in ("shapes.json", RECORD)))
CODE_OF_MODEL = {"AutoConfig": "configuration_granted.GrantedConfig", "AutoModel": "modeling_granted.GrantedModel"}
MODEL_FILES = re.compile(
    rf"{WEIGHTS}|{_TOKENIZER}|(config|generation_config|processor_config|preprocessor_config|"
    r"video_preprocessor_config|scheduler_config)\.json|LICENSE|NOTICE"
)


def miniature() -> Sources:
    """The release of the miniature trained here: `make miniature`, then stage 2 for images.

    Not of the one for videos (results/stage2/video): half of its figures stand still and most others move another way
    than they should, so that nobody who sees its videos would say that it follows its captions.

    Raises:
        InputError: its weights are not there: they are part of the repository, not of an installed package.
    """
    if not TINY.is_dir():
        raise InputError("got no checkpoints/tiny, expected a clone of the repository: install it editable")
    return Sources(
        checkpoint=TINY / "granted",
        aggregator=TINY / "granted" / AGGREGATOR_FOLDER,
        lumina2=TINY / "granted-lumina2",
        scores=ROOT / "results" / "tiny",
        license="apache-2.0",
        prompts={"granted-lumina2": "On a white background, a red star in the centre."},
        demonstration=True,
    )


def build_release(
    output: str | os.PathLike,
    sources: Sources,
    *,
    owner: str = "",
    tag: str | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> dict[str, list[ReleasedFile]]:
    """Build, fill in the cards, check.

    Args:
        output (`str` or `os.PathLike`): the folder to make. One that this function made earlier is replaced.
        sources ([`Sources`]): what from.
        owner (`str`, *optional*): user or organisation whose repositories the cards name; without, the cards' code
            runs beside the folders.
        tag (`str`, *optional*): the release's tag, which the cards pin.
        report (`Callable`): called with a line at the beginning of each step.

    Returns:
        The files of each repository by its name.

    Raises:
        InputError: a source is missing or does not fit, or the result may not be published. Nothing is written then.
    """
    output = Path(output)
    _check(sources, owner, tag)
    _check_replaced(output)
    owner = f"{owner}/" if owner else ""
    with atomic_path(output) as folder:
        try:
            folder.mkdir()
            if not (sources.without_model and sources.ted is None):
                report("building ted-6k")
                _build_dataset(folder / "ted-6k", sources.ted, owner, tag)
            if sources.training_data is not None:
                report("building training-data")
                _copy_training_data(folder / "training-data", Path(sources.training_data), owner)
            if sources.results is not None:
                report("building granted-results")
                _build_results(folder / "granted-results", Path(sources.results), owner, tag, report)
            if sources.leaderboard is not None:
                report("building granted-leaderboard")
                _build_leaderboard(folder / "granted-leaderboard", str(sources.leaderboard), owner, tag, report)
            if not sources.without_model:
                _build_models(folder, sources, report)
                report("writing the cards")
                _write_cards(folder, sources, owner, tag)
            released = {}
            for path in sorted(folder.iterdir()):
                report(f"checking and hashing {path.name}")
                released[path.name] = check_folder(path, REPOSITORIES[path.name])
            write_json(folder / LISTING, [f"{name}/{file.path}" for name in released for file in released[name]])
            return released
        except InputError as error:  # the folder that it names is about to be removed
            raise InputError(str(error).replace(str(folder), f"what was to become {output}")) from error


def _build_models(folder: Path, sources: Sources, report: Callable[[str], object]) -> None:
    """The model, what is measured on it and what it is part of, without their cards."""
    report("building granted")
    _build_model(folder / "granted", sources, report)
    report("building ted_accuracy")
    (folder / "ted_accuracy").mkdir()
    for name in ("ted_accuracy.py", "app.py", "requirements.txt"):
        shutil.copyfile(ROOT / "eval_metric" / "ted_accuracy" / name, folder / "ted_accuracy" / name)
    for name, source in (("granted-lumina2", sources.lumina2), ("granted-wan", sources.wan)):
        if source is not None:
            report(f"building {name}")
            _build_pipeline(folder / name, Path(source), PIPELINES[name], sources)


def _check_replaced(output: Path) -> None:
    """Raise if a folder holds anything else than an earlier release."""
    listed = read_json(output / LISTING) if (output / LISTING).is_file() else []
    known = {LISTING, *map(str, listed)} if isinstance(listed, list) else set()
    for path in output.rglob("*"):
        if not path.is_dir() and path.relative_to(output).as_posix() not in known:
            raise InputError(
                f"got {output}, which holds {path.relative_to(output)}, expected a new folder or an earlier release: "
                "choose another"
            )


def _check(sources: Sources, owner: str, tag: str | None) -> None:
    """Raise about what can be known before anything is built."""
    if sources.without_model:
        _check_data_alone(sources)
    elif (sources.encoder is None) == (sources.checkpoint is None):
        raise InputError("got both or neither of encoder and checkpoint, expected one of them, or the preset: choose")
    if sources.encoder is None and (sources.revision or sources.layer_weights):
        raise InputError("got a revision or layer weights with a checkpoint, which has its own: leave them out")
    _check_dtype(sources)
    if not (sources.license or sources.without_model):
        raise InputError(
            "got no license, expected that of the weights: pass one (--license apache-2.0), or what the encoder has"
        )
    _check_scores(sources.scores)
    if sources.aggregator is not None and not (Path(sources.aggregator) / "config.json").is_file():
        raise InputError(f"got {sources.aggregator}, expected the folder of a context aggregator: check the path")
    if owner and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", owner):
        raise InputError(f"got owner {owner!r}, expected the name of a user or an organisation on the Hub")
    if tag is not None:
        check_tag(tag)


def _check_dtype(sources: Sources) -> None:
    if sources.dtype not in (None, "bfloat16", "float16", "float32"):
        raise InputError(f"got dtype {sources.dtype!r}, expected bfloat16, float16 or float32")
    if sources.dtype and sources.encoder and not (sources.lumina2 or sources.wan):
        raise InputError("got a dtype with an encoder that is fetched, not copied, expected none: leave it out")


def _check_scores(folder: str | os.PathLike | None) -> None:
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise InputError(f"got {folder} for the scores, expected a folder: check the path")
    if not any(next(Path(folder).glob(one), None) for one in SCORES):
        raise InputError(f"got {folder} without one of {', '.join(SCORES)}, expected scores: put them there")


def _check_data_alone(sources: Sources) -> None:
    """Raise if something was given that only a model has; the cards of data have their licence."""
    names = [one.name for one in fields(Sources) if one.name not in ALONE]
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(sources, name)]
    if given:
        raise InputError(f"got {', '.join(given)} without a model, expected --encoder or --checkpoint, or data alone")


def _build_model(folder: Path, sources: Sources, report: Callable[[str], object]) -> None:
    if sources.checkpoint is not None:
        _copy_encoder(Path(sources.checkpoint), folder, sources.dtype)
        for path in with_imports(ROOT / "modeling_granted.py"):
            shutil.copyfile(path, folder / path.name)
        if (record := Path(sources.checkpoint) / RECORD).is_file():
            write_json(folder / RECORD, without_folders(read_record(record)))
    else:
        _fetch_fusion(sources).save_pretrained(folder, fusion_only=True)
    if sources.aggregator is not None:
        report("loading granted and its aggregator, which must fit it")
        with _readable(sources.aggregator, "a context aggregator"):
            aggregator = ContextAggregator.from_pretrained(sources.aggregator)
        write_sentence_transformers_files(folder, aggregator)
    if results := _ted_results(sources):
        report("comparing the results on TED with the weights of granted")
        _check_ted_results(folder, results)


def _copy_encoder(source: Path, folder: Path, dtype: str | None) -> None:
    """A saved GrantedModel without its code."""
    config = read_json(source / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != GrantedConfig.model_type:
        raise InputError(f"got {source}, expected the folder of a GrantedModel: granted export makes one")
    record = read_record(source / RECORD) if (source / RECORD).is_file() else {}
    _copy_files(source, folder)
    if not (config.get("encoder_revision") or record.get("base_revision")):  # its encoder is a path of this machine
        config["encoder_name_or_path"] = None
        config["encoder_config"]["_name_or_path"] = ""
    if dtype is not None:
        config["dtype"] = config["encoder_config"]["dtype"] = dtype
        _cast(folder, dtype)
    config["auto_map"] = CODE_OF_MODEL  # the encoder of a pipeline names the pipeline's one file
    write_json(folder / "config.json", config)


def _copy_files(source: Path, folder: Path, wanted: re.Pattern = MODEL_FILES) -> None:
    """The files of a model, a scheduler or a tokenizer; links only into the cache of the Hub."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if not wanted.fullmatch(path.name) or path.is_dir():
            continue
        if path.is_symlink() and path.resolve().parent.name != "blobs":
            raise InputError(f"got {path}, which is a link, expected the file itself: put it there")
        shutil.copyfile(path, folder / path.name)


def _cast(folder: Path, dtype: str) -> None:
    """The weights of a model's folder in another dtype, but those that a GrantedModel has in fp32 alone."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and name.split(".")[0] not in GrantedModel._keep_in_fp32_modules_strict:
                tensors[name] = tensor.to(getattr(torch, dtype))
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, file, metadata={"format": "pt"})
    for index in folder.glob("*.safetensors.index.json"):
        described = read_json(index)
        described["metadata"]["total_size"] = total
        write_json(index, described)


def _fetch_fusion(sources: Sources) -> GrantedModel:
    """A fusion of an encoder on the Hub, of which configuration and tokenizer alone are fetched."""
    name, revision, saved = sources.encoder, sources.revision, None
    options = {"fusion": "norm_avg"}
    if sources.layer_weights is not None and Path(sources.layer_weights).is_dir():
        with _readable(sources.layer_weights, "the folder of a GrantedModel"):
            saved = GrantedConfig.from_pretrained(sources.layer_weights)
        if saved.encoder_name_or_path != name:
            raise InputError(
                f"got layer weights of the encoder {saved.encoder_name_or_path}, expected those of {name}: if it is "
                "another, release it whole as checkpoint; if the same from a folder, give the safetensors file alone"
            )
        revision = revision or saved.encoder_revision
        options = saved.fusion_options()
    elif sources.layer_weights is not None:
        options = {"fusion": "learned"}
    with _readable(f"{name} at revision {revision or 'main'}", "a plain encoder on the Hub"):
        source = locate(name, revision=revision)
        config = load_config(source)
        tokenizer = load_tokenizer(source, config)
        if "revision" not in source or config.model_type == GrantedConfig.model_type:
            raise ValueError("it is a folder, or fused already: release it as checkpoint")
        with torch.device("meta"):
            encoder = auto_class(config).from_config(config, dtype=config.dtype)
        model = GrantedModel.from_loaded(
            encoder, tokenizer, encoder_name_or_path=name, encoder_revision=source["revision"], **options
        )
    if saved is not None:
        with _readable(sources.layer_weights, "saved weights"):
            load_added_weights(model, Path(sources.layer_weights) / "model.safetensors")
    elif sources.layer_weights is not None:
        weights = read_layer_weights(sources.layer_weights, model.config.num_hidden_layers)  # (L,)
        model.fusion.weights.data.copy_(weights)
    return model


def _build_dataset(folder: Path, ted: str | os.PathLike | None, owner: str, tag: str | None) -> None:
    if ted is None:
        records, config_name, note, origin = rung_ted(OFFICIAL_INSTANCES), SYNTHETIC, rung_note(), None
    else:
        records, info = read_ted(ted)
        config_name, written = info["config"], Path(ted) / "statistics.json"
        if not written.is_file():
            raise InputError(f"got {ted} as benchmark, expected a folder that `granted data ted` wrote: make one")
        said = read_json(written)
        note, origin = said["source_note"], Origin(**said["origin"]) if "origin" in said else None
    name = f"{owner}ted-6k"
    export_dataset(
        records, folder, config_name=config_name, source_note=note, repo_id=name, revision=tag, origin=origin
    )


def _copy_training_data(folder: Path, source: Path, owner: str) -> None:
    """What `granted data construct` has exported for training, its card with the name that it will have on the Hub."""
    data = [source / name for name in ("pairs.parquet", "vqa.parquet") if (source / name).is_file()]
    card = source / "README.md"
    if not data or not card.is_file():
        raise InputError(f"got {source} as training data, expected what granted data construct has exported: check it")
    folder.mkdir()
    for path in data:
        shutil.copyfile(path, folder / path.name)
    named = read_text(card).replace('load_dataset("training-data"', f'load_dataset("{owner}training-data"')
    _write_card(folder, named)


def _build_results(folder: Path, results: Path, owner: str, tag: str | None, report: Callable[[str], object]) -> None:
    """The results files that can be ranked, as they are, with what a Space shows of them."""
    board = Board(results)
    for path, reason in board.content["apart"]:
        report(f"left out {path}: {reason}")
    for name in board.files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / name, folder / name)
    write_json(folder / STORED, Board(folder).with_differences(_comparing))
    _write_card(folder, cards.results_card(folder, repo_id=f"{owner}granted-results", revision=tag))


def _build_leaderboard(
    folder: Path, results: str, owner: str, tag: str | None, report: Callable[[str], object]
) -> None:
    """The page, and what it shows; pairs are compared here, because the Space has no results files. That of a dataset
    reads what was compared when the dataset was built."""
    dataset = "" if Path(results).is_dir() else results
    if dataset and not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset, re.ASCII):
        raise InputError(
            f"got {results} for the leaderboard, expected a folder of results, or a dataset of them, OWNER/NAME"
        )
    folder.mkdir()
    for name in ("app.py", "requirements.txt"):
        shutil.copyfile(ROOT / "eval_metric" / "leaderboard" / name, folder / name)
    if dataset:
        report(f"the page will show the dataset {dataset} of the Hub")
    else:
        write_json(folder / STORED, Board(Path(results)).with_differences(_comparing))
    card = cards.leaderboard_card(folder, repo_id=f"{owner}granted-leaderboard", revision=tag, dataset=dataset)
    _write_card(folder, card)


def _comparing(pairs: list) -> Iterable:
    return tqdm(pairs, desc="comparing pairs", disable=None)


def _build_pipeline(folder: Path, source: Path, pipeline_class: type, sources: Sources) -> None:
    """A saved pipeline with the code of this package."""
    index = read_json(source / "model_index.json")
    found = index.get("_class_name") if isinstance(index, dict) else None
    if found != ["pipeline_granted", pipeline_class.__name__]:
        raise InputError(
            f"got {source} with a pipeline of class {found}, expected {pipeline_class.__name__}: check the path"
        )
    encoder, dtype = source / "text_encoder", sources.dtype
    if not encoder.is_dir() and sources.checkpoint is not None:
        encoder = Path(sources.checkpoint)
    _copy_encoder(encoder, folder / "text_encoder", dtype)
    for name, entry in index.items():
        if name == "tokenizer" and not (source / name).is_dir():
            _copy_files(encoder, folder / name, TOKENIZER_FILES)
        elif isinstance(entry, list) and entry[0] in ("diffusers", "transformers"):
            _copy_files(source / name, folder / name)
            if dtype is not None:
                _cast(folder / name, dtype)
    write_json(folder / "model_index.json", index)
    write_code(folder, pipeline_class, GrantedModel)


def _write_cards(folder: Path, sources: Sources, owner: str, tag: str | None) -> None:
    """The cards of all but data, which came with their own."""
    scores = Path(sources.scores) if sources.scores is not None else None
    config = read_json(folder / "granted" / "config.json")
    record = folder / "granted" / RECORD
    trained = read_record(record) if record.is_file() else {}
    base, revision = config["encoder_name_or_path"], config["encoder_revision"]
    if trained.get("base_revision"):
        base, revision = trained["base_model"], trained["base_revision"]
    shared = {
        "license": sources.license,
        "datasets": sources.datasets,
        "revision": tag,
        "demonstration": sources.demonstration,
    }
    card = cards.model_card(
        folder / "granted",
        repo_id=f"{owner}granted",
        base_model=base,
        base_revision=revision,
        ted_results=_ted_results(sources),
        ted_repo=f"{owner}ted-6k",
        vqa_scores=_found(scores, "vqa.json"),
        training_record=record if record.exists() else None,
        **shared,
    )
    _write_card(folder / "granted", card)
    _write_hub_results(folder, _ted_results(sources), f"{owner}ted-6k")
    for name in PIPELINES:
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
                **({"prompt": sources.prompts[name]} if name in sources.prompts else {}),
                **shared,
            )
            _write_card(folder / name, card)
    metric = folder / "ted_accuracy"
    _write_card(metric, cards.metric_card(metric, repo_id=f"{owner}ted_accuracy", revision=tag))


def _write_hub_results(folder: Path, paths: Sequence[Path], repo: str) -> None:
    """What the model scores on the released benchmark, as the Hub reads it; results on other data are the card's."""
    released = read_ted(folder / "ted-6k")[1]["fingerprint"] if paths else None
    results = [one for one in map(load_result, paths) if one.dataset["fingerprint"] == released]
    feature = feature_name(GrantedConfig.from_pretrained(folder / "granted"))
    if results and (entry := ted_entry(results, repo, feature)) is not None:
        path = folder / "granted" / HUB_RESULTS / "ted-6k.yaml"
        path.parent.mkdir()
        path.write_text(results_yaml([entry]), encoding="utf-8")


def _ted_results(sources: Sources) -> list[Path]:
    return sorted((Path(sources.scores) / "ted").glob("*.json")) if sources.scores is not None else []


def _check_ted_results(folder: Path, paths: Sequence[Path]) -> None:
    """Raise unless results are of the released encoder: its weights in any dtype or its revision, and its template."""
    config = GrantedConfig.from_pretrained(folder)
    fingerprint = cache(lambda dtype: load_saved(folder, dtype).fingerprint())  # of all weights
    for path in paths:
        provenance = load_result(path).provenance
        name, expected = "encoder_revision", config.encoder_revision
        if config.encoder_in_checkpoint:
            name, expected = "weights_fingerprint", fingerprint(provenance["dtype"])
        if (found := provenance[name]) != expected:
            raise InputError(
                f"got {path} with the {name} {found}, expected {expected} of the released encoder: score that one"
            )
        settings = provenance.get("settings") or {}
        for name in settings.keys() & {"prompt_template", "template_drop_tokens"}:
            if (found := settings[name]) != (expected := getattr(config, name)):
                raise InputError(f"got {path} with {name} {found!r}, expected the encoder's {expected!r}: score that")


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")


def _found(folder: Path | None, *parts: str) -> Path | None:
    """A file of a folder, if it is there."""
    path = folder.joinpath(*parts) if folder is not None else None
    return path if path is not None and path.is_file() else None


@contextmanager
def _readable(source: str | os.PathLike, expected: str) -> Iterator[None]:
    """What libraries raise about a source as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"got {source}, expected {expected}: check it ({said})") from error
