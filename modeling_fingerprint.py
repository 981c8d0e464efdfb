"""What an encoder's layers depend on, as one hash: caches and aggregators of another encoder are recognised by it.

Tiny: tests/test_modeling_granted.py. Ships to the Hub; imports nothing but torch and transformers.
"""

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.integrations.accelerate import load_offloaded_parameter


def encoder_fingerprint(
    encoder: nn.Module,
    encoder_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    last_layer: str,
    dtype: torch.dtype,
) -> str:
    """SHA-256 of all that decides an encoder's layers: weights, configuration, dtype and tokenizer.

    Args:
        encoder (`nn.Module`): the weights.
        encoder_config (`PreTrainedConfig`), tokenizer (`PreTrainedTokenizerBase`): its own.
        last_layer (`str`): as of [`GrantedConfig`].
        dtype (`torch.dtype`): it computes in.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(_without_provenance(encoder_config.to_dict()), sort_keys=True).encode())
    digest.update(f"{last_layer} {dtype}".encode())
    digest.update(_tokenizer_rules(tokenizer).encode())
    _add_weights(digest, encoder)
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's weights, by name."""
    digest = hashlib.sha256()
    _add_weights(digest, module)
    return digest.hexdigest()


def _add_weights(digest, module: nn.Module) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_meta:  # offloaded by accelerate
            tensor = load_offloaded_parameter(module, name)
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _without_provenance(described: dict) -> dict:
    """A configuration without where it is from and which library wrote it, which change nothing of the output."""
    return {
        key: _without_provenance(value) if isinstance(value, dict) else value
        for key, value in described.items()
        if key not in ("_name_or_path", "transformers_version", "architectures", "dtype")
    }


def _tokenizer_rules(tokenizer) -> str:
    """All that turns a text into ids, without the truncation and padding of the last call."""
    if not tokenizer.is_fast:
        return repr(sorted(tokenizer.get_vocab().items()))
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps(rules | {"truncation": None, "padding": None}, sort_keys=True)
