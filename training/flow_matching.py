"""Flow matching as diffusers' FlowMatchEulerDiscreteScheduler defines it, and all that is drawn at random for it.

    draw = Draw(config, step=3, place=0)
    noisy, velocity = flow_matching(samples, noise, sigmas)   # (B, ...) each; the model is to predict the velocity

Everything random about a sample comes from a generator of its own, seeded by run, step and place in the batch: a
resumed run, and a run on any number of processes, sees the same noise.
"""

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from granted.training.diffusion.settings import DiffusionTrainingConfig


UNCONDITIONAL = ""  # the caption in place of a dropped one


class Draw:
    """All that is random about one sample of a step.

    Args:
        config ([`DiffusionTrainingConfig`]): names the distributions.
        step (`int`), place (`int`): step of the run, and place in the batch of all processes.
    """

    def __init__(self, config: DiffusionTrainingConfig, step: int, place: int):
        self.config = config
        seed = (config.seed * 1_000_003 + step) * 1_000_003 + place
        self.generator = torch.Generator().manual_seed(seed % 2**64)  # a generator takes 64 bits

    def caption(self, captions: list[str]) -> str:
        """One of the captions, or the empty one."""
        dropped, chosen = torch.rand(2, generator=self.generator).tolist()
        return UNCONDITIONAL if dropped < self.config.caption_dropout else captions[int(chosen * len(captions))]

    def sigma(self) -> torch.Tensor:
        """Share of noise (1,), above 0 and below 1, shifted as the scheduler shifts it."""
        u = compute_density_for_timestep_sampling(
            self.config.timestep_sampling, 1, logit_mean=0.0, logit_std=1.0, generator=self.generator
        )  # (1,)
        return self.config.shift * u / (1 + (self.config.shift - 1) * u)  # (1,)

    def noise(self, shape: torch.Size) -> torch.Tensor:
        """Standard normal, of a sample's shape."""
        return torch.randn(shape, generator=self.generator)


def flow_matching(
    samples: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy samples and the velocity to be predicted, as diffusers' flow-matching scheduler defines them.

    `x_sigma = sigma * noise + (1 - sigma) * x` (`scale_noise`), and `step` adds `d sigma * velocity`, so the velocity
    is `noise - x`.

    Args:
        samples (`torch.Tensor`), noise (`torch.Tensor`): (B, ...).
        sigmas (`torch.Tensor`): (B,), 1 is pure noise.
    """
    sigmas = sigmas.view(-1, *[1] * (samples.ndim - 1))  # (B, 1, ...)
    return sigmas * noise + (1 - sigmas) * samples, noise - samples  # (B, ...) each
