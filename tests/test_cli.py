"""The command line: from encoder to report, bad input is one line and exit code 2, and YAML gives defaults."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from transformers import LlamaConfig, LlamaModel, ViTConfig, ViTModel

from granted.cli import adapt, construct, data, doctor, encode, evaluate, generate, push, registry, review, train  # noqa: F401  they register commands
from granted.dataset_builders.caption_pairs.pairs import read_pairs
from granted.dataset_builders.ted_6k.reading import SAMPLE_FILE
from granted.encoding.embedding_cache import EmbeddingCache
from granted.encoding.feature_files import feature_identity
from granted.encoding.features import new_aggregator
from granted.eval_metric.results import load_all
from granted.modeling_granted import GrantedModel
from granted.tests.forked import GRANTED


TINY = ("--batch-size", "3", "--mixed-precision", "no", "--held-out", "0")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of 15 caption pairs."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"id": f"{colour}{thing}", "caption_a": f"a {colour} {thing}", "caption_b": f"the old {thing} is {colour}"}
        for colour in ("red", "blue", "green")
        for thing in ("cube", "sphere", "table", "door", "dog")
    ]
    path.write_text("".join(json.dumps(row | {"media": "image", "source": "t"}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def aggregator(tiny_encoder_folder, tmp_path_factory):
    """The folder of an untrained aggregator of the tiny encoder."""
    folder = tmp_path_factory.mktemp("aggregator") / "last"
    encoder = GrantedModel.from_encoder(tiny_encoder_folder)
    new_aggregator("last", encoder, "tiny", encoder.fingerprint(), seed=0).save_pretrained(folder)
    return folder


def is_one_line(found, *words):
    code, _, error = found
    assert code == 2, error
    assert error.startswith("granted: ") and error.count("\n") == 1 and error.endswith("\n"), error
    for word in words:
        assert str(word) in error
    return True


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------- end to end


def test_an_interrupted_evaluation_goes_on_to_the_report_and_is_not_repeated(
    granted, forked, tiny_encoder_folder, pairs, tmp_path
):
    output = tmp_path / "out"
    arguments = ["evaluate", "ted", f"tiny={tiny_encoder_folder}", "--pairs", str(pairs), "--output", str(output)]
    arguments += ["--features", "last,norm_avg", "--epochs", "10", "--save-steps", "1", *TINY]
    process = forked(GRANTED, *arguments)
    while not any(output.rglob("checkpoint-*")) and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(600)
    error = forked.said()
    assert process.exitcode == 130, error
    assert error.rstrip().endswith("granted: interrupted; run the same command again to go on")
    assert "Traceback" not in error and not (output / "results").exists()

    code, out, error = granted(*arguments)
    assert code == 0, error
    for words in ("tiny", "last", "norm_avg", "Chance", "Word overlap", "TF-IDF cosine"):
        assert words in out
    names = {path.name for path in output.iterdir()}
    assert names == {"aggregators", "cache", "results", "table.md", "categories.png", "report.html"}
    assert len(list((output / "results").glob("*.json"))) == len(list((output / "results").glob("*.parquet"))) == 4
    assert not any(output.rglob("checkpoint-*"))

    kept = {path: time for path, time in files(output).items() if path.suffix == ".safetensors"}
    table = (output / "table.md").read_text()
    code, _, error = granted(*arguments)
    assert code == 0 and "encoding" not in error, error
    assert {path: time for path, time in files(output).items() if path.suffix == ".safetensors"} == kept
    assert (output / "table.md").read_text() == table


def test_shards_are_scored_apart_and_merged_into_the_same_scores(granted, tiny_encoder_folder, aggregator, tmp_path):
    base = ["evaluate", "ted", f"tiny={tiny_encoder_folder}", "--aggregator", aggregator, "--output"]
    assert granted(*base, tmp_path / "whole")[0] == 0
    for i in (1, 2):
        code, out, _ = granted(*base, tmp_path / f"part{i}", "--shard", f"{i}/2")
        assert code == 0 and "granted evaluate merge" in " ".join(out.split())
    parts = [tmp_path / f"part{i}" / "results" for i in (1, 2)]
    assert is_one_line(granted("evaluate", "merge", parts[0], "--output", tmp_path / "merged"), "got shards 1 of 2")
    whole = ("evaluate", "merge", tmp_path / "whole" / "results", "--output", tmp_path / "merged")
    assert is_one_line(granted(*whole), "shard")
    assert not (tmp_path / "merged").exists()
    assert granted("evaluate", "merge", *parts, "--output", tmp_path / "merged")[0] == 0
    assert (tmp_path / "merged" / "table.md").exists()
    # The batches differ, so scores are equal up to rounding and an exact tie may come out either way.
    for merged, whole in zip(load_all(tmp_path / "merged" / "results"), load_all(tmp_path / "whole" / "results")):
        assert [item["id"] for item in merged.items] == [item["id"] for item in whole.items]
        np.testing.assert_allclose(*([item["scores"] for item in one.items] for one in (merged, whole)), atol=1e-5)


def test_texts_are_encoded_and_found_again(granted, tiny_encoder_folder, sentences, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(sentences))
    command = ["encode", tiny_encoder_folder, tmp_path / "texts.txt", "--output", tmp_path / "features"]
    for count in (len(sentences), 0):
        code, out, error = granted(*command)
        assert code == 0, error
        assert f"encoded {count} texts" in out


def test_texts_are_encoded_as_a_pipeline_reads_them(granted, tmp_path, sentences, make_tokenizer):
    """The twelve states of Krea 2; what says the same twice is refused."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 36, "num_attention_heads": 4}
    LlamaModel(LlamaConfig(**size, vocab_size=99)).save_pretrained(tmp_path / "plain")
    make_tokenizer("[BOS]", None).save_pretrained(tmp_path / "plain")
    texts = [" ".join([text] * 4) for text in sentences[:3]]  # longer than what is dropped of them
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    command = ("encode", tmp_path / "plain", tmp_path / "texts.txt", "--output", tmp_path / "features")
    for _ in range(2):  # the second time nothing is encoded
        code, _, error = granted(*command, "--pipeline", "krea2")
        assert code == 0, error
    model = GrantedModel.for_pipeline("krea2", tmp_path / "plain")
    cache = EmbeddingCache(tmp_path / "features", feature_identity(model))
    for text, expected in zip(texts, model.encode(texts)):
        found = cache.read("features", text)
        assert found.shape[0] == 12
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for option, value in (("--fusion", "avg"), ("--layer-index", "1"), ("--max-length", "9")):
        refused = granted(*command, "--pipeline", "krea2", option, value)
        assert is_one_line(refused, f"--pipeline krea2 with {option}")
    assert is_one_line(granted(*command, "--pipeline", "flux3"), "expected one of cogview4")
    model.save_pretrained(tmp_path / "saved")
    command = ("encode", tmp_path / "saved", *command[2:])
    assert is_one_line(granted(*command, "--pipeline", "krea2"), "a saved model with a fusion of its own")


def test_data_commands_write_what_the_others_read(granted, tiny_encoder_folder, aggregator, pairs, tmp_path):
    assert granted("data", "ted", "--kind", "sample", "--output", tmp_path / "ted-6k")[0] == 0
    groups = tmp_path / "groups.jsonl"
    captions = ["A red cube.", "One cube is red.", "There is a cube.", "It is red."]
    lines = [json.dumps({"id": f"g{i}", "media": "image", "captions": captions}) for i in "ab"]
    groups.write_text("\n".join(lines))
    code, out, error = granted("data", "pairs", "--groups", groups, "--output", tmp_path / "made.parquet")
    assert code == 0 and "wrote 2 pairs" in " ".join(out.split()), error
    alike = tmp_path / "other" / "groups.test.jsonl"  # ids of its pairs would be those of the first
    alike.parent.mkdir()
    alike.write_text("\n".join(lines))
    both = granted("data", "pairs", "--groups", f"{groups},{alike}", "--output", tmp_path / "both.parquet")
    assert is_one_line(both, "got two files of --groups named groups, expected different names: rename one")
    command = ["evaluate", "ted", tiny_encoder_folder, "--ted", tmp_path / "ted-6k", "--aggregator", aggregator]
    assert granted(*command, "--output", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "report.html").exists()


def test_the_synthetic_benchmark_is_the_default_and_is_called_so(granted, tmp_path):
    code, out, error = granted(
        "data", "ted", "--world", "everyday", "--instances", 40, "--output", tmp_path / "ted-6k"
    )
    assert code == 0 and "(synthetic)" in out, error
    for name in (None, "synthetic", "image"):
        rows = load_dataset(str(tmp_path / "ted-6k"), name, split="test", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == (40 if name != "image" else 8)
    assert set(rows["source"]) == {"synthetic compositional"}
    code, out, error = granted("data", "check", "--ted", tmp_path / "ted-6k", "--output", tmp_path / "check.json")
    assert code == 0 and "statement only" in out, error
    assert json.loads((tmp_path / "check.json").read_text())["shortcuts"]["chance"]["accuracy"] == 0.25


def test_the_check_says_whether_the_promises_are_kept(granted, monkeypatch):
    everyday = ("data", "check", "--world", "everyday", "--instances")
    for command in (("data", "check", "--instances", 400), (*everyday, 200)):
        code, out, error = granted(*command)
        assert code == 0 and "all promises kept" in out, error
    monkeypatch.setattr("granted.dataset_builders.scenes.check.four_gram_overlap", lambda pairs: 0.5)
    assert is_one_line(granted(*everyday, 60), "four-gram overlap of 0.50")


def test_pairs_of_the_world_carry_hard_negatives(granted, tmp_path):
    made = tmp_path / "made.parquet"
    for world in ("shapes", "everyday"):
        command = ("data", "pairs", "--world", world, "--scenes", 5, "--hard-negatives", 2, "--output", made)
        assert granted(*command)[0] == 0
        assert [len(pair["negatives"]) for pair in read_pairs(made)] == [2] * 5


@pytest.mark.parametrize("kind", ["vqa", "descriptions", "text-to-image", "text-to-video", "sheet"])
def test_shapes_are_drawn(granted, tmp_path, kind):
    path = tmp_path / ("sheet.png" if kind == "sheet" else "rows.parquet")
    size = () if kind == "sheet" else ("--size", 48)
    frames = ("--frames", 8) if kind == "text-to-video" else ()
    assert granted("data", "shapes", kind, "--count", 3, *size, *frames, "--output", path)[0] == 0
    if kind != "sheet":
        rows = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == 3


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("ted", "--kind", "synthetik"), "synthetik"),
        (("ted", "--kind", "official"), "expected a file for official"),
        (("ted", "--instances", "0"), "--instances"),
        (("ted", "--world", "mars"), "'shapes', 'everyday'"),
        (("ted", "--difficulty", "easy"), "'compositional', 'lexical'"),
        (("pairs", "--world", "everyday", "--scenes", "3", "--scene-words", "50"), "two whole numbers"),
        (("pairs", "--scenes", "3", "--categories", "2"), "got --categories for --world shapes"),
        (("check", "--difficulty", "lexical"), "got --difficulty for --world shapes"),
        (("shapes", "vwa"), "'vqa', 'descriptions'"),
        (("shapes", "vqa", "--media", "film"), "'image', 'video'"),
        (("shapes", "descriptions", "--wordings", "seen,new"), "got wordings seen, new, expected some of seen, form"),
        (("shapes", "vqa", "--things", "1,3"), "got --things for vqa, expected none"),
        (("shapes", "vqa", "--wordings", "seen"), "got --wordings for vqa, expected none"),
        (("shapes", "text-to-image", "--media", "video"), "got --media for text-to-image, expected none"),
        (("shapes", "sheet", "--size", "64"), "got --size for sheet, expected none"),
        (("shapes", "text-to-image", "--things", "1,1", "--motions", "moves"), "got --motions for text-to-image"),
        (("shapes", "text-to-video", "--things", "1,1", "--motions", "runs"), "got kind 'runs'"),
    ],
)
def test_wrong_options_of_the_world_are_one_line(granted, tmp_path, command, words):
    assert is_one_line(granted("data", *command, "--output", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------------------------------- bad input


def sample(**changes):
    """The sample benchmark's first caption, changed."""
    name, entry = next(iter(json.loads(SAMPLE_FILE.read_text(encoding="utf-8")).items()))
    return json.dumps({name: entry | changes})


BAD_TED = {
    "malformed": b'{"a": ',
    "empty": b"",
    "no caption": b"{}",
    "unknown category": sample(statements={"Taste": {}}).encode(),
    "empty caption": sample(caption=" ").encode(),
    "not UTF-8": sample(caption="caf?").encode().replace(b"caf?", b"caf\xe9"),
    "twice": (lambda one: f"{one[:-1]}, {one[1:]}".encode())(sample()),
}


@pytest.mark.parametrize("fault", BAD_TED)
def test_a_bad_benchmark_is_one_line_and_leaves_nothing(granted, tiny_encoder_folder, pairs, tmp_path, fault):
    (tmp_path / "ted.json").write_bytes(BAD_TED[fault])
    found = granted(
        *("evaluate", "ted", tiny_encoder_folder, "--ted", tmp_path / "ted.json", "--pairs", pairs),
        *("--output", tmp_path / "out"),
    )
    assert is_one_line(found, "ted.json" if fault != "empty caption" else "empty caption")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--features", "layer_x"], "layer_0 to layer_3"),
        (["--features", ""], "no features"),
        (["--features", "weights:none.safetensors"], "none.safetensors"),
        (["--learning-rates", "fast"], "fast"),
        (["--learning-rates", "1e-3,1e-4"], "held-out"),
        (["--seeds", "0.5"], "whole number"),
        (["--seeds", ""], "at least one"),
        (["--max-steps", "0"], "--max-steps"),
        (["--schedule", "linear"], "schedule"),
        (["--batch-size", "99"], "lower batch_size"),
        (["--hard-negatives"], "negatives"),
        (["--dtype", "int4"], "int4"),
        (["--shard", "5/4"], "5/4"),
        (["--aggregator", "some"], "pairs and aggregator"),
        (["--pairs", "none.jsonl"], "none.jsonl"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_nothing(granted, tiny_encoder_folder, pairs, tmp_path, options, word):
    out = tmp_path / "out"
    given = () if "--pairs" in options else ("--pairs", pairs)
    found = granted("evaluate", "ted", tiny_encoder_folder, *given, "--output", out, *TINY, *options)
    assert is_one_line(found, word)
    assert not out.exists()


def test_what_is_no_encoder_or_not_the_aggregators_is_one_line(
    granted, tiny_bert_folder, tiny_encoder_folder, aggregator, pairs, tmp_path
):
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    out = ("--output", tmp_path / "out")
    assert is_one_line(granted("evaluate", "ted", tmp_path / "vit", "--pairs", pairs, *out), "vit")
    assert is_one_line(granted("evaluate", "ted", tmp_path / "none", "--pairs", pairs, *out), "none")
    found = granted("evaluate", "ted", tiny_bert_folder, "--aggregator", aggregator, *out)
    assert is_one_line(found, "other weights")
    command = ("evaluate", "ted", tiny_encoder_folder, *out, "--aggregator")
    assert is_one_line(granted(*command, tmp_path / "vit"), "expected the folder of a trained aggregator")
    (tmp_path / "empty").mkdir()
    assert is_one_line(granted(*command, tmp_path / "empty"), "holds no aggregator")
    assert is_one_line(granted("evaluate", "merge", tmp_path / "none", *out), "none")
    assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_encoded_are_one_line(granted, tiny_encoder_folder, tiny_bert_folder, tmp_path):
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "texts.txt").write_text("a red cube\n")
    out = ("--output", tmp_path / "out")
    assert is_one_line(granted("encode", tiny_encoder_folder, tmp_path / "blank.txt", *out), "no text")
    assert is_one_line(granted("encode", tiny_encoder_folder, tmp_path / "none.txt", *out), "none.txt")
    fusion = granted("encode", tiny_encoder_folder, tmp_path / "texts.txt", *out, "--fusion", "sum")
    assert is_one_line(fusion, "norm_avg")
    assert not (tmp_path / "out").exists()
    assert granted("encode", tiny_encoder_folder, tmp_path / "texts.txt", *out)[0] == 0
    before = files(tmp_path / "out")
    GrantedModel.from_encoder(tiny_encoder_folder, fusion="single").save_pretrained(tmp_path / "saved")
    for options, word in (
        (("--fusion", "norm_avg"), "expected its own"),
        (("--fusion", "single", "--layer-index", "1"), "got layer_index 1 for"),
    ):
        other = granted("encode", tmp_path / "saved", tmp_path / "texts.txt", "--output", tmp_path / "a", *options)
        assert is_one_line(other, word)
    assert not (tmp_path / "a").exists()
    assert is_one_line(granted("encode", tiny_bert_folder, tmp_path / "texts.txt", *out), "of another encoder")
    assert files(tmp_path / "out") == before


def test_results_of_another_benchmark_in_the_folder_are_one_line(granted, tiny_encoder_folder, aggregator, tmp_path):
    base = ("evaluate", "ted", tiny_encoder_folder, "--aggregator", aggregator, "--output", tmp_path / "out")
    assert granted(*base)[0] == 0
    (tmp_path / "ted.json").write_text(sample(), encoding="utf-8")
    before = files(tmp_path / "out")
    assert is_one_line(granted(*base, "--ted", tmp_path / "ted.json"), "another benchmark (sample)")
    assert files(tmp_path / "out") == before
    for unused in (("--seeds", "1"), ("--features", "last"), ("--max-steps", "3")):
        assert is_one_line(granted(*base, *unused), f"got {unused[0]} beside --aggregator")
    assert files(tmp_path / "out") == before


@contextlib.contextmanager
def full_disk(folder, size):
    """`folder` on a file system of `size` KiB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(granted, tiny_encoder_folder, pairs, tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{'a red cube ' * 50}{i}\n" for i in range(9)))
    with full_disk(tmp_path / "disk", 64) as disk:
        command = ("train", "aggregator", "--encoder", tiny_encoder_folder, "--pairs", pairs)
        found = granted(*command, "--output", disk / "a", *TINY, "--save-steps", "1")
        assert "No space left" in found[2].splitlines()[-1] and found[0] == 2
        assert not any(disk.rglob("*.safetensors"))
        found = granted("encode", tiny_encoder_folder, tmp_path / "texts.txt", "--output", disk / "b")
        assert "No space left" in found[2].splitlines()[-1] and found[0] == 2
        assert [path.name for path in (disk / "b").iterdir()] == ["identity.json"]


# ---------------------------------------------------------------------------------------------------- YAML and options


def test_values_of_a_config_file_are_defaults_and_the_command_line_wins(granted, tiny_encoder_folder, pairs, tmp_path):
    config = tmp_path / "c.yaml"
    values = {"features": ["last", "avg"], "max_steps": 2, "batch_size": 3, "held_out": 0, "mixed_precision": "no"}
    config.write_text(yaml.safe_dump(values | {"learning_rates": [2e-3], "recompute_layers": False, "seed": 5}))
    code, _, error = granted(
        *("train", "aggregator", "--encoder", tiny_encoder_folder, "--pairs", pairs, "--config", config),
        *("--output", tmp_path / "out", "--max-steps", "1", "--features", "avg"),
    )
    assert code == 0, error
    settings = json.loads((tmp_path / "out" / "avg" / "training.json").read_text())["settings"]
    expected = {"features": ["avg"], "max_steps": 1, "batch_size": 3, "learning_rates": [2e-3], "seed": 5}
    assert expected.items() <= settings.items() and settings["recompute_layers"] is False


def test_a_config_file_can_name_the_encoders(granted, tiny_encoder_folder, aggregator, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"encoders": [tiny_encoder_folder], "aggregator": str(aggregator)}))
    code, _, error = granted("evaluate", "ted", "--config", config, "--output", tmp_path / "out")
    assert code == 0, error
    assert (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("colour: red", "got colour"),
        ("- a", "no mapping"),
        ("a: [", "YAML"),
        ("\xff: 1", "\xff"),
        ("batch_size: true", "batch_size 'true'"),
        ("batch_size: 16.0", "batch_size '16.0'"),
        ("batch_size: ~", "batch_size null"),
        ("output: [a, b]", "output ['a', 'b']"),
        ("seed: 1\nseed: 2", "'seed' twice"),
    ],
)
def test_a_bad_config_file_is_one_line(granted, tmp_path, content, word):
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    assert is_one_line(granted("evaluate", "ted", "x", "--config", tmp_path / "c.yaml"), word, "c.yaml")


@pytest.mark.parametrize("instrument", ["ted", "qa", "reading", "ladder", "drawing", "sensitivity"])
def test_an_encoder_that_is_not_there_is_refused_before_any_work_on_another(
    granted, tiny_encoder_folder, pairs, tmp_path, instrument
):
    own = {"ted": ("--ted", "sample", "--pairs", pairs), "qa": ("--ted", "sample")}
    own["sensitivity"] = ("--ted", "sample", "--aggregator", tmp_path)
    encoders = (f"there={tiny_encoder_folder}", "missing=./nowhere")
    outcome = granted("evaluate", instrument, *encoders, *own.get(instrument, ()), "--output", tmp_path / "out")
    assert is_one_line(outcome, "got encoder './nowhere', which does not exist", "check the path")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_every_command_has_help_and_refuses_an_unknown_option_with_exit_code_2(granted, name):
    code, out, _ = granted(*name.split(), "--help")
    assert code == 0 and out.startswith(f"usage: granted {name} ")
    assert is_one_line(granted(*name.split(), "--no-such-option"), "--no-such-option")


def test_no_command_and_no_such_command_are_told_which_there_are(granted):
    for words in ((), ("data",), ("evaluate",)):
        assert granted(*words)[0] == 2 and granted(*words, "--help")[0] == 0
        assert "granted COMMAND --help" in granted(*words, "--help")[1]
    assert is_one_line(granted("evaluat", "ted"), "perhaps evaluate ted")
    assert is_one_line(granted("data", "tedd"), "perhaps data ted")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("evaluate", "ted"), "encoders"),
        (("encode", "x", "y"), "--output"),
        (("nothing",), "nothing"),
        (("evaluate", "ted", "x", "--batch-size", "many"), "--batch-size"),
        (("evaluate", "ted", "x", "--batch-size", "0"), "--batch-size"),
        (("evaluate", "ted", "x", "--seeds", "0,0", "--pairs", "PAIRS"), "each once"),
        (("evaluate", "ted", "x", "--seeds", ",", "--pairs", "PAIRS"), "at least one"),
        (("evaluate", "ted", "x", "--temperature", "nan"), "temperature"),
        (("generate", "x", "--prompts", "y", "--output", "z", "--guidance", "inf"), "finite"),
        (("train", "aggregator", "--encoder", "x", "--pairs", "PAIRS", "--output", "z", "--seed", 2**63), "--seed"),
        (("data", "shapes", "vqa", "--output", "z", "--seed", "-1"), "--seed"),
        (("data", "pairs", "--dataset", "/none", "--columns", "a,b", "--output", "z"), "/none"),
        (("data", "pairs", "--scenes", "2", "--media", "video", "--output", "z"), "--media"),
        (("leaderboard", "x", "--port", "70000"), "a port from 1 to 65535"),
        (("encode", "x", "y", "--output", "z", "--layer-index", "3"), "--fusion single"),
        (("encode", "x", "y", "--output", "z", "--pipeline", "krea2", "--template", "{prompt}"), "--template"),
        (("encode", "x", "caf\udce9.txt", "--output", "z"), "not UTF-8"),
    ],
)
def test_a_missing_option_or_a_number_without_sense_is_one_line(
    granted, pairs, tmp_path, monkeypatch, arguments, word
):
    monkeypatch.chdir(tmp_path)
    assert is_one_line(granted(*(pairs if one == "PAIRS" else one for one in arguments)), word)
    assert not any(tmp_path.iterdir())


def test_a_path_is_printed_as_it_is_and_on_one_line(granted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = f"[/red]:smile:{'x' * 90}"
    code, out, error = granted(
        "data", "shapes", "text-to-image", "--count", 2, "--size", 32, "--output", f"none/../{folder}/a"
    )
    assert code == 0 and out == f"wrote 2 rows to {folder}/a\n", error
    assert (tmp_path / folder / "a").is_file() and not (tmp_path / "none").exists()
