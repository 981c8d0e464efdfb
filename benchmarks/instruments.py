"""Reading and drawing of several encoders by one command, made for a GPU: their tables, with device and versions.

    python benchmarks/instruments.py minilm=FOLDER smollm2=FILE gemma=FILE --output instruments
    python benchmarks/instruments.py minilm=FOLDER --output instruments --rehearse      # tiny, on a CPU

Every encoder is read and drawn from with its last layer and with Norm-Avg. The two commands run one after the other,
each in a process of its own; given again, the script goes on where it stopped.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from granted.encoding.loading import choose_device, device_name
from granted.utils.files import write_json
from granted.utils.versions import library_versions


COMMON = ("--features", "last,norm_avg", "--dtype", "float32")
TINY = {
    "reading": ("--training-texts", "20", "--test-scenes", "3", "--steps", "4", "--controls", "random"),
    "drawing": ("--images", "40", "--prompts", "2", "--steps", "4", "--batch-size", "4", "--controls="),
}
WHOLE = {"reading": ("--controls", "scene,random,words"), "drawing": ("--controls=",)}


def main() -> int:
    """Run both instruments; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", help="NAME=PATH of each")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="a few steps, to see that everything runs")
    arguments = parser.parse_args()
    device = device_name(choose_device("auto"))
    write_json(
        arguments.output / "machine.json",
        {"device": device, "threads": torch.get_num_threads()}
        | library_versions("granted", "torch", "transformers", "diffusers"),
    )
    for instrument, options in (TINY if arguments.rehearse else WHOLE).items():
        command = [sys.executable, "-m", "granted.cli", "evaluate", instrument, *arguments.encoders]
        status = subprocess.run([*command, *COMMON, *options, "--output", str(arguments.output)]).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
