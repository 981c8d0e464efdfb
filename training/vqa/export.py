"""From a fine-tuned model to a text encoder: merges the adapter if there is one, drops the head, fuses the layers.

granted export RUN --output DIR

RUN is what the trainer's `save_model` wrote, a whole model or a PEFT adapter; DIR becomes a `GrantedModel` folder.
Tiny, on CPU: tests/test_export.py.
"""

import hashlib
import os
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
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
from granted.configuration_granted import FUSIONS, check_choice, check_weights
from granted.training.run_folder import RECORD, RUN, STATE, checkpoints
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, read_json, write_json


DTYPES = ("auto", "float32", "bfloat16", "float16")


def export_encoder(
    run: str | os.PathLike,
    output: str | os.PathLike,
    *,
    fusion: str = "norm_avg",
    dtype: str = "auto",
    base: str | None = None,
    revision: str | None = None,
    keep_vision: bool = False,
    trust_remote_code: bool = False,
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
        revision (`str`, *optional*): of a `base` on the Hub; without a base that of the training is taken.
        keep_vision (`bool`, defaults to `False`): keep the vision tower, and the processor.
        trust_remote_code (`bool`, defaults to `False`): run the code that comes with the run or the base.

    Returns:
        `Path`: the output folder.

    Raises:
        InputError: the run cannot be used, the adapter is for another base, or the output is in the way. Nothing is
            written then.
    """
    run, output = Path(run), Path(output)
    try:
        check_choice("fusion", fusion, FUSIONS)
        check_choice("dtype", dtype, DTYPES)
    except ValueError as error:
        raise InputError(str(error)) from error
    if revision is not None and base is None:
        raise InputError(f"got the revision {revision} without a base, expected both or none: name the base, too")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"got the output {output}, which exists, expected a new or empty folder: choose another")
    adapter = _holds_adapter(run)
    if base is not None and not adapter:
        raise InputError(f"got a base for {run}, which holds a whole model, expected none: leave the base out")
    record = _record_of(run)

    options = {"fusion": fusion, "keep_vision": keep_vision}
    with atomic_path(output) as temporary:
        if adapter:
            loading = {"dtype": dtype, "trust_remote_code": trust_remote_code}
            merged, tokenizer, hub_id = _merge(run, base, revision, record, loading)
            with refusing(f"the base of {run}", "one with a text trunk: pass a model that reads text"):
                model = GrantedModel.from_loaded(merged.base_model, tokenizer, **options)
        else:
            hub_id = record.get("base_model") if record.get("base_revision") else None
            with refusing(str(run), "a model in safetensors with its tokenizer: check what the training wrote"):
                model = GrantedModel.from_encoder(run, dtype=dtype, trust_remote_code=trust_remote_code, **options)
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
            with refusing(f"the processor in {run}", "the one of the training"):
                processor = AutoProcessor.from_pretrained(run, trust_remote_code=trust_remote_code)
            processor.save_pretrained(temporary)
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
    if checkpoint:
        with refusing(str(run / STATE), "the state of a checkpoint"):
            record |= {"steps": read_json(run / STATE)["global_step"]}
    return record


def _holds_adapter(run: Path) -> bool:
    """Whether `run` holds an adapter rather than a whole model; raises unless it holds one of them in safetensors."""
    if not run.is_dir():
        raise InputError(f"got {run}, which is no folder, expected what a training wrote: check the path")
    adapter = (run / "adapter_config.json").exists()
    if adapter or (run / "config.json").exists():
        weights = "adapter_model" if adapter else "model"
        if not any(run.glob(f"{weights}*.safetensors")):
            pickled = [path for ending in ("bin", "pt", "pth") for path in run.glob(f"*{weights}*.{ending}")]
            found = f"pickled weights ({pickled[0].suffix}) alone" if pickled else "no weights"
            raise InputError(f"got {found} in {run}, expected safetensors: save the run with safetensors")
        if not (run / "tokenizer_config.json").exists():
            raise InputError(f"got {run} without a tokenizer, expected one: save the tokenizer of the training there")
        return adapter
    if found := checkpoints(run):
        raise InputError(
            f"got {run}, which holds checkpoints but no model, expected a finished run: finish it, or pass a "
            f"checkpoint such as {found[-1]}"
        )
    raise InputError(f"got {run} without config.json or adapter_config.json, expected a model: check the path")


def _merge(
    run: Path, base: str | None, revision: str | None, record: dict, loading: dict
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str | None]:
    """Base with adapter, the run's tokenizer, and the base's Hub id if it has one."""
    with refusing(f"the adapter_config.json in {run}", "one that peft can read: check what the training wrote"):
        config = PeftConfig.from_pretrained(run)
    if base is None:
        base, revision = config.base_model_name_or_path, record.get("base_revision") or config.revision
    if not base:
        raise InputError(f"got an adapter in {run} that names no base, expected one: pass the base")
    model = _load_base(base, revision, loading)
    fingerprint = record.get("base_fingerprint")
    if fingerprint and fingerprint != model_fingerprint(model):
        raise InputError(
            f"got the base {base} with other weights than the adapter in {run} was trained on, expected the "
            f"fingerprint {fingerprint[:12]} of {RECORD}: pass that base"
        )
    merged = _merge_adapter(model, config, run, base)
    with refusing(f"the tokenizer in {run}", "the one of the training"):
        tokenizer = AutoTokenizer.from_pretrained(
            run, config=model.config, trust_remote_code=loading["trust_remote_code"]
        )
    hub_id = base
    if os.path.exists(base):
        hub_id = record.get("base_model") if fingerprint and record.get("base_revision") else None
    return merged, tokenizer, hub_id


def _load_base(base: str, revision: str | None, loading: dict) -> PreTrainedModel:
    """The base as the training loads it, unquantised, in the dtype of the result."""
    with refusing(f"the base {base}", "a model in safetensors: pass its Hub id or folder"):
        source = {"revision": revision, "trust_remote_code": loading["trust_remote_code"]}
        config = AutoConfig.from_pretrained(base, **source)
        if getattr(config, "quantization_config", None) is not None:
            raise InputError(
                f"got the quantised base {base}, expected the model it was made from: pass that as the base"
            )
        with_head = (AutoModelForImageTextToText, AutoModelForCausalLM)
        auto = next((auto for auto in with_head if type(config) in auto._model_mapping), AutoModel)
        model, loaded = auto.from_pretrained(
            base, revision=revision, config=config, use_safetensors=True, output_loading_info=True, **loading
        )
        check_weights(base, loaded["missing_keys"])
    return model


def _merge_adapter(model: PreTrainedModel, config: PeftConfig, run: Path, base: str) -> PreTrainedModel:
    """The adapter's weights added to the base's, in fp32: a sum in bf16 would lose most of a small adapter."""
    if config.is_prompt_learning or getattr(config, "layer_replication", None):
        kind = f"type {config.peft_type.value}" if config.is_prompt_learning else "replicated layers"
        raise InputError(f"got an adapter of {kind} in {run}, expected one that can be merged: train LoRA or DoRA")
    with refusing(f"the adapter in {run}", f"one that was trained on {base}"):
        wrapped = PeftModel(model, config)
        keys = wrapped.load_adapter(run, "default", torch_device="cpu")
    strange = sorted(keys.missing_keys + keys.unexpected_keys)  # about which peft warns at most
    if strange:
        raise InputError(
            f"got the adapter in {run}, of which or of {base} {len(strange)} weights have no place in the other, such "
            f"as {strange[0]}, expected one that was trained on that base: pass its own base"
        )
    with refusing(f"the adapter in {run}", "one with finite weights, which can be merged"):
        for module in wrapped.modules():
            if isinstance(module, BaseTunerLayer):
                layer = module.get_base_layer()
                kept = next(layer.parameters()).dtype
                layer.float()  # one layer after the other: a whole model in fp32 would need twice the memory
                module.merge(safe_merge=True)
                layer.to(kept)
    return wrapped.unload()
