"""The contrastive loss over caption pairs (Section 3.3), on one process or many, and the aggregators that it trains.

    heads = AggregatorGroup({"norm_avg": aggregator})
    embeddings = heads(encoder, captions_a + captions_b, token_budget=8192)["norm_avg"]     # (2B, context_dim)
    contrastive_loss(embeddings, torch.arange(2 * B), num_pairs=B)
"""

import hashlib
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.token_features import padded_rows
from granted.modeling_context_aggregator import ContextAggregator
from granted.modeling_granted import GrantedModel
from granted.modeling_layer_fusion import LayerFusion
from granted.modeling_text_input import length_sorted_batches


def contrastive_loss(
    embeddings: torch.Tensor, text_ids: torch.Tensor, num_pairs: int, temperature: float = 0.07
) -> torch.Tensor:
    """InfoNCE over the 2B texts of B pairs: each text's partner is its positive, every other text a negative.

    Args:
        embeddings (`torch.Tensor`): (2B + K, D): captions a, captions b, then K further texts that are only negatives.
        text_ids (`torch.Tensor`): (2B + K,) equal where the texts are equal, -1 at rows to leave out. A negative whose
            text is that of the anchor or of its partner is no negative and is masked.
        num_pairs (`int`): B.
        temperature (`float`, defaults to 0.07): divides the cosines.

    Returns:
        Mean over the 2B anchors, in fp32; log(N) for N equal candidates. Source: Section 3.3.
    """
    z = F.normalize(embeddings.float(), dim=-1)  # (2B + K, D)
    anchors = 2 * num_pairs
    logits = z[:anchors] @ z.T / temperature  # (2B, 2B + K)
    partner = torch.arange(anchors, device=z.device).roll(num_pairs)  # (2B,)
    same = text_ids[:anchors, None] == text_ids[None]  # (2B, 2B + K)
    masked = same | same[partner] | (text_ids == -1)  # (2B, 2B + K)
    masked = masked.scatter(1, partner[:, None], False)
    return F.cross_entropy(logits.masked_fill(masked, -torch.inf), partner)


def text_id(text: str) -> int:
    """A 63-bit number that stands for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class AggregatorGroup(nn.Module):
    """All aggregators of a run, fed by one pass of the encoder."""

    def __init__(self, heads: dict[str, ContextAggregator]):
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(
        self,
        encoder: GrantedModel,
        texts: list[str],
        token_budget: int,
        recompute: bool = True,
        cache: EmbeddingCache | None = None,
    ):
        """Context embeddings of `texts` by every head, a dict of (len(texts), context_dim).

        Args:
            encoder ([`GrantedModel`]): reads the texts.
            texts (`list[str]`): one of each embedding.
            token_budget (`int`): most tokens of a batch, padding included.
            recompute (`bool`, defaults to `True`): as of [`GrantedModel.fuse`].
            cache ([`EmbeddingCache`], *optional*): features are read from it and the encoder is not run.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training has warned once of texts that are cut
            token_ids = encoder.tokenize(texts)
        batches = length_sorted_batches([len(ids) for ids in token_ids], token_budget)
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in self.heads}
        for batch in batches:
            if cache is None:
                _, embeddings = self.embed(encoder, *encoder.pad([token_ids[i] for i in batch]), recompute)
            else:
                embeddings = self.embed_cached(cache, [texts[i] for i in batch], encoder.input_device)
            for name, embedding in embeddings.items():
                rows[name].append(embedding)  # (b, context_dim)
        order = torch.tensor(
            [i for batch in batches for i in batch], device=encoder.input_device
        ).argsort()  # (texts,)
        return {name: torch.cat(parts)[order] for name, parts in rows.items()}

    def embed_cached(self, cache: EmbeddingCache, texts: list[str], device: torch.device) -> dict[str, torch.Tensor]:
        """The context embedding (b, context_dim) of each head, from features on the disk."""
        embeddings = {}
        for feature in dict.fromkeys(head.config.feature for head in self.heads.values()):
            features, mask = padded_rows([cache.read(feature, text) for text in texts], device)  # (b, n, D), (b, n)
            for name, head in self.heads.items():
                if head.config.feature == feature:
                    embeddings[name] = head(features, attention_mask=mask.long()).context_embedding  # (b, context_dim)
        return embeddings

    def embed(self, encoder: GrantedModel, input_ids, attention_mask, recompute: bool = True):
        """One padded batch through the encoder, once, and through every head, without the template's dropped tokens.

        Args:
            encoder ([`GrantedModel`]): reads the tokens.
            input_ids, attention_mask (`torch.Tensor` of shape `(b, n)`): the batch.
            recompute (`bool`, defaults to `True`): as of [`GrantedModel.fuse`].

        Returns:
            The fused features (b, n, D) each head reads, and the context embedding (b, context_dim) of each head,
            by head. Heads of one fixed feature share one tensor.
        """
        fusions: dict[str, LayerFusion] = {}
        for name, head in self.heads.items():
            fusions.setdefault(self.feature_key(name), head.fusion)
        # The features are the encoder's own, whatever precision the heads run in.
        with torch.autocast(input_ids.device.type, enabled=False):
            fused = encoder.fuse(input_ids, attention_mask, list(fusions.values()), recompute=recompute)
        mask = attention_mask * encoder.kept_tokens(attention_mask)  # (b, n)
        fused = [feature * mask.unsqueeze(-1) for feature in fused]  # (b, n, D) each
        of_key = dict(zip(fusions, fused))
        features = {name: of_key[self.feature_key(name)] for name in self.heads}
        embeddings = {
            name: head(features[name], attention_mask=mask).context_embedding  # (b, context_dim)
            for name, head in self.heads.items()
        }
        return features, embeddings

    def feature_key(self, name: str) -> str:
        """The feature that a head reads: its name, or the head's own where layer weights are learned."""
        head = self.heads[name]
        return name if head.fusion.fusion == "learned" else head.config.feature


def batch_loss(embeddings: torch.Tensor, ids: torch.Tensor, num_pairs: int, temperature: float, accelerator):
    """The loss over the pairs of all processes, the same on each, differentiable in this process's embeddings.

    Every process computes the whole loss. Its gradient in a process's own embeddings is then complete, as row and as
    column; data-parallel averaging divides by the number of processes, which the factor undoes.

    Args:
        embeddings (`torch.Tensor` of shape `(size, D)`): of this process: captions a, captions b, further negatives.
        ids (`torch.Tensor` of shape `(size,)`): as `text_ids` of [`contrastive_loss`].
        num_pairs (`int`): of this process.
        temperature (`float`): of the loss.
        accelerator (`Accelerator`): gathers over processes.
    """
    if accelerator.num_processes == 1:
        return contrastive_loss(embeddings, ids, num_pairs, temperature)
    size = embeddings.shape[0]
    everyone = accelerator.gather(embeddings.detach())  # (W * size, D)
    all_ids = accelerator.gather(ids)  # (W * size,)
    start = accelerator.process_index * size
    everyone = torch.cat([everyone[:start], embeddings, everyone[start + size :]])  # (W * size, D)
    # From process by process to: all captions a, all captions b, all further negatives.
    grid = torch.arange(everyone.shape[0], device=everyone.device).view(-1, size)  # (W, size)
    a, b, rest = grid[:, :num_pairs], grid[:, num_pairs : 2 * num_pairs], grid[:, 2 * num_pairs :]
    order = torch.cat([a.flatten(), b.flatten(), rest.flatten()])  # (W * size,)
    world = accelerator.num_processes
    loss = contrastive_loss(everyone[order], all_ids[order], world * num_pairs, temperature)
    return loss * world
