"""The fused text encoder: any Hugging Face text encoder whose layers become one feature (Sections 2.1 and 3.5).

    encoder = GrantedModel.from_encoder("Qwen/Qwen3-VL-8B-Instruct", fusion="norm_avg")
    features = encoder.encode(["a red cube on a blue sphere"])  # one (N, D) tensor per text

Ships to the Hub; imports nothing but torch, transformers and its sibling files.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_granted import EMBEDDINGS, GrantedConfig
from .modeling_building import Building
from .modeling_checkpoint import auto_class
from .modeling_fingerprint import encoder_fingerprint
from .modeling_layer_fusion import FusionAccumulator, LayerFusion, RecomputedFusion, Standardization
from .modeling_text_input import TextInput, length_sorted_batches
from .modeling_text_trunk import (
    entering,
    evaluating,
    find_last_layer,
    find_text_trunk,
    reporting,
    streaming,
    usable_positions,
)


@dataclass
class GrantedModelOutput(ModelOutput):
    """Output of [`GrantedModel`].

    Args:
        last_hidden_state (`torch.Tensor`): fused features, exact zeros at padding: (B, N, D), (B, N, K * D) of
            concatenated layers, (B, K, N, D) of a stack or of several sums.
        attention_mask (`torch.Tensor`): (B, N), as it was given.
        hidden_states (`tuple`, *optional*): L+1 tensors with `output_hidden_states=True`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class GrantedModel(TextInput, Building, PreTrainedModel):
    """Text encoder whose output is a fusion of all layers of its trunk.

    Made by [`~GrantedModel.from_encoder`] from any checkpoint AutoModel can load, or by `from_pretrained` from a
    folder that `save_pretrained` wrote. Layers are fused while they run: at no time are they held together.

    The layer weights are in `fusion.weights`. With a frozen encoder (`model.encoder.requires_grad_(False)`) their
    gradient is exact at the memory of inference, at the price of a second run of the encoder in backward; with a
    trainable encoder it is ordinary autograd.
    """

    config: GrantedConfig
    config_class = GrantedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["fusion", "standardization"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: GrantedConfig):
        super().__init__(config)
        config.check()  # options of `from_pretrained` are set without a look
        encoder = auto_class(config.encoder_config).from_config(copy.deepcopy(config.encoder_config))
        self.encoder = encoder if config.keep_vision else find_text_trunk(encoder)[0]
        self.fusion = LayerFusion(**config.layer_fusion())
        if config.standardize:
            stacked = (self.fusion.options.output_count(), 1) if self.fusion.arrangement == "stack" else ()
            self.standardization = Standardization(*stacked, config.fused_size())
        if config.projection_dim is not None:
            self.projection = nn.Linear(config.fused_size(), config.projection_dim)
        self._no_split_modules = list(getattr(self.encoder, "_no_split_modules", None) or [])
        self._last_layer_name: str | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerFusion | Standardization):
            module.reset_parameters()

    def fingerprint(self) -> str:
        """Hash of all that decides the encoder's layers: its weights, configuration, dtype and tokenizer."""
        settings = {"last_layer": self.config.last_layer, "dtype": self.dtype}
        return encoder_fingerprint(self.encoder, self.config.encoder_config, self.tokenizer, **settings)

    # ------------------------------------------------------------------------------------------------------- weights

    @property
    def layer_weights(self) -> torch.Tensor:
        """The factor of every layer, (L,) or (K, L), softmaxed where learned (Equation 3); detached."""
        return self.fusion.layer_weights().detach()

    @contextmanager
    def mixing(self, layer_weights: torch.Tensor | None) -> Iterator[None]:
        """While it lasts, layers are summed with other factors than the model's own: of any sign and sum.

        What is done to a layer before, such as its norm, stays, and so does what follows the sum.

        Args:
            layer_weights (`torch.Tensor` or lists of numbers, *optional*): (L,), or (K, L) for K sums, such as one for
                each block of a diffusion model; (L + 1,) or (K, L + 1) with the embeddings, which come last. `None`
                changes nothing.

        Raises:
            ValueError: another shape, what is not finite, or a model that sums no layers.
        """
        if layer_weights is None:
            yield
            return
        own = self.fusion
        given = torch.as_tensor(layer_weights, dtype=torch.float32)  # (L,) or (K, L)
        mixture = self._mixture(given).to(own.layer_weights().device).requires_grad_(False)
        with torch.no_grad():
            mixture.weights.copy_(given[..., [index % given.shape[-1] for index in mixture.layers]])  # as given
        self.fusion = mixture
        try:
            yield
        finally:
            self.fusion = own

    def _mixture(self, given: torch.Tensor) -> LayerFusion:
        """A sum of this encoder's layers with factors of the shape given."""
        own, arrangement = self.fusion.options, self.fusion.arrangement
        if arrangement not in ("sum", "stack") or (arrangement == "stack" and not own.has_weights()):
            raise ValueError(
                f"got layer weights for the fusion {self.config.fusion!r}, expected one that sums layers: choose one"
            )
        columns = own.num_layers + bool(self.config.embeddings)
        outputs = own.output_count() if arrangement == "stack" else None
        shape, legal = tuple(given.shape), f"({columns},) or (K, {columns})"
        if outputs is not None:
            legal = f"({outputs}, {columns})"
            fits = shape == (outputs, columns)
        else:
            fits = given.ndim in (1, 2) and shape[-1] == columns
        if not fits or not given.isfinite().all():
            raise ValueError(f"got layer weights of shape {shape}, expected finite ones of shape {legal}")
        options = self.config.layer_fusion() | {"fusion": "signed", "layer_index": -1, "layers": None}
        options |= {"num_outputs": given.shape[0] if given.ndim == 2 else None, "layer_norm": own.norm()}
        return LayerFusion(**options)

    def freeze_layer_weights(self) -> None:
        """Stop learning the layer weights (the second step of Section 3.5)."""
        self.fusion.requires_grad_(False)

    @torch.no_grad()
    def calibrate(
        self, texts: Iterable[str], *, max_sequence_length: int | None = None, token_budget: int = 8192
    ) -> None:
        """Standardise the features from here on: per channel the mean and deviation over the tokens of these texts.

        What is learned on top of the features must be learned after it. A channel that never varies is only centred.

        Args:
            texts (`Iterable[str]`): captions as the model will read them; a few hundred are enough.
            max_sequence_length (`int`, *optional*), token_budget (`int`, defaults to 8192): as of
                [`~GrantedModel.encode`].

        Raises:
            ValueError: what cannot be text, no text at all, and features that are NaN or infinite.
        """
        texts = self.as_texts(texts)
        if not texts:
            raise ValueError("got no text to calibrate on, expected some captions")
        token_ids = self.tokenize(texts, max_sequence_length=max_sequence_length)
        count, total, squares = 0, 0.0, 0.0
        with evaluating(self):
            for batch in length_sorted_batches([len(ids) for ids in token_ids], token_budget):
                input_ids, attention_mask = self.pad([token_ids[i] for i in batch])  # (B, N) each
                (fused,) = self.fuse(input_ids, attention_mask)  # (B, [K,] N, D)
                self.check_finite(fused, attention_mask, lambda row, batch=batch: texts[batch[row]])
                rows = [row[..., kept, :] for row, kept in zip(fused, self.kept_tokens(attention_mask))]
                tokens = torch.cat(rows, dim=-2).double()  # ([K,] sum N_i, D)
                count += tokens.shape[-2]
                total += tokens.sum(-2, keepdim=tokens.ndim == 3)  # (D,) or (K, 1, D)
                squares += tokens.square().sum(-2, keepdim=tokens.ndim == 3)  # the same
        if not self.config.fused_hidden_states:
            warnings.warn(
                "hidden_states of this model stay the encoder's own (fused_hidden_states=False): a pipeline that "
                "reads them gets nothing of the calibration, last_hidden_state has it",
                stacklevel=2,
            )
        mean = total / count  # (D,) or (K, 1, D)
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        deviation[deviation < 1e-6 * mean.abs().clamp(min=1e-6)] = 1
        self.config.standardize = True
        self.standardization = Standardization(*mean.shape).to(mean.device)
        self.standardization.mean.copy_(mean)
        self.standardization.deviation.copy_(deviation)

    @property
    def text_trunk(self) -> nn.Module:
        """The module that turns token ids into hidden states."""
        return find_text_trunk(self.encoder)[0] if self.config.keep_vision else self.encoder

    @cached_property
    def num_positions(self) -> int | None:
        """Most tokens that the encoder can read of a text; `None` where its positions are computed and have no end."""
        return usable_positions(self.text_trunk)

    def get_input_embeddings(self) -> nn.Module:
        return self.text_trunk.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_trunk.set_input_embeddings(value)

    # ------------------------------------------------------------------------------------------------------- forward

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> GrantedModelOutput:
        """N tokens in, N fused features out.

        Args:
            input_ids (`torch.LongTensor`): (B, N).
            attention_mask (`torch.Tensor`, *optional*): (B, N), nonzero at real tokens; all real by default.
            output_hidden_states (`bool`, *optional*): see `fused_hidden_states` of [`GrantedConfig`].
            return_dict (`bool`, *optional*): `False` gives a tuple.
            kwargs: passed on to the encoder (`pixel_values` and the like need `keep_vision`).

        Returns:
            [`GrantedModelOutput`] with `last_hidden_state` (B, N, D), or as the fusion says.
        """
        attention_mask, mask = self._masks(input_ids, attention_mask, kwargs.get("inputs_embeds"))
        reported = [] if output_hidden_states and not self.config.fused_hidden_states else None
        (fused,) = self.fuse(input_ids, attention_mask, [self.fusion], reported=reported, **kwargs)
        fused = self.finish(fused, mask)  # (B, N, D), or as the fusion says
        hidden_states = None
        if output_hidden_states:
            fused_states = (fused,) * (self.config.num_hidden_layers + 1)
            hidden_states = fused_states if reported is None else tuple(reported)
        output = GrantedModelOutput(fused, attention_mask, hidden_states)
        return output.to_tuple() if return_dict is False else output

    def finish(self, fused: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What `forward` makes of fused features: standardised, projected, in the dtype of the output.

        Args:
            fused (`torch.Tensor`): (B, N, D) or (B, K, N, D), of `fuse`.
            mask (`torch.Tensor`): (B, N) bool; padding becomes zero.
        """
        if self.config.standardize:
            fused = self.standardization(fused)  # padding becomes zero again below
        if self.config.projection_dim is not None:
            if not (self.config.projection_trained or self.training):
                raise ValueError(
                    f"got an untrained projection to {self.config.projection_dim}, expected a trained one: train it "
                    "with the diffusion model and set config.projection_trained = True"
                )
            fused = self.projection(fused.to(self.projection.weight.dtype))  # (..., projection_dim)
        # Weights stored in eight bits (layerwise casting) do not say in which dtype they are computed with.
        own = self.text_trunk.dtype if self.text_trunk.dtype.itemsize > 1 else torch.float32
        dtype = getattr(torch, self.config.output_dtype) if self.config.output_dtype else own
        return _without_padding(fused.to(dtype), ~mask.to(fused.device).unsqueeze(-1))

    def fuse(
        self,
        input_ids: torch.LongTensor | None,
        attention_mask: torch.Tensor | None = None,
        fusions: list[LayerFusion] | None = None,
        recompute: bool = True,
        reported: list[torch.Tensor] | None = None,
        **kwargs,
    ) -> list[torch.Tensor]:
        """Several fusions from one run of the encoder.

        Args:
            input_ids (`torch.LongTensor`): (B, N).
            attention_mask (`torch.Tensor`, *optional*): (B, N).
            fusions (`list[LayerFusion]`, *optional*): the model's own by default.
            recompute (`bool`, defaults to `True`): get the gradient of learned weights over a frozen encoder from a
                second run of it; `False` keeps the layers instead: faster, at the memory of the whole stack.
            reported (`list`, *optional*): an empty one, which gets the encoder's own L + 1 hidden states of that run.

        Returns:
            One fp32 tensor per fusion, (B, N, D), (B, N, K * D) or (B, K, N, D), zeros at padding, before projection.

        Raises:
            ValueError: more tokens than the encoder has positions for, a fusion made for another encoder or of layers
                of several widths, a mask of another shape, images without `keep_vision`.
        """
        fusions = [self.fusion] if fusions is None else fusions
        for fusion in fusions:
            self._check_fusion(fusion)
        attention_mask, mask = self._masks(input_ids, attention_mask, kwargs.get("inputs_embeds"))
        if self.num_positions is not None and mask.shape[1] > self.num_positions:
            raise ValueError(
                f"got {mask.shape[1]} tokens, expected at most {self.num_positions}: the encoder has no positions for "
                "more, cut the texts as tokenize and encode do"
            )
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        # Nothing is generated, so nothing is cached, whatever a caller asks for.
        inputs = {key: value for key, value in inputs.items() if value is not None and key != "use_cache"}
        pad = ~mask.unsqueeze(-1)  # (B, N, 1)
        frozen = not self._encoder_is_trainable(inputs)
        factors = [fusion.layer_weights() for fusion in fusions]  # (L,) or (K, L) each
        used = {index for fusion in fusions for index in fusion.layers}
        learning = torch.is_grad_enabled() and any(factor.requires_grad for factor in factors)

        def run(visit: Callable[[int, torch.Tensor], None]) -> None:
            if frozen and self._encoder_is_trainable(inputs):
                raise RuntimeError("got an encoder made trainable between forward and backward, expected it frozen")
            with self._reading(frozen):
                self._run(inputs, visit, EMBEDDINGS in used, reported)

        if (torch.is_grad_enabled() and not frozen) or (learning and not recompute):
            layers: dict[int, torch.Tensor] = {}

            def keep(index: int, hidden: torch.Tensor) -> None:
                # Before transformers 5.23 this is inside a checkpoint, where nothing may be computed.
                if not (frozen or torch.is_grad_enabled()):
                    raise ValueError("got checkpoints with use_reentrant=True, expected use_reentrant=False: set it")
                if index in used:
                    layers[index] = hidden

            run(keep)
            layers = {i: _without_padding(hidden, pad.to(hidden.device)) for i, hidden in layers.items()}
            sums = [fusion.combine(layers, mask) for fusion in fusions]
        elif learning:
            # The second run must see what the first one saw, whatever the caller does to its tensors in between.
            inputs = {key: value.clone() if torch.is_tensor(value) else value for key, value in inputs.items()}
            sums = RecomputedFusion.apply(run, mask.clone(), fusions, *factors)
        else:
            accumulator = FusionAccumulator(fusions, factors, mask)
            run(accumulator.add)
            sums = accumulator.results()
        # Layers may be spread over devices; what is read of them is together where the input is.
        return [_without_padding(total.to(pad.device), pad) for total in sums]

    def _check_fusion(self, fusion: LayerFusion) -> None:
        if fusion.num_layers != self.config.num_hidden_layers:
            raise ValueError(
                f"got a fusion of {fusion.num_layers} layers, expected {self.config.num_hidden_layers}: "
                "it was made for another encoder"
            )
        self.config.layer_width(fusion.layers)  # raises where they are of several widths

    def _run(
        self,
        inputs: dict,
        visit: Callable[[int, torch.Tensor], None],
        embeddings: bool,
        reported: list[torch.Tensor] | None,
    ) -> None:
        """Run the encoder, calling `visit(i, hidden (B, N, D))` for each of its L layers as it comes.

        What enters the first block comes before them, as layer `EMBEDDINGS`, if `embeddings` says so. An empty list
        `reported` gets the hidden states that the encoder itself reports.
        """
        trunk, layers = find_text_trunk(self.encoder)
        if self._last_layer_name is None:
            key = "inputs_embeds" if "inputs_embeds" in inputs else "input_ids"
            # Not padding, whose embedding may be all zeros, which come out of a norm as they went in.
            place = int(inputs["attention_mask"].flatten().bool().long().argmax())
            token = {key: inputs[key].flatten(0, 1)[place][None, None]}  # (1, 1) or (1, 1, D)
            self._last_layer_name = find_last_layer(trunk, layers, self.config.last_layer, token)
        modules = [*layers[:-1], trunk.get_submodule(self._last_layer_name)]
        cache = {"use_cache": False} if hasattr(trunk.config, "use_cache") else {}
        entry = self._entry(inputs)

        tokens = inputs["attention_mask"].shape  # (B, N)
        seen: list[int] = []

        def check_and_visit(index: int, hidden: torch.Tensor) -> None:
            width = self.config.layer_width([index])
            if hidden.ndim != 3 or hidden.shape[:2] != tokens:
                raise ValueError(
                    f"got layer {index} of {type(trunk).__name__} of shape {tuple(hidden.shape)}, expected "
                    f"{(*tokens, width)}: choose an encoder whose layers are (B, N, D)"
                )
            if hidden.shape[-1] != width:
                raise ValueError(
                    f"got layer {index} of width {hidden.shape[-1]} with last_layer={self.config.last_layer!r}, "
                    f"expected {width}: set last_layer to 'pre_norm', or to 'output' with fusion='single'"
                )
            seen.append(index)
            visit(index, hidden)

        asked = reported == []  # not again in backward
        with (
            reporting(self.encoder) if asked else nullcontext(),
            streaming(modules, check_and_visit),
            entering(layers[0], check_and_visit, embeddings),
        ):
            output = entry(**inputs, **cache, output_hidden_states=asked, return_dict=True)
        if asked:
            reported += output.hidden_states
        odd = [index for index in range(len(modules)) if seen.count(index) != 1]
        if odd:
            raise ValueError(
                f"got {type(trunk).__name__}, whose layers {odd} do not run once each on text, expected all "
                f"{len(modules)} to: choose an encoder with such layers"
            )

    def _entry(self, inputs: dict) -> nn.Module:
        """The module to call: images and videos enter through the whole encoder, which calls the trunk in turn."""
        visual = [key for key in inputs if key.startswith(("pixel", "image", "video"))]
        if visual and not self.config.keep_vision:
            raise ValueError(f"got {', '.join(visual)}, expected text alone: build the encoder with keep_vision=True")
        return self.encoder if visual else self.text_trunk

    @contextmanager
    def _reading(self, frozen: bool) -> Iterator[None]:
        """A frozen encoder is read in evaluation mode and without a graph, a trainable one as it stands."""
        if frozen:
            with torch.no_grad(), evaluating(self.encoder):
                yield
        else:
            yield

    def _encoder_is_trainable(self, inputs: dict) -> bool:
        embeds = inputs.get("inputs_embeds")
        return (embeds is not None and embeds.requires_grad) or any(p.requires_grad for p in self.encoder.parameters())

    def _masks(self, input_ids, attention_mask, inputs_embeds) -> tuple[torch.Tensor, torch.Tensor]:
        """The mask as the encoder takes it, and as bool; both (B, N)."""
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is None:
            raise ValueError("got neither input_ids nor inputs_embeds, expected one of them")
        if attention_mask is None:
            attention_mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)  # (B, N)
        elif attention_mask.shape != tokens.shape[:2]:
            raise ValueError(
                f"got attention_mask {tuple(attention_mask.shape)}, expected {tuple(tokens.shape[:2])} as the input"
            )
        return attention_mask, attention_mask.bool()


def _without_padding(features: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
    """Zeros where padding is (B, N, 1), in features (B, N, D) or (B, K, N, D)."""
    return features.masked_fill(pad if features.ndim == 3 else pad.unsqueeze(1), 0)


GrantedModel.register_for_auto_class("AutoModel")
