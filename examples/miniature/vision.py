"""Teaches the vision tower of the miniature to see: what stands where, for every token of an image.

    teach_to_see(model, processor, images=36_000)

The tower of the real model comes pre-trained on images with text; this stands in for it, in minutes on two cores. The
truth is the drawing's, and the heads that answer are thrown away.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm
from transformers import ProcessorMixin, Qwen3VLForConditionalGeneration

from granted.dataset_builders.scenes.shapes.drawing import CELLS, MAX_LETTERS, Drawing, figure_state, render_image
from granted.dataset_builders.scenes.shapes.figure_tiles import LETTERS
from granted.dataset_builders.scenes.shapes.lexicon import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES
from granted.dataset_builders.scenes.shapes.sampling import shapes_in_split
from granted.dataset_builders.ted_6k.records import CATEGORIES


WORDS = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES, "background": BACKGROUNDS}
LOOKS = {name: tuple(kinds) for name, kinds in WORDS.items() if name != "background"}  # what a figure has
IN_IMAGES = [name for name in CATEGORIES if name not in ("Temporal", "Action Recognition")]


class Seen(nn.Module):
    """Linear answers for each visual token: what stands there, its looks, and the letters on it.

    What has a word is answered by the language model's embedding of the word, which is not trained here: a token comes
    to lie near the words for what it shows, as in a model whose tower has been aligned with text.
    """

    def __init__(self, words: dict[str, torch.Tensor]):
        super().__init__()
        width = next(iter(words.values())).shape[1]
        self.looks = nn.ModuleDict({name: nn.Linear(width, len(given)) for name, given in words.items()})
        for name, given in words.items():
            self.looks[name].weight = nn.Parameter(given, requires_grad=False)
        self.looks["presence"] = nn.Linear(width, 2)
        self.looks["place"] = nn.Linear(width, len(CELLS))  # text is far from an image: a token says where it is
        self.letters = nn.Linear(width, MAX_LETTERS * (len(LETTERS) + 1))  # in their order; the last class is none

    def loss(self, tokens: torch.Tensor, truth: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy of (B, T, D) tokens against labels (B, T), -1 where there is nothing to say."""
        losses = [
            F.cross_entropy(head(tokens).flatten(0, 1), truth[name].flatten(), ignore_index=-1)
            for name, head in self.looks.items()
        ]
        losses.append(F.cross_entropy(self.spell(tokens).flatten(0, 2), truth["letters"].flatten(), ignore_index=-1))
        return torch.stack(losses).sum()

    def spell(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of the letters over (B, T, D) tokens: (B, T, letters, alphabet + 1)."""
        return self.letters(tokens).unflatten(-1, (MAX_LETTERS, -1))


def teach_to_see(
    model: Qwen3VLForConditionalGeneration,
    processor: ProcessorMixin,
    *,
    images: int = 36_000,
    size: int = 96,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Train the vision tower in place on drawings of the training split.

    Args:
        model, processor: of [`build_miniature`].
        images (`int`, defaults to 36000): how many drawings, each seen once.
        size (`int`, defaults to 96): their pixels.
        batch_size (`int`, defaults to 32), learning_rate (`float`, defaults to 2e-3, falling to zero): of AdamW.
        seed (`int`, defaults to 0): of heads and drawings.

    Returns:
        `dict[str, float]`: for each property how often the tower is right about a figure, on 256 drawings not seen.
    """
    torch.manual_seed(seed)
    tower, heads = model.model.visual, Seen(word_embeddings(model, processor))
    parameters = [*tower.parameters(), *heads.parameters()]
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = max(1, images // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 50) * (1 - step / steps))
    for step in tqdm(range(steps), desc="learning to see", unit="batch"):
        drawings = [drawing_of(f"see/{seed}/{step * batch_size + i}") for i in range(batch_size)]
        outputs, truth = look(model, processor, drawings, size)
        # The deeper layers of the language model are given the tower's middle layers, too: they learn the same.
        sum(heads.loss(tokens, truth) for tokens in outputs).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        (tokens, *_), truth = look(model, processor, [drawing_of(f"seen/{seed}/{i}") for i in range(256)], size)
        right = {name: head(tokens).argmax(-1) == truth[name] for name, head in heads.looks.items()}  # (B, T) each
        right["letters"] = (heads.spell(tokens).argmax(-1) == truth["letters"]).all(-1)  # (B, T)
        present = truth["presence"] == 1  # (B, T)
        return {name: marks[present].float().mean().item() for name, marks in right.items()}


@torch.no_grad()
def word_embeddings(model: Qwen3VLForConditionalGeneration, processor: ProcessorMixin) -> dict[str, torch.Tensor]:
    """For each property the embeddings of what its kinds are called, averaged over synonyms and tokens: (kinds, D)."""
    table = model.get_input_embeddings().weight
    words = {}
    for name, kinds in WORDS.items():
        ids = [processor.tokenizer([f" {form}" for form in concept.forms])["input_ids"] for concept in kinds.values()]
        words[name] = torch.stack([torch.stack([table[one].mean(0) for one in forms]).mean(0) for forms in ids])
    return words


def drawing_of(name: str) -> Drawing:
    """An image of the training split."""
    rng = random.Random(name)
    return shapes_in_split(name, "training", "image", (rng.choice(IN_IMAGES),))[1]


def look(model, processor, drawings: list[Drawing], size: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """What the tower makes of images, of its last and its middle layers (B, T, D), and what stands there (B, T).

    Args:
        model, processor: a Qwen3-VL and its processor.
        drawings (`list[Drawing]`): what is rendered.
        size (`int`): height and width of the images in pixels.
    """
    pixels = processor.image_processor([render_image(drawing, size) for drawing in drawings], return_tensors="pt")
    output = model.model.visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
    outputs = [
        tokens.view(len(drawings), -1, tokens.shape[-1])  # (B, T, D)
        for tokens in (output.pooler_output, *output.deepstack_features)
    ]
    side = round(outputs[0].shape[1] ** 0.5)
    labels = [labels_of(drawing, side) for drawing in drawings]
    return outputs, {name: torch.stack([one[name] for one in labels]) for name in labels[0]}


def labels_of(drawing: Drawing, side: int) -> dict[str, torch.Tensor]:
    """For each of side x side tokens the figure over it: whether there is one, its looks, letters (or -1)."""
    truth = {name: torch.full((side * side,), -1) for name in LOOKS}  # (T,)
    truth["background"] = torch.full((side * side,), list(BACKGROUNDS).index(drawing.background))  # (T,)
    truth["presence"] = torch.zeros(side * side, dtype=torch.long)  # (T,)
    truth["place"] = torch.arange(side * side)  # (T,)
    truth["letters"] = torch.full((side * side, MAX_LETTERS), -1)  # (T, letters)
    for figure in drawing.figures:
        x, y, height = figure_state(figure, 0.0)
        for token in range(side * side):
            away = max(abs((token % side + 0.5) / side - x), abs((token // side + 0.5) / side - y))
            if away < height / 2 + 0.25 / side:
                truth["presence"][token] = 1
                for name, kinds in LOOKS.items():
                    truth[name][token] = kinds.index(getattr(figure, name))
                spelt = [LETTERS.index(letter) for letter in figure.letters]
                truth["letters"][token] = torch.tensor(spelt + [len(LETTERS)] * (MAX_LETTERS - len(spelt)))
    return truth
