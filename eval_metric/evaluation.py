"""Loading encoders."""

from pathlib import Path

from granted.errors import InputError
from granted.modeling_granted import GrantedModel


def load_encoder(spec: str, dtype: str = "auto") -> tuple[str, GrantedModel]:
    """Load an encoder given as Hub id, folder or GGUF file, or as `NAME=PATH`.

    Args:
        spec (`str`): what to load. A folder saved by [`GrantedModel`] is loaded as it is.
        dtype (`str`, defaults to `"auto"`): the encoder's dtype; `"auto"` is the checkpoint's.

    Returns:
        Display name and model, in evaluation mode.

    Raises:
        InputError: there is no such encoder, or it has no text trunk.
    """
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"got dtype {dtype!r}, expected auto, float32, bfloat16 or float16")
    name, _, path = spec.rpartition("=")
    name = name or Path(path.rstrip("/")).stem
    try:
        if is_granted_folder(path):
            model = GrantedModel.from_pretrained(path, dtype=dtype)
        else:
            model = GrantedModel.from_encoder(path, dtype=dtype)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"got encoder {path!r}, which cannot be loaded: {reason}") from error
    return name, model.eval()


def is_granted_folder(path: str) -> bool:
    """Whether a folder was saved by [`GrantedModel`]."""
    config = Path(path) / "config.json"
    return config.is_file() and '"model_type": "granted"' in config.read_text(encoding="utf-8", errors="replace")
