"""Ridge regression from sums that are gathered batch by batch: no features are kept, however many texts are read.

    sums = Moments(new_width, old_width)
    sums.add(x, y)                              # (T, D_new), (T, D_old), as often as there are batches
    found = fit_ridge(sums, held_out)           # chooses the strength on the held-out sums
    found.explained(test)                       # (D_old,) share of each channel's variance

Everything is in fp64 on the CPU; inputs are standardised before they are penalised.
"""

from dataclasses import dataclass, field

import torch


STRENGTHS = tuple(10.0**power for power in range(-8, 3))  # of the penalty, per token and unit of variance
HARDLY_MORE = 1.01  # of what the best strength leaves unexplained
ROUNDING = 1e-9  # less than this is nothing


@dataclass
class Moments:
    """Sums over pairs of an input and a target, from which any linear map between them is fitted and judged.

    Args:
        inputs (`int`): width of the inputs, D_new.
        targets (`int`): width of the targets, D_old.
    """

    inputs: int
    targets: int
    count: int = 0
    x: torch.Tensor = field(init=False)  # (D_new,)
    y: torch.Tensor = field(init=False)  # (D_old,)
    xx: torch.Tensor = field(init=False)  # (D_new, D_new)
    xy: torch.Tensor = field(init=False)  # (D_new, D_old)
    yy: torch.Tensor = field(init=False)  # (D_old,), of the squares

    def __post_init__(self):
        shapes = {"x": (self.inputs,), "y": (self.targets,), "yy": (self.targets,)}
        shapes |= {"xx": (self.inputs, self.inputs), "xy": (self.inputs, self.targets)}
        for name, shape in shapes.items():
            setattr(self, name, torch.zeros(shape, dtype=torch.float64))

    def add(self, x: torch.Tensor, y: torch.Tensor, times: int = 1) -> None:
        """Add pairs, once or several times: inputs (T, D_new) and targets (T, D_old)."""
        x, y = x.double().cpu(), y.double().cpu()
        self.count += times * len(x)
        self.x += times * x.sum(0)
        self.y += times * y.sum(0)
        self.xx.addmm_(x.T, x, alpha=times)
        self.xy.addmm_(x.T, y, alpha=times)
        self.yy += times * y.square().sum(0)

    def __add__(self, other: "Moments") -> "Moments":
        both = Moments(self.inputs, self.targets, self.count + other.count)
        for name in ("x", "y", "xx", "xy", "yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def centred(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Means of products around given centres: (D_new, D_new), (D_new, D_old), (D_old,)."""
        off_x, off_y = self.x / self.count - x, self.y / self.count - y  # (D_new,), (D_old,)
        mean_x, mean_y = self.x / self.count, self.y / self.count
        xx = self.xx / self.count - mean_x.outer(mean_x) + off_x.outer(off_x)
        xy = self.xy / self.count - mean_x.outer(mean_y) + off_x.outer(off_y)
        yy = (self.yy / self.count - mean_y.square()).clamp(min=0) + off_y.square()
        return xx, xy, yy


@dataclass(frozen=True)
class LinearMap:
    """`y = (x - mean) / deviation @ weight + bias`.

    Args:
        mean (`torch.Tensor`), deviation (`torch.Tensor`): (D_new,), of the inputs.
        weight (`torch.Tensor`): (D_new, D_old).
        bias (`torch.Tensor`): (D_old,).
        strength (`float`): of the penalty that it was fitted with.
    """

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    strength: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (..., D_new) to (..., D_old) fp64."""
        return (x.double() - self.mean) / self.deviation @ self.weight + self.bias

    def explained(self, sums: Moments) -> torch.Tensor:
        """Share of the variance of each target channel that the map explains on these pairs.

        Returns:
            (D_old,) fp64, at most 1; 0 is as good as their mean. NaN for a channel that never varies.
        """
        xx, xy, yy = sums.centred(self.mean, self.bias)
        weight = self.weight / self.deviation.unsqueeze(1)  # (D_new, D_old)
        errors = yy - 2 * (weight * xy).sum(0) + (weight * (xx @ weight)).sum(0)  # (D_old,)
        mean = sums.y / sums.count
        variance = sums.yy / sums.count - mean.square()  # (D_old,)
        constant = variance <= 1e-12 * mean.square().clamp(min=1e-12)
        return (1 - errors / variance).masked_fill(constant, torch.nan)


def fit_ridge(sums: Moments, held_out: Moments | None = None, strengths: tuple[float, ...] = STRENGTHS) -> LinearMap:
    """The ridge regression of these pairs, in closed form.

    The strength is the largest that leaves hardly more unexplained of other pairs than the best one does: features
    that hardly vary, as those of a few words, else get weights that a word unseen so far multiplies by a thousand.

    Args:
        sums ([`Moments`]): what it is fitted on.
        held_out ([`Moments`], *optional*): the other pairs; without them the first of the strengths is taken.
        strengths (`tuple[float, ...]`): which are tried, per token and unit of variance.
    """
    mean, bias = sums.x / sums.count, sums.y / sums.count  # (D_new,), (D_old,)
    xx, xy, _ = sums.centred(mean, bias)
    deviation = xx.diagonal().clamp(min=0).sqrt()  # (D_new,)
    deviation[deviation <= 1e-6 * mean.abs().clamp(min=1e-6)] = 1  # a channel that never varies is only centred
    xx, xy = xx / deviation.outer(deviation), xy / deviation.unsqueeze(1)
    values, vectors = torch.linalg.eigh(xx)  # (D_new,), (D_new, D_new)
    rotated = vectors.T @ xy  # (D_new, D_old)

    def with_strength(strength: float) -> LinearMap:
        weight = vectors @ (rotated / (values.clamp(min=0) + strength).unsqueeze(1))  # (D_new, D_old)
        return LinearMap(mean, deviation, weight, bias, strength)

    if held_out is None:
        return with_strength(strengths[0])
    missed = {one: max(1 - mean_explained(with_strength(one).explained(held_out)), ROUNDING) for one in strengths}
    return with_strength(max(one for one in strengths if missed[one] <= HARDLY_MORE * min(missed.values())))


def mean_explained(shares: torch.Tensor) -> float:
    """The mean over channels that vary; 0 where none does."""
    known = shares[~shares.isnan()]
    return known.mean().item() if len(known) else 0.0
