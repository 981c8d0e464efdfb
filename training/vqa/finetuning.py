"""Stage 1: VQA fine-tuning of a vision-language model by TRL's SFTTrainer, whole or with a PEFT adapter (Section 3.4).

    granted train vqa --config training/configs/vqa_qwen3_vl_8b_lora.yaml --data vqa.parquet --output_dir run
    accelerate launch --config_file training/configs/accelerate_fsdp2.yaml -m granted.training.vqa.finetuning \\
        --config training/configs/vqa_qwen3_vl_8b_fsdp2.yaml --data vqa.parquet --output_dir run

Tiny, on CPU: `make miniature`, whose settings are `examples/miniature/vqa.yaml`. `--dry_run true`
shows what would be trained on; `--help` shows everyday options, `--help-all` all that TRL has. Run the same command
again to go on after an interruption. `granted export` makes an encoder of the outcome.
"""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import cached_file, extract_commit_hash, is_torch_bf16_gpu_available
from trl import SFTConfig, SFTTrainer

from granted.command_line import parse_settings
from granted.dataset_builders.visual_vqa.check import Problem, check_rows, raise_if_broken, usable
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.encoding.loading import whole_vision_language_model
from granted.encoding.options import option
from granted.modeling_text_trunk import find_text_trunk
from granted.training.run_folder import (
    RECORD,
    RUN,
    STATE,
    check_identity,
    data_fingerprint,
    hold_folder,
    leave_folder,
    shared_folder,
)
from granted.training.vqa.dry_run import dry_run_report
from granted.training.vqa.export import model_fingerprint
from granted.utils.errors import InputError, refusing
from granted.utils.files import read_json, write_json, writing
from granted.utils.program import run_as_program
from granted.utils.settings import (
    Bounds,
    Count,
    NonNegative,
    Positive,
    Seed,
    Share,
    check_settings,
    check_value,
)
from granted.utils.versions import library_versions


logger = logging.getLogger(__name__)
COMMAND = "granted train vqa"
# Of TRL's numbers those that have bounds; the others have to be finite, and whole where they are counts.
BOUNDS = {
    "per_device_train_batch_size": Count,
    "gradient_accumulation_steps": Count,
    "num_train_epochs": Positive,
    "max_steps": Annotated[int, Bounds("a whole number above 0, or -1", lambda value: value > 0 or value == -1)],
    "learning_rate": Positive,
    "warmup_steps": NonNegative,
    "weight_decay": NonNegative,
    "max_grad_norm": NonNegative,
    "adam_beta1": Share,
    "adam_beta2": Share,
    "adam_epsilon": Positive,
    "label_smoothing_factor": Share,
    "seed": Seed,
    "data_seed": Seed | None,
    "save_steps": Positive,
    "save_total_limit": Count | None,
    "logging_steps": Positive,
}
# Where a run is written, how it is shown and how its data are read: the result does not depend on it.
_APART = re.compile(
    r"output_dir|logging|report_to|run_name|disable_tqdm|save_|resume|dry_run|project|trackio|hub_|ted"
    r"|dataloader_(?!drop_last)"
)


@dataclass
class VqaFinetuningConfig(SFTConfig):
    """All of TRL's [`SFTConfig`], and what stage 1 adds; some defaults differ from TRL's, see below.

    Args:
        model (`str`): Hub id or folder of a vision-language model.
        revision (`str`, *optional*): of the model on the Hub.
        data (`str`): rows in TRL's layout: Parquet or JSON Lines files, comma-separated, a folder, or a Hub id.
        skip_broken (`bool`, defaults to `False`): leave rows out that cannot be used, instead of refusing them all.
        adapter (`str`, defaults to `"lora"`): `"none"` (every weight of the language model), `"lora"`, `"dora"` or
            `"qlora"` (LoRA over four-bit weights; needs a GPU).
        lora_r (`int`, defaults to 16), lora_alpha (`int`, defaults to 32), lora_dropout (`float`, defaults to 0).
        lora_targets (`str`, *optional*): regular expression of module names; by default all linear projections of
            the language model's layers.
        train_vision (`bool`, defaults to `False`): train what is not the language model, too (with `adapter="none"`).
        video_fps (`float`, *optional*): frames a second seen of videos; by default as the processor wants.
        max_frames (`int`, *optional*): the most frames read of a video.
        ted (`str`, *optional*): a TED benchmark on which the encoder is scored before, during and after.
        ted_pairs (`str`, *optional*): caption pairs on which an aggregator is trained for it, each time anew.
        ted_steps (`int`, *optional*): steps between two scores; by default only before and after.
        ted_config (`str`, *optional*): YAML file with settings of the aggregator's training, features among them.
        dry_run (`bool`, defaults to `False`): show three rows, count tokens and parameters, and train nothing.

    Other defaults: `assistant_only_loss=True`, `max_length=None` (nothing is cut), `save_total_limit=2`, and `bf16`
    where there is a GPU that computes in it, elsewhere fp32.
    """

    model: str = option("", "Hub id or folder of a vision-language model.")
    revision: str | None = option(None, "Of the model on the Hub: branch, tag or commit.")
    data: str = option("", "Rows in TRL's layout: Parquet or JSON Lines, comma-separated; a folder; or a Hub id.")
    skip_broken: bool = option(False, "Leave out rows that cannot be used, instead of refusing all.")
    adapter: Literal["none", "lora", "dora", "qlora"] = option(
        "lora", "none (the whole language model), lora, dora, or qlora (four bits; needs a GPU)."
    )
    lora_r: Count = option(16, "Rank of the adapter.")
    lora_alpha: Count = option(32, "Its scale, divided by the rank.")
    lora_dropout: Share = option(0.0, "Dropout before the adapter.")
    lora_targets: str | None = option(None, "Regular expression of module names; by default all projections.")
    train_vision: bool = option(False, "Train what is not the language model, too (with adapter none).")
    video_fps: Positive | None = option(None, "Frames a second seen of videos; by default as the processor wants.")
    max_frames: Count | None = option(None, "Most frames read of a video.")
    ted: str | None = option(None, "A TED benchmark on which the encoder is scored before, during and after.")
    ted_pairs: str | None = option(None, "Caption pairs that an aggregator is trained on for each score.")
    ted_steps: Count | None = option(None, "Steps between two scores; by default only before and after.")
    ted_config: str | None = option(None, "YAML file with settings of the aggregator's training.")
    dry_run: bool = option(False, "Show three rows, count tokens and parameters, and train nothing.")
    bf16: bool | None = option(None, "Compute in bf16; by default where there is a GPU that does, else in fp32.")
    assistant_only_loss: bool = True
    max_length: int | None = None
    remove_unused_columns: bool = False
    dataset_kwargs: dict | str | None = field(default_factory=lambda: {"skip_prepare_dataset": True})
    save_total_limit: int | None = 2

    def __post_init__(self):
        trl_fields = {one.name for one in fields(SFTConfig)}
        check_settings(self, [one.name for one in fields(self) if one.name not in trl_fields])
        for name, kind in numbers_of_trl().items():
            check_value(name, getattr(self, name), kind)
        if self.adapter != "none" and self.train_vision:
            raise InputError(f"got train_vision with adapter {self.adapter}, expected adapter none: choose one")
        for name in ("model", "data", "output_dir"):
            if not getattr(self, name):
                raise InputError(f"got no {name}, expected one: give --{name}")
        if self.max_length is not None or self.packing or self.padding_free:
            raise InputError("got max_length, packing or padding_free, expected none: pictures must not be cut")
        if not self.assistant_only_loss or self.completion_only_loss or self.chat_template_path:
            raise InputError(
                "got assistant_only_loss=false, completion_only_loss or chat_template_path, expected none: the loss "
                "is on answers, by the chat template beside the model"
            )
        if self.save_only_model:
            raise InputError("got save_only_model, expected false: a checkpoint without its optimiser cannot go on")
        if self.resume_from_checkpoint:
            raise InputError("got resume_from_checkpoint, expected none: the same command goes on by itself")
        if bool(self.ted) != bool(self.ted_pairs):
            raise InputError("got one of ted and ted_pairs, expected both or none: an aggregator is trained on pairs")
        if self.bf16 is None:
            self.bf16 = not (self.fp16 or self.use_cpu) and is_torch_bf16_gpu_available()
            if not (self.bf16 or self.fp16):
                logger.warning("no GPU that computes in bf16: training in fp32 (bf16 false)")
        gpu = torch.cuda.is_available()
        needs = [name for name, wanted in (("adapter qlora", self.adapter == "qlora"), ("tf32", self.tf32)) if wanted]
        if needs and not gpu:
            raise InputError(f"got {needs[0]} on a machine without a GPU, expected one: use another setting")
        try:
            super().__post_init__()
        except (ValueError, ImportError, RuntimeError) as error:
            raise InputError(f"got settings that cannot be used: {' '.join(str(error).split())[:300]}") from error
        if self.ted and self.world_size > 1:
            raise InputError(
                "got ted with several processes, expected one: leave it out, and score checkpoints with granted "
                "export and granted evaluate"
            )


@cache
def numbers_of_trl() -> dict[str, Any]:
    """The kinds of TRL's settings that are numbers."""
    kinds = get_type_hints(SFTConfig)
    plain = {name: kind for name, kind in kinds.items() if {*(get_args(kind) or [kind])} <= {int, float, NoneType}}
    return {one.name: plain[one.name] for one in fields(SFTConfig) if one.init and one.name in plain} | BOUNDS


def finetune(config: VqaFinetuningConfig, probe: Any = None) -> Path:
    """Run stage 1 and write model or adapter, processor and `training_record.json` into `config.output_dir`.

    Args:
        config ([`VqaFinetuningConfig`]): the run.
        probe (`TedProbe`, *optional*): scores the encoder before, during and after, where `config.ted` asks for it.

    Returns:
        `Path`: the output folder. `granted export` turns it into an encoder.

    Raises:
        InputError: model, data or settings cannot be used, or the folder holds another run. Nothing is written then.
    """
    output = Path(config.output_dir)
    rows = load_vqa(config.data)  # what may be wrong and costs little comes before the model
    model, processor, base = load_model(config)
    collator = VqaCollator(processor, video_fps=config.video_fps, max_frames=config.max_frames)
    dataset, problems = usable_rows(config, collator, rows)
    record = base | {
        "data": config.data,
        "data_fingerprint": data_fingerprint(config.data, dataset),
        "rows": len(dataset),
        "rows_skipped": dict(Counter(problem.kind for problem in problems)),
        "settings": changed_settings(config),
        "processes": config.world_size,
    }
    checkpoint = checkpoint_to_resume(output, run_identity(record))
    if probe:
        probe.tokenizer = processor.tokenizer
        if checkpoint:
            probe.check_scored_since_the_start()
    if (output / RECORD).exists():
        return output  # this very run has been finished
    with refusing(f"the model {config.model}", "one that TRL can fine-tune: check the settings"):
        trainer = VqaTrainer(
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=dataset,
            processing_class=processor,
            peft_config=lora_config(config, model) if config.adapter != "none" else None,
            callbacks=[probe] if probe else None,
        )
    if probe:
        probe.trainer = trainer
    main = trainer.accelerator.is_main_process
    lock = hold_folder(output)  # only now: settings that cannot be used leave nothing behind
    if main:
        write_json(output / RUN, record)
    with writing(output):
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            if main:
                remove_broken_checkpoints(output)
        with shared_folder(trainer.accelerator, output / "model") as folder:
            trainer.save_model(str(folder))
    if main:
        for file in (output / "model").iterdir():
            os.replace(file, output / file.name)
        (output / "model").rmdir()
        record |= {
            "steps": trainer.state.global_step,
            "final_loss": next((row["loss"] for row in reversed(trainer.state.log_history) if "loss" in row), None),
            "device": str(config.device),
            "versions": library_versions("granted", "torch", "transformers", "trl", "peft"),
        }
        write_json(output / RECORD, record | ({"ted": probe.scores} if probe else {}))
    leave_folder(lock)
    return output


# ---------------------------------------------------------------------------------------------------------------- data


def usable_rows(
    config: VqaFinetuningConfig, collator: VqaCollator, dataset: Dataset
) -> tuple[Dataset, list[Problem]]:
    """The rows with their `length` in tokens, and those that are left out, with `skip_broken`.

    Every row is made a batch of, so that none can end a training later. Each process checks its share.

    Raises:
        InputError: there are broken rows and they are not to be skipped, or there are no others.
    """
    lengths: dict[int, int] = {}
    mine = range(config.process_index, len(dataset), config.world_size)

    def use(number: int, row: dict[str, Any]) -> None:
        lengths[number] = collator([row])["input_ids"].shape[1]

    found = check_rows(dataset, rows=mine, use=use, show_progress=not config.disable_tqdm)
    checked = gather_object([(lengths, found)])  # of all processes
    problems = sorted((problem for _, found in checked for problem in found), key=lambda problem: problem.row)
    if problems and not config.skip_broken:
        raise_if_broken(problems, len(dataset))
    kept = usable(dataset, problems)
    if len(kept) == 0:
        raise InputError(f"got no usable row in {config.data}, expected some: mend them")
    if "length" in kept.column_names:
        kept = kept.remove_columns("length")  # of something else
    length = {number: length for lengths, _ in checked for number, length in lengths.items()}
    return kept.add_column("length", [length[number] for number in sorted(length)]), problems


class VqaTrainer(SFTTrainer):
    """TRL's trainer; its loss is the mean over all answer tokens of a step, and its order of rows resumes exactly."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Models such as Qwen3-VL refuse a count of tokens for a loss of their own; TRL's loss takes one. Without it a
        # step would be a mean of means over processes and accumulated batches.
        self.model_accepts_loss_kwargs = True

    def _run_epoch(self, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps:  # killed after its last step: nothing is left to train
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthsOfEpoch(per_step, lengths=self.train_dataset["length"], seed=self.args.seed)


class LengthsOfEpoch(LengthGroupedSampler):
    """Groups rows by length, in an order that depends on seed and epoch only."""

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int):
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


# --------------------------------------------------------------------------------------------------------------- model


def load_model(config: VqaFinetuningConfig) -> tuple[PreTrainedModel, ProcessorMixin, dict[str, Any]]:
    """Model, processor, and what there is to record of the model: id, revision, fingerprint of its weights."""
    source = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    load = source | {"dtype": torch.float32 if config.adapter == "none" else "auto"}
    load |= dict(config.model_init_kwargs or {})
    if config.adapter == "qlora":
        load["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=beside_the_layers(config.model, source),
        )
    model, processor = whole_vision_language_model(config.model, **load)
    with refusing(f"the model {config.model}", "one that reads text by a language model"):
        find_text_trunk(model.base_model)
    train_only_what_is_asked(model, config)
    local = os.path.exists(config.model)
    path = None if local else cached_file(config.model, "config.json", revision=config.revision)
    base = {
        "base_model": config.model,
        "base_revision": extract_commit_hash(path, None),
        "base_fingerprint": None if config.adapter == "qlora" else model_fingerprint(model),
    }
    return model, processor, base


def train_only_what_is_asked(model: PreTrainedModel, config: VqaFinetuningConfig) -> None:
    """Freeze all but the language model and its head, unless the vision tower is to be trained, too."""
    if config.train_vision:
        return
    trunk, _ = find_text_trunk(model.base_model)
    model.requires_grad_(False)
    for part in (trunk, model.get_output_embeddings()):
        if part is not None and config.adapter != "qlora":
            part.requires_grad_(True)


def lora_config(config: VqaFinetuningConfig, model: PreTrainedModel) -> LoraConfig:
    """LoRA or DoRA on the linear projections of the language model's layers, or on `lora_targets`.

    Raises:
        InputError: the targets match no linear layer.
    """
    names = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = config.lora_targets or _projections(model)
    try:
        matched = [name for name in names if re.fullmatch(targets, name)]
    except re.error as error:
        raise InputError(f"got lora_targets {targets!r}, expected a regular expression ({error})") from error
    if not matched:
        example = next(iter(names))
        raise InputError(
            f"got lora_targets {targets!r}, which match none of {len(names)} linear layers, expected names such as "
            f"{example}: correct the expression"
        )
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.adapter == "dora",
        revision=config.revision,
        task_type="CAUSAL_LM",
    )


def beside_the_layers(path: str, source: dict[str, Any]) -> list[str]:
    """The parts of a model that hold none of the language model's layers: vision tower and head. Loads no weights."""
    with refusing(f"the model {path}", "a vision-language model: check the path or Hub id"), torch.device("meta"):
        settings = AutoConfig.from_pretrained(path, **source)
        trusted = source.get("trust_remote_code", False)
        model = AutoModelForImageTextToText.from_config(settings, trust_remote_code=trusted)
    _, layers = find_text_trunk(model.base_model)
    path_to_layers = next(name for name, module in model.named_modules() if module is layers)
    steps = path_to_layers.split(".")
    beside = []
    for depth, step in enumerate(steps):
        parent = ".".join(steps[:depth])
        children = model.get_submodule(parent).named_children()
        beside += [f"{parent}.{name}".lstrip(".") for name, _ in children if name != step]
    return beside


def _projections(model: PreTrainedModel) -> str:
    """A regular expression for the linear projections in the layers of the language model, and for nothing else."""
    _, layers = find_text_trunk(model.base_model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    linear = [name for name, module in layers.named_modules() if isinstance(module, nn.Linear)]
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    return rf"{re.escape(prefix)}\..*\.({'|'.join(leaves)})"


# -------------------------------------------------------------------------------------------------------------- resume


def run_identity(record: dict[str, Any]) -> dict[str, Any]:
    """What makes two runs the same run, by their records: settings, data and weights, these two by content."""
    settings = {name: value for name, value in record["settings"].items() if not _APART.match(name)}
    for name in ("data", *(("model", "revision") if record["base_fingerprint"] else ())):
        settings.pop(name, None)  # the same content may lie elsewhere
    return settings | {name: record[name] for name in ("base_fingerprint", "data_fingerprint", "rows", "processes")}


def changed_settings(config: VqaFinetuningConfig) -> dict[str, Any]:
    """The settings of stage 1, and those of TRL's that differ from its defaults, as JSON has them."""
    trl_defaults = {one.name: one.default for one in fields(SFTConfig)}
    values = {name: value for name, value in config.to_dict().items() if not name.endswith("_token")}  # are masked
    return {
        one.name: values[one.name]
        for one in fields(config)
        if one.name in values and (one.name not in trl_defaults or values[one.name] != trl_defaults[one.name])
    }


def checkpoint_to_resume(output: Path, identity: dict[str, Any]) -> str | None:
    """The newest whole checkpoint in the folder of this very run; none if it has not begun.

    Raises:
        InputError: the folder holds another run.
    """
    if not check_identity(output, identity, run_identity):
        return None
    whole = [path for path in output.glob("checkpoint-*") if _is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to its end: its state is written last."""
    try:
        return "global_step" in read_json(checkpoint / STATE)
    except (InputError, TypeError):
        return False


def remove_broken_checkpoints(output: Path) -> None:
    """Remove the checkpoints that a kill or a full disk has cut short; those saved before are left."""
    for path in output.glob("checkpoint-*"):
        if not _is_whole(path):
            shutil.rmtree(path)


# ------------------------------------------------------------------------------------------------------------- command


# What most runs set, in the order of --help; TRL's own in fewer words than TRL's, ours in those of the fields.
EVERYDAY: dict[str, dict[str, str]] = {
    "Model and data": dict.fromkeys(("model", "revision", "data", "skip_broken", "video_fps", "max_frames"), ""),
    "What is trained": dict.fromkeys(
        ("adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_targets", "train_vision"), ""
    ),
    "Training": {
        "output_dir": "Gets the model or adapter, the record, and checkpoints.",
        "num_train_epochs": "Passes over the rows.",
        "max_steps": "Stop after so many steps; -1 for all epochs.",
        "per_device_train_batch_size": "Rows per process and part of a step.",
        "gradient_accumulation_steps": "Parts of a step.",
        "learning_rate": "Of AdamW.",
        "lr_scheduler_type": "Such as linear, cosine or constant.",
        "warmup_steps": "Steps of linear rise; below 1 a share of all.",
        "weight_decay": "Of AdamW.",
        "bf16": "",
        "gradient_checkpointing": "Least memory, not least time.",
        "train_sampling_strategy": "random, or group_by_length: less padding.",
        "seed": "Of data order and dropout.",
    },
    "Checkpoints, progress, scores": {
        "save_steps": "Steps between checkpoints.",
        "logging_steps": "Steps between points of the curve.",
        "report_to": "none, trackio, wandb, ...",
        **dict.fromkeys(("dry_run", "ted", "ted_pairs", "ted_steps", "ted_config"), ""),
    },
}


def everyday_help() -> str:
    """The options that most runs set, on one screen."""
    known = {one.name: one for one in fields(VqaFinetuningConfig)}
    lines = [
        f"usage: {COMMAND} --model MODEL --data DATA --output_dir DIR [--OPTION VALUE ...] [--config FILE.yaml]",
        "",
        "Stage 1: fine-tune a vision-language model by VQA. --config reads any of the options from a YAML file.",
    ]
    for group, options in EVERYDAY.items():
        lines += ["", group]
        for name, words in options.items():
            default = getattr(known[name].default, "value", known[name].default)
            shown = "" if default in ("", None, MISSING) else f" [{default}]"
            lines.append(f"  --{name:<28} {words or known[name].metadata['help']}{shown}")
    lines += ["", "All else is TRL's SFTConfig (huggingface.co/docs/trl/sft_trainer): --help-all lists it."]
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> VqaFinetuningConfig:
    """The settings given by options and by a YAML file (`--config`).

    Raises:
        InputError: an option or a value is unknown.
    """
    return parse_settings(VqaFinetuningConfig, arguments, COMMAND)


def run(arguments: Sequence[str]) -> str:
    """Do what the command line asks; what is to be shown at the end."""
    if {"--help", "-h"} & set(arguments):
        return everyday_help()
    config = parse(["--help" if argument == "--help-all" else argument for argument in arguments])
    if config.dry_run:
        rows = load_vqa(config.data)
        model, processor, _ = load_model(config)
        peft_config = lora_config(config, model) if config.adapter != "none" else None
        collator = VqaCollator(processor, video_fps=config.video_fps, max_frames=config.max_frames)
        dataset, _ = usable_rows(config, collator, rows)
        return dry_run_report(config, model, collator, dataset, peft_config)
    return f"wrote {finetune(config)}; make an encoder of it with granted export {config.output_dir} --output DIR"


if __name__ == "__main__":
    run_as_program(run)
