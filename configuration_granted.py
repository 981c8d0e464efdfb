"""Configurations of the fused text encoder and of the context aggregator.

Ships to the Hub beside `modeling_granted.py`; imports nothing but transformers.
"""

import inspect
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


FUSIONS = ("learned", "norm_avg", "avg", "single")
LAST_LAYERS = ("as_reported", "pre_norm", "post_norm", "output")


def check_choice(name: str, value: Any, legal: tuple[str, ...]) -> None:
    """Raise a ValueError that names the legal values when `value` is not one of them."""
    if value not in legal:
        raise ValueError(f"got {name}={value!r}, expected one of {', '.join(map(repr, legal))}")


def check_layer_index(layer_index: int, num_layers: int) -> None:
    """Raise a ValueError unless `layer_index` names one of `num_layers` layers (negative counts from the last)."""
    if not -num_layers <= layer_index < num_layers:
        raise ValueError(
            f"got layer_index={layer_index}, expected {-num_layers} to {num_layers - 1} for an encoder of "
            f"{num_layers} layers (0 is the first block, -1 the last)"
        )


def check_layers(fusion: str, layers: list[int] | None, num_layers: int) -> None:
    """Raise a ValueError unless `layers`, where given, names layers that a fusion of several can use."""
    if layers is None:
        return
    if fusion == "single":
        raise ValueError(f"got layers={layers} with fusion='single', expected layer_index alone")
    for index in layers:
        check_layer_index(index, num_layers)
    if len(layers) == 0 or len({index % num_layers for index in layers}) < len(layers):
        raise ValueError(f"got layers={layers} of {num_layers}, expected at least one layer and none twice")


def fused_layers(fusion: str, layer_index: int, layers: list[int] | None, num_layers: int) -> list[int]:
    """The layers that a fusion uses, counted from 0."""
    chosen = [layer_index] if fusion == "single" else layers if layers is not None else range(num_layers)
    return [index % num_layers for index in chosen]


class GrantedConfig(PreTrainedConfig):
    """Everything that changes the output of a [`GrantedModel`], so that a checkpoint is complete.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, defaults to Qwen3-VL): the encoder's own configuration.
        fusion (`str`, defaults to `"learned"`): how layers become one feature. `"learned"`: softmax-weighted sum of
            normalised layers (Equation 4; zero weights are Norm-Avg); `"norm_avg"`: their mean (Equation 1);
            `"avg"`: mean of the raw layers; `"single"`: one raw layer.
        layer_index (`int`, defaults to -1): the layer of `"single"`; 0 is the first block, -1 the last (it counts
            `hidden_states[1:]`).
        layers (`list[int]`, *optional*): the layers fused, numbered like `layer_index`; all by default. The
            embeddings are never among them.
        last_layer (`str`, defaults to `"as_reported"`): what stands for the last layer. `"as_reported"`: what
            `hidden_states[-1]` is for this encoder (after the final norm for most, before it for CLIP);
            `"pre_norm"`: the last block's output; `"post_norm"`: that output after the encoder's final norm;
            `"output"`: the encoder's own `last_hidden_state`, which AltCLIP projects to another width: it cannot be
            fused with other layers then.
        layer_norm_eps (`float`, defaults to 1e-5): epsilon of the parameter-free LayerNorm of the fusion.
        projection_dim (`int`, *optional*): width of a linear projection after the fusion.
        projection_trained (`bool`, defaults to `False`): set by whoever trained the projection; without it the
            projection refuses to run outside training.
        prompt_template (`str`, *optional*): text with `{prompt}` in it that `encode` puts around every prompt.
        template_drop_tokens (`int`, defaults to 0): leading tokens that `encode` cuts off the output (the template's).
        max_sequence_length (`int`, defaults to 512): most tokens `encode` reads of a text, template included.
        padding_side (`str`, defaults to `"right"`): `"right"` or `"left"`; an encoder with learned absolute positions
            (BERT, CLIP) needs `"right"`.
        output_dtype (`str`, *optional*): dtype of the output, such as `"float32"`; the encoder's by default.
        keep_vision (`bool`, defaults to `False`): keep the encoder's other towers instead of its text trunk alone.
        fused_hidden_states (`bool`, defaults to `True`): `output_hidden_states=True` answers L+1 times the fused
            features, so that a pipeline that picks any hidden state gets the fusion; `False` gives the encoder's own.
        encoder_name_or_path (`str`, *optional*), encoder_revision (`str`, *optional*): where the encoder is from.
        encoder_in_checkpoint (`bool`, defaults to `True`): `False` in a checkpoint that carries the fusion only.
    """

    model_type = "granted"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PreTrainedConfig | dict | None = None,
        fusion: str = "learned",
        layer_index: int = -1,
        layers: list[int] | None = None,
        last_layer: str = "as_reported",
        layer_norm_eps: float = 1e-5,
        projection_dim: int | None = None,
        projection_trained: bool = False,
        prompt_template: str | None = None,
        template_drop_tokens: int = 0,
        max_sequence_length: int = 512,
        padding_side: str = "right",
        output_dtype: str | None = None,
        keep_vision: bool = False,
        fused_hidden_states: bool = True,
        encoder_name_or_path: str | None = None,
        encoder_revision: str | None = None,
        encoder_in_checkpoint: bool = True,
        **kwargs,
    ):
        if encoder_config is None:
            encoder_config = CONFIG_MAPPING["qwen3_vl"]()
        elif isinstance(encoder_config, dict):
            model_type = encoder_config.get("model_type")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"got encoder_config with model_type={model_type!r}, expected one that transformers knows: see "
                    "https://huggingface.co/docs/transformers/model_doc/auto"
                )
            encoder_config = CONFIG_MAPPING[model_type](**encoder_config)
        self.encoder_config = encoder_config
        self.fusion = fusion
        self.layer_index = layer_index
        self.layers = layers
        self.last_layer = last_layer
        self.layer_norm_eps = layer_norm_eps
        self.projection_dim = projection_dim
        self.projection_trained = projection_trained
        self.prompt_template = prompt_template
        self.template_drop_tokens = template_drop_tokens
        self.max_sequence_length = max_sequence_length
        self.padding_side = padding_side
        self.output_dtype = output_dtype
        self.keep_vision = keep_vision
        self.fused_hidden_states = fused_hidden_states
        self.encoder_name_or_path = encoder_name_or_path
        self.encoder_revision = encoder_revision
        self.encoder_in_checkpoint = encoder_in_checkpoint
        self._check()
        super().__init__(**kwargs)

    def _check(self) -> None:
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("last_layer", self.last_layer, LAST_LAYERS)
        check_choice("padding_side", self.padding_side, ("right", "left"))
        check_choice("output_dtype", self.output_dtype, (None, "float32", "bfloat16", "float16"))
        check_layer_index(self.layer_index, self.num_hidden_layers)
        check_layers(self.fusion, self.layers, self.num_hidden_layers)
        self.fused_size()
        lengths = (("template_drop_tokens", 0), ("max_sequence_length", self.template_drop_tokens + 1))
        for name, least in (*lengths, ("projection_dim", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"got {name}={value}, expected at least {least}")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ValueError(f"got prompt_template={self.prompt_template!r}, expected a text with '{{prompt}}' in it")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The configuration of the encoder's text trunk."""
        if getattr(self.encoder_config, "is_encoder_decoder", False):
            half = getattr(self.encoder_config, "encoder", None)  # T5Gemma has one configuration for each half
            return half or self.encoder_config.get_text_config(encoder=True)
        return self.encoder_config.get_text_config()

    def fusion_options(self) -> dict[str, Any]:
        """Everything but which encoder it is, as [`~GrantedModel.from_encoder`] takes it."""
        names = inspect.signature(type(self).__init__).parameters.keys() - {"self", "kwargs"}
        return {name: getattr(self, name) for name in sorted(names) if not name.startswith("encoder_")}

    @property
    def hidden_size(self) -> int:
        """Width D of the output."""
        return self.projection_dim or self.fused_size()

    def fused_size(self, layers: list[int] | None = None) -> int:
        """Width of the fusion of some layers, before the projection.

        Args:
            layers (`list[int]`, *optional*): counted from 0; those of this configuration's fusion by default.

        Raises:
            ValueError: they are of several widths, as the encoder's own output may be of another than its layers.
        """
        if layers is None:
            layers = fused_layers(self.fusion, self.layer_index, self.layers, self.num_hidden_layers)
        text = self.get_text_config()
        if self.last_layer != "output" or self.num_hidden_layers - 1 not in layers:
            return text.hidden_size
        # Encoders that project after their last norm: AltCLIP, OPT.
        widths = (getattr(text, name, None) for name in ("project_dim", "word_embed_proj_dim"))
        width = next((width for width in widths if width), text.hidden_size)
        if width != text.hidden_size and len(layers) > 1:
            raise ValueError(
                f"got last_layer='output' of width {width} fused with layers of width {text.hidden_size}, expected "
                "one width: set fusion='single', or another last_layer"
            )
        return width

    @property
    def num_hidden_layers(self) -> int:
        """Number L of Transformer layers of the text trunk, embeddings not counted."""
        return self.get_text_config().num_hidden_layers


class ContextAggregatorConfig(PreTrainedConfig):
    """Configuration of a [`ContextAggregator`] (Section 3.3, Appendix A).

    Args:
        encoder_hidden_size (`int`, defaults to 4096): width D of the token features it reads.
        hidden_size (`int`, *optional*): width of its blocks; D by default, else a linear layer leads from D to it.
        context_dim (`int`, defaults to 1024): width of the context embedding.
        num_blocks (`int`, defaults to 2), num_heads (`int`, defaults to 8), mlp_ratio (`int`, defaults to 4): its
            Transformer blocks.
        rope_theta (`float`, defaults to 10000.0): base of the rotary positions.
        layer_norm_eps (`float`, defaults to 1e-5): epsilon of its LayerNorms and of the layer fusion's.
        fusion (`str`, *optional*), layer_index (`int`, defaults to -1), num_layers (`int`, *optional*): how the
            layers of the encoder become the feature it reads, as in [`GrantedConfig`]; `num_layers` is the encoder's
            L. Without a fusion it reads fused features only.
        feature (`str`, *optional*): display name of that feature, such as `"norm_avg"` or `"last"`.
        encoder (`str`, *optional*), encoder_fingerprint (`str`, *optional*): the encoder it was trained for.
    """

    model_type = "granted_context_aggregator"

    def __init__(
        self,
        encoder_hidden_size: int = 4096,
        hidden_size: int | None = None,
        context_dim: int = 1024,
        num_blocks: int = 2,
        num_heads: int = 8,
        mlp_ratio: int = 4,
        rope_theta: float = 10000.0,
        layer_norm_eps: float = 1e-5,
        fusion: str | None = None,
        layer_index: int = -1,
        num_layers: int | None = None,
        feature: str | None = None,
        encoder: str | None = None,
        encoder_fingerprint: str | None = None,
        **kwargs,
    ):
        self.encoder_hidden_size = encoder_hidden_size
        self.hidden_size = hidden_size or encoder_hidden_size
        self.context_dim = context_dim
        self.num_blocks = num_blocks
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.rope_theta = rope_theta
        self.layer_norm_eps = layer_norm_eps
        self.fusion = fusion
        self.layer_index = layer_index
        self.num_layers = num_layers
        self.feature = feature
        self.encoder = encoder
        self.encoder_fingerprint = encoder_fingerprint
        check_choice("fusion", fusion, (None, *FUSIONS))
        if (fusion is None) != (num_layers is None):
            raise ValueError(f"got fusion={fusion!r} and num_layers={num_layers}, expected both or neither")
        if num_layers is not None:
            check_layer_index(layer_index, num_layers)
        if num_blocks < 1:
            raise ValueError(f"got num_blocks={num_blocks}, expected at least 1")
        if self.hidden_size % (2 * num_heads):
            raise ValueError(
                f"got hidden_size={self.hidden_size} and num_heads={num_heads}, expected heads of an even width: "
                f"choose a num_heads with hidden_size divisible by 2 * num_heads"
            )
        super().__init__(**kwargs)


GrantedConfig.register_for_auto_class()
ContextAggregatorConfig.register_for_auto_class()
