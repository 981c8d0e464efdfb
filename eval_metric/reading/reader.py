"""The reader: a small decoder that fills in the answer sheet of a caption from its token features.

    reader = Reader(feature_width=576)
    answers = reader(features, mask, kinds)           # property -> (B, 10, values + 1)

It reads as a diffusion transformer does: by cross-attention to all token features. Its queries are the questions of
the sheet, so that nothing of the text comes to it but through the features.
"""

import torch
import torch.nn.functional as F
from torch import nn

from granted.eval_metric.reading.sheet import KINDS, PROPERTIES, QUERIES, UNTOLD, nothing


class Reader(nn.Module):
    """Three decoder layers of width 128 over projected token features.

    Args:
        feature_width (`int`): D of the token features.
        width (`int`, defaults to 128), num_layers (`int`, defaults to 3), num_heads (`int`, defaults to 4): its own.
    """

    def __init__(self, feature_width: int, width: int = 128, num_layers: int = 3, num_heads: int = 4):
        super().__init__()
        questions = len(QUERIES[KINDS[0]])
        self.queries = nn.Parameter(torch.randn(len(KINDS), questions, width))  # (kinds, 10, width)
        self.project = nn.Sequential(nn.Linear(feature_width, width), nn.LayerNorm(width))
        layer = nn.TransformerDecoderLayer(
            width, num_heads, 2 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(width))
        self.answers = nn.ModuleDict({name: nn.Linear(width, nothing(name) + 1) for name in PROPERTIES})

    def forward(self, features: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> dict[str, torch.Tensor]:
        """The answers' logits.

        Args:
            features (`torch.Tensor`): (B, N, D), fp32.
            mask (`torch.Tensor`): (B, N) bool, true at tokens.
            kinds (`torch.Tensor`): (B,) long, the number in `KINDS` of what is asked of each text.

        Returns:
            `dict[str, torch.Tensor]`: of each property (B, 10, values + 1), the last that there is nothing.
        """
        memory = self.project(features)  # (B, N, width)
        decoded = self.decoder(self.queries[kinds], memory, memory_key_padding_mask=~mask)  # (B, 10, width)
        return {name: answer(decoded) for name, answer in self.answers.items()}


def reading_loss(answers: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy, the mean over all answers that are told.

    Args:
        answers (`dict`): of [`Reader`].
        labels (`torch.Tensor`): (B, 10, P), `UNTOLD` where there is none.
    """
    losses = [
        F.cross_entropy(
            answers[name].flatten(0, 1), labels[..., number].flatten(), reduction="sum", ignore_index=UNTOLD
        )
        for number, name in enumerate(PROPERTIES)
    ]
    return torch.stack(losses).sum() / (labels != UNTOLD).sum()


def right_answers(answers: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Whether the likeliest values are right, (B, 10, P) bool; false where nothing is told."""
    guessed = torch.stack([answers[name][..., :-1].argmax(-1) for name in PROPERTIES], -1)  # (B, 10, P)
    return guessed == labels  # (B, 10, P)
