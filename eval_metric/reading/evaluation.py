"""`granted evaluate reading` and `granted evaluate ladder`: from encoders to scores, controls beside them.

    evaluate("reading", ReadingSettings(encoders=["minilm=./all-MiniLM-L6-v2"], output=Path("out")), EncoderOptions())

`out/reading_runs` gets a file for every reader that was trained; what is there is not done again. The outcome is made
from all of these files, those of earlier commands too: `reading.json` (see `results.py`), `reading.md` and `.png`.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from granted.encoding.controls import CEILING, CEILING_NAME, controls_of
from granted.encoding.features import expand_features, feature_label
from granted.encoding.loading import check_encoders, device_name, load_encoder
from granted.encoding.options import EncoderOptions
from granted.encoding.token_features import TokenFeatures, encode_features, feature_identities
from granted.eval_metric.reading.ceiling import scene_features
from granted.eval_metric.reading.examples import Texts, ladder_texts, reading_texts
from granted.eval_metric.reading.results import Run, write_report
from granted.eval_metric.reading.settings import VERSION, ReadingSettings
from granted.eval_metric.reading.training import train_reader
from granted.modeling_granted import GrantedModel
from granted.utils.files import folder_name
from granted.utils.settings import check_seeds
from granted.utils.versions import library_versions


TEXTS = {"reading": reading_texts, "ladder": ladder_texts}


@dataclass(frozen=True)
class Source:
    """One encoder, or one of its controls, with the features that are read of it."""

    encoder: str
    features: list[str]
    model: GrantedModel | None  # none for the ceiling


def evaluate(instrument: str, settings: ReadingSettings, options: EncoderOptions) -> list[Run]:
    """Train a reader on every feature of every encoder and of its controls, score it, and write the outcome.

    Args:
        instrument (`str`): `"reading"` or `"ladder"`.
        settings ([`ReadingSettings`]): what is read, and how the reader learns.
        options ([`EncoderOptions`]): how and where encoders are loaded.

    Raises:
        InputError: an encoder or feature that cannot be used, two encoders of one name, or a folder with runs of other
            settings.
    """
    check_encoders(settings.encoders)
    check_seeds(settings.seeds)
    texts = TEXTS[instrument](settings.training_texts, settings.test_scenes, settings.texts_seed)
    folder = settings.output / f"{instrument}_runs"
    identity = _identity(instrument, texts, settings)
    everything = {path.name: Run.load(path, identity) for path in sorted(folder.glob("*.json"))}
    for source in _sources(settings, options):
        everything |= _read_source(source, texts, folder, identity, settings)
    write_report(instrument, texts.test, list(everything.values()), settings.output)
    return list(everything.values())


def _identity(instrument: str, texts: Texts, settings: ReadingSettings) -> dict[str, Any]:
    """What runs must have in common to stand side by side."""
    sentences = [one.text for one in (*texts.training, *texts.test)]
    return {
        "instrument": instrument,
        "version": VERSION,
        "texts": hashlib.sha256(json.dumps(sentences).encode()).hexdigest(),
        "reader": [settings.steps, settings.batch_size, settings.learning_rate],
    }


def _sources(settings: ReadingSettings, options: EncoderOptions) -> Iterator[Source]:
    """Each encoder followed by its controls, at the end the ceiling; one encoder at a time is in memory."""
    for spec in settings.encoders:
        name, encoder = load_encoder(spec, options)
        features = expand_features(settings.features, encoder.config.num_hidden_layers)
        yield Source(name, features, encoder)
        for control, feature, model in controls_of(encoder, settings.controls, features):
            yield Source(f"{name}, {control}", [feature], model)
    if CEILING in settings.controls:
        yield Source(CEILING_NAME, ["facts"], None)


def _read_source(
    source: Source, texts: Texts, folder: Path, identity: dict[str, Any], settings: ReadingSettings
) -> dict[str, Run]:
    """The source's runs by the names of their files; those that are not there are made."""
    runs: dict[str, Run] = {}
    paths = {
        (feature, seed): folder / f"{folder_name(source.encoder)}__{feature_label(feature)}__seed{seed}.json"
        for feature in source.features
        for seed in settings.seeds
    }
    scene = {feature: {"encoder": "scene"} for feature in source.features}
    own = scene if source.model is None else feature_identities(source.model, source.features)
    identities = {feature: identity | own[feature] for feature in source.features}
    missing = list(dict.fromkeys(feature for (feature, _), path in paths.items() if not path.exists()))
    found = _encode(source, missing, texts) if missing else {}
    device = torch.device("cpu") if source.model is None else source.model.input_device
    for (feature, seed), path in paths.items():
        if not path.exists():
            outcome = train_reader(
                found[feature], texts, seed, settings, f"reading {source.encoder}, {feature}", device
            )
            origin = {
                "versions": library_versions("granted", "torch", "transformers"),
                "device": device_name(device),
                "dtype": "float32" if source.model is None else str(source.model.dtype).removeprefix("torch."),
                "encoder_revision": source.model and source.model.config.encoder_revision,
                "parameters": source.model and source.model.encoder.num_parameters(),
                "tokens": sum(map(len, found[feature].rows)),
                "seconds": round(outcome.seconds, 1),
                "loss": outcome.loss,
            }
            scores = (outcome.right, outcome.learned)
            Run(source.encoder, feature_label(feature), seed, *scores, identities[feature], origin).save(path)
        runs[path.name] = Run.load(path, identities[feature])
    return runs


def _encode(source: Source, features: Sequence[str], texts: Texts) -> dict[str, TokenFeatures]:
    examples = [*texts.training, *texts.test]
    if source.model is None:
        return {features[0]: scene_features(examples)}
    sentences = [example.text for example in examples]
    return encode_features(source.model, features, sentences, shown=f"encoding by {source.encoder}")
