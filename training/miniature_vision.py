"""Teaches the vision tower of the miniature to see: what stands where, for every token of a picture.

    teach_to_see(model, processor, pictures=60_000)

The tower of the real model comes pre-trained on images with text; this stands in for it, in minutes on two cores. The
truth is the drawing's, and the heads that answer are thrown away.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers import ProcessorMixin, Qwen3VLForConditionalGeneration

from granted.dataset_builders.scenes.shapes.benchmark import shapes_in_split
from granted.dataset_builders.scenes.shapes.drawing import Drawing, figure_state, render_image
from granted.dataset_builders.scenes.shapes.figure_tiles import LETTERS
from granted.dataset_builders.scenes.shapes.lexicon import COLOURS, SHAPES, SIZES, TEXTURES
from granted.dataset_builders.ted_6k.records import CATEGORIES


LOOKS = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": tuple(TEXTURES)}
IN_PICTURES = [name for name in CATEGORIES if name not in ("Temporal", "Action Recognition")]


class Seen(nn.Module):
    """Linear answers for each visual token: what stands there, its looks, and the letters on it."""

    def __init__(self, width: int):
        super().__init__()
        # One class more of shapes: nothing stands there.
        self.looks = nn.ModuleDict({name: nn.Linear(width, len(kinds) + 1) for name, kinds in LOOKS.items()})
        self.letters = nn.Linear(width, len(LETTERS))

    def loss(self, tokens: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of (B, T, D) tokens against labels (B, T), -1 where there is nothing to say."""
        losses = [
            F.cross_entropy(head(tokens).flatten(0, 1), truth[name].flatten(), ignore_index=-1)
            for name, head in self.looks.items()
        ]
        there = truth["colour"] >= 0  # (B, T)
        losses.append(F.binary_cross_entropy_with_logits(self.letters(tokens[there]), truth["letters"][there]) * 4)
        return torch.stack(losses).sum()


def teach_to_see(
    model: Qwen3VLForConditionalGeneration,
    processor: ProcessorMixin,
    *,
    pictures: int = 60_000,
    size: int = 64,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Train the vision tower in place on drawings of the training split.

    Args:
        model, processor: of [`build_miniature`].
        pictures (`int`, defaults to 60000): how many drawings, each seen once.
        size (`int`, defaults to 64): their pixels.
        batch_size (`int`, defaults to 32), learning_rate (`float`, defaults to 2e-3, falling to zero): of AdamW.
        seed (`int`, defaults to 0): of heads and drawings.

    Returns:
        `dict[str, float]`: for each property how often the tower is right about a figure, on 256 drawings not seen.
    """
    torch.manual_seed(seed)
    tower, heads = model.model.visual, Seen(model.config.text_config.hidden_size)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = max(1, pictures // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / steps))
    for step in tqdm(range(steps), desc="learning to see", unit="batch"):
        drawings = [drawing_of(f"see/{seed}/{step * batch_size + i}") for i in range(batch_size)]
        tokens, truth = look(model, processor, drawings, size)
        loss = heads.loss(tokens, truth)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        tokens, truth = look(model, processor, [drawing_of(f"seen/{seed}/{i}") for i in range(256)], size)
        right = {name: head(tokens).argmax(-1) == truth[name] for name, head in heads.looks.items()}  # (B, T) each
        there = truth["colour"] >= 0  # (B, T)
        return {name: marks[there].float().mean().item() for name, marks in right.items()}


def drawing_of(name: str) -> Drawing:
    """A picture of the training split."""
    rng = random.Random(name)
    return shapes_in_split(name, "training", "image", (rng.choice(IN_PICTURES),))[1]


def look(model, processor, drawings: list[Drawing], size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What the tower makes of pictures (B, T, D), and for each token what stands there (B, T)."""
    pixels = processor.image_processor([render_image(drawing, size) for drawing in drawings], return_tensors="pt")
    output = model.model.visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
    tokens = output.pooler_output.view(len(drawings), -1, output.pooler_output.shape[-1])  # (B, T, D)
    side = round(tokens.shape[1] ** 0.5)
    labels = [labels_of(drawing, side) for drawing in drawings]
    return tokens, {name: torch.stack([one[name] for one in labels]) for name in labels[0]}


def labels_of(drawing: Drawing, side: int) -> dict[str, torch.Tensor]:
    """For each of side x side tokens the figure over it: shape (the last class is none), looks (-1), letters."""
    truth = {name: torch.full((side * side,), -1) for name in LOOKS}  # (T,)
    truth["shape"].fill_(len(LOOKS["shape"]))
    truth["letters"] = torch.zeros(side * side, len(LETTERS))  # (T, letters)
    for figure in drawing.figures:
        x, y, height = figure_state(figure, 0.0)
        for token in range(side * side):
            away = max(abs((token % side + 0.5) / side - x), abs((token // side + 0.5) / side - y))
            if away < height / 2 + 0.25 / side:
                for name, kinds in LOOKS.items():
                    truth[name][token] = kinds.index(getattr(figure, name))
                for letter in figure.letters:
                    truth["letters"][token, LETTERS.index(letter)] = 1
    return truth
