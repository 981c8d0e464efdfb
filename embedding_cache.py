"""Embeddings on disk: named tensors per text, in safetensors shards, so that interrupted work goes on.

    cache = EmbeddingCache("features", identity={"encoder": encoder.fingerprint(), "feature": "norm_avg"})
    for texts in batches(cache.missing(all_texts)):
        cache.append(texts, {"norm_avg": encoder.encode(texts)})   # one (N_i, D) tensor per text
    cache.read("norm_avg", "a red cube")                            # (N, D)

A cache knows what its content depends on (`identity`) and refuses to be opened as anything else, so a stale entry
cannot be returned. Every `append` is one shard, written atomically: a kill loses at most the batch in flight.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from granted.errors import InputError
from granted.files import atomic_path, read_json, write_json
from granted.modeling_granted import GrantedModel


def text_key(text: str) -> str:
    """The name of a text in a cache.

    Raises:
        InputError: it cannot be text.
    """
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"got {repr(text)[:60]}, expected a text of whole characters: correct it") from None


def identity_hash(identity: dict[str, Any]) -> str:
    """16 hex digits that stand for an identity, for naming a cache's folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class EmbeddingCache:
    """A folder of embeddings of texts under one identity.

    Args:
        folder (`str`): created if it is not there.
        identity (`dict`): all that decides the content: encoder weights, configuration, template, dtype, feature, ...

    Raises:
        InputError: the folder holds embeddings of another identity, or files that are no cache.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict[str, Any]):
        self.folder = Path(folder)
        identity = json.loads(json.dumps(identity))  # as it comes back from the file
        self._place: dict[str, tuple[Path, int]] = {}  # text key -> shard, row
        self._lengths: dict[Path, dict[str, list[int]]] = {}
        description = self.folder / "identity.json"
        if description.exists():
            found = read_json(description)
            if not isinstance(found, dict):
                raise InputError(f"got {description} without an identity, expected a cache: remove the folder")
            different = [key for key in identity.keys() | found.keys() if found.get(key) != identity.get(key)]
            if different:
                raise InputError(
                    f"got the cache {folder} of another {' and '.join(sorted(different))}, expected this run's: "
                    "choose another folder or remove it"
                )
        elif self.folder.is_dir() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
            raise InputError(f"got {folder}, which holds other files, expected a cache or an empty folder: choose one")
        else:
            write_json(description, identity)
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._index(shard)

    def _index(self, shard: Path) -> None:
        try:
            with safe_open(shard, framework="pt") as tensors:
                metadata = tensors.metadata()
            keys, lengths = json.loads(metadata["keys"]), json.loads(metadata["lengths"])
        except (SafetensorError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"got the damaged shard {shard} ({error}): remove it and run again") from error
        for row, key in enumerate(keys):
            self._place[key] = (shard, row)
        self._lengths[shard] = lengths

    def __contains__(self, text: str) -> bool:
        return text_key(text) in self._place

    def __len__(self) -> int:
        return len(self._place)

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that are not in the cache, in order, each once.

        Raises:
            InputError: an entry that cannot be text; the message names its position.
        """
        try:
            texts = GrantedModel.as_texts(texts, allow_empty=True)
        except ValueError as error:
            raise InputError(str(error)) from None
        return [text for text in dict.fromkeys(texts) if text not in self]

    def append(self, texts: Sequence[str], embeddings: dict[str, Sequence[torch.Tensor]]) -> None:
        """Add texts with, under each name, one tensor per text: (D,) or (N_i, D)."""
        tensors, lengths = {}, {}
        for name, rows in embeddings.items():
            rows = [row.unsqueeze(0) if row.ndim == 1 else row for row in rows]  # (N_i, D) each
            if len(rows) != len(texts):
                raise ValueError(f"got {len(rows)} embeddings {name!r} for {len(texts)} texts, expected one each")
            tensors[name] = torch.cat(rows).contiguous().cpu()  # (sum N_i, D)
            lengths[name] = [len(row) for row in rows]
        keys = [text_key(text) for text in texts]
        shard = self.folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.safetensors"
        with atomic_path(shard) as temporary:
            save_file(tensors, temporary, {"keys": json.dumps(keys), "lengths": json.dumps(lengths)})
        self._index(shard)

    def read(self, name: str, text: str) -> torch.Tensor:
        """The tensor (N, D) stored for a text under a name.

        Raises:
            KeyError: the text or the name is not in the cache.
        """
        shard, row = self._place[text_key(text)]
        lengths = self._lengths[shard][name]
        start = sum(lengths[:row])
        with safe_open(shard, framework="pt") as tensors:
            return tensors.get_slice(name)[start : start + lengths[row]]  # (N, D)

    def read_vectors(self, name: str, texts: Sequence[str]) -> torch.Tensor:
        """Stored (D,) vectors of many texts as (len(texts), D), reading each shard once."""
        shards: dict[Path, torch.Tensor] = {}
        rows = []
        for text in texts:
            shard, row = self._place[text_key(text)]
            if shard not in shards:
                with safe_open(shard, framework="pt") as tensors:
                    shards[shard] = tensors.get_tensor(name)  # (b, D)
            rows.append(shards[shard][row])
        return torch.stack(rows)  # (len(texts), D)
