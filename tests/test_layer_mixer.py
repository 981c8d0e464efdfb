"""At inference: other weights of the layers, and words that count more or less, in encoders and pipelines."""

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st

from granted.modeling_emphasis import Span, emphasized, find_spans, parse_emphasis, token_factors
from granted.modeling_granted import GrantedModel
from granted.tests.granted_pipelines import MAKERS, SHORT, SIZES, conditioning, make_encoder, sample


LAYERS = 4
EACH = pytest.mark.parametrize("kind", SIZES)


@pytest.fixture
def encoder(make_tokenizer) -> GrantedModel:
    return make_encoder(make_tokenizer("[BOS]", None))


# ------------------------------------------------------------------------------------------------------ layer weights


def test_weights_of_a_single_layer_give_that_layer_and_the_models_own_come_back(encoder):
    own = encoder.encode([SHORT])[0]
    weights = torch.zeros(LAYERS)
    weights[2] = 1
    found = encoder.encode([SHORT], layer_weights=weights)[0]
    hidden = encoder.encoder(encoder.tokenizer(SHORT, return_tensors="pt").input_ids, output_hidden_states=True)
    expected = torch.nn.functional.layer_norm(hidden.hidden_states[3][0], (32,))
    torch.testing.assert_close(found, expected)
    assert torch.equal(encoder.encode([SHORT])[0], own)
    torch.testing.assert_close(encoder.encode([SHORT], layer_weights=encoder.layer_weights)[0], own)


def test_signed_weights_are_linear_and_rows_are_sums_of_their_own(encoder):
    one, other = torch.tensor([1.0, -2, 0, 0.5]), torch.tensor([0, 3.0, -1, 0])
    first, second, both, rows = (
        encoder.encode([SHORT], layer_weights=weights)[0]
        for weights in (one, other, one - other, torch.stack([one, other]))
    )
    torch.testing.assert_close(both, first - second)
    torch.testing.assert_close(rows, torch.stack([first, second]))


def test_what_standardises_and_the_embeddings_are_kept(make_tokenizer):
    encoder = make_encoder(make_tokenizer("[BOS]", None), embeddings=True)
    encoder.calibrate([SHORT, "two black cats"])
    own = encoder.encode([SHORT])[0]
    torch.testing.assert_close(encoder.encode([SHORT], layer_weights=encoder.layer_weights)[0], own)
    with pytest.raises(ValueError, match=r"of shape \(4,\), expected finite ones of shape \(5,\) or \(K, 5\)"):
        encoder.encode([SHORT], layer_weights=torch.ones(4))


@pytest.mark.parametrize(
    ("options", "weights", "message"),
    [
        ({}, torch.ones(3), r"of shape \(3,\), expected finite ones of shape \(4,\) or \(K, 4\)"),
        ({}, torch.full((4,), torch.nan), "expected finite ones"),
        ({"num_outputs": 2}, torch.ones(4), r"of shape \(4,\), expected finite ones of shape \(2, 4\)"),
        ({"fusion": "concat", "layers": [0, 1]}, torch.ones(4), "fusion 'concat', expected one that sums layers"),
        ({"fusion": "stack", "layers": [0, 1]}, torch.ones(4), "fusion 'stack', expected one that sums layers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(make_tokenizer, options, weights, message):
    encoder = make_encoder(make_tokenizer("[BOS]", None), **options)
    with pytest.raises(ValueError, match=message):
        encoder.encode([SHORT], layer_weights=weights)


@EACH
def test_pipelines_draw_with_the_weights_given(kind, encoder):
    pipe = MAKERS[kind](encoder)
    own = sample(pipe, kind, SHORT)
    assert torch.equal(sample(pipe, kind, SHORT, layer_weights=None), own)
    torch.testing.assert_close(sample(pipe, kind, SHORT, layer_weights=encoder.layer_weights), own)
    blocks = len(pipe.transformer.layers if kind == "image" else pipe.transformer.blocks)
    rows = encoder.layer_weights.expand(blocks, -1)
    torch.testing.assert_close(sample(pipe, kind, SHORT, layer_weights=rows), own)
    assert (sample(pipe, kind, SHORT, layer_weights=[1.0, -1, 0, 0]) - own).abs().max() > 1e-4
    with pytest.raises(ValueError, match="got 3 features of each token for a transformer of"):
        sample(pipe, kind, SHORT, layer_weights=torch.ones(3, LAYERS))


# ----------------------------------------------------------------------------------------------------------- emphasis


def test_words_and_factors_are_read_and_other_parentheses_are_text():
    assert parse_emphasis("a (red:1.5) cube") == ("a red cube", [Span(2, 5, 1.5)])
    assert parse_emphasis("(a dog: -2)(b:.5)") == ("a dogb", [Span(0, 5, -2.0), Span(5, 6, 0.5)])
    assert parse_emphasis(r"a (photo) of \(red:1.5\)") == ("a (photo) of (red:1.5)", [])
    assert parse_emphasis(r"(12\(b\):2) at 10:30") == ("12(b) at 10:30", [Span(0, 5, 2.0)])
    assert parse_emphasis(r"\\(a:1)\n (b\\:2)") == (r"\a\n b\ ".strip(), [Span(1, 2, 1.0), Span(5, 7, 2.0)])
    for text, message in (("((red:1.2) cube:1.5)", "within another one"), ("a (:2) cube", "expected words")):
        with pytest.raises(ValueError, match=message):
            parse_emphasis(text)


def marked(parts: list[tuple[str, float | None]]) -> str:
    """Parts of a text written with their marks, as a user would."""
    escape = str.maketrans({character: f"\\{character}" for character in "()\\"})
    written = [(text.translate(escape), factor) for text, factor in parts]
    return "".join(text if factor is None else f"({text}:{factor:g})" for text, factor in written)


TEXTS = st.text(min_size=1) | st.text("\\():1 a", min_size=1)


@given(st.lists(st.tuples(TEXTS, st.none() | st.integers(-9, 9).map(float)), max_size=5))
def test_any_text_comes_back_with_the_factors_of_its_parts(parts):
    parts = [(text if text.strip() else "a", factor) for text, factor in parts]
    plain, spans = parse_emphasis(marked(parts))
    assert plain == "".join(text for text, _ in parts)
    assert [(plain[span.start : span.end], span.factor) for span in spans] == [
        (text, factor) for text, factor in parts if factor is not None
    ]


def test_a_token_has_the_factor_of_the_words_it_is_of():
    spans = [Span(2, 5, 1.5), Span(6, 10, 0.0)]
    assert token_factors([(0, 0), (0, 1), (1, 4), (4, 5), (5, 10)], spans) == [1.0, 1.0, 1.5, 1.5, 0.0]
    with pytest.raises(ValueError, match="characters 6 to 10, expected words that are read"):
        token_factors([(0, 5)], spans)


def test_features_move_from_their_mean_and_others_stay_to_the_bit():
    features = torch.randn(2, 4, 8)
    found = emphasized(features, [1, 2, 0, -1])
    mean = features.mean(1, keepdim=True)
    assert torch.equal(found[:, 0], features[:, 0])
    torch.testing.assert_close(found[:, 1:2], mean + 2 * (features[:, 1:2] - mean))
    torch.testing.assert_close(found[:, 2:3], mean)
    torch.testing.assert_close(found[:, 3:4], 2 * mean - features[:, 3:4])


def test_every_place_of_the_words_is_found_and_absent_ones_are_named():
    assert find_spans("red on red", {"red": 2}) == [Span(0, 3, 2.0), Span(7, 10, 2.0)]
    assert find_spans("a hundred red", {"red": 2}) == [Span(10, 13, 2.0)]
    with pytest.raises(ValueError, match="emphasis on 'blue', expected words of the prompt 'a red cube'"):
        find_spans("a red cube", {"blue": 2})
    with pytest.raises(ValueError, match="words within it"):
        find_spans("a red cube", {"red cube": 2, "red": 3})


@pytest.mark.parametrize("template", [None, "say {prompt} now"])
def test_marks_and_words_say_the_same_whatever_surrounds_the_prompt(make_tokenizer, template):
    encoder = make_encoder(make_tokenizer("[BOS]", None), prompt_template=template)
    plain = encoder.encode(["a red cube"])[0]
    by_marks = encoder.encode(["a (red:3) cube"], emphasis=True)[0]
    assert torch.equal(by_marks, encoder.encode(["a red cube"], emphasis={"red": 3})[0])
    changed = (by_marks != plain).any(-1)  # (N,)
    assert changed.sum() == len(encoder.tokenizer("red", add_special_tokens=False).input_ids)
    kept = encoder.encode(["a (red:3) cube"])[0]
    assert len(kept) > len(plain), "without emphasis=True marks are text"


def test_emphasis_on_what_is_not_read_or_changed_is_refused(make_tokenizer):
    encoder = make_encoder(make_tokenizer("[BOS]", None), max_sequence_length=3)
    with pytest.warns(UserWarning, match="longer than 3"), pytest.raises(ValueError, match="words that are read"):
        encoder.encode(["a red cube on a table"], emphasis={"table": 2})
    encoder = make_encoder(make_tokenizer("[BOS]", None), text_cleaning="lower_strip")
    with pytest.raises(ValueError, match="text_cleaning='lower_strip' changes"):
        encoder.encode(["A red cube"], emphasis={"red": 2})


@EACH
def test_pipelines_draw_with_emphasis_also_without_this_package(kind, encoder, tmp_path):
    pipe = MAKERS[kind](encoder)
    own = sample(pipe, kind, SHORT)
    by_marks = sample(pipe, kind, "a (red:4) cube", emphasis=True)
    assert (by_marks - own).abs().max() > 1e-4
    assert torch.equal(sample(pipe, kind, SHORT, emphasis={"red": 4}), by_marks)
    embeds = conditioning(pipe, SHORT)
    for name, value in (("emphasis", {"red": 4}), ("layer_weights", torch.ones(LAYERS))):
        with pytest.raises(ValueError, match=f"got {name} with prompt_embeds"):
            sample(pipe, kind, **embeds, **{name: value})
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    torch.testing.assert_close(sample(loaded, kind, "a (red:4) cube", emphasis=True), by_marks)


def test_a_mixture_of_raw_layers_is_of_raw_layers(tiny_encoder_folder):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="avg")
    (own,) = encoder.encode([SHORT])
    torch.testing.assert_close(encoder.encode([SHORT], layer_weights=encoder.layer_weights)[0], own)


def test_after_an_error_the_models_own_weights_come_back(encoder):
    own = encoder.fusion
    with pytest.raises(KeyboardInterrupt), encoder.mixing(torch.ones(4)):
        raise KeyboardInterrupt
    assert encoder.fusion is own


def test_marks_in_a_negative_prompt_are_read(encoder):
    pipe = MAKERS["image"](encoder)
    plain, marked = (conditioning(pipe, SHORT, negative_prompt=one, emphasis=True) for one in ("a bird", "a (bird:2)"))
    assert torch.equal(plain["negative_prompt_attention_mask"], marked["negative_prompt_attention_mask"])
    assert not torch.allclose(plain["negative_prompt_embeds"], marked["negative_prompt_embeds"])
