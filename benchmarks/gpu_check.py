"""Every command on a GPU gives the figures of the CPU, and what reading costs at the shape of Qwen3-VL-8B.

    python benchmarks/gpu_check.py --encoder smollm2=SmolLM2.gguf --output check  # a GPU of 40 GB
    python benchmarks/gpu_check.py --shape tiny --instances 200 --output check     # rehearsal on a CPU

The same commands run side by side without a GPU and with it, each in a process of its own, in fp32. What is written,
`check/report.json`, says how far apart features, losses, answers, scores and pixels are. Then a Qwen3-VL of random
weights reads a whole synthetic benchmark through `granted encode` and `granted evaluate ted`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLModel
from vqa_step import SHAPES

from granted.cli import main as command
from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.loading import choose_device, device_name
from granted.eval_metric.results import load_all
from granted.examples.miniature.model import build_miniature
from granted.utils.files import read_json, read_lines, write_json
from granted.utils.versions import library_versions


ROOT = Path(__file__).parents[1]
MINIATURE = ROOT / "checkpoints/tiny/granted"
T2I = ROOT / "training/configs/t2i_miniature_32.yaml"
# Seconds that a command may take before it is stopped as hanging.
PATIENCE = 1200
EXACT = ("--mixed-precision", "no", "--dtype", "float32", "--recompute-layers", "--held-out", "40")


def granted(*arguments: object, on_gpu: bool = True, log: Path) -> float:
    """Run a `granted` command, its output appended to a file; the seconds it took.

    Raises:
        RuntimeError: it failed; the message ends with its last lines.
    """
    environment = dict(os.environ) if on_gpu else os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    words = [sys.executable, "-m", "granted.cli", *map(str, arguments)]
    started = time.perf_counter()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ granted {' '.join(words[3:])}\n{done.stdout}{done.stderr}\n")
    if done.returncode:
        raise RuntimeError(f"granted {' '.join(words[3:])} gave {done.returncode}: {done.stderr[-800:]}")
    return round(time.perf_counter() - started, 1)


def make_data(folder: Path, log: Path) -> None:
    """The data of all commands, made once."""
    shapes = ("data", "shapes")
    simple = ("--size", 32, "--things", "1,3", "--large-solid", "--captions", "plain")
    for arguments in (
        (*shapes, "text-to-image", "--count", 200, *simple, "--output", folder / "images.parquet"),
        (
            *shapes,
            "text-to-image",
            "--count",
            8,
            *simple,
            "--split",
            "benchmark",
            "--output",
            folder / "prompts.parquet",
        ),
        (*shapes, "vqa", "--count", 64, "--size", 96, "--aspects", "counting", "--output", folder / "vqa.parquet"),
        (
            "data",
            "pairs",
            "--scenes",
            400,
            "--categories",
            1,
            "--scene-words",
            "40,120",
            "--output",
            folder / "pairs.parquet",
        ),
    ):
        granted(*arguments, on_gpu=False, log=log)
    build_miniature(folder / "qwen3-vl", images=0)
    captions = [f"a photo of {i} red cubes beside a blue sphere, number {i * 7} of many" for i in range(200)]
    (folder / "texts.txt").write_text("\n".join(captions), encoding="utf-8")


def run_commands(encoders: dict[str, str], data: Path, output: Path, on_gpu: bool, pool: ThreadPoolExecutor) -> list:
    """Each command once, in chains of commands that need one another; futures of the seconds of every chain."""
    output.mkdir(parents=True)
    log = output / "log.txt"

    def in_turn(*commands: tuple) -> dict[str, float]:
        """Seconds of each command, by its place, for one may come twice, and its name."""
        seconds = {}
        for number, words in enumerate(commands, 1):
            name = " ".join(words[: 2 if words[0] in ("train", "evaluate") else 1])
            seconds[f"{number} {name}"] = granted(*words, on_gpu=on_gpu, log=log)
        return seconds

    def read(name: str, path: str) -> dict[str, float]:
        spec, folder = f"{name}={path}", output / name
        training = ("--pairs", data / "pairs.parquet", "--features", "last,norm_avg,learned", "--max-steps", 10)
        scoring = (spec, "--aggregator", folder / "heads", "--dtype", "float32", "--output")
        return in_turn(
            ("encode", path, data / "texts.txt", "--dtype", "float32", "--output", folder / "features"),
            ("train", "aggregator", "--encoder", spec, *training, *EXACT, "--output", folder / "heads"),
            ("evaluate", "ted", *scoring, folder / "ted"),
            ("evaluate", "ted", *scoring, folder / "shards", "--shard", "1/1"),
            ("evaluate", "merge", folder / "shards", "--output", folder / "merged"),
        )

    def draw() -> dict[str, float]:
        training = ("--config", T2I, "--encoder", MINIATURE, "--dtype", "float32", "--data", data / "images.parquet")
        short = ("--max_steps", 6, "--batch_size", 8, "--mixed_precision", "no", "--sample_count", 4, "--log_steps", 1)
        sampling = (
            "--prompts",
            data / "prompts.parquet",
            "--trust-remote-code",
            "--negative-prompt",
            "",
            "--steps",
            4,
        )
        return in_turn(
            ("train", "text-to-image", *training, *short, "--output-dir", output / "t2i"),
            ("generate", output / "t2i/pipeline", *sampling, "--output", output / "images"),
            ("evaluate", "generation", output / "images", "--judge", data / "qwen3-vl"),
        )

    def answer() -> dict[str, float]:
        training = (
            "--model-name-or-path",
            data / "qwen3-vl",
            "--data",
            data / "vqa.parquet",
            "--bf16",
            "false",
        )
        short = ("--max_steps", 4, "--per_device_train_batch_size", 8, "--learning_rate", 1e-3, "--report_to", "none")
        questions = ("--data", data / "vqa.parquet", "--training-data", data / "vqa.parquet")
        return in_turn(
            ("train", "vqa", *training, *short, "--output-dir", output / "vqa"),
            ("evaluate", "vqa", output / "vqa", *questions, "--output", output / "answers"),
            ("export", output / "vqa", "--output", output / "exported"),
        )

    reading = [pool.submit(read, name, path) for name, path in encoders.items()]
    return [*reading, pool.submit(draw), pool.submit(answer)]


def compare(encoders: dict[str, str], data: Path, cpu: Path, gpu: Path) -> dict[str, dict[str, float]]:
    """How far apart the outcomes of the two devices are; the largest difference of each kind."""
    found: dict[str, float] = {}
    texts = read_lines(data / "texts.txt")
    for name in encoders:
        one, other = (read_features(folder / name / "features", texts) for folder in (cpu, gpu))
        errors = [float((a - b).norm() / a.norm()) for a, b in zip(one, other)]
        found[f"{name}: features, relative"] = max(errors)
        for folder in ("ted", "merged"):
            results = {(r.feature, r.pooling): r for r in load_all(cpu / name / folder / "results")}
            for result in load_all(gpu / name / folder / "results"):
                reference = results[result.feature, result.pooling]
                scores = [np.subtract(a["scores"], b["scores"]) for a, b in zip(reference.items, result.items)]
                label = f"{name}: {folder}, {result.feature}, {result.pooling}"
                found[f"{label}: cosines"] = float(np.abs(scores).max())
                found[f"{label}: accuracy"] = abs(reference.accuracy - result.accuracy)
    found["text-to-image: losses, relative"] = largest_difference(
        *(losses(f / "t2i/training.jsonl") for f in (cpu, gpu))
    )
    pixels = [
        np.subtract(
            np.asarray(Image.open(path), np.int64), np.asarray(Image.open(gpu / path.relative_to(cpu)), np.int64)
        )
        for path in sorted((cpu / "images").rglob("*.png"))
        if path.name != "grid.png"
    ]
    found["generate: pixels of 255"] = float(np.abs(pixels).max())
    parts = [read_json(folder / "answers/vqa.json")["accuracy"]["all"] for folder in (cpu, gpu)]
    names = [name for name in parts[0] if isinstance(parts[0][name], dict)]
    found["vqa: accuracy"] = max(abs(parts[0][name]["accuracy"] - parts[1][name]["accuracy"]) for name in names)
    return {"largest differences": found}


def read_features(folder: Path, texts: list[str]) -> list[torch.Tensor]:
    """The features (N, D) of each text in a folder of `granted encode`."""
    cache = EmbeddingCache(folder, read_json(folder / "identity.json"))
    return [cache.read("features", text) for text in texts]


def losses(path: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in path.read_text(encoding="utf-8").splitlines()]


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def read_at_scale(shape: str, instances: int, data: Path, output: Path, tokenizer: str) -> dict[str, object]:
    """`granted encode` and `granted evaluate ted` of random weights at a shape, over the synthetic benchmark."""
    folder, log = output / "random", output / "log.txt"
    output.mkdir(parents=True)
    with torch.device(choose_device()):
        config = Qwen3VLConfig(**SHAPES[shape])
        config.dtype = torch.bfloat16
        model = Qwen3VLModel(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    count = sum(parameter.numel() for parameter in model.language_model.parameters())
    del model
    torch.cuda.empty_cache()
    made = ("--world", "everyday", "--instances", instances, "--output", output / "ted-6k")
    granted("data", "ted", *made, on_gpu=False, log=log)
    common = ("--token-budget", 32768, "--output")
    figures: dict[str, object] = {"shape": shape, "parameters": count}
    figures["encode"] = granted_here("encode", folder, data / "texts.txt", *common, output / "features")
    training = ("--pairs", data / "pairs.parquet", "--features", "last,norm_avg", "--max-steps", 10, "--held-out", 0)
    benchmark = ("--ted", output / "ted-6k", *training)
    figures["evaluate"] = granted_here("evaluate", "ted", f"random={folder}", *benchmark, *common, output / "ted")
    result = load_all(output / "ted/results")[0]
    kept = {name: result.provenance[name] for name in ("seconds", "tokens", "device", "dtype")}
    return figures | {"scoring": kept | {"tokens per second": round(kept["tokens"] / kept["seconds"])}}


def granted_here(*arguments: object) -> dict[str, float]:
    """Run a `granted` command in this process; its seconds, and the most GPU memory that it held at a time."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    sys.argv = ["granted", *map(str, arguments)]
    started = time.perf_counter()
    command()  # exits only where it fails
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"seconds": round(time.perf_counter() - started, 1), "peak GPU memory, GiB": round(peak / 2**30, 1)}


def main(encoder: list[str], shape: str, instances: int, data: Path | None, output: Path) -> None:
    encoders = {"miniature": str(MINIATURE)} | dict(spec.split("=", 1) for spec in encoder)
    output.mkdir(parents=True)
    device = choose_device()
    report: dict[str, object] = {
        "device": device_name(device),
        "versions": library_versions("granted", "torch", "transformers", "diffusers", "datasets", "trl"),
    }
    if data is None:
        data = output / "data"
        data.mkdir()
        make_data(data, output / "log.txt")
    with ThreadPoolExecutor(16) as pool:
        runs = {
            name: run_commands(encoders, data, output / name, on_gpu, pool)
            for name, on_gpu in (("cpu", False), ("device", True))
        }
        report["at scale"] = read_at_scale(shape, instances, data, output / "at_scale", str(MINIATURE))
    problems = [str(one.exception()) for one in chain(*runs.values()) if one.exception()]
    report["problems"] = problems
    report["seconds"] = {name: [one.result() for one in run if not one.exception()] for name, run in runs.items()}
    write_json(output / "report.json", report)
    if not problems:
        write_json(output / "report.json", report | compare(encoders, data, output / "cpu", output / "device"))
    print((output / "report.json").read_text())  # noqa: T201
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="*", default=[], help="further encoders, as NAME=PATH")
    parser.add_argument("--shape", choices=SHAPES, default="8b", help="of the random Qwen3-VL")
    parser.add_argument("--instances", type=int, default=6641, help="of the benchmark that it reads")
    parser.add_argument("--data", type=Path, help="data that an earlier run made, in its folder data")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder")
    main(**vars(parser.parse_args()))
