"""`granted evaluate drawing`: a small text-to-image model, trained from scratch on a feature, draws what prompts say.

    evaluate(DrawingSettings(encoders=["minilm=./all-MiniLM-L6-v2"], output=Path("out")), EncoderOptions())

Every arm is a training of equal budget in `out/drawing_runs/ENCODER__FEATURE`; run again, it goes on where it stopped.
The outcome of all arms there is `out/drawing.json` and `out/drawing.md`; rows are as of granted evaluate reading.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from granted.dataset_builders.scenes.shapes.rows import write_rows
from granted.encoding.controls import random_weights
from granted.encoding.features import expand_features, feature_encoder, feature_label
from granted.encoding.loading import load_encoder, split_spec
from granted.encoding.options import EncoderOptions
from granted.eval_metric.drawing.arm import PROPERTIES, DrawingArm
from granted.eval_metric.drawing.scenes import WORDINGS, scored_prompts, training_rows
from granted.eval_metric.drawing.settings import DrawingSettings
from granted.eval_metric.reading.results import percent
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.settings import TextToImageConfig
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, folder_name, read_json, write_json


VERSION = 1  # of the instrument: raised whenever scenes, training or scoring change
SIDE = 48  # pixels of an image
CALIBRATION = 300  # captions from which channels are standardised
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


def evaluate(settings: DrawingSettings, options: EncoderOptions) -> list[dict[str, Any]]:
    """Train an arm for every feature of every encoder, and write the outcome.

    Args:
        settings ([`DrawingSettings`]): what draws, and for how long it learns.
        options ([`EncoderOptions`]): how and where encoders are loaded.

    Returns:
        The rows of `drawing.json`.

    Raises:
        InputError: an encoder or feature that cannot be used, or a folder with arms of other settings.
    """
    names = [split_spec(spec)[0] for spec in settings.encoders]
    if len(set(names)) < len(names):
        raise InputError(f"got encoders called {', '.join(names)}, expected different names: give them as NAME=PATH")
    data = settings.output / f"drawing_images_{settings.images}_{settings.seed}.parquet"
    rows = list(training_rows(settings.images, seed=settings.seed, size=SIDE))
    prompts = scored_prompts(settings.prompts, seed=settings.seed)
    captions = [row["caption"] for row in rows[:CALIBRATION]]
    runs = settings.output / "drawing_runs"
    _finished(runs, {"steps": settings.steps, "batch_size": settings.batch_size})  # raises before anything is trained
    for name, feature, encoder in _arms(settings, options):
        if not data.exists():  # now that the first encoder is known to be good
            write_rows(rows, data)
        model = feature_encoder(encoder, feature).requires_grad_(False)
        if settings.standardize:
            model.calibrate(captions)
        folder = runs / f"{folder_name(name)}__{feature_label(feature)}{'' if settings.standardize else '__raw'}"
        config = TextToImageConfig(
            encoder=name,
            data=str(data),
            output_dir=str(folder),
            resolution=SIDE,
            transformer=TRANSFORMER,
            max_sequence_length=128,
            layer_weights="as_saved",
            batch_size=settings.batch_size,
            max_steps=settings.steps,
            optimizer="muon",
            learning_rate=settings.learning_rate,
            schedule="cosine",
            warmup_steps=20,
            adam_beta2=0.99,
            ema_decay=0.99,
            mixed_precision="no",
            save_steps=200,
            num_inference_steps=10,
            guidance_scale=3.0,
            seed=settings.seed,
        )
        arm = {"encoder": name, "feature": feature_label(feature), "standardized": settings.standardize}
        DrawingArm(config, model, prompts, arm | {"version": VERSION}).run()
    return write_report(_finished(runs), settings.output)


def _finished(runs: Path, budget: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """What the arms that have ended have scored.

    Raises:
        InputError: one of them had another budget, so that its scores cannot stand beside the others'.
    """
    arms = [read_json(path) for path in sorted(runs.glob("*/scores.json"))]
    for arm in arms:
        if budget and arm["budget"] != budget:
            raise InputError(
                f"got {runs} with an arm of {arm['arm']['encoder']} trained for {arm['budget']}, a run with other "
                f"steps or batch size than {budget}: choose another output folder"
            )
    return arms


def _arms(settings: DrawingSettings, options: EncoderOptions) -> Iterator[tuple[str, str, GrantedModel]]:
    for spec in settings.encoders:
        name, encoder = load_encoder(spec, options)
        features = expand_features(settings.features, encoder.config.num_hidden_layers)
        for feature in features:
            yield name, feature, encoder
        if settings.control:
            yield f"{name}, random weights", features[-1], random_weights(encoder)


def write_report(arms: Sequence[dict[str, Any]], output: Path) -> list[dict[str, Any]]:
    """Write `drawing.json` and `drawing.md` of arms that have ended; the rows."""
    rows = [row for arm in arms for row in _rows(arm)]
    write_json(output / "drawing.json", {"instrument": "drawing", "rows": rows, "arms": [_about(arm) for arm in arms]})
    with atomic_path(output / "drawing.md") as temporary:
        temporary.write_text(drawing_table(rows), encoding="utf-8")
    return rows


def _about(arm: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arm.items() if name != "items"}


def _rows(arm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for wording in WORDINGS:
        items = [item for item in arm["items"] if item["wording"] == wording]
        for name in PROPERTIES:
            values = {kind: [item[kind][name] for item in items] for kind in ("score", "control")}
            estimate = bootstrap_accuracy(values["score"], range(len(items)))
            yield {
                "encoder": arm["arm"]["encoder"],
                "feature": arm["arm"]["feature"] + ("" if arm["arm"]["standardized"] else ", raw"),
                "instrument": "drawing",
                "wording": wording,
                "property": name,
                "accuracy": round(estimate.accuracy, 4),
                "ci95": [round(estimate.low, 4), round(estimate.high, 4)],
                "control": round(sum(values["control"]) / len(items), 4),
                "n": len(items),
                "seeds": 1,
            }


def drawing_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: an arm a row, shape and colour right in each wording, and the place."""
    cells = {(row["encoder"], row["feature"], row["wording"], row["property"]): row for row in rows}
    arms = list(dict.fromkeys((row["encoder"], row["feature"]) for row in rows))
    heads = [f"{name}, {wording}" for name in ("look", "position") for wording in WORDINGS]
    lines = [f"| encoder | feature | {' | '.join(heads)} |", f"|---|---|{'--:|' * len(heads)}"]
    for arm in arms:
        found = [cells[(*arm, wording, name)] for name in ("look", "position") for wording in WORDINGS]
        shown = [percent(row) for row in found]
        lines.append(f"| {arm[0]} | {arm[1]} | {' | '.join(shown)} |")
    others = [row["control"] for row in rows if row["property"] == "look"]
    note = "Images with the right shape and colour (look), and place, % [95% interval]; other prompts: look "
    note += f"{100 * sum(others) / len(others):.0f}." if others else "none."
    return "\n".join([*lines, "", note]) + "\n"
