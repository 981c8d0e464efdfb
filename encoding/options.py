"""The options of every command that loads a model.

    EncoderOptions(dtype="bfloat16", device="cuda:1")      # an argument of `load_encoder`

No library is loaded with this file, so that `--help` can show the options at once. Tests: tests/test_encoding.py.
"""

from dataclasses import dataclass
from typing import Any, Literal

from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import check_settings


LOADING = "How the model is loaded"  # heading of these options in --help


@dataclass
class LoadingOptions:
    """How a model is loaded and where it computes; every command that loads one takes these options.

    Raises:
        InputError: a value that is not legal, or a device that this machine does not have.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Dtype of the weights; auto is the checkpoint's.", group=LOADING
    )
    device: str = option("auto", "Such as cpu or cuda:1; auto takes a GPU if there is one.", group=LOADING)
    device_map: str | None = option(
        None, "Spread the model over several devices, such as auto; replaces --device.", group=LOADING
    )
    quantization: Literal["4bit", "8bit"] | None = option(
        None, "Load the weights in 4 bit (NF4) or 8 bit, by bitsandbytes.", group=LOADING
    )
    attn_implementation: str | None = option(
        None, "Attention kernel, such as sdpa or flash_attention_2.", group=LOADING
    )
    trust_remote_code: bool = option(False, "Run the code that comes with the model; read it first.", group=LOADING)
    revision: str | None = option(
        None, "Branch, tag or commit of the model on the Hub; its commit is recorded.", group=LOADING
    )

    def __post_init__(self):
        check_settings(self)
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
    """[`LoadingOptions`] of a text encoder, and how it reads texts."""

    template: str | None = option(None, "Text with {prompt} in it that is put around every text.", group=LOADING)
    last_layer: str | None = option(
        None,
        "State that stands for the last layer: as_reported, pre_norm, post_norm or output, as of GrantedConfig.",
        group=LOADING,
    )
    trust_encoder_code: bool = option(
        False, "Run the code of the encoder that a saved fusion names; read it first.", group=LOADING
    )

    def configured(self) -> dict[str, Any]:
        """What of the options belongs into a [`GrantedConfig`], by its names there."""
        values = {"prompt_template": self.template, "last_layer": self.last_layer}
        return {name: value for name, value in values.items() if value is not None}
