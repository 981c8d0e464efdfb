"""Does a diffusion model draw with another text encoder than the one it was trained with, after `granted adapt`?

    python benchmarks/adapt_drawing.py --old ./all-MiniLM-L6-v2 --new ./SmolLM2-135M-Instruct.Q4_1.gguf --output DIR

The model of the drawing probe is trained once on the standardised Norm-Avg of the old encoder. Then it draws the test
prompts from the features of other encoders, whose maps were fitted on captions of training. Prompts are about figures
that no caption of training is about. Broken off, it goes on where it was. Writes `adapt.json` and `adapt.md`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import Lumina2Transformer2DModel
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.rows import write_rows
from granted.encoding.adaptation import (
    PARTS,
    SHARE_OF_NO_TEXT,
    adapt,
    as_read_by,
    fused_alone,
    joined_layers,
    readable,
    split,
    token_features,
)
from granted.encoding.alignment import overlap_weights, token_places
from granted.encoding.controls import random_weights, words_alone
from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.feature_files import feature_identity
from granted.encoding.features import feature_encoder
from granted.encoding.loading import load_encoder
from granted.encoding.options import EncoderOptions
from granted.encoding.token_features import padded_rows
from granted.eval_metric.drawing.arm import DrawingArm, compare, largest_figure
from granted.eval_metric.drawing.evaluation import SIDE, Conditions, training_config
from granted.eval_metric.drawing.scenes import Prompt, scored_prompts, training_rows
from granted.eval_metric.drawing.settings import DrawingSettings
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.settings import CALIBRATION
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.program import run_as_command
from granted.utils.versions import library_versions


WORDINGS = ("seen", "form", "word")
TEMPLATE = "<|im_start|>{prompt}<|im_end|>"  # one token before a text and one behind it, as the old encoder has
JOINED = ("embeddings", "9", "19", "29")  # of 30 layers
SIZES = (50, 150, 500)
HIDDEN = 1024  # of the network that is tried in place of the map
Rows = Callable[[Sequence[str]], list[torch.Tensor]]


@dataclass(frozen=True)
class Given:
    """Features that the diffusion model is to draw from, beside what became of their fit."""

    name: str
    rows: Rows
    fit: dict[str, Any] | None = None


class KeptArm(DrawingArm):
    """An arm of the drawing probe that keeps its transformer, and draws from the features that it is given."""

    def finish(self, seconds: float) -> None:
        with self.averaged_weights():
            self.transformer.save_pretrained(self.output / "transformer")
        super().finish(seconds)

    def choose(self, count: int) -> None:
        """Load what was trained, and draw the first prompts of each wording from here on."""
        self.transformer = Lumina2Transformer2DModel.from_pretrained(self.output / "transformer").eval()
        self.ema = None
        self.prompts = [
            one
            for wording in WORDINGS
            for one in [prompt for prompt in self._prompts if prompt.wording == wording][:count]
        ]

    def draws(self, given: Given) -> list[dict[str, float]]:
        """What is right of each prompt's image."""
        self.conditioning = Lookup(given.rows, self.conditioning)
        with torch.no_grad():
            images = self.draw_prompts(self.prompts)
        return [compare(prompt.drawing, largest_figure(image)) for prompt, image in zip(self.prompts, images)]


class Lookup:
    """Conditioning from rows of features."""

    def __init__(self, rows: Rows, conditioning: Any):
        self.rows, self.max_sequence_length = rows, conditioning.max_sequence_length

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        embeds, mask = padded_rows([row.float() for row in self.rows(texts)], "cpu")  # (B, N, D), (B, N)
        return embeds, mask.long()


class Store:
    """Features on the disk: no text is encoded twice by the same encoder, in the same run or the next."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.caches: dict[int, tuple[GrantedModel, EmbeddingCache]] = {}

    def __call__(self, encoder: GrantedModel, texts: Sequence[str]) -> list[torch.Tensor]:
        if id(encoder) not in self.caches:
            identity = feature_identity(encoder)
            self.caches[id(encoder)] = encoder, EmbeddingCache(self.folder / identity_hash(identity), identity)
        cache = self.caches[id(encoder)][1]
        missing = cache.missing(texts)
        for start in tqdm(range(0, len(missing), 64), "encoding", disable=len(missing) < 200):
            part = missing[start : start + 64]
            cache.append(part, {"features": token_features(encoder, part)})
        return [cache.read("features", text) for text in texts]


# -------------------------------------------------------------------------------------------------- what is drawn from


def given_features(
    old: GrantedModel, captions: Sequence[str], specs: argparse.Namespace, store: Store
) -> Iterator[Given]:
    """The old encoder and what is less than it, then other encoders in its place."""
    first, minilm = load_encoder(specs.old, EncoderOptions(device="cpu"))
    second, small = load_encoder(specs.new, EncoderOptions(device="cpu", dtype="float32"))
    _, framed = load_encoder(specs.new, EncoderOptions(device="cpu", dtype="float32", template=TEMPLATE))

    def own(texts: Sequence[str]) -> list[torch.Tensor]:
        return store(old, texts)

    mean = torch.cat(own(captions)).mean(0, keepdim=True)  # (1, D)
    yield Given(f"{first} norm_avg, trained on", own)
    yield Given("its mean vector at every token", lambda texts: [mean.expand_as(row) for row in own(texts)])
    yield Given("without its special tokens", lambda texts: [row[1:-1] if len(row) > 2 else row for row in own(texts)])
    for feature in ("last", "layer_3"):
        plain = feature_encoder(minilm, feature)
        plain.calibrate(captions[:CALIBRATION])
        yield Given(f"{first} {feature}, as it is", lambda texts, plain=plain: store(plain, texts))
        yield from mapped(f"{first} {feature}", old, fused_alone(plain), captions, store)
    yield from mapped(f"{first}, words", old, words_alone(minilm), captions, store)
    yield from mapped(
        f"{first}, random weights", old, random_weights(feature_encoder(minilm, "norm_avg")), captions, store
    )
    smollm, with_ends = feature_encoder(small, "norm_avg"), feature_encoder(framed, "norm_avg")
    yield from mapped(f"{second} norm_avg", old, smollm, captions, store, variants=True)
    yield from mapped(f"{second} norm_avg, with ends", old, with_ends, captions, store)
    joined = joined_layers(framed, JOINED)
    yield from mapped(f"{second}, joined layers with ends", old, joined, captions, store, variants=True)
    words = as_read_by(with_ends, words_alone(framed))
    yield from mapped(f"{second}, words, with ends", old, words, captions, store)
    yield from mapped(f"{second}, random weights, with ends", old, random_weights(with_ends), captions, store)


def mapped(
    name: str, old: GrantedModel, new: GrantedModel, captions: Sequence[str], store: Store, variants: bool = False
) -> Iterator[Given]:
    """An encoder mapped to the old one; with variants also in the old tokens, guided by the old empty text, by MLP."""
    found = adapt(old, new, captions, controls=(), features=store)
    fused, fit = fused_alone(new), found.report["explained_variance"]["map"]
    about = {"explained_variance": fit, "strength": found.report["strength"], "tokens": found.report["tokens"]}
    parts = split(readable(old, fused, captions))
    test, others = pairs_of(old, fused, parts["test"], store), [text for part in PARTS[:2] for text in parts[part]]
    about["by_texts"] = {}
    for size in SIZES:
        if fused.config.fused_size() < 10 * size <= 10 * len(others):
            fewer = adapt(old, new, others[:size], (), store).map
            about["by_texts"][size] = round(explained_share(lambda x, fewer=fewer: fewer(x).float(), test), 4)

    def rows(texts: Sequence[str]) -> list[torch.Tensor]:
        return [found.map(row) for row in store(fused, texts)]

    def in_old_tokens(texts: Sequence[str]) -> list[torch.Tensor]:
        places = zip(token_places(old, texts), token_places(new, texts))
        return [overlap_weights(*pair) @ row if text else row for text, pair, row in zip(texts, places, rows(texts))]

    def guided_as_before(texts: Sequence[str]) -> list[torch.Tensor]:
        return [row if text else store(old, [text])[0] for text, row in zip(texts, rows(texts))]

    yield Given(f"{name}, mapped", rows, about)
    if variants:
        yield Given(f"{name}, mapped, then in the old tokens", in_old_tokens, about)
        yield Given(f"{name}, mapped, empty text of the old", guided_as_before, about)
        network, share = fitted_network(old, fused, captions, store)
        yield Given(
            f"{name}, by an MLP",
            lambda texts: [network(row) for row in store(fused, texts)],
            {"explained_variance": share},
        )


def fitted_network(
    old: GrantedModel, new: GrantedModel, captions: Sequence[str], store: Store
) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, float]]:
    """A network of two layers on the same pairs, of the epoch that is best where the ridge chooses its strength."""
    parts = split(readable(old, new, captions))
    pairs = {part: pairs_of(old, new, parts[part], store) for part in PARTS}
    said, nothing = pairs["fit"], pairs_of(old, new, [""], store)
    times = max(1, round(SHARE_OF_NO_TEXT * len(said[0]) / len(nothing[0])))
    x, y = (torch.cat([one, other.repeat(times, 1)]) for one, other in zip(said[:2], nothing))  # (T, D) each
    scales = [(one.mean(0), one.std(0).clamp(min=1e-6)) for one in (x, y)]
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], HIDDEN),
        torch.nn.GELU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(HIDDEN, y.shape[1]),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    epochs, size = 30, 256
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(x) // size))

    def answer(features: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network.eval()((features.float() - scales[0][0]) / scales[0][1]) * scales[1][1] + scales[1][0]

    best, kept = -torch.inf, {}
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(x))[: len(x) // size * size].split(size):
            found = network((x[rows] - scales[0][0]) / scales[0][1])
            loss = torch.nn.functional.mse_loss(found, (y[rows] - scales[1][0]) / scales[1][1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        score = explained_share(answer, pairs["chosen on"])
        if score > best:
            best, kept = score, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(kept)
    return answer, {"mean over channels": round(explained_share(answer, pairs["test"]), 4)}


def pairs_of(old: GrantedModel, new: GrantedModel, texts: Sequence[str], store: Store) -> tuple[torch.Tensor, ...]:
    """Inputs (T, D_new), targets (T, D_old) and which are a text's own tokens (T,)."""
    places = token_places(new, texts)
    weights = [overlap_weights(*pair).float() for pair in zip(places, token_places(old, texts))]
    targets = [weight @ row for weight, row in zip(weights, store(old, texts))]
    return torch.cat(store(new, texts)), torch.cat(targets), torch.cat([one.own for one in places])


def explained_share(answer: Callable, pairs: tuple[torch.Tensor, ...]) -> float:
    """Of the own tokens' variance, the mean over channels."""
    x, y, own = pairs
    errors = (answer(x[own]) - y[own]).square().mean(0)  # (D_old,)
    return (1 - errors / y[own].var(0, unbiased=False)).mean().item()


# ------------------------------------------------------------------------------------------------------------- results


def scored(given: Given, prompts: Sequence[Prompt], read: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The row of the table of what was drawn."""
    row: dict[str, Any] = {"features": given.name, **(given.fit or {})}
    for wording in WORDINGS:
        for name in ("look", "position"):
            own = [[one[name] for prompt, one in zip(prompts, read) if prompt.wording == wording]]
            estimate = bootstrap_accuracy(own, range(len(own[0])))
            interval = [round(estimate.low, 4), round(estimate.high, 4)]
            row[f"{name}, {wording}"] = {"score": round(estimate.accuracy, 4), "ci95": interval, "n": len(own[0])}
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: what the diffusion model was given, how much of a token was explained, and what was right."""
    columns = [
        f"{name}, {wording}"
        for name in ("look", "position")
        for wording in WORDINGS
        if name == "look" or wording == "seen"
    ]
    lines = [f"| given | explained | {' | '.join(columns)} | share of its own look |"]
    lines.append(f"|---|--:|{'--:|' * len(columns)}--:|")
    best = [rows[0][f"look, {wording}"]["score"] for wording in WORDINGS]
    for row in rows:
        cells = []
        for column in columns:
            low, high = row[column]["ci95"]
            cells.append(f"{100 * row[column]['score']:.0f} [{100 * low:.0f}, {100 * high:.0f}]")
        share = " / ".join(
            f"{100 * row[f'look, {wording}']['score'] / one:.0f}" if one else ""
            for wording, one in zip(WORDINGS, best)
        )
        explained = row.get("explained_variance", {}).get("mean over channels")
        shown = "" if explained is None else f"{explained:.2f}"
        lines.append(f"| {row['features']} | {shown} | {' | '.join(cells)} | {share} |")
    note = (
        "% [95% interval over prompts] of one diffusion model and seed. look: shape and colour both right; explained: "
        "share of a channel's variance over tokens of unseen captions, the mean over channels. Last column: % of the "
        "first row, for seen / form / word."
    )
    return "\n".join([*lines, "", note]) + "\n"


def trained_with(encoder: GrantedModel, captions: Sequence[str]) -> GrantedModel:
    """What the diffusion model is trained with: an arm lets go of its trunk, so each has a model of its own."""
    model = feature_encoder(encoder, "norm_avg").requires_grad_(False)
    model.calibrate(captions[:CALIBRATION])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1500, help="captions that maps are fitted on")
    parser.add_argument("--prompts", type=int, default=60, help="of each wording")
    given = parser.parse_args()
    settings = DrawingSettings(encoders=[given.old], features=["norm_avg"], output=given.output)
    images = list(training_rows(settings.images, seed=settings.images_seed, size=SIDE))
    captions = [row["caption"] for row in images]
    name, encoder = load_encoder(given.old, EncoderOptions(device="cpu"))
    old, data = trained_with(encoder, captions), given.output / "images.parquet"
    if not data.exists():
        write_rows(images, data)
    prompts = scored_prompts(settings.prompts, seed=settings.images_seed)
    config = training_config(settings, Conditions(name, "norm_avg", old), data, given.output / "arm", 0)
    arm = KeptArm(config, trained_with(encoder, captions), prompts, {})
    arm.run()
    arm.choose(given.prompts)
    rows = read_json(given.output / "drawn.json") if (given.output / "drawn.json").exists() else []
    order = []
    for one in given_features(old, captions[: given.texts], given, Store(given.output / "features")):
        order.append(one.name)
        if one.name not in {row["features"] for row in rows}:
            rows.append(scored(one, arm.prompts, arm.draws(one)))
            print(table(rows), flush=True)  # noqa: T201
            write_json(given.output / "drawn.json", rows)
    rows.sort(key=lambda row: order.index(row["features"]))
    about = {
        "texts": given.texts,
        "prompts": given.prompts,
        "template": TEMPLATE,
        "layers": list(JOINED),
        "steps": settings.steps,
    }
    about |= {"versions": library_versions("granted", "torch", "transformers", "diffusers")}
    write_json(given.output / "adapt.json", {**about, "rows": rows})
    with atomic_path(given.output / "adapt.md") as temporary:
        temporary.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    run_as_command(main)
