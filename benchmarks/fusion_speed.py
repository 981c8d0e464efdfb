"""What one pass of an encoder costs when all that a diffusion model reads is fused while its layers run.

    python benchmarks/fusion_speed.py --shape 4b --output fusion_4b.json     # one GPU of 40 GB, about a minute
    python benchmarks/fusion_speed.py --shape tiny --batch 2 --tokens 16 --repeats 2        # rehearsal on a CPU
    python benchmarks/fusion_speed.py --encoder smollm2=SmolLM2-135M-Instruct.gguf
    python benchmarks/fusion_speed.py --encoder FOLDER --batch 2 --tokens 16 --repeats 2    # tiny

`--shape` builds the text encoder of Qwen3-VL-4B, or a small one of the same depth, with random weights on the device.
`bare` is one pass of the encoder alone. The fusions are `norm_avg`; `krea2` (the layers of Krea 2, a stack); `flux2`
(those of FLUX.2 klein, a concat); `per_block` (24 learned sums, one for each block of a diffusion model); `six`
(norm_avg, avg, learned and three single layers); `three` (krea2, flux2 and per_block). Where an encoder has another
depth, the layers of `krea2` and `flux2` are those at the same parts of it.

Every fusion has two arms: streamed, from one pass that never holds the layers; and `stacked`, where all hidden states
are held and stacked, then fused. Two more arms get the gradient of the layer weights of `per_block`: `recomputed` runs
the encoder again in backward, `kept` holds its layers. All arms run in turn in one process.

`difference` compares streamed with stacked features, and the gradients of `recomputed` with those of `kept`: the
largest over all vectors, relative to the norm of the vector. Memory is the most that an arm holds beside the weights,
known on a GPU only.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from transformers import Qwen3VLTextConfig

from granted import __version__
from granted.configuration_granted import GrantedConfig
from granted.encoding.loading import EncoderOptions, choose_device, device_name, load_encoder
from granted.modeling_granted import GrantedModel
from granted.modeling_layer_fusion import LayerFusion
from granted.modeling_pipeline_rules import pipeline_rule
from granted.utils.files import write_json
from granted.utils.versions import library_versions


DEPTH = 36  # of the Qwen3 encoders that the layers of Krea 2 and FLUX.2 klein are numbered for
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
SHAPES = {"4b": (151936, 2560, 9728, 32, 8, 128), "tiny": (1000, 64, 128, 4, 2, 16)}


def random_encoder(shape: str, dtype: str) -> GrantedModel:
    """The text encoder of Qwen3-VL at a shape, with random weights made on its device and in their dtype."""
    text = Qwen3VLTextConfig(**dict(zip(SIZES, SHAPES[shape])), num_hidden_layers=DEPTH, dtype=dtype)
    with torch.device(choose_device()):
        return GrantedModel(GrantedConfig(encoder_config=text, fusion="norm_avg"))


def make_fusions(depth: int) -> dict[str, list[LayerFusion]]:
    """What is taken from one pass of an encoder of so many layers."""

    def of_pipeline(name: str) -> LayerFusion:
        options = pipeline_rule(name).options
        layers = sorted({index * depth // DEPTH for index in options["layers"]})
        return LayerFusion(options["fusion"], depth, layers=layers)

    norm_avg, avg, learned = (LayerFusion(kind, depth) for kind in ("norm_avg", "avg", "learned"))
    single = [LayerFusion("single", depth, layer_index=i) for i in (-1, -2, 0)]
    krea2, flux2 = of_pipeline("krea2"), of_pipeline("flux2-klein")
    per_block = LayerFusion("learned", depth, num_outputs=24)
    torch.nn.init.normal_(per_block.weights)  # (24, depth), so that no two sums are equal
    alone = {"norm_avg": norm_avg, "krea2": krea2, "flux2": flux2, "per_block": per_block}
    together = {"six": [norm_avg, avg, learned, *single], "three": [krea2, flux2, per_block]}
    return {name: [fusion] for name, fusion in alone.items()} | together


def make_arms(encoder: GrantedModel, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Callable]:
    """The arms by name: functions that read token ids with a mask, (B, N) each, and give features or gradients."""
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}

    @torch.no_grad()
    def bare():
        return encoder.text_trunk(**inputs)

    @torch.no_grad()
    def streamed(fusions: list[LayerFusion]) -> list[torch.Tensor]:
        return encoder.fuse(ids, mask, fusions)

    @torch.no_grad()
    def stacked(fusions: list[LayerFusion]) -> list[torch.Tensor]:
        states = encoder.text_trunk(**inputs, output_hidden_states=True).hidden_states
        stack = torch.stack(states[1:], dim=1)  # (B, L, N, D)
        return [fusion(stack, mask) for fusion in fusions]

    def gradient(fusion: LayerFusion, recompute: bool) -> list[torch.Tensor]:
        (features,) = encoder.fuse(ids, mask, [fusion], recompute=recompute)  # (B, K, N, D)
        return list(torch.autograd.grad(features.square().mean(), fusion.weights))  # (K, L)

    fusions = make_fusions(encoder.config.num_hidden_layers)
    arms: dict[str, Callable] = {"bare": bare}
    for name, several in fusions.items():
        several = [fusion.to(ids.device) for fusion in several]
        arms |= {name: partial(streamed, several), f"{name}, stacked": partial(stacked, several)}
    arms["per_block, recomputed"] = partial(gradient, *fusions["per_block"], recompute=True)
    arms["per_block, kept"] = partial(gradient, *fusions["per_block"], recompute=False)
    return arms


def compare(arms: dict[str, Callable]) -> dict[str, float]:
    """How far the arms that stream are from their plain forms; every arm but the bare one runs once.

    Raises:
        RuntimeError: features or gradients are not finite.
    """
    pairs = [(name, f"{name}, stacked") for name in arms if f"{name}, stacked" in arms]
    found = {}
    for name, plain in [*pairs, ("per_block, recomputed", "per_block, kept")]:
        errors = [
            float(((one - other).norm(dim=-1) / other.norm(dim=-1)).max())  # over (..., D)
            for one, other in zip(arms[name](), arms[plain](), strict=True)
        ]
        if not all(map(math.isfinite, errors)):
            raise RuntimeError(f"got NaN or infinite values from {name} or {plain}, expected finite ones")
        found[name] = max(errors)
    return found


def measure(run: Callable, on_gpu: bool) -> tuple[float, float | None]:
    """Seconds of a run, and the most GiB that it held beside what was there before."""
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    run()
    if not on_gpu:
        return time.perf_counter() - started, None
    torch.cuda.synchronize()
    return time.perf_counter() - started, (torch.cuda.max_memory_allocated() - before) / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--shape", choices=SHAPES, help="of a Qwen3-VL with random weights")
    source.add_argument("--encoder", help="folder, Hub id or GGUF file; NAME=PATH names it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("fusion_speed.json"))
    options = parser.parse_args()

    torch.manual_seed(0)
    if options.shape:
        name, encoder = f"random Qwen3-VL {options.shape}", random_encoder(options.shape, options.dtype)
    else:
        name, encoder = load_encoder(options.encoder, EncoderOptions(dtype=options.dtype))
    encoder.eval().requires_grad_(False)
    ids = torch.randint(10, 1000, (options.batch, options.tokens)).to(encoder.device)  # (B, N)
    arms = make_arms(encoder, ids, torch.ones_like(ids))
    differences = compare(arms)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    memory: dict[str, float | None] = {}
    for repeat in range(options.repeats + 1):
        for arm, run in arms.items():
            took, memory[arm] = measure(run, encoder.device.type == "cuda")
            if repeat:  # the first round warms up
                seconds[arm].append(took)
    typical = {arm: median(values) for arm, values in seconds.items()}
    ratios = {arm: median(one / bare for one, bare in zip(values, seconds["bare"])) for arm, values in seconds.items()}
    figures, lines = {}, [f"{'':<22}{'ms':>10}{'x bare':>9}{'GiB':>8}{'difference':>12}\n"]
    for arm, gib in memory.items():
        row = (1000 * typical[arm], ratios[arm], gib, differences.get(arm))
        figures[arm] = dict(zip(("milliseconds", "ratio_to_bare", "peak_memory_gib", "difference"), row))
        cells = ("" if value is None else format(value, how) for value, how in zip(row, (".2f", ".3f", ".2f", ".1e")))
        lines.append("{:<22}{:>10}{:>9}{:>8}{:>12}\n".format(arm, *cells))
    summary = {
        "encoder": name,
        "device": device_name(encoder.device),
        "versions": {"granted": __version__} | library_versions("torch", "transformers"),
        "dtype": options.dtype,
        "shape": options.shape or [options.batch, options.tokens],
        "batch": options.batch,
        "tokens": options.tokens,
        "layers": encoder.config.num_hidden_layers,
        "parameters": sum(parameter.numel() for parameter in encoder.encoder.parameters()),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "arms": figures,
        "seconds": typical,
        "ratio_to_bare": ratios,
    }
    write_json(options.output, summary)
    sys.stdout.write("".join(lines))


if __name__ == "__main__":
    main()
