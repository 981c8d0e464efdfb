"""The text trunk of any encoder: where it is, which of its modules are the layers, and how to watch them run.

    trunk, layers = find_text_trunk(AutoModel.from_pretrained("Qwen/Qwen3-VL-8B-Instruct"))

Ships to the Hub; imports nothing but torch and transformers.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.utils import ModelOutput

from .configuration_granted import EMBEDDINGS


# What models of several towers call the one that reads text, or the language model inside.
TEXT_TOWERS = ("language_model", "text_model", "text_encoder", "llm")


class NotFiniteError(ValueError):
    """Features are NaN or infinite."""


def not_finite(where: str) -> NotFiniteError:
    return NotFiniteError(
        f"got NaN or infinite features for {where}, expected finite ones: load the encoder in float32, or check its "
        "weights"
    )


def find_text_trunk(encoder: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The text trunk of an encoder and its layers, by one rule for all.

    The trunk of an encoder-decoder is its encoder; of a model with several towers, or an encoder with them, its
    language model, text model or text encoder; else its decoder, which for a bare text model is itself. Its layers are
    the ModuleList that holds `num_hidden_layers` modules.

    Raises:
        ValueError: nothing there reads text.
    """
    trunk = encoder
    if hasattr(encoder, "get_encoder") and getattr(encoder.config, "is_encoder_decoder", False):
        trunk = encoder.get_encoder()
    trunk = next((getattr(trunk, name) for name in TEXT_TOWERS if hasattr(trunk, name)), trunk)
    if hasattr(trunk, "lm_head"):
        trunk = trunk.get_decoder()  # a language model inside a wrapper may bring its head along
    wanted = getattr(getattr(trunk, "config", None), "num_hidden_layers", None)
    if hasattr(trunk, "get_input_embeddings") and isinstance(input_embeddings(trunk), nn.Embedding):
        for module in trunk.modules():
            if isinstance(module, nn.ModuleList) and len(module) == wanted:
                return trunk, module
    raise ValueError(
        f"got {type(encoder).__name__}, expected a model with a text trunk (token embeddings and a list of "
        f"num_hidden_layers={wanted} layers): choose a text or multimodal encoder"
    )


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states (B, N, D) in what a block, a norm or a trunk returns."""
    if isinstance(output, ModelOutput):
        return output.last_hidden_state
    return output[0] if isinstance(output, tuple) else output


def input_embeddings(trunk: nn.Module) -> nn.Module | None:
    try:
        return trunk.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None


def usable_positions(trunk: nn.Module) -> int | None:
    """Most tokens that a trunk can read of a text; `None` where it has no end.

    A trunk that looks its positions up in a table ends with the table. Some tables keep rows back: those of RoBERTa
    and its relatives begin after the row of the padding token. Positions that are computed (rotary, relative) have no
    end, though a model may not be trained for more than its `max_position_embeddings`.
    """
    most = getattr(trunk.config, "max_position_embeddings", None)
    usable = []
    for name, table in [*trunk.named_parameters(), *trunk.named_buffers()]:
        # `wpe` is GPT-2's. A table may have two rows more than the configuration says (OPT, BART, Nystromformer).
        if re.search("position|pos_|wpe", name) and table.ndim == 2 and most and most <= len(table) <= most + 2:
            padding = getattr(trunk.get_submodule(name.rpartition(".")[0]), "padding_idx", None)
            usable.append(min(most, len(table) - (0 if padding is None else padding + 1)))
    return min(usable, default=None)


def find_last_layer(trunk: nn.Module, layers: nn.ModuleList, last_layer: str, token: dict) -> str:
    """Name within the trunk of the module whose output stands for the last layer; "" is the trunk itself.

    What `hidden_states[-1]` is and which norm is the final one differ between families and are written nowhere: see
    what happens to one token.

    Args:
        trunk (`nn.Module`), layers (`nn.ModuleList`): from [`find_text_trunk`].
        last_layer (`str`): `"as_reported"`, `"pre_norm"`, `"post_norm"` or `"output"`, see [`GrantedConfig`].
        token (`dict`): one token as the trunk takes it, such as `{"input_ids": (1, 1)}`.

    Raises:
        ValueError: no final norm, `hidden_states[-1]` is neither the last block's output nor the trunk's, or the
            token's features are not finite.
    """
    names = {id(module): name for name, module in trunk.named_modules()}
    if last_layer == "pre_norm":
        return names[id(layers[-1])]
    if last_layer == "output":
        return ""
    block, normed, probe = _look_at_one_token(trunk, layers, token)
    reported = probe.hidden_states[-1]  # (1, 1, D)
    block = block.to(reported.device)  # spread over devices, a model gives its output back where its input was
    if not (block.isfinite().all() and reported.isfinite().all()):  # NaN is not equal to itself
        raise not_finite("the first token that was read")
    if last_layer == "post_norm":
        if not normed:
            raise ValueError(
                f"got last_layer='post_norm' for {type(trunk).__name__}, which has no final norm: use 'as_reported'"
            )
        return names[id(normed[0])]
    if torch.equal(reported, block):
        return names[id(layers[-1])]
    if torch.equal(reported, probe.last_hidden_state):
        return ""
    raise ValueError(
        f"got {type(trunk).__name__}, whose hidden_states[-1] is neither its last block nor its output: set "
        "last_layer to 'pre_norm', 'post_norm' or 'output'"
    )


def _look_at_one_token(trunk: nn.Module, layers: nn.ModuleList, token: dict) -> tuple[torch.Tensor, list, ModelOutput]:
    """The last block's output (1, 1, D) for a token, the norms outside the blocks that take it, and what comes out."""
    inside = {id(module) for module in layers.modules()}
    block: list[torch.Tensor] = []  # the last block's output (1, 1, D)
    final_norms: list[nn.Module] = []

    def see_norm(module, args, output):
        if args and block and torch.equal(args[0], block[0]):
            final_norms.append(module)

    handles = [layers[-1].register_forward_hook(lambda module, args, output: block.append(hidden_of(output)))]
    for module in trunk.modules():
        if "norm" in type(module).__name__.lower() and id(module) not in inside:
            handles.append(module.register_forward_hook(see_norm))
    # FSDP2 replaces the class of what it shards, by which transformers knows that it can report hidden states.
    given = type(trunk)
    trunk.__class__ = next(cls for cls in given.__mro__ if not cls.__name__.startswith("FSDP"))
    try:
        with torch.no_grad(), evaluating(trunk), reporting(trunk):
            output = trunk(**token, output_hidden_states=True, return_dict=True)
    finally:
        trunk.__class__ = given
        for handle in handles:
            handle.remove()
    return block[0], final_norms, output


@contextmanager
def reporting(model: nn.Module) -> Iterator[None]:
    """Inside the block a model may be asked for its hidden states; nothing of that stays behind.

    transformers leaves the hooks that capture them on the modules. They are closures, with which the model could not
    be sent to another process, and they come back when hidden states are next asked for.
    """
    mark = "_output_capturing_hooks_installed"
    before = [(module, set(module._forward_hooks), mark in vars(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, hooks, marked in before:
            for key in module._forward_hooks.keys() - hooks:
                del module._forward_hooks[key]
            if not marked:
                vars(module).pop(mark, None)


@contextmanager
def streaming(modules: list[nn.Module], visit: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Inside the block, `visit(i, hidden (B, N, D))` is called whenever `modules[i]` has run."""
    handles = []
    try:
        for index, module in enumerate(modules):
            handles.append(
                module.register_forward_hook(lambda module, args, output, i=index: visit(i, hidden_of(output)))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def entering(block: nn.Module, visit: Callable[[int, torch.Tensor], None], wanted: bool = True) -> Iterator[None]:
    """Inside the context, `visit(EMBEDDINGS, hidden (B, N, D))` is called with what enters the first block."""
    handles = []
    if wanted:
        handles.append(block.register_forward_pre_hook(lambda module, args: visit(EMBEDDINGS, args[0])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, the mode of every submodule restored after it."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True
