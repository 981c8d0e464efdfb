"""Token features of texts: every feature of an encoder from one run of its trunk, in memory or on the disk.

    found = encode_features(encoder, ["last", "norm_avg"], texts)        # feature -> TokenFeatures
    padded, mask = found["last"].batch([0, 5, 9])                       # (3, N, D), (3, N)
    cache = cache_features(encoder, ["last", "norm_avg"], texts, "features")    # the next time nothing is encoded
    cache.read("norm_avg", texts[0])                                            # (N_0, D)
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.feature_files import feature_identity
from granted.encoding.features import feature_encoder, feature_label, refuse_learned
from granted.modeling_granted import GrantedModel
from granted.modeling_text_input import length_sorted_batches
from granted.modeling_text_trunk import evaluating


TEXTS_PER_SHARD = 256


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

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Padded features (B, N, D) of some texts and their mask (B, N) bool."""
        return padded_rows([self.rows[i] for i in indices], device)


def padded_rows(rows: Sequence[torch.Tensor], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of token features (N_i, D), padded by zeros on the right to (B, N, D), and its mask (B, N) bool."""
    padded = pad_sequence(list(rows), batch_first=True).to(device)  # (B, N, D)
    lengths = torch.tensor([len(row) for row in rows], device=device)  # (B,)
    return padded, torch.arange(padded.shape[1], device=device) < lengths.unsqueeze(1)


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

    Raises:
        InputError: as of [`refuse_learned`].
    """
    refuse_learned(features)
    fusions = [feature_encoder(encoder, feature).fusion.to(encoder.input_device) for feature in features]
    token_ids = encoder.tokenize(texts)
    found: dict[str, list] = {feature: [None] * len(texts) for feature in features}
    with evaluating(encoder), tqdm(total=len(texts), desc=shown, unit="text", disable=not shown) as bar:
        for batch in length_sorted_batches([len(ids) for ids in token_ids], token_budget):
            input_ids, attention_mask = encoder.pad([token_ids[i] for i in batch])  # (B, N) each
            for feature, fused in zip(features, encoder.fuse(input_ids, attention_mask, fusions)):  # (B, N, D)
                encoder.check_finite(fused, attention_mask, lambda row, batch=batch: texts[batch[row]])
                for i, row, kept in zip(batch, fused, encoder.kept_tokens(attention_mask)):
                    found[feature][i] = row[kept].cpu()  # (N_i, D)
            bar.update(len(batch))
    return {feature: TokenFeatures(rows) for feature, rows in found.items()}


def feature_identities(encoder: GrantedModel, features: Sequence[str]) -> dict[str, dict]:
    """All that decides each feature of an encoder, see [`feature_identity`]."""
    fingerprint = encoder.fingerprint()
    return {feature: feature_identity(feature_encoder(encoder, feature), fingerprint) for feature in features}


def cache_features(
    encoder: GrantedModel,
    features: Sequence[str],
    texts: Iterable[str],
    folder: str | os.PathLike,
    token_budget: int = 8192,
    shown: str = "",
) -> EmbeddingCache:
    """All features of texts on the disk, under the features' labels; texts that are there are not encoded again.

    Args:
        encoder ([`GrantedModel`]), features (`list[str]`), token_budget (`int`): as of [`encode_features`].
        texts (`Iterable[str]`): what is read; each once.
        folder (`str`): gets a folder for this encoder and these features.
        shown (`str`): name of the progress bar; there is none without.
    """
    identity = {feature_label(feature): own for feature, own in feature_identities(encoder, features).items()}
    cache = EmbeddingCache(Path(folder) / identity_hash(identity), identity)
    missing = cache.missing(list(texts))
    with tqdm(total=len(missing), desc=shown, unit="text", disable=not shown) as bar:
        for start in range(0, len(missing), TEXTS_PER_SHARD):
            part = missing[start : start + TEXTS_PER_SHARD]
            found = encode_features(encoder, features, part, token_budget)
            cache.append(part, {feature_label(one): found[one].rows for one in features})
            bar.update(len(part))
    return cache
