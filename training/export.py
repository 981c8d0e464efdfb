"""From a fine-tuned model to a text encoder: merges the adapter if there is one, drops the head, fuses the layers.

granted export RUN --output DIR

RUN is what the trainer's `save_model` wrote, a whole model or a PEFT adapter; DIR becomes a `GrantedModel` folder.
Tiny, on CPU: tests/test_export.py.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from granted import GrantedModel, __version__
from granted.configuration_granted import FUSIONS, check_choice
from granted.errors import InputError
from granted.files import atomic_path, read_json, write_json
from granted.training.run_folder import RECORD, RUN, STATE


DTYPES = ("auto", "float32", "bfloat16", "float16")


def export_encoder(
    run: str | os.PathLike,
    output: str | os.PathLike,
    *,
    fusion: str = "norm_avg",
    dtype: str = "auto",
    base: str | None = None,
    keep_vision: bool = False,
) -> Path:
    """Turn the outcome of fine-tuning into a [`GrantedModel`] folder: safetensors, tokenizer, code, training record.

    An adapter is added to its base in fp32 and the sum is rounded once, to the dtype of the result. One trained over a
    quantised base (QLoRA) is merged into the base as published, which differs from the quantised one by the error of
    quantisation.

    `encoder_name_or_path` of the result is the Hub id of the base, or nothing where the base is not known to be from
    the Hub; `encoder_revision` stays empty, since no revision on the Hub has these weights.

    Args:
        run (`str` or `os.PathLike`): folder with a whole model or an adapter, its tokenizer, and perhaps
            `training_record.json`, which is copied with an entry `exported` added; or a checkpoint inside one.
        output (`str` or `os.PathLike`): the folder to make; it must not exist or be empty.
        fusion (`str`, defaults to `"norm_avg"`): how layers become one feature, see [`GrantedConfig`].
        dtype (`str`, defaults to `"auto"`): of the result: `"auto"` (that of the run's model or of the base),
            `"float32"`, `"bfloat16"` or `"float16"`.
        base (`str`, *optional*): Hub id or folder of an adapter's base; by default the one the adapter names.
        keep_vision (`bool`, defaults to `False`): keep the vision tower, and the processor.

    Returns:
        `Path`: the output folder.

    Raises:
        InputError: the run cannot be used, the adapter is for another base, or the output is in the way. Nothing is
            written then.
    """
    run, output = Path(run), Path(output)
    with _as_input_error():
        check_choice("fusion", fusion, FUSIONS)
        check_choice("dtype", dtype, DTYPES)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"got the output {output}, which exists, expected a new or empty folder: choose another")
    adapter = _holds_adapter(run)
    if base is not None and not adapter:
        raise InputError(f"got a base for {run}, which holds a whole model, expected none: leave the base out")
    record = _record_of(run)

    options = {"fusion": fusion, "keep_vision": keep_vision}
    with atomic_path(output) as temporary:
        if adapter:
            merged, tokenizer, hub_id = _merge(run, base, record, dtype)
            model = GrantedModel.from_loaded(merged.base_model, tokenizer, **options)
        else:
            hub_id = record.get("base_model") if record.get("base_revision") else None
            with _as_input_error(f"got {run}, expected a model that can be loaded with its tokenizer"):
                model = GrantedModel.from_encoder(run, dtype=dtype, **options)
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise InputError(f"got NaN or infinite weights from {run}, expected finite ones: take another checkpoint")
        model.config.encoder_name_or_path, model.config.encoder_config._name_or_path = hub_id, hub_id or ""
        model.save_pretrained(temporary)
        exported = {
            "fusion": fusion,
            "dtype": str(model.dtype).removeprefix("torch."),
            "keep_vision": keep_vision,
            "merged_adapter": adapter,
            "granted_version": __version__,
        }
        if keep_vision and (run / "processor_config.json").exists():
            AutoProcessor.from_pretrained(run).save_pretrained(temporary)
        write_json(temporary / RECORD, record | {"exported": exported})
    return output


def model_fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights that is the same whether they were loaded in fp32 or bf16.

    Take it before an adapter is attached, of a model that is neither quantised nor sharded.

    Args:
        model (`nn.Module`): the model, as its Auto class loads it.

    Returns:
        `str`: SHA-256 over names, shapes and values, rounded to bf16, of the parameters in the order of their names.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        values = parameter.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _record_of(run: Path) -> dict:
    """What the training recorded: all, or of a checkpoint what is known at the start, and its steps."""
    checkpoint = (run / STATE).exists() and (run.parent / RUN).exists()
    path = run.parent / RUN if checkpoint else run / RECORD
    record = read_json(path) if path.exists() else {}
    if not isinstance(record, dict):
        raise InputError(f"got {path} without an object in it, expected the record that the training wrote")
    return record | ({"steps": read_json(run / STATE)["global_step"]} if checkpoint else {})


def _holds_adapter(run: Path) -> bool:
    """Whether `run` holds an adapter rather than a whole model; raises unless it holds one of them in safetensors."""
    if not run.is_dir():
        raise InputError(f"got {run}, which is no folder, expected what a training wrote: check the path")
    adapter = (run / "adapter_config.json").exists()
    if adapter or (run / "config.json").exists():
        weights = "adapter_model" if adapter else "model"
        if not any(run.glob(f"{weights}*.safetensors")):
            found = "pickled weights (.bin) alone" if any(run.glob(f"*{weights}*.bin")) else "no weights"
            raise InputError(f"got {found} in {run}, expected safetensors: save the run with safetensors")
        if not (run / "tokenizer_config.json").exists():
            raise InputError(f"got {run} without a tokenizer, expected one: save the tokenizer of the training there")
        return adapter
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name))
    if checkpoints:
        raise InputError(
            f"got {run}, which holds checkpoints but no model, expected a finished run: finish it, or pass a "
            f"checkpoint such as {checkpoints[-1]}"
        )
    raise InputError(f"got {run} without config.json or adapter_config.json, expected a model: check the path")


def _merge(
    run: Path, base: str | None, record: dict, dtype: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Base with adapter, the run's tokenizer, and the base's Hub id if it has one."""
    with _as_input_error(f"got an unusable adapter_config.json in {run}, expected one that peft can read"):
        config = PeftConfig.from_pretrained(run)
    revision = None
    if base is None:
        base, revision = config.base_model_name_or_path, record.get("base_revision") or config.revision
    if not base:
        raise InputError(f"got an adapter in {run} that names no base, expected one: pass the base")
    model = _load_base(base, revision, dtype)
    fingerprint = record.get("base_fingerprint")
    if fingerprint and fingerprint != model_fingerprint(model):
        raise InputError(
            f"got the base {base} with other weights than the adapter in {run} was trained on, expected the "
            f"fingerprint {fingerprint[:12]} of {RECORD}: pass that base"
        )
    merged = _merge_adapter(model, config, run, base)
    with _as_input_error(f"got an unusable tokenizer in {run}, expected the one of the training"):
        tokenizer = AutoTokenizer.from_pretrained(run, config=model.config)
    hub_id = base
    if os.path.exists(base):
        hub_id = record.get("base_model") if fingerprint and record.get("base_revision") else None
    return merged, tokenizer, hub_id


def _load_base(base: str, revision: str | None, dtype: str) -> PreTrainedModel:
    """The base as the training loads it, unquantised, in the dtype of the result."""
    with _as_input_error(f"got the base {base}, expected a model that can be loaded: pass its Hub id or folder"):
        config = AutoConfig.from_pretrained(base, revision=revision)
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"got the quantised base {base}, expected the model it was made from: pass that as the base")
    with_head = (AutoModelForImageTextToText, AutoModelForCausalLM)
    auto = next((auto for auto in with_head if type(config) in auto._model_mapping), AutoModel)
    with _as_input_error(f"got the base {base}, expected a model in safetensors: pass its Hub id or folder"):
        model, loaded = auto.from_pretrained(
            base, revision=revision, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    if loaded["missing_keys"]:
        raise InputError(f"got the base {base} without {min(loaded['missing_keys'])}, expected all of its weights")
    return model


def _merge_adapter(model: PreTrainedModel, config: PeftConfig, run: Path, base: str) -> PreTrainedModel:
    """The adapter's weights added to the base's, in fp32: a sum in bf16 would lose most of a small adapter."""
    what = f"got an adapter in {run} that cannot be loaded into {base}, expected the base it was trained on"
    if config.is_prompt_learning or getattr(config, "layer_replication", None):
        kind = f"type {config.peft_type.value}" if config.is_prompt_learning else "replicated layers"
        raise InputError(f"got an adapter of {kind} in {run}, expected one that can be merged: train LoRA or DoRA")
    with _as_input_error(what):
        wrapped = PeftModel(model, config)
        keys = wrapped.load_adapter(run, "default", torch_device="cpu")
    strange = sorted(keys.missing_keys + keys.unexpected_keys)  # about which peft warns at most
    if strange:
        raise InputError(f"{what} ({len(strange)} weights of one without a place in the other, such as {strange[0]})")
    with _as_input_error(f"got an adapter in {run} that cannot be merged into {base}, expected finite weights"):
        for module in wrapped.modules():
            if isinstance(module, BaseTunerLayer):
                layer = module.get_base_layer()
                kept = next(layer.parameters()).dtype
                layer.float()  # one layer after the other: a whole model in fp32 would need twice the memory
                module.merge(safe_merge=True)
                layer.to(kept)
        return wrapped.unload()


@contextmanager
def _as_input_error(message: str = "") -> Iterator[None]:
    """Turns what libraries raise about bad input into one line: `message` and the library's own words."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{message} ({said})" if message else said) from error
