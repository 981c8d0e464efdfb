"""One text encoder in the place of another, without training the diffusion model: a linear map between their features.

    found = adapt(old, new, texts)
    found.model.save_pretrained("adapted")      # the new encoder, with the map as its projection
    found.report["explained_variance"]["map"]   # on texts that the map has not seen

Each token of the new encoder is to become the mean of the old encoder's tokens that stand for the same characters.
Tests: tests/test_adaptation.py.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from granted.encoding.alignment import TokenPlaces, check_offsets, overlap_weights, same_text, token_places
from granted.encoding.controls import CONTROLS
from granted.encoding.embedding_cache import identity_hash
from granted.encoding.feature_files import feature_identity
from granted.encoding.features import USUAL_READING, feature_encoder, refuse_learned
from granted.encoding.loading import is_fused, load_encoder, split_spec
from granted.encoding.options import EncoderOptions
from granted.encoding.ridge import LinearMap, Moments, fit_ridge, mean_explained
from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, write_json
from granted.utils.versions import library_versions


TEXTS_TOGETHER = 128
SHARE_OF_NO_TEXT = 0.02  # of the tokens that are fitted; guidance reads the empty text at every step of drawing
FEWEST_TEXTS = 10
PARTS = ("fit", "chosen on", "test")  # of the texts: eight tenths, one, one
Features = Callable[[GrantedModel, Sequence[str]], list[torch.Tensor]]
EMBEDDINGS = "embeddings"
READING = ("prompt_template", "template_drop_tokens", *USUAL_READING)


@torch.no_grad()
def token_features(encoder: GrantedModel, texts: Sequence[str]) -> list[torch.Tensor]:
    """What an encoder gives of texts, (N_i, D) each; a text may be empty.

    Raises:
        InputError: features that are not finite.
    """
    try:
        return encoder.encode(texts, show_progress=False, allow_empty=True)
    except ValueError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True)
class Adaptation:
    """What [`adapt`] has found.

    Args:
        model ([`GrantedModel`]): the new encoder with the map as its projection.
        map ([`LinearMap`]): the same map in fp64.
        report (`dict`): how well it does, and what it is made of.
    """

    model: GrantedModel
    map: LinearMap
    report: dict[str, Any]


class PairSums:
    """Sums over pairs of one new encoder and the old one, apart for each part of the texts.

    Args:
        encoder ([`GrantedModel`]): the new one; its output is the input of the map.
        features (`Callable`): gives that output, as [`token_features`] does.
    """

    def __init__(self, encoder: GrantedModel, features: Features):
        self.encoder, self.features = encoder, features
        self.sums: dict[str, Moments] = {}
        self.tokens = dict.fromkeys(PARTS, 0)  # without special tokens and templates, as these:
        self.own: Moments | None = None  # of the last part

    def add(
        self,
        part: str,
        texts: Sequence[str],
        old: Sequence[TokenPlaces],
        targets: Sequence[torch.Tensor],
        times: int = 1,
    ) -> None:
        """Add the pairs of texts, whose old tokens stand at places and have the features (N_old, D_old) each.

        Args:
            part (`str`): one of `PARTS`.
            texts (`Sequence[str]`): as the new encoder reads them.
            old (`Sequence[TokenPlaces]`), targets (`Sequence[torch.Tensor]`): of each text.
            times (`int`, defaults to 1): how often a text counts.
        """
        places = token_places(self.encoder, texts)
        x = torch.cat(self.features(self.encoder, texts))  # (sum N_new, D_new)
        y = torch.cat([overlap_weights(*pair) @ rows.double() for *pair, rows in zip(places, old, targets)])
        own = torch.cat([one.own for one in places])  # (sum N_new,)
        self.tokens[part] += int(own.sum())
        self.sums.setdefault(part, Moments(x.shape[1], y.shape[1])).add(x, y, times)
        if part == PARTS[-1]:
            self.own = self.own or Moments(x.shape[1], y.shape[1])
            self.own.add(x[own], y[own])

    def fit(self) -> LinearMap:
        """The ridge of the first two parts, of the strength that the second one chooses."""
        fit, chosen_on = (self.sums[part] for part in PARTS[:2])
        return fit_ridge(fit + chosen_on, strengths=(fit_ridge(fit, chosen_on).strength,))


def adapt(
    old: GrantedModel,
    new: GrantedModel,
    texts: Sequence[str],
    controls: Sequence[str] = ("words",),
    features: Features = token_features,
    shown: str = "",
) -> Adaptation:
    """Fit a map from the features of a new encoder to those of an old one, on texts alone.

    Args:
        old ([`GrantedModel`]): its output is what the diffusion model reads, (B, N, D_old).
        new ([`GrantedModel`]): its fusion is kept. Standardisation and projection are fitted anew.
        texts (`list[str]`): captions as the diffusion model will be prompted with; each counts once.
        controls (`list[str]`, defaults to `["words"]`): keys of [`CONTROLS`]: what else is fitted, to compare.
        features (`Callable`): gives the features of texts by an encoder, (N_i, D) each; those on a disk, for example.
        shown (`str`): name of the progress bar; there is none without.

    Raises:
        InputError: an encoder that does not say where its tokens stand or gives several features of a token; texts
            that are too few, or that the two do not read alike.
    """
    for name, encoder in (("the old encoder", old), ("the new encoder", new)):
        check_offsets(name, encoder)
        check_features(name, encoder)
    fused = fused_alone(new)
    texts, kept = list(dict.fromkeys(texts)), readable(old, fused, texts)
    parts = split(kept)
    empty = SHARE_OF_NO_TEXT * count_tokens(fused, parts["fit"]) / len(token_places(fused, [""])[0])
    made = {CONTROLS[key][0]: as_read_by(fused, CONTROLS[key][1](fused)) for key in controls}
    sums = {
        name: PairSums(encoder, features) for name, encoder in {"map": fused, **made, "old onto itself": old}.items()
    }
    with tqdm(total=len(kept), desc=shown, unit="text", disable=not shown) as bar:
        for part, together, times in in_turn(parts, max(1, round(empty))):
            places, targets = token_places(old, together), features(old, together)
            for one in sums.values():
                one.add(part, together, places, targets, times)
            bar.update(sum(map(bool, together)))
    maps = {name: one.fit() for name, one in sums.items()}
    report = {
        "explained_variance": {name: explained(maps[name], one) for name, one in sums.items()},
        "strength": maps["map"].strength,
        "tokens": sums["map"].tokens,
        "texts": {
            "given": len(texts),
            "read otherwise": len(texts) - len(kept),
            **{part: len(own) for part, own in parts.items()},
            "sha256": hashlib.sha256("\n".join(kept).encode()).hexdigest(),
        },
        "old": described(old),
        "new": described(fused),
        "versions": library_versions("granted", "torch", "transformers"),
    }
    return Adaptation(with_map(new, maps["map"]), maps["map"], report)


def load_feature(
    spec: str, feature: str | None, options: EncoderOptions, layers: Sequence[str] = ()
) -> tuple[str, GrantedModel]:
    """An encoder whose output is one feature; a saved model has its own.

    Args:
        spec (`str`), options ([`EncoderOptions`]): as of [`load_encoder`].
        feature (`str`, *optional*): name as of `granted.encoding.features`; `"norm_avg"` by default.
        layers (`list[str]`): as of [`joined_layers`], in place of a feature.

    Raises:
        InputError: as of [`load_encoder`], a feature or layer that the encoder does not have, or for a saved model.
    """
    if layers and feature is not None:
        raise InputError(f"got the feature {feature} and layers {','.join(layers)}, expected one of the two")
    refuse_learned([feature])
    name, encoder = load_encoder(spec, options)
    asked = ",".join(layers) or feature
    if not is_fused(split_spec(spec)[1], options.revision):
        return name, joined_layers(encoder, layers) if layers else feature_encoder(encoder, feature or "norm_avg")
    if asked:
        raise InputError(
            f"got the feature {asked} for {name}, a saved model, expected its own: leave the option out, or name the "
            "plain encoder"
        )
    return name, encoder


def joined_layers(encoder: GrantedModel, layers: Sequence[str]) -> GrantedModel:
    """A model whose output is some layers of an encoder along the channels, each normalised; the trunk is shared.

    Args:
        encoder ([`GrantedModel`]): a plain one.
        layers (`list[str]`): their numbers, 0 is the first block and -1 the last; `"embeddings"` before them is what
            enters the first block.

    Raises:
        InputError: no such layer, or one twice.
    """
    count = encoder.config.num_hidden_layers
    embeddings = layers[0] == EMBEDDINGS
    options = encoder.config.fusion_options() | {"fusion": "concat", "layer_norm": "layer_norm", "layer_index": -1}
    try:
        options |= {"layers": [int(one) for one in layers[embeddings:]], "embeddings": embeddings}
        return GrantedModel.from_loaded(encoder.encoder, encoder.tokenizer, **options).requires_grad_(False)
    except ValueError as error:
        raise InputError(
            f"got layers {','.join(layers)} of an encoder with {count}, expected different numbers from 0 to "
            f"{count - 1}, or from -{count} to -1, with {EMBEDDINGS} before them or without"
        ) from error


def save(found: Adaptation, output: str | os.PathLike, names: dict[str, str]) -> None:
    """Write the adapted encoder and, as `adapt.json` beside it, how well it does and what it is made of.

    Args:
        found ([`Adaptation`]): what is written.
        output (`str`): the folder to make.
        names (`dict[str, str]`): what encoders and texts are called in the report.

    Raises:
        InputError: the place cannot be written to.
    """
    with atomic_path(output) as temporary:
        found.model.save_pretrained(temporary)
        write_json(temporary / "adapt.json", {"names": names, **found.report})


def check_features(name: str, encoder: GrantedModel) -> None:
    """Refuse an encoder that does not give one feature of a token.

    Raises:
        InputError: it gives several, or its projection is not trained.
    """
    if encoder.fusion.arrangement == "stack":
        raise InputError(
            f"got {name} with features (B, K, N, D), several of a token, expected (B, N, D): adapt one whose layers "
            "are summed or concatenated"
        )
    if encoder.config.projection_dim is not None and not encoder.config.projection_trained:
        raise InputError(f"got {name} with an untrained projection, expected a trained one: train it first")


def count_tokens(encoder: GrantedModel, texts: Sequence[str]) -> int:
    """How many tokens an encoder gives of texts.

    Raises:
        InputError: fewer than it has features.
    """
    count, width = sum(map(len, token_places(encoder, texts))), encoder.config.hidden_size
    if count < width:
        raise InputError(
            f"got {count} tokens to fit {width} features, expected at least as many, and better ten times as many: "
            "give more texts"
        )
    return count


def readable(old: GrantedModel, new: GrantedModel, texts: Sequence[str]) -> list[str]:
    """The texts, each once, that both encoders read whole and alike.

    Raises:
        InputError: there are too few.
    """
    texts = list(dict.fromkeys(texts))
    if len(texts) < FEWEST_TEXTS:
        raise InputError(f"got {len(texts)} different texts, expected at least {FEWEST_TEXTS}: give more")
    pairs = zip(token_places(new, texts), token_places(old, texts))
    kept = [text for text, pair in zip(texts, pairs) if same_text(*pair)]
    if len(kept) < FEWEST_TEXTS:
        raise InputError(
            f"got {len(texts)} different texts, {len(kept)} of which both encoders read whole and as the same "
            f"characters, expected at least {FEWEST_TEXTS}: give shorter or plainer ones"
        )
    return kept


def split(texts: Sequence[str]) -> dict[str, list[str]]:
    """Texts by the part they play, in random order, the same for the same texts."""
    order = random.Random(0).sample(list(texts), len(texts))
    tenth = max(1, len(order) // 10)
    return dict(zip(PARTS, (order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth])))


def in_turn(parts: dict[str, list[str]], empty: int) -> Iterator[tuple[str, list[str], int]]:
    """Every part in batches of texts, and how often each of these counts; first the empty text, which is fitted."""
    yield "fit", [""], empty
    for part, texts in parts.items():
        for start in range(0, len(texts), TEXTS_TOGETHER):
            yield part, texts[start : start + TEXTS_TOGETHER], 1


def fused_alone(encoder: GrantedModel) -> GrantedModel:
    """A model whose output is an encoder's fusion in fp32, before all that follows it; the trunk is shared."""
    plain = {"standardize": False, "projection_dim": None, "projection_trained": False, "output_dtype": "float32"}
    return rebuilt(encoder, **plain)


def with_map(encoder: GrantedModel, found: LinearMap) -> GrantedModel:
    """A model whose output is that of a map of an encoder's fusion: its projection; the trunk is shared."""
    width = {"projection_dim": found.weight.shape[1], "projection_trained": True, "standardize": True}
    model = rebuilt(encoder, **width, fused_hidden_states=True)  # for pipelines that read hidden states
    model.standardization.mean.copy_(found.mean)
    model.standardization.deviation.copy_(found.deviation)
    with torch.no_grad():
        model.projection.weight.copy_(found.weight.T)  # (D_old, D_new)
        model.projection.bias.copy_(found.bias)
    return model.requires_grad_(False)


def rebuilt(encoder: GrantedModel, **changes: Any) -> GrantedModel:
    """A model around the same trunk, with the same fusion and other options."""
    config = encoder.config
    source = {"encoder_name_or_path": config.encoder_name_or_path, "encoder_revision": config.encoder_revision}
    model = GrantedModel.from_loaded(encoder.encoder, encoder.tokenizer, **source, **config.fusion_options() | changes)
    model.fusion.load_state_dict(encoder.fusion.state_dict())
    return model


def as_read_by(encoder: GrantedModel, control: GrantedModel) -> GrantedModel:
    """A control that gives one feature for each token of the encoder."""
    for name in READING:
        setattr(control.config, name, getattr(encoder.config, name))
    return control


def explained(found: LinearMap, sums: PairSums) -> dict[str, float]:
    """Share of the variance that a map explains on test texts: of their own tokens, the mean over channels and the
    variance of all channels together; and with special tokens and templates, the mean over channels.
    """
    own = sums.own
    shares = found.explained(own)  # (D_old,)
    variance = own.yy / own.count - (own.y / own.count).square()  # (D_old,)
    known = ~shares.isnan()
    together = (shares * variance)[known].sum() / variance[known].sum().clamp(min=1e-300)
    return {
        "mean over channels": round(mean_explained(shares), 4),
        "of the whole variance": round(together.item(), 4),
        "with special tokens": round(mean_explained(found.explained(sums.sums["test"])), 4),
    }


def described(encoder: GrantedModel) -> dict[str, Any]:
    """Which features of which encoder."""
    fingerprint = encoder.fingerprint()
    return {
        "fingerprint": fingerprint,
        "features": identity_hash(feature_identity(encoder, fingerprint)),
        **{name: getattr(encoder.config, name) for name in ("fusion", "layer_index", "layers", "embeddings")},
        "width": encoder.config.hidden_size,
        "standardized": encoder.config.standardize,
        "prompt_template": encoder.config.prompt_template,
    }
