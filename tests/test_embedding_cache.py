"""Embeddings on disk: what went in comes out, and nothing that belongs to something else."""

import json
import os
import shutil
import subprocess
import sys

import numpy
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.utils.errors import InputError
from granted.utils.files import atomic_path


IDENTITY = {"encoder": "abc", "feature": "last", "dtype": "float32"}


def test_vectors_and_token_features_come_back_as_they_were_also_from_a_new_process(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    texts = ["a", "b\nc", "ü", "a b"]
    vectors = torch.randn(4, 6)  # (4, D)
    tokens = [torch.randn(n, 5).to(torch.bfloat16) for n in (3, 1, 7, 2)]  # (N_i, D) each
    cache.append(texts[:3], {"vector": list(vectors[:3]), "tokens": tokens[:3]})
    cache.append(texts[3:], {"vector": list(vectors[3:]), "tokens": tokens[3:]})
    for reader in (cache, EmbeddingCache(tmp_path, IDENTITY)):
        assert len(reader) == 4
        assert torch.equal(reader.read_vectors("vector", [*texts[::-1], "a"]), vectors[[3, 2, 1, 0, 0]])
        for text, expected in zip(texts, tokens):
            found = reader.read("tokens", text)
            assert found.dtype == torch.bfloat16 and torch.equal(found, expected)


def test_missing_texts_are_named_once_and_in_order(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    cache.append(["b"], {"v": [torch.ones(2)]})
    assert cache.missing(["c", "b", "a", "c", "b"]) == ["c", "a"]
    assert "b" in cache and "a" not in cache
    with pytest.raises(KeyError):
        cache.read("v", "a")
    with pytest.raises(KeyError):
        cache.read("other", "b")


def test_what_cannot_be_text_is_refused_by_its_place(tmp_path):
    cache = EmbeddingCache(tmp_path, {})
    for entry in (3, "\ud83d", None):
        with pytest.raises(InputError, match="at position 1, expected a text"):
            cache.missing(["a cube", entry])
        with pytest.raises(InputError, match="expected a text"):
            cache.append([entry], {"features": [torch.zeros(2)]})
    assert cache.missing(numpy.array(["a cube", "a cube"])) == ["a cube"]
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_cache_of_something_else_is_refused_with_what_differs(tmp_path):
    EmbeddingCache(tmp_path, IDENTITY)
    EmbeddingCache(tmp_path, IDENTITY)
    for change, name in (
        ({"encoder": "x"}, "encoder"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"template": "t"}, "templ"),
    ):
        with pytest.raises(InputError, match=f"of another {name}.*{tmp_path.name}|{tmp_path.name}.*of another {name}"):
            EmbeddingCache(tmp_path, IDENTITY | change)
    assert identity_hash(IDENTITY) == identity_hash(dict(reversed(IDENTITY.items())))
    assert identity_hash(IDENTITY) != identity_hash(IDENTITY | {"encoder": "x"})


def test_a_folder_of_other_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        EmbeddingCache(tmp_path, IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_killed_process_left_behind_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".identity.json.x1y2.tmp").mkdir()
    EmbeddingCache(tmp_path, IDENTITY).append(["a"], {"v": [torch.ones(2)]})
    (tmp_path / ".shard.safetensors.x1y2.tmp").mkdir()
    assert len(EmbeddingCache(tmp_path, IDENTITY)) == 1


def test_opening_a_cache_removes_what_a_killed_process_left_though_nothing_is_missing(tmp_path):
    EmbeddingCache(tmp_path / "cache", IDENTITY).append(["a"], {"v": [torch.ones(2)]})
    killed = shutil.copytree(tmp_path / "cache", tmp_path / "killed")  # a folder that this process has not looked into
    (killed / ".shard.safetensors.x1y2.tmp").mkdir()
    (killed / ".shard.safetensors.x1y2.tmp" / "granted.lock").touch()
    assert EmbeddingCache(killed, IDENTITY).missing(["a"]) == []
    assert sorted(os.listdir(killed)) == sorted(os.listdir(tmp_path / "cache"))


def spoil(shard, **changes):
    """Write the shard again with other tensors, or with another description of them."""
    described = {name: changes.pop(name) for name in ("identity", "keys", "lengths") if name in changes}
    with safe_open(shard, framework="pt") as tensors:
        kept = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        described = json.loads(tensors.metadata()["cache"]) | described
    save_file(kept | changes, shard, {"cache": json.dumps(described)})


DAMAGE = {
    "cut": lambda shard: shard.write_bytes(shard.read_bytes()[:-4]),
    "empty": lambda shard: shard.write_bytes(b""),
    "of another program": lambda shard: save_file({"v": torch.ones(2, 2)}, shard),
    "of another cache": lambda shard: spoil(shard, identity="0123456789abcdef"),
    "rows": lambda shard: spoil(shard, v=torch.ones(1, 2)),
    "lengths": lambda shard: spoil(shard, lengths={"v": [1, 2]}),
    "keys": lambda shard: spoil(shard, keys=["a"]),
    "no lengths": lambda shard: spoil(shard, lengths={}),
    "other tensors": lambda shard: spoil(shard, w=torch.ones(2, 2)),
    "no description": lambda shard: spoil(shard, keys=None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_shard_that_is_damaged_or_of_another_cache_is_refused_by_name(tmp_path, damage):
    EmbeddingCache(tmp_path, IDENTITY).append(["a", "b"], {"v": [torch.ones(2), torch.ones(2)]})
    (shard,) = tmp_path.glob("*.safetensors")
    DAMAGE[damage](shard)
    with pytest.raises(InputError, match=f"damaged shard .*{shard.name}.*remove it") as caught:
        EmbeddingCache(tmp_path, IDENTITY)
    assert "\n" not in str(caught.value)


def test_what_is_not_finite_is_neither_kept_nor_read(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    tokens = [torch.ones(3, 2), torch.tensor([[0.0, 1.0], [torch.inf, 0.0]])]  # (N_i, D) each
    with pytest.raises(InputError, match=r"NaN or infinite values in v of 'second', .*--dtype float32"):
        cache.append(["first", "second"], {"v": tokens})
    assert len(cache) == 0 and not list(tmp_path.glob("*.safetensors"))
    cache.append(["a", "b"], {"v": [torch.ones(2), torch.ones(2)]})
    (shard,) = tmp_path.glob("*.safetensors")
    spoil(shard, v=torch.tensor([[1.0, 1.0], [1.0, torch.nan]]))
    assert torch.equal(cache.read("v", "a"), torch.ones(1, 2))
    for read in (lambda: cache.read("v", "b"), lambda: cache.read_vectors("v", ["a", "b"])):
        with pytest.raises(InputError, match=f"damaged shard .*{shard.name}.*NaN"):
            read()


SHARD = """
import sys, torch
from granted.encoding.embedding_cache import EmbeddingCache
cache = EmbeddingCache(sys.argv[1], {"encoder": "abc", "dtype": "float32"})
cache.append(["a", "b"], {name: torch.arange(4.0).view(2, 2) for name in "vwxyz"}, {"seconds": float(sys.argv[2])})
"""


def test_the_same_content_gives_the_same_bytes_in_any_process_whatever_it_took(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    subprocess.run([sys.executable, "-c", SHARD, there, "1"], check=True)  # where hash() has another seed
    monkeypatch.setattr(sys, "argv", ["-c", str(here), "2"])
    exec(SHARD)
    one, other = (next(folder.glob("*.safetensors")).read_bytes() for folder in (there, here))
    assert one == other


def test_what_the_embeddings_of_texts_took_is_the_sum_of_their_parts_also_after_an_interruption(tmp_path):
    cache = EmbeddingCache(tmp_path, IDENTITY)
    cache.append(["a", "b", "c", "d"], {"v": torch.ones(4, 2)}, {"seconds": 8.0})
    cache = EmbeddingCache(tmp_path, IDENTITY)
    cache.append(["e"], {"v": torch.ones(1, 2)}, {"seconds": 1.0})
    for texts, expected in ((["a", "e", "b", "c", "d", "a"], 9.0), (["a"], 2.0), (["e", "b"], 3.0)):
        assert sum(work["seconds"] * share for work, share in cache.work(texts)) == expected


def test_a_damaged_description_is_named(tmp_path):
    EmbeddingCache(tmp_path, IDENTITY)
    for content in ("{", "[]"):
        (tmp_path / "identity.json").write_text(content)
        with pytest.raises(InputError, match=r"identity\.json"):
            EmbeddingCache(tmp_path, IDENTITY)


def test_an_interrupted_write_leaves_no_shard(tmp_path):
    class Interrupted(torch.Tensor):
        def data_ptr(self):
            raise KeyboardInterrupt

    cache = EmbeddingCache(tmp_path, IDENTITY)
    with pytest.raises(KeyboardInterrupt):
        cache.append(["a"], {"v": [torch.ones(1, 2).as_subclass(Interrupted)]})
    assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]
    assert "a" not in cache and cache.missing(["a"]) == ["a"]


def test_a_number_of_embeddings_that_is_not_that_of_the_texts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 1 embeddings 'v' for 2 texts"):
        EmbeddingCache(tmp_path, IDENTITY).append(["a", "b"], {"v": [torch.ones(2)]})
    assert len(EmbeddingCache(tmp_path, IDENTITY)) == 0


def test_a_full_disk_that_safetensors_reports_is_one_line_about_the_place(tmp_path):
    message = r"'No space left on device' while writing .*shard"
    with pytest.raises(InputError, match=message) as caught, atomic_path(tmp_path / "shard"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "\n" not in str(caught.value)
    with pytest.raises(SafetensorError), atomic_path(tmp_path / "shard"):
        raise SafetensorError("Error while deserializing header: header too small")
