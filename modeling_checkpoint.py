"""Reading the checkpoint of an encoder of any family: at one commit, with all of its weights and its own tokenizer.

    source = locate("Qwen/Qwen3-VL-8B-Instruct", revision="main")
    config = load_config(source)
    tokenizer = load_tokenizer(source, config)
    encoder = load_plain_encoder(source, config, dtype="auto")

Tiny: tests/test_checkpoint.py. Ships to the Hub; imports nothing but torch, transformers and its sibling files.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import load_state_dict
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, cached_file, extract_commit_hash
from transformers.utils import quantization_config as quantizers

from .configuration_granted import COMPARED, check_weights, missing_and_unexpected, text_config_of
from .modeling_text_trunk import TEXT_TOWERS, find_text_trunk


# How files are fetched from the Hub; nothing of it is ever saved.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")

# Weights that no layer reads: of a pooler, which comes after the layers, and buffers that are computed.
UNREAD = re.compile(r"(^|\.)(pooler\..*|position_ids|inv_freq)$")


def locate(
    name_or_path: str | os.PathLike,
    revision: str | None = None,
    trust_remote_code: bool = False,
    subfolder: str | None = None,
    **hub_options,
) -> dict[str, Any]:
    """Where a checkpoint lies, as every `from_pretrained` takes it: at one commit of a Hub repository, or in a folder.

    Args:
        name_or_path (`str`): Hub id, folder, or GGUF file.
        revision (`str`, *optional*): branch, tag or commit on the Hub; what is returned has the commit.
        trust_remote_code (`bool`, defaults to `False`): let code run that ships with the checkpoint.
        subfolder (`str`, *optional*): of the repository.
        hub_options: as named by `HUB_OPTIONS`.

    Raises:
        OSError: there is no such repository, revision or `config.json`.
    """
    path = os.fspath(name_or_path)
    fetching = {name: value for name, value in hub_options.items() if value is not None}
    fetching |= {"subfolder": subfolder} if subfolder else {}
    source = {"pretrained_model_name_or_path": path, "trust_remote_code": trust_remote_code, **fetching}
    if path.endswith(".gguf"):
        source["pretrained_model_name_or_path"], source["gguf_file"] = os.path.split(os.path.abspath(path))
    elif not os.path.exists(path):
        source["revision"] = extract_commit_hash(cached_file(path, "config.json", revision=revision, **fetching), None)
    return source


def load_config(source: dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a checkpoint.

    Raises:
        OSError, ValueError: there is none that can be read, or its own code fails or may not run.
    """
    try:
        return AutoConfig.from_pretrained(**source)
    except (OSError, ValueError):
        raise
    except Exception as error:  # whatever a check of transformers or the code of others raises
        raise _unreadable(source, error) from error


def load_tokenizer(source: dict[str, Any], config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Args:
        source (`dict`): of [`locate`].
        config (`PreTrainedConfig`): the encoder's; with it nothing is looked up that would need remote code.

    Raises:
        ValueError: there is none.
    """
    name = source["pretrained_model_name_or_path"]
    missing = f"got {name} without a tokenizer{{}}, expected one beside the weights: save the encoder's there"
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source, config=config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(missing.format(f" that can be loaded ({_one_line(error)})")) from error
    # Without its files transformers may make a tokenizer of the configuration alone, which knows no word.
    files = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if files and "gguf_file" not in source and not any(find_file(source, file) for file in files | {"tokenizer.json"}):
        raise ValueError(missing.format(""))
    for option in HUB_OPTIONS:  # a tokenizer saves what it was made with
        tokenizer.init_kwargs.pop(option, None)
    return tokenizer


def load_plain_encoder(
    source: dict[str, Any], config: PreTrainedConfig, keep_vision: bool = False, **load_options
) -> PreTrainedModel:
    """The encoder of a checkpoint with all weights that its text trunk has, or all there are with `keep_vision`.

    Args:
        source (`dict`): of [`locate`].
        config (`PreTrainedConfig`): of [`load_config`].
        keep_vision (`bool`, defaults to `False`): whether the other towers will be used.
        load_options: of `from_pretrained`, such as `dtype` and `device_map`; with `device_map="meta"` no weights are
            read.

    Raises:
        OSError, ValueError: it cannot be loaded, lacks weights, or has no text trunk.
    """
    gguf = "gguf_file" in source
    if gguf and hasattr(quantizers, "GgufConfig"):
        # Newer versions leave GGUF weights packed where they have a kernel for it: no plain layers to save.
        load_options["quantization_config"] = quantizers.GgufConfig(dequantize=True)
    auto, declared = auto_class(config), None if keep_vision else declared_text_config(config)
    if declared is not None:
        auto, config = AutoModel, declared
        load_options["key_mapping"] = {rf"^(model\.)*({'|'.join(TEXT_TOWERS)})\.": ""}
    if load_options.get("device_map") == "meta":  # no weights are read
        with torch.device("meta"):
            return auto.from_config(config, trust_remote_code=source["trust_remote_code"])
    load_options |= COMPARED
    # AutoModel looks for an adapter first, with these options alone: elsewhere, and online, without them.
    load_options["adapter_kwargs"] = {name: source[name] for name in HUB_OPTIONS if name in source}
    try:
        encoder, loaded = auto.from_pretrained(**source, config=config, **load_options)
    except Exception as error:
        if isinstance(error, OSError) or not (has_own_code(config) or isinstance(error, ImportError)):
            raise
        raise _unreadable(source, error) from error
    _check_trunk_weights(source["pretrained_model_name_or_path"], encoder, loaded, keep_vision)
    if gguf:
        # A dequantised GGUF file may be tagged as quantised, and a tagged model refuses to be saved.
        vars(encoder.config).pop("quantization_config", None)
        for name in ("hf_quantizer", "quantization_method", "is_quantized"):
            vars(encoder).pop(name, None)
    return encoder


def _check_trunk_weights(name: str, encoder: PreTrainedModel, loaded: dict[str, Any], keep_vision: bool) -> None:
    """As `check_weights`, but a head, a pooler and, unless they are kept, other towers do not count."""
    kept = encoder if keep_vision else find_text_trunk(encoder)[0]
    path = next(path for path, module in encoder.named_modules() if module is kept)
    missing, unexpected = missing_and_unexpected(encoder, loaded)
    missing = {key for key in missing if not path or key.startswith(f"{path}.")}
    # Unknown weights have the checkpoint's names, in which "model." and the like may stand before the module's.
    before = "|".join({"model", encoder.base_model_prefix, *path.split(".")} - {""})
    inside = re.compile(rf"(({before})\.)*({'|'.join(name for name, _ in kept.named_children())})\.")
    unexpected = {key for key in unexpected if inside.match(key)}
    check_read_weights(name, encoder, missing, unexpected)


def check_read_weights(name: str, model: nn.Module, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """As `check_weights`, of what a layer reads; what none reads and is missing becomes zero.

    At random, as transformers fills it, no two loads would have the same weights.

    Args:
        name (`str`): of the checkpoint.
        model (`nn.Module`): what was loaded.
        missing, unexpected (`Iterable[str]`): names of weights, see `missing_and_unexpected`.

    Raises:
        ValueError: as of `check_weights`.
    """
    check_weights(name, *({key for key in keys if not UNREAD.search(key)} for keys in (missing, unexpected)))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key in parameters.keys() & set(missing):
            parameters[key].zero_()


def load_added_weights(model: nn.Module, file: str | os.PathLike) -> None:
    """Load all weights that a [`GrantedModel`] has beside its encoder from a safetensors file.

    Raises:
        ValueError: the file lacks one, has one of another shape, or has others.
    """
    saved, own = (
        {key: tensor for key, tensor in state.items() if not key.startswith("encoder.")}
        for state in (load_state_dict(file), model.state_dict())
    )
    unlike = [key for key, tensor in own.items() if key not in saved or saved[key].shape != tensor.shape]
    check_weights(file, [f"{key} {tuple(own[key].shape)}" for key in unlike], saved.keys() - own.keys())
    model.load_state_dict(saved, strict=False)


def find_file(source: dict[str, Any], name: str, required: bool = False) -> str | None:
    """The path of a file beside a checkpoint; where there is none, `None` or an OSError."""
    options = {key: source[key] for key in (*HUB_OPTIONS, "revision", "subfolder") if key in source}
    path = source["pretrained_model_name_or_path"]
    return cached_file(path, name, _raise_exceptions_for_missing_entries=required, **options)


def has_own_code(loaded: PreTrainedConfig | nn.Module) -> bool:
    """Whether the class of a configuration or a model came with its checkpoint."""
    return type(loaded).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)


def declared_text_config(config: PreTrainedConfig) -> PreTrainedConfig | None:
    """Of an encoder with code of its own: the configuration of its language model where transformers has its class.

    Ovis2.5 and InternVL state that class. Their own code, often written for another version, is not needed then.
    """
    if not has_own_code(config):
        return None
    text = text_config_of(config)
    stated = getattr(transformers, next(iter(text.architectures or ()), ""), None)
    return text if text is not config and getattr(stated, "config_class", None) is type(text) else None


def auto_class(config: PreTrainedConfig) -> type:
    """AutoModel, or for an encoder-decoder the one that leaves the decoder out where there is one.

    For an encoder with code of its own, one that its code is registered for.

    Raises:
        ValueError: transformers has no such class for the configuration.
    """
    if has_own_code(config):
        names = [name for name in getattr(config, "auto_map", {}) if name.startswith("AutoModel")]
        known = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
        return AutoModel if AutoModel in known or not known else known[0]
    if type(config) not in AutoModel._model_mapping:
        raise ValueError(
            f"got an encoder of type {config.model_type}, which AutoModel does not load alone, expected one of "
            "https://huggingface.co/docs/transformers/model_doc/auto: choose another, or the model it is part of"
        )
    text_encoding = type(config) in AutoModelForTextEncoding._model_mapping
    # A T5EncoderModel writes is_encoder_decoder=False into its configuration: ask what the family is by default.
    encoder_decoder = config.is_encoder_decoder or type(config)().is_encoder_decoder
    one_config = not config.sub_configs  # T5Gemma configures its encoder apart, and has no such class for it
    return AutoModelForTextEncoding if text_encoding and encoder_decoder and one_config else AutoModel


def _unreadable(source: dict[str, Any], error: Exception) -> ValueError:
    return ValueError(
        f"got {source['pretrained_model_name_or_path']}, which cannot be read with transformers "
        f"{transformers.__version__} ({type(error).__name__}: {_one_line(error)}), expected a checkpoint for this "
        "version and what it needs installed: choose another, or install what is missing"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
