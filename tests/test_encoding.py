"""Loading and placing encoders: one function does it for every command, and every command has its options."""

import json
import os
import sys

import pytest
import torch
from accelerate import dispatch_model

from granted import cli
from granted.cli import adapt, data, doctor, encode, evaluate, generate, push, review, train  # noqa: F401  they register commands
from granted.cli.registry import COMMANDS
from granted.encoding.loading import EncoderOptions, LoadingOptions, choose_device, load_encoder, place, split_spec
from granted.modeling_granted import GrantedModel
from granted.utils.errors import InputError, refusing


ABSENT = "cuda:99"  # no machine of ours has it


def test_an_absent_device_is_refused_with_those_that_are_there():
    with pytest.raises(InputError, match=f"got device '{ABSENT}'.*expected auto or one of cpu"):
        choose_device(ABSENT)
    with pytest.raises(InputError, match="computes nothing"):
        choose_device("meta")
    assert choose_device("cpu") == torch.device("cpu")


def test_the_commands_that_read_with_an_encoder_take_the_same_options():
    reading = [name for name, one in COMMANDS.items() if any(issubclass(k, EncoderOptions) for k in kinds(one))]
    instruments = [f"evaluate {name}" for name in ("ted", "sensitivity", "reading", "ladder", "drawing")]
    trainings = [f"train {name}" for name in ("aggregator", "text-to-image", "text-to-video")]
    assert {*reading} == {"adapt", "doctor", "encode", *instruments, *trainings}
    loading = [name for name, one in COMMANDS.items() if any(issubclass(k, LoadingOptions) for k in kinds(one))]
    assert {*loading} == {*reading, "evaluate qa", "evaluate vqa", "evaluate generation"}


def kinds(command):
    return () if command.settings else command.kinds().values()  # stage 1 takes TRL's


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "ENCODER", "texts.txt", "--output", "out"],
        ["adapt", "ENCODER", "ENCODER", "--texts", "texts.txt", "--output", "out"],
        ["evaluate", "ted", "ENCODER", "--pairs", "pairs.jsonl", "--output", "out"],
        ["evaluate", "ted", "ENCODER", "--aggregator", "aggregator", "--output", "out"],
        ["evaluate", "ted", "ENCODER", "--aggregator", "aggregator", "--shard", "1/2", "--output", "out"],
        ["evaluate", "reading", "ENCODER", "--controls=", "--training-texts", "2", "--output", "out"],
        ["evaluate", "ladder", "ENCODER", "--controls=", "--training-texts", "2", "--output", "out"],
        ["evaluate", "drawing", "ENCODER", "--images", "2", "--output", "out"],
        ["train", "aggregator", "--encoder", "ENCODER", "--pairs", "pairs.jsonl", "--output", "out"],
        ["train", "text-to-image", "--encoder", "ENCODER", "--data", "data.parquet", "--output-dir", "out"],
        ["train", "text-to-video", "--encoder", "ENCODER", "--data", "data.parquet", "--output-dir", "out"],
    ],
)
def test_no_command_forgets_the_device(arguments, tiny_encoder_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("a red cube\n")
    pair = {"id": "1", "media": "image", "caption_a": "a", "caption_b": "b", "source": "t"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    words = [tiny_encoder_folder if word == "ENCODER" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["granted", *words, "--device", ABSENT])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and f"got device '{ABSENT}'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_accelerate_has_dispatched_stays_where_it_is(tiny_encoder_folder):
    _, plain = load_encoder(tiny_encoder_folder, fusion="norm_avg")
    before = plain.encode(["a red cube"])[0]  # (N, D)
    trunk = dispatch_model(plain.encoder, {"": "cpu"}, force_hooks=True)
    encoder = GrantedModel.from_loaded(trunk, plain.tokenizer, fusion="norm_avg")
    assert encoder.hf_device_map and place(encoder, ABSENT) is encoder
    torch.testing.assert_close(encoder.encode(["a red cube"])[0], before)


def test_template_last_layer_and_length_are_set_for_plain_and_for_saved_encoders(tiny_encoder_folder, tmp_path):
    GrantedModel.from_encoder(tiny_encoder_folder, fusion="avg").save_pretrained(tmp_path / "saved")
    options = EncoderOptions(template="the dog {prompt}", last_layer="pre_norm")
    for path in (tiny_encoder_folder, tmp_path / "saved"):
        _, encoder = load_encoder(str(path), options, max_length=6)
        assert encoder.config.last_layer == "pre_norm" and encoder.config.max_sequence_length == 6
        assert len(encoder.tokenize(["a red"])[0]) == 5  # BOS, two words of the template, two of the text
    with pytest.raises(InputError, match="last_layer='middle'"):
        load_encoder(tiny_encoder_folder, EncoderOptions(last_layer="middle"))
    with pytest.raises(InputError, match="got quantization='2bit', expected one of '4bit', '8bit'"):
        EncoderOptions(quantization="2bit")


def test_a_last_layer_that_an_encoder_does_not_have_is_refused_when_it_is_loaded(tiny_bert_folder):
    with pytest.raises(InputError, match="got last_layer='post_norm' for BertModel, which has no final norm"):
        load_encoder(tiny_bert_folder, EncoderOptions(last_layer="post_norm"))


def test_a_path_that_exists_is_a_path_whatever_is_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert split_spec("lr=0.1") == ("lr=0.1", "lr=0.1")
    assert split_spec("mine=lr=0.1") == ("mine", "lr=0.1")
    assert split_spec("mine=~/encoder") == ("mine", os.path.expanduser("~/encoder"))


def test_what_a_library_raises_on_a_foreign_file_is_one_line_with_its_cause():
    with pytest.raises(InputError) as caught, refusing("the file 'x'", "y: do z"):
        raise RuntimeError("two\nlines")
    assert str(caught.value) == "got the file 'x', which cannot be loaded (two lines), expected y: do z"
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.05), ("4bit", 0.2)])
def test_a_quantised_encoder_reads_nearly_the_same_and_is_not_taken_for_the_plain_one(
    quantization, error, tiny_encoder_folder
):
    pytest.importorskip("bitsandbytes", reason="pip install '.[quantization]'")
    _, plain = load_encoder(tiny_encoder_folder, fusion="norm_avg")
    _, encoder = load_encoder(tiny_encoder_folder, EncoderOptions(quantization=quantization), fusion="norm_avg")
    assert place(encoder, ABSENT) is encoder and encoder.fingerprint() != plain.fingerprint()
    expected, found = (one.encode(["two dogs sleep under the table"])[0] for one in (plain, encoder))  # (N, D) each
    assert 0 < (found - expected).norm() / expected.norm() < error
