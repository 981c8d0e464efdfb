"""`granted evaluate drawing`: a small text-to-image model, trained from scratch on a feature, draws what prompts say.

    evaluate(DrawingSettings(encoders=["minilm=./all-MiniLM-L6-v2"], output=Path("out")), EncoderOptions())

Every arm is a training of equal budget in `out/drawing_runs/ENCODER__FEATURE__seedN`; run again, it goes on where it
stopped. Several processes of the same command share the arms: each leaves out what another one trains. The outcome of
all arms there is written by `results.py` beside this file.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from filelock import BaseFileLock
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.rows import write_rows
from granted.dataset_builders.scenes.shapes.varied_scenes import single_figures
from granted.encoding.controls import CEILING, CEILING_NAME, controls_of, vocabulary_alone
from granted.encoding.features import expand_features, feature_encoder, feature_label
from granted.encoding.loading import check_encoders, load_encoder
from granted.encoding.options import EncoderOptions
from granted.eval_metric.drawing.arm import DrawingArm
from granted.eval_metric.drawing.results import finished_arms, write_report
from granted.eval_metric.drawing.scenes import Prompt, plain_words, scored_prompts, training_rows
from granted.eval_metric.drawing.settings import VERSION, DrawingSettings
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.settings import TextToImageConfig
from granted.training.run_folder import RECORD, RUN, FolderHeld, hold_folder, leave_folder
from granted.utils.errors import InputError
from granted.utils.files import folder_name, read_json
from granted.utils.settings import check_seeds, refuse_unused


SIDE = 48  # pixels of an image
TRANSFORMER = {
    "patch_size": 1,
    "hidden_size": 128,
    "num_layers": 4,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_kv_heads": 2,
    "multiple_of": 64,
    "ffn_dim_multiplier": 0.667,
    "axes_dim_rope": [16, 24, 24],
    "axes_lens": [256, 32, 32],
}


@dataclass(frozen=True)
class Conditions:
    """What the diffusion model of an arm is conditioned on: a feature of an encoder, from captions of a column."""

    encoder: str
    feature: str
    model: GrantedModel
    captions: str = "caption"


def evaluate(settings: DrawingSettings, options: EncoderOptions) -> list[dict[str, Any]]:
    """Train an arm for every feature of every encoder and for its controls, and write the outcome.

    Args:
        settings ([`DrawingSettings`]): what draws, and for how long it learns.
        options ([`EncoderOptions`]): how and where encoders are loaded.

    Returns:
        The rows of `drawing.json`.

    Raises:
        InputError: an encoder or feature that cannot be used, or a folder with arms of other settings.
    """
    check_encoders(settings.encoders)
    check_seeds(settings.seeds)
    if "learned" not in settings.features:
        refuse_unused(settings, ["layer_weights", "layer_weights_learning_rate"], "without --features learned")
    data = settings.output / f"drawing_images_{settings.images}_{settings.images_seed}.parquet"
    rows = list(training_rows(settings.images, seed=settings.images_seed, size=SIDE))
    prompts = scored_prompts(settings.prompts, seed=settings.images_seed)
    runs = settings.output / "drawing_runs"
    finished_arms(runs, {"budget": _budget(settings), "version": VERSION})  # raises before anything is trained
    for conditions in _conditions(settings, options):
        if not data.exists():  # now that the first encoder is known to be good
            write_rows(rows, data)
        plain = conditions.captions == "short_caption"
        own = [replace(prompt, text=plain_words(prompt.drawing)) for prompt in prompts] if plain else prompts
        _train_arms(conditions, own, data, settings)
    return write_report(finished_arms(runs), settings.output)


def _train_arms(
    conditions: Conditions,
    prompts: Sequence[Prompt],
    data: Path,
    settings: DrawingSettings,
) -> None:
    """Train an arm for each seed, but for those that have ended or that another process trains.

    Captions are encoded to the same with every seed, so that all arms of a process read one folder of them. Where
    layer weights are learned it holds all layers of each caption, and the features by each seed's weights.

    Args:
        conditions ([`Conditions`]): what the diffusion model reads.
        prompts (`list[Prompt]`): of the test.
        data (`Path`): the training images.
        settings ([`DrawingSettings`]): size, rates and seeds.
    """
    runs = settings.output / "drawing_runs"
    fingerprint = feature_encoder(conditions.model, conditions.feature).fingerprint()
    label, raw = _label(settings, conditions.feature), "" if settings.standardize else "__raw"
    name, parent = f"{folder_name(conditions.encoder)}__{label}{raw}", runs / "embeddings"
    embeddings: tuple[Path, BaseFileLock] | None = None  # the lock is held as long as something refers to it
    for seed in settings.seeds:
        arm = {
            "encoder": conditions.encoder,
            "feature": label,
            "standardized": settings.standardize,
            "seed": seed,
            "version": VERSION,
            "budget": _budget(settings),
        }
        folder = runs / f"{name}__seed{seed}"
        config = training_config(settings, conditions, data, folder, seed)
        if _is_finished(config, fingerprint):
            continue
        try:
            lock = hold_folder(folder)
        except FolderHeld:
            tqdm.write(f"{folder.name}: left to the process that trains it")
            continue
        tqdm.write(_cost(runs, arm))
        # One for each seed: an arm lets go of its trunk.
        model = feature_encoder(conditions.model, conditions.feature).requires_grad_(False)
        embeddings = embeddings or _hold_embeddings(parent, name)
        config.cache_dir = str(embeddings[0])
        DrawingArm(config, model, prompts, arm).run()
        leave_folder(lock)
    if embeddings:
        _remove_embeddings(parent, name)


def _hold_embeddings(parent: Path, name: str) -> tuple[Path, BaseFileLock]:
    """The first folder for captions of an arm that no other process holds, with what a killed one has left there."""
    for number in count():
        folder = parent / f"{name}__{number}"
        with suppress(FolderHeld):
            return folder, hold_folder(folder)


def _remove_embeddings(parent: Path, name: str) -> None:
    """Remove the folders for captions of an arm that no other process holds: hundreds of megabytes each."""
    for folder in sorted(parent.glob(f"{name}__*")):
        with suppress(FolderHeld):
            lock = hold_folder(folder)
            for inner in folder.iterdir():
                if inner.is_dir():
                    shutil.rmtree(inner)
            leave_folder(lock)
            with suppress(OSError):  # another process has come
                folder.rmdir()


def _is_finished(config: TextToImageConfig, fingerprint: str) -> bool:
    """Whether this arm has ended, as its trainer would find after all has been loaded.

    Args:
        config ([`TextToImageConfig`]): of its training.
        fingerprint (`str`): of its encoder.

    Raises:
        InputError: the folder holds an arm of another encoder or of other settings.
    """
    folder = Path(config.output_dir)
    if not (folder / RECORD).exists():
        return False
    found, own = read_json(folder / RUN), {"settings": config.identity() | {"kind": DrawingArm.kind}}
    own["encoder"] = fingerprint
    if different := [name for name, value in own.items() if found[name] != value]:
        what = " and ".join(different)
        raise InputError(f"got {folder}, an arm with other {what}, expected this one's: choose another folder")
    return True


def _label(settings: DrawingSettings, feature: str) -> str:
    return f"learned_{settings.layer_weights}" if feature == "learned" else feature_label(feature)


def _budget(settings: DrawingSettings) -> dict[str, Any]:
    """What arms must have in common to stand side by side."""
    names = ("steps", "batch_size", "learning_rate", "images", "images_seed", "prompts")
    return {name: getattr(settings, name) for name in names}


def _cost(runs: Path, arm: dict[str, Any]) -> str:
    """What an arm is going to do, and what the arms before it took."""
    before = [one["seconds_of_last_start"] for one in finished_arms(runs).values()]
    took = f"; arms so far took {sum(before) / len(before):.0f} s" if before else ""
    steps, size = arm["budget"]["steps"], arm["budget"]["batch_size"]
    return f"{arm['encoder']}, {arm['feature']}, seed {arm['seed']}: {steps} steps of {size} images{took}"


def training_config(
    settings: DrawingSettings, conditions: Conditions, data: Path, folder: Path, seed: int
) -> TextToImageConfig:
    """The training of one arm.

    Args:
        settings ([`DrawingSettings`]): its size and rates.
        conditions ([`Conditions`]): the encoder and feature, and the column of captions.
        data (`Path`), folder (`Path`): where the images are, and where it writes.
        seed (`int`): of weights, noise and order.
    """
    learning = {"layer_weights": "as_saved"}
    if conditions.feature == "learned":
        rate = settings.layer_weights_learning_rate
        learning = {"layer_weights": settings.layer_weights, "layer_weights_learning_rate": rate}
    return TextToImageConfig(
        encoder=conditions.encoder,
        data=str(data),
        output_dir=str(folder),
        caption_columns=[conditions.captions],
        resolution=SIDE,
        transformer=TRANSFORMER,
        max_sequence_length=128,
        **learning,
        standardize=settings.standardize,
        recompute_layers=False,  # of a few short captions they are small
        batch_size=settings.batch_size,
        max_steps=settings.steps,
        optimizer="muon",
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warmup_steps=20,
        timestep_sampling="uniform",  # what the text decides is decided in the most noise
        adam_beta2=0.99,
        ema_decay=0.99,
        mixed_precision="no",
        save_steps=200,
        sample_steps=max(10, settings.steps // 50 * 10),  # five times, where the curve has a point
        num_inference_steps=10,
        guidance_scale=3.0,
        seed=seed,
    )


def _conditions(settings: DrawingSettings, options: EncoderOptions) -> Iterator[Conditions]:
    """Each encoder's features, then its controls; at the end the ceiling."""
    for spec in settings.encoders:
        name, encoder = load_encoder(spec, options)
        features = expand_features(settings.features, encoder.config.num_hidden_layers)
        for feature in features:
            yield Conditions(name, feature, encoder)
        for control, feature, model in controls_of(encoder, settings.controls, features):
            yield Conditions(f"{name}, {control}", feature, model)
    if CEILING in settings.controls:
        words = " ".join(map(plain_words, single_figures(held_out=False))).split()
        yield Conditions(CEILING_NAME, "last", vocabulary_alone(words), captions="short_caption")
