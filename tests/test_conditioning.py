"""What the diffusion model reads is the same from the encoder, from its stored layers and from the disk."""

import pytest
import torch
from accelerate import Accelerator

from granted.encoding.embedding_cache import EmbeddingCache
from granted.modeling_granted import GrantedModel
from granted.training.diffusion.conditioning import Conditioning
from granted.utils.errors import InputError
from granted.utils.files import read_json


def test_the_disk_gives_what_the_encoder_gave_and_nothing_of_other_weights(tiny_encoder_folder, sentences, tmp_path):
    texts = [*sentences, ""]

    def new(weights) -> Conditioning:
        encoder = GrantedModel.from_encoder(tiny_encoder_folder, padding_side="left").requires_grad_(False)
        encoder.fusion.weights.copy_(torch.tensor(weights))
        return Conditioning(encoder, Accelerator())

    found = {}
    for name, weights in (("one", [0.0, 1.0, 2.0, 3.0]), ("other", [0.0, 1.0, 2.0, 3.5])):
        conditioning = new(weights)
        embeds, mask = conditioning.embed(texts)
        assert not mask.sum(1).eq(0).any() and not embeds[mask == 0].any()
        conditioning.freeze(texts, tmp_path)
        assert not hasattr(conditioning.encoder, "encoder")
        from_disk, from_disk_mask = conditioning.embed(texts)
        assert torch.equal(mask, from_disk_mask)
        torch.testing.assert_close(embeds, from_disk, atol=1e-5, rtol=1e-5)
        found[name] = from_disk
    assert not torch.allclose(found["one"], found["other"])
    first, second = sorted(tmp_path.iterdir())  # a folder for each set of weights
    with pytest.raises(InputError, match="of another layer weights"):
        EmbeddingCache(first, read_json(second / "identity.json"))
    with pytest.raises(KeyError):
        conditioning.embed(["never seen before"])


@pytest.mark.parametrize("options", [{}, {"embeddings": True}, {"fusion": "signed", "num_outputs": 3}])
def test_layers_from_the_disk_give_the_same_features_and_gradients(tiny_encoder_folder, sentences, tmp_path, options):
    texts = [*sentences, ""]
    template = {"prompt_template": "a template {prompt} ends", "template_drop_tokens": 2, "padding_side": "left"}
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, **template, **options).requires_grad_(False)
    encoder.calibrate(sentences)
    weights = encoder.fusion.weights.requires_grad_(True)  # (L,) or (K, L)
    weights.data += torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    conditioning, found = Conditioning(encoder, Accelerator(), recompute=False), []
    for _ in range(2):
        embeds, mask = conditioning.embed(texts)  # (B, N, D) or (B, N, K * D), (B, N)
        upstream = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad(embeds, weights, upstream)
        found.append((embeds, mask, gradient))
        conditioning.store_layers(texts, tmp_path)
    torch.testing.assert_close(*found)
    with torch.no_grad():
        weights += torch.arange(weights.shape[-1]) / 2
    moved, _ = conditioning.embed(texts)
    assert not torch.allclose(moved, found[0][0]), "stored layers are summed by the weights of now"
    with pytest.raises(KeyError):
        conditioning.embed(["never seen before"])
    conditioning.freeze(texts, tmp_path)
    torch.testing.assert_close(conditioning.embed(texts)[0], moved, atol=1e-5, rtol=1e-5)


def test_the_limit_of_a_run_is_the_runs_and_not_the_encoders(tiny_encoder_folder, sentences, tmp_path):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, max_sequence_length=20).requires_grad_(False)
    whole = encoder.encode(sentences)
    cut = Conditioning(encoder, Accelerator(), max_sequence_length=5)
    embeds, mask = cut.embed(sentences)
    assert mask.sum(1).tolist() == [min(5, len(row)) for row in whole] and max(map(len, whole)) > 5
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        cut.warn_truncation(sentences)
    assert [len(row) for row in encoder.encode(sentences)] == [len(row) for row in whole]
    assert encoder.tokenizer.backend_tokenizer.truncation is None  # which would be saved with it
    more = Conditioning(encoder, Accelerator(), max_sequence_length=40)
    assert more.embed(["a red cube " * 10])[1].sum() == 31  # all of it, where the encoder would stop at 20
    cut.freeze(sentences, tmp_path)
    torch.testing.assert_close(cut.embed(sentences)[0], embeds)
    other = Conditioning(GrantedModel.from_encoder(tiny_encoder_folder).requires_grad_(False), Accelerator())
    other.freeze(sentences, tmp_path)  # in a cache of its own
    assert other.embed(sentences)[1].sum(1).tolist() == [len(row) for row in whole]
