"""Seconds and peak memory of a step of the paper's text-to-image training, before and after the layer weights' freeze.

    python benchmarks/diffusion_step.py --output benchmarks/diffusion_step.json     # one GPU of 80 GB or more
    python benchmarks/diffusion_step.py --shape tiny                                # rehearsal on a CPU

Shapes are those of Qwen3-VL-8B and of `t2i_paper.yaml` (latents of 256 px, 16 x 32 x 32), weights are random, the
encoder is in bf16. Before the freeze the encoder runs in every step, its layers fused as they come and run again for
the layer weights' gradient; after it the features are constant and the encoder has left the memory. The encoder's
share is what the freeze saves.
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from diffusers import Lumina2Transformer2DModel
from transformers import Qwen3VLConfig
from vqa_step import SHAPES, measure

from granted.configuration_granted import GrantedConfig
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.two_step import LayerWeightSchedule
from granted.training.flow_matching import flow_matching
from granted.utils.files import write_json


CONFIGS = Path(__file__).parents[1] / "training/configs"
TRANSFORMERS = {"8b": "t2i_paper.yaml", "tiny": "t2i_miniature_32.yaml"}
LATENTS = {"8b": (16, 32, 32), "tiny": (3, 32, 32)}


def main(shape: str, rows: int, length: int, steps: int, output: str) -> None:
    accelerator = Accelerator(mixed_precision="bf16")
    device = accelerator.device
    with torch.device(device):
        plain = Qwen3VLConfig(**SHAPES[shape])
        plain.dtype = torch.bfloat16
        encoder = GrantedModel(GrantedConfig(encoder_config=plain, fusion="learned")).to(torch.bfloat16)
        settings = yaml.safe_load((CONFIGS / TRANSFORMERS[shape]).read_text())["transformer"]
        channels, side, _ = LATENTS[shape]
        follows = {"in_channels": channels, "sample_size": side, "cap_feat_dim": encoder.config.hidden_size}
        transformer = Lumina2Transformer2DModel(**settings | follows)
        ids = torch.randint(100, 10_000, (rows, length))  # (B, N)
        samples = torch.randn(rows, *LATENTS[shape])  # (B, C, H, W)
    mask = torch.ones_like(ids)  # (B, N)
    transformer.train().enable_gradient_checkpointing()
    schedule = LayerWeightSchedule(encoder, mode="two_step", freeze_at=f"{steps}", total_steps=2 * steps)
    optimizer = torch.optim.AdamW(transformer.parameters(), 1e-4, fused=device.type == "cuda")
    transformer, optimizer = accelerator.prepare(transformer, optimizer)

    def step(embeds: Callable[[], torch.Tensor]) -> None:
        sigmas = torch.rand(rows, device=device)  # (B,)
        noisy, velocity = flow_matching(samples, torch.randn_like(samples), sigmas)  # (B, C, H, W) each
        predicted = -transformer(noisy, 1 - sigmas, embeds(), mask, return_dict=False)[0]  # (B, C, H, W)
        accelerator.backward(F.mse_loss(predicted.float(), velocity))
        optimizer.step()
        optimizer.zero_grad()
        schedule.update(accelerator)

    def encoded() -> torch.Tensor:
        return encoder(ids, mask, recompute=True).last_hidden_state  # (B, N, D)

    result = {
        "shape": shape,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "rows": rows,
        "tokens_per_caption": length,
        "encoder_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "transformer_parameters": sum(parameter.numel() for parameter in transformer.parameters()),
        "before_the_freeze": measure(lambda: step(encoded), steps),
    }
    schedule.begin(steps)
    with torch.no_grad():
        features = encoded()  # (B, N, D), as they would come from the disk
    del encoder.encoder
    result["after_the_freeze"] = measure(lambda: step(lambda: features), steps)
    joint, fixed = (result[phase]["seconds"] for phase in ("before_the_freeze", "after_the_freeze"))
    result["encoder_share"] = round(1 - fixed / joint, 3)
    print(result)  # noqa: T201
    if output:
        write_json(output, result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=TRANSFORMERS, default="8b")
    parser.add_argument("--rows", type=int, default=32, help="captions and latents of a step")
    parser.add_argument("--length", type=int, default=256, help="tokens of a caption")
    parser.add_argument("--steps", type=int, default=5, help="of either phase")
    parser.add_argument("--output", default="")
    main(**vars(parser.parse_args()))
