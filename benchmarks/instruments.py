"""Reading and drawing of several encoders on one machine, many trainings at a time: made for a GPU with many cores.

    python benchmarks/instruments.py minilm=FOLDER smollm2=FILE --output instruments --processes 13 --minutes 9
    python benchmarks/instruments.py minilm=FOLDER --output instruments --processes 2 --rehearse     # tiny, on a CPU

A small training keeps neither a GPU nor a core busy, so several processes run the same `granted evaluate drawing` and
share its arms, while one for each encoder runs `granted evaluate reading`. The groups of arms come one after the
other: last layer and Norm-Avg with their controls, layer weights that are learned (one row for each block, one for
all, of any sign), both features raw, and single layers. When the minutes are over, the tables are written of the arms
that have ended. Given again, the script goes on where it stopped.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from granted.encoding.loading import choose_device, device_name
from granted.eval_metric.drawing.results import finished_arms, write_report
from granted.utils.files import write_json
from granted.utils.versions import library_versions


DRAWING = (
    ("--features", "last,norm_avg", "--controls", "random,words,scene"),
    ("--features", "learned", "--layer-weights", "per_block", "--controls="),
    ("--features", "learned", "--layer-weights", "two_step", "--controls="),
    ("--features", "last,norm_avg", "--no-standardize", "--controls="),
    ("--features", "learned", "--layer-weights", "signed", "--controls="),
    ("--features", "layer_0,layer_3", "--controls="),
)
READING = ("--features", "last,norm_avg", "--controls", "random,words")
TINY = {
    "drawing": ("--images", "40", "--prompts", "2", "--steps", "4", "--batch-size", "4"),
    "reading": ("--training-texts", "20", "--test-scenes", "3", "--steps", "4"),
}


class Commands:
    """Runs `granted` commands until a deadline, each with one thread and a file of what it says.

    Args:
        output (`Path`): of all of them; the files are in its `logs`.
        deadline (`float`): of `time.monotonic`.
    """

    def __init__(self, output: Path, deadline: float):
        self.logs, self.deadline = output / "logs", deadline
        self.failed: list[str] = []
        self.logs.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, *commands: tuple[str, ...]) -> None:
        """One after the other; what fails is noted, and ends the series."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with open(self.logs / f"{name}.txt", "a", encoding="utf-8") as log:
            for command in commands:
                words = [sys.executable, "-m", "granted.cli", *command]
                left = self.deadline - time.monotonic()
                try:
                    done = subprocess.run(words, stdout=log, stderr=log, env=environment, timeout=max(left, 0))
                except subprocess.TimeoutExpired:
                    return
                if done.returncode:
                    self.failed.append(f"{name}: granted {' '.join(command)} gave {done.returncode}")
                    return


def main() -> int:
    """Run both instruments; 1 where a command failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", help="NAME=PATH of each")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=4, help="that share the arms of the drawing probe")
    parser.add_argument("--steps", type=int, default=2000, help="of a training of the drawing probe")
    parser.add_argument("--seeds", default="0,1,2", help="of every arm")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which the tables are written")
    parser.add_argument("--rehearse", action="store_true", help="a few steps, to see that everything runs")
    arguments = parser.parse_args()
    output = arguments.output
    size = TINY if arguments.rehearse else {"drawing": ("--steps", str(arguments.steps)), "reading": ()}
    commands = Commands(output, time.monotonic() + 60 * arguments.minutes)
    common = ("--dtype", "float32", "--output", str(output), "--seeds", arguments.seeds)
    evaluate = ("evaluate", "drawing", *arguments.encoders, *common, *size["drawing"])
    groups = [(*evaluate, *group) for group in DRAWING]
    series = {f"drawing_{number}": groups for number in range(arguments.processes)}
    for encoder in arguments.encoders:
        reading = ("evaluate", "reading", encoder, *common, *size["reading"], *READING)
        series[f"reading_{encoder.split('=')[0]}"] = [reading]
    workers = [threading.Thread(target=commands.run, args=(name, *own)) for name, own in series.items()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    machine = {"device": device_name(choose_device("auto")), "processes": arguments.processes}
    versions = library_versions("granted", "torch", "transformers", "diffusers")
    write_json(output / "machine.json", machine | {"threads": torch.get_num_threads(), "versions": versions})
    arms = finished_arms(output / "drawing_runs")
    if arms:
        write_report(arms, output)
    sys.stdout.write("".join(f"{line}\n" for line in (f"{len(arms)} arms have ended", *commands.failed)))
    return 1 if commands.failed else 0


if __name__ == "__main__":
    sys.exit(main())
