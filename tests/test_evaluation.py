"""From encoders to results and report: encoders by any name, and running again repeats nothing."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import ViTConfig, ViTModel

from granted.dataset_builders.ted_6k.reading import read_ted
from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.feature_files import encode_file
from granted.encoding.loading import EncoderOptions, load_encoder, split_spec
from granted.eval_metric.evaluation import evaluate, write_report
from granted.eval_metric.results import load_all, merge_shards
from granted.eval_metric.seed_groups import group_seeds
from granted.eval_metric.ted_probe import TedProbe
from granted.modeling_granted import GrantedModel
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.utils.errors import InputError
from granted.utils.files import folder_name, read_json


RECORDS, INFO = read_ted("sample")
PAIRS = [
    {"caption_a": f"a {colour} {thing}", "caption_b": f"the old {thing} is {colour}"}
    for colour in ("red", "blue", "green")
    for thing in ("cube", "sphere", "table", "door")
]
SETTINGS = AggregatorTrainingConfig(
    features=["last", "learned"], batch_size=3, max_steps=2, mixed_precision="no", held_out=0
)


def run(folder, output, **options):
    options = {"pairs": PAIRS, "settings": SETTINGS} | options
    return evaluate([f"tiny={folder}"], RECORDS, INFO, output, show_progress=False, **options)


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def files_of(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("spec", "name", "path"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("models/bge-small-en-v1.5/", "bge-small-en-v1.5", "models/bge-small-en-v1.5/"),
        ("x/SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1", "x/SmolLM2-135M.Q4_1.gguf"),
        ("my own=a/b", "my own", "a/b"),
    ],
)
def test_an_encoder_is_called_by_the_last_part_of_its_path_or_as_it_is_told(spec, name, path):
    assert split_spec(spec) == (name, path)


def test_a_plain_encoder_and_a_saved_model_load_in_the_dtype_asked_for(tiny_encoder_folder, tmp_path):
    name, plain = load_encoder(
        f"plain={tiny_encoder_folder}", EncoderOptions(dtype="bfloat16"), fusion="single", layer_index=1
    )
    assert name == "plain" and plain.dtype == torch.bfloat16 and plain.config.layer_index == 1
    GrantedModel.from_encoder(tiny_encoder_folder, fusion="avg").save_pretrained(tmp_path / "saved")
    name, saved = load_encoder(str(tmp_path / "saved"))
    assert name == "saved" and saved.config.fusion == "avg" and not saved.training


def test_what_is_no_text_encoder_is_refused_in_one_line(tiny_encoder_folder, tmp_path):
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    shutil.copytree(tiny_encoder_folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.copytree(tiny_encoder_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="missing', which does not exist"):
        load_encoder(str(tmp_path / "missing"))
    for name in ("vit", "cut", "bare", "empty"):
        with pytest.raises(InputError, match=f"got encoder .*{name}.*, which cannot be loaded") as caught:
            load_encoder(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="got dtype='int8'"):
        EncoderOptions(dtype="int8")


# -------------------------------------------------------------------------------------------------------------- encode


def test_a_file_of_texts_is_encoded_once_and_goes_on_where_it_stopped(tiny_encoder_folder, sentences, tmp_path):
    file, output = tmp_path / "texts.txt", tmp_path / "features"
    file.write_text("\n\n".join(sentences[:3]), encoding="utf-8")
    assert encode_file(tiny_encoder_folder, file, output, batch_texts=2) == (3, 3)
    file.write_text("\n".join([*sentences, sentences[0]]), encoding="utf-8")
    assert encode_file(tiny_encoder_folder, file, output, batch_texts=2) == (len(sentences) - 3, len(sentences))
    cache = EmbeddingCache(output, read_json(output / "identity.json"))
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg")
    for text, expected in zip(sentences, encoder.encode(sentences)):
        torch.testing.assert_close(cache.read("features", text), expected, atol=1e-4, rtol=0)


def test_features_of_another_encoder_or_fusion_never_share_a_folder(tiny_encoder_folder, tiny_bert_folder, tmp_path):
    file, output = tmp_path / "texts.txt", tmp_path / "features"
    file.write_text("a red cube\n")
    encode_file(tiny_encoder_folder, file, output)
    before = written(output)
    with pytest.raises(InputError, match="of another encoder"):
        encode_file(tiny_bert_folder, file, output)
    with pytest.raises(InputError, match="of another fusion"):
        encode_file(tiny_encoder_folder, file, output, fusion="avg")
    assert written(output) == before


def test_a_file_without_readable_text_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "blank").write_text(" \n\n")
    (tmp_path / "latin1").write_bytes("café".encode("latin-1"))
    for name, message in (("blank", "no text"), ("latin1", "not UTF-8"), ("none", "check the path"), (".", "a text")):
        with pytest.raises(InputError, match=message):
            encode_file("no-such-encoder", tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------ evaluate


@pytest.fixture(scope="module")
def evaluated(tiny_encoder_folder, tmp_path_factory):
    """An output folder and the results of two features and two seeds in it."""
    output = tmp_path_factory.mktemp("evaluation")
    return output, run(tiny_encoder_folder, output, seeds=[0, 1], tunings=["base"])


def test_every_feature_pooling_and_seed_has_a_result_with_its_origin(evaluated):
    output, results = evaluated
    found = [(one.feature, one.pooling, one.seed) for one in load_all(output / "results")]
    aggregators = [(feature, "aggregator", seed) for feature in ("last", "learned") for seed in (0, 1)]
    assert sorted(found, key=str) == sorted(
        [*aggregators, ("last", "mean", None), ("learned", "mean", 0), ("learned", "mean", 1)], key=str
    )
    for result in results:
        assert result.encoder == "tiny" and result.dataset["config"] == "sample" and len(result.items) == len(RECORDS)
        assert (result.provenance["family"], result.provenance["tuning"]) == ("language model", "base")
        if result.pooling == "aggregator":
            assert result.provenance["aggregator"]["settings"]["seed"] == result.seed
    folders = {str(path.parent.relative_to(output)) for path in output.rglob("training.json")}
    assert folders == {f"aggregators/tiny/seed{seed}/{name}" for seed in (0, 1) for name in ("last", "learned")}


def test_running_again_repeats_nothing_and_rewrites_nothing(evaluated, tiny_encoder_folder):
    output, results = evaluated
    before = files_of(output)
    assert run(tiny_encoder_folder, output, seeds=[0, 1], tunings=["base"]) == results
    assert files_of(output) == before
    assert all(one.provenance["tokens"] > 0 and one.provenance["seconds"] > 0 for one in results)


def test_trained_aggregators_can_be_given_and_shards_of_them_merged(evaluated, tiny_encoder_folder, tmp_path):
    output, results = evaluated
    trained = {"pairs": None, "aggregator": output / "aggregators" / "tiny" / "seed1"}
    expected = {(one.feature, one.pooling): one for one in results if one.seed == 1}
    shards = [run(tiny_encoder_folder, tmp_path / str(i), shard=f"{i}/2", **trained) for i in (1, 2)]
    for parts in zip(*shards):
        merged = merge_shards(list(parts))
        if (merged.feature, merged.pooling) in expected:
            one = expected[merged.feature, merged.pooling]
            assert merged.accuracy == pytest.approx(one.accuracy, abs=1 / len(RECORDS))
            assert merged.provenance["aggregator"] == one.provenance["aggregator"]


def test_the_report_is_a_table_a_chart_and_a_page(evaluated):
    output, results = evaluated
    paths = write_report(results, RECORDS, output)
    assert [path.name for path in paths] == ["table.md", "categories.png", "report.html"]
    table = (output / "table.md").read_text(encoding="utf-8")
    for name in ("tiny", "learned", "Chance", "Word overlap", "TF-IDF cosine"):
        assert name in table
    assert (output / "categories.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (output / "report.html").read_text(encoding="utf-8")


def test_what_cannot_be_is_refused_before_anything_is_trained(tiny_encoder_folder, tmp_path):
    output = tmp_path / "out"
    first = RECORDS[0]["statements"][1].upper()  # however it is written
    leaked = {"caption_a": first, "caption_b": "a dog", "negatives": ["a cat", f"  {RECORDS[1]['caption']} "]}
    first = first[:60]
    for options, message in (
        ({"shard": "3/2"}, "got shard '3/2'"),
        ({"pairs": None}, "pairs to train on or an aggregator"),
        ({"aggregator": tmp_path}, "pairs to train on or an aggregator"),
        ({"seeds": []}, "got seeds"),
        ({"tunings": ["base", "instruct"]}, "got 2 tunings for 1 encoders, expected one for each, or none"),
        ({"settings": AggregatorTrainingConfig(features=["layer_9"])}, "layer_9"),
        ({"pairs": PAIRS[:2]}, "got 2 pairs"),
        ({"pairs": [*PAIRS, leaked]}, f"got 2 texts in the pairs that are in the benchmark, too, first {first!r}"),
        ({"settings": replace(SETTINGS, aggregator_width=24)}, "of width 24, expected a multiple of 16"),
    ):
        with pytest.raises(InputError, match=message):
            run(tiny_encoder_folder, output, **options)
    with pytest.raises(InputError, match="got 2 texts in the pairs that are in the benchmark, too"):
        TedProbe(RECORDS, {"fingerprint": ""}, [*PAIRS, leaked], SETTINGS, output, None)  # the same within stage 1
    for specs in ([tiny_encoder_folder, f"x{os.sep}llama"], [f" ={tiny_encoder_folder}"]):
        with pytest.raises(InputError, match="NAME=PATH"):
            evaluate(specs, RECORDS, INFO, output, pairs=PAIRS, settings=SETTINGS)
    assert not output.exists()


def test_a_feature_added_later_is_trained_beside_those_that_are_there(tiny_encoder_folder, tmp_path):
    run(tiny_encoder_folder, tmp_path, settings=SETTINGS)
    more = AggregatorTrainingConfig(**(vars(SETTINGS) | {"features": ["norm_avg"]}))
    run(tiny_encoder_folder, tmp_path, settings=more)
    assert {one.feature for one in load_all(tmp_path / "results")} == {"last", "learned", "norm_avg"}
    report = json.loads(next(tmp_path.rglob("norm_avg/training.json")).read_text())
    assert report["settings"]["features"] == ["norm_avg"]


def test_encoders_whose_aggregators_were_trained_otherwise_share_no_folder(
    tiny_encoder_folder, tiny_bert_folder, tmp_path
):
    run(tiny_encoder_folder, tmp_path, settings=replace(SETTINGS, features=["last"]))
    before = files_of(tmp_path)
    other = {"pairs": PAIRS, "show_progress": False}
    for name, value in (("standardize", True), ("max_steps", 3), ("aggregator_width", 16)):
        with pytest.raises(InputError, match=f"where tiny has aggregators with other {name}, expected one training"):
            settings = replace(SETTINGS, **{name: value})
            evaluate([f"bert={tiny_bert_folder}"], RECORDS, INFO, tmp_path, settings=settings, **other)
    assert files_of(tmp_path) == before
    alike = replace(SETTINGS, features=["norm_avg"], seed=1, save_steps=7)
    evaluate([f"more={tiny_encoder_folder}"], RECORDS, INFO, tmp_path, settings=alike, **other)
    assert {one.encoder for one in load_all(tmp_path / "results")} == {"tiny", "more"}


def test_encoders_are_compared_by_as_much_of_each_text_and_by_no_more_than_each_reads(
    tiny_encoder_folder, tiny_bert_folder, tmp_path
):
    specs = [f"llama={tiny_encoder_folder}", f"bert={tiny_bert_folder}"]  # 512 and 64 tokens
    trained = {"pairs": PAIRS, "settings": replace(SETTINGS, features=["last"])}
    with pytest.warns(UserWarning, match="every encoder reads at most 64 tokens of a text, the limit of bert"):
        results = evaluate(specs, RECORDS, INFO, tmp_path / "both", show_progress=False, **trained)
    assert {one.provenance["settings"]["max_length"] for one in results} == {64}
    assert len(group_seeds(results)) == 4
    with pytest.raises(InputError, match="got max_length 65, expected at most 64, which is all that bert reads"):
        evaluate(specs, RECORDS, INFO, tmp_path / "more", max_length=65, **trained)
    assert not (tmp_path / "more").exists()
    # An aggregator trained on texts of another length is another run.
    with pytest.raises(InputError, match="a run with other max length, expected this run's"):
        evaluate(specs[:1], RECORDS, INFO, tmp_path / "both", **trained)


def test_controls_are_trained_and_scored_beside_their_encoder(tiny_encoder_folder, tmp_path):
    settings = replace(SETTINGS, features=["last", "norm_avg"])
    run(tiny_encoder_folder, tmp_path, settings=settings, controls=["random", "words"])
    found = {one.encoder: set() for one in load_all(tmp_path / "results")}
    for one in load_all(tmp_path / "results"):
        found[one.encoder].add((one.feature, one.pooling))
    both = ("aggregator", "mean")
    assert found == {
        "tiny": {(feature, pooling) for feature in ("last", "norm_avg") for pooling in both},
        "tiny, random weights": {("norm_avg", pooling) for pooling in both},
        "tiny, words with positions": {("last", pooling) for pooling in both},
    }
    before = files_of(tmp_path)
    run(tiny_encoder_folder, tmp_path, settings=settings, controls=["random", "words"])
    assert files_of(tmp_path) == before
    trained = tmp_path / "aggregators" / "tiny"
    with pytest.raises(InputError, match="got controls beside an aggregator, expected pairs"):
        run(tiny_encoder_folder, tmp_path, pairs=None, aggregator=trained, controls=["random"])


def test_different_names_are_different_folders(tiny_encoder_folder, tmp_path):
    names = ["тест", "试验", "a b", "a-b", "..", "...", "x" * 90, "x" * 91]
    assert len({folder_name(name) for name in names}) == len(names)
    assert all("/" not in folder_name(name) and folder_name(name).strip(".") for name in names)
    assert folder_name("SmolLM2-135M.Q4_1") == "SmolLM2-135M.Q4_1"
    settings = replace(SETTINGS, features=["last"])
    specs = [f"{name}={tiny_encoder_folder}" for name in names[:2]]
    results = evaluate(specs, RECORDS, INFO, tmp_path, pairs=PAIRS, settings=settings, show_progress=False)
    assert {one.encoder for one in load_all(tmp_path / "results")} == set(names[:2]) and len(results) == 4
    assert len(list((tmp_path / "aggregators").iterdir())) == 2


def test_an_encoder_given_by_where_one_stands_has_the_name_of_the_folder(tiny_encoder_folder, monkeypatch):
    monkeypatch.chdir(tiny_encoder_folder)
    assert split_spec(".") == (os.path.basename(tiny_encoder_folder), ".")
