"""What the diffusion model reads: captions as fused features with masks, from the encoder or from the disk.

    conditioning = Conditioning(encoder, accelerator)
    embeds, mask = conditioning.embed(["a red cube", ""])     # (B, N, D), (B, N); gradients reach the layer weights
    conditioning.freeze(captions, "run/embeddings")           # constant from here on: encoded once, trunk freed
    embeds, mask = conditioning.embed(["a red cube", ""])     # the same, read from the disk

The cache is the one that `granted encode` writes ([`EmbeddingCache`], name `features`), in a folder named by all that
decides its content, so that embeddings of other weights cannot be read.
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.feature_files import feature_identity
from granted.encoding.token_features import padded_rows
from granted.modeling_granted import GrantedModel
from granted.pipeline_blocks import side_by_side
from granted.utils.errors import InputError


TEXTS_PER_SHARD = 256


class Conditioning:
    """Texts in, padded features and mask out, on the device of the run.

    Args:
        encoder ([`GrantedModel`]): with a frozen trunk.
        accelerator (`Accelerator`): names the device and splits the encoding over processes.
        max_sequence_length (`int`, *optional*): most tokens read of a text, the template's included; the encoder's own
            limit by default. It is the run's: the encoder keeps its own.
        recompute (`bool`, defaults to `True`): while the layer weights learn, get their gradient from a second run of
            the trunk, at the memory of inference; `False` keeps the layers of a batch: faster where they fit.
        token_budget (`int`, defaults to 8192): most tokens of a batch while the cache is filled.

    Raises:
        InputError: an untrained projection, or a limit that leaves nothing of a text.
    """

    def __init__(
        self,
        encoder: GrantedModel,
        accelerator: Accelerator,
        *,
        max_sequence_length: int | None = None,
        recompute: bool = True,
        token_budget: int = 8192,
    ):
        self.encoder = encoder
        self.accelerator = accelerator
        self.recompute = recompute
        self.token_budget = token_budget
        self.cache: EmbeddingCache | None = None
        self.max_sequence_length = max_sequence_length or encoder.config.max_sequence_length
        if self.max_sequence_length <= encoder.config.dropped_tokens.stop:
            raise InputError(
                f"got max_sequence_length={self.max_sequence_length}, expected more than the "
                f"{encoder.config.dropped_tokens.stop} tokens of the template that come first: raise it"
            )
        if encoder.config.projection_dim is not None and not encoder.config.projection_trained:
            raise InputError(
                "got an encoder with an untrained projection, expected none: the diffusion model is made for the "
                "encoder's own width, build it without projection_dim"
            )

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, N, D), zeros at padding, which is on the right, and their mask (B, N).

        Of K fusions (B, N, K * D). Without template tokens that the configuration drops; the same whether encoded now
        or read from the disk.
        """
        cached = self.cache is not None
        rows = [self.cache.read("features", text) for text in texts] if cached else self._encode(texts)  # (N_i, D)
        embeds, mask = padded_rows(rows, self.accelerator.device)  # (B, N, D), (B, N)
        return embeds, mask.long()

    def _encode(self, texts: Sequence[str]) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `warn_truncation` has warned once for the run
            token_ids = self.encoder.tokenize(list(texts), self.max_sequence_length, allow_empty=True)
        input_ids, attention_mask = self.encoder.pad(token_ids)  # (B, N) each
        output = self.encoder(input_ids, attention_mask, recompute=self.recompute)
        rows = side_by_side(output.last_hidden_state)  # (B, N, D) or (B, N, K * D)
        kept = self.encoder.kept_tokens(attention_mask)  # (B, N)
        return [row[own] for row, own in zip(rows, kept)]  # (N_i, D or K * D) each

    def warn_truncation(self, texts: Iterable[str]) -> None:
        """Warn once with the number of texts that are longer than what is read of them."""
        self.encoder.tokenize([text for text in texts if text], self.max_sequence_length)

    def freeze(self, texts: Iterable[str], folder: str | os.PathLike) -> None:
        """Encode all texts that will be asked for into a cache, read from it from now on, and free the trunk.

        A cache of the same encoder and weights is gone on with; each process encodes its share.

        Args:
            texts (`Iterable[str]`): may be a stream; the same in every process.
            folder (`str`): holds a folder per identity.

        Raises:
            InputError: there is not enough space on the disk.
        """
        identity = feature_identity(self.encoder)
        identity["fusion"]["max_sequence_length"] = self.max_sequence_length  # as of an encoder with this limit
        place = Path(folder) / identity_hash(identity)
        with self.accelerator.main_process_first():
            cache = EmbeddingCache(place, identity)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        shown = self.accelerator.is_main_process
        stream = iter(dict.fromkeys(texts))
        self.accelerator.wait_for_everyone()  # each has read what is there before any adds to it
        with tqdm(desc="encoding captions", unit="text", disable=not shown) as bar:
            for number, part in enumerate(iter(lambda: list(islice(stream, TEXTS_PER_SHARD)), [])):
                missing = cache.missing(part)
                if missing and number % processes == rank:
                    features = self._encode_many(missing)  # (N_i, D) each
                    self._check_space(place, features, len(missing))
                    cache.append(missing, {"features": features})
                bar.update(len(part))
        self.accelerator.wait_for_everyone()
        self.cache = EmbeddingCache(place, identity)
        del self.encoder.encoder  # the trunk, wherever else the fused model is held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _encode_many(self, texts: Sequence[str]) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limits = {"max_sequence_length": self.max_sequence_length, "token_budget": self.token_budget}
            rows = self.encoder.encode(texts, **limits, show_progress=False, allow_empty=True)  # ([K,] N_i, D) each
        return [side_by_side(row[None])[0] for row in rows]  # (N_i, D) or (N_i, K * D) each

    def _check_space(self, place: Path, features: list[torch.Tensor], count: int) -> None:
        needed = sum(row.numel() * row.element_size() for row in features)
        free = shutil.disk_usage(place).free
        if free < 2 * needed:
            raise InputError(
                f"got {free / 2**30:.1f} GiB free at {place}, expected space for embeddings of "
                f"{needed / count / 2**10:.0f} KiB a caption: free some, choose another cache_dir, or set cache "
                "to false"
            )
