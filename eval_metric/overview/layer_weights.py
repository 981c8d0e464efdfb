"""Layer weights that were learned with a diffusion model: their path over the training, and when they were frozen.

    find_layer_weights(Path("results"))      # of every training of a diffusion model below it

A run writes `layer_weights.json`, the path, and `training_record.json`, which has the last weights alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from granted.training.diffusion.layer_weights_chart import Factors
from granted.training.diffusion.settings import FREEZING
from granted.utils.errors import InputError, refusing
from granted.utils.files import files_below, read_json


PATH, RECORD = "layer_weights.json", "training_record.json"
LEARNED = ("continuous", *FREEZING)  # modes of a training


@dataclass(frozen=True)
class LearnedWeights:
    """Layer weights of one run.

    Attributes:
        folder (`str`): of the run, below the folder of results.
        mode (`str`): how they were learned, such as `"two_step"`.
        frozen_at (`int`, *optional*): the step of the freeze; `None` without one.
        last (`Factors`): those at the end.
        trajectory (`list`): pairs of step and factors; empty where the path was not kept.
    """

    folder: str
    mode: str
    frozen_at: int | None
    last: Factors
    trajectory: list[tuple[int, Factors]] = field(default_factory=list)


def find_layer_weights(folder: Path) -> tuple[list[LearnedWeights], list[tuple[str, str]]]:
    """The learned weights of all runs below a folder, in order of path; and (path, reason) of damaged files."""
    found, apart = [], []
    for place in sorted({path.parent for path in files_below(folder, PATH, RECORD)}):
        path = place / PATH if (place / PATH).is_file() else place / RECORD
        try:
            with refusing(f"the layer weights in {path}", "those that a training wrote: remove the file"):
                one = _with_path(path) if path.name == PATH else _without_path(path)
        except InputError as error:
            apart.append((str(path.relative_to(folder)), str(error)))
            continue
        if one and one.mode in LEARNED:
            found.append(replace(one, folder=str(place.relative_to(folder))))
    return found, apart


def _with_path(path: Path) -> LearnedWeights:
    stored = read_json(path)
    trajectory = [(int(point["step"]), point["weights"]) for point in stored["trajectory"]]
    _check_numbers([weights for _, weights in trajectory])
    return LearnedWeights("", stored["mode"], stored["frozen_at"], trajectory[-1][1], trajectory)


def _without_path(path: Path) -> LearnedWeights | None:
    record = read_json(path)
    if not record.get("layer_weights"):  # of another training
        return None
    _check_numbers([record["layer_weights"]])
    return LearnedWeights("", record["settings"]["layer_weights"], record["frozen_at"], record["layer_weights"])


def _check_numbers(weights: Sequence[Factors]) -> None:
    """Raise unless all are rows of as many finite numbers."""
    array = np.asarray(weights)  # (steps, L) or (steps, K, L)
    if array.dtype.kind not in "fi" or array.ndim not in (2, 3) or not array.size or not np.isfinite(array).all():
        raise ValueError("they are not as many finite numbers at each step")
