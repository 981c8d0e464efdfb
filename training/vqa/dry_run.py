"""What a VQA fine-tuning would train on, without training: rows with the loss mask, tokens, parameters, memory."""

import copy
import math
import os
import re
from itertools import groupby
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from granted.dataset_builders.visual_vqa.collator import IGNORED, VqaCollator


SHOWN, COUNTED = 3, 200  # rows


def dry_run_report(
    config: Any, model: nn.Module, collator: VqaCollator, dataset: Dataset, peft_config: LoraConfig | None
) -> str:
    """Three rendered rows, in which what counts in the loss stands in 【】, then the statistics of the run.

    Args:
        config ([`VqaFinetuningConfig`]): the settings.
        model (`PreTrainedModel`): with what is not trained frozen.
        collator ([`VqaCollator`]): makes the batches.
        dataset (`Dataset`): rows that can be used.
        peft_config (`LoraConfig`, *optional*): the adapter.
    """
    picked = [round(i * (len(dataset) - 1) / max(1, min(COUNTED, len(dataset)) - 1)) for i in range(COUNTED)]
    batches = [collator([dataset[i]]) for i in dict.fromkeys(i for i in picked if i < len(dataset))]
    rows = [rendered(batch, collator.processor.tokenizer) for batch in batches[:SHOWN]]
    tokens = [batch["input_ids"].shape[1] for batch in batches]
    answered = [int((batch["labels"] != IGNORED).sum()) for batch in batches]
    visual = {kind: sum(media_tokens(batch, kind, model) for batch in batches) for kind in ("image", "video")}
    if peft_config is not None:
        model = get_peft_model(model, copy.deepcopy(peft_config))
    # PEFT knows how many values a four-bit weight holds.
    trainable, total = PeftModel.get_nb_trainable_parameters(model)
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * max(1, config.world_size)
    # As the trainer counts: an epoch ends with a step, be it of fewer rows.
    steps = (
        config.max_steps
        if config.max_steps > 0
        else math.ceil(math.ceil(len(dataset) / per_step) * config.num_train_epochs)
    )
    shards = config.world_size if os.environ.get("ACCELERATE_USE_FSDP") == "true" else 1
    batch = config.per_device_train_batch_size * max(tokens)
    memory = estimated_memory(model, batch, config.gradient_checkpointing, shards)
    facts = [
        f"rows: {len(dataset)}; counted below: {len(batches)}",
        f"tokens a row: {min(tokens)} to {max(tokens)}, mean {sum(tokens) / len(tokens):.1f}; of all, "
        f"{100 * sum(answered) / sum(tokens):.1f} % are answers, {100 * visual['image'] / sum(tokens):.1f} % images, "
        f"{100 * visual['video'] / sum(tokens):.1f} % videos",
        f"trainable parameters: {trainable:,} of {total:,} ({100 * trainable / total:.2f} %)",
        f"estimated memory of a process: {memory / 2**30:.1f} GiB (weights, gradients, AdamW, activations; the "
        "libraries' own needs not counted)",
        f"steps: {steps} of {per_step} rows",
    ]
    return "\n\n".join([*(f"--- row {i + 1}\n{row}" for i, row in enumerate(rows)), "---\n" + "\n".join(facts)])


def rendered(batch: dict[str, torch.Tensor], tokenizer) -> str:
    """The text of the first row of a batch, what counts in the loss in 【】, runs of one special token shortened."""
    marked = zip(batch["input_ids"][0].tolist(), (batch["labels"][0] != IGNORED).tolist())
    text = ""
    for counts, run in groupby(marked, key=lambda pair: pair[1]):
        said = tokenizer.decode([token for token, _ in run])
        text += f"【{said}】" if counts else said
    return re.sub(r"(<\|[^|]+\|>)\1+", lambda run: f"{run[1]}×{len(run[0]) // len(run[1])}", text).strip()


def media_tokens(batch: dict[str, torch.Tensor], kind: str, model: nn.Module) -> int:
    """How many tokens of a batch stand for images or videos."""
    token = getattr(model.config, f"{kind}_token_id", None)
    return 0 if token is None else int((batch["input_ids"] == token).sum())


def estimated_memory(model: nn.Module, tokens: int, checkpointing: bool, shards: int = 1) -> int:
    """Bytes for weights, gradients and AdamW's two moments, over `shards` processes, and for a batch's activations.

    Of a layer about 34 values of two bytes a token and unit of width are kept (attention without its matrix), with
    activation checkpointing its input alone, and one layer whole at a time.

    Args:
        model (`nn.Module`): the one to be trained.
        tokens (`int`): of a batch.
        checkpointing (`bool`): activation checkpointing.
        shards (`int`, defaults to 1): processes that share the weights.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    text = model.config.get_text_config()
    layer = 34 * tokens * text.hidden_size
    kept = 2 * tokens * text.hidden_size * text.num_hidden_layers + layer
    activations = kept if checkpointing else layer * text.num_hidden_layers
    return (weights + 3 * trained) // shards + activations
