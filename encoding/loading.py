"""Any text encoder by one spec, loaded, placed and ready to read: the same for every command.

    name, encoder = load_encoder("qwen=Qwen/Qwen3-VL-8B-Instruct", EncoderOptions(dtype="bfloat16"), fusion="norm_avg")

Tiny, on CPU: `load_encoder("results/tiny/granted")`. Tests: tests/test_encoding.py.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from granted.configuration_granted import LAST_LAYERS, check_weights
from granted.errors import InputError, refusing
from granted.modeling_granted import GrantedModel
from granted.utils.settings import check_settings


DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("4bit", "8bit")


def option(default: Any, help: str) -> Any:
    """A field of a dataclass of options, with the sentence that `--help` shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass
class LoadingOptions:
    """How a model is loaded and where it computes; every command that loads one takes these options.

    Args:
        dtype (`str`, defaults to `"auto"`): dtype of the weights; `"auto"` is the checkpoint's.
        device (`str`, defaults to `"auto"`): such as `"cpu"` or `"cuda:1"`; `"auto"` is this process's accelerator
            where there is one.
        device_map (`str`, *optional*): spreads a model over several devices, such as `"auto"`; instead of `device`.
        quantization (`str`, *optional*): `"4bit"` (NF4) or `"8bit"`, by bitsandbytes.
        attn_implementation (`str`, *optional*): such as `"sdpa"` or `"flash_attention_2"`.
        trust_remote_code (`bool`): run the code that comes with a model.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub; its commit is recorded.

    Raises:
        InputError: a value that is not legal, or a device that this machine does not have.
    """

    dtype: str = option("auto", "Dtype of the weights: auto (the checkpoint's), float32, bfloat16 or float16.")
    device: str = option("auto", "Device of the model, such as cpu or cuda:1; auto takes a GPU if there is one.")
    device_map: str | None = option(None, "Spread the model over several devices, such as auto; replaces --device.")
    quantization: str | None = option(None, "Load the weights in 4bit or 8bit (bitsandbytes).")
    attn_implementation: str | None = option(None, "Attention kernel, such as sdpa or flash_attention_2.")
    trust_remote_code: bool = option(False, "Run the code that comes with the model; read it first.")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")

    def __post_init__(self):
        check_settings(self)
        for name, legal in (("dtype", DTYPES), ("quantization", (None, *QUANTIZATIONS))):
            if getattr(self, name) not in legal:
                expected = ", ".join(value for value in legal if value)
                raise InputError(f"got {name} {getattr(self, name)!r}, expected one of {expected}: choose one")
        if self.device_map is not None and self.device != "auto":
            raise InputError(
                f"got device {self.device} and device_map {self.device_map}, expected one of them: leave one out"
            )
        if self.device != "auto":
            choose_device(self.device)

    def loading(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` that say how weights are loaded and, unless `place` does it, where."""
        loading: dict[str, Any] = {"dtype": self.dtype, "trust_remote_code": self.trust_remote_code}
        if self.quantization == "4bit":
            loading["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        elif self.quantization == "8bit":
            loading["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        # Quantised weights are made where they will compute.
        device = {"": str(choose_device(self.device))} if self.quantization and not self.device_map else None
        named = {
            "device_map": self.device_map or device,
            "attn_implementation": self.attn_implementation,
            "revision": self.revision,
        }
        return loading | {name: value for name, value in named.items() if value is not None}


@dataclass
class EncoderOptions(LoadingOptions):
    """[`LoadingOptions`] of a text encoder, and how it reads texts.

    Args:
        template (`str`, *optional*): text with `{prompt}` in it that is put around every text.
        last_layer (`str`, *optional*): which state stands for the last layer, as of [`GrantedConfig`].
    """

    template: str | None = option(None, "Text with {prompt} in it that is put around every text.")
    last_layer: str | None = option(None, f"State that stands for the last layer: {', '.join(LAST_LAYERS)}.")

    def configured(self) -> dict[str, Any]:
        """What of the options belongs into a [`GrantedConfig`], by its names there."""
        values = {"prompt_template": self.template, "last_layer": self.last_layer}
        return {name: value for name, value in values.items() if value is not None}


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
    """The model on its device; one that accelerate has dispatched, is quantised or without weights stays as it is."""
    without_weights = any(weights.is_meta for weights in model.parameters())
    if without_weights or getattr(model, "hf_device_map", None) or getattr(model, "hf_quantizer", None):
        return model
    return model.to(choose_device(device) if isinstance(device, str) else device)


def load_encoder(
    spec: str, options: EncoderOptions | None = None, *, max_length: int | None = None, **config_options: Any
) -> tuple[str, GrantedModel]:
    """Load an encoder given as Hub id, folder or GGUF file, or as `NAME=PATH`, and put it on its device.

    Args:
        spec (`str`): what to load. A folder saved by [`GrantedModel`] keeps its fusion.
        options ([`EncoderOptions`], *optional*): how and where.
        max_length (`int`, *optional*): most tokens it reads of a text, template included; by default what its
            configuration says.
        config_options: fields of [`GrantedConfig`] for a plain encoder, such as `fusion="norm_avg"`.

    Returns:
        Display name and model, in evaluation mode.

    Raises:
        InputError: there is no such encoder, it has no text trunk, or an option does not suit it.
    """
    options = options or EncoderOptions()
    configured = options.configured() | ({} if max_length is None else {"max_sequence_length": max_length})
    name, path = split_spec(spec)
    if path.startswith((".", "/")) and not os.path.exists(path):
        raise InputError(f"got encoder {path!r}, which does not exist, expected a folder or GGUF file: check the path")
    with refusing(f"encoder {path!r}", "a text encoder with its tokenizer: check the path or Hub id"):
        if is_fused(path, options.revision):
            config = GrantedModel.config_class.from_pretrained(path, revision=options.revision)
            config = type(config).from_dict(config.to_dict() | configured)
            model = GrantedModel.from_pretrained(path, config=config, **options.loading())
        else:
            model = GrantedModel.from_encoder(path, **options.loading(), **(config_options | configured))
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
    loading = options.loading()
    with refusing(f"model {path!r}", "a vision-language model with its processor, in safetensors: check it"):
        source = {key: loading[key] for key in ("trust_remote_code", "revision") if key in loading}
        processor = AutoProcessor.from_pretrained(path, **source)
        model, found = AutoModelForImageTextToText.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **loading
        )
        check_weights(path, found["missing_keys"])
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "tokenizer"):
        raise InputError(f"got model {path!r} with a {type(processor).__name__} alone, expected its processor: add it")
    return name, place(model.eval(), options.device), processor


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


def is_fused(path: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub repository was saved by [`GrantedModel`]."""
    if path.endswith(".gguf"):
        return False
    config, _ = PreTrainedConfig.get_config_dict(path, revision=revision)
    return config.get("model_type") == GrantedModel.config_class.model_type
