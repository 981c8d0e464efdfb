"""Stage 1: what it refuses and says in one line, which run a folder holds, and its options."""

import json
import shutil
from dataclasses import fields

import pytest
from transformers import AutoModelForImageTextToText
from transformers.utils import is_torch_bf16_gpu_available
from trl import ModelConfig, SFTConfig

from granted.dataset_builders.caption_pairs.pairs import write_pairs
from granted.dataset_builders.scenes.shapes.rows import vqa_rows, write_rows
from granted.dataset_builders.scenes.world import world_pairs
from granted.examples.miniature.model import miniature_tokenizer
from granted.tests.vqa_training import finetune, llava, options, save_model, write_data
from granted.training.run_folder import RECORD
from granted.training.vqa.finetuning import VqaFinetuningConfig
from granted.utils.errors import InputError
from granted.utils.options import help_text, read_options


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("vqa") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"use_dora": True}, "use_dora without use_peft"),
        ({"lora_r": True}, "lora_r=True, expected a whole number above 0"),
        ({"lora_r": 16.0}, "lora_r=16.0"),
        ({"video_fps": float("nan")}, "video_fps=nan"),
        ({"max_frames": 1.5}, "max_frames=1.5"),
        ({"learning_rate": float("inf")}, "learning_rate=inf, expected a finite number"),
        ({"seed": -1}, "seed=-1"),
        ({"max_steps": 0}, "above 0, or -1"),
        ({"dataloader_num_workers": 1.5}, "dataloader_num_workers=1.5, expected a whole number"),
        ({"use_peft": True, "load_in_4bit": True}, "without a GPU"),
        ({"use_peft": True, "lora_target_modules": ["no_such_.*"]}, "match none of"),
        ({"use_peft": True, "lora_target_modules": ["("]}, "expected a regular expression"),
        ({"use_peft": True, "train_vision": True}, "train_vision with use_peft"),
        ({"max_length": 100}, "images must not be cut"),
        ({"save_only_model": True}, "cannot go on"),
        ({"ted": "sample"}, "expected both or none"),
        ({"model_name_or_path": "./nowhere"}, "expected a vision-language model"),
        ({"data": "nowhere.parquet"}, "nowhere.parquet"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(model_folder, data, tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as error:
        finetune(options(model_folder, data, tmp_path / "run", **changed))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_text_model_is_refused(tiny_encoder_folder, data, tmp_path):
    with pytest.raises(InputError, match="expected a vision-language model"):
        finetune(options(tiny_encoder_folder, data, tmp_path / "run"))


def test_broken_rows_are_named_or_left_out_and_counted(model_folder, data, tmp_path):
    rows = [json.loads(line) for line in (data / "texts.jsonl").read_text().splitlines()]
    rows += [
        {"id": "blank", "messages": [rows[0]["messages"][0], {"role": "assistant", "content": " "}]},
        {"id": "gone", "messages": rows[0]["messages"], "images": ["gone.png"]},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changed = {"data": str(tmp_path / "rows.jsonl"), "max_steps": 1}
    with pytest.raises(InputError, match=r"blank.*gone"):
        finetune(options(model_folder, data, tmp_path / "run", **changed))
    finetune(options(model_folder, data, tmp_path / "run", skip_broken=True, **changed))
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    assert record["rows"] == 2 and record["rows_skipped"] == {"empty answer": 1, "image": 1}


def test_a_row_that_the_processor_cannot_take_is_named_before_training(model_folder, data, tmp_path):
    row = next(vqa_rows(1, media="video", size=32, frames=8))
    row["videos"] = [row["videos"][0][:1]]
    spoken = [{"role": "user", "content": "What is <|image_pad|>?"}, {"role": "assistant", "content": "A token."}]
    write_rows([row], tmp_path / "clip.parquet")
    (tmp_path / "text.jsonl").write_text(json.dumps({"messages": spoken}))
    for name in ("clip.parquet", "text.jsonl"):
        with pytest.raises(InputError, match="model"):
            finetune(options(model_folder, data, tmp_path / "run", data=str(tmp_path / name)))


def test_a_video_for_a_model_that_takes_none_is_named_before_training(data, tmp_path):
    model, processor = llava(miniature_tokenizer(500, 20))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"2 broken rows of 8 .*got a video for LlavaProcessor, which takes none"):
        finetune(options(str(tmp_path / "model"), data, tmp_path / "run"))


def test_other_weights_or_rows_under_the_same_path_are_another_run_and_the_same_elsewhere_are_not(
    model_folder, data, tmp_path
):
    shutil.copytree(model_folder, tmp_path / "model")
    shutil.copy(data / "texts.jsonl", tmp_path / "rows.jsonl")
    changed = {"max_steps": 1, "data": str(tmp_path / "rows.jsonl")}
    finetune(options(str(tmp_path / "model"), data, tmp_path / "run", **changed))
    finetune(options(model_folder, data, tmp_path / "run", max_steps=1, data=str(data / "texts.jsonl")))
    text = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(text.replace("Four", "Five"))
    with pytest.raises(InputError, match="holds a run with other data_fingerprint,"):
        finetune(options(str(tmp_path / "model"), data, tmp_path / "run", **changed))
    (tmp_path / "rows.jsonl").write_text(text)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    model.lm_head.weight.data += 1
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="holds a run with other base_fingerprint,"):
        finetune(options(str(tmp_path / "model"), data, tmp_path / "run", **changed))


def test_scores_of_several_kinds_do_not_mix_in_a_run(model_folder, data, tmp_path):
    write_pairs(world_pairs(24, categories=1, words=(40, 150)), tmp_path / "pairs.parquet")
    for name, steps in (("one", 1), ("two", 2)):
        (tmp_path / f"{name}.yaml").write_text(f"batch_size: 4\nmax_steps: {steps}\nheld_out: 4\n")
    probed = {"ted": "sample", "ted_pairs": str(tmp_path / "pairs.parquet")}
    one, two = ({"ted_config": str(tmp_path / f"{name}.yaml")} | probed for name in ("one", "two"))
    steps = {"max_steps": 2, "save_steps": 1}
    finetune(options(model_folder, data, tmp_path / "bare", **steps))
    finetune(options(model_folder, data, tmp_path / "scored", **steps, **one))
    finetune(options(model_folder, data, tmp_path / "scored", **steps, **one))
    with pytest.raises(InputError, match="which has no scores"):
        finetune(options(model_folder, data, tmp_path / "bare", **steps, **one))
    with pytest.raises(InputError, match="which has scores with other settings"):
        finetune(options(model_folder, data, tmp_path / "scored", **steps, **two))


def test_a_folder_of_another_run_is_refused(model_folder, data, tmp_path):
    finetune(options(model_folder, data, tmp_path / "run", max_steps=1))
    for changed in ({"learning_rate": 1e-4}, {"data": str(data / "texts.jsonl")}):
        with pytest.raises(InputError, match=r"holds a run with other (learning_rate|data_fingerprint)"):
            finetune(options(model_folder, data, tmp_path / "run", **{"max_steps": 1} | changed))


def test_unknown_options_and_files_are_one_line_and_come_first(model_folder, tmp_path):
    """Nothing else is given, and no GPU may be there: what the user wrote wrongly is named all the same."""
    (tmp_path / "bad.yaml").write_text("model_name_or_path: x\ndata: y\nno_such_setting: 1\n")
    for arguments, message in (
        (["--config", str(tmp_path / "bad.yaml")], "no_such_setting in .*bad.yaml"),
        ([f"--config={tmp_path / 'none.yaml'}"], "none.yaml, which does not exist"),
        (["--max_steps=abc"], "--max-steps 'abc'"),
        (["--no_such_option=1"], "unknown option --no-such-option"),
        (["--max_step=1"], "unknown option --max-step"),  # no abbreviations
        ([f"--model-name-or-path={model_folder}", "--data=y"], "no output_dir"),
    ):
        with pytest.raises(InputError, match=message):
            read_options({"": VqaFinetuningConfig}, arguments, "granted train vqa")
    assert not (tmp_path / "run").exists()


def test_bf16_is_the_default_only_where_a_gpu_computes_in_it(tmp_path, caplog):
    config = VqaFinetuningConfig(model_name_or_path="x", data="y", output_dir=str(tmp_path))
    assert config.bf16 == is_torch_bf16_gpu_available()
    assert config.bf16 or "training in fp32" in caplog.text
    given = {"model_name_or_path": "x", "data": "y", "output_dir": str(tmp_path)}
    assert VqaFinetuningConfig(**given, use_cpu=True, bf16=True).bf16


def test_help_is_one_screen_and_all_of_it_is_there_on_request():
    shown, everything = (help_text({"": VqaFinetuningConfig}, "x", "y", everything=wanted) for wanted in (False, True))
    assert len(shown.splitlines()) < 70
    for name in ("model-name-or-path", "use-peft", "learning-rate", "output-dir", "dry-run"):
        assert f"--{name} " in shown
    assert "--neftune-noise-alpha" in everything and "--neftune-noise-alpha" not in shown


def test_options_that_trl_has_too_keep_its_names_and_defaults():
    theirs = {one.name: one.default for kind in (SFTConfig, ModelConfig) for one in fields(kind)}
    ours = {one.name: one.default for one in fields(VqaFinetuningConfig) if "group" in one.metadata}
    added = {"data", "skip_broken", "video_fps", "max_frames", "train_vision", "dry_run"}
    assert {name for name in ours.keys() - theirs.keys() if not name.startswith("ted")} == added
    different = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    assert different == {"model_name_or_path", "model_revision", "lora_dropout"}
