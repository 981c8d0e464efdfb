"""Another encoder in the place of one: which tokens stand for the same characters, the map, the saved model."""

import json
import random

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from granted import GrantedModel
from granted.encoding.adaptation import adapt, fused_alone, load_feature, save, split, token_features
from granted.encoding.alignment import overlap_weights, same_text, token_places
from granted.encoding.features import feature_encoder
from granted.encoding.options import EncoderOptions
from granted.encoding.ridge import Moments, fit_ridge, mean_explained
from granted.pipeline_granted import GrantedLumina2Pipeline
from granted.tests.conftest import SENTENCES
from granted.tests.tiny_models import image_transformer
from granted.utils.errors import InputError


WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


def make_texts(count: int = 80) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(count)]


def around(tokenizer: PreTrainedTokenizerFast, **options) -> GrantedModel:
    torch.manual_seed(3)
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(**size, vocab_size=len(tokenizer), max_position_embeddings=64)
    return GrantedModel.from_loaded(BertModel(config), tokenizer, **{"fusion": "norm_avg"} | options)


def piece_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A WordPiece with [CLS] and [SEP] that ignores case, or a byte-level BPE without any, both of pieces of words."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if kind == "wordpiece":
        fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        fast.normalizer, fast.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials)
    else:
        fast = Tokenizer(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=specials, initial_alphabet=alphabet)
    fast.train_from_iterator(SENTENCES, trainer)
    if kind == "wordpiece":
        used = [(token, fast.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        fast.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=used)
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64)


@pytest.fixture(scope="module")
def pieces() -> GrantedModel:
    return around(piece_tokenizer("wordpiece"))


@pytest.fixture(scope="module")
def letters() -> GrantedModel:
    return around(piece_tokenizer("bytes"))


@pytest.fixture(scope="module")
def old(tiny_bert_folder) -> GrantedModel:
    return feature_encoder(GrantedModel.from_encoder(tiny_bert_folder), "norm_avg").requires_grad_(False)


@pytest.fixture(scope="module")
def new(tiny_encoder_folder) -> GrantedModel:
    return feature_encoder(GrantedModel.from_encoder(tiny_encoder_folder), "norm_avg").requires_grad_(False)


@pytest.fixture(scope="module")
def found(old, new):
    return adapt(old, new, make_texts(), ("random", "words"))


# ----------------------------------------------------------------------------------------------------------- alignment


@settings(max_examples=30)
@given(st.lists(st.sampled_from([*WORDS, "Zoë", "naïve", "犬", "x  y", "1,5"]), min_size=1, max_size=12).map(" ".join))
def test_tokens_that_are_paired_overlap_and_each_is_shared_out_whole(pieces, letters, text):
    for new, old in ((pieces, letters), (letters, pieces), (pieces, pieces)):
        ((one,), (other,)) = token_places(new, [text]), token_places(old, [text])
        assert [len(one)] == new.count_tokens([text]) and [len(other)] == old.count_tokens([text])
        weights = overlap_weights(one, other)  # (N_new, N_old)
        torch.testing.assert_close(weights.sum(1), torch.ones(len(one), dtype=torch.float64))
        for i, j in weights.nonzero().tolist():
            overlap = min(one.ends[i], other.ends[j]) - max(one.begins[i], other.begins[j])
            alone = not ((one.begins[i] < other.ends) & (other.begins < one.ends[i])).any()
            assert overlap > 0 or alone
    assert torch.equal(weights, torch.eye(len(one), dtype=torch.float64))  # onto itself


def test_a_token_is_the_mean_of_those_that_share_its_characters(pieces, letters):
    ((one,), (other,)) = token_places(pieces, ["a cube"]), token_places(letters, ["a cube"])
    text = "a cube"
    for place in (one, other):
        spans = [text[int(b) : int(e)] for b, e, own in zip(place.begins, place.ends, place.own) if own]
        assert "".join(spans) in ("acube", "a cube")
    assert one.own.tolist() == [False, *[True] * (len(one) - 2), False] and other.own.all()
    weights = overlap_weights(other, one)  # (N_letters, N_pieces)
    assert not weights[:, [0, -1]].any()  # nothing stands for special tokens
    weights = overlap_weights(one, other)
    assert weights[0, 0] == weights[-1, -1] == 1  # which themselves take the nearest


def test_special_tokens_and_templates_stand_before_and_behind_the_text(new, old, make_tokenizer):
    framed = around(make_tokenizer("[BOS]", None), prompt_template="the dog {prompt} runs", template_drop_tokens=1)
    ((one,), (other,)) = token_places(framed, ["red cube"]), token_places(old, ["red cube"])
    assert one.own.tolist() == [False, False, True, True, False]  # the opening token is dropped
    expected = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert overlap_weights(one, other).tolist() == expected
    ((one,), (other,)) = token_places(new, [""]), token_places(old, [""])
    assert overlap_weights(one, other).tolist() == [[0.5, 0.5]]
    framed.config.template_keep_first = True  # [BOS] stays, "the" is dropped
    ((one,), (other,)) = token_places(framed, ["red cube"]), token_places(old, ["red cube"])
    assert one.begins.tolist() == [-1, -0.5, 0, 4, 8] and overlap_weights(one, other).tolist() == expected


def test_texts_that_two_encoders_read_otherwise_are_told(make_tokenizer, old):
    tokenizer = make_tokenizer("[BOS]", None)
    for options, text, same in (
        ({}, "a red cube", True),
        ({"text_cleaning": "lower_strip"}, "A red cube", True),
        ({"text_cleaning": "unescape"}, "a red &amp; blue cube", False),
        ({"max_sequence_length": 3}, "a red cube", False),
    ):
        pair = (token_places(one, [text])[0] for one in (around(tokenizer, **options), old))
        assert same_text(*pair) == same


# --------------------------------------------------------------------------------------------------------- the map


def test_sums_fit_what_all_rows_at_once_fit():
    x, y = torch.randn(200, 5, dtype=torch.float64) * 3 + 7, torch.randn(200, 3, dtype=torch.float64)
    y += x[:, :3] - 2
    whole, parts = Moments(5, 3), [Moments(5, 3), Moments(5, 3)]
    whole.add(x, y)
    for part, rows in zip(parts, (slice(0, 50), slice(50, 200))):
        part.add(x[rows], y[rows])
    one, two = fit_ridge(whole), fit_ridge(parts[0] + parts[1])
    torch.testing.assert_close(one.weight, two.weight)
    ones = torch.cat([x, torch.ones(200, 1, dtype=torch.float64)], 1)
    expected = ones @ torch.linalg.lstsq(ones, y).solution  # (200, 3)
    torch.testing.assert_close(one(x), expected, atol=1e-5, rtol=1e-5)
    shares = 1 - (one(x) - y).square().mean(0) / y.var(0, unbiased=False)
    torch.testing.assert_close(one.explained(whole), shares)


def test_the_strength_is_the_largest_that_explains_hardly_less_of_other_pairs():
    x, signal = torch.randn(40, 30), torch.randn(30, 1)
    few, many = Moments(30, 1), Moments(30, 1)
    few.add(x, x @ signal + 10 * torch.randn(40, 1))
    x = torch.randn(1000, 30)
    many.add(x, x @ signal + 10 * torch.randn(1000, 1))
    shares = {strength: mean_explained(fit_ridge(few, many, (strength,)).explained(many)) for strength in (0.0, 1.0)}
    assert shares[1.0] > shares[0.0] and fit_ridge(few, many, (0.0, 1.0)).strength == 1.0
    exact, x = Moments(30, 1), torch.randn(1000, 30)
    exact.add(x, x @ signal)
    assert fit_ridge(exact, exact, (1e-8, 1e-2)).strength == 1e-8
    assert fit_ridge(many, many, (1e-8, 1e-2)).strength == 1e-2
    same = Moments(30, 30)
    same.add(x, x)  # explained to the last digit, or one beyond it
    assert fit_ridge(same, same).strength <= 1e-4
    twice, both = Moments(30, 1), Moments(30, 1)
    twice.add(x, x @ signal, 2)
    for _ in range(2):
        both.add(x, x @ signal)
    torch.testing.assert_close(twice.xx, both.xx)
    assert twice.count == both.count == 2000


def test_a_channel_that_never_varies_is_neither_divided_by_nor_counted():
    sums, x = Moments(3, 2), torch.randn(50, 3)
    x[:, 1] = 5
    sums.add(x, torch.stack([x[:, 0], torch.full((50,), 2.0)], 1))
    found = fit_ridge(sums)
    assert torch.isfinite(found.weight).all() and found.explained(sums)[1].isnan()
    assert mean_explained(found.explained(sums)) == pytest.approx(1)


def test_features_that_are_a_linear_transform_of_the_old_are_recovered(old):
    torch.manual_seed(5)
    turned = GrantedModel.from_loaded(
        old.encoder, old.tokenizer, fusion="norm_avg", projection_dim=20, projection_trained=True
    ).requires_grad_(False)
    texts = make_texts()
    found = adapt(turned, old, texts, ())  # the old one's features are a projection of the new one's
    assert found.report["explained_variance"]["map"]["mean over channels"] > 0.9999
    for ours, theirs in zip(found.model.encode(texts[:3]), turned.encode(texts[:3])):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_the_report_has_what_the_map_is_compared_with(found, old, new):
    shares = {name: one["mean over channels"] for name, one in found.report["explained_variance"].items()}
    assert {*shares} == {"map", "random weights", "words with positions", "old onto itself"}
    assert shares["old onto itself"] > 0.999 and all(share <= 1 for share in shares.values())
    texts = found.report["texts"]
    assert texts["given"] == 80 and texts["fit"] + texts["chosen on"] + texts["test"] == 80
    assert found.report["old"]["fingerprint"] == old.fingerprint() and found.report["new"]["width"] == 32
    parts = split(make_texts())
    assert len({text for part in parts.values() for text in part}) == 80 and parts == split(make_texts())


# ------------------------------------------------------------------------------------------------- the saved model


def test_the_saved_model_gives_what_the_map_gives_and_draws_in_a_pipeline(found, new, old, tmp_path):
    save(found, tmp_path / "adapted", {"old": "bert"})
    texts = [*SENTENCES[:2], "a red cube"]
    model = GrantedModel.from_pretrained(tmp_path / "adapted")
    assert model.config.hidden_size == old.config.hidden_size
    expected = [found.map(row) for row in fused_alone(new).encode(texts)]  # (N_i, D_old) each
    for ours, theirs in zip(model.encode(texts), expected):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)
    report = json.loads((tmp_path / "adapted" / "adapt.json").read_text())
    assert report["names"] == {"old": "bert"} and report["strength"] == found.report["strength"]
    shipped = AutoModel.from_pretrained(tmp_path / "adapted", trust_remote_code=True)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "adapted")([texts[0]], return_tensors="pt")
    features = shipped(inputs.input_ids, inputs.attention_mask).last_hidden_state[0]  # (N, D_old)
    torch.testing.assert_close(features.double(), expected[0], atol=1e-4, rtol=1e-4)
    pipe = GrantedLumina2Pipeline(image_transformer(), FlowMatchEulerDiscreteScheduler(), None, model, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    embeds, mask, *_ = pipe.encode_prompt(texts[:1], negative_prompt="")
    torch.testing.assert_close(embeds[0][mask[0].bool()].double(), expected[0], atol=1e-4, rtol=1e-4)
    (image,) = pipe(texts[0], height=8, width=8, num_inference_steps=2, output_type="pt").images
    assert torch.isfinite(image).all()


def test_no_text_is_fitted_too_for_guidance_reads_it(old, letters, monkeypatch):
    expected = token_features(old, [""])[0].mean(0)  # (D_old,), of [CLS] and [SEP]
    errors = []
    for share in (0, 0.02, 0.5):
        monkeypatch.setattr("granted.encoding.adaptation.SHARE_OF_NO_TEXT", share)
        found = adapt(old, letters, make_texts(), ())  # letters has no token of no text but one of padding
        (ours,) = found.map(token_features(fused_alone(letters), [""])[0]).float()  # (D_old,)
        errors.append((ours - expected).norm())
    assert errors[0] > errors[1] > errors[2]


def test_the_template_of_the_new_encoder_and_layer_weights_of_a_saved_one_stay(tiny_encoder_folder, old, tmp_path):
    options = {"prompt_template": "the {prompt} .", "template_drop_tokens": 1, "fused_hidden_states": False}
    learned = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned", **options)
    torch.nn.init.normal_(learned.fusion.weights)
    with pytest.warns(UserWarning, match="hidden_states of this model stay the encoder's own"):
        learned.calibrate(SENTENCES)
    learned.save_pretrained(tmp_path / "learned")
    _, saved = load_feature(str(tmp_path / "learned"), None, EncoderOptions())
    model = adapt(old, saved, make_texts(), ()).model
    torch.testing.assert_close(model.layer_weights, learned.layer_weights)
    assert model.config.prompt_template == "the {prompt} ." and model.config.template_drop_tokens == 1
    assert len(model.encode(["red cube"])[0]) == 4
    out = model(*model.pad(model.tokenize(["red cube"])), output_hidden_states=True)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state), "a pipeline that reads states gets no map"


# --------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_an_encoder_and_says_how_good_it_is(
    granted, tiny_encoder_folder, tiny_bert_folder, tmp_path
):
    (tmp_path / "texts.txt").write_text("\n".join([*make_texts(), ""]))
    command = ["adapt", f"bert={tiny_bert_folder}", f"llama={tiny_encoder_folder}", "--texts", tmp_path / "texts.txt"]
    command += ["--output", tmp_path / "out", "--old-feature", "last", "--new-template", "a {prompt}"]
    code, out, error = granted(*command)
    assert code == 0, error
    assert out.startswith("llama explains 0.") and "old onto itself 1.00" in out and out.count("\n") == 1
    report = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert report["names"] == {"old": "bert", "new": "llama", "texts": "texts.txt"}
    assert report["old"]["fusion"] == "single" and report["new"]["prompt_template"] == "a {prompt}"
    assert str(tmp_path) not in (tmp_path / "out" / "adapt.json").read_text()
    assert GrantedModel.from_pretrained(tmp_path / "out").config.hidden_size == 32
    assert "which exists" in refused(granted, *command)
    command[command.index(tmp_path / "out")] = tmp_path / "again"
    command += ["--new-layers", "embeddings,0,-1"]
    command[1] = command[2]  # the same encoder twice
    assert granted(*command)[0] == 0
    model = GrantedModel.from_pretrained(tmp_path / "again")
    assert model.config.hidden_size == 32 and model.config.fused_size() == 96


def refused(granted, *arguments) -> str:
    code, _, error = granted(*arguments)
    assert code == 2 and error.count("\n") == 1, error
    return error


def test_what_cannot_be_adapted_is_one_line(granted, tiny_encoder_folder, tiny_bert_folder, tmp_path):
    texts = tmp_path / "texts.txt"
    command = ["adapt", tiny_bert_folder, tiny_encoder_folder, "--texts", texts, "--output", tmp_path / "out"]
    for written, words in (
        ("\n \n", "got no text in"),
        ("a red cube\n" * 20, "got 1 different texts, expected at least 10"),
        ("\n".join(f"{word} {word}" for word in WORDS[:12]), "tokens to fit 32 features, expected at least as many"),
    ):
        texts.write_text(written)
        assert words in refused(granted, *command)
    texts.write_text("\n".join(make_texts()))
    assert "expected last, penultimate" in refused(granted, *command, "--old-feature", "layer_9")
    assert "got the feature learned, whose" in refused(granted, *command, "--new-feature", "learned")
    for layers in ("0,9", "0,0", "first", "0,embeddings", "embeddings"):
        assert f"got layers {layers} of an encoder with 4" in refused(granted, *command, "--new-layers", layers)
    assert "one of the two" in refused(granted, *command, "--new-layers", "0", "--new-feature", "last")
    stacked = GrantedModel.from_encoder(tiny_bert_folder, fusion="stack", layers=[0, 1])
    stacked.save_pretrained(tmp_path / "stacked")
    command[1] = str(tmp_path / "stacked")
    assert "features (B, K, N, D)" in refused(granted, *command)
    assert "a saved model, expected its own" in refused(granted, *command, "--old-feature", "last")
    command[1] = str(tmp_path / "nowhere")
    assert "does not exist" in refused(granted, *command)
    assert not (tmp_path / "out").exists()


def test_encoders_that_cannot_be_read_token_by_token_are_refused(old, new, tiny_bert_folder):
    class Slow:
        is_fast, pad_token = False, "[PAD]"

    slow = GrantedModel.from_loaded(old.encoder, old.tokenizer)
    slow.tokenizer = Slow()
    with pytest.raises(InputError, match=r"got the new encoder with a Slow.*expected a fast tokenizer"):
        adapt(old, slow, make_texts())
    untrained = GrantedModel.from_encoder(tiny_bert_folder, projection_dim=8)
    with pytest.raises(InputError, match="untrained projection"):
        adapt(untrained, new, make_texts())
    short = around(old.tokenizer, max_sequence_length=3)
    with pytest.raises(InputError, match="0 of which both encoders read whole"):
        adapt(old, short, make_texts())
