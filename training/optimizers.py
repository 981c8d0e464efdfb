"""The diffusion model's optimisers: AdamW as in the paper, or Muon for the matrices of its blocks.

    optimizers = make_optimizers(transformer, config)      # one AdamW, or a Muon and an AdamW for the rest

Muon orthogonalises the update of a matrix (https://arxiv.org/abs/2502.16982). It is for small models trained from
scratch with few samples: what it gains is in docs/LOG.md. It is PyTorch's rule, but computes in fp32 on a CPU, where
PyTorch's own multiplies in bf16: without bf16 units that takes ten times as long as the rest of a step.
"""

import re
from collections import defaultdict

import torch
from torch import nn

from granted.training.diffusion.settings import DiffusionTrainingConfig


IN_A_BLOCK = re.compile(r"\w+\.\d+\.(?!.*norm)")  # "layers.3.attn.to_q.weight", but no modulation of a norm


def make_optimizers(model: nn.Module, config: DiffusionTrainingConfig) -> list[torch.optim.Optimizer]:
    """Optimisers that between them hold each parameter once, at the configured learning rate.

    Muon scales its updates to the size of AdamW's, so that one learning rate serves both.

    Args:
        model (`nn.Module`): the diffusion model, of numbered blocks.
        config ([`DiffusionTrainingConfig`]): `optimizer`, `learning_rate`, `adam_beta2`, `weight_decay`.
    """
    matrices = []
    if config.optimizer == "muon":
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and IN_A_BLOCK.match(name)]
    taken = {id(matrix) for matrix in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, config.adam_beta2), **common)]
    if matrices:
        optimizers.append(Muon(matrices, **common))
    return optimizers


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon(adjust_lr_fn="match_rms_adamw")` with matrices of one shape taken together.

    Args:
        params: matrices.
        lr (`float`), weight_decay (`float`): as of AdamW.
        momentum (`float`, defaults to 0.95): Nesterov's.
    """

    def __init__(self, params, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                updates = torch.stack([self._nesterov(parameter, group["momentum"]) for parameter in parameters])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # the size of AdamW's updates
                for parameter, update in zip(parameters, orthogonalized(updates)):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (M, A, B) with singular values near 1, by five steps of a quintic Newton-Schulz iteration."""
    wide = matrices.shape[1] <= matrices.shape[2]
    dtype = torch.float32 if matrices.device.type == "cpu" else torch.bfloat16
    x = (matrices if wide else matrices.mT).to(dtype)  # (M, a, b), a <= b
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # (M, a, b)
    for _ in range(5):
        gram = x @ x.mT  # (M, a, a)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x  # (M, a, b)
    return (x if wide else x.mT).to(matrices.dtype)  # (M, A, B)
