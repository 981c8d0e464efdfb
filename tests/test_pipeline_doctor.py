"""The doctor: what it observes is the rule of every stock pipeline, and what is broken on purpose is found."""

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from granted import GrantedModel
from granted.encoding.pipeline_doctor import differences, encode, find_prompt, findings, observe, width_difference
from granted.modeling_pipeline_rules import PIPELINE_RULES, dropped_tokens, pipeline_options, read_states
from granted.modeling_text_trunk import find_text_trunk
from granted.pipeline_blocks import width_in
from granted.pipeline_granted import GrantedLumina2Pipeline
from granted.tests.granted_pipelines import MAKERS, make_encoder
from granted.tests.test_pipeline_rules import (
    CASES,
    PROMPTS,
    decoder,
    encoder_of,
    pipeline_of,
    tokenizer,  # noqa: F401
    without_bos,
)
from granted.tests.tiny_models import SCALED_IMAGE_VAE, image_transformer
from granted.tests.tiny_pipelines import DRAWINGS
from granted.utils.errors import InputError


@pytest.mark.parametrize("name", PIPELINE_RULES)
def test_what_is_observed_is_the_rule(name, tokenizer):  # noqa: F811
    case, rule = CASES[name], PIPELINE_RULES[name]
    encoder = encoder_of(case)
    without_bos(tokenizer, encoder)
    pipe = pipeline_of(name, encoder, tokenizer)
    component = "text_encoder_4" if name == "hidream" else "text_encoder"
    reading = observe(pipe, PROMPTS[0], lambda pipe, prompts: case.encode(pipe, prompts)[0], component)
    layers = len(find_text_trunk(encoder)[1])
    assert reading.states == read_states(rule, layers)
    assert reading.arrangement == rule.options["fusion"]
    assert reading.norm == rule.options.get("layer_norm", "none")
    assert (reading.dropped, reading.first_kept) == (dropped_tokens(rule, tokenizer), rule.keep_first)
    assert not reading.prompt_cut
    assert rule.drop_text is None or reading.prompt_lost == 0  # else as many as another tokenizer makes of a template
    assert differences(pipe, reading, component) == []
    if name in DRAWINGS and name != "ltx2":  # whose connectors stand between
        assert width_difference(reading, DRAWINGS[name].make().config) == []


def test_where_configurations_of_diffusion_models_say_no_width():
    """HiDream has a list of widths; cross_attention_dim of the others need not be that of the text."""
    silent = {name for name, drawing in DRAWINGS.items() if width_in(drawing.make().config) is None}
    assert silent == {"hidream", "dreamlite", "lumina"}


# --------------------------------------------------------------------------------------- broken on purpose, and found


def lumina2(tokenizer, encoder=None) -> Lumina2Pipeline:  # noqa: F811
    return pipeline_of("lumina2", encoder or encoder_of(CASES["lumina2"]), tokenizer)


def test_a_pipeline_that_loses_nothing_has_no_findings(tokenizer):  # noqa: F811
    pipe = lumina2(tokenizer)
    assert findings(pipe, PROMPTS) == [] and differences(pipe, observe(pipe, PROMPTS[0])) == []


def test_a_prompt_that_is_cut_is_found(tokenizer):  # noqa: F811
    (line,) = findings(lumina2(tokenizer), ["a red cube", "a red cube on a blue sphere " * 40])
    assert "its end is not read, 256 tokens are the most" in line


def test_a_template_that_this_tokenizer_makes_shorter_is_found(tokenizer):  # noqa: F811
    """QwenImage drops 34 tokens, as many as Qwen's tokenizer makes of its template."""
    encoder = encoder_of(CASES["qwen-image"])
    without_bos(tokenizer, encoder)
    pipe = pipeline_of("qwen-image", encoder, tokenizer)
    assert findings(pipe, PROMPTS) == []
    pipe.prompt_template_encode = "<|im_start|>{}<|im_end|>"
    (line, _) = findings(pipe, PROMPTS)
    assert "its first" in line and "tokens are dropped with the template" in line
    start = observe(pipe, PROMPTS[0]).prompt_start
    assert f"its first {34 - start} tokens" in line


def test_a_prompt_of_few_tokens_is_found_and_loses_no_more_than_it_has(tokenizer, make_tokenizer):  # noqa: F811
    short = ["cube", "red cube", "a red cube", "two black cats sleep"]
    closed = lumina2(make_tokenizer("[BOS]", "[EOS]"))
    assert findings(closed, short) == [], "a short prompt is read whole"
    encoder = encoder_of(CASES["qwen-image"])
    without_bos(tokenizer, encoder)
    pipe = pipeline_of("qwen-image", encoder, tokenizer)
    pipe.prompt_template_encode = "{}" + " a blue sphere" * 20
    for count, prompt in enumerate(short, 1):
        assert observe(pipe, prompt).prompt_lost == count, f"{prompt!r} loses all of its tokens and no others"


def test_a_prompt_is_found_where_its_first_word_is_joined_with_a_space():
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(["Start: two dogs there", "Start: cat"], trainer)
    bpe = PreTrainedTokenizerFast(tokenizer_object=trained)
    for prompt in ("cat", "two", "two dogs", "two dogs there"):
        before, ids = (bpe(text)["input_ids"] for text in ("Start:", f"Start: {prompt}"))
        assert find_prompt(bpe, prompt, ids) == (range(len(before), len(ids)), False), prompt


def test_the_words_of_a_template_are_not_taken_for_the_prompt(tokenizer):  # noqa: F811
    ids = tokenizer("as a red cube : red cube")["input_ids"]
    assert find_prompt(tokenizer, "red cube", ids) == (range(len(ids) - 2, len(ids)), False)


def test_an_encoder_without_the_layers_that_are_read_is_said_to_be_so(tokenizer):  # noqa: F811
    torch.manual_seed(0)
    shallow = Qwen3ForCausalLM(Qwen3Config(**decoder(6))).eval()
    without_bos(tokenizer, shallow)
    pipe = pipeline_of("flux2-klein", shallow, tokenizer)
    with pytest.raises(InputError, match=r"Flux2KleinPipeline, whose encode_prompt fails \(IndexError"):
        findings(pipe, PROMPTS)
    options = {"text_encoder_out_layers": (1, 2)}
    reading = observe(pipe, PROMPTS[0], lambda pipe, prompts: pipe.encode_prompt(prompts, **options))
    (line,) = differences(pipe, reading)
    assert line.startswith("flux2-klein reads layers that this encoder does not have: ") and "6 layers" in line


def test_what_is_observed_is_what_the_call_of_a_pipeline_reads(tokenizer):  # noqa: F811
    """Sana's call puts an instruction before the prompt, its encode_prompt by itself does not."""
    pipe = pipeline_of("sana", encoder_of(CASES["sana"]), tokenizer)
    reading = observe(pipe, PROMPTS[0])
    assert reading.first_kept and findings(pipe, PROMPTS) == differences(pipe, reading) == []
    assert findings(pipe, [PROMPTS[0].title()]) == []  # which it writes in small letters
    bare = observe(pipe, PROMPTS[0], lambda pipe, prompts: pipe.encode_prompt(prompts))
    (line,) = differences(pipe, bare)
    assert line == f"it drops 0 tokens, sana drops {reading.dropped} tokens after the first"


def test_an_encoder_that_reads_its_padding_is_found(tokenizer):  # noqa: F811
    """CogView4 pads on the left to a multiple of 16 and gives no mask."""
    tokenizer.padding_side = "left"
    pipe = pipeline_of("cogview4", encoder_of(CASES["cogview4"]), tokenizer)
    assert not observe(pipe, PROMPTS[0]).mask_given
    assert any("padding is read as if it were text" in line for line in findings(pipe, PROMPTS))


def test_padding_on_the_left_that_is_masked_is_no_finding(tokenizer):  # noqa: F811
    case = CASES["nucleus-image"]
    encoder = encoder_of(case)
    without_bos(tokenizer, encoder)
    tokenizer.padding_side = "left"
    pipe = pipeline_of("nucleus-image", encoder, tokenizer)
    assert findings(pipe, PROMPTS, lambda pipe, prompts: case.encode(pipe, prompts)[0]) == []


def test_another_encoder_of_the_same_width_and_another_state_are_found(tokenizer):  # noqa: F811
    torch.manual_seed(0)
    swapped = lumina2(tokenizer, LlamaModel(LlamaConfig(**decoder())).eval())
    (line,) = differences(swapped, observe(swapped, PROMPTS[0]))
    assert "the encoder is a llama, that of lumina2 a gemma2" in line

    class Last(Lumina2Pipeline):
        """Takes the last state, after the final norm."""

        def _get_gemma_prompt_embeds(self, prompt, device=None, max_sequence_length=256):
            inputs = self.tokenizer(prompt, padding="max_length", max_length=256, return_tensors="pt")
            output = self.text_encoder(**inputs, output_hidden_states=True)
            return output.hidden_states[-1], inputs["attention_mask"]

    other = Last(None, None, None, encoder_of(CASES["lumina2"]), tokenizer)
    (line,) = differences(other, observe(other, PROMPTS[0]))
    assert line == "it reads state last, lumina2 reads state 3"


def test_an_encoder_of_another_width_is_found(tokenizer):  # noqa: F811
    torch.manual_seed(0)
    pipe = lumina2(
        tokenizer, LlamaModel(LlamaConfig(**decoder() | {"hidden_size": 48, "intermediate_size": 32})).eval()
    )
    (line,) = width_difference(observe(pipe, PROMPTS[0]), image_transformer(channels=4).config)
    assert line == "the features are 48 wide, the diffusion model reads a width of 32: it cannot read them"


def test_prompts_that_another_tokenizer_reads_are_found(tokenizer):  # noqa: F811
    """The tokenizer of the glyph encoder, with other numbers for the same words, in place of the encoder's own."""
    encoder = encoder_of(CASES["hunyuan-image"])
    without_bos(tokenizer, encoder)
    vocabulary = tokenizer.get_vocab()
    turned = Tokenizer(models.WordLevel({word: len(vocabulary) - 1 - i for word, i in vocabulary.items()}, "[UNK]"))
    turned.pre_tokenizer = pre_tokenizers.Whitespace()
    pipe = pipeline_of("hunyuan-image", encoder, tokenizer)
    pipe.tokenizer_2 = PreTrainedTokenizerFast(tokenizer_object=turned, unk_token="[UNK]", pad_token="[PAD]")

    def swapped(pipe, prompts):
        return pipe._get_qwen_prompt_embeds(pipe.tokenizer_2, pipe.text_encoder, prompts)

    (line,) = findings(pipe, PROMPTS[:1], swapped)
    assert line.endswith(
        "its tokens are not among those that the encoder reads, which are of the pipeline's tokenizer_2"
    )


def test_a_fused_encoder_is_seen_as_such(tokenizer):  # noqa: F811
    model = GrantedModel.from_loaded(encoder_of(CASES["lumina2"]), tokenizer, fusion="norm_avg")
    pipe = lumina2(tokenizer, model)
    reading = observe(pipe, PROMPTS[0])
    assert reading.states == ("fused",) and findings(pipe, PROMPTS) == differences(pipe, reading) == []


@pytest.mark.parametrize(
    ("options", "states", "arrangement"),
    [
        ({"fusion": "norm_avg", "projection_dim": 48, "projection_trained": True}, ("fused",), "single"),
        ({"fusion": "learned", "num_outputs": 2}, ("fused 1", "fused 2"), "concat"),  # one for each block
    ],
)
def test_projected_features_and_several_sums_are_seen(options, states, arrangement, tokenizer):  # noqa: F811
    model = GrantedModel.from_loaded(encoder_of(CASES["lumina2"]), tokenizer, **options)
    if "num_outputs" in options:
        torch.nn.init.normal_(model.fusion.weights)
    transformer = image_transformer(channels=4, cap_feat_dim=options.get("projection_dim", 32))
    reading = observe(GrantedLumina2Pipeline(transformer, None, None, model, tokenizer=None), PROMPTS[0])
    assert (reading.states, reading.arrangement) == (states, arrangement)
    assert width_difference(reading, transformer.config) == []


def test_a_model_built_for_a_pipeline_of_several_states_is_read_as_its_own_encoder(tokenizer):  # noqa: F811
    encoder = encoder_of(CASES["flux2-klein"])
    without_bos(tokenizer, encoder)
    model = GrantedModel.from_loaded(encoder.model, tokenizer, **pipeline_options("flux2-klein", tokenizer))
    pipe = pipeline_of("flux2-klein", model, tokenizer)
    assert observe(pipe, PROMPTS[0]).states == ("9", "18", "27") and findings(pipe, PROMPTS) == []


def test_features_that_no_state_explains_are_an_error(tokenizer):  # noqa: F811
    pipe = lumina2(tokenizer)
    with pytest.raises(InputError, match="does something to them that is not known here"):
        observe(pipe, PROMPTS[0], lambda pipe, prompts: torch.tanh(encode(pipe, prompts)[0]))


def test_the_command_prints_a_table_and_exits_with_1_where_something_is_lost(tokenizer, tmp_path, granted):  # noqa: F811
    pipe = Lumina2Pipeline(
        image_transformer(channels=4),
        FlowMatchEulerDiscreteScheduler(),
        AutoencoderKL(**SCALED_IMAGE_VAE),
        encoder_of(CASES["lumina2"]),
        tokenizer,
    )
    pipe.save_pretrained(tmp_path / "pipe")
    code, out, error = granted("doctor", tmp_path / "pipe")
    assert code == 0, error
    assert "state 3" in out and "lumina2" in out and "nothing is lost" in out
    assert "32; the transformer reads 32" in out
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\n" + "a red cube on a blue sphere " * 40 + "\n")
    code, out, _ = granted("doctor", tmp_path / "pipe", "--prompts", prompts)
    assert code == 1 and "its end is not read" in " ".join(out.split())
    code, _, error = granted("doctor", tmp_path)
    assert code == 2 and "or a diffusers pipeline" in error and error.count("\n") == 1
    code, _, error = granted("doctor", tmp_path / "pipe", "--component", "tokenizer")
    assert code == 2 and "without a tokenizer" in error
    code, _, error = granted("doctor", tmp_path / "pipe", "--dtype", "float32")
    assert code == 2 and "got --dtype for the pipeline" in error and error.count("\n") == 1
    LlamaModel(LlamaConfig(**decoder() | {"hidden_size": 48})).save_pretrained(tmp_path / "pipe" / "text_encoder")
    index = tmp_path / "pipe" / "model_index.json"
    index.write_text(index.read_text().replace("Gemma2Model", "LlamaModel"))
    code, out, _ = granted("doctor", tmp_path / "pipe")
    assert code == 1 and "48; the transformer reads 32" in out and "lost: the features are 48 wide" in out


@pytest.mark.parametrize("kind", MAKERS)
def test_the_command_looks_at_pipelines_of_this_package_in_the_dtype_they_are_saved_in(
    kind,
    make_tokenizer,
    tmp_path,
    granted,
):
    encoder = make_encoder(make_tokenizer("[BOS]", None)).to(torch.bfloat16)
    MAKERS[kind](encoder).save_pretrained(tmp_path / "pipe")
    code, out, error = granted("doctor", tmp_path / "pipe", "--trust-remote-code")
    assert code == 0 and "nothing is lost" in out and "bfloat16" in out, error
