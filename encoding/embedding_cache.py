"""Embeddings on disk: named tensors per text, in safetensors shards, so that interrupted work goes on.

    cache = EmbeddingCache("features", identity={"encoder": encoder.fingerprint(), "feature": "norm_avg"})
    for texts in batches(cache.missing(all_texts)):
        cache.append(texts, {"norm_avg": encoder.encode(texts)})   # one (N_i, D) tensor per text
    cache.read("norm_avg", "a red cube")                            # (N, D)

A cache knows what its content depends on (`identity`) and refuses to be opened as anything else, so a stale entry
cannot be returned; a shard of another cache, or one that is cut or damaged, is refused. Every `append` is one shard,
written atomically: a kill loses at most the batch in flight. The same content gives the same bytes.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, read_json, remove_abandoned, write_json


def text_key(text: str) -> str:
    """The name of a text in a cache.

    Raises:
        InputError: it cannot be text.
    """
    try:
        return hashlib.sha256(text.encode()).hexdigest()
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"got {repr(text)[:60]}, expected a text of whole characters") from None


def identity_hash(identity: dict[str, Any]) -> str:
    """16 hex digits that stand for an identity, for naming a cache's folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class EmbeddingCache:
    """A folder of embeddings of texts under one identity.

    Args:
        folder (`str`): created if it is not there.
        identity (`dict`): all that decides the content: encoder weights, configuration, template, dtype, feature, ...

    Raises:
        InputError: the folder holds embeddings of another identity, files that are no cache, or a damaged shard.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict[str, Any]):
        self.folder = Path(folder)
        identity = json.loads(json.dumps(identity))  # as it comes back from the file
        self._identity = identity_hash(identity)
        self._place: dict[str, tuple[Path, int]] = {}  # text key -> shard, row
        self._sizes: dict[Path, int] = {}  # shard -> number of its texts
        self._offsets: dict[Path, dict[str, array]] = {}  # shard -> name -> where the rows of each text begin, the end
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
        remove_abandoned(self.folder)  # if no text is missing, nothing is written that would do it
        for shard in sorted(self.folder.glob("*.safetensors")):
            self._index(shard)

    def _index(self, shard: Path) -> None:
        with _opened(shard) as tensors:
            described = json.loads((tensors.metadata() or {}).get("cache", "{}"))
            if described.get("identity") != self._identity:
                raise ValueError("it does not say that it belongs to this cache")
            keys, lengths = described["keys"], described["lengths"]
            if sorted(tensors.keys()) != sorted(lengths):
                raise ValueError("it has other tensors than it says")
            shared: dict[tuple, array] = {}  # vectors of a shard all begin at the same rows
            offsets = {
                name: shared.setdefault(tuple(rows), array("q", accumulate(rows, initial=0)))
                for name, rows in lengths.items()
            }
            for name, begins in offsets.items():
                shape = tensors.get_slice(name).get_shape()
                if len(begins) != len(keys) + 1 or len(shape) not in (2, 3) or begins[-1] != shape[0]:
                    raise ValueError(f"{name} has {shape} for {len(keys)} texts of {begins[-1]} rows")
        for row, key in enumerate(keys):
            self._place[key] = (shard, row)
        self._sizes[shard], self._offsets[shard] = len(keys), offsets

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

    def append(
        self, texts: Sequence[str], embeddings: dict[str, Sequence[torch.Tensor]], work: dict[str, Any] | None = None
    ) -> None:
        """Add texts with, under each name, one tensor per text: (D,), (N_i, D) or (K, N_i, D).

        Args:
            texts (`Sequence[str]`): as many as there are tensors under each name.
            embeddings (`dict`): the tensors by name.
            work (`dict`, *optional*): what they took, such as `{"seconds": 1.5}`. It is kept beside the shard, whose
                bytes depend on its content alone; see `work`.

        Raises:
            InputError: a value is NaN or infinite; the message names the first text.
        """
        tensors, lengths = {}, {}
        for name, rows in embeddings.items():
            rows = [_tokens_first(row) for row in rows]  # (N_i, D) or (N_i, K, D) each
            if len(rows) != len(texts):
                raise ValueError(f"got {len(rows)} embeddings {name!r} for {len(texts)} texts, expected one each")
            tensors[name] = torch.cat([row.cpu() for row in rows])  # (sum N_i, [K,] D)
            lengths[name] = [len(row) for row in rows]
            if not torch.isfinite(tensors[name]).all():
                first = next(text for text, row in zip(texts, rows) if not torch.isfinite(row).all())
                raise InputError(
                    f"got NaN or infinite values in {name} of {first[:60]!r}, expected finite ones: compute in "
                    "float32 (--dtype float32)"
                )
        keys = [text_key(text) for text in texts]
        shard = self.folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.safetensors"
        if work is not None:  # before the shard, so that none is without it
            write_json(shard.with_suffix(".json"), work)
        # One entry: safetensors writes several in a random order.
        described = json.dumps({"identity": self._identity, "keys": keys, "lengths": lengths}, sort_keys=True)
        with atomic_path(shard) as temporary:
            save_file(tensors, temporary, {"cache": described})
        self._index(shard)

    def read(self, name: str, text: str) -> torch.Tensor:
        """The tensor (N, D) or (K, N, D) stored for a text under a name.

        Raises:
            KeyError: the text or the name is not in the cache.
            InputError: the shard has been damaged.
        """
        shard, row = self._place[text_key(text)]
        begins = self._offsets[shard][name]
        with _opened(shard) as tensors:
            found = _finite(tensors.get_slice(name)[begins[row] : begins[row + 1]])  # (N, D) or (N, K, D)
        return found if found.ndim == 2 else found.transpose(0, 1)

    def read_vectors(self, name: str, texts: Sequence[str]) -> torch.Tensor:
        """Stored (D,) vectors of many texts as (len(texts), D), reading each shard once."""
        places: dict[Path, list[tuple[int, int]]] = {}  # shard -> (position among the texts, row)
        for i, text in enumerate(texts):
            shard, row = self._place[text_key(text)]
            places.setdefault(shard, []).append((i, row))
        parts, order = [], []
        for shard, found in places.items():
            positions, rows = zip(*found)
            rows = [self._offsets[shard][name][row] for row in rows]
            with _opened(shard) as tensors:
                parts.append(_finite(tensors.get_tensor(name)[rows]))  # (b, D)
            order += positions
        return torch.cat(parts)[torch.tensor(order).argsort()]  # (len(texts), D)

    def work(self, texts: Sequence[str]) -> list[tuple[dict[str, Any], float]]:
        """What it took to make the embeddings of texts.

        Returns:
            For each shard that has some of the texts what `append` was given, and the share of its texts asked for.
        """
        asked: dict[Path, int] = {}
        for text in dict.fromkeys(texts):
            shard, _ = self._place[text_key(text)]
            asked[shard] = asked.get(shard, 0) + 1
        return [(read_json(shard.with_suffix(".json")), count / self._sizes[shard]) for shard, count in asked.items()]


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    """A shard for reading; whatever is wrong with its file is one line."""
    expected = "a whole one of this cache: remove it and run again"
    with refusing(f"the damaged shard {shard}", expected), safe_open(shard, framework="pt") as tensors:
        yield tensors


def _tokens_first(row: torch.Tensor) -> torch.Tensor:
    """A text's features as rows of a shard: (N, D), or (N, K, D) of (K, N, D)."""
    return row.transpose(0, 1) if row.ndim == 3 else row.reshape(-1, row.shape[-1])


def _finite(values: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values")
    return values
