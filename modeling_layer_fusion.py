"""Layer fusion: one feature from all layers of an encoder, streamed while they run (Equations 1, 3 and 4).

    fusion = LayerFusion("learned", num_layers=36)
    features = fusion(hidden_states)  # (B, L, N, D) -> (B, N, D), the plain form

[`GrantedModel`] never builds that stack: a [`FusionAccumulator`] adds each layer as it comes, and
[`RecomputedFusion`] gets the layer weights' gradient from a second run of the encoder.

Ships to the Hub; imports nothing but torch and its sibling files.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_granted import FUSIONS, check_choice, check_layer_index, check_layers, fused_layers


# Tokens normalised at a time: bounds the fp32 copies of a layer to a few MB, so that the accumulator is the only
# full-size fp32 tensor.
FUSION_CHUNK = 4096


class LayerFusion(nn.Module):
    """One feature from the L layers of an encoder: a weighted sum of layers, normalised or raw.

    `"learned"` is Equation 4, c = sum_i softmax(w)_i LayerNorm(h_i), with w starting at zeros, which is Norm-Avg;
    `"norm_avg"` is Equation 1; `"avg"` averages the raw layers; `"single"` is the raw layer `layer_index`.
    LayerNorm has no parameters. Everything is computed in fp32.

    Args:
        fusion (`str`): `"learned"`, `"norm_avg"`, `"avg"` or `"single"`.
        num_layers (`int`): L, embeddings not counted.
        layer_index (`int`, defaults to -1): the layer of `"single"`.
        layers (`list[int]`, *optional*): the layers fused; all by default.
        eps (`float`, defaults to 1e-5): epsilon of the LayerNorm.
    """

    def __init__(
        self, fusion: str, num_layers: int, layer_index: int = -1, layers: list[int] | None = None, eps: float = 1e-5
    ):
        super().__init__()
        check_choice("fusion", fusion, FUSIONS)
        check_layer_index(layer_index, num_layers)
        check_layers(fusion, layers, num_layers)
        self.fusion = fusion
        self.num_layers = num_layers
        self.eps = eps
        self.layers = fused_layers(fusion, layer_index, layers, num_layers)
        self.normalize = fusion in ("learned", "norm_avg")
        if fusion == "learned":
            self.weights = nn.Parameter(torch.zeros(len(self.layers), dtype=torch.float32))  # (len(layers),)

    def reset_parameters(self) -> None:
        """Equal weights, so that a learned fusion starts as Norm-Avg."""
        if self.fusion == "learned":
            nn.init.zeros_(self.weights)

    def layer_weights(self) -> torch.Tensor:
        """The factor of every layer in the sum, (L,) fp32, differentiable in the learned weights (Equation 3)."""
        return self()  # through `forward`, where the hooks of accelerate and diffusers bring back offloaded weights

    def forward(self, hidden_states: torch.Tensor | None = None) -> torch.Tensor:
        """Fuse a stack (B, L, N, D) into (B, N, D) fp32: the plain form of what [`GrantedModel`] streams.

        Without a stack it gives `layer_weights()`.
        """
        if hidden_states is None:
            return self._factors()
        if hidden_states.ndim != 4 or hidden_states.shape[1] != self.num_layers:
            raise ValueError(
                f"got hidden states {tuple(hidden_states.shape)}, expected (B, {self.num_layers}, N, D): "
                "one entry per layer, without the embeddings"
            )
        return self.combine(hidden_states.unbind(1))

    def _factors(self) -> torch.Tensor:
        if self.fusion == "learned":
            factors = torch.softmax(self.weights.float(), dim=0)  # (len(layers),)
        else:
            factors = torch.full((len(self.layers),), 1 / len(self.layers))  # (len(layers),)
        index = torch.tensor(self.layers, device=factors.device)  # (len(layers),)
        return torch.zeros(self.num_layers, device=factors.device).index_put((index,), factors)  # (L,)

    def combine(self, layers: Iterable[torch.Tensor]) -> torch.Tensor:
        """Fuse L layers (B, N, D) into one (B, N, D) fp32 by ordinary autograd."""
        factors = self.layer_weights()  # (L,)
        fused = 0
        for index, hidden in enumerate(layers):
            if index in self.layers:
                fused = fused + factors[index] * self.prepare(hidden)  # (B, N, D)
        return fused

    def prepare(self, hidden: torch.Tensor) -> torch.Tensor:
        """A layer as it enters the sum: fp32, normalised unless the fusion is of raw layers."""
        hidden = hidden.float()  # (..., D)
        return F.layer_norm(hidden, hidden.shape[-1:], eps=self.eps) if self.normalize else hidden


class Standardization(nn.Module):
    """Removes what every token of an encoder has: per channel the mean, and the scale of what differs.

    Some encoders have channels whose constant part is many times larger than all that tells texts apart; what reads
    such features from scratch learns slowly. The buffers are calibrated on captions, see [`GrantedModel.calibrate`].

    Args:
        width (`int`): D of the features.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))  # (D,)
        self.register_buffer("deviation", torch.ones(width))  # (D,)

    def reset_parameters(self) -> None:
        """Features pass unchanged."""
        self.mean.zero_()
        self.deviation.fill_(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., D) fp32 with mean 0 and deviation 1 in every channel of the calibration texts."""
        return (features - self.mean) / self.deviation


class FusionAccumulator:
    """Running sums of several fusions over the layers as they come, (B, N, D) fp32 each; never holds the stack."""

    def __init__(self, fusions: list[LayerFusion], factors: list[torch.Tensor]):
        self.fusions = fusions
        self.factors = [factor.tolist() for factor in factors]
        self.sums: list[torch.Tensor | None] = [None] * len(fusions)

    def add(self, index: int, hidden: torch.Tensor) -> None:
        """Add layer `index` (B, N, D) to every fusion that uses it."""
        users = [i for i, fusion in enumerate(self.fusions) if index in fusion.layers]
        for i in users:
            if self.sums[i] is None:
                self.sums[i] = torch.zeros(hidden.shape, device=hidden.device)  # (B, N, D)
        for rows in row_chunks(hidden):
            prepared = {}  # one normalisation serves all fusions that want it
            for i in users:
                fusion = self.fusions[i]
                key = (fusion.normalize, fusion.eps)
                if key not in prepared:
                    prepared[key] = fusion.prepare(hidden.flatten(0, 1)[rows])  # (chunk, D)
                self.sums[i].view(-1, hidden.shape[-1])[rows].add_(
                    prepared[key].to(self.sums[i].device), alpha=self.factors[i][index]
                )


def row_chunks(hidden: torch.Tensor) -> Iterator[slice]:
    """Slices over the B * N tokens of a layer (B, N, D)."""
    for start in range(0, hidden.shape[0] * hidden.shape[1], FUSION_CHUNK):
        yield slice(start, start + FUSION_CHUNK)


class RecomputedFusion(torch.autograd.Function):
    """Fusions of a frozen encoder whose layer-weight gradients come from a second run of the encoder.

    The gradient of factor i is the scalar <dL/dc, LayerNorm(h_i)>. Running the layers again in backward gives all
    L scalars without keeping any layer, where autograd would keep every normalised one.
    """

    @staticmethod
    def forward(ctx, run: Callable, mask: torch.Tensor, fusions: list[LayerFusion], *factors: torch.Tensor):
        ctx.run, ctx.mask, ctx.fusions = run, mask, fusions
        ctx.autocast = {
            "device_type": mask.device.type,
            "enabled": torch.is_autocast_enabled(mask.device.type),
            "dtype": torch.get_autocast_dtype(mask.device.type),
        }
        accumulator = FusionAccumulator(fusions, factors)
        run(accumulator.add)
        return tuple(accumulator.sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        dots = [torch.zeros(fusion.num_layers, device=g.device) for fusion, g in zip(ctx.fusions, gradients)]  # (L,)

        def collect(index: int, hidden: torch.Tensor) -> None:
            for dot, fusion, gradient, needed in zip(dots, ctx.fusions, gradients, ctx.needs_input_grad[3:]):
                if not needed or index not in fusion.layers:
                    continue
                for rows in row_chunks(hidden):
                    # Encoders may leave NaN at padding: the mask removes it, a zero gradient would not.
                    prepared = fusion.prepare(hidden.flatten(0, 1)[rows]).to(gradient.device)  # (chunk, D)
                    padding = ~ctx.mask.reshape(-1, 1)[rows].to(gradient.device)  # (chunk, 1)
                    prepared = prepared.masked_fill(padding, 0)  # (chunk, D)
                    dot[index] += torch.sum(prepared * gradient.flatten(0, 1)[rows])

        with torch.autocast(**ctx.autocast):  # the second run is the first one again, to the bit
            ctx.run(collect)
        return None, None, None, *dots
