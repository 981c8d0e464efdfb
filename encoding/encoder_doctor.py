"""What a diffusion model would read from a text encoder, and what gets lost of prompts on the way into it.

    name, model, fused = load_for_doctor("Qwen/Qwen3-VL-4B-Instruct")
    describe(model, fused)                      # [("encoder", "Qwen3VLTextModel, qwen3_vl"), ...]
    readings = [read(model, prompt) for prompt in prompts]
    findings(model, readings)                   # a line for each thing that is lost

Nothing is drawn: `pipeline_doctor` watches a pipeline that has the encoder in it. Tests: tests/test_encoder_doctor.py.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from granted.encoding.features import USUAL_READING
from granted.encoding.loading import is_fused, load_encoder, split_spec
from granted.encoding.options import EncoderOptions
from granted.encoding.pipeline_doctor import describe_states, find_prompt, rule_encoder
from granted.modeling_granted import GrantedModel
from granted.modeling_pipeline_rules import PIPELINE_RULES, rule_fusion
from granted.modeling_text_input import cleaned
from granted.modeling_text_trunk import NotFiniteError, find_last_layer, find_text_trunk
from granted.utils.errors import InputError


@dataclass(frozen=True)
class PromptReading:
    """What an encoder reads of a prompt.

    Args:
        prompt (`str`): the prompt.
        tokens (`int`): tokens of it with the template around it.
        cut (`int`): how many of them are beyond the limit, and not read.
        dropped (`int`): tokens of the prompt itself that are dropped with the template.
        prompt_tokens (`int`): tokens of the prompt alone.
        unknown (`int`): those of them that stand for what the tokenizer does not know.
        finite (`bool`): whether all features are numbers.
    """

    prompt: str
    tokens: int
    cut: int
    dropped: int
    prompt_tokens: int
    unknown: int
    finite: bool


def load_for_doctor(spec: str, options: EncoderOptions | None = None) -> tuple[str, GrantedModel, bool]:
    """Load an encoder to be looked at; a plain one reads as many tokens as it and its tokenizer allow.

    Args:
        spec (`str`), options ([`EncoderOptions`], *optional*): as of `load_encoder`.

    Returns:
        Display name, model, and whether it is a saved [`GrantedModel`].

    Raises:
        InputError: as there; its cause is a `NotFiniteError` where the first token already has no features.
    """
    options = options or EncoderOptions()
    if options.device_map == "meta":
        raise InputError("got device_map meta, which reads no weights, expected a device that computes: leave it out")
    name, model = load_encoder(spec, options, fusion="norm_avg")
    fused = is_fused(split_spec(spec)[1], options.revision)
    if not fused:
        text = model.config.get_text_config()
        limits = (
            model.num_positions,
            getattr(text, "max_position_embeddings", None),
            model.tokenizer.model_max_length,
        )
        model.config.max_sequence_length = min(limit for limit in limits if limit and limit > 0)
    return name, model, fused


def describe(model: GrantedModel, fused: bool) -> list[tuple[str, str]]:
    """What there is to know of an encoder, by rows of a table: name and value.

    Args:
        model ([`GrantedModel`]): the encoder.
        fused (`bool`): whether its fusion is its own, or it is a plain encoder.
    """
    config, trunk = model.config, model.text_trunk
    rows = [
        ("encoder", f"{type(trunk).__name__}, {config.encoder_config.model_type}"),
        ("layers", f"{config.num_hidden_layers} of width {config.get_text_config().hidden_size}"),
        ("weights", f"{model.num_parameters():,} parameters, {model.get_memory_footprint(False) / 2**20:,.0f} MiB, "
         f"{str(model.dtype).removeprefix('torch.')}"),
        ("hidden_states[-1]", last_state(model)),
    ]  # fmt: skip
    if fused:
        rows += _describe_fusion(model)
    positions, limit = model.num_positions, model.token_limit()
    table = "positions without an end" if positions is None else f"{positions:,} positions"
    most = f"at most {limit:,} tokens" if limit < VERY_LARGE_INTEGER else "any number of tokens"
    rows.append(("reads", f"{most}, {table}, padding on the {config.padding_side}"))
    if config.prompt_template is not None:
        rows.append(("around a prompt", repr(config.prompt_template)))
    if config.template_drop_tokens:
        count = config.template_drop_tokens
        which = f"{count} tokens after the first" if config.template_keep_first else f"the first {count} tokens"
        rows.append(("drops", which))
    odd = [name for name, usual in USUAL_READING.items() if getattr(config, name) != usual]
    rows += [(name.replace("_", " "), f"{getattr(config, name)}") for name in odd if name != "template_keep_first"]
    if readers := pipelines_that_read(model):
        family = rule_encoder(config.encoder_config)
        rows.append(("pipelines", f"{', '.join(readers)} read a {family}; its width must be that of their own"))
    return rows


def _describe_fusion(model: GrantedModel) -> list[tuple[str, str]]:
    config, options = model.config, model.fusion.options
    used = [str(index + 1) for index in options.used_layers()]  # 0 are the embeddings
    fusion = config.fusion + (f", {config.num_outputs} sums" if config.num_outputs else "")
    projection = "no projection"
    if config.projection_dim is not None:
        projection = f"projected to {config.projection_dim}, {'' if config.projection_trained else 'un'}trained"
    standard = "standardised" if config.standardize else "not standardised"
    return [
        ("fusion", f"{describe_states(used, options.norm(), fusion)}; {standard}; {projection}"),
        ("last layer", config.last_layer),
        ("gives", f"width {config.hidden_size}"),
    ]


@torch.no_grad()
def last_state(model: GrantedModel) -> str:
    """What `hidden_states[-1]` of an encoder is: before its final norm or after it."""
    trunk, layers = find_text_trunk(model.encoder)
    token = {"input_ids": model.pad([model.tokenize(["a"])[0][:1]])[0]}  # (1, 1)
    found: dict[str, str | None] = {}
    for state in ("pre_norm", "post_norm", "as_reported"):
        try:
            found[state] = find_last_layer(trunk, layers, state, token)
        except NotFiniteError:
            return "NaN or infinite"
        except ValueError:
            found[state] = None
    if found["as_reported"] is None:
        return "neither the last block's output nor the encoder's"
    if found["post_norm"] is None:
        return "the last block's output, there is no final norm"
    return f"{'before' if found['as_reported'] == found['pre_norm'] else 'after'} the final norm"


def pipelines_that_read(model: GrantedModel) -> list[str]:
    """The stock pipelines, by their names here, whose released encoder is of this type, if it has layers enough."""
    config, names = model.config, []
    for name, rule in PIPELINE_RULES.items():
        if rule.encoder == rule_encoder(config.encoder_config):
            try:
                rule_fusion(rule, config.num_hidden_layers)
            except ValueError:  # it reads a layer that is not there
                continue
            names.append(name)
    return names


@torch.no_grad()
def read(model: GrantedModel, prompt: str) -> PromptReading:
    """Read one prompt as `encode` does, and count what is lost."""
    tokenizer, config = model.tokenizer, model.config
    (tokens,) = model.count_tokens([prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is cut is said by who called
        (ids,) = model.tokenize([prompt])
    text = cleaned(prompt, config.text_cleaning)
    words = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    place, _ = find_prompt(tokenizer, text, ids)
    usable = config.projection_dim is None or config.projection_trained
    inputs = model.pad([ids])  # (1, N) each
    features = model(*inputs).last_hidden_state if usable else model.fuse(*inputs)[0]  # (1, N, D), as the fusion says
    return PromptReading(
        prompt=prompt,
        tokens=tokens,
        cut=tokens - len(ids),
        dropped=len(set(config.dropped_tokens).intersection(place or ())),
        prompt_tokens=len(words),
        unknown=0 if tokenizer.unk_token_id is None else words.count(tokenizer.unk_token_id),
        finite=bool(features.isfinite().all()),
    )


def findings(model: GrantedModel, readings: Sequence[PromptReading]) -> list[str]:
    """What is lost of prompts, or keeps the encoder from being read, a line each; an empty list is good news."""
    count, config, lines = len(readings), model.config, []
    if cut := [one for one in readings if one.cut]:
        lines.append(f"{len(cut)} of {count} prompts are cut: {sum(one.cut for one in cut):,} tokens are not read")
    if dropped := [one for one in readings if one.dropped]:
        lost = sum(one.dropped for one in dropped)
        lines.append(f"{len(dropped)} of {count} prompts lose {lost:,} tokens, which are dropped with the template")
    if unknown := sum(one.unknown for one in readings):
        total = sum(one.prompt_tokens for one in readings)
        lines.append(f"{unknown:,} of {total:,} tokens of the prompts ({unknown / total:.1%}) are unknown")
    if broken := [one.prompt for one in readings if not one.finite]:
        lines.append(f"{len(broken)} of {count} prompts have NaN or infinite features, {broken[0][:40]!r} the first")
    if config.projection_dim is not None and not config.projection_trained:
        lines.append(f"the projection to {config.projection_dim} is untrained: the encoder refuses to be used")
    return lines
