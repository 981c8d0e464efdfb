"""Configurations: complete, round-tripping, and refusing what is not legal in words."""

import json

import pytest
from transformers import AutoConfig, BertConfig, LlamaConfig, T5Config

from granted import ContextAggregatorConfig, GrantedConfig


def llama() -> LlamaConfig:
    return LlamaConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)


def test_the_default_is_qwen3_vl_with_its_layers_learned():
    config = GrantedConfig()
    assert config.encoder_config.model_type == "qwen3_vl"
    assert (config.hidden_size, config.num_hidden_layers) == (4096, 32)
    assert (config.fusion, config.last_layer, config.layer_norm_eps) == ("learned", "as_reported", 1e-5)
    assert (config.layers, config.layer_index, config.max_sequence_length) == (None, -1, 512)
    assert config.fused_hidden_states and not config.keep_vision


def test_every_field_survives_saving(tmp_path):
    fields = {
        "fusion": "avg",
        "layer_index": 1,
        "layers": [0, -1],
        "last_layer": "pre_norm",
        "layer_norm_eps": 1e-3,
        "projection_dim": 7,
        "projection_trained": True,
        "prompt_template": "<|im_start|>{prompt}",
        "template_drop_tokens": 3,
        "template_keep_first": True,
        "max_sequence_length": 99,
        "padding_side": "left",
        "output_dtype": "bfloat16",
        "keep_vision": True,
        "fused_hidden_states": False,
        "encoder_name_or_path": "some/encoder",
        "encoder_revision": "abc",
        "encoder_in_checkpoint": False,
    }
    GrantedConfig(encoder_config=llama(), **fields).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is GrantedConfig
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert type(loaded.encoder_config) is LlamaConfig and loaded.encoder_config.num_hidden_layers == 3
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "granted"


def test_width_and_layers_are_those_of_the_text_trunk():
    t5 = T5Config(d_model=24, num_layers=5, num_decoder_layers=2, num_heads=2)
    assert (GrantedConfig(encoder_config=t5).hidden_size, GrantedConfig(encoder_config=t5).num_hidden_layers) == (
        24,
        5,
    )
    assert GrantedConfig(encoder_config=llama(), projection_dim=10).hidden_size == 10
    bert = GrantedConfig(encoder_config={"model_type": "bert", "hidden_size": 36, "num_attention_heads": 4})
    assert type(bert.encoder_config) is BertConfig and bert.hidden_size == 36


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fusion": "mean"}, "got fusion='mean', expected one of 'learned', 'signed', 'norm_avg', 'avg'"),
        ({"last_layer": "normed"}, "expected one of 'as_reported', 'pre_norm', 'post_norm'"),
        ({"layer_index": 3}, "got layer_index=3, expected -3 to 2"),
        ({"layers": [0, 3]}, "got layer_index=3, expected -3 to 2"),
        ({"layers": [0, -3]}, "none twice"),
        ({"layers": []}, "at least one layer"),
        ({"fusion": "single", "layers": [0]}, "expected layer_index alone"),
        ({"padding_side": "both"}, "expected one of 'right', 'left'"),
        ({"output_dtype": "fp32"}, "expected one of None, 'float32', 'bfloat16', 'float16'"),
        ({"max_sequence_length": 0}, "got max_sequence_length=0, expected at least 1"),
        ({"max_sequence_length": 8, "template_drop_tokens": 8}, "got max_sequence_length=8, expected at least 9"),
        ({"template_drop_tokens": -1}, "expected at least 0"),
        ({"template_keep_first": True}, "expected template_drop_tokens with it"),
        ({"split_quotes": True}, "got split_quotes=True with add_special_tokens=True, expected one of them"),
        (
            {"split_quotes": True, "add_special_tokens": False, "prompt_template": "{prompt}{prompt}"},
            "with several '{prompt}' in prompt_template, expected one",
        ),
        ({"fill_to_multiple_of": 0}, "got fill_to_multiple_of=0, expected at least 1"),
        ({"fill_to_multiple_of": 16, "max_sequence_length": 9}, "got max_sequence_length=9, expected at least 16"),
        ({"fill_to_multiple_of": 16, "template_drop_tokens": 2}, "expected one of them"),
        ({"max_sequence_length": 4, "template_drop_tokens": 3, "template_keep_first": True}, "expected at least 5"),
        ({"projection_dim": 0}, "expected at least 1"),
        ({"prompt_template": "an image of"}, "expected a text with '{prompt}' in it"),
        ({"encoder_config": {"model_type": "no_such_model"}}, "model_type='no_such_model'"),
        ({"encoder_config": {}}, "model_type=None"),
        ({"encoder_config": "bert"}, "got encoder_config='bert', expected PreTrainedConfig or dict or None"),
        ({"encoder_config": {"model_type": "llama", "hidden_size": "wide"}}, "expected one of type llama"),
        ({"fusoin": "norm_avg"}, "got the unknown option fusoin, expected some of add_special_tokens, embeddings, "),
        ({"token": "hf_secret"}, "got the unknown option token"),
        ({"layer_norm_eps": -1.0}, "got layer_norm_eps=-1.0, expected more than 0"),
        ({"layer_norm_eps": 0}, "got layer_norm_eps=0, expected more than 0"),
        ({"layer_norm_eps": float("nan")}, "got layer_norm_eps=nan, expected a finite number"),
        ({"layer_norm_eps": float("inf")}, "expected a finite number"),
        ({"layer_norm_eps": True}, "expected a finite number"),
        ({"max_sequence_length": True}, "got max_sequence_length=True, expected a whole number"),
        ({"max_sequence_length": 16.0}, "got max_sequence_length=16.0, expected a whole number"),
        ({"projection_dim": 1.5}, "got projection_dim=1.5, expected a whole number or None"),
        ({"layer_index": False}, "got layer_index=False, expected a whole number"),
        ({"layers": [0, True]}, "expected a list of whole numbers or None"),
        ({"layers": "01"}, "expected a list of whole numbers or None"),
        ({"keep_vision": 1}, "got keep_vision=1, expected True or False"),
        ({"prompt_template": 3}, "got prompt_template=3, expected a text or None"),
        ({"encoder_in_checkpoint": False}, "expected encoder_name_or_path to say where it is"),
    ],
)
def test_a_wrong_value_raises_and_names_the_legal_ones(wrong, message):
    with pytest.raises(ValueError) as caught:
        GrantedConfig(**{"encoder_config": llama(), **wrong})
    assert message in str(caught.value)


def test_the_aggregator_has_the_width_of_its_encoder_unless_told_otherwise(tmp_path):
    assert ContextAggregatorConfig(encoder_hidden_size=64).hidden_size == 64
    config = ContextAggregatorConfig(
        64, hidden_size=32, num_heads=4, fusion="learned", num_layers=3, feature="learned"
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is ContextAggregatorConfig
    assert (loaded.hidden_size, loaded.num_heads, loaded.fusion, loaded.num_layers) == (32, 4, "learned", 3)
    assert (loaded.encoder_hidden_size, loaded.feature, loaded.rope_theta) == (64, "learned", 10000.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fusion": "mean", "num_layers": 3}, "expected one of None, 'learned'"),
        ({"fusion": "avg"}, "expected both or neither"),
        ({"num_layers": 3}, "expected both or neither"),
        ({"fusion": "single", "num_layers": 3, "layer_index": 3}, "expected -3 to 2"),
        ({"fusion": "norm_avg", "num_layers": 3, "layers": [0, 3]}, "expected -3 to 2"),
        ({"layers": [0]}, "got layers=[0] without a fusion"),
        ({"hidden_size": 36}, "choose a num_heads"),
        ({"num_blocks": 0}, "got num_blocks=0, expected at least 1"),
        ({"num_heads": 0}, "got num_heads=0, expected at least 1"),
        ({"num_heads": -8}, "got num_heads=-8, expected at least 1"),
        ({"hidden_size": 0}, "got hidden_size=0, expected at least 1"),
        ({"context_dim": True}, "got context_dim=True, expected a whole number"),
        ({"mlp_ratio": 4.0}, "got mlp_ratio=4.0, expected a whole number"),
        ({"rope_theta": 0.0}, "got rope_theta=0.0, expected more than 0"),
        ({"rope_theta": float("inf")}, "got rope_theta=inf, expected a finite number"),
        ({"layer_norm_eps": float("nan")}, "expected a finite number"),
        ({"num_head": 4}, "got the unknown option num_head, expected some of context_dim, "),
    ],
)
def test_a_wrong_aggregator_raises_and_names_what_is_legal(wrong, message):
    with pytest.raises(ValueError) as caught:
        ContextAggregatorConfig(**{"encoder_hidden_size": 64, **wrong})
    assert message in str(caught.value)


def test_what_transformers_itself_puts_into_a_configuration_is_no_unknown_option(tmp_path):
    theirs = {"use_cache": False, "pad_token_id": 0, "torch_dtype": "float32", "_name_or_path": "x", "num_labels": 2}
    GrantedConfig(encoder_config=llama(), architectures=["GrantedModel"], **theirs).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == 0
    assert GrantedConfig(encoder_config=llama(), layer_norm_eps=1).layer_norm_eps == 1  # a whole number is a number


def test_an_encoder_that_states_no_text_layers_is_refused():
    with pytest.raises(ValueError, match="of type encodec that states no number of text layers"):
        GrantedConfig(encoder_config={"model_type": "encodec"})
