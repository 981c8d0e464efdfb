"""Judging answers about shapes, the baseline without looking, and a tower that learns to see."""

import json

import PIL.Image
import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLForConditionalGeneration

from granted.dataset_builders.scenes.shapes.questions import is_right
from granted.dataset_builders.scenes.shapes.rows import vqa_rows, write_rows
from granted.eval_metric.vqa import answer, evaluate_vqa, majority_answers, swapped, vqa_report
from granted.examples.miniature.model import build_miniature
from granted.examples.miniature.vision import LOOKS, drawing_of, labels_of
from granted.utils.errors import InputError


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A miniature whose tower has seen next to nothing."""
    folder = tmp_path_factory.mktemp("miniature") / "model"
    build_miniature(folder, images=64, vocabulary=500, texts=20)
    return str(folder)


@pytest.fixture(scope="session")
def rows():
    judged = [row for media in ("image", "video") for row in vqa_rows(60, media=media, size=32, frames=8)]
    return [row for row in judged if row["key"]]


@pytest.mark.parametrize(
    ("said", "key", "right"),
    [
        ("Yes.", "yes", True),
        ("No, the star is red.", "yes", False),
        ("The disc is violet.", "purple", True),
        ("The disc is violet.", "pink", False),
        ("There are three stars.", "3", True),
        ("The star is larger than the ring.", "star", True),
        ("The ring is larger than the star.", "star", False),
        ("The star slides left.", "moves left", True),
        ("The star slides right.", "moves left", False),
        ("In the upper left corner.", "in the top left corner", True),
        ("The heart reads 'RED'.", "RED", True),
        ("The heart is red.", "RED", False),
        ("A big red star.", "A", False),
        ("A", "A", True),
        ("", "yes", False),
        ("Anything at all.", "", False),
    ],
)
def test_an_answer_is_judged_by_what_it_means_not_by_its_words(said, key, right):
    assert is_right(said, key) == right


@pytest.mark.parametrize("media", ["image", "video"])
def test_every_true_answer_is_judged_right_and_another_ones_is_not(media):
    rows = [row for row in vqa_rows(700, media=media, size=32, frames=8) if row["key"]]
    said = [row["messages"][1]["content"][0]["text"] for row in rows]
    assert all(is_right(text, row["key"]) for text, row in zip(said, rows))
    other = {(row["pattern"], row["key"]): text for row, text in zip(rows, said)}
    for (pattern, key), text in other.items():
        rivals = [k for p, k in other if p == pattern and k != key]
        assert not any(is_right(text, rival) for rival in rivals), (pattern, key, text)


def test_swapping_images_keeps_medium_kind_and_questions(rows):
    other = swapped(rows)
    for row, changed in zip(rows, other):
        assert changed["messages"] == row["messages"] and bool(changed["videos"]) == bool(row["videos"])
        assert changed["images"] is not row["images"] and changed["videos"] is not row["videos"]
    clip = next(row for row in rows if row["videos"])
    with pytest.raises(InputError, match="one question about"):
        swapped([clip])


def test_the_majority_answer_is_the_commonest_key_of_each_kind_of_question():
    rows = [{"pattern": "p", "key": key} for key in ("red", "red", "blue")] + [{"pattern": "q", "key": "1"}]
    assert majority_answers(rows) == {"p": "red", "q": "1"}


def test_a_report_counts_right_answers_per_aspect():
    rows = [{"aspect": "counting", "pattern": "what count", "key": key} for key in ("1", "2", "3", "")]
    report = vqa_report(rows, {"model": ["One.", "Two.", "Two.", "?"]}, {"what count": "3"})
    assert report["counting"]["n"] == report["all"]["n"] == 3
    assert report["all"]["model"]["accuracy"] == pytest.approx(2 / 3)
    assert report["all"]["majority answer"]["accuracy"] == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="no question with a key"):
        vqa_report(rows[3:], {"model": ["?"]}, {})


def test_answers_do_not_depend_on_the_batch(small, rows):
    model = AutoModelForImageTextToText.from_pretrained(small)
    processor = AutoProcessor.from_pretrained(small)
    some = [rows[0], rows[-1], rows[5]]
    together = answer(model, processor, some, batch_size=3, max_new_tokens=6)
    assert together == [answer(model, processor, [row], max_new_tokens=6)[0] for row in some]


def test_an_evaluation_writes_report_answers_and_sheet_once(small, tmp_path, monkeypatch, granted):
    write_rows(vqa_rows(14, size=32), tmp_path / "rows.parquet")
    data = str(tmp_path / "rows.parquet")
    report = evaluate_vqa([f"before={small}"], data, data, tmp_path / "out")
    assert set(report["all"]) == {"n", "before", "before, picture swapped", "majority answer"}
    stored = json.loads((tmp_path / "out" / "vqa.json").read_text())
    assert stored["accuracy"] == report and len(stored["answers"]) == report["all"]["n"]
    sheet = tmp_path / "out" / "questions.png"
    assert sheet.stat().st_size > 10_000
    write_rows(vqa_rows(3, size=32), tmp_path / "few.parquet")
    evaluate_vqa([f"before={small}"], str(tmp_path / "few.parquet"), data, tmp_path / "few")
    heights = [PIL.Image.open(path).height for path in (sheet, tmp_path / "few" / "questions.png")]
    assert heights[1] < heights[0], "questions stand on the sheet several times"
    # Once more, with models that answer nothing: all is known, and what was written first stays as it is.
    written = (tmp_path / "out" / "vqa.json").read_bytes()
    assert stored["provenance"]["seconds"] > 0 and stored["provenance"]["date"]
    with monkeypatch.context() as patched:
        patched.setattr(Qwen3VLForConditionalGeneration, "generate", None)
        assert evaluate_vqa([f"before={small}"], data, data, tmp_path / "out") == report
    assert (tmp_path / "out" / "vqa.json").read_bytes() == written
    code, shown, error = granted(
        *("evaluate", "vqa", f"before={small}", "--data", data, "--training-data", data, "--batch-size", 2),
        *("--output", tmp_path / "out"),
    )
    assert code == 0 and "answered right" in shown, error
    for models, words in ((["./nowhere"], "vision-language model"), ([small, small], "different names")):
        with pytest.raises(InputError, match=words):
            evaluate_vqa(models, data, data, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_every_figure_is_over_the_token_of_its_cell_and_nothing_else_is_labelled():
    for number in range(50):
        drawing = drawing_of(f"labels/{number}")
        truth = labels_of(drawing, 3)
        cells = {figure.cell[0] + 3 * figure.cell[1]: figure for figure in drawing.figures}
        for token in range(9):
            assert truth["presence"][token] == (token in cells) and truth["place"][token] == token
            for name, kinds in LOOKS.items():
                label = truth[name][token].item()
                assert (kinds[label] if label >= 0 else None) == getattr(cells.get(token), name, None)
