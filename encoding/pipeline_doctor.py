"""What a diffusion pipeline takes from its text encoder, found by watching it encode a prompt, and what gets lost.

    reading = observe(pipe, "a red cube on a blue sphere")
    reading.states, reading.arrangement         # ("9", "18", "27"), "concat"
    findings(pipe, ["a red cube on a blue sphere", "two dogs"])     # a line for each thing that is lost

Nothing is taken from a table: the pipeline's own `encode_prompt` runs, and the states of its encoder are looked for in
what comes out. `modeling_pipeline_rules` says what the released pipeline would read.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig

from granted.configuration_granted import GrantedConfig
from granted.modeling_pipeline_rules import PIPELINE_RULES, PipelineRule, dropped_tokens, read_states, rule_fusion
from granted.modeling_text_trunk import find_text_trunk, hidden_of, streaming
from granted.pipeline_blocks import width_in
from granted.utils.errors import InputError


NORMS = {
    "none": lambda hidden: hidden,
    "layer_norm": lambda hidden: F.layer_norm(hidden, hidden.shape[-1:]),
    "rms_norm": lambda hidden: F.rms_norm(hidden, hidden.shape[-1:], eps=1e-6),
    "token_std": lambda hidden: (hidden - hidden.mean(-1, keepdim=True)) / (hidden.std(-1, keepdim=True) + 1e-8),
}
FINAL = "last"  # after the final norm, as `read_states` calls it; the last block's output before it has a number
# Options of encode_prompt that are set where a pipeline has them: the prompt alone, once. Others are as in its call.
ENCODE_OPTIONS = {"do_classifier_free_guidance": False, "num_images_per_prompt": 1, "num_videos_per_prompt": 1}
FUSED = "fused"  # what a GrantedModel gives
PROBED = 3  # tokens of a prompt by which it is found again


@dataclass
class Run:
    """One run of an encoder on one text: what it was given, and its states by name, (N, D) fp32 each."""

    ids: list[int]
    mask: list[bool] | None = None
    states: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a pipeline makes of a prompt.

    Args:
        states (`tuple[str, ...]`): the states that are taken, by their number in `hidden_states`; `"last"` is the last
            one after the final norm, `"fused"` what a GrantedModel gives, `"fused 1"` the first of several sums.
        norm (`str`): what is done to each, one of `NORMS`.
        arrangement (`str`): `"single"`, `"concat"`, `"interleave"` or `"stack"`.
        dropped (`int`): real tokens that are cut off the beginning.
        first_kept (`bool`): whether the first token stays, and those cut off come after it.
        ids (`tuple[int, ...]`): the real tokens that the encoder read.
        prompt_start (`int`, *optional*): where the prompt begins among them; `None` if it is not found.
        prompt_tokens (`int`): how many it has, those that were not read included; 0 if it is not found.
        prompt_cut (`bool`): whether the prompt's end was not read.
        mask_given (`bool`): whether the encoder was given a mask.
        shape (`tuple[int, ...]`), dtype (`str`): of what comes out.
    """

    states: tuple[str, ...]
    norm: str
    arrangement: str
    dropped: int
    first_kept: bool
    ids: tuple[int, ...]
    prompt_start: int | None
    prompt_tokens: int
    prompt_cut: bool
    mask_given: bool
    shape: tuple[int, ...]
    dtype: str

    @property
    def prompt_lost(self) -> int:
        """Tokens at the beginning of the prompt that are dropped with the template."""
        if self.prompt_start is None:
            return 0
        dropped = range(int(self.first_kept), self.first_kept + self.dropped)
        return len(set(dropped).intersection(range(self.prompt_start, self.prompt_start + self.prompt_tokens)))


@contextmanager
def watching(encoder: nn.Module) -> Iterator[list[Run]]:
    """Inside the block, each run of an encoder adds what was seen of its first text to the list."""
    fused = encoder.config.model_type == GrantedConfig.model_type
    trunk, layers = find_text_trunk(encoder.text_trunk if fused else encoder)
    runs: list[Run] = []
    given: dict[str, Any] = {}

    def begin(module: nn.Module, args: tuple) -> None:
        runs.append(Run(args[0][0].tolist()))

    def note_mask(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if module is encoder:
            given.clear()
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if torch.is_tensor(mask) and mask.ndim == 2:  # an inner model may be given something made of it
            given["mask"] = mask[0].bool().tolist()

    def enter(module: nn.Module, args: tuple) -> None:
        runs[-1].states["0"] = args[0][0].float()  # (N, D)

    def visit(index: int, hidden: torch.Tensor) -> None:
        runs[-1].states[str(index + 1)] = hidden[0].float()  # (N, D)

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        runs[-1].states[FINAL] = hidden_of(output)[0].float()  # (N, D)
        runs[-1].mask = given.get("mask")

    def end_fused(module: nn.Module, args: tuple, output: Any) -> None:
        hidden = hidden_of(output)[0].float()  # (N, D), or (K, N, D) of several sums or a stack
        sums = {FUSED: hidden} if hidden.ndim == 2 else {f"{FUSED} {k}": one for k, one in enumerate(hidden, 1)}
        runs[-1].states |= sums  # (N, D) each

    handles = [encoder.register_forward_hook(end_fused)] if fused else []
    handles += [
        trunk.get_input_embeddings().register_forward_pre_hook(begin),
        layers[0].register_forward_pre_hook(enter),
        *(one.register_forward_pre_hook(note_mask, with_kwargs=True) for one in dict.fromkeys((encoder, trunk))),
        trunk.register_forward_hook(end),
    ]
    try:
        with torch.no_grad(), streaming(list(layers), visit):
            yield runs
    finally:
        for handle in handles:
            handle.remove()


def encode(pipe: Any, prompts: Sequence[str]) -> Any:
    """What `encode_prompt` of a pipeline answers for positive prompts alone.

    Raises:
        InputError: it cannot be called with prompts alone, or reads a state that its encoder does not have.
    """
    parameters = inspect.signature(pipe.encode_prompt).parameters
    called = inspect.signature(type(pipe).__call__).parameters
    given = {name: called[name].default for name in parameters if name in called}
    given = {name: value for name, value in given.items() if value not in (None, inspect.Parameter.empty)}
    given |= {name: value for name, value in ENCODE_OPTIONS.items() if name in parameters}
    if "device" in parameters:
        given["device"] = next(pipe.text_encoder.parameters()).device
    needed = [n for n, one in parameters.items() if one.default is one.empty and n not in (*given, "prompt", "kwargs")]
    if "prompt" not in parameters or needed:
        raise InputError(
            f"got {type(pipe).__name__}, whose encode_prompt needs {', '.join(needed) or 'other words for prompts'}, "
            "expected one that takes prompts alone: call observe with an `encode` of your own"
        )
    try:
        return pipe.encode_prompt(prompt=list(prompts), **given)
    except InputError:
        raise
    except (IndexError, ValueError) as error:  # a mistake of another kind may be ours
        raise InputError(
            f"got {type(pipe).__name__}, whose encode_prompt fails ({type(error).__name__}: {error}), expected an "
            "encoder with the states that it reads and its own tokenizer: check both"
        ) from error


def observe(pipe: Any, prompt: str, encode=encode, component: str = "text_encoder") -> Reading:
    """Watch a pipeline encode one prompt.

    Args:
        pipe (`DiffusionPipeline`): with its text encoder and tokenizer; what draws may be missing.
        prompt (`str`): some words.
        encode (`Callable`): `encode(pipe, prompts)`, whose answer begins with the features.
        component (`str`, defaults to `"text_encoder"`): the encoder that is watched, for pipelines of several.

    Raises:
        InputError: the encoder's states are not found in what comes out.
    """
    encoder = getattr(pipe, component)
    with watching(encoder) as runs:
        features = _first_tensor(encode(pipe, [prompt]))
    if not runs:
        raise InputError(f"got {type(pipe).__name__}, which did not run its {component}, expected it to: check both")
    run = max(runs, key=lambda one: len(one.ids))  # the first of the longest: some models look at one token before
    found = _find(run, features)
    if found is None:
        raise InputError(
            f"got features {tuple(features.shape)} of {type(pipe).__name__}, expected states of its {component} in "
            "them: it does something to them that is not known here"
        )
    states, norm, arrangement, places, padded = found
    mask_given = run.mask is not None
    if not mask_given and padded:  # nobody said where padding is, but what comes out has none of it
        run.mask = [i >= places[0] for i in range(len(run.ids))]
    real = [i for i in range(len(run.ids)) if run.mask is None or run.mask[i]]  # places of no padding
    before = [sum(i < place for i in real) for place in places]  # real tokens before the first and the second taken
    between = before[-1] - before[0] - 1
    first_kept = before[0] == 0 and between > 0
    ids = [run.ids[i] for i in real]
    tokenizer = _tokenizer_of(pipe, component)
    written = (prompt, prompt.lower().strip())  # some read a prompt in small letters
    own, cut = min((find_prompt(tokenizer, one, ids) for one in written), key=lambda one: (one[0] is None, one[1]))
    return Reading(
        states=states,
        norm=norm,
        arrangement=arrangement,
        dropped=between if first_kept else before[0],
        first_kept=first_kept,
        ids=tuple(ids),
        prompt_start=None if own is None else own.start,
        prompt_tokens=0 if own is None else len(own),
        prompt_cut=cut,
        mask_given=mask_given,
        shape=tuple(features.shape),
        dtype=str(features.dtype).removeprefix("torch."),
    )


def findings(pipe: Any, prompts: Sequence[str], encode=encode, component: str = "text_encoder") -> list[str]:
    """What is lost of prompts on their way into the diffusion model, a line each; an empty list is good news.

    Args:
        pipe, encode, component: as of [`observe`].
        prompts (`Sequence[str]`): at least one; of different lengths, so that padding shows.
    """
    lines = []
    for prompt in prompts:
        reading = observe(pipe, prompt, encode, component)
        named = f"{prompt[:40]!r}"
        if reading.prompt_lost:
            lines.append(f"{named}: its first {reading.prompt_lost} tokens are dropped with the template")
        if reading.prompt_cut:
            lines.append(f"{named}: its end is not read, {len(reading.ids)} tokens are the most")
        if reading.prompt_start is None:
            other = _other_tokenizer(pipe, component, prompt, list(reading.ids))
            found = f", which are of the pipeline's {other}" if other else ""
            lines.append(f"{named}: its tokens are not among those that the encoder reads{found}")
    alone, together = (_features_of_first(pipe, texts, encode) for texts in (prompts[:1], prompts))
    shortest = min(alone.shape[-2], together.shape[-2])
    ends = (slice(None, shortest), slice(-shortest, None))  # padding may be after a text or before it
    if not any(torch.allclose(alone[..., end, :], together[..., end, :], atol=1e-4, rtol=1e-3) for end in ends):
        lines.append("a prompt has other features beside longer ones: padding is read as if it were text")
    return lines


def rule_of(pipe: Any) -> tuple[str, PipelineRule] | None:
    """The rule of a pipeline by its class or one that it is made from."""
    names = [kind.__name__ for kind in type(pipe).__mro__]
    return next(((name, rule) for name, rule in PIPELINE_RULES.items() if rule.pipeline in names), None)


def rule_encoder(config: PreTrainedConfig) -> str:
    """The model type of an encoder as the rules call it, whichever part of the model it is."""
    family = config.model_type.removesuffix("_text").removesuffix("_encoder")
    return "t5gemma" if family == "t5_gemma_module" else family


def differences(pipe: Any, reading: Reading, component: str = "text_encoder") -> list[str]:
    """Where what was observed is not what the released pipeline does, a line each; none where there is no rule."""
    found, config = rule_of(pipe), getattr(pipe, component).config
    if found is None or config.model_type == GrantedConfig.model_type:  # which takes the place of a rule
        return []
    name, rule = found
    lines = []
    if rule_encoder(config) != rule.encoder:
        lines.append(
            f"the encoder is a {config.model_type}, that of {name} a {rule.encoder}: what was trained with one cannot "
            "read the other"
        )
    layers = len(find_text_trunk(getattr(pipe, component))[1])
    try:
        expected = (read_states(rule, layers), rule_fusion(rule, layers).norm(), rule.options["fusion"])
    except ValueError as error:
        return [*lines, f"{name} reads layers that this encoder does not have: {error}"]
    own = (reading.states, reading.norm, reading.arrangement)
    if own != expected:
        lines.append(f"it reads {describe_states(*own)}, {name} reads {describe_states(*expected)}")
    drops = (reading.dropped, reading.first_kept)
    expected = (dropped_tokens(rule, _tokenizer_of(pipe, component)), rule.keep_first)
    if drops != expected:
        lines.append(f"it drops {describe_dropped(*drops)}, {name} drops {describe_dropped(*expected)}")
    return lines


def width_difference(reading: Reading, config: Mapping[str, Any]) -> list[str]:
    """One line where features are of another width than the diffusion model reads, as its configuration says."""
    width, expected = reading.shape[-1], width_in(config)
    if reading.states[0].startswith(FUSED):  # several sums are for one block each
        width //= len(reading.states)
    if expected in (None, width):
        return []
    return [f"the features are {width} wide, the diffusion model reads a width of {expected}: it cannot read them"]


def describe_states(states: Sequence[str], norm: str, arrangement: str) -> str:
    """`"states 9, 18, 27, concat"`"""
    shown = ", ".join(states) if len(states) < 15 else f"{states[0]} to {states[-1]}"
    extra = [word for word in (arrangement if arrangement != "single" else "", norm.replace("none", "")) if word]
    return ", ".join([f"state{'s' * (len(states) > 1)} {shown}", *extra])


def describe_dropped(count: int, first_kept: bool) -> str:
    """`"34 tokens"`"""
    return f"{count} tokens" + " after the first" * first_kept


def _features_of_first(pipe: Any, prompts: Sequence[str], encode) -> torch.Tensor:
    with torch.no_grad():
        answer = _first_tensor(encode(pipe, list(prompts)))
    return answer if answer.ndim == 2 else answer[0]


def _first_tensor(answer: Any) -> torch.Tensor:
    while not torch.is_tensor(answer):
        answer = answer[0]
    return answer


def _tokenizer_of(pipe: Any, component: str) -> Any:
    tokenizer = getattr(pipe, component.replace("text_encoder", "tokenizer"), None) or pipe.processor
    return getattr(tokenizer, "tokenizer", tokenizer)  # of a processor


def _other_tokenizer(pipe: Any, component: str, prompt: str, ids: list[int]) -> str | None:
    """The tokenizer of a pipeline, not the encoder's own, by which a prompt is found among tokens."""
    own = _tokenizer_of(pipe, component)
    for name, part in getattr(pipe, "components", {}).items():
        if name.startswith(("tokenizer", "processor")) and part is not None:
            tokenizer = getattr(part, "tokenizer", part)
            if tokenizer is not own and find_prompt(tokenizer, prompt, ids)[0] is not None:
                return name
    return None


def find_prompt(tokenizer: Any, prompt: str, ids: list[int]) -> tuple[range | None, bool]:
    """Where a prompt's tokens stand among others, and whether its end is missing.

    Its first and its last token may be joined with what stands around it: then it is found without them.
    """
    both = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, f" {prompt}")]
    for first, last in ((0, 0), (1, 0), (0, 1), (1, 1)):  # tokens at its ends that are left out
        for own in both:
            places = _places(own[first : len(own) - last], ids)
            if places and places[-1] >= first:  # a template may have such words, too, and they come before the prompt
                return range(places[-1] - first, places[-1] - first + len(own)), False
    for own in both:
        places = _places(own[1 : 1 + PROBED], ids) if len(own) > PROBED + 1 else []
        if places and places[0] > 0:
            return range(places[0] - 1, places[0] - 1 + len(own)), True
    return None, False


def _places(words: list[int], ids: list[int]) -> list[int]:
    """Where some tokens stand among others."""
    return [i for i in range(len(ids)) if words and ids[i : i + len(words)] == words]


def _find(run: Run, features: torch.Tensor) -> tuple[tuple[str, ...], str, str, list[int], int] | None:
    """The states in some features, their norm and arrangement, the places of the first token that is taken and of the
    second, and how many places of padding come before them in the features."""
    widths = dict.fromkeys(state.shape[-1] for state in run.states.values())  # a fused one may have its own
    tolerance = 1e-4 if features.dtype == torch.float32 else 2e-2
    for arrangement, blocks in chain.from_iterable(_layouts(features.float(), width) for width in widths):
        first = int(blocks.abs().sum((0, 2)).bool().int().argmax())  # padding on the left is zeros
        for norm, apply in NORMS.items():
            found = [_place(run, apply, block[first], tolerance) for block in blocks]
            if all(found) and len({place for _, place in found}) == 1:
                second = [_place(run, apply, token, tolerance) for token in blocks[-1][first + 1 : first + 2]]
                places = [found[0][1], *(one[1] for one in second if one)]
                return tuple(name for name, _ in found), norm, arrangement, places, first
    return None


def _layouts(features: torch.Tensor, width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The ways in which features of one text may be K states (K, N, D)."""
    if features.ndim == 2 or (features.ndim == 3 and features.shape[0] == 1):
        rows = features.reshape(features.shape[-2:])  # (N, W)
        if rows.shape[-1] % width == 0:
            count = rows.shape[-1] // width
            yield "single" if count == 1 else "concat", rows.unflatten(-1, (count, width)).permute(1, 0, 2)
            yield "interleave", rows.unflatten(-1, (width, count)).permute(2, 0, 1)
    elif features.ndim == 4 and features.shape[-1] == width:
        for stack in (features[0], features[:, 0]):  # (B, ...) or (K, B, N, D)
            yield "stack", stack
            yield "stack", stack.transpose(0, 1)


def _place(run: Run, norm, token: torch.Tensor, tolerance: float) -> tuple[str, int] | None:
    """The state that has this token (D,), and where."""
    for name, state in run.states.items():
        if state.shape[-1] != token.shape[-1]:
            continue
        distance = (norm(state) - token).abs().amax(-1)  # (N,)
        place = int(distance.argmin())
        if distance[place] <= tolerance * token.abs().max():
            return name, place
    return None
