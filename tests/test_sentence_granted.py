"""One folder as a SentenceTransformer: the embedding is the encoder's features, aggregated, wherever it is loaded."""

import shutil

import numpy
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from granted import ContextAggregator, ContextAggregatorConfig, GrantedModel
from granted.encoding.features import new_aggregator
from granted.publishing.sentence_transformers_files import write_sentence_transformers_files
from granted.sentence_granted import GrantedSentenceEncoder
from granted.tests.forked import CONTEXT
from granted.tests.fresh_process import run_without_package
from granted.training.aggregator.contrastive import AggregatorGroup
from granted.utils.errors import InputError


COMMIT = "0123456789abcdef0123456789abcdef01234567"

READ = """
import torch
from transformers import AutoModel, AutoTokenizer

texts = torch.load("texts.pt")
"""
LOAD = """
from sentence_transformers import SentenceTransformer

answer = {}
for name in ("granted", "org/granted"):
    model = SentenceTransformer(name, trust_remote_code=True, device="cpu")
    assert type(model[0]).__module__.startswith("transformers_modules."), type(model[0])
    answer[name] = model.encode(texts, convert_to_tensor=True, batch_size=3)
model.save_pretrained("again")
again = SentenceTransformer("again", trust_remote_code=True)
answer["again"] = again.encode(texts, convert_to_tensor=True)
answer["similarity"] = again.similarity(answer["again"], answer["again"])
answer["numpy"] = torch.from_numpy(again.encode(texts[0]))
for name in ("granted", "org/granted", "again"):  # the code of the aggregator lies at the root
    aggregator = AutoModel.from_pretrained(name, subfolder="context_aggregator", trust_remote_code=True)
    answer[f"{name} aggregator"] = aggregator(torch.ones(1, 3, 32)).context_embedding.detach()
assert "granted" not in sys.modules
torch.save(answer, "answer.pt")
"""
WITHOUT = """
tokenizer = AutoTokenizer.from_pretrained("granted", trust_remote_code=True)
model = AutoModel.from_pretrained("granted", trust_remote_code=True)
inputs = [tokenizer(text, return_tensors="pt") for text in texts]
torch.save([model(**one).last_hidden_state.detach()[0] for one in inputs], "answer.pt")
"""


def run(program: str, folder, *without: str):
    """Run a program in `folder`; what it saved."""
    run_without_package(READ + program, folder, without=without)
    return torch.load(folder / "answer.pt")


@torch.no_grad()
def plain(encoder, aggregator, texts) -> torch.Tensor:
    """Embeddings (texts, context_dim), one text at a time, of the parts as they are."""
    features = [encoder.encode([text])[0] for text in texts]  # (N, D) each
    return torch.cat([aggregator(one[None]).context_embedding for one in features])  # (texts, context_dim)


def close(one, other, atol=1e-5):
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def trained(encoder, feature="norm_avg") -> ContextAggregator:
    """An aggregator for one feature of an encoder, of the form that the training writes."""
    return new_aggregator(feature, encoder, "tiny", encoder.fingerprint(), seed=3).eval()


@pytest.fixture(scope="module")
def encoder(tiny_encoder_folder):
    return GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")


@pytest.fixture(scope="module")
def aggregator(encoder):
    return trained(encoder)


@pytest.fixture(scope="module")
def saved(encoder, aggregator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "granted"
    encoder.save_pretrained(folder)
    write_sentence_transformers_files(folder, aggregator)
    return folder


def wrapped(encoder, aggregator) -> SentenceTransformer:
    return SentenceTransformer(modules=[GrantedSentenceEncoder(encoder, aggregator)], device="cpu")


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------ the embedding


TEMPLATE = {"prompt_template": "describe : {prompt}", "template_drop_tokens": 2}
TEMPLATES = pytest.mark.parametrize(
    "options", [{}, TEMPLATE, TEMPLATE | {"template_keep_first": True}], ids=["plain", "template", "first kept"]
)


@TEMPLATES
@pytest.mark.parametrize("family", ["llama", "left", "bert"])
def test_an_embedding_is_the_aggregated_features_alone_or_in_a_batch(
    family, options, tiny_encoder_folder, tiny_bert_folder, sentences
):
    folder = tiny_bert_folder if family == "bert" else tiny_encoder_folder
    side = "left" if family == "left" else "right"
    encoder = GrantedModel.from_encoder(folder, fusion="norm_avg", padding_side=side, **options)
    aggregator = trained(encoder)
    expected = plain(encoder, aggregator, sentences)
    model = wrapped(encoder, aggregator)
    for batch_size in (1, 2, 64):
        found = model.encode(sentences, convert_to_tensor=True, batch_size=batch_size)
        assert found.dtype == torch.float32
        close(found, expected)
    close(torch.from_numpy(model.encode(sentences[0])), expected[0])
    assert model.get_embedding_dimension() == expected.shape[1] == 1024


@TEMPLATES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_is_the_one_that_is_scored(tiny_encoder_folder, sentences, dtype, options):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned", dtype=dtype, **options)
    with torch.no_grad():
        encoder.fusion.weights.copy_(torch.tensor([0.3, -0.5, 1.0, 0.2]))
    aggregator = trained(encoder, "learned")
    aggregator.fusion.load_state_dict(encoder.fusion.state_dict())
    model = wrapped(encoder, aggregator)
    found = model.encode(sentences, convert_to_tensor=True)
    assert found.dtype == aggregator.context_token.dtype == torch.float32
    heads = AggregatorGroup({"learned": aggregator})
    order = sorted(range(len(sentences)), key=lambda i: -len(sentences[i]))  # sentence-transformers' batch
    input_ids, mask = encoder.pad(encoder.tokenize([sentences[i] for i in order]))
    with torch.no_grad():
        _, scored = heads.embed(encoder, input_ids, mask)  # in fp32, as scores are
    close(found[order], scored["learned"])


def test_similarity_is_the_cosine(encoder, aggregator, sentences):
    model = wrapped(encoder, aggregator)
    embeddings = model.encode(sentences, convert_to_tensor=True)
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    close(model.similarity(embeddings, embeddings), unit @ unit.T)


def test_token_embeddings_are_the_fused_features(encoder, aggregator, sentences):
    found = wrapped(encoder, aggregator).encode(sentences, output_value="token_embeddings")
    for one, other in zip(found, encoder.encode(sentences)):
        close(one, other)


def test_a_prompt_is_put_before_the_text_inside_the_template(tiny_encoder_folder):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg", prompt_template="prompt : {prompt}")
    aggregator = trained(encoder)
    model = wrapped(encoder, aggregator)
    expected = plain(encoder, aggregator, ["describe a bird"])[0]
    close(torch.from_numpy(model.encode("a bird", prompt="describe ")), expected)
    model.prompts["query"] = "describe "
    close(torch.from_numpy(model.encode_query("a bird")), expected)


def test_a_text_that_is_cut_is_warned_about_and_the_length_is_the_configurations(tiny_encoder_folder, sentences):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg", max_sequence_length=9)
    aggregator = trained(encoder)
    model = wrapped(encoder, aggregator)
    assert model.max_seq_length == 9
    with pytest.warns(UserWarning, match="7 texts are longer than 9 tokens"):
        found = model.encode(sentences, convert_to_tensor=True)
    with pytest.warns(UserWarning):
        close(found, plain(encoder, aggregator, sentences))
    model.max_seq_length = 64
    assert encoder.config.max_sequence_length == 64
    close(model.encode(sentences, convert_to_tensor=True), plain(encoder, aggregator, sentences))


def test_no_text_is_read_past_the_last_position_whatever_is_asked(tiny_bert_folder):
    encoder = GrantedModel.from_encoder(tiny_bert_folder, fusion="norm_avg")
    model = wrapped(encoder, trained(encoder))
    for value in (None, 0, 7.5):
        with pytest.raises(ValueError, match=f"got max_seq_length={value}, expected a number of tokens"):
            model.max_seq_length = value
    model.max_seq_length = 1000
    assert model.max_seq_length == 64
    encoder.config.fill_to_multiple_of = 48
    assert model.max_seq_length == 48, "more than is read of a filled text"
    encoder.config.fill_to_multiple_of = None
    with pytest.warns(UserWarning, match="longer than 64 tokens .* the encoder has positions for no more"):
        found = model.encode("a red cube " * 30, convert_to_tensor=True)
    with pytest.warns(UserWarning):
        close(found, plain(encoder, model[0].aggregator, ["a red cube " * 30])[0])


def test_an_empty_text_has_an_embedding_and_what_is_no_text_is_refused(encoder, aggregator):
    model = wrapped(encoder, aggregator)
    assert torch.from_numpy(model.encode(["", "a bird"])).isfinite().all()
    with pytest.raises(ValueError, match="expected a text"):
        model.encode([{"text": "a bird"}])
    for prompt in (None, "describe "):
        for entry in (3, "\ud83d"):
            with pytest.raises(ValueError, match=r"at position 1, .* \(counted in a batch, .* sorts by length\)"):
                model.encode(["a bird", entry], prompt=prompt)


def test_a_column_of_any_kind_is_a_list_of_texts(encoder, aggregator, sentences):
    model = wrapped(encoder, aggregator)
    expected = model.encode(sentences, convert_to_tensor=True)
    columns = Dataset.from_dict({"text": sentences})["text"], numpy.array(sentences), tuple(sentences)
    for column in columns:
        assert torch.equal(model.encode(column, convert_to_tensor=True), expected), type(column)


def test_features_that_are_not_finite_are_refused_by_their_text(tiny_encoder_folder, aggregator):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")
    cube = encoder.tokenizer.convert_tokens_to_ids("cube")
    encoder.get_input_embeddings().weight.data[cube] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite features for the text 'a red cube', expected finite ones"):
        wrapped(encoder, aggregator).encode(["two black cats", "a red cube", "a bird"])


def test_two_processes_embed_as_one_does(encoder, aggregator, sentences, monkeypatch):
    monkeypatch.setattr("torch.multiprocessing.get_context", lambda method: CONTEXT)  # they begin at once
    model = wrapped(encoder, aggregator)
    expected = model.encode(sentences, convert_to_tensor=True)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        close(model.encode(sentences, pool=pool, convert_to_tensor=True, chunk_size=4), expected)
        with pytest.raises(ValueError, match="half a surrogate pair"):
            model.encode(["a bird", "\ud83d"], pool=pool)
    finally:
        model.stop_multi_process_pool(pool)


def test_a_loss_on_the_embedding_reaches_aggregator_layer_weights_and_encoder(tiny_encoder_folder, sentences):
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="learned")
    model = wrapped(encoder, trained(encoder, "learned"))
    model(model.preprocess(sentences))["sentence_embedding"].square().mean().backward()
    unused = {"0.aggregator.fusion.weights"}  # the encoder's own layer weights are the ones that count
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == unused


# ---------------------------------------------------------------------------------------------------------- the folder


def test_the_folder_loads_by_remote_code_where_the_package_is_not_installed(
    saved, encoder, aggregator, sentences, tmp_path
):
    shutil.copytree(saved, tmp_path / "granted")
    repository = tmp_path / "hub" / "models--org--granted"  # as a download from the Hub lies in the cache
    shutil.copytree(saved, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    torch.save(sentences, tmp_path / "texts.pt")
    answer = run(LOAD, tmp_path, "granted")

    expected = plain(encoder, aggregator, sentences)
    for name in ("granted", "org/granted", "again"):
        close(answer[name], expected)
        with torch.no_grad():
            close(answer[f"{name} aggregator"], aggregator(torch.ones(1, 3, 32)).context_embedding)
    close(answer["numpy"], expected[0])
    close(answer["similarity"].diagonal(), torch.ones(len(sentences)))
    card = {"README.md"}
    assert set(files(tmp_path / "again")) - card == set(files(saved)), "a re-saved folder lost or won a file"


def test_the_folder_loads_with_auto_classes_without_sentence_transformers(saved, encoder, sentences, tmp_path):
    shutil.copytree(saved, tmp_path / "granted")
    torch.save(sentences, tmp_path / "texts.pt")
    answer = run(WITHOUT, tmp_path, "granted", "sentence_transformers")
    for one, other in zip(answer, encoder.encode(sentences)):
        close(one, other)


def test_the_same_model_and_aggregator_give_the_same_bytes(saved, encoder, aggregator, tmp_path):
    aggregator.save_pretrained(tmp_path / "aggregator")
    encoder.save_pretrained(tmp_path / "granted")
    for _ in range(2):
        write_sentence_transformers_files(
            tmp_path / "granted", ContextAggregator.from_pretrained(tmp_path / "aggregator")
        )
        assert files(tmp_path / "granted") == files(saved)
    assert not any(str(tmp_path).encode() in content for content in files(tmp_path / "granted").values())


def test_another_aggregator_replaces_the_first(saved, encoder, sentences, tmp_path):
    shutil.copytree(saved, tmp_path / "granted")
    other = new_aggregator("norm_avg", encoder, "tiny", encoder.fingerprint(), seed=4).eval()
    write_sentence_transformers_files(tmp_path / "granted", other)
    model = SentenceTransformer(str(tmp_path / "granted"), trust_remote_code=True)
    close(model.encode(sentences, convert_to_tensor=True), plain(encoder, other, sentences))


def test_the_aggregator_stays_in_fp32_beside_an_encoder_in_bf16(saved, sentences):
    model = SentenceTransformer(str(saved), trust_remote_code=True, model_kwargs={"dtype": torch.bfloat16})
    assert model[0].encoder.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model[0].aggregator.parameters()} == {torch.float32}
    embeddings = model.encode(sentences, convert_to_tensor=True)
    assert embeddings.dtype == torch.float32
    # Not numbers of bf16 in fp32: the last product is none of bf16.
    assert not torch.equal(embeddings, embeddings.bfloat16().float())


def test_remote_code_is_not_run_unasked(saved):
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(saved))


def test_an_option_that_would_be_lost_is_refused(saved, encoder, aggregator, tmp_path):
    load = GrantedSentenceEncoder.load
    with pytest.raises(ValueError, match=r"got processor_kwargs=.*expected none"):
        load(str(saved), processor_kwargs={"padding_side": "left"})
    with pytest.raises(ValueError, match=r"got config_kwargs=.*expected none"):
        load(str(saved), config_kwargs={"fusion": "avg"})
    with pytest.raises(ValueError, match="got backend='onnx'"):
        load(str(saved), backend="onnx")
    with pytest.raises(ValueError, match="got safe_serialization=False"):
        wrapped(encoder, aggregator).save_pretrained(str(tmp_path / "out"), safe_serialization=False)


def test_an_aggregator_that_does_not_fit_is_refused_and_nothing_is_written(encoder, aggregator, tmp_path):
    folder = tmp_path / "granted"
    encoder.save_pretrained(folder)
    before = files(folder)

    def refused(other, message):
        with pytest.raises(InputError, match=message):
            write_sentence_transformers_files(folder, other)
        assert files(folder) == before

    refused(ContextAggregator(ContextAggregatorConfig(64, num_heads=4)), "of width 64, expected 32 as in")
    refused(trained(encoder, "last"), "reads last, expected the feature .*norm_avg")
    learned = trained(encoder, "learned")
    with torch.no_grad():
        learned.fusion.weights[0] += 0.1
    refused(learned, "reads learned, expected the feature .*norm_avg")
    stranger = new_aggregator("norm_avg", encoder, "other", "0" * 64, seed=3)
    refused(stranger, "trained for other, whose weights or dtype are not those of")


def test_a_folder_without_a_fused_encoder_is_refused(tiny_encoder_folder, encoder, aggregator, tmp_path):
    with pytest.raises(InputError, match=r"config.json, which does not exist"):
        write_sentence_transformers_files(tmp_path / "nowhere", aggregator)
    with pytest.raises(InputError, match=r"expected a folder that GrantedModel.save_pretrained wrote"):
        write_sentence_transformers_files(tiny_encoder_folder, aggregator)
    encoder.save_pretrained(tmp_path / "granted")
    (tmp_path / "granted" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="which cannot be loaded"):
        write_sentence_transformers_files(tmp_path / "granted", aggregator)
    assert not (tmp_path / "nowhere").exists()


def test_the_folder_loads_with_auto_classes_where_the_package_is_installed(saved, encoder, sentences):
    model = AutoModel.from_pretrained(saved)
    assert isinstance(model, GrantedModel)
    assert AutoTokenizer.from_pretrained(saved)(sentences)["input_ids"] == encoder.tokenize(sentences)
    for one, other in zip(model.encode(sentences), encoder.encode(sentences)):
        close(one, other)
