"""Standardised features: mean 0 and deviation 1 on the calibration texts, zeros at padding, kept in the checkpoint."""

import pytest
import torch

from granted.modeling_granted import GrantedModel


TEXTS = ["a red cube on a blue sphere", "two black cats sleep under the old wooden table", "a bird"]


@pytest.fixture
def model(tiny_bert_folder):
    return GrantedModel.from_encoder(tiny_bert_folder, fusion="norm_avg", dtype=torch.float32)


def test_calibrated_features_have_mean_0_and_deviation_1(model):
    plain = torch.cat(model.encode(TEXTS))  # (N, D)
    model.calibrate(TEXTS)
    tokens = torch.cat(model.encode(TEXTS))  # (N, D)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(tokens.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(0, correction=0), torch.ones(tokens.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens, (plain - plain.mean(0)) / plain.std(0, correction=0), atol=1e-4, rtol=1e-4)
    model.calibrate(TEXTS)  # once more changes nothing: it looks at the features before
    torch.testing.assert_close(torch.cat(model.encode(TEXTS)), tokens)


def test_states_that_the_calibration_does_not_reach_are_named(tiny_bert_folder):
    model = GrantedModel.from_encoder(tiny_bert_folder, fusion="norm_avg", fused_hidden_states=False)
    with pytest.warns(UserWarning, match="hidden_states of this model stay the encoder's own"):
        model.calibrate(TEXTS)


def test_padding_stays_exactly_zero(model):
    model.calibrate(TEXTS)
    input_ids, mask = model.pad(model.tokenize(TEXTS))
    features = model(input_ids, mask).last_hidden_state  # (B, N, D)
    assert features[~mask.bool()].abs().max() == 0 and features[mask.bool()].abs().max() > 0


def test_a_checkpoint_keeps_what_was_calibrated(model, tmp_path):
    model.calibrate(TEXTS)
    model.save_pretrained(tmp_path / "saved")
    loaded = GrantedModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert loaded.config.standardize and loaded.standardization.mean.dtype == torch.float32
    torch.testing.assert_close(loaded.standardization.mean, model.standardization.mean)
    again = GrantedModel.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    for one, other in zip(again.encode(TEXTS), model.encode(TEXTS)):
        torch.testing.assert_close(one, other)


def test_what_a_cast_model_has_in_fp32_keeps_its_digits(tiny_bert_folder):
    model = GrantedModel.from_encoder(tiny_bert_folder, fusion="learned", dtype=torch.float32)
    torch.nn.init.normal_(model.fusion.weights)
    model.calibrate(TEXTS)
    exact = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    model.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16 and len(exact) == 3
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in exact.items())
    with pytest.raises(ValueError, match="got no text to calibrate on"):
        model.calibrate([])


def test_a_plain_encoder_is_not_standardised_without_texts(tiny_bert_folder):
    with pytest.raises(ValueError, match="calibrate"):
        GrantedModel.from_encoder(tiny_bert_folder, standardize=True)


def test_calibration_is_over_the_tokens_that_come_out(tiny_encoder_folder):
    template = {"prompt_template": "describe the image in detail . prompt : {prompt}", "template_drop_tokens": 9}
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg", **template)
    model.calibrate(TEXTS)
    tokens = torch.cat(model.encode(TEXTS))  # (N, D)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(tokens.shape[1]), atol=1e-5, rtol=0)


def test_calibration_reads_no_more_than_asked(tiny_encoder_folder):
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")
    with pytest.warns(UserWarning, match="longer than 4"):
        model.calibrate(TEXTS, max_sequence_length=4)
    with pytest.warns(UserWarning, match="longer than 4"):
        tokens = torch.cat(model.encode(TEXTS, max_sequence_length=4))  # (N, D)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(tokens.shape[1]), atol=1e-5, rtol=0)


def test_calibration_names_the_text_that_is_not_finite(tiny_encoder_folder):
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")
    model.get_input_embeddings().weight.data[model.tokenizer.convert_tokens_to_ids("bird")] = torch.nan
    with pytest.raises(ValueError, match="got NaN or infinite features for the text 'a bird'"):
        model.calibrate(TEXTS)
    assert not model.config.standardize


def test_a_channel_that_never_varies_is_only_centred(tiny_encoder_folder):
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="single", layer_index=0)
    channel = torch.tensor([3])
    model.encoder.layers[0].register_forward_hook(lambda *call: call[2].index_fill(-1, channel, 5.0), prepend=True)
    model.calibrate(TEXTS)
    assert (torch.cat(model.encode(TEXTS))[:, 3] == 0).all() and model.standardization.deviation[3] == 1
