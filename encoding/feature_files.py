"""Fused features on disk: the texts of a file encoded once, under all that decides their content.

    encode_file("encoder", "captions.txt", "features")
    EmbeddingCache("features", feature_identity(encoder)).read("features", "a red cube")     # (N, D) or (K, N, D)

Tiny, on CPU: `granted encode checkpoints/tiny/granted texts.txt --output features`.
"""

import os

from tqdm.auto import tqdm

from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.loading import EncoderOptions, load_encoder
from granted.modeling_fingerprint import weights_hash
from granted.modeling_granted import GrantedModel
from granted.modeling_pipeline_rules import pipeline_rule
from granted.utils.errors import InputError
from granted.utils.files import read_texts


def encode_file(
    spec: str,
    texts_file: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    fusion: str | None = None,
    layer_index: int | None = None,
    pipeline: str | None = None,
    options: EncoderOptions | None = None,
    max_length: int | None = None,
    token_budget: int = 8192,
    batch_texts: int = 256,
) -> tuple[int, int]:
    """Encode the lines of a file into an [`EmbeddingCache`] under the name `features`.

    Args:
        spec (`str`): the encoder, see [`load_encoder`].
        texts_file (`str`): UTF-8, one text a line; empty lines are none.
        output_dir (`str`): the cache's folder.
        fusion (`str`, *optional*), layer_index (`int`, *optional*): of a plain encoder, `"norm_avg"` by default; a
            saved model has its own.
        pipeline (`str`, *optional*): the name of a stock pipeline, as which a plain encoder is read; features of
            several states are (K, N, D).
        options ([`EncoderOptions`], *optional*): how and where the encoder is loaded.
        max_length (`int`, *optional*): most tokens read of a text.
        token_budget (`int`, defaults to 8192): most tokens, padding included, of a batch.
        batch_texts (`int`, defaults to 256): texts of a shard.

    Returns:
        Texts encoded now, and texts in the cache.

    Raises:
        InputError: the file is missing, not UTF-8 or has no text; the encoder cannot be loaded or is a saved model
            with another fusion than the one asked for; the pipeline is not known, or reads layers that are not there;
            the folder holds the features of another encoder.
    """
    texts = read_texts(texts_file)
    asked = {name: value for name, value in (("fusion", fusion), ("layer_index", layer_index)) if value is not None}
    if pipeline is not None:
        try:
            pipeline_rule(pipeline)
        except ValueError as error:
            raise InputError(str(error)) from error
    usual = {"fusion": "norm_avg"} if pipeline is None else {}
    name, encoder = load_encoder(spec, options, max_length=max_length, pipeline=pipeline, **usual | asked)
    for option, value in asked.items():
        if getattr(encoder.config, option) != value:
            raise InputError(
                f"got {option} {value} for {name}, a saved model with {option} {getattr(encoder.config, option)}, "
                "expected its own: leave the option out, or name the plain encoder"
            )
    cache = EmbeddingCache(output_dir, feature_identity(encoder))
    missing = cache.missing(texts)
    with tqdm(total=len(missing), desc=f"encoding by {name}", unit="text", disable=not missing) as bar:
        for start in range(0, len(missing), batch_texts):
            part = missing[start : start + batch_texts]
            features = encoder.encode(part, token_budget=token_budget, show_progress=False)  # ([K,] N_i, D) each
            cache.append(part, {"features": features})
            bar.update(len(part))
    return len(missing), len(cache)


def feature_identity(encoder: GrantedModel, fingerprint: str | None = None) -> dict:
    """All that decides the fused features of an encoder, as the identity of an [`EmbeddingCache`] of them.

    Args:
        encoder ([`GrantedModel`]): with the fusion that makes the features.
        fingerprint (`str`, *optional*): its own, where it is known already: weights of many gigabytes take a while.
    """
    identity = {
        "encoder": fingerprint or encoder.fingerprint(),
        "fusion": encoder.config.fusion_options(),
        "layer weights": encoder.layer_weights.tolist(),
    }
    for name in ("standardization", "projection"):
        if hasattr(encoder, name):
            identity[name] = weights_hash(getattr(encoder, name))
    return identity
