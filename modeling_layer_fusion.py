"""Layer fusion: what a diffusion model reads, from all layers of an encoder, streamed while they run.

    fusion = LayerFusion("learned", num_layers=36)
    features = fusion(hidden_states)  # (B, L, N, D) -> (B, N, D), the plain form

Every fusion is K weighted sums of normalised layers, and an arrangement of the K. [`GrantedModel`] never builds the
stack of layers: a [`FusionAccumulator`] adds each layer as it comes, and [`RecomputedFusion`] gets the layer weights'
gradient from a second run of the encoder.

Ships to the Hub; imports nothing but torch and its sibling files.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_granted import EMBEDDINGS, FusionOptions


# Tokens normalised at a time: bounds the fp32 copies of a layer to a few MB, so that the accumulator is the only
# full-size fp32 tensor.
FUSION_CHUNK = 4096
RANGE_SCALE = 8  # of the masked range, as LTX-2 has it


class KeptInFp32(nn.Module):
    """A module whose own weights and buffers stay what they are where `.to(dtype)` casts a model."""

    def _apply(self, fn, recurse=True):
        exact = {key: tensor.data for key, tensor in self.state_dict(keep_vars=True).items() if not tensor.is_meta}
        super()._apply(fn, recurse)
        for key, tensor in self.state_dict(keep_vars=True).items():
            if key in exact and tensor.dtype != exact[key].dtype and not tensor.is_meta:
                tensor.data = exact[key].to(tensor.device)
        return self


class LayerFusion(KeptInFp32):
    """What becomes of the L layers of an encoder: a weighted sum, several of them, or chosen layers beside each other.

    `"learned"` is Equation 4, c = sum_i softmax(w)_i LayerNorm(h_i), with w starting at zeros, which is Norm-Avg;
    `"norm_avg"` is Equation 1. All fusions: [`GrantedConfig`]. Everything is computed in fp32.

    Args:
        fusion (`str`), num_layers (`int`), options: as of [`FusionOptions`].
    """

    def __init__(self, fusion: str, num_layers: int, layer_index: int = -1, **options):
        super().__init__()
        self.options = FusionOptions(fusion, num_layers, layer_index, **options)
        self.fusion = fusion
        self.num_layers = num_layers
        self.layers = self.options.used_layers()
        self.arrangement = self.options.arrangement()
        if self.options.has_weights():
            outputs = () if self.options.num_outputs is None else (self.options.num_outputs,)
            self.weights = nn.Parameter(torch.zeros(*outputs, len(self.layers)))  # (len(layers),) or (K, len(layers))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Equal weights, so that a fusion with weights starts as the mean of its layers."""
        if self.options.has_weights():
            nn.init.constant_(self.weights, 0 if self.fusion == "learned" else 1 / len(self.layers))

    def layer_weights(self) -> torch.Tensor:
        """The factor of every layer in the sums, (L,) or (K, L) fp32, differentiable in the weights (Equation 3).

        With the embeddings there is one more at the end, for them.
        """
        return self()  # through `forward`, where the hooks of accelerate and diffusers bring back offloaded weights

    def forward(
        self, hidden_states: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Fuse a stack (B, L, N, D): the plain form of what [`GrantedModel`] streams. Without one `layer_weights()`.

        Args:
            hidden_states (`torch.Tensor`): an entry per layer; with the embeddings L + 1, the embeddings first.
            attention_mask (`torch.Tensor`, *optional*): (B, N), for a norm over tokens; all are real by default.

        Returns:
            (B, N, D), (B, N, K * D) or (B, K, N, D) fp32, as the arrangement says.
        """
        if hidden_states is None:
            return self._factors()
        first = EMBEDDINGS if EMBEDDINGS in self.layers else 0
        if hidden_states.ndim != 4 or hidden_states.shape[1] != self.num_layers - first:
            raise ValueError(
                f"got hidden states {tuple(hidden_states.shape)}, expected (B, {self.num_layers - first}, N, D): "
                f"one entry per layer, {'with' if first else 'without'} the embeddings"
            )
        mask = torch.ones(hidden_states[:, 0, :, 0].shape) if attention_mask is None else attention_mask  # (B, N)
        return self.combine(dict(enumerate(hidden_states.unbind(1), first)), mask.bool().to(hidden_states.device))

    def _factors(self) -> torch.Tensor:
        columns = self.num_layers + (EMBEDDINGS in self.layers)
        if self.fusion == "learned":
            factors = torch.softmax(self.weights.float(), dim=-1)  # ([K], len(layers))
        elif self.fusion == "signed":
            factors = self.weights.float()  # ([K], len(layers))
        elif self.arrangement != "sum":  # each layer by itself
            factors = torch.eye(len(self.layers))  # (K, len(layers))
        else:
            factors = torch.full((len(self.layers),), 1 / len(self.layers))  # (len(layers),)
        index = torch.tensor(self.layers, device=factors.device) % columns  # (len(layers),); embeddings come last
        return torch.zeros(*factors.shape[:-1], columns, device=factors.device).index_copy(-1, index, factors)

    def combine(self, layers: Mapping[int, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """As `forward`, by ordinary autograd, from layers by their number, (B, N, D) each, and a mask (B, N) bool."""
        factors = self.layer_weights()  # (L,) or (K, L)
        rows = factors if factors.ndim == 2 else factors.unsqueeze(0)  # (K, L)
        sums: list[torch.Tensor | int] = [0] * len(rows)
        for index in sorted(self.layers):
            hidden = layers[index]
            prepared = self.prepare(hidden.flatten(0, 1), self.statistics(hidden, mask))  # (B * N, D)
            prepared = prepared.view(hidden.shape).to(mask.device)  # (B, N, D), of a model that is spread over devices
            users = range(len(rows)) if self.options.has_weights() else rows[:, index].nonzero().flatten().tolist()
            for k in users:
                sums[k] = sums[k] + rows[k, index] * prepared
        if self.arrangement == "sum":
            return sums[0]
        if self.arrangement == "stack":
            return torch.stack(sums, dim=1)  # (B, K, N, D)
        return torch.stack(sums, dim=2 if self.arrangement == "concat" else 3).flatten(2)  # (B, N, K * D)

    # ------------------------------------------------------------------------------------------------- layer by layer

    def statistics(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """What a norm over all tokens of a text takes from a layer (B, N, D): centre and factor of each token.

        (B * N, 1) each; `None` for norms of a token by itself.
        """
        if self.options.norm() != "range":
            return None
        tokens = ~mask.to(hidden.device).unsqueeze(-1)  # (B, N, 1), where padding is
        hidden = hidden.float()
        count = mask.sum(1).to(hidden.device) * hidden.shape[-1]  # (B,)
        mean = hidden.masked_fill(tokens, 0).sum((1, 2)) / (count + self.options.eps)  # (B,)
        lowest = hidden.masked_fill(tokens, torch.inf).amin((1, 2))  # (B,)
        highest = hidden.masked_fill(tokens, -torch.inf).amax((1, 2))  # (B,)
        factor = RANGE_SCALE / (highest - lowest + self.options.eps)  # (B,)
        return tuple(one.repeat_interleave(hidden.shape[1]).unsqueeze(1) for one in (mean, factor))

    def prepare(self, hidden: torch.Tensor, statistics: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
        """Tokens of a layer (T, D) as they enter the sums: fp32, normalised as the options say."""
        hidden, norm, eps = hidden.float(), self.options.norm(), self.options.eps
        if norm == "layer_norm":
            return F.layer_norm(hidden, hidden.shape[-1:], eps=eps)
        if norm == "rms_norm":
            return F.rms_norm(hidden, hidden.shape[-1:], eps=eps)
        if norm == "token_std":
            return (hidden - hidden.mean(-1, keepdim=True)) / (hidden.std(-1, keepdim=True) + eps)
        if norm == "range":
            centre, factor = statistics
            return (hidden - centre) * factor
        return hidden

    def empty(self, hidden: torch.Tensor) -> torch.Tensor:
        """Zeros in fp32 for the K sums over layers such as (B, N, D), in memory as they are going to be returned."""
        batch, tokens, width = hidden.shape
        outputs = self.options.output_count()
        shapes = {"concat": (batch, tokens, outputs, width), "interleave": (batch, tokens, width, outputs)}
        return torch.zeros(shapes.get(self.arrangement, (outputs, batch, tokens, width)), device=hidden.device)

    def slots(self, sums: torch.Tensor) -> torch.Tensor:
        """The memory of `empty` as the K sums over T = B * N tokens, (K, T, D)."""
        if self.arrangement == "concat":
            return sums.flatten(0, 1).permute(1, 0, 2)
        if self.arrangement == "interleave":
            return sums.flatten(0, 1).permute(2, 0, 1)
        return sums.flatten(1, 2)

    def arranged(self, sums: torch.Tensor) -> torch.Tensor:
        """The memory of `empty` as `forward` returns it."""
        if self.arrangement == "sum":
            return sums[0]  # (B, N, D)
        return sums.transpose(0, 1) if self.arrangement == "stack" else sums.flatten(2)


class Standardization(KeptInFp32):
    """Removes what every token of an encoder has: per channel the mean, and the scale of what differs.

    Some encoders have channels whose constant part is many times larger than all that tells texts apart; what reads
    such features from scratch learns slowly. The buffers are calibrated on captions, see [`GrantedModel.calibrate`].

    Args:
        shape (`tuple[int, ...]`): (D,), or (K, 1, D) of a stack.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(shape))

    def reset_parameters(self) -> None:
        """Features pass unchanged."""
        self.mean.zero_()
        self.deviation.fill_(1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., D) fp32 with mean 0 and deviation 1 in every channel of the calibration texts."""
        return (features - self.mean) / self.deviation


class FusionAccumulator:
    """Running sums of several fusions over the layers as they come; never holds the stack.

    Args:
        fusions (`list[LayerFusion]`): what is summed.
        factors (`list[torch.Tensor]`): the layer weights of each, (L,) or (K, L).
        mask (`torch.Tensor`): (B, N) bool, real tokens.
    """

    def __init__(self, fusions: list[LayerFusion], factors: list[torch.Tensor], mask: torch.Tensor):
        self.fusions, self.mask = fusions, mask
        self.factors = [(one if one.ndim == 2 else one.unsqueeze(0)).tolist() for one in factors]  # (K, L) each
        self.sums: list[torch.Tensor | None] = [None] * len(fusions)

    def add(self, index: int, hidden: torch.Tensor) -> None:
        """Add layer `index` (B, N, D) to every fusion that uses it."""
        users = [i for i, fusion in enumerate(self.fusions) if index in fusion.layers]
        statistics = {}  # one normalisation serves all fusions that want it
        for i in users:
            fusion = self.fusions[i]
            if self.sums[i] is None:
                self.sums[i] = fusion.empty(hidden)
            if (key := fusion.options.norm_key()) not in statistics:
                statistics[key] = fusion.statistics(hidden, self.mask)
        for rows in row_chunks(hidden):
            prepared = {}
            for i in users:
                fusion = self.fusions[i]
                key = fusion.options.norm_key()
                if key not in prepared:
                    own = statistics[key] and tuple(one[rows] for one in statistics[key])  # (chunk, 1) each
                    prepared[key] = fusion.prepare(hidden.flatten(0, 1)[rows], own)  # (chunk, D)
                tokens = prepared[key].to(self.sums[i].device)
                for total, factors in zip(fusion.slots(self.sums[i]), self.factors[i]):  # (T, D), (L,)
                    if factors[index]:
                        total[rows].add_(tokens, alpha=factors[index])

    def results(self) -> list[torch.Tensor]:
        """What the fusions give, (B, N, D), (B, N, K * D) or (B, K, N, D) fp32 each."""
        return [fusion.arranged(total) for fusion, total in zip(self.fusions, self.sums)]


def row_chunks(hidden: torch.Tensor) -> Iterator[slice]:
    """Slices over the B * N tokens of a layer (B, N, D)."""
    for start in range(0, hidden.shape[0] * hidden.shape[1], FUSION_CHUNK):
        yield slice(start, start + FUSION_CHUNK)


class RecomputedFusion(torch.autograd.Function):
    """Fusions of a frozen encoder whose layer-weight gradients come from a second run of the encoder.

    The gradient of a factor is the scalar <dL/dc, norm(h_i)>. Running the layers again in backward gives all of them
    without keeping any layer, where autograd would keep every normalised one.
    """

    @staticmethod
    def forward(ctx, run: Callable, mask: torch.Tensor, fusions: list[LayerFusion], *factors: torch.Tensor):
        ctx.run, ctx.mask, ctx.fusions, ctx.shapes = run, mask, fusions, [one.shape for one in factors]
        ctx.autocast = {
            "device_type": mask.device.type,
            "enabled": torch.is_autocast_enabled(mask.device.type),
            "dtype": torch.get_autocast_dtype(mask.device.type),
        }
        accumulator = FusionAccumulator(fusions, factors, mask)
        run(accumulator.add)
        return tuple(accumulator.results())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        dots = [torch.zeros(shape, device=g.device) for shape, g in zip(ctx.shapes, gradients)]  # (L,) or (K, L)
        needed = [
            (fusion, gradient if gradient.ndim == 4 else gradient.unsqueeze(1), dot if dot.ndim == 2 else dot[None])
            for fusion, gradient, dot, wanted in zip(ctx.fusions, gradients, dots, ctx.needs_input_grad[3:])
            if wanted  # so it has weights, and its gradient is (B, [K,] N, D)
        ]

        def collect(index: int, hidden: torch.Tensor) -> None:
            for fusion, gradient, dot in needed:
                if index not in fusion.layers:
                    continue
                statistics = fusion.statistics(hidden, ctx.mask)
                for rows in row_chunks(hidden):
                    own = statistics and tuple(one[rows] for one in statistics)  # (chunk, 1) each
                    # Encoders may leave NaN at padding: the mask removes it, a zero gradient would not.
                    prepared = fusion.prepare(hidden.flatten(0, 1)[rows], own).to(gradient.device)  # (chunk, D)
                    padding = ~ctx.mask.reshape(-1, 1)[rows].to(gradient.device)  # (chunk, 1)
                    prepared = prepared.masked_fill(padding, 0)  # (chunk, D)
                    for k in range(gradient.shape[1]):
                        dot[k, index] += torch.sum(prepared * gradient[:, k].flatten(0, 1)[rows])

        with torch.autocast(**ctx.autocast):  # the second run is the first one again, to the bit
            ctx.run(collect)
        return None, None, None, *dots
