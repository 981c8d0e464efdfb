"""The layer weights' schedule: learned jointly with the diffusion model, then frozen (Section 3.5, Appendix B).

    schedule = LayerWeightSchedule(encoder, mode="two_step", freeze_at="2/3", total_steps=144_000)
    for step in range(144_000):
        if schedule.begin(step):      # frozen at this step: the conditioning is constant from here on
            ...
        loss.backward()
        schedule.update(accelerator)
        schedule.observe(step + 1)
    schedule.save("run")              # layer_weights.json and, as Figure 4 of the paper, layer_weights.png

`text_to_image.py` and `text_to_video.py` do this. Tiny, on CPU: `tests/test_two_step.py`.
"""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from granted.modeling_granted import GrantedModel
from granted.modeling_layer_fusion import LayerFusion, Standardization
from granted.training.diffusion.layer_weights_chart import Factors, draw_trajectory
from granted.training.diffusion.settings import FREEZING, MODES, freeze_step
from granted.utils.errors import InputError
from granted.utils.files import write_json


PATIENCE = 3  # windows in a row without a new low, after which the weights' movement has stopped falling


class LayerWeightSchedule:
    """Which layer weights a step uses, and their optimiser while they learn.

    The schedule sets the encoder's fusion, freezes its trunk, and owns the only optimiser that touches the weights:
    an AdamW without weight decay, which would pull them back to Norm-Avg. After the freeze there is no optimiser
    left, and nothing changes the weights any more. What is frozen are the weights of that step themselves, not an
    average of them: the diffusion model has just been trained on them, and goes on with them.

    Args:
        encoder ([`GrantedModel`]): its fusion becomes what the mode asks for.
        mode (`str`): `"two_step"`, `"per_block"` (two steps, and each block of the diffusion model reads a fusion with
            weights of its own), `"signed"` (two steps, factors of any sign and sum), `"continuous"` (learned to the
            end), `"norm_avg"` (equal, fixed), or `"as_saved"` (the encoder's own fusion, fixed: a single layer, or
            weights learned before).
        freeze_at (`str`, defaults to `"2/3"`): for modes of two steps, those of joint training: a number, a fraction
            of the run (the paper's 96k of 144k), or `"auto"`: when the distance that the factors of the layers move
            in a window has stopped falling.
        total_steps (`int`): length of the run.
        blocks (`int`, *optional*): K, of the diffusion model, for `"per_block"`.
        learning_rate (`float`, defaults to 1e-4): of the weights; `update` may scale it. Signed factors get an L-th
            of it, so that they move as fast as softmaxed weights near 1 / L.
        window (`int`, *optional*): steps between two looks of `"auto"`; a fiftieth of the run by default.
        record_steps (`int`, defaults to 10): steps between two points of the trajectory; it also has
            the freeze and the end.

    Raises:
        InputError: unknown mode, or a freeze outside the run.
    """

    def __init__(
        self,
        encoder: GrantedModel,
        *,
        mode: str,
        freeze_at: str = "2/3",
        total_steps: int,
        blocks: int | None = None,
        learning_rate: float = 1e-4,
        window: int | None = None,
        record_steps: int = 10,
    ):
        if mode not in MODES:
            raise InputError(f"got layer weights {mode!r}, expected one of {', '.join(MODES)}: choose one")
        self.encoder = encoder
        self.mode = mode
        self.window = window or max(1, total_steps // 50)
        self.record_steps, self.total_steps = record_steps, total_steps
        self.auto = mode in FREEZING and freeze_at == "auto"
        self.freeze_step = freeze_step(freeze_at, total_steps) if mode in FREEZING and not self.auto else None
        self.frozen_at: int | None = None if mode in (*FREEZING, "continuous") else 0
        self.trajectory: list[tuple[int, Factors]] = []
        self.borders: list[Factors] = []  # at the ends of the windows, for `auto`

        encoder.requires_grad_(False)
        if mode == "norm_avg":
            set_fusion(encoder, "norm_avg")
        elif self.learning:
            set_fusion(encoder, "signed" if mode == "signed" else "learned", blocks if mode == "per_block" else None)
            encoder.fusion.requires_grad_(True)
            if mode == "signed":
                learning_rate /= len(encoder.fusion.layers)
        parameters = list(encoder.fusion.parameters())
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0) if self.learning else None
        self._peak = learning_rate
        self.observe(0)

    @property
    def learning(self) -> bool:
        """Whether the weights still move."""
        return self.frozen_at is None

    def begin(self, step: int) -> bool:
        """Freeze if it is time; whether this very step (counted from 0) is the first with frozen weights."""
        if not self.learning or self.mode not in FREEZING:
            return False
        if step != self.freeze_step and not (self.auto and step % self.window == 0 and self._settled()):
            return False
        self._freeze(step)
        return True

    def update(self, accelerator: Accelerator, factor: float = 1.0) -> None:
        """One optimiser step on the mean gradient over all processes, at `factor` times the learning rate.

        Nothing once the weights are frozen.
        """
        if self.optimizer is None:
            return
        weights = self.encoder.fusion.weights  # (L,) or (K, L)
        gradient = torch.zeros_like(weights) if weights.grad is None else weights.grad  # as weights
        weights.grad = accelerator.reduce(gradient, reduction="mean")  # as weights
        for group in self.optimizer.param_groups:
            group["lr"] = self._peak * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def observe(self, step: int) -> None:
        """Note the factors of the layers after `step` steps, where the trajectory or `auto` wants them."""
        if step % self.record_steps == 0 or step == self.total_steps:
            self._record(step)
        if self.auto and self.learning and step % self.window == 0:
            self.borders.append(self.encoder.layer_weights.tolist())

    def _record(self, step: int) -> None:
        self.trajectory.append((step, self.encoder.layer_weights.tolist()))

    def _settled(self) -> bool:
        return stopped_falling([moved(one, other) for one, other in pairwise(self.borders)])

    def _freeze(self, step: int) -> None:
        self.frozen_at = step
        if self.trajectory[-1][0] != step:
            self._record(step)
        self.optimizer = None
        self.encoder.freeze_layer_weights()
        self.encoder.fusion.weights.grad = None

    # ------------------------------------------------------------------------------------------------- on disk

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON; numbers come back to the bit."""
        entries = self.optimizer.state_dict()["state"].get(0, {}) if self.optimizer else {}
        return {
            "weights": self.encoder.fusion.weights.tolist() if self.encoder.fusion.options.has_weights() else None,
            "optimizer": {name: value.tolist() for name, value in entries.items()},
            "frozen_at": self.frozen_at,
            "trajectory": self.trajectory,
            "borders": self.borders,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        if state["weights"] is not None:
            with torch.no_grad():
                self.encoder.fusion.weights.copy_(torch.tensor(state["weights"]))  # (L,) or (K, L)
        if self.learning and state["frozen_at"] is not None:
            self._freeze(state["frozen_at"])
        if self.optimizer is not None and state["optimizer"]:
            entries = {name: torch.tensor(value) for name, value in state["optimizer"].items()}
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": {0: entries}, "param_groups": groups})
        self.trajectory = [(step, weights) for step, weights in state["trajectory"]]
        self.borders = state["borders"]

    def save(self, folder: str | os.PathLike) -> None:
        """Write `layer_weights.json` and `layer_weights.png` into a folder."""
        folder = Path(folder)
        points = [{"step": step, "weights": weights} for step, weights in self.trajectory]
        write_json(
            folder / "layer_weights.json", {"mode": self.mode, "frozen_at": self.frozen_at, "trajectory": points}
        )
        draw_trajectory(self.trajectory, folder / "layer_weights.png", self.frozen_at)


def set_fusion(encoder: GrantedModel, fusion: str, num_outputs: int | None = None) -> None:
    """Give an encoder another fusion of its layers, in place; one with weights starts as the mean of its layers.

    With `num_outputs` there are so many, each with weights of its own; what standardises the features is each one's.

    Raises:
        InputError: the encoder is a choice of layers of a kind that the fusion does not take.
    """
    config, old = encoder.config, encoder.fusion
    device = old.weights.device if old.options.has_weights() else encoder.device
    layers = config.layers if config.fusion != "single" else None
    changes = {"fusion": fusion, "layer_index": -1, "layers": layers, "num_outputs": num_outputs}
    replacement = LayerFusion(**config.layer_fusion() | changes)
    for name, value in changes.items():
        setattr(config, name, value)
    encoder.fusion = replacement.to(device)
    if num_outputs and config.standardize and encoder.standardization.mean.ndim == 1:
        one = encoder.standardization
        encoder.standardization = Standardization(num_outputs, 1, len(one.mean)).to(one.mean.device)
        encoder.standardization.mean.copy_(one.mean)  # (K, 1, D)
        encoder.standardization.deviation.copy_(one.deviation)  # (K, 1, D)


def moved(before: Factors, after: Factors) -> float:
    """How far factors of layers have moved; of softmaxed ones the share of the sum that changed its layer, 0 to 1.

    Of several rows the mean.
    """
    distance = (torch.tensor(before) - torch.tensor(after)).abs().sum(-1)  # () or (K,)
    return 0.5 * distance.mean().item()


def stopped_falling(distances: Sequence[float]) -> bool:
    """Whether, after its peak, a series has had no new low for `PATIENCE` entries in a row.

    Counted from the peak, since weights that begin at zero first speed up.
    """
    if len(distances) <= PATIENCE:
        return False
    peak = max(range(len(distances)), key=distances.__getitem__)
    since = list(distances[peak:])
    return len(since) > PATIENCE and min(since[-PATIENCE:]) >= min(since[:-PATIENCE])
