"""Which hidden state is what, family by family: the trunk, its layers and its last one, at tiny size."""

import functools
from dataclasses import dataclass

import pytest
import torch
from transformers import (
    AltCLIPConfig,
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    DebertaV2Config,
    Gemma3Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    Mistral3Config,
    MllamaConfig,
    MllamaTextConfig,
    ModernBertConfig,
    OPTConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SiglipConfig,
    T5Config,
    T5EncoderModel,
    T5Gemma2Config,
    T5Gemma2Model,
    T5GemmaConfig,
    T5GemmaModel,
    T5Model,
    UMT5Config,
    UMT5EncoderModel,
    UMT5Model,
    ViTConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from granted import GrantedConfig, GrantedModel, LayerFusion
from granted.encoding.families import encoder_family
from granted.encoding.features import new_aggregator
from granted.modeling_text_trunk import find_text_trunk
from granted.utils.errors import InputError


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "vocab_size": 99}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 40,
}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


@dataclass
class Family:
    """What is promised of a family."""

    config: PreTrainedConfig
    trunk: str  # class of the text trunk
    reports_normed: bool  # hidden_states[-1] is after the final norm
    final_norm: str | None  # name of the final norm within the trunk; None: there is none
    other_parameters: bool = False  # the plain model has parameters besides the trunk's: a tower or a decoder


def llava() -> PreTrainedConfig:
    return LlavaConfig(text_config=LlamaConfig(**DECODER), vision_config=CLIPVisionConfig(**VISION), image_token_id=98)


FAMILIES = {
    "qwen3_vl": Family(
        Qwen3VLConfig(
            text_config={**DECODER, "rope_parameters": {**MROPE, "mrope_interleaved": True}},
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 4,
                "out_hidden_size": 32,
                "deepstack_visual_indexes": [0],
            },
        ),
        "Qwen3VLTextModel",
        True,
        "norm",
        True,
    ),
    "qwen2_5_vl": Family(
        Qwen2_5_VLConfig(
            text_config={**DECODER, "rope_parameters": MROPE},
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 4,
                "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
            },
        ),
        "Qwen2_5_VLTextModel",
        True,
        "norm",
        True,
    ),
    "mistral3": Family(
        Mistral3Config(
            text_config={**DECODER, "model_type": "mistral"},
            vision_config=PixtralVisionConfig(**{**VISION, "head_dim": 8}),
            vision_feature_layer=-1,
        ),
        "MistralModel",
        True,
        "norm",
        True,
    ),
    "internvl": Family(
        InternVLConfig(
            text_config={**DECODER, "model_type": "qwen3"},
            vision_config={**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
        ),
        "Qwen3Model",
        True,
        "norm",
        True,
    ),
    "gemma3": Family(Gemma3Config(text_config=DECODER, vision_config=VISION), "Gemma3TextModel", True, "norm", True),
    "gemma3_text": Family(Gemma3TextConfig(**DECODER), "Gemma3TextModel", True, "norm"),
    "llava": Family(llava(), "LlamaModel", True, "norm", True),
    "qwen3": Family(Qwen3Config(**DECODER), "Qwen3Model", True, "norm"),
    "llama": Family(LlamaConfig(**DECODER), "LlamaModel", True, "norm"),
    # OPT registers its final norm before its layers.
    "opt": Family(
        OPTConfig(**OPT),
        "OPTModel",
        True,
        "decoder.final_layer_norm",
    ),
    "t5": Family(T5Config(**T5), "T5EncoderModel", True, "encoder.final_layer_norm", True),
    # Its encoder sees, too: the text model is inside it.
    "t5gemma2": Family(
        T5Gemma2Config(encoder={"text_config": DECODER, "vision_config": VISION}, decoder=DECODER),
        "T5Gemma2TextEncoder",
        True,
        "norm",
        True,
    ),
    "umt5": Family(UMT5Config(**T5), "UMT5Stack", True, "final_layer_norm", True),
    "clip_text": Family(CLIPTextConfig(**TEXT), "CLIPTextModel", False, "final_layer_norm"),
    "clip": Family(
        CLIPConfig(text_config=TEXT, vision_config=VISION), "CLIPTextModel", False, "final_layer_norm", True
    ),
    # The trunk's own output has another width, 48.
    "altclip": Family(
        AltCLIPConfig(text_config={**TEXT, "project_dim": 48, "max_position_embeddings": 40}, vision_config=VISION),
        "AltCLIPTextModel",
        False,
        "pre_LN",
        True,
    ),
    "siglip": Family(
        SiglipConfig(text_config=TEXT, vision_config=VISION), "SiglipTextModel", False, "final_layer_norm", True
    ),
    "t5gemma": Family(T5GemmaConfig(encoder=DECODER, decoder=DECODER), "T5GemmaEncoder", True, "norm", True),
    "bert": Family(BertConfig(**TEXT), "BertModel", False, None),
    "xlm_roberta": Family(XLMRobertaConfig(**TEXT, max_position_embeddings=40), "XLMRobertaModel", False, None),
    # A norm that is registered after the layers, but reads position embeddings and not their output.
    "deberta_v2": Family(
        DebertaV2Config(
            **TEXT, relative_attention=True, norm_rel_ebd="layer_norm", position_buckets=8, pos_att_type=["c2p", "p2c"]
        ),
        "DebertaV2Model",
        False,
        None,
    ),
    "modernbert": Family(
        ModernBertConfig(**TEXT, cls_token_id=1, sep_token_id=2), "ModernBertModel", True, "final_norm"
    ),
}


ENCODER_DECODERS = {
    "T5": lambda: T5Config(**T5),
    "UMT5": lambda: UMT5Config(**T5),
    "T5Gemma": lambda: T5GemmaConfig(encoder=DECODER, decoder=DECODER),
    "T5Gemma2": lambda: FAMILIES["t5gemma2"].config,
}


@pytest.fixture(params=FAMILIES, ids=str)
def name(request) -> str:
    return request.param


@pytest.fixture
def family(name) -> Family:
    return FAMILIES[name]


@functools.cache
def plain_model(name: str) -> GrantedModel:
    return build(FAMILIES[name])


def build(family: Family, **options) -> GrantedModel:
    torch.manual_seed(0)
    model = GrantedModel(GrantedConfig(encoder_config=family.config, **options)).eval()
    with torch.no_grad():  # norms start as the identity but for the scale: make every one visible
        for parameter in model.encoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def read(model, *inputs) -> torch.Tensor:
    return model(*inputs).last_hidden_state


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    input_ids = torch.randint(3, 99, (2, 7))  # (2, 7)
    attention_mask = torch.ones(2, 7, dtype=torch.long)  # (2, 7)
    attention_mask[1, 4:] = 0
    input_ids[1, 4:] = 0
    return input_ids, attention_mask


def reported_layers(trunk, input_ids, attention_mask) -> tuple[torch.Tensor, ...]:
    """What transformers answers: L tensors (B, N, D) with zeros at padding."""
    with torch.no_grad():
        output = trunk(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    padding = ~attention_mask.bool().unsqueeze(-1)
    return tuple(hidden.masked_fill(padding, 0) for hidden in output.hidden_states[1:])


def last_block_output(trunk, input_ids, attention_mask) -> torch.Tensor:
    _, layers = find_text_trunk(trunk)
    seen = []

    def hook(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handle = layers[-1].register_forward_hook(hook)
    with torch.no_grad():
        trunk(input_ids=input_ids, attention_mask=attention_mask)
    handle.remove()
    return seen[0]


def test_the_text_trunk_and_its_layers_are_found(name, family):
    model = plain_model(name)
    assert type(model.text_trunk).__name__ == family.trunk
    assert len(find_text_trunk(model.encoder)[1]) == model.config.num_hidden_layers == 3
    assert model.config.hidden_size == 32


def test_streamed_features_are_those_of_hidden_states_without_the_embeddings(name):
    model = plain_model(name)
    input_ids, attention_mask = batch()
    layers = reported_layers(model.text_trunk, input_ids, attention_mask)
    assert len(layers) == 3
    learned = LayerFusion("learned", 3)
    torch.nn.init.normal_(learned.weights)
    fusions = [learned, LayerFusion("norm_avg", 3), LayerFusion("avg", 3), LayerFusion("learned", 3, layers=[0, 2])]
    fusions += [LayerFusion("single", 3, layer_index=index) for index in range(3)]
    with torch.no_grad():
        streamed = model.fuse(input_ids, attention_mask, fusions)
        for fusion, fused in zip(fusions, streamed):
            torch.testing.assert_close(fused, fusion(torch.stack(layers, dim=1)), atol=1e-6, rtol=1e-5)
    for index in range(3):
        assert torch.equal(streamed[4 + index], layers[index]), f"layer {index}"


def test_what_enters_the_first_block_is_what_transformers_reports_first(name):
    model = plain_model(name)
    inputs = batch()
    with torch.no_grad():
        reported = model.text_trunk(*inputs, output_hidden_states=True).hidden_states[0]  # (B, N, D)
        (stack,) = model.fuse(*inputs, [LayerFusion("stack", 3, layers=[0], embeddings=True)])  # (B, 2, N, D)
    padding = ~inputs[1].bool().unsqueeze(-1)
    assert torch.equal(stack[:, 0], reported.masked_fill(padding, 0))


def test_the_last_layer_is_before_or_after_the_final_norm_as_written_here(name, family):
    model = plain_model(name)
    input_ids, attention_mask = batch()
    reported = reported_layers(model.text_trunk, input_ids, attention_mask)[-1]
    raw = last_block_output(model.text_trunk, input_ids, attention_mask)
    if family.final_norm is not None:
        with torch.no_grad():
            normed = model.text_trunk.get_submodule(family.final_norm)(raw)
    expected = normed if family.reports_normed else raw
    expected = expected.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)
    torch.testing.assert_close(reported, expected, atol=1e-6, rtol=1e-6)


def test_an_encoder_is_sorted_as_in_the_papers_table_of_families(name, family):
    multimodal = ("qwen3_vl", "qwen2_5_vl", "mistral3", "internvl", "gemma3", "llava", "t5gemma2")
    writing = ("gemma3_text", "qwen3", "llama", "opt")
    expected = "multimodal" if name in multimodal else "language model" if name in writing else "encoder-only"
    assert encoder_family(family.config) == expected


def test_a_text_tower_alone_is_sorted_as_its_model_and_an_unknown_type_not_at_all():
    assert encoder_family(FAMILIES["qwen3_vl"].config.get_text_config()) == "multimodal"
    assert encoder_family(CLIPTextConfig(**TEXT)) == "encoder-only"
    assert encoder_family(ViTConfig()) is None


def test_pre_norm_is_the_output_of_the_last_block(family):
    model = build(family, fusion="single", last_layer="pre_norm")
    input_ids, attention_mask = batch()
    expected = last_block_output(model.text_trunk, input_ids, attention_mask)
    expected = expected.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)
    assert torch.equal(read(model, input_ids, attention_mask), expected)


def test_post_norm_is_that_output_after_the_trunks_own_final_norm(family):
    model = build(family, fusion="single", last_layer="post_norm")
    input_ids, attention_mask = batch()
    if family.final_norm is None:
        with pytest.raises(ValueError, match="no final norm"):
            model(input_ids, attention_mask)
        return
    raw = last_block_output(model.text_trunk, input_ids, attention_mask)
    with torch.no_grad():
        expected = model.text_trunk.get_submodule(family.final_norm)(raw)
    expected = expected.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)
    torch.testing.assert_close(read(model, input_ids, attention_mask), expected, atol=1e-6, rtol=1e-6)


def test_output_is_the_trunks_own_after_the_final_norm_and_altclips_projection(name, family):
    model = build(family, fusion="single", last_layer="output")
    input_ids, attention_mask = batch()
    expected = last_block_output(model.text_trunk, input_ids, attention_mask)
    for module in (family.final_norm, "transformation" if name == "altclip" else None):
        if module is not None:
            with torch.no_grad():
                expected = model.text_trunk.get_submodule(module)(expected)
    expected = expected.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)
    torch.testing.assert_close(read(model, input_ids, attention_mask), expected, atol=1e-6, rtol=1e-6)
    assert model.config.hidden_size == expected.shape[-1] == (48 if name == "altclip" else 32)


@torch.no_grad()
def test_an_output_of_another_width_is_fused_with_no_other_layer():
    altclip = FAMILIES["altclip"]
    with pytest.raises(ValueError, match="width 48 fused with layers of width 32, expected one width: set fusion="):
        build(altclip, fusion="norm_avg", last_layer="output")
    model, inputs = build(altclip, fusion="norm_avg", layers=[0, 1], last_layer="output"), batch()
    assert read(model, *inputs).shape == (2, 7, 32)
    last, first = model.fuse(*inputs, [LayerFusion("single", 3), LayerFusion("single", 3, 0)])
    assert last.shape == (2, 7, 48) and first.shape == (2, 7, 32)
    with pytest.raises(ValueError, match="width 48 fused with layers of width 32"):
        model.fuse(*inputs, [LayerFusion("avg", 3)])
    for feature, width in (("last", 48), ("layer_0", 32)):
        assert new_aggregator(feature, model, "altclip", "0" * 64, seed=0).config.encoder_hidden_size == width
    with pytest.raises(InputError, match=r"expected one width: .*, or leave out the feature norm_avg"):
        new_aggregator("norm_avg", model, "altclip", "0" * 64, seed=0)
    projected = build(altclip, fusion="single", last_layer="output", projection_dim=12, projection_trained=True)
    assert read(projected, *inputs).shape == (2, 7, 12)


def test_a_width_that_the_configuration_does_not_tell_is_refused():
    # OPT-350m: hidden_states[-1] is projected, and there is no final norm.
    config = OPTConfig(**OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False})
    family, inputs = Family(config, "OPTModel", True, None), batch()
    with pytest.raises(ValueError, match="got layer 2 of width 16 with last_layer='as_reported', expected 32"):
        build(family)(*inputs)
    assert read(build(family, last_layer="pre_norm"), *inputs).shape == (2, 7, 32)
    output = build(family, last_layer="output", fusion="single")
    assert read(output, *inputs).shape == (2, 7, 16) and output.config.hidden_size == 16


# The tokens that tables of positions have rows for; None where positions are computed.
POSITIONS = {
    "clip": 77,
    "siglip": 64,
    "altclip": 40 - 1,  # as RoBERTa's, its table begins after the row of the padding token, here 0
    "xlm_roberta": 40 - 1,
    "opt": 40,  # whose table has two rows more
    "bert": 512,
    "modernbert": None,
    "t5": None,
    "llama": None,
    "qwen3_vl": None,
}


@pytest.mark.parametrize("name", POSITIONS)
def test_texts_are_read_up_to_the_last_position_and_no_further(name):
    model, most = plain_model(name), POSITIONS[name]
    assert model.num_positions == most
    most = most or model.text_trunk.config.to_dict().get("max_position_embeddings", 100)
    if most <= 512:
        assert read(model, torch.randint(3, 99, (1, most))).isfinite().all()
    if model.num_positions is not None:
        with pytest.raises(ValueError, match=f"got {most + 1} tokens, expected at most {most}: the encoder has no"):
            model(torch.randint(3, 99, (1, most + 1)))
    elif most <= 512:
        assert read(model, torch.randint(3, 99, (1, most + 1))).isfinite().all()


def test_features_are_exact_zeros_at_padding(name):
    features = read(plain_model(name), *batch())
    assert torch.equal(features[1, 4:], torch.zeros(3, 32))
    assert (features[1, :4] != 0).any(-1).all() and (features[0] != 0).any(-1).all()


def test_no_head_no_decoder_and_no_other_tower_is_kept(name, family):
    model = plain_model(name)
    kept = {id(parameter) for parameter in model.parameters()}
    trunk, _ = find_text_trunk(model.encoder)
    assert kept == {id(p) for p in trunk.parameters()} | {id(p) for p in model.fusion.parameters()}
    names = " ".join(name for name, _ in model.named_parameters())
    for word in ("vision", "visual", "lm_head", "decoder.block", "projector"):
        assert word not in names
    if family.other_parameters:
        with torch.device("meta"):
            whole = AutoModel.from_config(family.config)
        assert sum(p.numel() for p in trunk.parameters()) < sum(p.numel() for p in whole.parameters())


def test_a_saved_model_loads_bit_equal(name, tmp_path, make_tokenizer):
    model = plain_model(name)
    model.tokenizer = make_tokenizer("[BOS]", "[EOS]")
    torch.nn.init.normal_(model.fusion.weights)
    model.save_pretrained(tmp_path)
    loaded, info = GrantedModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs = batch()
    assert torch.equal(read(loaded, *inputs), read(model, *inputs))


@pytest.mark.parametrize(
    "saved_as", [T5Model, T5EncoderModel, UMT5Model, UMT5EncoderModel, T5GemmaModel, T5Gemma2Model]
)
def test_an_encoder_decoder_is_read_by_its_encoder_however_it_was_saved(saved_as, tmp_path, make_tokenizer):
    config = ENCODER_DECODERS[saved_as.__name__.removesuffix("EncoderModel").removesuffix("Model")]()
    saved_as(config).save_pretrained(tmp_path / "plain")
    make_tokenizer("[BOS]", "[EOS]").save_pretrained(tmp_path / "plain")
    model = GrantedModel.from_encoder(tmp_path / "plain")
    assert "decoder" not in " ".join(model.state_dict())
    model.save_pretrained(tmp_path / "fused")
    loaded = GrantedModel.from_pretrained(tmp_path / "fused")
    inputs = batch()
    assert torch.equal(read(loaded, *inputs), read(model, *inputs))


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "llava", "clip"])
def test_keep_vision_keeps_the_tower_and_changes_no_text(name, tmp_path, make_tokenizer):
    family = FAMILIES[name]
    whole = build(family, keep_vision=True)
    whole.tokenizer = make_tokenizer("[BOS]", "[EOS]")
    assert any("vis" in key for key in whole.state_dict())
    text_only = GrantedModel(GrantedConfig(encoder_config=family.config)).eval()
    text_only.encoder.load_state_dict(whole.text_trunk.state_dict())
    inputs = batch()
    assert torch.equal(read(whole, *inputs), read(text_only, *inputs))
    whole.save_pretrained(tmp_path)
    loaded = GrantedModel.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == whole.state_dict().keys()
    assert torch.equal(read(loaded, *inputs), read(whole, *inputs))


def test_the_qwen3_vl_trunk_reads_text_as_the_full_model_does():
    model = build(FAMILIES["qwen3_vl"], keep_vision=True)
    input_ids, attention_mask = batch()
    with torch.no_grad():
        full = model.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    fused = model.fusion(torch.stack(full.hidden_states[1:], dim=1))
    expected = fused.masked_fill(~attention_mask.bool().unsqueeze(-1), 0)
    torch.testing.assert_close(read(model, input_ids, attention_mask), expected, atol=1e-6, rtol=1e-5)


def test_images_enter_through_the_whole_encoder_where_the_vision_tower_is_kept():
    model = build(FAMILIES["llava"], keep_vision=True)
    image = model.encoder.config.image_token_id
    input_ids = torch.tensor([[5, image, image, image, image, 6, 7]])  # (1, 7): a 2 x 2 image among words
    pixel_values = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        full = model.encoder(input_ids=input_ids, pixel_values=pixel_values, output_hidden_states=True)
        features = model(input_ids, pixel_values=pixel_values).last_hidden_state
    torch.testing.assert_close(features, model.fusion(torch.stack(full.hidden_states[1:], dim=1)))


def test_images_for_a_text_only_model_raise():
    model = build(FAMILIES["llava"])
    with pytest.raises(ValueError, match="keep_vision"):
        model(batch()[0], pixel_values=torch.randn(1, 3, 28, 28))


def test_t5_is_read_by_its_encoder_alone():
    model = build(FAMILIES["t5"])
    plain = T5EncoderModel(FAMILIES["t5"].config).eval()
    plain.load_state_dict(model.encoder.state_dict())
    input_ids, attention_mask = batch()
    with torch.no_grad():
        expected = plain(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        (last,) = model.fuse(input_ids, attention_mask, [LayerFusion("single", 3)])
    assert torch.equal(last[0], expected[0])


def test_a_raw_last_layer_is_followed_where_the_encoder_reports_one():
    config = LlamaConfig(**DECODER)
    config.tie_last_hidden_states = False
    model = build(Family(config, "LlamaModel", False, "norm"), fusion="single")
    input_ids, attention_mask = batch()
    raw = last_block_output(model.text_trunk, input_ids, attention_mask)
    assert torch.equal(read(model, input_ids, attention_mask)[0], raw[0])


def test_a_model_without_text_raises():
    with pytest.raises(ValueError, match="expected a model with a text trunk"):
        GrantedModel(GrantedConfig(encoder_config=ViTConfig(hidden_size=32, num_hidden_layers=2)))


# Encoders whose layers are no list of (B, N, D) that text runs through, and what is said of them.
GEMMA3N = {
    "vocab_size_per_layer_input": 99,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 1,
    "laurel_rank": 4,
    "intermediate_size": [64] * 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0] * 3,
}
MLLAMA = {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
MLLAMA_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_global_layers": 1,
    "attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 64,
    "intermediate_layers_indices": [0],
    "supported_aspect_ratios": [[1, 1]],
    "max_num_tiles": 1,
}
REFUSED = {
    "several streams": (
        lambda: Gemma3nTextConfig(**{**DECODER, **GEMMA3N}),
        r"layer 0 of Gemma3nTextModel of shape \(4, 2, 7, 32\)",
    ),
    "layers for images": (
        lambda: MllamaConfig(text_config={**DECODER, **MLLAMA}, vision_config=MLLAMA_VISION),
        r"MllamaTextModel, whose layers \[1\] do not run once each on text",
    ),
    "tokens first": (
        lambda: XLNetConfig(vocab_size=99, d_model=32, n_layer=3, n_head=4, d_inner=64),
        r"layer 0 of XLNetModel of shape \(7, 2, 32\)",
    ),
    "no model of its own": (lambda: MllamaTextConfig(**DECODER, **MLLAMA), "AutoModel does not load alone"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_encoder_whose_layers_cannot_be_fused_is_refused_in_one_line(kind):
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message) as caught:
        GrantedModel(GrantedConfig(encoder_config=make(), last_layer="pre_norm")).eval()(*batch())
    assert "\n" not in str(caught.value)
