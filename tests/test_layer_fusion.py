"""Layer fusion: closed forms, streamed = stacked, recomputed gradient = stored gradient, at the memory promised."""

import weakref

import pytest
import torch
import torch.nn.functional as F
import transformers
from packaging.version import Version
from transformers import BertConfig, LlamaConfig

from granted import GrantedConfig, GrantedModel, LayerFusion, modeling_layer_fusion
from granted.modeling_text_trunk import find_text_trunk


L, D = 5, 32
SIZE = {
    "hidden_size": D,
    "intermediate_size": 64,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "vocab_size": 99,
}


def llama(**options) -> GrantedModel:
    torch.manual_seed(0)
    model = GrantedModel(GrantedConfig(encoder_config=LlamaConfig(**SIZE, num_key_value_heads=2), **options)).eval()
    torch.nn.init.normal_(model.fusion.weights)
    return model


def frozen(model: GrantedModel) -> GrantedModel:
    model.encoder.requires_grad_(False)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 7 tokens: whole, padded right, padded left."""
    attention_mask = torch.ones(3, 7, dtype=torch.long)  # (3, 7)
    attention_mask[1, 4:] = 0
    attention_mask[2, :3] = 0
    return torch.randint(3, 99, (3, 7)), attention_mask


def stacked(model: GrantedModel, input_ids, attention_mask) -> torch.Tensor:
    """All layers (B, L, N, D), zeros at padding."""
    output = model.text_trunk(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    layers = torch.stack(output.hidden_states[1:], dim=1)
    return layers.masked_fill(~attention_mask.bool()[:, None, :, None], 0)


def gradient(model: GrantedModel, inputs, upstream, **options) -> torch.Tensor:
    """Gradient of the layer weights for dL/dc = upstream."""
    model.zero_grad()
    (features,) = model.fuse(*inputs, **options)
    (features * upstream).sum().backward()
    return model.fusion.weights.grad.clone()


# -------------------------------------------------------------------------------------------------------- closed forms


def test_zero_weights_give_the_mean_of_the_normalised_layers():
    hidden = torch.randn(2, L, 3, D)
    expected = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(LayerFusion("learned", L)(hidden), expected.mean(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(LayerFusion("norm_avg", L)(hidden), expected.mean(1), atol=1e-6, rtol=1e-5)


def test_learned_weights_are_softmaxed_and_multiply_the_normalised_layers():
    fusion = LayerFusion("learned", 2, eps=0.5)
    fusion.weights.data = torch.tensor([0.0, 1.0]).log1p()  # softmax of log 1 and log 2: 1/3 and 2/3
    torch.testing.assert_close(fusion.layer_weights(), torch.tensor([1 / 3, 2 / 3]))
    hidden = torch.tensor([[[[1.0, 3.0]], [[4.0, 0.0]]]])  # (1, 2, 1, 2), variances 1 and 4
    expected = (torch.tensor([-1.0, 1.0]) / 1.5**0.5 + 2 * torch.tensor([2.0, -2.0]) / 4.5**0.5) / 3
    torch.testing.assert_close(fusion(hidden), expected[None, None])


def test_avg_is_the_mean_of_the_raw_layers_and_single_is_one_of_them():
    hidden = torch.randn(2, L, 3, D)
    torch.testing.assert_close(LayerFusion("avg", L)(hidden), hidden.mean(1))
    assert torch.equal(LayerFusion("single", L)(hidden), hidden[:, -1])
    assert torch.equal(LayerFusion("single", L, layer_index=0)(hidden), hidden[:, 0])
    assert torch.equal(LayerFusion("single", L, layer_index=-2)(hidden), hidden[:, -2])


@pytest.mark.parametrize("fusion", ["learned", "norm_avg", "avg"])
def test_a_subset_of_layers_is_the_fusion_of_that_subset_alone(fusion):
    hidden = torch.randn(2, L, 3, D)
    part, whole = LayerFusion(fusion, L, layers=[0, -2]), LayerFusion(fusion, 2)
    if fusion == "learned":
        part.weights.data = whole.weights.data = torch.tensor([0.3, -0.7])
    torch.testing.assert_close(part(hidden), whole(hidden[:, [0, L - 2]]))
    assert part.layer_weights()[[1, 2, 4]].eq(0).all() and torch.isclose(part.layer_weights().sum(), torch.ones(()))


def test_layers_beside_each_other_are_in_the_order_asked_for():
    hidden = torch.randn(2, L + 1, 3, D)
    first, fourth, embeddings = hidden[:, 1], hidden[:, 4], hidden[:, 0]  # (2, 3, D) each
    options = {"num_layers": L, "layers": [3, 0], "embeddings": True}
    assert torch.equal(LayerFusion("concat", **options)(hidden), torch.cat([embeddings, fourth, first], dim=-1))
    assert torch.equal(LayerFusion("stack", **options)(hidden), torch.stack([embeddings, fourth, first], dim=1))
    channels = torch.stack([embeddings, fourth, first], dim=-1).flatten(2)  # (2, 3, 3 * D)
    assert torch.equal(LayerFusion("interleave", **options)(hidden), channels)


def test_the_norms_of_a_layer_are_their_formulas():
    hidden = torch.randn(2, 1, 3, D)
    mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
    one = hidden[:, 0]

    def normed(norm):
        return LayerFusion("avg", 1, layer_norm=norm, eps=0.1)(hidden, mask)

    assert torch.equal(normed("none"), one) and torch.equal(normed("auto"), one)
    torch.testing.assert_close(normed("layer_norm"), F.layer_norm(one, (D,), eps=0.1))
    torch.testing.assert_close(normed("rms_norm"), one / (one.square().mean(-1, keepdim=True) + 0.1).sqrt())
    torch.testing.assert_close(
        normed("token_std"), (one - one.mean(-1, keepdim=True)) / (one.std(-1, keepdim=True) + 0.1)
    )
    for text, real in zip(range(2), (one[0], one[1, 1:])):  # (N, D), without padding
        expected = 8 * (one[text] - real.sum() / (real.numel() + 0.1)) / (real.max() - real.min() + 0.1)
        torch.testing.assert_close(normed("range")[text], expected)


def test_signed_weights_start_as_norm_avg_and_may_be_negative():
    hidden = torch.randn(2, L, 3, D)
    fusion = LayerFusion("signed", L)
    torch.testing.assert_close(fusion(hidden), LayerFusion("norm_avg", L)(hidden))
    fusion.weights.data = torch.tensor([1.0, 0, 0, 0, -2.0])
    normed = F.layer_norm(hidden, (D,))
    torch.testing.assert_close(fusion(hidden), normed[:, 0] - 2 * normed[:, 4])


@pytest.mark.parametrize("fusion", ["learned", "signed"])
def test_several_outputs_are_as_many_fusions_and_equal_rows_give_one_of_them_to_the_bit(fusion):
    hidden, weights = torch.randn(2, L, 3, D), torch.randn(2, L)
    several, alone = LayerFusion(fusion, L, num_outputs=2), LayerFusion(fusion, L)
    several.weights.data = weights
    fused = several(hidden)  # (2, 2, 3, D)
    for k in range(2):
        alone.weights.data = weights[k]
        assert torch.equal(fused[:, k], alone(hidden))
    assert several.layer_weights().shape == (2, L)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fusion": "mean", "num_layers": L}, "expected one of 'learned', 'signed', 'norm_avg', 'avg'"),
        ({"fusion": "single", "num_layers": L, "layer_index": L}, "expected -5 to 4"),
        ({"fusion": "avg", "num_layers": L, "layers": [7]}, "expected -5 to 4"),
        ({"fusion": "avg", "num_layers": L, "layers": [4, -1]}, "none twice"),
        ({"fusion": "avg", "num_layers": L, "layers": []}, "at least one layer"),
        ({"fusion": "single", "num_layers": L, "layers": [1]}, "layer_index alone"),
        ({"fusion": "single", "num_layers": L, "embeddings": True}, "a fusion of several layers"),
        ({"fusion": "concat", "num_layers": L, "num_outputs": 3}, "one of learned, signed"),
        ({"fusion": "learned", "num_layers": L, "num_outputs": 0}, "at least 1"),
        ({"fusion": "avg", "num_layers": L, "layer_norm": "batch"}, "expected one of 'auto', 'none', 'layer_norm'"),
    ],
)
def test_a_wrong_fusion_raises_and_names_what_is_legal(arguments, message):
    with pytest.raises(ValueError, match=message):
        LayerFusion(**arguments)


def test_a_stack_with_the_embeddings_in_it_raises():
    with pytest.raises(ValueError, match="without the embeddings"):
        LayerFusion("avg", L)(torch.randn(1, L + 1, 3, D))


# ---------------------------------------------------------------------------------------------- streamed and gradients


def test_streamed_is_stacked():
    model, inputs = llama(), batch()
    fusions = [model.fusion, LayerFusion("norm_avg", L), LayerFusion("avg", L), LayerFusion("single", L, 1)]
    with torch.no_grad():
        stack = stacked(model, *inputs)
        for fusion, fused in zip(fusions, model.fuse(*inputs, fusions)):
            torch.testing.assert_close(fused, fusion(stack), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", ["auto", "none", "rms_norm", "token_std", "range"])
@pytest.mark.parametrize("fusion", ["learned", "signed", "concat", "interleave", "stack"])
def test_every_fusion_streams_what_it_gives_from_a_stack(fusion, norm):
    """With chosen layers, embeddings and several outputs, and in the model: zeros at padding, the width it says."""
    inputs = batch()
    options = {"layers": [3, 0], "embeddings": True, "layer_norm": norm}
    several = {"num_outputs": 3} if fusion in ("learned", "signed") else {}
    torch.manual_seed(1)
    model = GrantedModel(
        GrantedConfig(encoder_config=LlamaConfig(**SIZE, num_key_value_heads=2), fusion=fusion, **options, **several)
    ).eval()
    if several:
        torch.nn.init.normal_(model.fusion.weights)
    with torch.no_grad():
        output = model.text_trunk(*inputs, output_hidden_states=True)
        expected = model.fusion(torch.stack(output.hidden_states, dim=1), inputs[1])
        features = model(*inputs).last_hidden_state
    pad = ~inputs[1].bool().unsqueeze(-1)  # (3, 7, 1)
    pad = pad if expected.ndim == 3 else pad.unsqueeze(1)
    torch.testing.assert_close(features, expected.masked_fill(pad, 0), atol=1e-5, rtol=1e-5)
    assert features.shape[-1] == model.config.hidden_size
    assert features.shape[1:-2] == ((3,) if several or fusion == "stack" else ())


@pytest.mark.parametrize("fusion", ["learned", "signed"])
def test_several_outputs_get_the_exact_gradient_of_their_weights(fusion):
    model, inputs = frozen(llama(fusion=fusion, num_outputs=3, embeddings=True)), batch()
    upstream = torch.randn(3, 3, 7, D)  # (B, K, N, D)
    recomputed = gradient(model, inputs, upstream)
    torch.testing.assert_close(recomputed, gradient(model, inputs, upstream, recompute=False), atol=1e-5, rtol=1e-5)
    assert recomputed.shape == (3, L + 1) and recomputed.abs().min() > 0


def test_the_recomputed_gradient_is_the_stored_one_and_that_of_autograd_through_a_stack():
    model, inputs = frozen(llama()), batch()
    upstream = torch.randn(3, 7, D)
    recomputed = gradient(model, inputs, upstream)
    stored = gradient(model, inputs, upstream, recompute=False)
    model.zero_grad()
    padding = ~inputs[1].bool().unsqueeze(-1)
    (model.fusion(stacked(model, *inputs)).masked_fill(padding, 0) * upstream).sum().backward()
    torch.testing.assert_close(recomputed, stored, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recomputed, model.fusion.weights.grad, atol=1e-5, rtol=1e-5)
    assert recomputed.abs().max() > 0.1
    trainable = gradient(llama(), inputs, upstream)
    torch.testing.assert_close(recomputed, trainable, atol=1e-5, rtol=1e-5)


def test_several_fusions_of_one_run_get_each_their_own_gradient():
    model, inputs = frozen(llama()), batch()
    part = LayerFusion("learned", L, layers=[1, 3])
    fusions = [model.fusion, LayerFusion("norm_avg", L), part, LayerFusion("learned", L).requires_grad_(False)]
    upstream = torch.randn(4, 3, 7, D)
    features = torch.stack(model.fuse(*inputs, fusions))
    (features * upstream).sum().backward()
    recomputed = model.fusion.weights.grad.clone(), part.weights.grad.clone()
    model.zero_grad()
    part.zero_grad()
    padding = ~inputs[1].bool().unsqueeze(-1)
    layers = stacked(model, *inputs)
    features = torch.stack([fusion(layers) for fusion in fusions])
    (features.masked_fill(padding, 0) * upstream).sum().backward()
    torch.testing.assert_close(recomputed[0], model.fusion.weights.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recomputed[1], part.weights.grad, atol=1e-5, rtol=1e-5)
    assert fusions[3].weights.grad is None


@pytest.mark.parametrize("recompute", [True, False])
def test_nan_at_padding_reaches_neither_the_output_nor_a_gradient(recompute):
    model, inputs = frozen(llama()), batch()
    upstream = torch.randn(3, 7, D)
    clean = gradient(model, inputs, upstream, recompute=recompute)
    padding = ~inputs[1].bool().unsqueeze(-1)
    trunk, layers = find_text_trunk(model.encoder)
    model.fuse(*inputs)
    for module in [*layers[:-1], trunk]:  # what a layer shows is replaced, what the next one reads is not

        def poison(module, args, output):
            if isinstance(output, torch.Tensor):
                return output
            output.last_hidden_state = output.last_hidden_state.masked_fill(padding, torch.nan)
            return output

        module.register_forward_hook(poison)
    assert stacked_is_nan(model, inputs, padding)
    assert model(*inputs).last_hidden_state.isfinite().all()
    torch.testing.assert_close(gradient(model, inputs, upstream, recompute=recompute), clean, atol=1e-5, rtol=1e-5)


def stacked_is_nan(model, inputs, padding) -> bool:
    output = model.text_trunk(input_ids=inputs[0], attention_mask=inputs[1]).last_hidden_state
    return bool(output[padding.squeeze(-1)].isnan().all())


def test_nan_at_padding_does_not_reach_the_gradients_of_a_trainable_trunk():
    model, inputs = llama(), batch()
    padding = ~inputs[1].bool().unsqueeze(-1)

    def poison(module, args, output):
        output.last_hidden_state = output.last_hidden_state.masked_fill(padding, torch.nan)
        return output

    model(*inputs)
    model.encoder.register_forward_hook(poison)
    model(*inputs).last_hidden_state.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_chunks_change_nothing(monkeypatch):
    model, inputs = frozen(llama()), batch()
    upstream = torch.randn(3, 7, D)
    whole = model(*inputs).last_hidden_state.detach(), gradient(model, inputs, upstream)
    monkeypatch.setattr(modeling_layer_fusion, "FUSION_CHUNK", 4)
    torch.testing.assert_close(model(*inputs).last_hidden_state.detach(), whole[0], atol=0, rtol=0)
    torch.testing.assert_close(gradient(model, inputs, upstream), whole[1], atol=1e-5, rtol=1e-5)


def test_a_bf16_trunk_is_fused_in_fp32():
    model, inputs = frozen(llama()), batch()
    model.encoder.to(torch.bfloat16)
    stack = stacked(model, *inputs)
    assert stack.dtype == torch.bfloat16
    (features,) = model.fuse(*inputs)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, model.fusion(stack.float()), atol=1e-6, rtol=1e-5)
    exact = (F.layer_norm(stack.float(), (D,)) * model.layer_weights[:, None, None]).sum(1)
    torch.testing.assert_close(features, exact, atol=1e-6, rtol=1e-5)


def test_the_second_run_is_the_first_one_again_under_autocast_too():
    model, inputs = frozen(llama()), batch()
    upstream = torch.randn(3, 7, D)
    seen = []
    _, layers = find_text_trunk(model.encoder)
    layers[1].register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    model(*inputs)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (features,) = model.fuse(*inputs)
    (features * upstream).sum().backward()  # outside autocast, as a training loop does
    assert len(seen) == 2 and torch.equal(*seen)


# ----------------------------------------------------------------------------------------------------------- memory


def alive_layers(model: GrantedModel, run) -> int:
    """Most layer outputs alive when a layer has just run."""
    _, layers = find_text_trunk(model.encoder)
    outputs: list[weakref.ref] = []
    most = 0

    def count(module, args, output):
        nonlocal most
        outputs.append(weakref.ref(output))
        most = max(most, sum(ref() is not None for ref in outputs))

    handles = [layer.register_forward_hook(count) for layer in layers]
    run()
    for handle in handles:
        handle.remove()
    assert len(outputs) >= L
    return most


def test_at_most_two_layers_are_alive_at_any_time_and_a_stack_keeps_all():
    model, inputs = frozen(llama()), batch()
    model(*inputs)
    assert alive_layers(model, lambda: model.fuse(*inputs)[0].sum().backward()) <= 2
    with torch.no_grad():
        assert alive_layers(model, lambda: model(*inputs)) <= 2
    assert alive_layers(model, lambda: stacked(model, *inputs)) == L


def test_nothing_of_the_size_of_a_layer_is_saved_for_backward_over_a_frozen_trunk():
    model, inputs = frozen(llama()), batch()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        features = model.fuse(*inputs)
    assert features[0].requires_grad
    assert not any(tensor.is_floating_point() and tensor.numel() >= 3 * 7 * D for tensor in saved)


# -------------------------------------------------------------------------------------------------- modes and training


def test_over_a_frozen_trunk_the_layer_weights_alone_get_a_gradient():
    model = frozen(llama())
    model(*batch()).last_hidden_state.square().mean().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"fusion.weights"}


def test_a_trainable_trunk_gets_the_gradients_of_autograd():
    model, inputs = llama(), batch()
    upstream = torch.randn(3, 7, D)
    gradient(model, inputs, upstream)
    streamed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    padding = ~inputs[1].bool().unsqueeze(-1)
    (model.fusion(stacked(model, *inputs)).masked_fill(padding, 0) * upstream).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(streamed[name], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("learning", [True, False])
def test_a_frozen_trunk_is_read_without_dropout_and_keeps_its_modes(learning):
    config = BertConfig(**SIZE, hidden_dropout_prob=0.5)
    model = frozen(GrantedModel(GrantedConfig(encoder_config=config)))
    inputs = batch()
    expected = model.eval()(*inputs).last_hidden_state.detach()
    model.train()
    model.encoder.embeddings.eval()
    if not learning:
        model.freeze_layer_weights()
    modes = {name: module.training for name, module in model.named_modules()}
    features = model(*inputs).last_hidden_state
    assert torch.equal(features.detach(), expected)
    if learning:
        features.sum().backward()
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_trainable_trunk_in_training_mode_drops_out():
    model = GrantedModel(GrantedConfig(encoder_config=BertConfig(**SIZE, hidden_dropout_prob=0.5))).train()
    inputs = batch()
    assert not torch.equal(model(*inputs).last_hidden_state, model(*inputs).last_hidden_state)


def test_a_trunk_made_trainable_between_forward_and_backward_is_refused():
    model = frozen(llama())
    features = model(*batch()).last_hidden_state
    model.encoder.requires_grad_(True)
    with pytest.raises(RuntimeError, match="made trainable between forward and backward"):
        features.sum().backward()


def test_the_second_run_sees_the_inputs_of_the_first_whatever_happens_to_them_in_between():
    model, inputs = frozen(llama()), batch()
    upstream = torch.randn(3, 7, D)
    expected = gradient(model, inputs, upstream)
    model.zero_grad()
    (features,) = model.fuse(*inputs)
    inputs[0].fill_(5)
    inputs[1].fill_(0)
    (features * upstream).sum().backward()
    assert torch.equal(model.fusion.weights.grad, expected)


@pytest.mark.parametrize("where", ["probe", "run"])
def test_no_hook_stays_after_an_error_inside_the_trunk(where):
    model, inputs = frozen(llama()), batch()
    stacked(model, *inputs)  # transformers sets hooks of its own when it is first asked for hidden states
    if where == "run":
        model(*inputs)
    _, layers = find_text_trunk(model.encoder)

    def fail(module, args):
        raise KeyboardInterrupt

    handle = layers[2].register_forward_pre_hook(fail)
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    with pytest.raises(KeyboardInterrupt):
        model(*inputs)
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == before
    handle.remove()
    torch.testing.assert_close(model(*inputs).last_hidden_state, frozen(llama())(*inputs).last_hidden_state)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(use_reentrant):
    model, inputs = llama().train(), batch()
    upstream = torch.randn(3, 7, D)
    gradient(model, inputs, upstream)
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    _, layers = find_text_trunk(model.encoder)
    layers[1].self_attn.register_forward_hook(lambda *_: calls.append(1))
    if use_reentrant and Version(transformers.__version__) < Version("5.23"):
        with pytest.raises(ValueError, match="use_reentrant=False"):
            gradient(model, inputs, upstream)
        return
    gradient(model, inputs, upstream)
    assert len(calls) == 2, "the layers were not checkpointed"
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_fusion_made_for_another_encoder_raises():
    with pytest.raises(ValueError, match="made for another encoder"):
        llama().fuse(*batch(), [LayerFusion("avg", L + 1)])
