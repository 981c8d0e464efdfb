"""The page of the metric's Space: what is pasted is scored as the metric scores it, over HTTP too."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gradio_client import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.eval_metric.ted_accuracy import app


SCORES = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=4)
ROWS = st.lists(SCORES.flatmap(lambda s: st.tuples(st.just(s), st.integers(0, len(s) - 1))), min_size=1, max_size=8)


@settings(deadline=None)
@given(ROWS)
def test_csv_and_json_give_what_the_metric_gives(rows):
    instances = [{"scores": scores, "label": label, "category": "OCR"} for scores, label in rows]
    width = max(len(scores) for scores, _ in rows)
    lines = [f"label,category,{','.join(f's{i}' for i in range(width))}"]
    lines += [f"{label},OCR,{','.join(map(str, scores))}{',' * (width - len(scores))}" for scores, label in rows]
    expected = [scores[label] > max(score for i, score in enumerate(scores) if i != label) for scores, label in rows]
    for text in (json.dumps(instances), "\n".join(lines)):
        table, answer = app.score(text)
        assert answer["accuracy"] == pytest.approx(sum(expected) / len(rows)) and answer["n"] == len(rows)
        low, high = answer["accuracy_ci95"]
        cells = [f"{100 * answer['accuracy']:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]", len(rows), answer["ties"]]
        assert table == [["all", *cells], ["OCR", *cells]]


def test_an_empty_cell_before_the_true_statement_is_no_statement():
    _, answer = app.score("label,a,b,c\n2,,0.1,0.9\n1,,0.9,0.1")
    assert answer["accuracy"] == 1.0 and answer["n"] == 2


def test_the_examples_of_the_page_can_be_scored():
    assert app.score(app.CSV_EXAMPLE)[1]["n"] == 3 and app.score(app.CSV_EXAMPLE)[1]["ties"] == 1
    assert app.score(app.JSON_EXAMPLE)[1]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  \n", "got no text"),
        ("a,b\n1,2", "without a column label"),
        ("label,a,b\n0,1", "another number of cells in row 2"),
        ("label,a,b\n0,1,2,3", "another number of cells in row 2"),
        ("label,a,b\n0,1,x", "row 2 that is no number"),
        ("label,a,b\n,1,2", "row 2 that is no number"),
        ("label,a,b\n1,1,", "row 2 that is no number"),
        ("label,false,false\n0,1,2", "two columns of one name"),
        ("label,a,b", "got no instances"),
        ("[1", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"scores": [1, 2], "label": 0}', "expected a list of them"),
        ('[{"scores": [1, 2]}]', "instance 0 without scores and label"),
        ('[{"scores": [1, NaN], "label": 0}]', "got score nan at instance 0"),
        ('[{"scores": [1, 2], "label": 5}]', "got label 5 at instance 0"),
        (f'[{{"scores": [1, 2], "label": {2**63}}}]', f"got label {2**63} at instance 0"),
        (f'[{{"scores": {2**63}, "label": 0}}]', f"got prediction {2**63} at instance 0"),
        (f"label,a,b\n{2**63},2,1", f"got label {2**63} at instance 0"),
        ('[{"scores": [1%s, 2], "label": 0}]' % ("0" * 400), r"got score 10+\.\.\.0+ at instance 0"),
        (f'[{{"scores": [{2**53 + 1}, {2**53}], "label": 0}}]', f"got score {2**53 + 1} at instance 0"),
        ('[{"scores": [1, 2], "label": 0, "category": ["OCR"]}]', r"got \['OCR'\] in categories"),
        ('[{"scores": [1, 2], "label": 0, "media": {}}]', "got {} in media"),
        ("label,a,b\n" + "0,2,1\n" * 900_000, "got 5,400,010 characters, expected at most 5,000,000"),
        ('[{"scores": [1, 2], "label": 0, "category": "ocr"}]', "expected one of Action Recognition"),
    ],
)
def test_rows_that_cannot_be_scored_are_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        app.score(text)
    assert "\n" not in str(caught.value)
    assert app.score("label,a,b\n0,2,1")[1]["n"] == 1, "the next request got something of this one"


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_scored_or_refused(text):
    try:
        table, answer = app.score(text)
    except ValueError:
        return
    assert table[0][0] == "all" and answer["n"] >= 1


def test_the_page_runs_as_a_space_does_from_its_own_folder_and_is_for_this_machine_alone(tmp_path):
    source = Path(app.__file__).parent
    for name in ("app.py", "ted_accuracy.py"):
        shutil.copy(source / name, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")} | {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "GRADIO_SERVER_PORT": str(port),
    }
    with open(tmp_path / "log", "w") as log:
        page = subprocess.Popen(
            [sys.executable, "-I", "-u", "app.py"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 600
        while "Running on" not in (tmp_path / "log").read_text():
            assert page.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        assert f"http://127.0.0.1:{port}" in (tmp_path / "log").read_text()
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        table, answer = client.predict("label,true,false\n0,0.9,0.1\n1,0.9,0.1", api_name="/score")
        assert answer["accuracy"] == 0.5 and table["data"][0][0] == "all"
        with pytest.raises(Exception, match="without a column label"):
            client.predict("a,b\n1,2", api_name="/score")
    finally:
        page.terminate()
        page.wait(30)
