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
        self.layers: EmbeddingCache | None = None
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
        if self.cache is not None:
            rows = [self.cache.read("features", text) for text in texts]  # (N_i, D) each
        else:
            rows = self._encode(texts) if self.layers is None else self._sum_layers(texts)  # (N_i, D) each
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

    def _sum_layers(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """As `_encode`, from stored layers."""
        rows = [self.layers.read("features", text) for text in texts]  # (N_i, L * D) each
        padded, mask = padded_rows(rows, self.accelerator.device)  # (B, N, L * D), (B, N)
        count = self.encoder.config.num_hidden_layers + self.encoder.config.embeddings
        layers = padded.unflatten(-1, (count, -1)).transpose(1, 2)  # (B, L, N, D)
        fused = self.encoder.finish(self.encoder.fusion(layers, mask), mask)  # (B, N, D) or (B, K, N, D)
        return [row[own] for row, own in zip(side_by_side(fused), mask)]  # (N_i, D or K * D) each

    def warn_truncation(self, texts: Iterable[str]) -> None:
        """Warn once with the number of texts that are longer than what is read of them."""
        self.encoder.tokenize([text for text in texts if text], self.max_sequence_length)

    def store_layers(self, texts: Iterable[str], folder: str | os.PathLike) -> None:
        """Run the trunk once for each text and keep all its layers on the disk; `embed` sums them until `freeze`.

        For few, short texts, which take L times the space of their features. The gradient of the layer weights is the
        same.

        Args:
            texts (`Iterable[str]`): all that are asked for until then.
            folder (`str`): as of `freeze`.

        Raises:
            InputError: there is not enough space on the disk.
            ValueError: the fusion normalises over all tokens of a text, also those that are not stored.
        """
        if self.encoder.fusion.options.norm() == "range":
            raise ValueError("got a fusion with layer_norm='range', expected a norm of each token by itself")
        options = self.encoder.config.fusion_options() | {"fusion": "stack", "layers": None, "layer_norm": "none"}
        options |= {"num_outputs": None, "standardize": False, "projection_dim": None, "output_dtype": None}
        stack = GrantedModel.from_loaded(self.encoder.encoder, self.encoder.tokenizer, **options)
        self.layers = self._filled_cache(stack, texts, folder, "encoding layers")

    def freeze(self, texts: Iterable[str], folder: str | os.PathLike) -> None:
        """Encode all texts that will be asked for into a cache, read from it from now on, and free the trunk.

        A cache of the same encoder and weights is gone on with; each process encodes its share.

        Args:
            texts (`Iterable[str]`): may be a stream; the same in every process.
            folder (`str`): holds a folder per identity.

        Raises:
            InputError: there is not enough space on the disk.
        """
        self.cache = self._filled_cache(self.encoder, texts, folder, "encoding captions")
        del self.encoder.encoder  # the trunk, wherever else the fused model is held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _filled_cache(
        self, encoder: GrantedModel, texts: Iterable[str], folder: str | os.PathLike, shown: str
    ) -> EmbeddingCache:
        """The features of all texts by an encoder; each process encodes its share of those that are missing."""
        identity = feature_identity(encoder)
        identity["fusion"]["max_sequence_length"] = self.max_sequence_length  # as of an encoder with this limit
        place = Path(folder) / identity_hash(identity)
        with self.accelerator.main_process_first():
            cache = EmbeddingCache(place, identity)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        stream = iter(dict.fromkeys(texts))
        self.accelerator.wait_for_everyone()  # each has read what is there before any adds to it
        with tqdm(desc=shown, unit="text", disable=not self.accelerator.is_main_process) as bar:
            for number, part in enumerate(iter(lambda: list(islice(stream, TEXTS_PER_SHARD)), [])):
                missing = cache.missing(part)
                if missing and number % processes == rank:
                    features = self._encode_many(encoder, missing)  # (N_i, D) each
                    self._check_space(place, features, len(missing))
                    cache.append(missing, {"features": features})
                bar.update(len(part))
        self.accelerator.wait_for_everyone()
        return EmbeddingCache(place, identity)

    @torch.no_grad()
    def _encode_many(self, encoder: GrantedModel, texts: Sequence[str]) -> list[torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            limits = {"max_sequence_length": self.max_sequence_length, "token_budget": self.token_budget}
            rows = encoder.encode(texts, **limits, show_progress=False, allow_empty=True)  # ([K,] N_i, D) each
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
