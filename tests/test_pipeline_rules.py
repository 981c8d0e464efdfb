"""The rules of stock pipelines: what each one's own `encode_prompt` gives equals what a model built by name gives.

Real classes of diffusers and transformers at tiny size, in fp32, one prompt and an uneven batch of them.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import HunyuanVideo15Pipeline
from diffusers.pipelines.longcat_image.pipeline_longcat_image import split_quotation
from diffusers.pipelines.prx.pipeline_prx import TextPreprocessor  # which gives transformers a T5GemmaEncoder, too
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Gemma2Config,
    Gemma3Config,
    GemmaConfig,
    GlmConfig,
    LlamaConfig,
    Mistral3Config,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SmolLM3Config,
    T5Config,
    T5EncoderModel,
    T5Gemma2Config,
    T5GemmaConfig,
    T5GemmaModel,
    UMT5Config,
)

from granted import GrantedConfig, GrantedModel
from granted.encoding.alignment import token_places
from granted.modeling_pipeline_rules import PIPELINE_RULES, pipeline_options
from granted.modeling_text_input import cleaned, quoted_pieces


# Long enough that something is left of them after the longest template, whatever a tokenizer makes of that.
PROMPTS = [
    " ".join(["a red cube on a blue sphere , then a yellow ball near the green door"] * 2),
    " ".join(["two black cats sleep under the old wooden table near the river at night"] * 4),
]
CHAT = (
    "{% for message in messages %}[BOS] {{ message['role'] }} {% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{{ message['content'][0]['text'] }}{% endif %} [EOS]{% endfor %}"
    "{% if add_generation_prompt %}[BOS] assistant{% endif %}{% if enable_thinking %} prompt{% endif %}"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'][0]['text'] }}<|im_end|>\n"
    "{% endfor %}"
)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": 32}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
VIDEO_VAE = {
    "base_dim": 3,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 4, "num_heads": 4}


def decoder(layers: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 99,
        "max_position_embeddings": 4096,
        **more,
    }


def qwen3_vl(layers: int = 4):
    text = decoder(layers, rope_parameters={**MROPE, "mrope_interleaved": True})
    return Qwen3VLConfig(text_config=text, vision_config={**QWEN_VISION, "deepstack_visual_indexes": [0]})


def qwen2_5_vl():
    return Qwen2_5_VLConfig(
        text_config=decoder(rope_parameters=MROPE), vision_config={**QWEN_VISION, "fullatt_block_indexes": [0]}
    )


def qwen2_vl():
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    return Qwen2VLConfig(text_config=decoder(rope_parameters=MROPE), vision_config=vision)


def mistral3(layers: int = 4):
    vision = PixtralVisionConfig(**VISION, head_dim=8)
    return Mistral3Config(
        text_config={**decoder(layers), "model_type": "mistral"}, vision_config=vision, vision_feature_layer=-1
    )


def gemma3():
    return Gemma3Config(text_config=decoder(), vision_config=VISION)


@dataclass
class Case:
    """How a pipeline is made to encode prompts.

    Args:
        config (`Callable`): makes the encoder's configuration.
        model (`str`): its class.
        encode (`Callable`): `encode(pipe, prompts)` gives embeddings, tokens first, and their mask (B, N); or none,
            where padding comes after the tokens.
        more (`Callable`): further parts of the pipeline, from the tokenizer.
        stacked (`bool`): whether an embedding is (N, K, D).
        built (`bool`): whether the pipeline can be built without what draws; else its parts are given alone.
    """

    config: Callable
    model: str
    encode: Callable
    more: Callable = lambda tokenizer: {}
    stacked: bool = False
    built: bool = True


def first_two(pipe, prompts, **options):
    return pipe.encode_prompt(prompts, **options)[:2]


def whole(pipe, prompts, **options):
    """Embeddings without a mask, which the pipeline does not give."""
    return pipe.encode_prompt(prompts, **options)[0], None


def clip(tokenizer) -> dict[str, Any]:
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=99
    )
    return {"text_encoder_2": CLIPTextModel(config), "tokenizer_2": tokenizer}


def byt5(tokenizer) -> dict[str, Any]:
    return {"text_encoder_2": T5EncoderModel(T5Config(**T5, vocab_size=400)), "tokenizer_2": tokenizer}


def kandinsky(pipe, prompts):
    if isinstance(pipe, diffusers.Kandinsky6TI2VAPipeline):
        parts = (pipe.tokenizer, pipe.text_encoder, pipe.tokenizer_2, pipe.text_encoder_2)
        return pipe._get_prompt_embeds(prompts, *parts, 1024, CPU)[::2]
    embeds, _ = pipe._encode_prompt_qwen(prompts, device=torch.device("cpu"))
    return embeds, None


def ideogram4(pipe, prompts):
    embeds, *_ = pipe.encode_prompt(prompts, 1, 1, 200, CPU)
    return embeds[:, :-1], embeds[:, :-1].any(-1)  # without the place of the image; padding is zeros


def processor(kind, chat_template=CHAT):
    """A processor around the tokenizer, as part of the pipeline under `kind`."""

    def make(tokenizer) -> dict[str, Any]:
        images, videos = transformers.Qwen2VLImageProcessor(), transformers.Qwen3VLVideoProcessor()
        return {kind: transformers.Qwen3VLProcessor(images, tokenizer, videos, chat_template=chat_template)}

    return make


def kandinsky_parts(tokenizer) -> dict[str, Any]:
    return clip(tokenizer) | processor("tokenizer")(tokenizer)


def cogview4(pipe, prompts):
    """Each prompt by itself: beside a longer one it is padded to its length, and the encoder reads that."""
    embeds = [pipe.encode_prompt([one], do_classifier_free_guidance=False)[0][0] for one in prompts]
    return embeds, [torch.ones(len(one)) for one in embeds]


def sana(pipe, prompts):
    options = {"do_classifier_free_guidance": False, "complex_human_instruction": instruction(type(pipe))}
    return pipe.encode_prompt(prompts, **options)[:2]


def instruction(kind: type) -> list[str]:
    """What Sana puts before a prompt."""
    return inspect.signature(kind.__call__).parameters["complex_human_instruction"].default


def prx(pipe, prompts):
    options = {"tokenizer_max_length": 512, "skip_text_cleaning": True}  # 4000 tokens of padding take a while
    return pipe.encode_prompt(prompts, do_classifier_free_guidance=False, **options)[:2]


CPU = torch.device("cpu")
HUNYUAN_OPTIONS = inspect.signature(diffusers.HunyuanVideoPipeline.encode_prompt).parameters
HUNYUAN_TEMPLATE = HUNYUAN_OPTIONS["prompt_template"].default
QWEN2_5_VL, QWEN3_VL = "Qwen2_5_VLForConditionalGeneration", "Qwen3VLForConditionalGeneration"
CASES = {
    "cogview4": Case(lambda: GlmConfig(**decoder(), pad_token_id=0), "GlmModel", cogview4),
    "cosmos2.5": Case(
        qwen2_5_vl, QWEN2_5_VL, lambda p, t: whole(p, t, do_classifier_free_guidance=False, device=CPU),
        more=lambda tokenizer: {"safety_checker": torch.nn.Identity(), "vae": diffusers.AutoencoderKLWan(**VIDEO_VAE)},
    ),
    "dreamlite": Case(
        qwen3_vl, QWEN3_VL,
        lambda p, t: p.encode_prompt("generate", [f"[Generate]: {one}" for one in t], CPU, torch.float32),
    ),
    "easyanimate": Case(
        qwen2_vl, "Qwen2VLForConditionalGeneration",
        lambda p, t: p.encode_prompt(t, do_classifier_free_guidance=False)[::2],
    ),
    "ernie-image": Case(mistral3, "Mistral3Model", lambda p, t: (p.encode_prompt(t, CPU), None)),
    "fibo": Case(
        lambda: SmolLM3Config(**decoder(), pad_token_id=0), "SmolLM3ForCausalLM",
        lambda p, t: p.get_prompt_embeds(t, max_sequence_length=3000)[::2],
    ),
    "flux2": Case(lambda: mistral3(40), "Mistral3ForConditionalGeneration", whole),
    "flux2-klein": Case(lambda: Qwen3Config(**decoder(28)), "Qwen3ForCausalLM", whole),
    "hidream": Case(
        lambda: LlamaConfig(**decoder()), "LlamaForCausalLM",
        lambda p, t: (p._get_llama3_prompt_embeds(t, device=CPU).permute(1, 2, 0, 3), None), stacked=True,
    ),
    "hunyuan-image": Case(
        qwen2_5_vl, QWEN2_5_VL, lambda p, t: p._get_qwen_prompt_embeds(p.tokenizer, p.text_encoder, t), more=byt5
    ),
    "hunyuan-video": Case(
        lambda: LlamaConfig(**decoder()), "LlamaModel",
        lambda p, t: p._get_llama_prompt_embeds(t, HUNYUAN_TEMPLATE), more=clip,
    ),
    "hunyuan-video-1.5": Case(
        lambda: qwen2_5_vl().text_config, "Qwen2_5_VLTextModel",
        lambda p, t: HunyuanVideo15Pipeline._get_mllm_prompt_embeds(p.text_encoder, p.tokenizer, t, CPU), built=False,
    ),
    "ideogram4": Case(lambda: qwen3_vl(36), "Qwen3VLModel", ideogram4),
    "joyimage-edit": Case(
        qwen3_vl, QWEN3_VL, lambda p, t: p.encode_prompt(t, max_sequence_length=4096),
        more=processor("processor"),
    ),
    "kandinsky5-image": Case(qwen2_5_vl, QWEN2_5_VL, kandinsky, more=kandinsky_parts),
    "kandinsky5-video": Case(qwen2_5_vl, QWEN2_5_VL, kandinsky, more=kandinsky_parts),
    "kandinsky6": Case(qwen2_5_vl, QWEN2_5_VL, kandinsky, more=kandinsky_parts),
    "krea2": Case(lambda: qwen3_vl(36), "Qwen3VLModel", first_two, stacked=True),
    "longcat-image": Case(qwen2_5_vl, QWEN2_5_VL, whole),
    "ltx2": Case(
        gemma3, "Gemma3ForConditionalGeneration",
        lambda p, t: p.encode_prompt(t, do_classifier_free_guidance=False)[:2],
    ),
    "lumina": Case(lambda: GemmaConfig(**decoder()), "GemmaModel", first_two),
    "lumina2": Case(lambda: Gemma2Config(**decoder()), "Gemma2Model", first_two),
    "motif-video": Case(
        lambda: T5Gemma2Config(encoder={"text_config": decoder(), "vision_config": VISION}, decoder=decoder()).encoder,
        "T5Gemma2Encoder", lambda p, t: p._get_prompt_embeds(p.text_encoder, p.tokenizer, t),
    ),
    "nucleus-image": Case(
        lambda: qwen3_vl(9), QWEN3_VL, lambda p, t: p.encode_prompt(t, max_sequence_length=1024),
        more=processor("processor"),
    ),
    "ovis-image": Case(lambda: Qwen3Config(**decoder()), "Qwen3Model", whole),
    "prx": Case(
        lambda: T5GemmaConfig(encoder=decoder(), decoder=decoder()).encoder, "T5GemmaEncoder", prx,
    ),
    "prx-pixel": Case(lambda: qwen3_vl().text_config, "Qwen3VLTextModel", prx),
    "qwen-image": Case(qwen2_5_vl, QWEN2_5_VL, first_two),
    "qwen-image-2.1": Case(qwen3_vl, QWEN3_VL, first_two, more=processor("processor", CHATML)),
    "sana": Case(lambda: Gemma2Config(**decoder()), "Gemma2Model", sana),
    "sana-video": Case(lambda: Gemma2Config(**decoder()), "Gemma2Model", sana),
    "wan": Case(
        lambda: UMT5Config(**T5, vocab_size=99), "UMT5EncoderModel",
        lambda p, t: whole(p, t, do_classifier_free_guidance=False, max_sequence_length=512),
    ),
    "z-image": Case(
        lambda: Qwen3Config(**decoder()), "Qwen3Model",
        lambda p, t: (p.encode_prompt(t, do_classifier_free_guidance=False)[0], None),
    ),
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _versions(record_testsuite_property):
    """For the table that `make test-matrix` writes."""
    versions = f"diffusers {diffusers.__version__}, transformers {transformers.__version__}"
    record_testsuite_property("versions", versions)


def test_every_rule_is_tried():
    assert CASES.keys() == PIPELINE_RULES.keys()


@pytest.fixture
def tokenizer(make_tokenizer):
    tokenizer = make_tokenizer("[BOS]", None)
    tokenizer.chat_template = CHAT
    tokenizer.model_max_length = 4000
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", "<|video_pad|>"]})
    return tokenizer


def without_bos(tokenizer, encoder: torch.nn.Module) -> None:
    """Tokenizers of Qwen's encoders add nothing by themselves, as those of others do."""
    if "qwen" in encoder.config.model_type:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])


def encoder_of(case: Case) -> torch.nn.Module:
    torch.manual_seed(0)
    encoder = getattr(transformers, case.model)(case.config()).eval()
    with torch.no_grad():  # norms start as the identity but for the scale: make every one visible
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def around(encoder: torch.nn.Module) -> torch.nn.Module:
    """The model as it is loaded by itself: without a language-modelling head; T5Gemma's encoder with its decoder."""
    if encoder.config.model_type == "t5_gemma_module":
        whole = T5GemmaModel(T5GemmaConfig(encoder=decoder(), decoder=decoder()))
        whole.encoder = encoder
        return whole
    return getattr(encoder, "model", encoder)


def pipeline_of(
    name: str, encoder: torch.nn.Module, tokenizer, more: dict | None = None
) -> diffusers.DiffusionPipeline:
    """The stock pipeline with its text encoder and, unless further parts are given, nothing that draws."""
    kind, case = getattr(diffusers, PIPELINE_RULES[name].pipeline), CASES[name]
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    parts = {one.name: None for one in parameters if one.default is inspect.Parameter.empty}
    given = {"text_encoder": encoder, "tokenizer": tokenizer}
    if name == "hidream":
        given = {"text_encoder_4": encoder, "tokenizer_4": tokenizer}
    names = {one.name for one in parameters}
    if not (case.built or more):
        return SimpleNamespace(**given)
    given |= case.more(tokenizer) | (more or {})
    return kind(**parts | {part: value for part, value in given.items() if part in names})


@torch.no_grad()
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS], ids=["one", "uneven batch"])
@pytest.mark.parametrize("name", PIPELINE_RULES)
def test_a_model_built_by_name_gives_what_the_pipeline_gives(name, prompts, tokenizer):
    case = CASES[name]
    encoder = encoder_of(case)
    without_bos(tokenizer, encoder)
    embeds, mask = case.encode(pipeline_of(name, encoder, tokenizer), list(prompts))
    model = GrantedModel.from_loaded(around(encoder), tokenizer, **pipeline_options(name, tokenizer))
    for i, ours in enumerate(model.encode(prompts)):
        theirs = embeds[i] if mask is None else embeds[i][mask[i].bool()]
        theirs = theirs.transpose(0, 1) if case.stacked else theirs  # (K, N, D) or (N, D)
        if mask is None:
            theirs = theirs[..., : ours.shape[-2], :]
        assert ours.shape[-2] >= 20
        torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-5)


def test_the_table_of_the_configuration_has_every_rule():
    lines = [line.strip(" |").split("|") for line in GrantedConfig.__doc__.splitlines() if line.startswith("    | ")]
    found = {}
    for fusion, layers, more, names in ([cell.strip() for cell in line] for line in lines[1:]):
        found |= dict.fromkeys(names.split(", "), (fusion, layers, more))
    for name, rule in PIPELINE_RULES.items():
        fusion, layers, more = found.pop(name)
        chosen = rule.options.get("layers", [rule.options["layer_index"]] if fusion == "single" else ["all"])
        first, _, last = layers.partition(", ..., ")
        words = ", ".join(map(str, chosen))
        assert fusion == rule.options["fusion"] and words.startswith(first) and words.endswith(last)
        options = [one for one in ("last_layer", "layer_norm", "embeddings") if one in rule.options]
        assert more == " ".join(f"{one} {rule.options[one]}".removesuffix(" True") for one in options)
    assert not found


@pytest.mark.parametrize("name", ["sana", "sana-video"])
def test_the_instruction_before_a_prompt_is_the_default_of_the_stock_pipeline(name):
    rule = PIPELINE_RULES[name]
    assert rule.template == "\n".join(instruction(getattr(diffusers, rule.pipeline))) + "{prompt}"


def test_for_pipeline_builds_from_a_checkpoint_and_own_options_replace_the_rules(tiny_encoder_folder):
    model = GrantedModel.for_pipeline("lumina2", tiny_encoder_folder)
    assert (
        model.config.fusion == "single" and model.config.layer_index == -2 and model.config.max_sequence_length == 256
    )
    assert model.config.prompt_template.endswith("<Prompt Start> {prompt}")
    other = GrantedModel.for_pipeline("lumina2", tiny_encoder_folder, prompt_template="{prompt} !", layer_index=0)
    assert (other.config.prompt_template, other.config.layer_index) == ("{prompt} !", 0)
    (features,) = model.encode(["a red cube"])
    assert features.shape[-1] == 32 and len(features) > 20


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("flux3", "got the pipeline 'flux3', expected one of cogview4, cosmos2.5, .*flux2.*z-image"),
        ("krea2", "got layer_index=4, expected -4 to 3"),
        ("z-image", "without a chat template for z-image"),
    ],
)
def test_what_a_pipeline_cannot_be_built_for_is_one_clear_line(pipeline, message, tiny_encoder_folder):
    with pytest.raises(ValueError, match=message):
        GrantedModel.for_pipeline(pipeline, tiny_encoder_folder)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_first_token_stays_where_the_configuration_says_so(side, tiny_encoder_folder):
    template = "describe the image in detail . prompt : {prompt} ."
    options = {"prompt_template": template, "padding_side": side, "template_drop_tokens": 7}
    plain = GrantedModel.from_encoder(tiny_encoder_folder)
    model = GrantedModel.from_encoder(tiny_encoder_folder, **options, template_keep_first=True)
    texts = ["a red cube", "two black cats sleep under the old wooden table"]
    for text, features in zip(texts, model.encode(texts)):
        (whole,) = plain.encode([template.replace("{prompt}", text)])
        expected = torch.cat([whole[:1], whole[8:]])  # [BOS], ":" and what follows it
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert model.tokenize([""], allow_empty=True)[0][8:]
    with pytest.raises(ValueError, match="expected more than the 8 template tokens"):
        model.encode(texts, max_sequence_length=8)
    moved, (plain_features,) = model.encode(["a red cube"], emphasis={"red": 2})[0], model.encode(["a red cube"])
    assert [i for i, one in enumerate(plain_features) if not torch.equal(one, moved[i])] == [3]  # [BOS] : a red
    model.calibrate(texts)
    features = torch.cat(model.encode(texts))  # (sum N_i, D)
    torch.testing.assert_close(features.mean(0), torch.zeros(32), atol=1e-5, rtol=0)


# With two different contractions, or one after an unmatched mark, the pipeline changes the prompt before it reads it.
QUOTING = ["a", "sign", "don't", "dogs'", '"', "“", "’", "'no'", '"don\'t 5"', "“a b”", "‘c’", "'ab c'.", 'says:"x"']


@given(st.lists(st.sampled_from(QUOTING), max_size=8).map(" ".join))
def test_what_is_quoted_is_split_into_characters_as_longcat_image_does(text):
    pieces = quoted_pieces(text)
    assert [piece for _, piece in pieces] == [
        one for part, quoted in split_quotation(text) for one in (part if quoted else [part])
    ]
    assert all(text[place : place + len(piece)] == piece for place, piece in pieces)


@torch.no_grad()
def test_a_prompt_with_quotes_is_read_as_longcat_image_reads_it(tokenizer):
    prompt = 'a red cube says "cats on a ball" near the door'
    encoder = encoder_of(CASES["longcat-image"])
    without_bos(tokenizer, encoder)
    embeds, _ = whole(pipeline_of("longcat-image", encoder, tokenizer), [prompt])
    options = pipeline_options("longcat-image", tokenizer)
    model = GrantedModel.from_loaded(around(encoder), tokenizer, **options)
    (features,) = model.encode([prompt])
    torch.testing.assert_close(features, embeds[0, : len(features)], atol=1e-5, rtol=1e-5)
    (places,) = token_places(model, [prompt])
    quoted = range(prompt.index('"'), prompt.rindex('"') + 1)
    inside = [(int(a), int(b)) for a, b in zip(places.begins, places.ends) if int(a) in quoted]
    assert inside == [(place, place + 1) for place in quoted if prompt[place] != " "]
    (moved,) = model.encode([prompt], emphasis={"door": 2})
    assert [i for i, one in enumerate(features) if not torch.equal(one, moved[i])] == [len(features) - 1]
    with pytest.warns(UserWarning, match="1 of 1 texts are longer"):
        (cut,) = model.encode([prompt], max_sequence_length=options["template_drop_tokens"] + 6)
    torch.testing.assert_close(cut, features[:6], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_filled_up_with_padding_that_is_read(side, tiny_encoder_folder):
    plain = GrantedModel.from_encoder(tiny_encoder_folder)
    model = GrantedModel.from_encoder(tiny_encoder_folder, padding_side=side, fill_to_multiple_of=4)
    texts = ["a red cube", "two black cats", "a red cube on a blue sphere", "cats"]
    pad, found = model.tokenizer.pad_token_id, model.encode(texts)
    for text, features, places in zip(texts, found, token_places(model, texts)):
        (ids,) = plain.tokenize([text])
        padding = [pad] * (-len(ids) % 4)
        ids = padding + ids if side == "left" else ids + padding
        expected = plain(torch.tensor([ids])).last_hidden_state[0]  # no mask
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
        words = range(1 + len(padding) * (side == "left"), len(ids) - len(padding) * (side == "right"))
        assert [i for i, own in enumerate(places.own) if own] == list(words)
    assert model.count_tokens(texts) == [len(one) for one in found] == [4, 4, 8, 4]
    (still,), (moved,) = model.encode(["cats"]), model.encode(["cats"], emphasis={"cats": 2})
    changed = [i for i, one in enumerate(still) if not torch.equal(one, moved[i])]
    assert changed == [3 if side == "left" else 1]
    with pytest.warns(UserWarning, match="1 of 4 texts are longer than 4 tokens"):
        assert [len(one) for one in model.encode(texts, max_sequence_length=7)] == [4] * 4


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("none", "  A &amp;amp;\n B "),
        ("strip", "A &amp;amp;\n B"),
        ("lower_strip", "a &amp;amp;\n b"),
        ("unescape", "A & B"),
        ("unescape_strip", "A &\n B"),
    ],
)
def test_texts_are_cleaned_as_the_configuration_says(how, text):
    assert cleaned("  A &amp;amp;\n B ", how) == text


@pytest.mark.parametrize("text", ["  A &amp;amp;\n B ", "caf\u00c3\u00a9  &lt;b&gt;", "a red cube"])
def test_prx_and_its_rule_clean_a_text_alike(text):
    assert cleaned(text, PIPELINE_RULES["prx"].options["text_cleaning"]) == TextPreprocessor().basic_clean(text)


@pytest.mark.parametrize(
    ("pipeline", "options", "fused"),
    [
        ("hidream", {}, False),  # it joins the states by itself
        ("lumina2", {}, True),
        ("hidream", {"fusion": "norm_avg"}, True),  # which the pipeline would not find among the encoder's own states
        ("hidream", {"template_drop_tokens": 1}, False),
        ("lumina2", {"fused_hidden_states": False}, False),
        ("lumina2", {"fused_hidden_states": False, "layer_index": 0}, False),
    ],
)
def test_the_states_that_a_stock_pipeline_will_find_in_a_model_built_for_it(
    pipeline, options, fused, tiny_encoder_folder
):
    model = GrantedModel.for_pipeline(pipeline, tiny_encoder_folder, **options)
    assert model.config.fused_hidden_states is fused
