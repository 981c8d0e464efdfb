"""Stage 1 on rows that a construction has exported: the batches, and so the training, of rows made from scenes."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoProcessor

from granted.dataset_builders.construction.card import ExportSettings
from granted.dataset_builders.construction.export import export
from granted.dataset_builders.scenes.shapes.rows import vqa_rows, write_rows
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.tests.tiny_media import video
from granted.tests.vqa_training import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("vqa") / "model")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows from scenes as they are made today, and the same ones through a run's stages and its export."""
    folder = tmp_path_factory.mktemp("rows")
    rows = [*vqa_rows(4, size=64), *vqa_rows(2, media="video", size=64, frames=8)]
    write_rows(rows, folder / "today.parquet")
    run = folder / "run"
    items, questions = [], []
    for i, row in enumerate(rows):
        media, suffix = ("image", "png") if row["images"] else ("video", "mp4")
        items.append({"id": str(i), "media": media, "file": f"media/{i}.{suffix}", "use": "vqa"})
        (run / "media").mkdir(parents=True, exist_ok=True)
        if row["images"]:
            row["images"][0].save(run / items[-1]["file"])
        else:
            (run / items[-1]["file"]).write_bytes(video(row["videos"][0], fps=8))
        asked, answered = (turn["content"][-1]["text"] for turn in row["messages"])
        questions.append({"id": str(i), "aspect": row["aspect"], "question": asked, "answer": answered})
    for stage, rows_of_stage in (("curate", items), ("questions", questions)):
        (run / stage).mkdir()
        pq.write_table(pa.Table.from_pylist(rows_of_stage), run / stage / "rows.parquet")
    export(ExportSettings(license="apache-2.0", source_license="apache-2.0"), run)
    return folder / "today.parquet", run / "export" / "vqa.parquet"


def test_a_batch_of_exported_rows_is_that_of_todays_rows(model, files):
    collator = VqaCollator(AutoProcessor.from_pretrained(model))
    today, exported = map(load_vqa, map(str, files))
    images = range(4)
    batches = [collator([rows[i] for i in images]) for rows in (today, exported)]
    assert set(batches[0]) == set(batches[1])
    for name, values in batches[0].items():
        assert torch.equal(values, batches[1][name]), name
    # A video file has lost a little of its pixels, and nothing else.
    clips = [collator([rows[4], rows[5]]) for rows in (today, exported)]
    assert (clips[0].pop("pixel_values_videos") - clips[1].pop("pixel_values_videos")).abs().mean() < 0.1
    for name, values in clips[0].items():
        assert torch.equal(values, clips[1][name]), name


def test_granted_train_vqa_takes_them(granted, model, files, tmp_path):
    code, _, err = granted(
        *("train", "vqa", "--model-name-or-path", model, "--data", files[1], "--output-dir", tmp_path / "trained"),
        *("--max-steps", 2, "--per-device-train-batch-size", 2, "--use-cpu", "--report-to", "none"),
    )
    assert code == 0, err
    state = json.loads(next((tmp_path / "trained").rglob("trainer_state.json")).read_text())
    assert state["global_step"] == 2 and (tmp_path / "trained" / "config.json").is_file()
