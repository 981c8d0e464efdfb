"""The context aggregator against a plain reference written from its description, and the authors' checkpoints."""

import cmath
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from granted import ContextAggregator, ContextAggregatorConfig, LayerFusion
from granted.modeling_context_aggregator import rotary


HEADS = 8


def aggregator(width: int = 32, heads: int = 4, **options) -> ContextAggregator:
    torch.manual_seed(0)
    model = ContextAggregator(ContextAggregatorConfig(width, num_heads=heads, context_dim=16, **options)).eval()
    with torch.no_grad():  # biases and norms that could be left out unseen get a value
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(3, 9, 32)  # (B, N, D)
    mask = torch.ones(3, 9, dtype=torch.long)  # (B, N)
    mask[1, 5:] = 0
    mask[2, 1:] = 0
    return features, mask


def authors_state(width: int, context_dim: int, blocks: int = 2) -> dict[str, torch.Tensor]:
    """A random state dict in the authors' layout."""
    shapes = {"pool_token": (1, 1, width), "out_norm.weight": (width,), "out_norm.bias": (width,)}
    shapes |= {"proj.weight": (context_dim, width), "proj.bias": (context_dim,)}
    for i in range(blocks):
        shapes |= {f"encoder.{i}.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"encoder.{i}.norm{k}.{kind}": (width,) for k in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"encoder.{i}.mlp.0.weight": (4 * width, width), f"encoder.{i}.mlp.0.bias": (4 * width,)}
        shapes |= {f"encoder.{i}.mlp.3.weight": (width, 4 * width), f"encoder.{i}.mlp.3.bias": (width,)}
    state = {name: torch.randn(shape) / math.sqrt(shape[-1]) for name, shape in shapes.items()}
    return {name: value + 1 if "norm" in name and "weight" in name else value for name, value in state.items()}


def layer_norm(x, weight, bias):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def plain_context(state: dict, features: torch.Tensor, heads: int) -> torch.Tensor:
    """One unpadded text (N, D): every position of every block, loops and complex numbers, in float64."""
    state = {name: value.double() for name, value in state.items()}
    x = torch.cat([state["pool_token"][0], features.double()])  # (1 + N, D)
    length, width = x.shape
    size = width // heads
    turns = torch.tensor(
        [[cmath.exp(1j * position * 10000 ** (-2 * k / size)) for k in range(size // 2)] for position in range(length)]
    )  # (1 + N, size / 2): the context token at position 0 is not turned, tokens count from 1

    def turned(head):  # (1 + N, size): coordinates k and k + size / 2 are the two parts of one complex number
        z = torch.complex(head[:, : size // 2], head[:, size // 2 :]) * turns
        return torch.cat([z.real, z.imag], dim=-1)

    for i in range(sum(name.endswith("q_proj.weight") for name in state)):
        block = {name.removeprefix(f"encoder.{i}."): value for name, value in state.items()}
        normed = layer_norm(x, block["norm1.weight"], block["norm1.bias"])
        q, k, v = (normed @ block[f"{name}_proj.weight"].T for name in "qkv")
        attended = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = turned(q[:, part]) @ turned(k[:, part]).T / math.sqrt(size)  # (1 + N, 1 + N)
            attention = scores.exp() / scores.exp().sum(-1, keepdim=True)
            attended.append(attention @ v[:, part])
        x = x + torch.cat(attended, dim=-1) @ block["o_proj.weight"].T
        normed = layer_norm(x, block["norm2.weight"], block["norm2.bias"])
        inner = normed @ block["mlp.0.weight"].T + block["mlp.0.bias"]
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + inner @ block["mlp.3.weight"].T + block["mlp.3.bias"]
    context = layer_norm(x[0], state["out_norm.weight"], state["out_norm.bias"])
    return (context @ state["proj.weight"].T + state["proj.bias"]).float()


def as_authors(model: ContextAggregator) -> dict[str, torch.Tensor]:
    names = {"context_token": "pool_token", "out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    return {
        names.get(name, name.replace("blocks.", "encoder.").replace("mlp.2", "mlp.3")): value
        for name, value in model.state_dict().items()
    }


@torch.no_grad()
def test_it_computes_what_the_plain_reference_computes():
    model = aggregator()
    features, mask = padded()
    embedding = model(features, attention_mask=mask).context_embedding
    assert embedding.shape == (3, 16)
    for row, tokens, real in zip(embedding, features, mask.bool()):
        expected = plain_context(as_authors(model), tokens[real], heads=4)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing_not_even_nan():
    model = aggregator()
    features, mask = padded()
    embedding = model(features, attention_mask=mask).context_embedding
    left = [torch.cat([f[~m], f[m]]) for f, m in zip(features, mask.bool())]
    left_mask = mask.flip(1)
    broken = torch.stack(left).masked_fill(left_mask.unsqueeze(-1) == 0, torch.nan)
    torch.testing.assert_close(
        model(torch.stack(left), attention_mask=left_mask).context_embedding, embedding, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model(broken, attention_mask=left_mask).context_embedding, embedding, atol=1e-5, rtol=0)
    for i, (tokens, real) in enumerate(zip(features, mask.bool())):
        alone = model(tokens[real][None]).context_embedding[0]
        torch.testing.assert_close(alone, embedding[i], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_context_token_is_not_rotated_and_order_matters():
    cos, sin = rotary(torch.arange(4)[None], 8, 10000.0)
    assert cos[0, 0, 0].eq(1).all() and sin[0, 0, 0].eq(0).all()
    assert torch.equal(cos[0, 0, 1, :4], torch.cos(10000.0 ** -(torch.arange(0, 8, 2) / 8)))
    model = aggregator()
    features = torch.randn(1, 5, 32)
    swapped = features[:, [1, 0, 2, 3, 4]]
    assert (model(features).context_embedding - model(swapped).context_embedding).abs().max() > 1e-4


@torch.no_grad()
def test_the_last_block_for_the_context_position_alone_is_the_last_block():
    model = aggregator()
    x = torch.randn(2, 6, 32)
    cos, sin = rotary(torch.arange(6)[None].expand(2, -1), 8, 10000.0)
    whole = model.blocks[1](x, cos, sin, None)
    torch.testing.assert_close(model.blocks[1](x, cos, sin, None, context_only=True), whole[:, :1])


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["learned", "norm_avg", "avg", "single"])
def test_a_stack_of_layers_is_fused_first(fusion):
    model = aggregator(fusion=fusion, num_layers=3, layer_index=1)
    layers = torch.randn(2, 3, 5, 32)  # (B, L, N, D)
    own = LayerFusion(fusion, 3, layer_index=1)
    if fusion == "learned":
        own.weights.data = model.fusion.weights.data
    fused = own(layers)
    assert torch.equal(model(layers).context_embedding, model(fused).context_embedding)


@torch.no_grad()
def test_standardised_channels_are_those_of_features_that_were_standardised_before(tmp_path):
    plain, standardised = aggregator(), aggregator(standardize=True)
    mean, deviation = torch.randn(32), torch.rand(32) + 0.5  # (D,) each
    standardised.standardization.mean.copy_(mean)
    standardised.standardization.deviation.copy_(deviation)
    features, mask = padded()
    expected = plain((features - mean) / deviation, attention_mask=mask).context_embedding
    assert torch.equal(standardised(features, attention_mask=mask).context_embedding, expected)
    standardised.save_pretrained(tmp_path)
    loaded = ContextAggregator.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(features, attention_mask=mask).context_embedding, expected)


@torch.no_grad()
def test_blocks_may_have_another_width_than_the_encoder():
    model = aggregator(48, heads=4, hidden_size=16)
    assert model.in_proj.weight.shape == (16, 48) and model.context_token.shape == (1, 1, 16)
    assert model(torch.randn(2, 5, 48)).context_embedding.shape == (2, 16)


@pytest.mark.parametrize("options", [{}, {"fusion": "learned", "num_layers": 3}, {"hidden_size": 16}])
@torch.no_grad()
def test_a_saved_aggregator_loads_bit_equal(tmp_path, options):
    model = aggregator(**options)
    model.save_pretrained(tmp_path)
    features, mask = padded()
    expected = model(features, attention_mask=mask).context_embedding
    for loaded in (ContextAggregator.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is ContextAggregator and not loaded.training
        assert torch.equal(loaded(features, attention_mask=mask).context_embedding, expected)


def test_wrong_features_and_masks_raise():
    model = aggregator()
    with pytest.raises(ValueError, match=r"got features of shape \(2, 5, 31\), expected \(B, N, 32\)"):
        model(torch.randn(2, 5, 31))
    with pytest.raises(ValueError, match="no layer fusion"):
        model(torch.randn(2, 3, 5, 32))
    with pytest.raises(ValueError, match=r"got attention_mask \(2, 4\), expected \(2, 5\)"):
        model(torch.randn(2, 5, 32), attention_mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"expected \(B, 3, N, D\)"):
        aggregator(fusion="avg", num_layers=3)(torch.randn(2, 4, 5, 32))


def test_context_token_and_projection_start_truncated_normal_and_the_fusion_at_zero():
    torch.manual_seed(0)
    model = ContextAggregator(ContextAggregatorConfig(512, context_dim=512, fusion="learned", num_layers=3))
    for tensor in (model.context_token, model.out_proj.weight):
        assert 0.018 < tensor.std().item() < 0.022 and abs(tensor.mean().item()) < 0.003
        assert tensor.abs().max() > 0.045  # cut at two absolute units, as torch's default, not at two deviations
    assert model.out_proj.bias.eq(0).all() and model.fusion.weights.eq(0).all()
    assert all(block.norm1.weight.eq(1).all() for block in model.blocks)


# ------------------------------------------------------------------------------------------------------- precision


def test_positions_stay_distinct_beyond_256_under_autocast():
    position = torch.arange(512)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cos, sin = rotary(position, 64, 10000.0)
    assert cos.dtype == sin.dtype == torch.float32
    angles = torch.cat([cos[0, 0], sin[0, 0]], dim=-1)  # (512, 128)
    assert len(angles.unique(dim=0)) == 512
    assert torch.equal(cos, rotary(position, 64, 10000.0)[0])


@torch.no_grad()
def test_autocast_is_close_to_fp32():
    model = aggregator(64, heads=8)
    features = torch.randn(2, 300, 64)
    exact = model(features).context_embedding
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(features).context_embedding
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, rounded.bfloat16().float())
    assert F.cosine_similarity(exact, rounded).min() > 0.999
    assert (exact - rounded).abs().max() < 0.05 * exact.abs().max()


# ------------------------------------------------------------------------------------------ the authors' checkpoints


@torch.no_grad()
@pytest.mark.parametrize(("width", "context_dim", "prefix"), [(64, 32, ""), (64, 32, "module."), (1024, 1024, "")])
def test_an_authors_checkpoint_computes_what_the_plain_reference_computes(tmp_path, width, context_dim, prefix):
    state = authors_state(width, context_dim)
    torch.save({"model": {prefix + name: value for name, value in state.items()}, "epoch": 1}, tmp_path / "epoch_1.pt")
    model = ContextAggregator.from_authors_checkpoint(tmp_path / "epoch_1.pt")
    assert not model.training and model.dtype == torch.float32
    features = torch.randn(1, 12, width)
    expected = plain_context(state, features[0], HEADS)
    torch.testing.assert_close(model(features).context_embedding[0], expected, atol=1e-5, rtol=1e-5)


def test_a_bf16_authors_checkpoint_is_read_in_fp32(tmp_path):
    state = {name: value.bfloat16() for name, value in authors_state(64, 32).items()}
    torch.save({"model": state}, tmp_path / "a.pt")
    model = ContextAggregator.from_authors_checkpoint(tmp_path / "a.pt")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.out_proj.weight, state["proj.weight"].float())


class Anything:
    """A pickled object that is no tensor."""


def without(*names: str) -> dict:
    return {"model": {k: v for k, v in authors_state(64, 32).items() if not k.startswith(names)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("encoder.1.q_proj", "out_norm.bias"), r"missing keys .*blocks.1.q_proj.weight.*out_norm.bias"),
        (without("encoder."), r"missing keys .*blocks.0.q_proj.weight"),
        (without("pool_token"), "without 'pool_token'"),
        (without("proj."), "without 'pool_token' or 'proj.weight'"),
        ({"model": authors_state(64, 32) | {"extra.weight": torch.ones(1)}}, r"unknown keys \['extra.weight'\]"),
        ({"model": authors_state(64, 32) | {"out_norm.bias": torch.ones(3)}}, "expected an aggregator of width 64"),
        ({"model": authors_state(64, 32) | {"step": 3}}, "expected a dict whose 'model' is"),
        ({"state": {}}, "expected a dict whose 'model' is"),
        ([torch.ones(1)], "expected a dict whose 'model' is"),
        ({"model": Anything()}, "expected a torch file of plain tensors"),
    ],
)
def test_a_file_that_is_no_such_checkpoint_raises_one_clear_error(tmp_path, content, message):
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match=message) as caught:
        ContextAggregator.from_authors_checkpoint(tmp_path / "wrong.pt")
    assert "wrong.pt" in str(caught.value)


def test_a_pickle_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"model": Bomb()}))
    with pytest.raises(ValueError, match="expected a torch file of plain tensors"):
        ContextAggregator.from_authors_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError):
        ContextAggregator.from_authors_checkpoint(tmp_path / "missing.pt")
