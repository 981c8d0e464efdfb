"""Configurations of the fused text encoder and of the context aggregator, and the checks that other files share.

Ships to the Hub beside `modeling_granted.py`; imports nothing but transformers.
"""

import inspect
import math
import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


FUSIONS = ("learned", "signed", "norm_avg", "avg", "single", "concat", "interleave", "stack")
WEIGHTED_FUSIONS = ("learned", "signed")
LAYER_NORMS = ("auto", "none", "layer_norm", "rms_norm", "token_std", "range")
EMBEDDINGS = -1  # their number among the layers, once these are counted from 0
TEXT_CLEANINGS = ("none", "strip", "lower_strip", "unescape", "unescape_strip")
LAST_LAYERS = ("as_reported", "pre_norm", "post_norm", "output")

# Names that transformers and its trainer put into a configuration, beside those that every configuration has.
TRANSFORMERS_NAMES = (
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "custom_pipelines",
    "eos_token_id",
    "experts_implementation",
    "pad_token_id",
    "quantization_config",
    "tie_word_embeddings",
    "use_cache",
)
TYPE_NAMES = {
    bool: "True or False",
    float: "a finite number",
    int: "a whole number",
    str: "a text",
    types.NoneType: "None",
}


def check_choice(name: str, value: Any, legal: tuple[str, ...]) -> None:
    """Raise a ValueError that names the legal values when `value` is not one of them."""
    if value not in legal:
        raise ValueError(f"got {name}={value!r}, expected one of {', '.join(map(repr, legal))}")


def check_type(name: str, value: Any, annotation: Any) -> None:
    """Raise a ValueError unless `value` is what a type such as `int`, `float | None` or `list[int]` says.

    `True` is no number and 16.0 no whole number; a whole number may stand for a float, and a float is finite.
    """
    if not _has_type(value, annotation):
        raise ValueError(f"got {name}={value!r}, expected {_type_name(annotation)}")


def _has_type(value: Any, annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is types.UnionType:
        return any(_has_type(value, kind) for kind in inner)
    if origin is list:
        return isinstance(value, list) and all(_has_type(item, inner[0]) for item in value)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    if annotation is float:
        return isinstance(value, int | float) and -math.inf < value < math.inf
    return isinstance(value, annotation)


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is types.UnionType:
        return " or ".join(map(_type_name, inner))
    if origin is list:
        return f"a list of {_type_name(inner[0]).removeprefix('a ')}s"
    return TYPE_NAMES.get(annotation, annotation.__name__)


def check_least(name: str, value: float | None, least: float) -> None:
    """Raise a ValueError unless `value` is at least `least`, or `None`."""
    if value is not None and value < least:
        raise ValueError(f"got {name}={value}, expected at least {least}")


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError unless `value` is more than zero."""
    if not value > 0:
        raise ValueError(f"got {name}={value}, expected more than 0")


def check_names(given: Collection[str], legal: Collection[str]) -> None:
    """Raise a ValueError that names the legal options when one of those `given` is not among them."""
    if unknown := sorted(set(given) - set(legal)):
        if "torch_dtype" in unknown:
            raise ValueError("got torch_dtype, expected dtype: that is its name here")
        raise ValueError(f"got the unknown option {', '.join(unknown)}, expected some of {', '.join(sorted(legal))}")


def check_weights(source: Any, missing: Collection[str], unexpected: Collection[str] = ()) -> None:
    """Raise a ValueError that names the weights which a checkpoint lacks, or has without a place for them.

    What transformers and diffusers do not find they fill at random, with a warning.
    """
    found = [
        f"{what} {', '.join(sorted(names)[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for what, names in (("without the weights", missing), ("with the unknown weights", unexpected))
        if names
    ]
    if found:
        raise ValueError(
            f"got {source} {' and '.join(found)}, expected all weights and no others: load it with the configuration "
            "that it was saved with, or fetch it again"
        )


# Options of `from_pretrained` that let the caller compare the weights found with those wanted.
COMPARED = {"output_loading_info": True, "ignore_mismatched_sizes": True}


def missing_and_unexpected(model: Any, loaded: dict[str, Any]) -> tuple[set[str], set[str]]:
    """The weights that a checkpoint lacks or has in another shape, and those without a place in the model.

    Args:
        model (`PreTrainedModel`), loaded (`dict`): what `from_pretrained` gives with the options `COMPARED`.
    """
    missing = {*loaded["missing_keys"], *(f"{key} {tuple(wanted)}" for key, _, wanted in loaded["mismatched_keys"])}
    # Quantised checkpoints have scales for what is not used here, such as a cache.
    quantised = getattr(model, "hf_quantizer", None) is not None
    return missing, set() if quantised else set(loaded["unexpected_keys"])


def check_layer_index(layer_index: int, num_layers: int) -> None:
    """Raise a ValueError unless `layer_index` names one of `num_layers` layers (negative counts from the last)."""
    check_type("layer_index", layer_index, int)
    if not -num_layers <= layer_index < num_layers:
        raise ValueError(
            f"got layer_index={layer_index}, expected {-num_layers} to {num_layers - 1} for an encoder of "
            f"{num_layers} layers (0 is the first block, -1 the last)"
        )


@dataclass(frozen=True)
class FusionOptions:
    """What a fusion makes of the layers of an encoder, as [`GrantedConfig`] describes it.

    Args:
        fusion (`str`), layer_index (`int`, defaults to -1), layers (`list[int]`, *optional*), layer_norm (`str`,
            defaults to `"auto"`), embeddings (`bool`, defaults to `False`), num_outputs (`int`, *optional*): as there.
        num_layers (`int`): L, embeddings not counted.
        eps (`float`, defaults to 1e-5): epsilon of the norm.

    Raises:
        ValueError: a value is not legal, or does not go with another.
    """

    fusion: str
    num_layers: int
    layer_index: int = -1
    layers: list[int] | None = None
    eps: float = 1e-5
    layer_norm: str = "auto"
    embeddings: bool = False
    num_outputs: int | None = None

    def __post_init__(self):
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("layer_norm", self.layer_norm, LAYER_NORMS)
        check_layer_index(self.layer_index, self.num_layers)
        check_least("num_outputs", self.num_outputs, 1)
        if self.layers is not None:
            self._check_layers()
        if self.fusion == "single" and self.embeddings:
            raise ValueError("got embeddings=True with fusion='single', expected a fusion of several layers")
        if self.num_outputs is not None and not self.has_weights():
            raise ValueError(
                f"got num_outputs={self.num_outputs} with fusion={self.fusion!r}, expected a fusion with weights: one "
                f"of {', '.join(WEIGHTED_FUSIONS)}"
            )

    def _check_layers(self) -> None:
        check_type("layers", self.layers, list[int])
        if self.fusion == "single":
            raise ValueError(f"got layers={self.layers} with fusion='single', expected layer_index alone")
        for index in self.layers:
            check_layer_index(index, self.num_layers)
        if len(self.layers) == 0 or len({index % self.num_layers for index in self.layers}) < len(self.layers):
            raise ValueError(
                f"got layers={self.layers} of {self.num_layers}, expected at least one layer and none twice"
            )

    def used_layers(self) -> list[int]:
        """The layers that are used, counted from 0, in the order of the output; `EMBEDDINGS` before them."""
        chosen = [self.layer_index] if self.fusion == "single" else self.layers
        chosen = range(self.num_layers) if chosen is None else chosen
        return [EMBEDDINGS] * self.embeddings + [index % self.num_layers for index in chosen]

    def has_weights(self) -> bool:
        """Whether the fusion has weights that can be learned."""
        return self.fusion in WEIGHTED_FUSIONS

    def arrangement(self) -> str:
        """How the K sums are returned: `"sum"` (B, N, D), `"stack"` (B, K, N, D), else (B, N, K * D)."""
        if self.fusion in ("concat", "interleave", "stack"):
            return self.fusion
        return "sum" if self.num_outputs is None else "stack"

    def output_count(self) -> int:
        """K."""
        if self.fusion in ("concat", "interleave", "stack"):
            return len(self.used_layers())
        return self.num_outputs or 1

    def norm(self) -> str:
        """How a layer is normalised before it is summed or placed."""
        if self.layer_norm != "auto":
            return self.layer_norm
        return "layer_norm" if self.fusion in ("learned", "signed", "norm_avg") else "none"

    def norm_key(self) -> tuple[str, float]:
        """Fusions with the same one can share a normalised layer."""
        return self.norm(), self.eps


def field_types(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    """The fields that a configuration of this file adds, each with its type."""
    parameters = inspect.signature(config_class.__init__).parameters
    return {name: parameter.annotation for name, parameter in parameters.items() if name not in ("self", "kwargs")}


def check_field_types(config: PreTrainedConfig) -> None:
    """Raise a ValueError unless every field of a configuration of this file has its type."""
    for name, annotation in field_types(type(config)).items():
        check_type(name, getattr(config, name), annotation)


def check_transformers_names(given: Collection[str], config: PreTrainedConfig) -> None:
    """Raise a ValueError that names a configuration's fields for names that transformers does not know either."""
    plain = PreTrainedConfig()
    theirs = {name for name in given if name.startswith("_") or name in TRANSFORMERS_NAMES or hasattr(plain, name)}
    check_names(set(given) - theirs, field_types(type(config)))


def text_config_of(encoder_config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration of an encoder's text trunk, by one rule for all."""
    if getattr(encoder_config, "is_encoder_decoder", False):
        half = getattr(encoder_config, "encoder", None)  # T5Gemma has one configuration for each half
        return half.get_text_config() if half else encoder_config.get_text_config(encoder=True)
    # Ovis and InternVL call it as their modules do; transformers does not know that name.
    return getattr(encoder_config, "llm_config", None) or encoder_config.get_text_config()


class GrantedConfig(PreTrainedConfig):
    """Everything that changes the output of a [`GrantedModel`], so that a checkpoint is complete.

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, defaults to Qwen3-VL): the encoder's own configuration.
        fusion (`str`, defaults to `"learned"`): what becomes of the layers. `"learned"`: softmax-weighted sum of
            normalised layers (Equation 4; zero weights are Norm-Avg); `"signed"`: the same with weights of any sign;
            `"norm_avg"`: their mean (Equation 1); `"avg"`: mean of the raw layers; `"single"`: one raw layer, (B, N,
            D) all of these. `"concat"`: raw layers one after the other along the channels, (B, N, K * D);
            `"interleave"`: their first channels, then their second ones, ...; `"stack"`: (B, K, N, D).
        layer_index (`int`, defaults to -1): the layer of `"single"`; 0 is the first block, -1 the last (it counts
            `hidden_states[1:]`).
        layers (`list[int]`, *optional*): the layers used, numbered like `layer_index`, in the order of the output; all
            by default.
        layer_norm (`str`, defaults to `"auto"`): what is done to each token of a layer before. `"none"`;
            `"layer_norm"`, without parameters; `"rms_norm"`; `"token_std"`: mean and unbiased deviation, with the
            epsilon added to that (Cosmos); `"range"`: mean over the whole text removed, divided by the range of its
            values, times 8 (LTX-2). `"auto"`: `"layer_norm"` for the normalised fusions, else `"none"`.
        embeddings (`bool`, defaults to `False`): what enters the first block (`hidden_states[0]`) is one more layer,
            before the others.
        num_outputs (`int`, *optional*): K sums, each with weights of its own, from one pass: (B, K, N, D), for
            diffusion models whose blocks each read another one. Only with weights.
        last_layer (`str`, defaults to `"as_reported"`): what stands for the last layer. `"as_reported"`: what
            `hidden_states[-1]` is for this encoder (after the final norm for most, before it for CLIP);
            `"pre_norm"`: the last block's output; `"post_norm"`: that output after the encoder's final norm;
            `"output"`: the encoder's own `last_hidden_state`, which AltCLIP projects to another width: it cannot be
            fused with other layers then.
        layer_norm_eps (`float`, defaults to 1e-5): epsilon of that norm.
        standardize (`bool`, defaults to `False`): whether the fused features are standardised per channel; set by
            [`GrantedModel.calibrate`], whose means and deviations are saved with the model.
        projection_dim (`int`, *optional*): width of a linear projection after the fusion.
        projection_trained (`bool`, defaults to `False`): set by whoever trained the projection; without it the
            projection refuses to run outside training.
        text_cleaning (`str`, defaults to `"none"`): what `encode` does to a text first. `"strip"`; `"lower_strip"`;
            `"unescape"`: HTML entities become characters, runs of white space one space, and ftfy mends what it can
            where it is installed (as diffusers does for Wan); `"unescape_strip"`: the same, but white space within it
            stays as it is (PRX).
        prompt_template (`str`, *optional*): text with `{prompt}` in it that `encode` puts around every prompt.
        add_special_tokens (`bool`, defaults to `True`): whether the tokenizer adds its own, such as an opening one.
        split_quotes (`bool`, defaults to `False`): whether each character that stands in quotation marks, these
            included, is tokenised by itself, and the template apart from the prompt (LongCat-Image); only without
            special tokens.
        template_drop_tokens (`int`, defaults to 0): leading tokens that `encode` cuts off the output (the template's).
        template_keep_first (`bool`, defaults to `False`): whether the first token, such as an opening special one,
            stays in the output, and those cut off come after it (Sana).
        fill_to_multiple_of (`int`, *optional*): `encode` puts padding beside a text, on the `padding_side`, until it
            has a multiple of so many tokens. The encoder reads it as text, and it is part of the output (CogView4).
        max_sequence_length (`int`, defaults to 512): most tokens `encode` reads of a text, template included.
        padding_side (`str`, defaults to `"right"`): `"right"` or `"left"`; an encoder with learned absolute positions
            (BERT, CLIP) needs `"right"`.
        output_dtype (`str`, *optional*): dtype of the output, such as `"float32"`; the encoder's by default.
        keep_vision (`bool`, defaults to `False`): keep the encoder's other towers instead of its text trunk alone.
        fused_hidden_states (`bool`, defaults to `True`): `output_hidden_states=True` answers L+1 times the fused
            features, so that a pipeline that picks any hidden state gets the fusion; `False` gives the encoder's own.
        encoder_name_or_path (`str`, *optional*), encoder_revision (`str`, *optional*): where the encoder is from.
        encoder_in_checkpoint (`bool`, defaults to `True`): `False` in a checkpoint that carries the fusion only.

    What stock pipelines of diffusers read, in these words (all else that they do is in `modeling_pipeline_rules`):

    | fusion | layers | more | pipelines |
    |---|---|---|---|
    | single | -1 | | dreamlite, kandinsky5-image, kandinsky5-video, kandinsky6, longcat-image |
    | single | -1 | | ovis-image, prx, prx-pixel, qwen-image, sana, sana-video, wan |
    | single | -1 | last_layer output | motif-video |
    | single | -1 | last_layer pre_norm | joyimage-edit, qwen-image-2.1 |
    | single | -2 | | cogview4, easyanimate, ernie-image, lumina, lumina2, z-image |
    | single | -3 | | hunyuan-image, hunyuan-video, hunyuan-video-1.5 |
    | single | -8 | | nucleus-image |
    | concat | -1, -2 | | fibo |
    | concat | 9, 19, 29 | | flux2 |
    | concat | 8, 17, 26 | | flux2-klein |
    | concat | all | layer_norm token_std | cosmos2.5 |
    | interleave | 0, 3, 6, ..., 33, 35 | last_layer pre_norm | ideogram4 |
    | interleave | all | embeddings | ltx2 |
    | stack | 1, 4, 7, ..., 34 | | krea2 |
    | stack | all | | hidream |
    """

    model_type = "granted"
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PreTrainedConfig | dict | None = None,
        fusion: str = "learned",
        layer_index: int = -1,
        layers: list[int] | None = None,
        layer_norm: str = "auto",
        embeddings: bool = False,
        num_outputs: int | None = None,
        last_layer: str = "as_reported",
        layer_norm_eps: float = 1e-5,
        standardize: bool = False,
        projection_dim: int | None = None,
        projection_trained: bool = False,
        text_cleaning: str = "none",
        prompt_template: str | None = None,
        add_special_tokens: bool = True,
        split_quotes: bool = False,
        template_drop_tokens: int = 0,
        template_keep_first: bool = False,
        fill_to_multiple_of: int | None = None,
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
        check_type("encoder_config", encoder_config, PreTrainedConfig | dict | None)
        if encoder_config is None:
            encoder_config = CONFIG_MAPPING["qwen3_vl"]()
        elif isinstance(encoder_config, dict):
            model_type = encoder_config.get("model_type")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"got encoder_config with model_type={model_type!r}, expected one that transformers knows by "
                    "itself: see https://huggingface.co/docs/transformers/model_doc/auto"
                )
            try:
                encoder_config = CONFIG_MAPPING[model_type](**encoder_config)
            except Exception as error:  # the checks of transformers raise types of their own
                reason = " ".join(str(error).split())
                raise ValueError(f"got encoder_config, expected one of type {model_type} ({reason})") from error
        self.encoder_config = encoder_config
        self.fusion = fusion
        self.layer_index = layer_index
        self.layers = layers
        self.layer_norm = layer_norm
        self.embeddings = embeddings
        self.num_outputs = num_outputs
        self.last_layer = last_layer
        self.layer_norm_eps = layer_norm_eps
        self.standardize = standardize
        self.projection_dim = projection_dim
        self.projection_trained = projection_trained
        self.text_cleaning = text_cleaning
        self.prompt_template = prompt_template
        self.add_special_tokens = add_special_tokens
        self.split_quotes = split_quotes
        self.template_drop_tokens = template_drop_tokens
        self.template_keep_first = template_keep_first
        self.fill_to_multiple_of = fill_to_multiple_of
        self.max_sequence_length = max_sequence_length
        self.padding_side = padding_side
        self.output_dtype = output_dtype
        self.keep_vision = keep_vision
        self.fused_hidden_states = fused_hidden_states
        self.encoder_name_or_path = encoder_name_or_path
        self.encoder_revision = encoder_revision
        self.encoder_in_checkpoint = encoder_in_checkpoint
        self.check()
        check_transformers_names(kwargs, self)
        super().__init__(**kwargs)

    def check(self) -> None:
        """Raise a ValueError that names the legal values unless every field is legal."""
        check_field_types(self)
        check_choice("last_layer", self.last_layer, LAST_LAYERS)
        check_choice("text_cleaning", self.text_cleaning, TEXT_CLEANINGS)
        check_choice("padding_side", self.padding_side, ("right", "left"))
        check_choice("output_dtype", self.output_dtype, (None, "float32", "bfloat16", "float16"))
        self.fused_size()  # looks at all that concerns the layers
        check_positive("layer_norm_eps", self.layer_norm_eps)
        check_least("projection_dim", self.projection_dim, 1)
        check_least("template_drop_tokens", self.template_drop_tokens, 0)
        if self.template_keep_first and not self.template_drop_tokens:
            raise ValueError("got template_keep_first=True, expected template_drop_tokens with it: nothing is dropped")
        check_least("fill_to_multiple_of", self.fill_to_multiple_of, 1)
        if self.fill_to_multiple_of and self.template_drop_tokens:
            raise ValueError("got fill_to_multiple_of with template_drop_tokens, expected one of them")
        least = self.fill_to_multiple_of or self.dropped_tokens.stop + 1
        check_least("max_sequence_length", self.max_sequence_length, least)
        if not self.encoder_in_checkpoint and self.encoder_name_or_path is None:
            raise ValueError("got encoder_in_checkpoint=False, expected encoder_name_or_path to say where it is")
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ValueError(f"got prompt_template={self.prompt_template!r}, expected a text with '{{prompt}}' in it")
        if self.split_quotes and self.add_special_tokens:
            raise ValueError("got split_quotes=True with add_special_tokens=True, expected one of them")
        if self.split_quotes and (self.prompt_template or "{prompt}").count("{prompt}") > 1:
            raise ValueError("got split_quotes=True with several '{prompt}' in prompt_template, expected one")

    @property
    def dropped_tokens(self) -> range:
        """Which tokens of a text, counted from its first with the template around it, are not in the output."""
        first = int(self.template_keep_first)
        return range(first, first + self.template_drop_tokens)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The configuration of the encoder's text trunk."""
        return text_config_of(self.encoder_config)

    @classmethod
    def option_names(cls) -> list[str]:
        """The fields that do not say which encoder it is: the options of [`~GrantedModel.from_encoder`]."""
        return sorted(name for name in field_types(cls) if not name.startswith("encoder_"))

    def layer_fusion(self) -> dict[str, Any]:
        """The arguments of the `LayerFusion`."""
        names = ("fusion", "layer_index", "layers", "layer_norm", "embeddings", "num_outputs")
        options = {name: getattr(self, name) for name in names}
        return options | {"num_layers": self.num_hidden_layers, "eps": self.layer_norm_eps}

    def fusion_options(self) -> dict[str, Any]:
        """Everything but which encoder it is, as [`~GrantedModel.from_encoder`] takes it."""
        return {name: getattr(self, name) for name in self.option_names()}

    @property
    def hidden_size(self) -> int:
        """Width of the output: D, or K * D of layers that are concatenated."""
        return self.projection_dim or self.fused_size()

    def fused_size(self) -> int:
        """Width of the fusion, before the projection.

        Raises:
            ValueError: an option that concerns the layers is not legal, see [`FusionOptions`] and `layer_width`.
        """
        options = FusionOptions(**self.layer_fusion())
        joined = options.arrangement() in ("concat", "interleave")
        return self.layer_width(options.used_layers()) * (options.output_count() if joined else 1)

    def layer_width(self, layers: list[int]) -> int:
        """Width D of some layers, counted from 0.

        Raises:
            ValueError: they are of several widths, as the encoder's own output may be of another than its layers.
        """
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
        layers = getattr(self.get_text_config(), "num_hidden_layers", None)
        if not isinstance(layers, int):
            raise ValueError(
                f"got an encoder of type {self.encoder_config.model_type} that states no number of text layers, "
                "expected num_hidden_layers: choose a text or multimodal encoder"
            )
        return layers


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
        fusion (`str`, *optional*), layer_index (`int`, defaults to -1), layers (`list[int]`, *optional*), num_layers
            (`int`, *optional*): how the layers of the encoder become the feature it reads, as in [`GrantedConfig`];
            `num_layers` is the encoder's L. Without a fusion it reads fused features only.
        feature (`str`, *optional*): display name of that feature, such as `"norm_avg"` or `"last"`.
        encoder (`str`, *optional*), encoder_fingerprint (`str`, *optional*): the encoder it was trained for.
        standardize (`bool`, defaults to `False`): whether it standardises every channel of that feature first, by the
            mean and deviation over the captions that it was trained on.
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
        layers: list[int] | None = None,
        num_layers: int | None = None,
        feature: str | None = None,
        encoder: str | None = None,
        encoder_fingerprint: str | None = None,
        standardize: bool = False,
        **kwargs,
    ):
        self.encoder_hidden_size = encoder_hidden_size
        self.hidden_size = encoder_hidden_size if hidden_size is None else hidden_size
        self.context_dim = context_dim
        self.num_blocks = num_blocks
        self.num_heads = num_heads
        self.mlp_ratio = mlp_ratio
        self.rope_theta = rope_theta
        self.layer_norm_eps = layer_norm_eps
        self.fusion = fusion
        self.layer_index = layer_index
        self.layers = layers
        self.num_layers = num_layers
        self.feature = feature
        self.encoder = encoder
        self.encoder_fingerprint = encoder_fingerprint
        self.standardize = standardize
        check_field_types(self)
        check_choice("fusion", fusion, (None, "learned", "norm_avg", "avg", "single"))
        for name in ("encoder_hidden_size", "hidden_size", "context_dim", "num_blocks", "num_heads", "mlp_ratio"):
            check_least(name, getattr(self, name), 1)
        check_least("num_layers", num_layers, 1)
        check_positive("rope_theta", rope_theta)
        check_positive("layer_norm_eps", layer_norm_eps)
        if (fusion is None) != (num_layers is None):
            raise ValueError(f"got fusion={fusion!r} and num_layers={num_layers}, expected both or neither")
        if fusion is not None:
            FusionOptions(fusion, num_layers, layer_index, layers)  # looks at all that concerns the layers
        elif layers is not None:
            raise ValueError(f"got layers={layers} without a fusion, expected one that uses them")
        if self.hidden_size % (2 * num_heads):
            raise ValueError(
                f"got hidden_size={self.hidden_size} and num_heads={num_heads}, expected heads of an even width: "
                f"choose a num_heads with hidden_size divisible by 2 * num_heads"
            )
        check_transformers_names(kwargs, self)
        super().__init__(**kwargs)


GrantedConfig.register_for_auto_class()
ContextAggregatorConfig.register_for_auto_class()
