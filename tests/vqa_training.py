"""Trainings of stage 1 at tiny size: a real Qwen3-VL of a few hundred thousand parameters, rows, settings.

finetune(options(save_model(folder / "model"), write_data(folder), folder / "run", max_steps=1))
"""

import json

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen3VLForConditionalGeneration,
)

from granted.dataset_builders.scenes.shapes.rows import vqa_rows, write_rows
from granted.eval_metric.ted_probe import TedProbe
from granted.examples.miniature.model import CHAT_TEMPLATE, miniature_config, miniature_processor, miniature_tokenizer
from granted.training.vqa.finetuning import VqaFinetuningConfig
from granted.training.vqa.finetuning import finetune as finetune_unscored


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 4096}


def save_model(folder) -> str:
    """A model with its processor; the folder."""
    tokenizer = miniature_tokenizer(500, 20)
    config = miniature_config(tokenizer)
    config.text_config.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3})
    config.vision_config.update({"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64})
    torch.manual_seed(0)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    miniature_processor(tokenizer).save_pretrained(folder)
    return str(folder)


def write_data(folder):
    """Six questions about images, two about videos and two without either; the folder."""
    write_rows(vqa_rows(6, size=32), folder / "images.parquet")
    write_rows(vqa_rows(2, media="video", size=32, frames=8), folder / "clips.parquet")
    said = {"user": "What is two and two?", "assistant": "Four."}
    asked = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()]
    texts = [{"messages": asked}, {"messages": [*asked, *asked]}]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    return folder


def options(model_folder, rows, output, **changed):
    settings = {
        "model_name_or_path": model_folder,
        "data": f"{rows / 'images.parquet'},{rows / 'clips.parquet'}",
        "output_dir": str(output),
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "save_steps": 100,
    }
    return VqaFinetuningConfig(**settings | changed)


def finetune(config):
    """As the command does it."""
    return finetune_unscored(config, TedProbe.from_files(config) if config.ted else None)


def weights(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def llava(tokenizer):
    vision = CLIPVisionConfig(
        image_size=32, patch_size=8, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    text = LlamaConfig(**SMALL, vocab_size=len(tokenizer))
    image_id = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    sides = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=sides, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=CHAT_TEMPLATE,
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=image_id)
    ), processor
