"""Tokens a second and peak memory of a stage-1 training step at the shape of Qwen3-VL-8B, with random weights.

    python benchmarks/vqa_step.py --output benchmarks/vqa_step.json          # one GPU of 80 GB or more
    python benchmarks/vqa_step.py --shape tiny                               # rehearsal on a CPU

Two arms: LoRA on the language projections, and the whole language model. The tower is frozen, weights are in bf16,
activations are checkpointed; a batch has rows of one image of 448 pixels (196 tokens) and text up to the length.
"""

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from granted.encoding.loading import choose_device, device_name
from granted.training.vqa.finetuning import VqaFinetuningConfig, lora_config, train_only_what_is_asked
from granted.utils.files import write_json


IMAGE, START, END = 151655, 151652, 151653  # token ids of Qwen3-VL
SHAPES = {
    "8b": {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        "vision_config": {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "out_hidden_size": 4096},
    },
    "tiny": {
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
        },
    },
}


def batch_of(config: Qwen3VLConfig, rows: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Random rows (B, N) with one image each; the last quarter of a row is the answer."""
    patch, merge = config.vision_config.patch_size, config.vision_config.spatial_merge_size
    side = 448 // patch
    images = (side // merge) ** 2
    ids = torch.randint(100, 10_000, (rows, length))  # (B, N)
    ids[:, 0], ids[:, 1 : images + 1], ids[:, images + 1] = START, IMAGE, END
    labels = ids.clone()  # (B, N)
    labels[:, : length * 3 // 4] = -100
    width = 3 * config.vision_config.temporal_patch_size * patch**2
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),  # (B, N)
        "mm_token_type_ids": (ids == IMAGE).long(),  # (B, N)
        "labels": labels,
        "pixel_values": torch.randn(rows * side * side, width, dtype=torch.bfloat16),  # (patches, C * T * P * P)
        "image_grid_thw": torch.tensor([[1, side, side]] * rows),  # (B, 3)
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def measure(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Median seconds of a step, the first one apart, and the peak memory."""
    on_gpu, seconds = torch.cuda.is_available(), []
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": round(median(seconds[1:] or seconds), 3), "peak_memory_gib": round(peak / 2**30, 2)}


def run_arm(adapter: str, shape: str, rows: int, length: int, steps: int) -> dict:
    """Median seconds of a step, tokens a second and peak memory of one arm."""
    device = choose_device().type
    names = {"model_name_or_path": "none", "data": "none", "output_dir": "none"}
    settings = VqaFinetuningConfig(**names, use_peft=adapter == "lora", use_cpu=device == "cpu", lora_r=64)
    config = Qwen3VLConfig(**SHAPES[shape], image_token_id=IMAGE, vision_start_token_id=START, vision_end_token_id=END)
    config.dtype = torch.bfloat16
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration(config).to(torch.bfloat16)
    train_only_what_is_asked(model, settings)
    if adapter == "lora":
        targets: LoraConfig = lora_config(settings, model)
        model = get_peft_model(model, targets)
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-5, fused=device == "cuda")
    batch = batch_of(config, rows, length, device)

    def step() -> None:
        model(**batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    measured = measure(step, steps)
    return {
        "adapter": adapter,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in trained),
        "rows": rows,
        "tokens_per_row": length,
        "seconds_per_step": measured["seconds"],
        "tokens_per_second": round(rows * length / measured["seconds"], 1),
        "peak_memory_gib": measured["peak_memory_gib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", default="")
    arguments = parser.parse_args()
    arms = []
    for adapter in ("lora", "none"):
        arms.append(run_arm(adapter, arguments.shape, arguments.rows, arguments.length, arguments.steps))
        print(arms[-1], flush=True)  # noqa: T201
    device = device_name(choose_device())
    if arguments.output:
        write_json(
            arguments.output, {"device": device, "torch": torch.__version__, "shape": arguments.shape, "arms": arms}
        )


if __name__ == "__main__":
    main()
