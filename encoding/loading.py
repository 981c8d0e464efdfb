"""Any text encoder by one spec, loaded, placed and ready to read: the same for every command.

    name, encoder = load_encoder("qwen=Qwen/Qwen3-VL-8B-Instruct", EncoderOptions(dtype="bfloat16"), fusion="norm_avg")

Tiny, on CPU: `load_encoder("checkpoints/tiny/granted")`. Tests: tests/test_encoding.py.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import quantization_config as quantizers

from granted.configuration_granted import COMPARED, check_weights, missing_and_unexpected
from granted.encoding.options import EncoderOptions, LoadingOptions
from granted.modeling_checkpoint import load_config, load_tokenizer, locate
from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError, refusing


def choose_device(device: str = "auto") -> torch.device:
    """The device of a name; `"auto"` is the one that accelerate gives this process: a GPU where there is one.

    Raises:
        InputError: no such device on this machine.
    """
    if device == "auto":
        return PartialState().device
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        found += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"got device {device!r}, which cannot be used, expected auto or one of {', '.join(['cpu', *found])}: "
            "choose one that is there"
        ) from error
    if chosen.type == "meta":
        raise InputError(f"got device {device!r}, which computes nothing, expected cpu or a GPU: choose one")
    return chosen


def device_name(device: torch.device) -> str:
    """What to call a device in results: the name of the card, or the kind of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def place(model: nn.Module, device: str | torch.device = "auto") -> nn.Module:
    """The model on its device; one that accelerate has dispatched, or that is quantised, stays where it is."""
    if getattr(model, "hf_device_map", None) or getattr(model, "hf_quantizer", None):
        return model
    return model.to(choose_device(device) if isinstance(device, str) else device)


def load_encoder(
    spec: str,
    options: EncoderOptions | None = None,
    *,
    max_length: int | None = None,
    pipeline: str | None = None,
    **config_options: Any,
) -> tuple[str, GrantedModel]:
    """Load an encoder given as Hub id, folder or GGUF file, or as `NAME=PATH`, and put it on its device.

    Args:
        spec (`str`): what to load. A folder saved by [`GrantedModel`] keeps its fusion.
        options ([`EncoderOptions`], *optional*): how and where.
        max_length (`int`, *optional*): most tokens it reads of a text, template included; by default what its
            configuration says.
        pipeline (`str`, *optional*): the name of a stock pipeline; a plain encoder is read as that reads its own, see
            [`GrantedModel.for_pipeline`].
        config_options: fields of [`GrantedConfig`] for a plain encoder, such as `fusion="norm_avg"`.

    Returns:
        Display name and model, in evaluation mode.

    Raises:
        InputError: there is no such encoder, it has no text trunk, or an option does not suit it.
    """
    options = options or EncoderOptions()
    configured = options.configured() | ({} if max_length is None else {"max_sequence_length": max_length})
    name, path = split_spec(spec)
    _check_path(path)
    with refusing(f"encoder {path!r}", "a text encoder with its tokenizer: check the path or Hub id"):
        if is_fused(path, options.revision):
            if pipeline is not None:
                raise InputError(
                    f"got pipeline {pipeline} for {name}, a saved model with a fusion of its own, expected the plain "
                    "encoder: name that one, or leave the pipeline out"
                )
            config = GrantedModel.config_class.from_pretrained(path, revision=options.revision)
            config = type(config).from_dict(config.to_dict() | configured)
            trust = options.trust_encoder_code
            model = GrantedModel.from_pretrained(path, config=config, trust_encoder_code=trust, **options.loading())
            _ = model.tokenizer  # read now: a damaged one is refused here, too
        elif pipeline is not None:
            model = GrantedModel.for_pipeline(pipeline, path, **options.loading(), **(config_options | configured))
        else:
            model = GrantedModel.from_encoder(path, **options.loading(), **(config_options | configured))
    if options.device_map == "meta":  # without weights, to be looked at and not used
        return name, model.eval()
    encoder = place(model.eval(), options.device)
    try:  # which layer is the last is found out at first use: what is wrong there is said before the work
        with torch.no_grad():
            encoder.fuse(*encoder.pad(encoder.tokenize(["a"])))
    except ValueError as error:
        raise InputError(str(error)) from error
    return name, encoder


def load_vision_language_model(
    spec: str, options: LoadingOptions | None = None
) -> tuple[str, PreTrainedModel, ProcessorMixin]:
    """Load a model that answers questions about images, given as Hub id or folder, or as `NAME=PATH`.

    Args:
        spec (`str`): what to load: a whole model, or an adapter whose base is found.
        options ([`LoadingOptions`], *optional*): how and where.

    Returns:
        Display name, model in evaluation mode and on its device, and its processor.

    Raises:
        InputError: there is no such model, or a part of its weights is missing.
    """
    options = options or LoadingOptions()
    name, path = split_spec(spec)
    model, processor = whole_vision_language_model(path, **options.loading())
    return name, place(model.eval(), options.device), processor


def whole_vision_language_model(path: str, **loading: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A vision-language model with its processor as `from_pretrained` loads them, if nothing of them is missing.

    Args:
        path (`str`): Hub id or folder.
        loading: arguments of `from_pretrained`, such as those of [`~LoadingOptions.loading`].

    Raises:
        InputError: there is no such model, it is not in safetensors, or a part of its weights is missing.
    """
    with refusing(f"model {path!r}", "a vision-language model with its processor, in safetensors: check it"):
        source = {key: loading[key] for key in ("trust_remote_code", "revision") if key in loading}
        processor = AutoProcessor.from_pretrained(path, **source)
        model, found = AutoModelForImageTextToText.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **loading
        )
        check_weights(path, found["missing_keys"])
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "tokenizer"):
        given = type(processor).__name__
        raise InputError(f"got model {path!r} with a {given} alone, expected a vision-language model's processor")
    return model, processor


def load_language_model(
    spec: str, options: LoadingOptions | None = None
) -> tuple[str, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model that writes text: a causal one, or a multimodal one that is shown no image.

    Args:
        spec (`str`): Hub id, folder or GGUF file, or `NAME=PATH`.
        options ([`LoadingOptions`], *optional*): how and where.

    Returns:
        Display name, model in evaluation mode and on its device, and its tokenizer. Of what the checkpoint says about
        generation only the tokens that end a text are kept: no penalty or temperature changes an answer.

    Raises:
        InputError: there is no such model, a part of its weights is missing, or it is an encoder-decoder.
    """
    options = options or LoadingOptions()
    name, path = split_spec(spec)
    with refusing(f"model {path!r}", "a language model with its head and tokenizer, in safetensors or GGUF: check it"):
        loading = options.loading()
        source = locate(path, loading.pop("revision", None), loading.pop("trust_remote_code"))
        config = load_config(source)
        if config.is_encoder_decoder:
            raise InputError(f"got model {path!r}, an encoder-decoder, expected a causal language model: use another")
        tokenizer = load_tokenizer(source, config)
        if "gguf_file" not in source:
            loading["use_safetensors"] = True
        elif hasattr(quantizers, "GgufConfig"):  # newer versions leave the weights packed where they can
            loading["quantization_config"] = quantizers.GgufConfig(dequantize=True)
        shows_images = type(config) in AutoModelForImageTextToText._model_mapping
        auto = AutoModelForImageTextToText if shows_images else AutoModelForCausalLM
        model, found = auto.from_pretrained(**source, config=config, **loading, **COMPARED)
        check_weights(path, missing_and_unexpected(model, found)[0])
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id if ends is None else ends)
    return name, place(model.eval(), options.device), tokenizer


def split_spec(spec: str) -> tuple[str, str]:
    """Display name and path of `NAME=PATH`; the name of a bare path or Hub id is its last part.

    A path that exists is a path, whatever is in it; else the first `=` ends the name.
    """
    name, separator, path = spec.partition("=")
    if not separator or os.path.exists(os.path.expanduser(spec)):
        name, path = "", spec
    path = os.path.expanduser(path)
    named = os.path.abspath(path) if os.path.exists(path) else path  # "." has a name of its own
    return name or Path(named).name.removesuffix(".gguf"), path


def check_encoders(specs: Sequence[str]) -> None:
    """Refuse encoders that do not exist, or whose names are not different, before any work on one of them.

    Args:
        specs (`list[str]`): Hub ids, folders or GGUF files, or `NAME=PATH` of them.

    Raises:
        InputError: two of them have one name, one has none, or a path does not exist.
    """
    encoders = [split_spec(spec) for spec in specs]
    names = [name for name, _ in encoders]
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise InputError(f"got encoders called {', '.join(names)}, expected different names: give them as NAME=PATH")
    for _, path in encoders:
        _check_path(path)


def _check_path(path: str) -> None:
    local = path.startswith((".", "/")) or path.endswith(".gguf") or path.count("/") > 1  # no Hub id
    if local and not os.path.exists(path):
        raise InputError(f"got encoder {path!r}, which does not exist, expected a folder or GGUF file: check the path")


def is_fused(path: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository was saved by [`GrantedModel`]."""
    if path.endswith(".gguf"):
        return False
    config, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
    return config.get("model_type") == GrantedModel.config_class.model_type
