"""What a saved model needs to load as `SentenceTransformer(folder, trust_remote_code=True)`.

    GrantedModel.from_encoder("encoder", fusion="norm_avg").save_pretrained("granted")
    write_sentence_transformers_files("granted", ContextAggregator.from_pretrained("aggregators/norm_avg"))

The folder goes on loading with AutoModel and AutoTokenizer. sentence-transformers itself is not needed to write it.
Tiny, on CPU: tests/test_sentence_granted.py.
"""

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from granted import ContextAggregator, GrantedModel
from granted.publishing.code_checks import with_imports
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, write_json


# The module in sentence_granted.py (which cannot be imported without sentence-transformers), and where it looks.
CODE = Path(__file__).resolve().parents[1] / "sentence_granted.py"
AGGREGATOR_FOLDER = "context_aggregator"
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_granted.GrantedSentenceEncoder"}]
SETTINGS = {
    "model_type": "SentenceTransformer",
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
}


def write_sentence_transformers_files(folder: str | os.PathLike, aggregator: ContextAggregator) -> None:
    """Add a trained aggregator to a saved [`GrantedModel`], and what sentence-transformers loads the two by.

    The same folder and aggregator give the same bytes. Writing another aggregator replaces the first.

    Args:
        folder (`str` or `os.PathLike`): what `GrantedModel.save_pretrained` wrote.
        aggregator ([`ContextAggregator`]): trained for that encoder, on the feature that the model fuses.

    Raises:
        InputError: there is no such model in the folder, or the aggregator was trained for another encoder or
            feature. Nothing is written then.
    """
    folder = Path(folder)
    _check_fit(load_saved(folder), aggregator, folder)
    with atomic_path(folder / AGGREGATOR_FOLDER) as temporary:
        aggregator.save_pretrained(temporary)
        for code in temporary.glob("*.py"):
            code.unlink()  # transformers looks for code at the root only
    for code in with_imports(CODE):
        with atomic_path(folder / code.name) as temporary:
            shutil.copyfile(code, temporary)
    write_json(folder / "config_sentence_transformers.json", SETTINGS)
    write_json(folder / "modules.json", MODULES)  # last: it is what makes the folder a SentenceTransformer


def load_saved(folder: Path, dtype: str = "auto") -> GrantedModel:
    """The model that `GrantedModel.save_pretrained` wrote, with its tokenizer; raises an InputError otherwise.

    `dtype` is that of its weights by default.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != GrantedModel.config_class.model_type:
        raise InputError(f"got {folder}, expected a folder that GrantedModel.save_pretrained wrote: save one there")
    try:
        model = GrantedModel.from_pretrained(folder, dtype=dtype)
        model.tokenizer  # noqa: B018 - raises where there is none
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"got {folder}, which cannot be loaded ({reason}), expected a whole model: save it again"
        ) from error
    return model


def _check_fit(model: GrantedModel, aggregator: ContextAggregator, folder: Path) -> None:
    """Refuse an aggregator that would get other features than it was trained on."""
    config, width = aggregator.config, model.config.fused_size()
    if config.encoder_hidden_size != width:
        raise InputError(
            f"got an aggregator for features of width {config.encoder_hidden_size}, expected {width} as in {folder}: "
            "train one for that encoder"
        )
    if config.encoder_fingerprint is not None and config.encoder_fingerprint != model.fingerprint():
        raise InputError(
            f"got an aggregator trained for {config.encoder}, whose weights or dtype are not those of {folder}, "
            "expected one trained for that encoder: train one"
        )
    if aggregator.fusion is not None and not _same_feature(aggregator.fusion, model.fusion):
        raise InputError(
            f"got an aggregator that reads {config.feature or config.fusion}, expected the feature that the model in "
            f"{folder} fuses ({model.config.fusion}): give the model that fusion and layer weights, or train an "
            "aggregator on the model's"
        )


def _same_feature(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two layer fusions give the same feature."""
    norms = [fusion.options.norm() for fusion in (one, other)]
    weights = [fusion.layer_weights().detach().cpu() for fusion in (one, other)]  # (L,) each
    if norms[0] != norms[1] or weights[0].shape != weights[1].shape or one.arrangement != other.arrangement:
        return False
    return torch.allclose(*weights, atol=1e-6) and (norms[0] == "none" or one.options.eps == other.options.eps)
