"""The schedules of the layer weights side by side (Section 3.5), and the encoder before and after stage 1 (Table 6).

    granted export miniature/names --output miniature/encoder_before
    python benchmarks/layer_weight_arms.py --encoder miniature/encoder --before miniature/encoder_before \\
        --data images.parquet --prompts prompts.parquet --output arms

An arm is a training, its images and their scores: the commands of `granted` that are printed. All arms have the same
data, settings and steps; the best schedule is trained again with the encoder before stage 1. Broken off, it goes on
where it was. Writes `arms.json`, `arms.md`, and for Figure 4 the trajectory of the first `continuous` arm.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from granted.eval_metric.generation.evaluation import Scores
from granted.eval_metric.statistics import bootstrap_accuracy, paired_difference
from granted.model_cards.figures import without_folders
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.program import run_as_command


MODES = ("norm_avg", "continuous", "two_step")
MAIN = "at_places"
SETTINGS = ("config", "steps", "batch_size", "seeds", "jobs")
SHOWN = (MAIN, "background", "count", "shape", "colour", "position")  # what large_solid scenes have


@dataclass(frozen=True)
class Arm:
    """One training of each seed."""

    mode: str
    stage: str  # "after stage 1", "before stage 1"
    encoder: str

    def folder(self, output: Path, seed: int) -> Path:
        return output / f"{self.mode}_{self.stage.split()[0]}_seed{seed}"


def granted(threads: int, log: Path, *arguments: object) -> None:
    """Run a command of granted, show it, and keep what it says in a file.

    Raises:
        InputError: it failed.
    """
    words = [str(argument) for argument in arguments]
    print(shlex.join(["granted", *words]), flush=True)  # noqa: T201
    command = [sys.executable, "-c", "from granted.cli import main; main()", *words]
    with log.open("a") as file:
        done = subprocess.run(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise InputError(f"got an error from granted {words[0]}, see {log}: correct it and run this again to go on")


def run(arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """Train, draw and score, unless it is done already."""
    folder = arm.folder(options.output, seed)
    if (folder / "pictures/scores/shapes.json").exists():
        return
    options.output.mkdir(parents=True, exist_ok=True)
    command = partial(granted, max(1, os.cpu_count() // options.jobs), folder.with_suffix(".log"))
    settings = {"encoder": arm.encoder, "data": options.data, "layer_weights": arm.mode, "seed": seed}
    settings |= {"max_steps": options.steps, "batch_size": options.batch_size}
    settings |= {"output_dir": folder, "sample_steps": 0}
    given = [word for name, value in settings.items() for word in (f"--{name}", value)]
    command("train", "text-to-image", "--config", options.config, *given)
    drawn = folder / "pictures"
    how = ("--trust-remote-code", "--negative-prompt", "", "--steps", 20, "--batch-size", 50)
    command("generate", folder / "pipeline", "--prompts", options.prompts, "--output", drawn, *how)
    command("evaluate", "generation", drawn)
    shutil.rmtree(folder / "embeddings", ignore_errors=True)


def run_all(arms: list[Arm], seeds: list[int], options: argparse.Namespace) -> None:
    """Run arms side by side; broken off, all of them are equally far."""
    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(lambda one: run(*one, options), [(arm, seed) for seed in seeds for arm in arms]):
            pass


def read(arm: Arm, output: Path, seeds: list[int]) -> tuple[dict, dict[str, np.ndarray], list[str]]:
    """What is reported of an arm; the credits (S, n) of each property; the prompts of the n images."""
    scores = [Scores.load(arm.folder(output, seed) / "pictures/scores/shapes.json") for seed in seeds]
    records = [read_json(arm.folder(output, seed) / "training_record.json") for seed in seeds]
    prompts = [item["prompt_id"] for item in scores[0].items]
    credits = {
        name: np.array([[item[name] for item in one.items] for one in scores], dtype=float)  # (S, n)
        for name in (*SHOWN, "whole", f"{MAIN} control", f"{MAIN} ceiling")
    }
    figures = {}
    for name, values in credits.items():
        estimate = bootstrap_accuracy(values, prompts)
        by_seed = [round(float(value), 4) for value in values.mean(1)]
        figures[name] = {"score": estimate.accuracy, "ci95": [estimate.low, estimate.high], "by_seed": by_seed}
    report = {
        "layer_weights": arm.mode,
        "encoder": arm.stage,
        "pictures_per_seed": len(prompts),
        "scores": figures,
        "loss": [record["loss"] for record in records],
        "seconds": [record["seconds_of_last_start"] for record in records],
        "frozen_at": [record["frozen_at"] for record in records],
        "weights": [record["layer_weights"] for record in records],
    }
    return report, credits, prompts


def table(reports: list[dict]) -> str:
    """The arms as Markdown, in per cent with 95% intervals over prompts."""
    head = ["layer weights", "encoder", "at places [95%]", "by seed", "others' prompts", *SHOWN[1:], "whole"]
    rows = []
    for report in reports:
        scores = {name: value["score"] for name, value in report["scores"].items()}
        low, high = report["scores"][MAIN]["ci95"]
        seeds = ", ".join(f"{100 * value:.1f}" for value in report["scores"][MAIN]["by_seed"])
        rest = [f"{100 * scores[name]:.1f}" for name in (f"{MAIN} control", *SHOWN[1:], "whole")]
        spread = f"{100 * scores[MAIN]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        rows.append([report["layer_weights"], report["encoder"], spread, seeds, *rest])
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(options: argparse.Namespace) -> None:
    seeds = list(range(options.seeds))
    arms = [Arm(mode, "after stage 1", options.encoder) for mode in MODES]
    run_all(arms, seeds, options)
    found = [read(arm, options.output, seeds) for arm in arms]
    if options.before:
        best = max(found, key=lambda one: one[0]["scores"][MAIN]["score"])[0]["layer_weights"]
        before = Arm(best, "before stage 1", options.before)
        run_all([before], seeds, options)
        arms.append(before)
        found.append(read(before, options.output, seeds))
    reports, credits, prompts = zip(*found)
    pairs = [(one, 0) for one in range(1, len(MODES))]
    if options.before:
        pairs.append((MODES.index(arms[-1].mode), len(MODES)))
    differences = []
    for one, other in pairs:
        difference = paired_difference(credits[one][MAIN], credits[other][MAIN], prompts[one])
        names = [f"{arms[i].mode} {arms[i].stage}" for i in (one, other)]
        value = {"of": names[0], "minus": names[1], "difference": difference.difference}
        differences.append(value | {"ci95": [difference.low, difference.high], "p_value": difference.p_value})
    shown = without_folders({name: value for name, value in vars(options).items() if name in SETTINGS})
    write_json(options.output / "arms.json", {"settings": shown, "arms": reports, "differences": differences})
    text = table(reports) + "\nDifferences of the attributes at their places, with 95% intervals over prompts:\n\n"
    for value in differences:
        low, high = (100 * end for end in value["ci95"])
        text += f"- {value['of']} minus {value['minus']}: {100 * value['difference']:.1f} [{low:.1f}, {high:.1f}]\n"
    with atomic_path(options.output / "arms.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    shutil.copy(arms[1].folder(options.output, 0) / "layer_weights.png", options.output / "layer_weights.png")
    print(text)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="after stage 1")
    parser.add_argument("--before", help="the encoder before stage 1; left out, Table 6 is")
    parser.add_argument("--data", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", default="training/configs/t2i_miniature_32.yaml")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time, which share the cores")
    run_as_command(lambda: main(parser.parse_args()))
