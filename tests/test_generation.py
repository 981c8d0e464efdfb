"""From images to scores on disk and in the terminal, and images, manifests and judges that cannot be used."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from granted.dataset_builders.scenes.shapes.drawing import Drawing, Figure, render_image, render_video
from granted.eval_metric.generation.evaluation import Scores, evaluate_generation
from granted.eval_metric.generation.manifest import MANIFEST, RECORD, read_manifest
from granted.examples.miniature.model import miniature_config, miniature_processor, miniature_tokenizer
from granted.utils.errors import InputError


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("judge") / "tiny"
    tokenizer = miniature_tokenizer(500, 20)
    config = miniature_config(tokenizer)
    config.text_config.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3})
    config.vision_config.update({"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64})
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    miniature_processor(tokenizer).save_pretrained(folder)
    return str(folder)


def shapes():
    colours = ("red", "orange", "yellow", "green", "blue", "purple")
    return [
        Drawing((Figure("star", colour, "large", "solid", (i % 3, 0)),), "white") for i, colour in enumerate(colours)
    ]


@pytest.fixture
def folder(tmp_path):
    """Six images as granted generate leaves them: five are what was asked for, in the last the colour is another."""
    path = tmp_path / "pictures"
    (path / "images").mkdir(parents=True)
    rows = []
    for i, drawing in enumerate(shapes()):
        shown = drawing if i < 5 else Drawing((Figure("star", "pink", "large", "solid", (2, 0)),), "white")
        render_image(shown, 64).save(path / "images" / f"{i}.png")
        row = {"id": str(i), "prompt": f"a {drawing.figures[0].colour} star", "media": "image", "run": "r"}
        skills = {"skills": ["attribute"], "group": "basic" if i % 2 else "advanced", "rating": float(i)}
        rows.append(row | skills | {"file": f"images/{i}.png", "drawing": drawing.to_json()})
    write(path, rows)
    (path / RECORD).write_text(json.dumps({"kind": "granted.generation", "run": "r"}))
    return path


def write(folder, rows):
    (folder / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder):
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_scores_are_reported_stored_and_shown(folder, judge, granted):
    code, shown, _ = granted("evaluate", "generation", folder, "--judge", f"mini={judge}")
    assert code == 0
    stored = Scores.load(folder / "scores" / "shapes.json")
    part = stored.report["1 to 3 things"]
    assert (part["colour"]["score"], part["colour"]["n"]) == (pytest.approx(5 / 6), 6)
    assert part["shape"]["score"] == 1 and part["at_places"]["score"] == pytest.approx(23 / 24)
    assert part["colour"]["control"]["score"] == 0 and part["colour"]["ceiling"] == 1
    assert [item["colour"] for item in stored.items] == [1, 1, 1, 1, 1, 0]
    assert stored.items[5]["shape"] == 1 and stored.items[5]["colour control"] == 0
    assert stored.stored["pictures"]["generation"]["run"] == "r"
    assert stored.stored["provenance"]["versions"]["granted"] and stored.stored["provenance"]["date"]
    for text in ("at places", "83.3", "VQAScore", "advanced", "agreement with people over 6 images"):
        assert text in shown, shown
    judged = Scores.load(folder / "scores" / "vqa_score__mini.json")
    scores = [item["score"] for item in judged.items]
    assert judged.report["all"]["score"] == pytest.approx(np.mean(scores))
    assert judged.report["basic"]["score"] == pytest.approx(np.mean(scores[1::2]))
    assert judged.agreement["pearson"] == pytest.approx(np.corrcoef(scores, range(6))[0, 1])
    assert judged.stored["provenance"]["settings"]["judge"] == "mini"
    assert len(judged.stored["provenance"]["weights_fingerprint"]) == 64
    assert Image.open(folder / "scores" / "grid.png").size[0] == 4 * 480
    assert judged.stored["provenance"]["seconds"] == pytest.approx(sum(i["seconds"] for i in judged.items), abs=0.01)
    files = {path: path.read_bytes() for path in (folder / "scores").glob("*.json")}
    again = evaluate_generation(folder, judge=f"mini={judge}")
    assert again["vqa_score"] == judged.report and again["shapes"] == stored.report
    # What is finished is not written again: its provenance says when it was made, and how long that took.
    assert {path: path.read_bytes() for path in (folder / "scores").glob("*.json")} == files


def test_the_published_measure_is_a_file_of_its_own_and_is_called_by_its_name(folder, judge, granted):
    arguments = ("evaluate", "generation", folder, "--judge", f"mini={judge}")
    for more, said in (
        ((), 'VQAScore, probability of "Yes"'),
        (("--measure", "answer_and_end"), 'VQAScore, geometric mean probability of "Yes" and the end token'),
    ):
        code, shown, _ = granted(*arguments, *more)
        assert code == 0 and said in " ".join(shown.split()), shown
    one, other = (
        Scores.load(folder / "scores" / f"{name}.json")
        for name in ("vqa_score__mini", "vqa_score__answer_and_end__mini")
    )
    assert one.stored["provenance"]["settings"]["measure"] == "answer_probability"
    assert other.stored["provenance"]["settings"]["measure"] == "answer_and_end"
    assert one.report != other.report


def test_videos_are_scored_and_judged(judge, tmp_path):
    for i, drawing in enumerate(shapes()[:2]):
        (tmp_path / str(i)).mkdir()
        for number, frame in enumerate(render_video(Drawing(drawing.figures, "white", "video"), 8, 64)):
            frame.save(tmp_path / str(i) / f"{number:04d}.png")
    drawings = [Drawing(drawing.figures, "white", "video").to_json() for drawing in shapes()[:2]]
    row = {"prompt": "a star", "media": "video", "fps": 8}
    write(tmp_path, [row | {"id": f"p{i}", "file": str(i), "drawing": drawings[i]} for i in range(2)])
    reports = evaluate_generation(tmp_path, tmp_path / "scores", judge=judge)
    assert reports["shapes"]["1 to 3 things"]["motion"]["score"] == 1
    assert reports["shapes"]["1 to 3 things"]["colour"]["control"]["score"] == 0
    assert reports["vqa_score"]["all"]["n"] == 2


def test_images_from_elsewhere_are_judged(folder, judge, tmp_path):
    own = tmp_path / "own.jsonl"
    rows = [{name: row[name] for name in ("id", "prompt", "media")} for row in rows_of(folder)]
    rows = [row | {"file": str(folder / "images" / f"{row['id']}.png")} for row in rows]
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert set(evaluate_generation(own, tmp_path / "scores", judge=judge)) == {"vqa_score"}
    assert not (tmp_path / "scores" / "shapes.json").exists()


def test_unreadable_images_are_named_counted_and_skipped_only_if_asked(folder, granted):
    (folder / "images" / "1.png").write_bytes(b"no image")
    (folder / "images" / "3.png").unlink()
    code, _, said = granted("evaluate", "generation", folder)
    line = said.strip().splitlines()[-1]
    assert code == 2 and line.startswith("granted: got 2 of 6 images that cannot be read (1, 3; the first: ")
    assert "1.png" in line and "--skip-unreadable" in line and not (folder / "scores").exists()
    code, *_ = granted("evaluate", "generation", folder, "--skip-unreadable")
    stored = Scores.load(folder / "scores" / "shapes.json").stored["pictures"]
    assert code == 0 and stored["scored"] == 4 and set(stored["unreadable"]) == {"1", "3"}


def broken(folder, change):
    rows = rows_of(folder)
    if change == "nothing":
        (folder / MANIFEST).unlink()
    elif change == "empty":
        (folder / MANIFEST).write_text("")
    elif change == "cut":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-20])
    elif change == "other run":
        write(folder, [row | {"run": "other"} for row in rows])
    elif change == "twice":
        write(folder, [*rows, rows[0]])
    elif change == "no prompt":
        write(folder, [{**rows[0], "prompt": None}])
    elif change == "media":
        write(folder, [{**rows[0], "media": "sound"}])
    elif change == "record":
        (folder / RECORD).write_text("[]")
    elif change.startswith("{"):
        write(folder, [rows[0] | json.loads(change)])
    elif change == "some drawings":
        write(folder, [{**rows[0], "drawing": None}, *rows[1:]])
    elif change == "no drawings":
        write(folder, [{name: value for name, value in row.items() if name != "drawing"} for row in rows])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("nothing", "it goes on where it stopped"),
        ("empty", "without a row"),
        ("cut", "malformed JSON"),
        ("other run", "manifest of another run"),
        ("twice", "'0' more than once"),
        ("no prompt", "without prompt"),
        ("media", "'sound'"),
        ("record", "expected a run's record"),
        ('{"fps": "8"}', "row 1 of"),
        ('{"fps": -1}', "above 0"),
        ('{"rating": NaN}', "finite number"),
        ('{"skills": "scene"}', "skills='scene', expected a list, each part of it a text"),
        ('{"told": [1]}', "each part of it a text"),
        ('{"prompt_id": 1}', "expected a text"),
        ('{"drawing": {}}', "expected a text"),
        ("some drawings", "5 of 6 rows"),
        ("no drawings", "--judge"),
    ],
)
def test_a_bad_manifest_is_one_line_and_exit_code_2(folder, granted, change, said):
    broken(folder, change)
    code, _, error = granted("evaluate", "generation", folder)
    lines = [line for line in error.splitlines() if line.startswith("granted:")]
    assert code == 2 and len(lines) == 1 and said in lines[0], error
    assert not (folder / "scores").exists()


def test_no_folder_and_no_judge(folder, tmp_path, granted):
    for arguments in ((tmp_path / "nowhere",), (folder, "--judge", tmp_path / "nowhere")):
        code, _, error = granted("evaluate", "generation", *arguments)
        assert code == 2 and "nowhere" in error.splitlines()[-1]
    assert not (folder / "scores").exists()


@pytest.mark.parametrize("changed", [{"batch_size": 0}, {"batch_size": True}, {"max_frames": 1.5}, {"measure": "yes"}])
def test_settings_without_sense_are_refused_before_a_judge_is_loaded(folder, changed):
    with pytest.raises(InputError, match=f"got {next(iter(changed))}="):
        evaluate_generation(folder, judge="nowhere", **changed)
    assert not (folder / "scores").exists()


def test_scores_are_loaded_with_their_own_table_only(folder):
    evaluate_generation(folder)
    path = folder / "scores" / "shapes.json"
    path.with_suffix(".parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="without its own"):
        Scores.load(path)
    (folder / "scores" / "x.json").write_text("{}")
    with pytest.raises(InputError, match="expected scores"):
        Scores.load(folder / "scores" / "x.json")


def test_a_manifest_in_parquet(folder):
    pq.write_table(pa.Table.from_pylist(rows_of(folder)), folder / "manifest.parquet")
    rows, run_ = read_manifest(folder / "manifest.parquet")
    assert [row["id"] for row in rows] == list("012345") and run_.folder == Path(folder)
