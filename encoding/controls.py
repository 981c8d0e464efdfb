"""What an encoder is compared with: its architecture with random weights, and its words without context.

    random_weights(encoder, seed=0)                 # the same architecture, nothing learned
    words_alone(encoder, positions=True)            # its word vectors with their positions: no word knows another
    words_alone(encoder, positions=False)           # a bag of words
    controls_of(encoder, ["random", "bag"], ["last"])   # those that a command asks for
    vocabulary_alone(["red", "star"])               # a language of its own, for a ceiling

Each is a [`GrantedModel`] with a tokenizer, so that all that reads an encoder reads them too.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from granted.modeling_granted import GrantedModel
from granted.modeling_text_trunk import input_embeddings
from granted.utils.errors import InputError


def random_weights(encoder: GrantedModel, seed: int = 0) -> GrantedModel:
    """An encoder of the same architecture whose weights are as its class initialises them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = copy.deepcopy(encoder.encoder.config)
        trunk = type(encoder.encoder)(config)
        trunk.init_weights()
    options = encoder.config.fusion_options() | {"standardize": False, "projection_dim": None}
    model = GrantedModel.from_loaded(
        trunk.to(encoder.input_device, encoder.dtype).eval(), encoder.tokenizer, **options
    )
    return model.requires_grad_(False)


def words_alone(encoder: GrantedModel, positions: bool = True) -> GrantedModel:
    """The word vectors of an encoder, with sinusoidal positions or without, and no layer that looks at other words.

    It is a BERT of one layer whose attention and feed-forward network add nothing: its output is the LayerNorm of word
    and position.

    Raises:
        InputError: the encoder has no table of word vectors.
    """
    table = input_embeddings(encoder.text_trunk)
    if table is None:
        raise InputError("got an encoder without a table of word vectors, expected one: choose another control")
    limit = encoder.config.max_sequence_length
    model = _words_model(table.weight.detach().float().cpu(), encoder.tokenizer, limit, positions)
    return model.to(encoder.input_device)


def vocabulary_alone(words: Sequence[str]) -> GrantedModel:
    """An encoder that tells the words of a small language apart and knows nothing else: a ceiling for plain texts.

    Its features are random vectors of width 128 with sinusoidal positions.

    Args:
        words (`Sequence[str]`): the language; texts are these words with spaces between.
    """
    ids = {word: i for i, word in enumerate(("[PAD]", "[UNK]", *dict.fromkeys(words)))}
    fast = Tokenizer(WordLevel(ids, unk_token="[UNK]"))
    fast.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]")
    table = torch.randn(len(ids), 128, generator=torch.Generator().manual_seed(0))  # (V, D)
    return _words_model(table, tokenizer, limit=64, positions=True)


def _words_model(words: torch.Tensor, tokenizer: PreTrainedTokenizerBase, limit: int, positions: bool) -> GrantedModel:
    """The encoder of a table of word vectors (V, E)."""
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=limit,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    trunk = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in trunk.encoder.parameters():
            parameter.zero_()
        for norm in (module for module in trunk.modules() if isinstance(module, torch.nn.LayerNorm)):
            norm.weight.fill_(1)
        scale = words.std() * math.sqrt(2)  # as large as the words
        trunk.embeddings.word_embeddings.weight.copy_(words)
        trunk.embeddings.token_type_embeddings.weight.zero_()
        trunk.embeddings.position_embeddings.weight.copy_(_sinusoids(limit, words.shape[1]) * scale * positions)
    options = {"fusion": "single", "max_sequence_length": limit, "padding_side": "right"}
    return GrantedModel.from_loaded(trunk, tokenizer, **options).requires_grad_(False)


def _sinusoids(count: int, width: int) -> torch.Tensor:
    """Positions 0 to count - 1 as sines and cosines of falling frequency, (count, width)."""
    frequencies = 10000 ** (-torch.arange(0, width, 2) / width)  # (ceil(width / 2),)
    angles = torch.arange(count).unsqueeze(1) * frequencies  # (count, ceil(width / 2))
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]  # (count, width)


# By the name of the option, what results call it and how it is made.
CONTROLS: dict[str, tuple[str, Callable[[GrantedModel], GrantedModel]]] = {
    "random": ("random weights", random_weights),
    "words": ("words with positions", words_alone),
    "bag": ("bag of words", partial(words_alone, positions=False)),
}
CEILING = "scene"  # the control that is no encoder: each instrument has its own
CEILING_NAME = "the scene itself"


def controls_of(
    encoder: GrantedModel, asked: Sequence[str], features: Sequence[str]
) -> Iterator[tuple[str, str, GrantedModel]]:
    """The controls of one encoder that are asked for: name in results, feature to read, model; made one at a time.

    Args:
        encoder ([`GrantedModel`]): of which.
        asked (`list[str]`): keys of `CONTROLS`; others are passed over.
        features (`list[str]`): of the encoder. Random weights are read in the last of them; words have one layer.
    """
    for key, (name, make) in CONTROLS.items():
        if key in asked:
            yield name, features[-1] if make is random_weights else "last", make(encoder)
