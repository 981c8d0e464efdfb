"""The options of every command that loads a model.

    EncoderOptions(dtype="bfloat16", device="cuda:1")      # an argument of `load_encoder`

No library is loaded with this file, so that `--help` can show the options at once. Tests: tests/test_encoding.py.
"""

from dataclasses import dataclass, field
from typing import Any

from granted.utils.errors import InputError
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
            from granted.encoding.loading import choose_device

            choose_device(self.device)

    def loading(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` that say how weights are loaded and, unless `place` does it, where."""
        import torch
        from transformers import BitsAndBytesConfig

        from granted.encoding.loading import choose_device

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
        trust_encoder_code (`bool`): run the code that comes with the encoder of a saved model that holds the fusion
            alone.
    """

    template: str | None = option(None, "Text with {prompt} in it that is put around every text.")
    last_layer: str | None = option(
        None, "State that stands for the last layer: as_reported, pre_norm, post_norm, output."
    )
    trust_encoder_code: bool = option(False, "Run the code of the encoder that a saved fusion names; read it first.")

    def configured(self) -> dict[str, Any]:
        """What of the options belongs into a [`GrantedConfig`], by its names there."""
        values = {"prompt_template": self.template, "last_layer": self.last_layer}
        return {name: value for name, value in values.items() if value is not None}
