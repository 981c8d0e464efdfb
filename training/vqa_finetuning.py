"""Stage 1: VQA fine-tuning of a vision-language model by TRL's SFTTrainer, whole or with a PEFT adapter (Section 3.4).

    granted train vqa --config training/configs/vqa_qwen3_vl_8b_lora.yaml --data vqa.parquet --output_dir run
    accelerate launch --config_file training/configs/accelerate_fsdp2.yaml -m granted.training.vqa_finetuning \\
        --config training/configs/vqa_qwen3_vl_8b_fsdp2.yaml --data vqa.parquet --output_dir run

Tiny, on CPU: `make miniature`, whose settings are `training/configs/vqa_miniature.yaml`. `--dry_run true`
shows what would be trained on. Run the same command again to go on after an interruption. `granted export` makes an
encoder of the outcome.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from torch.utils.data import Sampler
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import cached_file, extract_commit_hash
from trl import SFTConfig, SFTTrainer

from granted.command_line import parse_settings
from granted.configuration_granted import check_weights
from granted.dataset_builders.visual_vqa.check import Problem, check_rows, raise_if_broken, usable
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.errors import InputError
from granted.eval_metric.results import library_versions
from granted.files import write_json
from granted.modeling_text_trunk import find_text_trunk
from granted.training.export import model_fingerprint
from granted.training.run_folder import (
    RECORD,
    RUN,
    STATE,
    check_identity,
    data_fingerprint,
    hold_folder,
    leave_folder,
)
from granted.training.ted_probe import TedProbe
from granted.training.vqa_dry_run import dry_run_report
from granted.utils.program import run_as_program


ADAPTERS = ("none", "lora", "dora", "qlora")
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

    Other defaults: `assistant_only_loss=True`, `max_length=None` (nothing is cut),
    `save_total_limit=2`.
    """

    model: str = ""
    revision: str | None = None
    data: str = ""
    skip_broken: bool = False
    adapter: str = "lora"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_targets: str | None = None
    train_vision: bool = False
    video_fps: float | None = None
    max_frames: int | None = None
    ted: str | None = None
    ted_pairs: str | None = None
    ted_steps: int | None = None
    ted_config: str | None = None
    dry_run: bool = False
    assistant_only_loss: bool = True
    max_length: int | None = None
    remove_unused_columns: bool = False
    dataset_kwargs: dict | str | None = field(default_factory=lambda: {"skip_prepare_dataset": True})
    save_total_limit: int | None = 2

    def __post_init__(self):
        if self.adapter not in ADAPTERS:
            raise InputError(f"got adapter {self.adapter!r}, expected one of {', '.join(ADAPTERS)}: correct it")
        if self.adapter != "none" and self.train_vision:
            raise InputError(f"got train_vision with adapter {self.adapter}, expected adapter none: choose one")
        if not self.model or not self.data:
            raise InputError("got no model or no data, expected both: give --model and --data")
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
        gpu = torch.cuda.is_available()
        needs = [name for name, wanted in (("adapter qlora", self.adapter == "qlora"), ("tf32", self.tf32)) if wanted]
        if needs and not gpu:
            raise InputError(f"got {needs[0]} on a machine without a GPU, expected one: use another setting")
        try:
            super().__post_init__()
        except (ValueError, ImportError, RuntimeError) as error:
            raise InputError(f"got settings that cannot be used: {' '.join(str(error).split())[:300]}") from error


def finetune(config: VqaFinetuningConfig) -> Path:
    """Run stage 1 and write model or adapter, processor and `training_record.json` into `config.output_dir`.

    Returns:
        `Path`: the output folder. `granted export` turns it into an encoder.

    Raises:
        InputError: model, data or settings cannot be used, or the folder holds another run. Nothing is written then.
    """
    output = Path(config.output_dir)
    model, processor, base = load_model(config)
    collator = VqaCollator(processor, video_fps=config.video_fps, max_frames=config.max_frames)
    dataset, problems = usable_rows(config, collator)
    record = base | {
        "data": config.data,
        "data_fingerprint": data_fingerprint(config.data, dataset),
        "rows": len(dataset),
        "rows_skipped": dict(Counter(problem.kind for problem in problems)),
        "settings": changed_settings(config),
        "processes": config.world_size,
    }
    checkpoint = checkpoint_to_resume(output, run_identity(record))
    probe = TedProbe.from_files(config, processor) if config.ted else None
    if probe and checkpoint:
        probe.check_scored_since_the_start()
    if (output / RECORD).exists():
        return output  # this very run has been finished
    lock = hold_folder(output)
    trainer = as_input_error(
        lambda: VqaTrainer(
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=dataset,
            processing_class=processor,
            peft_config=lora_config(config, model) if config.adapter != "none" else None,
            callbacks=[probe] if probe else None,
        ),
        f"got {config.model}, which TRL cannot fine-tune",
    )
    if probe:
        if trainer.accelerator.num_processes > 1:
            raise InputError(
                "got ted with several processes, expected one: leave it out, and score checkpoints with granted "
                "export and granted evaluate"
            )
        probe.trainer = trainer
    if trainer.accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / RUN, record)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if trainer.accelerator.is_main_process:
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


def usable_rows(config: VqaFinetuningConfig, collator: VqaCollator) -> tuple[Dataset, list[Problem]]:
    """The rows with their `length` in tokens, and those that are left out, with `skip_broken`.

    Every row is made a batch of, so that none can end a training later. Each process checks its share.

    Raises:
        InputError: there are broken rows and they are not to be skipped, or there are no others.
    """
    dataset = load_vqa(config.data)
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
    load: dict[str, Any] = {"dtype": torch.float32 if config.adapter == "none" else "auto"}
    load |= dict(config.model_init_kwargs or {})
    if config.adapter == "qlora":
        load["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=beside_the_layers(config.model, source),
        )
    what = f"got the model {config.model}, expected a vision-language model with its processor"
    processor = as_input_error(lambda: AutoProcessor.from_pretrained(config.model, **source), what)
    if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "tokenizer"):
        raise InputError(f"{what}: it has a {type(processor).__name__} only")
    load["output_loading_info"] = True
    model, loaded = as_input_error(
        lambda: AutoModelForImageTextToText.from_pretrained(config.model, **source, **load), what
    )
    as_input_error(lambda: check_weights(config.model, loaded["missing_keys"]), what)
    as_input_error(lambda: find_text_trunk(model.base_model), what)
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
    what = f"got the model {path}, expected a vision-language model"
    settings = as_input_error(lambda: AutoConfig.from_pretrained(path, **source), what)
    with torch.device("meta"):
        model = as_input_error(lambda: AutoModelForImageTextToText.from_config(settings), what)
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
    # The state of a checkpoint is written last: what a kill cut short has none.
    whole = [path.parent for path in output.glob(f"checkpoint-*/{STATE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


# ------------------------------------------------------------------------------------------------------------- command


def as_input_error(make, message: str):
    """What `make()` returns; what a library raises about bad input becomes one line."""
    try:
        return make()
    except InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise InputError(f"{message}: {' '.join(str(error).split())[:300]}") from error


def parse(arguments: Sequence[str]) -> VqaFinetuningConfig:
    """The settings given by options and by a YAML file (`--config`).

    Raises:
        InputError: an option or a value is unknown.
    """
    return parse_settings(VqaFinetuningConfig, arguments, "granted train vqa")


def run(arguments: Sequence[str]) -> str:
    """Do what the command line asks; what is to be shown at the end."""
    config = parse(arguments)
    if config.dry_run:
        model, processor, _ = load_model(config)
        peft_config = lora_config(config, model) if config.adapter != "none" else None
        collator = VqaCollator(processor, video_fps=config.video_fps, max_frames=config.max_frames)
        dataset, _ = usable_rows(config, collator)
        return dry_run_report(config, model, collator, dataset, peft_config)
    return f"wrote {finetune(config)}; make an encoder of it with granted export {config.output_dir} --output DIR"


if __name__ == "__main__":
    run_as_program(run)
