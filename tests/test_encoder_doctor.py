"""The doctor of an encoder alone: what its table says of real families, and what is lost of prompts."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel

from granted import GrantedModel
from granted.encoding.encoder_doctor import describe, findings, last_state, load_for_doctor, pipelines_that_read, read
from granted.tests.test_pipeline_rules import PROMPTS, qwen3_vl


KNOWN = "a red cube on a blue sphere"


def losses(model: GrantedModel, *prompts: str) -> list[str]:
    return findings(model, [read(model, prompt) for prompt in prompts])


def fused(folder: str, **options) -> GrantedModel:
    return GrantedModel.from_encoder(folder, **options)


def test_a_plain_encoder_reads_as_much_as_it_and_its_tokenizer_allow(tiny_encoder_folder, tiny_bert_folder):
    _, llama, own = load_for_doctor(tiny_encoder_folder)
    rows = dict(describe(llama, own))
    assert not own and "fusion" not in rows
    assert rows["encoder"] == "LlamaModel, llama" and rows["layers"] == "4 of width 32"
    assert rows["weights"].startswith(f"{llama.num_parameters():,} parameters") and rows["weights"].endswith("float32")
    assert rows["reads"] == "at most 512 tokens, positions without an end, padding on the right"
    assert rows["pipelines"].startswith("hidream, hunyuan-video read a llama")
    llama.config.fill_to_multiple_of = 48
    assert dict(describe(llama, own))["reads"].startswith("at most 480 tokens"), "more than is read of a filled text"
    _, bert, own = load_for_doctor(tiny_bert_folder)
    rows = dict(describe(bert, own))
    assert rows["reads"].startswith("at most 64 tokens, 64 positions") and "pipelines" not in rows
    assert losses(llama, KNOWN, PROMPTS[0]) == []


def test_what_the_last_state_is_differs_between_families(tiny_encoder_folder, tiny_bert_folder, make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = CLIPTextModel(CLIPTextConfig(**size, vocab_size=len(tokenizer), max_position_embeddings=64)).eval()
    assert last_state(GrantedModel.from_loaded(clip, tokenizer)) == "before the final norm"
    assert last_state(fused(tiny_encoder_folder)) == "after the final norm"
    assert last_state(fused(tiny_bert_folder)) == "the last block's output, there is no final norm"


def test_a_saved_model_says_what_it_makes_of_the_states(tiny_encoder_folder, tmp_path):
    model = fused(
        tiny_encoder_folder,
        fusion="concat",
        layers=[0, -1],
        prompt_template="prompt : {prompt}",
        template_drop_tokens=3,
    )
    model.calibrate([KNOWN, PROMPTS[0]])
    model.save_pretrained(tmp_path)
    _, loaded, own = load_for_doctor(str(tmp_path))
    rows = dict(describe(loaded, own))
    assert own and rows["fusion"] == "states 1, 4, concat; standardised; no projection"
    assert rows["gives"] == "width 64" and rows["around a prompt"] == "'prompt : {prompt}'"
    assert rows["drops"] == "the first 3 tokens" and rows["last layer"] == "as_reported"
    assert losses(loaded, KNOWN) == []


def test_prompts_that_are_cut_and_words_that_are_unknown_are_found(tiny_encoder_folder):
    model = fused(tiny_encoder_folder, max_sequence_length=8)
    cut = read(model, f"{KNOWN} at night")
    assert (cut.tokens, cut.cut, cut.prompt_tokens, cut.unknown) == (10, 2, 9, 0)
    assert losses(model, KNOWN, f"{KNOWN} at night") == ["1 of 2 prompts are cut: 2 tokens are not read"]
    assert losses(model, "a purple cube") == ["1 of 3 tokens of the prompts (33.3%) are unknown"]


def test_tokens_that_are_dropped_with_a_shorter_template_are_found(tiny_encoder_folder):
    """An opening token and two of the template stand before a prompt."""
    model = fused(tiny_encoder_folder, prompt_template="prompt : {prompt}", template_drop_tokens=5)
    assert losses(model, KNOWN) == ["1 of 1 prompts lose 2 tokens, which are dropped with the template"]
    model = fused(tiny_encoder_folder, prompt_template="prompt : {prompt} , a blue sphere", template_drop_tokens=6)
    for count, prompt in enumerate(["cube", "red cube", "a red cube"], 1):
        assert read(model, prompt).dropped == count, f"{prompt!r} loses all of its tokens and no others"


def test_an_untrained_projection_and_features_that_are_no_numbers_are_found(tiny_encoder_folder):
    model = fused(tiny_encoder_folder, projection_dim=8)
    assert losses(model, KNOWN) == ["the projection to 8 is untrained: the encoder refuses to be used"]
    assert "projected to 8, untrained" in dict(describe(model, True))["fusion"]
    model = fused(tiny_encoder_folder)
    cube = model.tokenizer.convert_tokens_to_ids("cube")
    with torch.no_grad():
        model.get_input_embeddings().weight[cube] = torch.nan
    assert losses(model, "two dogs", KNOWN)[-1] == f"1 of 2 prompts have NaN or infinite features, {KNOWN!r} the first"


def test_an_unusual_way_of_reading_is_named(tiny_encoder_folder):
    options = {"add_special_tokens": False, "split_quotes": True, "text_cleaning": "strip"}
    rows = dict(describe(fused(tiny_encoder_folder, **options), True))
    assert {name: rows[name.replace("_", " ")] for name in options} == {
        name: str(value) for name, value in options.items()
    }
    assert not {"split quotes", "text cleaning"} & dict(describe(fused(tiny_encoder_folder), True)).keys()


def test_pipelines_are_named_by_the_type_of_their_encoder_and_its_layers(make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)

    def names(layers: int) -> list[str]:
        return pipelines_that_read(GrantedModel.from_loaded(AutoModel.from_config(qwen3_vl(layers)), tokenizer))

    shallow = ["dreamlite", "joyimage-edit", "prx-pixel", "qwen-image-2.1"]
    assert names(4) == shallow and names(36) == sorted([*shallow, "ideogram4", "krea2", "nucleus-image"])


def test_the_command_prints_tables_and_exits_with_1_where_something_is_lost(tiny_encoder_folder, tmp_path, granted):
    code, out, error = granted("doctor", tiny_encoder_folder)
    assert code == 0, error
    assert "LlamaModel" in out and "after the final norm" in out and "nothing is lost" in out
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\na purple cube\n\n")
    code, out, _ = granted("doctor", f"mine={tiny_encoder_folder}", "--prompts", prompts)
    assert code == 1 and "lost: 1 of 3 tokens of the prompts (33.3%) are unknown" in out and "mine" in out


def test_an_encoder_whose_first_token_is_no_number_is_lost_and_no_bad_input(tiny_encoder_folder, tmp_path, granted):
    encoder = AutoModel.from_pretrained(tiny_encoder_folder)
    torch.nn.init.constant_(encoder.layers[1].mlp.down_proj.weight, torch.nan)
    encoder.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_encoder_folder).save_pretrained(tmp_path)
    code, out, _ = granted("doctor", tmp_path)
    assert code == 1 and "lost: got NaN or infinite features" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at-all"], "expected a text encoder with its tokenizer: check the path or Hub id; or a diffusers"),
        (["{encoder}", "--component", "text_encoder_2"], "got --component text_encoder_2 for an encoder alone"),
        (["{encoder}", "--device-map", "meta"], "got device_map meta"),
        (["{encoder}", "--last-layer", "middle"], "got last_layer='middle'"),
    ],
)
def test_what_cannot_be_looked_at_is_one_clear_line(arguments, message, tiny_encoder_folder, granted):
    code, _, error = granted("doctor", *(one.format(encoder=tiny_encoder_folder) for one in arguments))
    assert code == 2 and message in error and error.count("\n") == 1
