"""Layer weights that were learned with a diffusion model: their path over the training, and when they were frozen.

    find_layer_weights(Path("results"))      # of every training of a diffusion model below it

A run writes `layer_weights.json`, the path, and `training_record.json`, which has the last weights alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from granted.training.diffusion.layer_weights_chart import Factors
from granted.training.diffusion.settings import FREEZING
from granted.utils.errors import refusing
from granted.utils.files import read_json


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


def find_layer_weights(folder: Path) -> Iterator[LearnedWeights]:
    """The learned weights of all runs below a folder, in order of path.

    Raises:
        InputError: a path of weights is damaged.
    """
    for place in sorted({path.parent for name in (PATH, RECORD) for path in folder.rglob(name)}):
        found = _with_path(place / PATH) if (place / PATH).is_file() else _without_path(place / RECORD)
        if found and found.mode in LEARNED:
            yield replace(found, folder=str(place.relative_to(folder)))


def _with_path(path: Path) -> LearnedWeights:
    with refusing(f"the path of layer weights {path}", "one as a training wrote it: remove it"):
        stored = read_json(path)
        trajectory = [(point["step"], point["weights"]) for point in stored["trajectory"]]
        return LearnedWeights("", stored["mode"], stored["frozen_at"], trajectory[-1][1], trajectory)


def _without_path(path: Path) -> LearnedWeights | None:
    record = read_json(path)
    if not record.get("layer_weights"):  # of another training
        return None
    return LearnedWeights("", record["settings"]["layer_weights"], record["frozen_at"], record["layer_weights"])
