"""The diffusion model's optimisers: AdamW as in the paper, or Muon for the matrices of its blocks.

    optimizers = make_optimizers(transformer, config)      # one AdamW, or a Muon and an AdamW for the rest

Muon orthogonalises the update of a matrix (https://arxiv.org/abs/2502.16982). It is for small models trained from
scratch with few samples: what it gains is in docs/LOG.md.
"""

import re

import torch
from torch import nn

from granted.training.diffusion.settings import DiffusionTrainingConfig
from granted.utils.errors import InputError


IN_A_BLOCK = re.compile(r"\w+\.\d+\.(?!.*norm)")  # "layers.3.attn.to_q.weight", but no modulation of a norm


def make_optimizers(model: nn.Module, config: DiffusionTrainingConfig) -> list[torch.optim.Optimizer]:
    """Optimisers that between them hold each parameter once, at the configured learning rate.

    Muon scales its updates to the size of AdamW's, so that one learning rate serves both.

    Args:
        model (`nn.Module`): the diffusion model, of numbered blocks.
        config ([`DiffusionTrainingConfig`]): `optimizer`, `learning_rate`, `adam_beta2`, `weight_decay`.

    Raises:
        InputError: this PyTorch has no Muon.
    """
    matrices = []
    if config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise InputError(f"got torch {torch.__version__}, expected at least 2.9 for muon: upgrade, or use adamw")
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and IN_A_BLOCK.match(name)]
    taken = {id(matrix) for matrix in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, config.adam_beta2), **common)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **common))
    return optimizers
