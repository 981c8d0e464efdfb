"""Stage 1 by TRL, on a real Qwen3-VL of a few hundred thousand parameters."""

import json
import re
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextMLP

from granted import GrantedModel
from granted.dataset_builders.caption_pairs.pairs import write_pairs
from granted.dataset_builders.scenes.world import world_pairs
from granted.dataset_builders.visual_vqa.collator import IGNORED, VqaCollator, answer_template
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.eval_metric.ted_probe import encoder_of
from granted.examples.miniature.model import CHAT_TEMPLATE, miniature_tokenizer
from granted.tests.forked import GRANTED
from granted.tests.vqa_training import SMALL, finetune, llava, moved, options, save_model, weights, write_data
from granted.training.run_folder import RECORD
from granted.training.vqa.export import export_encoder
from granted.training.vqa.finetuning import (
    LengthsOfEpoch,
    VqaFinetuningConfig,
    beside_the_layers,
    dry_run,
    load_model,
    lora_config,
)
from granted.utils.errors import InputError


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("vqa") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def collator(model_folder):
    return VqaCollator(AutoProcessor.from_pretrained(model_folder))


@pytest.fixture(scope="module")
def mixed(data):
    rows = [row for name in ("images.parquet", "clips.parquet", "texts.jsonl") for row in load_vqa(str(data / name))]
    return [rows[0], rows[7], rows[8], rows[3], rows[6]]


# ------------------------------------------------------------------------------------------------------------- batches


def summed_loss(model, collator, rows):
    batch = collator(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits  # (B, N, V)
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    ).item()


def test_a_mixed_batch_of_images_videos_and_text_has_the_loss_of_its_rows_one_by_one(model_folder, collator, mixed):
    model = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32).eval()
    alone = [summed_loss(model, collator, [row]) for row in mixed]
    assert summed_loss(model, collator, mixed) == pytest.approx(sum(alone), rel=1e-5)


def test_the_loss_is_on_answers_and_their_ends_only(collator, mixed):
    batch = collator(mixed)
    for row, ids, labels in zip(mixed, batch["input_ids"], batch["labels"]):
        counted = labels[labels != IGNORED]
        assert torch.equal(counted, ids[labels != IGNORED])
        answer = row["messages"][1]["content"][0]["text"]
        assert collator.processor.tokenizer.decode(counted) == f"{answer}<|im_end|>"


def test_timestamps_follow_the_frame_rate_of_the_video(collator, data):
    row = dict(load_vqa(str(data / "clips.parquet"))[0])
    tokenizer = collator.processor.tokenizer
    # Eight frames at eight a second last one second: at four a second every other is seen, two make one step in time.
    assert re.findall(r"<([\d.]+) seconds>", tokenizer.decode(collator([row])["input_ids"][0])) == ["0.1", "0.8"]
    slow = re.findall(r"<([\d.]+) seconds>", tokenizer.decode(collator([row | {"fps": 4.0}])["input_ids"][0]))
    assert [float(time) for time in slow] == pytest.approx([0.1, 0.6, 1.1, 1.6], abs=0.06)


def test_nothing_is_cut_from_a_long_row(collator, mixed):
    row = {"messages": [{"role": "user", "content": "word " * 3000}, {"role": "assistant", "content": "Yes."}]}
    batch = collator([row, mixed[0]])
    assert batch["input_ids"].shape[1] > 3000 and (batch["labels"][0] != IGNORED).any()
    shown = (batch["input_ids"] == collator.processor.image_token_id).sum()
    assert shown == batch["image_grid_thw"].prod(-1).sum() // 4


def test_a_template_that_marks_no_answers_is_refused_or_replaced_by_trls_variant(model_folder):
    processor = AutoProcessor.from_pretrained(model_folder)
    processor.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(InputError, match="marks no answers"):
        answer_template(processor)


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("train_vision", [False, True])
def test_full_fine_tuning_moves_the_language_model_and_the_vision_tower_only_if_asked(
    model_folder, data, tmp_path, train_vision
):
    finetune(options(model_folder, data, tmp_path / "run", train_vision=train_vision))
    changed = moved(weights(model_folder), weights(tmp_path / "run"))
    language = {name for name in weights(model_folder) if "visual" not in name}
    assert language <= changed
    assert any("visual" in name for name in changed) == train_vision


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_moves_only_itself_and_merges_into_the_same_function(
    model_folder, data, tmp_path, use_dora, collator, mixed
):
    config = options(model_folder, data, tmp_path / "run", use_peft=True, use_dora=use_dora, lora_r=4, save_steps=2)
    finetune(config)
    trained = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all("language_model" in name and "visual" not in name for name in trained)
    assert any(name.endswith("lora_B.weight") and tensor.abs().sum() > 0 for name, tensor in trained.items())
    base = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32)
    unmerged = PeftModel.from_pretrained(base, tmp_path / "run").eval()
    loss = summed_loss(unmerged, collator, mixed)
    merged = unmerged.merge_and_unload().eval()
    assert summed_loss(merged, collator, mixed) == pytest.approx(loss, rel=1e-5)
    encoder = GrantedModel.from_pretrained(export_encoder(tmp_path / "run", tmp_path / "encoder"))
    assert encoder.config.fusion == "norm_avg"
    record = json.loads((tmp_path / "encoder" / RECORD).read_text())
    assert record["steps"] == 3 and record["settings"]["use_dora"] is use_dora and record["exported"]["merged_adapter"]
    export_encoder(tmp_path / "run" / "checkpoint-2", tmp_path / "earlier")
    export_encoder(tmp_path / "run", tmp_path / "seeing", keep_vision=True)
    assert type(AutoProcessor.from_pretrained(tmp_path / "seeing")).__name__ == "Qwen3VLProcessor"
    earlier = json.loads((tmp_path / "earlier" / RECORD).read_text())
    assert earlier["steps"] == 2
    assert all(earlier[name] == record[name] for name in ("base_fingerprint", "data_fingerprint", "settings"))


def qwen2_5_vl(tokenizer):
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start")}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
    text = {**SMALL, "vocab_size": len(tokenizer), "rope_parameters": rope}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "patch_size": 8, "fullatt_block_indexes": [1], "window_size": 32},
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
    )
    sized = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sized),
        video_processor=Qwen2VLVideoProcessor(**sized),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


@pytest.mark.parametrize("make", [qwen2_5_vl, llava])
def test_other_vision_language_models_are_fine_tuned_and_exported(make, data, tmp_path):
    torch.manual_seed(0)
    model, processor = make(miniature_tokenizer(500, 20))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    images, videos = str(data / "images.parquet"), str(data / "clips.parquet")
    rows = f"{images},{videos}" if hasattr(processor, "video_processor") else images
    finetune(options(str(tmp_path / "model"), data, tmp_path / "run", data=rows))
    changed = moved(weights(tmp_path / "model"), weights(tmp_path / "run"))
    assert changed and not any("vis" in name or "projector" in name for name in changed)
    encoder = GrantedModel.from_pretrained(export_encoder(tmp_path / "run", tmp_path / "encoder"))
    assert encoder.encode(["a red star"])[0].shape[1] == 32


@pytest.mark.parametrize("use_peft", [False, True], ids=["none", "lora"])
def test_resumed_is_uninterrupted(model_folder, data, tmp_path, use_peft):
    changed = {"max_steps": 4, "save_steps": 2, "use_peft": use_peft}
    finetune(options(model_folder, data, tmp_path / "whole", **changed))
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for path in (tmp_path / "broken").iterdir():
        if path.name in ("checkpoint-4", RECORD) or path.suffix == ".safetensors":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    # What a kill leaves behind in the middle of writing a checkpoint: a folder without its state.
    (tmp_path / "broken" / "checkpoint-3").mkdir()
    finetune(options(model_folder, data, tmp_path / "broken", **changed))
    file = "adapter_model.safetensors" if use_peft else "model.safetensors"
    assert not moved(*(load_file(tmp_path / name / file) for name in ("whole", "broken")))


def test_a_run_killed_after_its_last_step_is_finished_without_another(model_folder, data, tmp_path):
    finetune(options(model_folder, data, tmp_path / "run", max_steps=3, save_steps=1))
    before, record = weights(tmp_path / "run"), json.loads((tmp_path / "run" / RECORD).read_text())
    for path in (RECORD, "model.safetensors"):
        (tmp_path / "run" / path).unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")  # nothing to train the last step from
    finetune(options(model_folder, data, tmp_path / "run", max_steps=3, save_steps=1))
    assert not moved(before, weights(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / RECORD).read_text()) == record


def command(model_folder, data, output, steps):
    """The settings of `options` as a command that saves every step."""
    settings = {"model_name_or_path": model_folder, "data": f"{data / 'images.parquet'},{data / 'clips.parquet'}"}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    arguments += [f"--output-dir={output}", f"--max_steps={steps}", "--use_cpu=true"]
    arguments += ["--per_device_train_batch_size=2", "--learning_rate=1e-3", "--bf16=false", "--save_steps=1"]
    arguments += ["--gradient_checkpointing=false", "--disable_tqdm=true"]
    return [GRANTED, "train", "vqa", *arguments]


def test_kill_9_loses_nothing_but_the_steps_since_the_last_checkpoint(model_folder, data, forked, tmp_path):
    finetune(options(model_folder, data, tmp_path / "whole", max_steps=12, save_steps=1))
    run = command(model_folder, data, tmp_path / "killed", steps=12)
    process = forked(*run)
    while not list((tmp_path / "killed").glob("checkpoint-*/trainer_state.json")):
        assert process.is_alive(), forked.said()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert forked.done(*run) == 0, forked.said()
    assert not moved(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert not list((tmp_path / "killed").rglob(".*"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_what_was_saved_before(
    model_folder, data, forked, tmp_path, file
):
    finetune(options(model_folder, data, tmp_path / "whole", max_steps=2, save_steps=1))
    shutil.copytree(tmp_path / "whole", tmp_path / "full")
    (tmp_path / "full" / RECORD).unlink()
    cut = tmp_path / "full" / "checkpoint-2"
    limit = (cut / file).stat().st_size - 100  # bytes that a file may have
    (cut / "trainer_state.json").write_text('{"global_st')  # as a kill leaves it
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    _, *arguments = command(model_folder, data, tmp_path / "full", steps=2)
    assert forked.done(f"{program}; {GRANTED}", *arguments) == 2, forked.said()
    lines = [line for line in forked.said().splitlines() if line.startswith("granted:")]
    assert len(lines) == 1 and "while writing" in lines[0]
    assert [path.name for path in (tmp_path / "full").glob("checkpoint-*")] == ["checkpoint-1"]
    finetune(options(model_folder, data, tmp_path / "full", max_steps=2, save_steps=1))
    assert not moved(weights(tmp_path / "whole"), weights(tmp_path / "full"))
    assert not list((tmp_path / "full").glob(".*.tmp"))


def test_rows_grouped_by_length_resume_exactly_in_a_later_epoch(model_folder, data, tmp_path):
    changed = {"train_sampling_strategy": "group_by_length", "max_steps": 7, "save_steps": 1, "save_total_limit": None}
    finetune(options(model_folder, data, tmp_path / "whole", **changed))
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    (tmp_path / "broken" / RECORD).unlink()
    for step in (6, 7):  # so that it goes on in the middle of the second epoch
        shutil.rmtree(tmp_path / "broken" / f"checkpoint-{step}")
    finetune(options(model_folder, data, tmp_path / "broken", **changed))
    assert not moved(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_rows_of_like_length_share_a_batch_and_every_epoch_has_an_order_of_its_own():
    lengths = [10 + number % 7 * 50 for number in range(280)]
    sampler = LengthsOfEpoch(4, lengths, seed=0)
    first = list(sampler)
    batches = [[lengths[i] for i in first[start : start + 4]] for start in range(0, 280, 4)]
    assert sorted(first) == list(range(280))
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 50
    sampler.set_epoch(1)
    assert list(sampler) != first
    again = LengthsOfEpoch(4, lengths, seed=0)
    assert list(again) == first


def test_a_finished_run_is_not_trained_any_further(model_folder, data, tmp_path):
    finetune(options(model_folder, data, tmp_path / "run", save_steps=1))
    before = weights(tmp_path / "run")
    finetune(options(model_folder, data, tmp_path / "run", save_steps=1))
    (tmp_path / "run" / RECORD).unlink()  # killed while the model was being saved
    finetune(options(model_folder, data, tmp_path / "run", save_steps=1))
    assert not moved(before, weights(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / RECORD).read_text())["steps"] == 3


def test_activation_checkpointing_changes_nothing_but_memory(model_folder, data, tmp_path, monkeypatch):
    calls, forward = [], Qwen3VLTextMLP.forward
    monkeypatch.setattr(Qwen3VLTextMLP, "forward", lambda self, x: calls.append(self) or forward(self, x))
    counts = []
    for name, wanted in (("without", False), ("with", True)):
        calls.clear()
        finetune(options(model_folder, data, tmp_path / name, gradient_checkpointing=wanted))
        counts.append(len(calls))
    assert counts[1] == 2 * counts[0]  # every layer is computed once more
    one, other = weights(tmp_path / "without"), weights(tmp_path / "with")
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_two_processes_and_two_accumulated_batches_are_one_batch(model_folder, data, forked, tmp_path):
    # By plain gradient descent: Adam makes a whole step of a gradient that is zero but for rounding.
    settings = {"model_name_or_path": model_folder, "data": f"{data / 'images.parquet'},{data / 'clips.parquet'}"}
    settings |= {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "disable_tqdm": True}
    settings |= {"lr_scheduler_type": "constant", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    for name, batch, accumulated in (("one", 4, 1), ("accumulated", 2, 2)):
        batches = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        finetune(VqaFinetuningConfig(output_dir=str(tmp_path / name), **batches, **settings))
    arguments = [f"--output-dir={tmp_path / 'processes'}", "--per_device_train_batch_size=2"]
    forked.both_done(GRANTED, "train", "vqa", *arguments, *(f"--{name}={value}" for name, value in settings.items()))
    one = weights(tmp_path / "one")
    assert moved(weights(model_folder), one)
    for name in ("accumulated", "processes"):
        other = weights(tmp_path / name)
        assert all(torch.allclose(other[key], one[key], rtol=1e-4, atol=1e-5) for key in one), name


@pytest.mark.parametrize("bf16", [False, True])
def test_ted_is_scored_before_during_and_after_and_the_training_does_not_notice(model_folder, data, tmp_path, bf16):
    write_pairs(world_pairs(24, categories=1, words=(40, 150)), tmp_path / "pairs.parquet")
    (tmp_path / "ted.yaml").write_text(
        "features: [last, norm_avg]\nbatch_size: 4\nmax_steps: 2\nheld_out: 4\nlearning_rates: 1.0e-3\n"
    )
    probed = {"ted": "sample", "ted_pairs": str(tmp_path / "pairs.parquet"), "ted_config": str(tmp_path / "ted.yaml")}
    steps = {"max_steps": 2, "bf16": bf16, "gradient_accumulation_steps": 2}
    finetune(options(model_folder, data, tmp_path / "with", ted_steps=1, **steps, **probed))
    finetune(options(model_folder, data, tmp_path / "without", **steps))
    assert not moved(weights(tmp_path / "with"), weights(tmp_path / "without"))
    scores = json.loads((tmp_path / "with" / RECORD).read_text())["ted"]
    assert set(scores) == {"0", "1", "2"}
    for at_step in scores.values():
        assert set(at_step) == {"last", "norm_avg"}
        assert 0 <= at_step["norm_avg"]["accuracy"] <= 1 and at_step["norm_avg"]["categories"]["OCR"]["n"] > 0


def test_a_resumed_run_keeps_the_scores_it_has(model_folder, data, tmp_path):
    write_pairs(world_pairs(24, categories=1, words=(40, 150)), tmp_path / "pairs.parquet")
    (tmp_path / "ted.yaml").write_text("batch_size: 4\nmax_steps: 1\nheld_out: 4\n")
    probed = {"ted": "sample", "ted_pairs": str(tmp_path / "pairs.parquet"), "ted_config": str(tmp_path / "ted.yaml")}
    changed = {"max_steps": 2, "save_steps": 1, "ted_steps": 1} | probed
    finetune(options(model_folder, data, tmp_path / "run", **changed))
    before = json.loads((tmp_path / "run" / RECORD).read_text())["ted"]
    assert set(before) == {"0", "1", "2"}
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    (tmp_path / "run" / RECORD).unlink()
    finetune(options(model_folder, data, tmp_path / "run", **changed))
    assert json.loads((tmp_path / "run" / RECORD).read_text())["ted"] == before


def test_the_probe_scores_what_export_makes(model_folder, data, tmp_path):
    finetune(options(model_folder, data, tmp_path / "run"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run", dtype=torch.float32)
    live = encoder_of(model, AutoProcessor.from_pretrained(tmp_path / "run").tokenizer)
    exported = GrantedModel.from_pretrained(export_encoder(tmp_path / "run", tmp_path / "encoder"))
    assert live.fingerprint() == exported.fingerprint()
    one, other = live.encode(["a red star"])[0], exported.encode(["a red star"])[0]
    assert torch.allclose(one, other, atol=1e-6)


def test_a_dry_run_shows_rows_with_the_loss_mask_and_trains_nothing(model_folder, data, tmp_path):
    changed = {"data": str(data / "images.parquet"), "use_peft": True}
    shown = dry_run(options(model_folder, data, tmp_path / "run", **changed))
    assert shown.count("--- row") == 3 and shown.count("【") == 3 and "<|im_end|>】" in shown
    assert re.search(r"trainable parameters: [\d,]+ of [\d,]+", shown) and "steps:" in shown
    assert not (tmp_path / "run").exists()


def test_default_targets_are_the_language_models_projections_and_nothing_else(model_folder, data, tmp_path):
    config = options(model_folder, data, tmp_path, use_peft=True)
    model, _, _ = load_model(config)
    targets = lora_config(config, model).target_modules
    matched = {name for name, _ in model.named_modules() if re.fullmatch(targets, name)}
    assert len(matched) == 7 * model.config.text_config.num_hidden_layers
    assert all("language_model" in name for name in matched)


def test_four_bits_are_for_the_layers_of_the_language_model_only(model_folder):
    beside = beside_the_layers(model_folder, {})
    assert {"lm_head", "model.visual", "model.language_model.embed_tokens"} <= set(beside)
    assert not any("layers" in name for name in beside)
