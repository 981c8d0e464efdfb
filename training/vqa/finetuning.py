"""Stage 1: VQA fine-tuning of a vision-language model by TRL's SFTTrainer, whole or with a PEFT adapter (Section 3.4).

    granted train vqa --config training/configs/vqa_qwen3_vl_8b_lora.yaml --data vqa.parquet --output-dir run
    accelerate launch --config_file training/configs/accelerate_fsdp2.yaml -m granted.cli train vqa \\
        --config training/configs/vqa_qwen3_vl_8b_fsdp2.yaml --data vqa.parquet --output-dir run

Tiny, on CPU: `make miniature`, whose settings are `examples/miniature/vqa.yaml`. `--dry-run`
shows what would be trained on; `--help` shows everyday options, `--help-all` all that TRL has. Run the same command
again to go on after an interruption. `granted export` makes an encoder of the outcome.
"""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

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
    SchedulerType,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import cached_file, extract_commit_hash, is_torch_bf16_gpu_available
from trl import SFTConfig, SFTTrainer

from granted.dataset_builders.visual_vqa.check import Problem, check_rows, raise_if_broken, usable
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.encoding.loading import whole_vision_language_model
from granted.modeling_text_trunk import find_text_trunk
from granted.training.run_folder import (
    RECORD,
    RUN,
    STATE,
    check_identity,
    checkpoints,
    clear_finished,
    data_fingerprint,
    hold_folder,
    leave_folder,
    shared_folder,
)
from granted.training.vqa.dry_run import dry_run_report
from granted.training.vqa.export import model_fingerprint
from granted.utils.errors import InputError, refusing
from granted.utils.files import read_json, write_json, writing
from granted.utils.options import option
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
# Of TRL's other numbers those that have bounds; the rest has to be finite, and whole where it is a count.
BOUNDS = {
    "max_grad_norm": NonNegative,
    "adam_beta1": Share,
    "adam_beta2": Share,
    "adam_epsilon": Positive,
    "label_smoothing_factor": Share,
    "data_seed": Seed | None,
    "save_total_limit": Count | None,
}
# Where a run is written, how it is shown and how its data are read: the result does not depend on it.
_APART = re.compile(
    r"output_dir|logging|report_to|run_name|disable_tqdm|save_|resume|dry_run|project|trackio|hub_|ted"
    r"|dataloader_(?!drop_last)"
)


MODEL, TRAINED, TRAINING, PROGRESS = HELP_GROUPS = (
    "Model and data",
    "What is trained",
    "Training",
    "Checkpoints, progress, scores",
)


@dataclass
class VqaFinetuningConfig(SFTConfig):
    """All of TRL's [`SFTConfig`], of its `ModelConfig` what a model and an adapter need, and what stage 1 adds.

    Defaults that are not TRL's: `assistant_only_loss=True`, `max_length=None` (nothing is cut), `save_total_limit=2`,
    an adapter on all linear projections of the language model's layers, and `bf16` where there is a GPU that computes
    in it, elsewhere fp32.

    Raises:
        InputError: a value is of another type or out of range, or settings contradict one another.
    """

    help_groups: ClassVar[tuple[str, ...]] = HELP_GROUPS

    model_name_or_path: str = option("", "Hub id or folder of a vision-language model.", group=MODEL)
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", group=MODEL)
    data: str = option("", "Rows in TRL's layout: Parquet or JSON Lines files, a folder, or a Hub id.", group=MODEL)
    skip_broken: bool = option(False, "Leave out rows that cannot be used, instead of refusing all.", group=MODEL)
    video_fps: Positive | None = option(
        None, "Frames a second seen of videos; by default as the processor wants.", group=MODEL
    )
    max_frames: Count | None = option(None, "Most frames read of a video.", group=MODEL)
    use_peft: bool = option(False, "Train an adapter instead of the whole language model: LoRA.", group=TRAINED)
    lora_r: Count = option(16, "Rank of the adapter.", group=TRAINED)
    lora_alpha: Count = option(32, "Scale of the adapter, divided by the rank.", group=TRAINED)
    lora_dropout: Share = option(0.0, "Dropout before the adapter.", group=TRAINED)
    lora_target_modules: list[str] | None = option(
        None, "Ends of module names, or one regular expression; all projections by default.", group=TRAINED
    )
    use_dora: bool = option(False, "DoRA instead of LoRA.", group=TRAINED)
    load_in_4bit: bool = option(False, "QLoRA: the adapter over four-bit weights; needs a GPU.", group=TRAINED)
    train_vision: bool = option(False, "Train what is not the language model, too; without an adapter.", group=TRAINED)
    output_dir: str | None = option(None, "Gets the model or adapter, the record, and checkpoints.", group=TRAINING)
    num_train_epochs: Positive = option(3.0, "Passes over the rows.", group=TRAINING)
    max_steps: Annotated[int, Bounds("a whole number above 0, or -1", lambda value: value > 0 or value == -1)] = (
        option(-1, "Stop after so many steps; -1 for all epochs.", group=TRAINING)
    )
    per_device_train_batch_size: Count = option(8, "Rows per process and part of a step.", group=TRAINING)
    gradient_accumulation_steps: Count = option(1, "Parts of a step.", group=TRAINING)
    learning_rate: Positive = option(2e-5, "Peak learning rate of AdamW.", group=TRAINING)
    lr_scheduler_type: SchedulerType | str = option("linear", "Such as linear, cosine or constant.", group=TRAINING)
    warmup_steps: NonNegative = option(0, "Steps of linear rise; below 1 a share of all.", group=TRAINING)
    weight_decay: NonNegative = option(0.0, "AdamW weight decay.", group=TRAINING)
    bf16: bool | None = option(
        None, "Compute in bf16; by default where there is a GPU that does, else in fp32.", group=TRAINING
    )
    gradient_checkpointing: bool = option(True, "Least memory, not least time.", group=TRAINING)
    train_sampling_strategy: str = option("random", "Or group_by_length: less padding.", group=TRAINING)
    seed: Seed = option(42, "Seed of data order and dropout.", group=TRAINING)
    save_steps: Positive = option(500, "Steps between checkpoints.", group=PROGRESS)
    logging_steps: Positive = option(10, "Steps between points of the curve.", group=PROGRESS)
    report_to: str | list[str] | None = option("none", "Where curves go: none, trackio, wandb, ...", group=PROGRESS)
    dry_run: bool = option(False, "Show three rows, count tokens and parameters, and train nothing.", group=PROGRESS)
    ted: str | None = option(
        None, "A TED benchmark on which the encoder is scored before, during and after.", group=PROGRESS
    )
    ted_pairs: str | None = option(
        None, "Caption pairs on which an aggregator is trained for each score.", group=PROGRESS
    )
    ted_steps: Count | None = option(
        None, "Steps between two scores; by default only before and after.", group=PROGRESS
    )
    ted_config: str | None = option(None, "YAML file with settings of the aggregator's training.", group=PROGRESS)
    assistant_only_loss: bool = True
    max_length: int | None = None
    remove_unused_columns: bool = False
    dataset_kwargs: dict | str | None = field(default_factory=lambda: {"skip_prepare_dataset": True})
    save_total_limit: int | None = 2

    def __post_init__(self):
        check_settings(self, [one.name for one in fields(self) if "group" in one.metadata])
        for name, kind in numbers_of_trl().items():
            check_value(name, getattr(self, name), kind)
        self._refuse_what_contradicts()
        if self.bf16 is None:
            self.bf16 = not (self.fp16 or self.use_cpu) and is_torch_bf16_gpu_available()
            if not (self.bf16 or self.fp16):
                logger.warning("no GPU that computes in bf16: training in fp32 (bf16 false)")
        gpu = torch.cuda.is_available()
        needs = [name for name in ("load_in_4bit", "tf32") if getattr(self, name)]
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

    def _refuse_what_contradicts(self) -> None:
        needs_adapter = [name for name in ("use_dora", "load_in_4bit", "lora_target_modules") if getattr(self, name)]
        absent = [name for name in ("model_name_or_path", "data", "output_dir") if not getattr(self, name)]
        beside_answers = not self.assistant_only_loss or self.completion_only_loss or self.chat_template_path
        for wrong, message in (
            (self.use_peft and self.train_vision, "got train_vision with use_peft, expected one of them: choose one"),
            (
                needs_adapter and not self.use_peft,
                f"got {', '.join(needs_adapter)} without use_peft, expected an adapter: add --use-peft",
            ),
            (absent, f"got no {', '.join(absent)}, expected a value: give --{'-'.join(absent[:1]).replace('_', '-')}"),
            (
                self.max_length is not None or self.packing or self.padding_free,
                "got max_length, packing or padding_free, expected none: images must not be cut",
            ),
            (
                beside_answers,
                "got assistant_only_loss=false, completion_only_loss or chat_template_path, expected none: the loss "
                "is on answers, by the chat template beside the model",
            ),
            (
                self.save_only_model,
                "got save_only_model, expected false: a checkpoint without its optimiser cannot go on",
            ),
            (
                self.resume_from_checkpoint,
                "got resume_from_checkpoint, expected none: the same command goes on by itself",
            ),
            (
                bool(self.ted) != bool(self.ted_pairs),
                "got one of ted and ted_pairs, expected both or none: an aggregator is trained on pairs",
            ),
        ):
            if wrong:
                raise InputError(message)


@cache
def numbers_of_trl() -> dict[str, Any]:
    """The kinds of TRL's settings that are numbers."""
    kinds = get_type_hints(SFTConfig)
    plain = {name: kind for name, kind in kinds.items() if {*(get_args(kind) or [kind])} <= {int, float, NoneType}}
    own = {one.name for one in fields(VqaFinetuningConfig) if "group" in one.metadata}
    names = [one.name for one in fields(SFTConfig) if one.init and one.name in plain and one.name not in own]
    return {name: plain[name] for name in names} | BOUNDS


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
        clear_finished(output)
        return output  # this very run has been finished
    with refusing(f"the model {config.model_name_or_path}", "one that TRL can fine-tune: check the settings"):
        trainer = VqaTrainer(
            model=model,
            args=config,
            data_collator=collator,
            train_dataset=dataset,
            processing_class=processor,
            peft_config=lora_config(config, model) if config.use_peft else None,
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


def dry_run(config: VqaFinetuningConfig) -> str:
    """What would be trained on, see [`dry_run_report`]."""
    rows = load_vqa(config.data)
    model, processor, _ = load_model(config)
    peft_config = lora_config(config, model) if config.use_peft else None
    collator = VqaCollator(processor, video_fps=config.video_fps, max_frames=config.max_frames)
    dataset, _ = usable_rows(config, collator, rows)
    return dry_run_report(config, model, collator, dataset, peft_config)


# ---------------------------------------------------------------------------------------------------------------- data


def usable_rows(config: VqaFinetuningConfig, collator: VqaCollator, dataset: Dataset) -> tuple[Dataset, list[Problem]]:
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
    source = {"revision": config.model_revision, "trust_remote_code": config.trust_remote_code}
    load = source | {"dtype": "auto" if config.use_peft else torch.float32}
    load |= dict(config.model_init_kwargs or {})
    if config.load_in_4bit:
        load["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=beside_the_layers(config.model_name_or_path, source),
        )
    model, processor = whole_vision_language_model(config.model_name_or_path, **load)
    with refusing(f"the model {config.model_name_or_path}", "one that reads text by a language model"):
        find_text_trunk(model.base_model)
    train_only_what_is_asked(model, config)
    local = os.path.exists(config.model_name_or_path)
    path = None if local else cached_file(config.model_name_or_path, "config.json", revision=config.model_revision)
    base = {
        "base_model": config.model_name_or_path,
        "base_revision": extract_commit_hash(path, None),
        "base_fingerprint": None if config.load_in_4bit else model_fingerprint(model),
    }
    return model, processor, base


def train_only_what_is_asked(model: PreTrainedModel, config: VqaFinetuningConfig) -> None:
    """Freeze all but the language model and its head, unless the vision tower is to be trained, too."""
    if config.train_vision:
        return
    trunk, _ = find_text_trunk(model.base_model)
    model.requires_grad_(False)
    for part in (trunk, model.get_output_embeddings()):
        if part is not None and not config.load_in_4bit:
            part.requires_grad_(True)


def lora_config(config: VqaFinetuningConfig, model: PreTrainedModel) -> LoraConfig:
    """LoRA or DoRA on the linear projections of the language model's layers, or on `lora_target_modules`.

    Raises:
        InputError: the targets match no linear layer.
    """
    names = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets: str | list[str] = config.lora_target_modules or _projections(model)
    if isinstance(targets, list) and len(targets) == 1:  # as TRL takes it: a regular expression, or one end
        targets = targets[0]
    ends = tuple(f".{end}" for end in targets) if isinstance(targets, list) else ()
    try:
        matched = [name for name in names if f".{name}".endswith(ends) or (not ends and re.fullmatch(targets, name))]
    except re.error as error:
        raise InputError(f"got lora_target_modules {targets!r}, expected a regular expression ({error})") from error
    if not matched:
        example = next(iter(names))
        raise InputError(
            f"got lora_target_modules {targets!r}, which match none of {len(names)} linear layers, expected names "
            f"such as {example}"
        )
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        use_dora=config.use_dora,
        revision=config.model_revision,
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
    for name in ("data", *(("model_name_or_path", "model_revision") if record["base_fingerprint"] else ())):
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
    whole = [str(path) for path in checkpoints(output) if _is_whole(path)]
    return whole[-1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was saved to its end: its state is written last."""
    try:
        return "global_step" in read_json(checkpoint / STATE)
    except (InputError, TypeError):
        return False


def remove_broken_checkpoints(output: Path) -> None:
    """Remove the checkpoints that a kill or a full disk has cut short; those saved before are left."""
    for path in checkpoints(output):
        if not _is_whole(path):
            shutil.rmtree(path)
