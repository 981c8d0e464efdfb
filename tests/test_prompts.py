"""Files of prompts: text, JSON Lines, Parquet with images in it, GenAI-Bench, and what is wrong with some."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from granted.dataset_builders.scenes.shapes.rows import text_to_image_rows, write_rows
from granted.eval_metric.generation.manifest import read_manifest
from granted.eval_metric.generation.prompts import rated_images, read_prompts
from granted.utils.errors import InputError


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    (tmp_path / "p.txt").write_text("a red star \n\n  ein großer Kreis\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == [
        {"id": "1", "prompt": "a red star"},
        {"id": "3", "prompt": "ein großer Kreis"},
    ]


def test_rows_keep_whatever_else_they_say(tmp_path):
    rows = [{"id": "a/b", "prompt": "a star", "skills": ["scene"], "n": 3}, {"id": 7, "prompt": "a ring"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "p.jsonl").write_text(lines)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    expected = [rows[0], {"id": "7", "prompt": "a ring"}]
    assert read_prompts(tmp_path / "p.jsonl") == read_prompts(tmp_path / "p.jsonl.gz") == expected


def test_rows_of_shapes_come_with_their_drawing_and_without_their_image(tmp_path):
    rows = list(text_to_image_rows(3, size=32))
    write_rows(rows, tmp_path / "shapes.parquet")
    found = read_prompts(tmp_path / "shapes.parquet")
    assert [row["prompt"] for row in found] == [row["caption"] for row in rows]
    assert [row["drawing"] for row in found] == [row["drawing"] for row in rows]
    assert set(found[0]) == {"id", "prompt", "short_caption", "drawing", "told"}


@pytest.fixture
def genai_bench(tmp_path):
    """Four prompts in the layout of GenAI-Bench, rated by three people for two models."""
    ratings = {"SDXL_Base": [1, 2, 3], "DALLE_3": [4, 5, 5]}
    prompts = {
        f"{i:05d}": {"id": f"{i:05d}", "prompt": f"prompt {i}", "prompt in Chinese": "x", "models": ratings}
        for i in range(4)
    }
    skills = {"basic": [0, 1], "advanced": [2], "scene": [0, 2], "attribute": [0, 1], "counting": [2]}
    (tmp_path / "genai_image.json").write_text(json.dumps(prompts))
    (tmp_path / "genai_skills.json").write_text(json.dumps(skills))
    return tmp_path


def test_genai_bench_comes_with_its_skills_and_groups(genai_bench):
    assert read_prompts(genai_bench / "genai_image.json") == [
        {"id": "00000", "prompt": "prompt 0", "skills": ["scene", "attribute"], "group": "basic"},
        {"id": "00001", "prompt": "prompt 1", "skills": ["attribute"], "group": "basic"},
        {"id": "00002", "prompt": "prompt 2", "skills": ["scene", "counting"], "group": "advanced"},
        {"id": "00003", "prompt": "prompt 3", "skills": [], "group": None},
    ]


def test_the_images_of_genai_bench_come_with_what_people_gave_them(genai_bench):
    rows, run = read_manifest(genai_bench)
    assert len(rows) == 8 and run.record is None and rows == rated_images(genai_bench)
    assert rows[5] == {
        "id": "DALLE_3/00002",
        "prompt_id": "00002",
        "prompt": "prompt 2",
        "skills": ["scene", "counting"],
        "group": "advanced",
        "media": "image",
        "model": "DALLE_3",
        "file": "DALLE_3/00002.jpeg",
        "rating": pytest.approx(14 / 3),
    }


def test_a_prompt_is_a_line_whatever_characters_are_in_it(tmp_path):
    """Some editors put a mark before a text, and Unicode knows more separators of lines than a file has."""
    (tmp_path / "p.txt").write_bytes("\ufeffa red star\r\na\u2028blue\x85 ring\n".encode())
    assert read_prompts(tmp_path / "p.txt") == [
        {"id": "1", "prompt": "a red star"},
        {"id": "2", "prompt": "a\u2028blue\x85 ring"},
    ]


@pytest.mark.parametrize("models", [["SDXL"], {"SDXL": []}, {"SDXL": ["good"]}, {"SDXL": 3}])
def test_ratings_that_are_none_are_refused(genai_bench, models):
    prompts = json.loads((genai_bench / "genai_image.json").read_text())
    prompts["00001"]["models"] = models
    (genai_bench / "genai_image.json").write_text(json.dumps(prompts))
    with pytest.raises(InputError, match="the ratings of prompt 00001"):
        read_manifest(genai_bench)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", '{"id": 1, "prompt": "\\ud800"}', "row 1 of"),
        ("p.jsonl.gz", b"no gzip", "p.jsonl.gz"),
        ("p.parquet", b"PAR1" + bytes(40) + b"PAR1", "expected a Parquet file"),
        ("p.txt", "\n \n", "no prompt"),
        ("p.txt", b"\xff\xfe", "UTF-8"),
        ("p.csv", "a", "expected .txt"),
        ("p.jsonl", "", "no prompt"),
        ("p.jsonl", '{"id": "1", "prompt": 3}', "row 1 of"),
        ("p.jsonl", '{"id": "1", "prompt": " "}', "expected text"),
        ("p.jsonl", '{"prompt": "a"}', "no id"),
        ("p.jsonl", '["a"]', "got list in row 1"),
        ("p.jsonl", '{"id": 1, "prompt": "a"}\n{"id": "1", "prompt": "b"}', "'1' more than once"),
        ("p.jsonl", '{"id": 1', "line 1"),
        ("p.parquet", "no parquet", "expected a Parquet file"),
        ("genai_image.json", '{"00000": {"prompt": "a"}}', "genai_skills.json, which does not exist"),
        ("genai_image.json", '["a"]', "which does not exist"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_prompts(path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_not_there_or_do_not_belong_together(tmp_path, genai_bench):
    for name in ("none.txt", "none.jsonl", "none.parquet", "none.json"):
        with pytest.raises(InputError):
            read_prompts(tmp_path / name)
    (genai_bench / "genai_skills.json").write_text('{"basic": [99]}')
    with pytest.raises(InputError, match="of one release"):
        read_prompts(genai_bench / "genai_image.json")
    (genai_bench / "genai_skills.json").write_text('{"basic": ["first"]}')
    with pytest.raises(InputError, match="list of numbers for each skill"):
        read_prompts(genai_bench / "genai_image.json")
    damaged = pa.array(["ab"]).cast(pa.binary()).buffers()  # no UTF-8, in a column of text
    text = pa.StringArray.from_buffers(1, damaged[1], pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"id": ["a"], "prompt": text}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="expected a Parquet file"):
        read_prompts(tmp_path / "p.parquet")
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="expected text"):
        read_prompts(tmp_path / "p.parquet")
