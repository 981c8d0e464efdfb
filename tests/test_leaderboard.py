"""The leaderboard: what it says is what the results say, in a real browser too, and texts of results stay texts."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granted.eval_metric.leaderboard import app
from granted.eval_metric.leaderboard.board import Board
from granted.eval_metric.overview.collection import collect, ranked
from granted.eval_metric.seed_groups import compare
from granted.publishing.build import build_release
from granted.publishing.sources import Sources
from granted.tests.ted_results import Page, make, make_records, rows_of
from granted.tests.test_review_page import browser, free_port  # noqa: F401  the fixture
from granted.utils.errors import InputError


HOSTILE = "<img src=x onerror='window.hit=1'><b>**x**</b> ${1+1} {{value}} [a](javascript:hit)"
ARMS = [("tiny", "last"), ("tiny", "norm_avg"), (HOSTILE, "last"), ("large, random weights", "last")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """TED of two encoders with two seeds, one of them with a name that is markup, reading, a ladder, and what cannot
    be ranked."""
    folder = tmp_path_factory.mktemp("results")
    reading = rows_of("reading", (0.4, 0.5, 0.6, 0.1), ["all", "figure"], ARMS)
    difference = {"difference": -0.1, "ci95": [-0.15, -0.05], "p": 0.002}
    reading["differences"] = [{"a": ["tiny", "last"], "b": ["tiny", "norm_avg"], "wording": "form"} | difference]
    drawing = rows_of("drawing", (0.4, 0.6), ["look"], ARMS[:2])
    over_seeds = {"difference": 0.1, "ci95": [-0.15, 0.35], "p": 0.2}
    drawing["differences"] = [{"a": ["tiny", "norm_avg"], "b": ["tiny", "last"], "wording": "form"} | over_seeds]
    for name, content in (("reading/reading.json", reading), ("drawing/drawing.json", drawing)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(json.dumps(content))
    for seed in (0, 1):
        for encoder, feature, quality in (("tiny", "last", 0.2), ("tiny", "norm_avg", 1.0), (HOSTILE, "last", 2.0)):
            make(encoder, feature, seed=seed, quality=quality).save(folder / "ted")
    make("tiny", "last").save(folder / "mixed")
    make("tiny", "norm_avg", records=make_records(30)).save(folder / "mixed")
    return folder


@pytest.fixture(scope="module")
def board(results):
    return Board(results)


def index_of(board, path):
    return [one.path for one in board.evaluations].index(path)


def test_an_evaluation_has_the_ranking_of_the_report_and_what_cannot_be_ranked_is_named(board, results):
    evaluations, apart = collect(results)
    for one, shown in zip(evaluations, board.content["evaluations"], strict=True):
        expected = [(each.arm, [each.first, each.last], each.score.value) for each in ranked(one.headline)]
        assert [(row["arm"], row["places"], row["scores"][0][0]) for row in shown["rows"]] == expected
        assert all(f"{row['encoder']} · {row['feature']}" == row["arm"] for row in shown["rows"])
    assert [path for path, _ in board.content["apart"]] == [path for path, _ in apart] == ["mixed"]
    assert str(results) not in json.dumps(board.content), "a folder of this machine would be published"
    encoders = {row["encoder"] for one in board.content["evaluations"] for row in one["rows"]}
    assert not encoders & {row["encoder"] for row in board.content["published"]["rows"]}


def test_differences_are_paired_and_of_the_same_items(board):
    ted = index_of(board, "ted")
    best, second, _ = board.evaluations[ted].groups
    (found,) = board.differences(ted, best.label, second.label)
    expected = compare(best, second).difference
    assert (found["difference"], found["ci95"], found["p"]) == (
        expected.difference,
        [expected.low, expected.high],
        expected.p_value,
    )
    reading = index_of(board, "reading/reading.json")
    (found,) = board.differences(reading, "tiny · norm_avg", "tiny · last")  # kept the other way round
    assert found == {"score": "unseen sentences", "difference": 0.1, "ci95": [0.05, 0.15], "p": 0.002}
    assert board.differences(reading, f"{HOSTILE} · last", "tiny · last") == []
    drawing = index_of(board, "drawing/drawing.json")
    assert board.differences(drawing, "tiny · norm_avg", "tiny · last") == [], "differences over seeds, not items"


def test_a_space_knows_what_the_results_say(board, results, tmp_path):
    build_release(tmp_path / "release", Sources(leaderboard=results), owner="me")
    folder = tmp_path / "release" / "granted-leaderboard"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "app.py",
        "leaderboard.json",
        "requirements.txt",
    ]
    content = json.loads((folder / "leaderboard.json").read_text())
    stored = app.stored_differences(content)
    assert {name: content[name] for name in board.content} == json.loads(json.dumps(board.content))
    for index, one in enumerate(board.content["evaluations"]):
        a, b = (row["arm"] for row in one["rows"][:2])
        assert stored(index, a, b) == board.differences(index, a, b)


def test_a_table_is_filtered_and_sorted_by_what_is_chosen(board):
    evaluation = board.content["evaluations"][index_of(board, "reading/reading.json")]

    def order(**chosen):
        text = Page(app.ranking(evaluation, **chosen)).text
        return sorted(
            (row["arm"] for row in evaluation["rows"] if row_text(row) in text), key=lambda arm: place(arm, text)
        )

    def row_text(row):
        return row["encoder"] + row["feature"]

    def place(arm, text):
        return text.index(arm.replace(" · ", ""))

    arms = [row["arm"] for row in evaluation["rows"]]
    assert order() == arms and order(encoders=["tiny"]) == ["tiny · norm_avg", "tiny · last"]
    assert order(encoders=["tiny"], features=["last"]) == ["tiny · last"]
    assert order(by=app.BY_NAME) == sorted(arms)
    assert "2 of 4 are shown" in Page(app.ranking(evaluation, ["tiny"])).text
    assert app.ranking(evaluation, by="unseen sentences").index("unseen sentences") < app.ranking(
        evaluation, by="unseen sentences"
    ).index("unseen words")


@given(st.text(max_size=40), st.text(max_size=40))
def test_names_and_reasons_are_texts_whatever_they_are(name, feature):
    rows = [
        {
            "arm": "a",
            "encoder": name,
            "feature": feature,
            "floor": False,
            "places": [1, 1],
            "scores": [[0.5, 0.4, 0.6]],
        }
    ]
    evaluation = {"title": name, "what": name, "columns": [{"name": name, "unit": "%"}], "rows": rows}
    plain = {**evaluation, "what": "", "columns": [{"name": "", "unit": "%"}]}
    plain["rows"] = [{**rows[0], "encoder": "", "feature": ""}]
    assert Page(app.ranking(evaluation)).tags == Page(app.ranking(plain)).tags
    found = [{"score": name, "difference": 0.1, "ci95": [0.0, 0.2], "p": 0.5}]
    assert Page(app.comparison(name, feature + "x", found)).tags.count("bdi") == (3 if name != feature + "x" else 0)
    assert set(Page(app.apart([(name, feature)])).tags) == {"h2", "ul", "li", "b", "bdi"}


# ------------------------------------------------------------------------------------------------- in a real browser


@contextlib.contextmanager
def served(command, folder, port, **environment):
    """The page of a command; ends with the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    log = folder / f"log-{port}"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-u", *map(str, command)], cwd=folder, env=kept | environment, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 300
        while "Running on" not in log.read_text():
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.2)
        assert f"http://127.0.0.1:{port}" in log.read_text(), "it is not for this machine alone"
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    port = free_port()
    command = ["-m", "granted.cli", "leaderboard", results, "--port", port]
    with served(command, tmp_path_factory.mktemp("server"), port) as found:
        yield found


def choose(page, name, choice):
    """Choose in a list by its text."""
    page.click(f"#{name} input")
    page.get_by_role("option", name=choice, exact=True).click()


def first_cells(page):
    return [one.inner_text() for one in page.locator("#ranking tbody td:first-child").all()]


def test_one_evaluation_at_a_time_is_filtered_sorted_and_compared(browser, address, board):  # noqa: F811
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector("#ranking table")
    assert len(first_cells(page)) == 2
    page.click("#compare")
    page.get_by_text("no paired comparison").wait_for()
    choose(page, "evaluation", board.content["evaluations"][index_of(board, "ted")]["title"])
    page.get_by_text("60 items").wait_for()
    # else the difference is that of another evaluation
    page.wait_for_function("document.querySelector('#comparison').innerText.trim() === ''")
    assert first_cells(page) == [f"{HOSTILE}\nlast", "tiny\nnorm_avg", "tiny\nlast"]
    page.click("#compare")
    page.wait_for_selector("#comparison table")
    (found,) = board.differences(index_of(board, "ted"), f"{HOSTILE} · last", "tiny · norm_avg")
    assert f"{100 * found['difference']:+.1f}" in page.inner_text("#comparison")
    page.click("#filter button")
    choose(page, "encoders", "tiny")
    page.get_by_text("2 of 3 are shown").wait_for()
    assert page.evaluate("window.hit") is None and page.locator("#board img").count() == 0
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_the_accuracy_is_in_sight(browser, address, board, theme):  # noqa: F811
    page = browser.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}?__theme={theme}")
    for one in board.content["evaluations"]:
        choose(page, "evaluation", one["title"])
        page.get_by_text(f"All {len(one['rows'])} are shown").wait_for()
        page.get_by_text(one["columns"][0]["name"]).first.wait_for()
        box = page.locator("#ranking tbody tr:first-child td:nth-child(2)").bounding_box()
        assert box["x"] > 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_the_space_runs_from_its_own_folder_without_this_package(browser, board, tmp_path):  # noqa: F811
    shutil.copy(app.__file__, tmp_path)
    (tmp_path / app.STORED).write_text(json.dumps(board.with_differences()))
    port = free_port()
    with served(["-I", "app.py"], tmp_path, port, GRADIO_SERVER_PORT=str(port)) as address:
        page = browser.new_page()
        page.goto(address)
        choose(page, "evaluation", board.content["evaluations"][index_of(board, "ted")]["title"])
        page.get_by_text("60 items").wait_for()
        page.click("#compare")
        page.wait_for_selector("#comparison table")
        page.close()


def test_a_folder_without_results_is_one_line(tmp_path):
    with pytest.raises(InputError, match="without a single result"):
        Board(tmp_path)
