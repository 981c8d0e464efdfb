"""Embeddings on disk: what went in comes out, and nothing that belongs to something else."""

import json

import numpy
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from granted.embedding_cache import EmbeddingCache, identity_hash
from granted.errors import InputError
from granted.files import atomic_path


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


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "half"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    EmbeddingCache(tmp_path, IDENTITY).append(["a", "b"], {"v": [torch.ones(2), torch.ones(2)]})
    (shard,) = tmp_path.glob("*.safetensors")
    content = shard.read_bytes()
    if damage == "foreign":
        save_file({"v": torch.ones(2)}, shard)
    elif damage == "half":
        save_file({"v": torch.ones(2)}, shard, {"keys": json.dumps(["a"])})
    else:
        shard.write_bytes(content[:-4] if damage == "cut" else b"")
    with pytest.raises(InputError, match=f"damaged shard .*{shard.name}"):
        EmbeddingCache(tmp_path, IDENTITY)


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
