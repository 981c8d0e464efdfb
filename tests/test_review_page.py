"""The review page in a real browser, by keyboard alone: what is pressed is saved, and texts of data stay texts."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from granted.dataset_builders.construction.review import page as review_page
from granted.dataset_builders.construction.review.login import TRIES, hashed
from granted.dataset_builders.construction.review.reviewing import Review
from granted.tests.review_runs import make_run, run_rows, write_run


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run"]
FLAGS += ["disable-background-networking", "disable-component-update", "disable-sync"]
WAIT = 300_000  # milliseconds, on a machine that does much else
SPACE = Path(review_page.__file__).parent
PASSWORD = "correct horse"
HOSTILE = (
    "<script>window.hit=1</script><img src=x onerror='window.hit=1'> **bold** [a](javascript:hit) ${1+1} {{value}}"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium with a profile of its own."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, headless=True, args=[f"--{flag}" for flag in FLAGS]
        )
        context.set_default_timeout(WAIT)
        yield context
        context.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def served(run, users="", port=None, folder=SPACE, host="127.0.0.1", command=("app.py",)):
    """The page of a run as its folder serves it, as a Space does, or as a command; ends by kill -9."""
    port = port or free_port()
    left_out = ("GRADIO", "REVIEW", *(["PYTHONPATH"] if command == ("app.py",) else []))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)} | {
        **{"REVIEW_RUN": str(run), "REVIEW_USERS": users, "GRADIO_SERVER_PORT": str(port)},
        "GRADIO_SERVER_NAME": host,
        "TMPDIR": str(run.parent),  # what the killed server leaves goes with the test's folder
    }
    log = run.parent / f"log-{port}-{time.monotonic_ns()}"
    with open(log, "w") as out:
        server = subprocess.Popen(
            [sys.executable, "-u", *command], cwd=folder, env=environment, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + 600
        while "Running on" not in log.read_text():
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/", log, server
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait(30)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Images and a video; everyone gets the video, an instance with hostile texts and one with long ones, as gold."""
    run = tmp_path_factory.mktemp("page") / "run"
    rows = run_rows(run, items=12, videos=1)
    rows[0] |= {"caption": HOSTILE, "question": HOSTILE, "statements": [f"{HOSTILE} {n}" for n in range(4)]}
    long = "The large striped figure in the upper left corner is " + "noticeably " * 12 + "red"
    rows[2] |= {"caption": " ".join([rows[2]["caption"]] * 5), "statements": [f"{long} {n}." for n in range(4)]}
    Review(write_run(run, rows)).add_gold({rows[n]["instance"]: "accept" for n in (0, 2, -1)})
    return run


@pytest.fixture(scope="module")
def address(run, browser):
    with served(run) as (url, *_):
        yield url


@pytest.fixture
def page(browser, address):
    """A page of which every error is one of the test."""
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def wait_for(condition):
    until = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def shown(page):
    """The texts of the statements on the page, by what is claimed about them, in their order."""
    return [
        (item.locator(".claim").inner_text().lower(), item.locator("bdi").inner_text())
        for item in page.locator("#statements li").all()
    ]


def begin(page, address, name):
    """Say who is reviewing, by keyboard."""
    page.goto(address)
    page.wait_for_selector("#name textarea, #name input")
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("#statements li")


def expected(review, name):
    """What a reviewer is to be shown now, as `shown` gives it."""
    one = review.next(name)
    order = review.shown_order(name, one)
    return [("true" if index == one.label else "false", one.statements[index]) for index in order]


def press(page, review, name, *keys):
    """Press keys, and wait until what they say is saved and the next instance is shown."""
    before = len([one for one in review.decisions() if one.reviewer == name])
    for key in keys:
        page.keyboard.press(key)
    wait_for(lambda: len([one for one in review.decisions() if one.reviewer == name]) != before)
    wait_for(lambda: shown(page) == expected(review, name))
    return review.decisions()[-1]


def test_everything_is_done_by_keyboard_and_saved_at_once(page, address, run):
    review = Review(run)
    begin(page, address, "ana")
    assert shown(page) == expected(review, "ana")
    assert "0 of" in page.inner_text("#bar") and "reviewer=ana" in page.url
    first = review.next("ana").instance

    saved = press(page, review, "ana", "a")
    assert (saved.instance, saved.decision, saved.reviewer) == (first, "accept", "ana") and saved.seconds > 0
    wait_for(lambda: page.inner_text("#bar").replace("\xa0", " ").split("yours")[0].split()[1] == "1")
    assert press(page, review, "ana", "n").decision == "null"

    page.keyboard.press("r")
    page.wait_for_selector("#reason-2")
    page.wait_for_selector("#accept", state="hidden")  # or it could be pressed while a reason is chosen
    saved = press(page, review, "ana", "2")
    assert (saved.decision, saved.reason) == ("reject", review_page.REASONS[1])

    page.keyboard.press("r")
    page.wait_for_selector("#reason-text textarea")
    page.keyboard.press("t")
    page.keyboard.type("an unfair 1 reason")  # a, n, u, f, r and 1 are keys of the page
    saved = press(page, review, "ana", "Control+Enter")
    assert (saved.decision, saved.reason) == ("reject", "an unfair 1 reason")

    texts = [text for _, text in shown(page)]
    instance = review.next("ana")
    page.keyboard.press("f")
    page.wait_for_selector("#fixed-1 textarea:focus")
    page.keyboard.press("Control+a")
    page.keyboard.type("A fair new run.")
    for _ in range(4):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    true = page.locator("#true input:checked").get_attribute("value")
    saved = press(page, review, "ana", "Control+Enter")
    order = review.shown_order("ana", instance)
    assert saved.decision == "fix" and [saved.statements[index] for index in order] == ["A fair new run.", *texts[1:]]
    assert saved.label == order[int(true) - 1]


def test_undo_shows_the_instance_again_and_escape_saves_nothing(page, address, run):
    review = Review(run)
    begin(page, address, "bo")
    first = shown(page)
    press(page, review, "bo", "n")
    page.keyboard.press("u")
    wait_for(lambda: shown(page) == first)
    wait_for(lambda: "you had decided null" in page.inner_text("#notice"))
    before = review.decisions()
    page.keyboard.press("u")
    wait_for(lambda: "no decision of yours" in page.inner_text("#notice"))
    for opens, field in (("f", "#fixed-1 textarea"), ("r", "#reason-1")):
        page.keyboard.press(opens)
        page.wait_for_selector(field)
        page.keyboard.press("Escape")
        page.wait_for_selector("#accept")
        assert shown(page) == first
    page.keyboard.press("f")
    page.wait_for_selector("#fixed-1 textarea:focus")
    page.keyboard.press("Control+Enter")
    wait_for(lambda: "nothing changed" in page.inner_text("#notice"))
    assert review.decisions() == before and page.is_visible("#fixing")


def test_keys_with_modifiers_are_the_browsers_and_the_focus_is_seen(page, address, run):
    begin(page, address, "cy")
    before = Review(run).decisions()
    for key in ("Control+a", "Alt+n", "Meta+n"):
        page.keyboard.press(key)
    page.keyboard.press("Tab")
    seen = set()
    for _ in range(12):
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or page.evaluate("document.activeElement === document.body")
        page.keyboard.press("Tab")
    assert {"accept", "fix", "reject", "null", "undo", "progress", "caption"} <= seen
    assert Review(run).decisions() == before
    page.focus("#null")
    assert press(page, Review(run), "cy", "Enter").decision == "null"


def test_a_name_elsewhere_that_was_made_to_lead_here_is_refused(address):
    port = int(address.rstrip("/").rpartition(":")[2])
    for host, status in ((f"localhost:{port}", 200), (f"evil.example:{port}", 400)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/config", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_texts_of_data_are_shown_as_texts(page, address, run):
    review = Review(run)
    begin(page, address, "<b>di</b>")
    while (one := review.next("<b>di</b>")).caption != HOSTILE:
        press(page, review, "<b>di</b>", "a")
    assert sorted(text for _, text in shown(page)) == sorted(one.statements)
    assert page.inner_text(".caption bdi") == HOSTILE and page.inner_text(".asked bdi >> nth=1") == HOSTILE
    page.keyboard.press("f")
    page.wait_for_selector("#fixed-4 textarea")
    fields = [page.locator(f"#fixed-{number} textarea").input_value() for number in range(1, 5)]
    assert sorted(fields) == sorted(one.statements)
    page.keyboard.press("Escape")
    page.wait_for_selector("#accept")
    page.keyboard.press("p")
    page.wait_for_selector("#overview table")
    assert "<b>di</b>" in page.inner_text("#overview")
    assert page.evaluate("window.hit") is None and page.locator("#review script, #statements img").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_phone_image_and_statements_are_in_sight_and_nothing_overlaps(page, address, run, theme):
    page.set_viewport_size({"width": 390, "height": 844})
    name = f"eve {theme}"
    begin(page, f"{address}?__theme={theme}", name)
    review = Review(run)
    while review.store.gold().keys() - {one.instance for one in review.decisions() if one.reviewer == name}:
        page.wait_for_function("[...document.querySelectorAll('#media img')].every((image) => image.naturalWidth > 0)")
        boxes = [page.locator("#media :is(img, video)").bounding_box()]
        boxes += [item.bounding_box() for item in page.locator("#statements li").all()]
        actions = page.locator("#actions").bounding_box()
        top = actions["y"]
        ends = [box["y"] + box["height"] for box in boxes]
        starts = [box["y"] for box in boxes[1:]] + [top]
        assert actions["y"] + actions["height"] <= 844 and boxes[0]["y"] >= 0 and boxes[0]["height"] > 150
        assert all(end <= start for end, start in zip(ends, starts)), "something covers something"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        press(page, review, name, "a")


def test_a_video_is_played_and_stopped(page, address, run):
    review, name = Review(run), "flo"
    begin(page, address, name)
    while review.next(name).media != "video":
        press(page, review, name, "a")
    page.wait_for_function("document.querySelector('#media video')?.currentTime > 0")
    page.keyboard.press("v")
    page.wait_for_function("document.querySelector('#media video').paused")


def test_a_server_that_is_killed_loses_nothing_and_goes_on_where_it_was(browser, tmp_path):
    run, port = make_run(tmp_path / "run", items=2), free_port()
    review, page = Review(run), browser.new_page()
    with served(run, port=port) as (address, *_):
        begin(page, address, "ana")
        first = press(page, review, "ana", "a")
        second = press(page, review, "ana", "n")
    command = ["-m", "granted.cli", "data", "review", run, "--port", str(port)]
    with served(run, port=port, folder=tmp_path, command=command) as (*_, server):
        page.reload()  # the address knows the reviewer
        page.wait_for_selector("#statements li")
        assert review.decisions() == [first, second] and shown(page) == expected(review, "ana")
        wait_for(lambda: "2 of 4 yours" in " ".join(page.inner_text("#bar").split()))
        third = press(page, review, "ana", "a")
        assert review.decisions() == [first, second, third]
        page.keyboard.press("a")
        wait_for(lambda: "All is decided" in page.inner_text("#notice"))
        assert page.is_disabled("#accept") and page.is_enabled("#undo") and review.next("ana") is None
        page.keyboard.press("u")
        page.wait_for_selector("#statements li")
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    rows = pq.read_table(run / "review" / "rows.parquet").to_pylist()
    assert [row["decision"] for row in rows] == ["accept", "null", "accept"], "Ctrl-C has not written the decisions"
    page.close()


def log_in(page, address, name, password, headers=None):
    """The status of what the server answers to a login."""
    form = {"username": name, "password": password}
    return page.request.post(f"{address}login", form=form, headers=headers or {}).status


def test_two_people_log_in_to_a_copy_of_the_folder_as_to_a_space(browser, tmp_path):
    space = tmp_path / "My Space.v2"
    shutil.copytree(SPACE, space, ignore=shutil.ignore_patterns("__pycache__", "results.py"))
    run = make_run(tmp_path / "run", items=3)
    Review(run, share=0.99)
    users = f"ana:{hashed(PASSWORD)}\nbo:{hashed(PASSWORD)}\n"
    with served(run, users, folder=space, host="0.0.0.0") as (address, log, _):
        page = browser.new_page()
        media = f"{address}gradio_api/file={next((run / 'media').iterdir())}"
        assert page.request.get(media).status == 401, "media are shown without a login"
        for number in range(TRIES):
            assert log_in(page, address, "bo", f"wrong {number}") == 400
        assert log_in(page, address, "bo", PASSWORD) == 400, "nothing limits how often a password is guessed"
        elsewhere = {"X-Forwarded-For": "192.0.2.7"}  # as of a proxy on this machine
        assert log_in(page, address, "bo", PASSWORD, elsewhere) == 200
        page.context.clear_cookies()
        for asked in ("gradio_api/queue/join", "gradio_api/run/predict"):
            assert page.request.post(f"{address}{asked}", data={"data": [], "fn_index": 0}).status == 401, asked
        for name in ("ana", "bo"):
            page.set_extra_http_headers(elsewhere)
            page.goto(address)
            page.wait_for_selector("input[type=password]")
            assert f"After {TRIES} wrong passwords" in page.inner_text("body")
            for password in ("wrong one", PASSWORD):
                page.locator("input").first.fill(name)
                page.locator("input[type=password]").fill(password)
                page.keyboard.press("Enter")
                if password != PASSWORD:
                    page.get_by_text("Incorrect").wait_for()
            page.wait_for_selector("#statements li")
            assert page.request.get(media).status == 200
            page.goto(f"{address}?reviewer=someone-else")  # who has logged in is who decides
            page.wait_for_selector("#statements li")
            for key in ("a", "n") if name == "ana" else ("a", "a"):
                press(page, Review(run), name, key)
            page.keyboard.press("p")
            page.wait_for_selector("#overview table")
            if name == "ana":
                page.wait_for_selector("#download")
            else:
                page.wait_for_timeout(1000)  # it would be there a moment after the table
                assert not page.is_visible("#download"), "all decisions are for the first user alone"
            if name == "ana":
                with page.expect_download() as download:
                    page.click("#download")
                rows = pq.read_table(download.value.path()).to_pylist()
                assert [(row["reviewer"], row["decision"]) for row in rows] == [("ana", "accept"), ("ana", "null")]
            page.context.clear_cookies()
        page.close()
        assert PASSWORD not in log.read_text() and "wrong one" not in log.read_text()
    assert {one.reviewer for one in Review(run).decisions()} == {"ana", "bo"}


@pytest.mark.parametrize(
    ("made", "host", "message"),
    [(True, "0.0.0.0", "without users"), (False, "127.0.0.1", "which is no folder")],
)
def test_what_is_wrong_with_a_space_is_one_line(tmp_path, made, host, message):
    if made:
        make_run(tmp_path / "run", items=1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO", "REVIEW"))}
    found = subprocess.run(
        [sys.executable, "app.py"],
        cwd=SPACE,
        env=environment | {"REVIEW_RUN": str(tmp_path / "run"), "GRADIO_SERVER_NAME": host},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and found.stderr.startswith("review: got ") and found.stderr.count("\n") == 1
    assert message in found.stderr
