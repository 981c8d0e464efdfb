"""Fused features on disk: the texts of a file encoded once, under all that decides their content.

    encode_file("encoder", "captions.txt", "features")
    EmbeddingCache("features", feature_identity(encoder)).read("features", "a red cube")     # (N, D)

Tiny, on CPU: `granted encode results/tiny/granted texts.txt --output features`.
"""

import os

from tqdm.auto import tqdm

from granted.embedding_cache import EmbeddingCache
from granted.encoding.loading import EncoderOptions, load_encoder
from granted.errors import InputError
from granted.files import read_lines
from granted.modeling_fingerprint import weights_hash
from granted.modeling_granted import GrantedModel


def encode_file(
    spec: str,
    texts_file: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    fusion: str = "norm_avg",
    layer_index: int = -1,
    options: EncoderOptions | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    batch_texts: int = 256,
) -> tuple[int, int]:
    """Encode the lines of a file into an [`EmbeddingCache`] under the name `features`.

    Returns:
        Texts encoded now, and texts in the cache.

    Raises:
        InputError: the file is missing, not UTF-8 or has no text; the encoder cannot be loaded; the folder holds the
            features of another encoder.
    """
    texts = [line for line in read_lines(texts_file) if line.strip()]
    if not texts:
        raise InputError(f"got no text in {texts_file}, expected one a line")
    name, encoder = load_encoder(spec, options, max_length=max_length, fusion=fusion, layer_index=layer_index)
    cache = EmbeddingCache(output_dir, feature_identity(encoder))
    missing = cache.missing(texts)
    with tqdm(total=len(missing), desc=f"encoding by {name}", unit="text", disable=not missing) as bar:
        for start in range(0, len(missing), batch_texts):
            part = missing[start : start + batch_texts]
            features = encoder.encode(part, token_budget=token_budget, show_progress=False)  # (N_i, D) each
            cache.append(part, {"features": features})
            bar.update(len(part))
    return len(missing), len(cache)


def feature_identity(encoder: GrantedModel) -> dict:
    """All that decides the fused features of an encoder, as the identity of an [`EmbeddingCache`] of them."""
    identity = {
        "encoder": encoder.fingerprint(),
        "fusion": encoder.config.fusion_options(),
        "layer weights": encoder.layer_weights.tolist(),
    }
    if encoder.config.projection_dim is not None:
        identity["projection"] = weights_hash(encoder.projection)
    return identity
