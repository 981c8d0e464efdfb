"""Token features of texts: every feature of an encoder from one run of its trunk, standardised for a reader.

found = encode_features(encoder, ["last", "norm_avg"], texts)        # feature -> TokenFeatures
padded, mask = found["last"].batch([0, 5, 9])                       # (3, N, D), (3, N)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from granted.encoding.features import feature_encoder
from granted.eval_metric.reading.examples import Example
from granted.eval_metric.reading.sheet import CLASSES, PROPERTIES, UNTOLD, nothing
from granted.modeling_granted import GrantedModel, evaluating, length_sorted_batches


@dataclass
class TokenFeatures:
    """The token features of texts: `rows[i]` is (N_i, D) fp32."""

    rows: list[torch.Tensor]

    @property
    def width(self) -> int:
        """D."""
        return self.rows[0].shape[-1]

    def standardized(self, count: int) -> "TokenFeatures":
        """With mean 0 and deviation 1 in every channel over the tokens of the first `count` texts.

        Channels of large constant value would else decide how fast a reader learns.
        """
        tokens = torch.cat(self.rows[:count])  # (sum N_i, D)
        mean, deviation = tokens.mean(0), tokens.std(0)  # (D,) each
        deviation[deviation < 1e-6] = 1  # a channel that never varies is only centred
        return TokenFeatures([(row - mean) / deviation for row in self.rows])

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded features (B, N, D) of some texts and their mask (B, N) bool."""
        padded = pad_sequence([self.rows[i] for i in indices], batch_first=True)  # (B, N, D)
        lengths = torch.tensor([len(self.rows[i]) for i in indices])  # (B,)
        return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)


@torch.no_grad()
def encode_features(
    encoder: GrantedModel, features: Sequence[str], texts: Sequence[str], token_budget: int = 8192, shown: str = ""
) -> dict[str, TokenFeatures]:
    """All features of texts from one run of the trunk, length-sorted; on the CPU, without dropped template tokens.

    Args:
        encoder ([`GrantedModel`]): its trunk is read.
        features (`list[str]`): names as of `granted.encoding.features`.
        texts (`list[str]`): what is read.
        token_budget (`int`, defaults to 8192): most tokens, padding included, of a batch.
        shown (`str`): name of the progress bar; there is none without.
    """
    fusions = [feature_encoder(encoder, feature).fusion.to(encoder.input_device) for feature in features]
    token_ids = encoder.tokenize(texts)
    found: dict[str, list] = {feature: [None] * len(texts) for feature in features}
    drop = encoder.config.template_drop_tokens
    with evaluating(encoder), tqdm(total=len(texts), desc=shown, unit="text", disable=not shown) as bar:
        for batch in length_sorted_batches([len(ids) for ids in token_ids], token_budget):
            input_ids, attention_mask = encoder.pad([token_ids[i] for i in batch])  # (B, N) each
            for feature, fused in zip(features, encoder.fuse(input_ids, attention_mask, fusions)):  # (B, N, D)
                encoder.check_finite(fused, attention_mask, lambda row, batch=batch: texts[batch[row]])
                for i, row, mask in zip(batch, fused, attention_mask.bool()):
                    found[feature][i] = row[mask][drop:].cpu()  # (N_i, D)
            bar.update(len(batch))
    return {feature: TokenFeatures(rows) for feature, rows in found.items()}


def scene_features(examples: Sequence[Example]) -> TokenFeatures:
    """The facts themselves as features, a token each: the ceiling, an encoder without fault."""
    return TokenFeatures([torch.stack([_one_hot(fact) for fact in _all_facts(example)]) for example in examples])


def _all_facts(example: Example) -> list[tuple[int, int, int]]:
    """Query, property and answer of everything that is told."""
    labels = example.sheet.labels  # (10, P)
    told = (labels != UNTOLD) & (labels != torch.tensor([nothing(name) for name in PROPERTIES]))  # (10, P)
    return [(query, name, int(labels[query, name])) for query, name in told.nonzero().tolist()]


def _one_hot(fact: tuple[int, int, int]) -> torch.Tensor:
    sizes = (10, len(CLASSES), max(map(len, CLASSES.values())))
    return torch.cat([torch.nn.functional.one_hot(torch.tensor(i), n) for i, n in zip(fact, sizes)]).float()
