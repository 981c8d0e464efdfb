"""Images and videos from real pipelines in miniature: seeds, resuming, refusing, and what a folder of them holds."""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from granted import GrantedModel, cli
from granted.eval_metric.generation.manifest import open_media, read_manifest
from granted.eval_metric.generation.sampling import SamplingSettings, load_pipeline, sample_prompts, seed_of
from granted.pipeline_granted import GrantedLumina2Pipeline
from granted.tests.forked import GRANTED
from granted.utils.errors import InputError


PROMPTS = [
    {"id": "a/1", "prompt": "a red cube on a blue sphere", "skills": ["scene"]},
    {"id": "b", "prompt": "two black cats sleep under the old wooden table"},
    {"id": "c", "prompt": "the small dog"},
    {"id": "d", "prompt": "a photo of a city"},
    {"id": "e", "prompt": "an old man slowly opens the green door"},
]
DIT = {"hidden_size": 48, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1}
DIT |= {"multiple_of": 16, "axes_dim_rope": (8, 8, 8), "axes_lens": (512, 32, 32), "cap_feat_dim": 32}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory, tiny_encoder_folder, make_tokenizer):
    """Folders of three pipelines: ours on pixels, with its own code, and the stock ones of Lumina 2 and Wan."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipelines")
    encoder = GrantedModel.from_encoder(tiny_encoder_folder, fusion="norm_avg", max_sequence_length=32)
    parts = {"scheduler": FlowMatchEulerDiscreteScheduler(), "text_encoder": encoder}
    pixels = Lumina2Transformer2DModel(sample_size=32, patch_size=8, in_channels=3, **DIT)
    GrantedLumina2Pipeline(**parts, transformer=pixels, vae=None, tokenizer=None).save_pretrained(folder / "pixels")
    parts["tokenizer"] = make_tokenizer("[BOS]", None)
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.0,
    )
    latents = Lumina2Transformer2DModel(sample_size=16, patch_size=2, in_channels=4, **DIT)
    Lumina2Pipeline(**parts, transformer=latents, vae=vae).save_pretrained(folder / "lumina2")
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    video = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=1,
    )
    WanPipeline(**parts, transformer=video, vae=vae).save_pretrained(folder / "wan")
    return folder


@pytest.fixture(scope="module")
def pipeline(pipelines):
    return load_pipeline(str(pipelines / "pixels"), trust_remote_code=True)


QUICK = SamplingSettings(steps=2, batch_size=2)


def images(folder):
    rows, run = read_manifest(folder)
    return {row["id"]: np.stack([np.asarray(one) for one in open_media(row, run.folder)]) for row in rows}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_manifest_says_of_each_image_where_it_comes_from(pipeline, tmp_path):
    rows = sample_prompts(pipeline, PROMPTS, tmp_path / "out", QUICK, name="pixels")
    found, run = read_manifest(tmp_path / "out")
    assert found == rows and [row["id"] for row in rows] == [row["id"] for row in PROMPTS]
    assert rows[0] == PROMPTS[0] | {
        "prompt_id": "a/1",
        "file": "images/000000.png",
        "seed": seed_of(0, "a/1"),
        "media": "image",
        "run": run.record["run"],
    }
    assert {image.shape for image in images(tmp_path / "out").values()} == {(1, 32, 32, 3)}
    assert run.record["identity"]["arguments"]["guidance_scale"] == 4.0  # what the pipeline takes by itself
    assert run.record["provenance"]["class"] == "GrantedLumina2Pipeline"
    assert Image.open(tmp_path / "out" / "grid.png").width == 4 * 480
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "images",
        "manifest.jsonl",
        "generation.json",
        "grid.png",
    }


def test_an_image_depends_on_seed_and_id_and_not_on_the_batch_or_its_place(pipeline, tmp_path):
    together = SamplingSettings(steps=2, batch_size=5)
    sample_prompts(pipeline, PROMPTS, tmp_path / "together", together)
    sample_prompts(pipeline, PROMPTS[::-1], tmp_path / "alone", SamplingSettings(steps=2, batch_size=1))
    one, other = images(tmp_path / "together"), images(tmp_path / "alone")
    for name in one:
        # Matrix products of another shape round differently: at most one step of 256.
        assert np.abs(one[name].astype(int) - other[name]).max() <= 1
    sample_prompts(pipeline, PROMPTS, tmp_path / "seed", SamplingSettings(steps=2, batch_size=5, seed=1))
    assert not any(np.array_equal(one[name], other) for name, other in images(tmp_path / "seed").items())
    renamed = [row | {"id": row["id"] + "x"} for row in PROMPTS]
    sample_prompts(pipeline, renamed, tmp_path / "renamed", together)
    assert not np.array_equal(images(tmp_path / "renamed")["bx"], one["b"])


def test_several_images_of_a_prompt_are_different_and_the_first_is_the_same(pipeline, tmp_path):
    several = SamplingSettings(steps=2, batch_size=5, images_per_prompt=2)
    rows = sample_prompts(pipeline, PROMPTS, tmp_path / "two", several)
    assert [row["id"] for row in rows[:3]] == ["a/1/0", "a/1/1", "b/0"] and rows[1]["prompt_id"] == "a/1"
    found = images(tmp_path / "two")
    assert not np.array_equal(found["b/0"], found["b/1"])
    sample_prompts(pipeline, PROMPTS, tmp_path / "one", SamplingSettings(steps=2, batch_size=5))
    one = images(tmp_path / "one")
    assert all(np.abs(one[name].astype(int) - found[f"{name}/0"]).max() <= 1 for name in one)


def test_settings_reach_the_pipeline(pipeline, tmp_path):
    sample_prompts(pipeline, PROMPTS[:2], tmp_path / "plain", QUICK)
    plain = images(tmp_path / "plain")
    for name, value in {"steps": 3, "guidance": 1.0, "negative_prompt": "a bird", "height": 16}.items():
        settings = SamplingSettings(**{"steps": 2, "batch_size": 2} | {name: value})
        sample_prompts(pipeline, PROMPTS[:2], tmp_path / name, settings)
        assert not same(images(tmp_path / name), plain), name
    assert images(tmp_path / "height")["b"].shape == (1, 16, 32, 3)


def test_stock_pipelines_make_images_and_videos(pipelines, tmp_path):
    lumina = load_pipeline(str(pipelines / "lumina2"))
    sample_prompts(lumina, PROMPTS, tmp_path / "lumina2", SamplingSettings(steps=2, height=32, width=32, guidance=3.0))
    assert {image.shape for image in images(tmp_path / "lumina2").values()} == {(1, 32, 32, 3)}
    wan = load_pipeline(str(pipelines / "wan"))
    settings = SamplingSettings(steps=2, height=32, width=32, frames=5, batch_size=2, fps=8)
    rows = sample_prompts(wan, PROMPTS[:3], tmp_path / "wan", settings)
    videos = images(tmp_path / "wan")
    assert {clip.shape for clip in videos.values()} == {(5, 32, 32, 3)}
    assert (rows[0]["media"], rows[0]["fps"], rows[0]["file"]) == ("video", 8, "videos/000000")
    shutil.rmtree(tmp_path / "wan" / "videos" / "000001")
    sample_prompts(wan, PROMPTS[:3], tmp_path / "wan", settings)
    assert same(images(tmp_path / "wan"), videos)


def test_what_is_lost_is_made_again_and_nothing_else(pipeline, tmp_path):
    sample_prompts(pipeline, PROMPTS, tmp_path / "out", QUICK)
    whole = images(tmp_path / "out")
    (tmp_path / "out" / "images" / "000003.png").unlink()
    (tmp_path / "out" / "manifest.jsonl").unlink()
    with pytest.raises(InputError, match="run granted generate again"):
        read_manifest(tmp_path / "out")
    kept = (tmp_path / "out" / "images" / "000000.png").stat().st_mtime_ns
    sample_prompts(pipeline, PROMPTS, tmp_path / "out", QUICK)
    assert same(images(tmp_path / "out"), whole)
    assert (tmp_path / "out" / "images" / "000000.png").stat().st_mtime_ns == kept


def test_a_folder_of_other_settings_prompts_or_weights_is_refused(pipeline, pipelines, tmp_path):
    out = tmp_path / "out"
    sample_prompts(pipeline, PROMPTS, out, QUICK)
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    for changed, said in (
        ({"settings": SamplingSettings(steps=3, batch_size=2)}, "steps"),
        ({"settings": SamplingSettings(steps=2, batch_size=2, seed=1)}, "seed"),
        ({"prompts": PROMPTS[1:]}, "prompts"),
    ):
        with pytest.raises(InputError, match=rf"made otherwise \({said}\)"):
            sample_prompts(**{"pipeline": pipeline, "prompts": PROMPTS, "output": out, "settings": QUICK} | changed)
    moved = shutil.copytree(pipelines / "pixels", tmp_path / "moved")
    other = load_pipeline(str(moved), trust_remote_code=True)
    sample_prompts(other, PROMPTS, out, QUICK)  # the same pipeline in another place
    other.register_to_config(max_sequence_length=16)
    with pytest.raises(InputError, match=r"made otherwise \(pipeline\)"):
        sample_prompts(other, PROMPTS, out, QUICK)
    other.register_to_config(max_sequence_length=None)
    with torch.no_grad():
        next(other.transformer.parameters()).add_(1)
    with pytest.raises(InputError, match=r"made otherwise \(pipeline\)"):
        sample_prompts(other, PROMPTS, out, QUICK)
    images_before = [entry for entry in before if "images" in str(entry[0])]
    assert [entry for entry in images_before if entry[0].stat().st_mtime_ns != entry[1]] == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        sample_prompts(pipeline, PROMPTS, tmp_path / "full", QUICK)


def test_what_fails_leaves_nothing_behind(pipelines, tmp_path):
    pipeline = load_pipeline(str(pipelines / "pixels"), trust_remote_code=True)
    with pytest.raises(InputError, match="takes no num_frames"):
        sample_prompts(pipeline, PROMPTS, tmp_path / "out", SamplingSettings(frames=4))
    with pytest.raises(InputError, match="change the settings"):
        sample_prompts(pipeline, PROMPTS, tmp_path / "out", SamplingSettings(steps=1, height=33))
    with torch.no_grad():
        next(pipeline.transformer.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN in the image of prompt 'a/1'"):
        sample_prompts(pipeline, PROMPTS, tmp_path / "out", QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changed", [{"steps": 0}, {"batch_size": 0}, {"fps": 0}, {"images_per_prompt": -1}])
def test_settings_out_of_range_are_refused(changed):
    with pytest.raises(InputError, match=next(iter(changed))):
        SamplingSettings(**changed)


def test_code_that_ships_with_a_pipeline_runs_only_if_it_may(pipelines, tiny_encoder_folder):
    with pytest.raises(InputError, match="--trust-remote-code"):
        load_pipeline(str(pipelines / "pixels"))
    with pytest.raises(InputError, match="expected a pipeline of diffusers"):
        load_pipeline(tiny_encoder_folder)
    with pytest.raises(InputError, match="expected one of float32"):
        load_pipeline(str(pipelines / "wan"), dtype="int8")


def without(path, pickled=""):
    """Take a weight out of a file, or pickle them all."""
    weights = load_file(path)
    path.unlink()
    if pickled:
        torch.save(weights, path.with_name(pickled))
    else:
        save_file(dict(sorted(weights.items())[1:]), path, {"format": "pt"})


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "model_index.json").write_text("[1]"), "expected a pipeline of diffusers"),
        (lambda path: (path / "text_encoder/config.json").write_text('{"hidden_size": "wide"}'), "of diffusers"),
        (lambda path: (path / "transformer/config.json").write_text('{"num_layers": "one"}'), "expected a pipeline"),
        (lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-10]), "expected a pipeline"),
        (lambda path: without(path / WEIGHTS, pickled="diffusion_pytorch_model.bin"), "in safetensors"),
        (lambda path: without(path / "text_encoder/model.safetensors", pickled="pytorch_model.bin"), "in safetensors"),
        (lambda path: without(path / WEIGHTS), "whose transformer lacks"),
        (lambda path: without(path / "text_encoder/model.safetensors"), "whose text_encoder lacks"),
    ],
)
def test_a_damaged_or_pickled_pipeline_is_one_line(pipelines, tiny_encoder_folder, tmp_path, damage, said):
    path = shutil.copytree(pipelines / "wan", tmp_path / "pipeline")
    shutil.rmtree(path / "text_encoder")
    shutil.copytree(tiny_encoder_folder, path / "text_encoder")
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["transformers", "LlamaModel"]}))
    load_pipeline(str(path))
    damage(path)
    with pytest.raises(InputError, match=said) as error:
        load_pipeline(str(path))
    assert "\n" not in str(error.value)


def test_killed_at_any_time_it_goes_on_to_the_same_images(pipelines, pipeline, forked, tmp_path):
    prompts = [{"id": str(i), "prompt": f"a red cube {'and a dog ' * (i % 4)}"} for i in range(12)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    options = ["--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "killed", "--batch-size", "1"]
    options += ["--steps", "12", "--trust-remote-code"]
    process = forked(GRANTED, "generate", pipelines / "pixels", *options)
    while not list((tmp_path / "killed").glob("images/*.png")):
        assert process.is_alive(), forked.said()
        time.sleep(0.01)
    process.kill()
    process.join()
    made = len(list((tmp_path / "killed").glob("images/*.png")))
    assert 1 <= made < 12 and not (tmp_path / "killed" / "manifest.jsonl").exists()
    settings = SamplingSettings(steps=12, batch_size=1)
    for output in ("killed", "whole"):
        sample_prompts(pipeline, prompts, tmp_path / output, settings)
    assert same(images(tmp_path / "killed"), images(tmp_path / "whole"))
    assert not list((tmp_path / "killed").rglob(".*"))


def test_bad_input_on_the_command_line_is_one_line_and_exit_code_2(pipelines, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "p.txt").write_text("a red cube\n")
    for prompts, folder, said in (
        ("empty.txt", "pixels", "no prompt"),
        ("p.txt", "nowhere", "expected a pipeline"),
        ("none.txt", "pixels", "none.txt"),
    ):
        arguments = ["generate", str(pipelines / folder), "--prompts", str(tmp_path / prompts)]
        monkeypatch.setattr(sys, "argv", ["granted", *arguments, "--output", str(tmp_path / "out")])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("granted:")]
        assert end.value.code == 2 and len(line) == 1 and re.search(said, line[0]), line
    assert not Path(tmp_path / "out").exists()
