"""The table of items in a browser, by keyboard alone: it is searched, filtered and sorted, and texts stay texts."""

import pytest

from granted.dataset_builders.ted_6k.export import export_dataset
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.eval_metric.overview.page import write_overview
from granted.tests.ted_results import ATTACK, CATEGORY, make, make_records
from granted.tests.test_review_page import CHROMIUM, WAIT


COUNT = 120  # more than are shown at first


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A report with a table of items and their hostile texts."""
    folder = tmp_path_factory.mktemp("report")
    records = make_records(COUNT)
    export_dataset(records, folder / "ted-6k", config_name="custom", source_note="made by a test")
    fingerprint = read_ted(folder / "ted-6k")[1]["fingerprint"]
    for feature in ("last", "norm_avg", "avg", "learned"):
        one = make("tiny", feature, records=records)
        one.dataset["fingerprint"] = fingerprint
        one.save(folder / "results")
    write_overview(folder / "results", folder, [str(folder / "ted-6k")], texts=True)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, page_file):
    """The page as it opens; nothing may be asked of the network, and no script may fail."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    context.set_default_timeout(WAIT)
    opened, wrong = context.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on("request", lambda request: request.url.startswith("file:") or wrong.append(request.url))
    opened.goto(page_file.as_uri())
    yield opened
    context.close()
    assert not wrong


def cells(page, column):
    return page.locator(f"table[data-items] tbody tr td:nth-child({column})").all_text_contents()


def count(page):
    return page.locator(".controls [role=status]").text_content()


def test_all_items_are_there_and_more_are_shown_when_asked(page):
    assert count(page) == f"{COUNT} of {COUNT} items" and len(cells(page, 1)) == 25
    more = page.get_by_role("button", name="Show more")
    more.focus()
    page.keyboard.press("Enter")
    assert len(cells(page, 1)) == COUNT == len(set(cells(page, 1))) and more.is_hidden()
    assert page.evaluate("document.activeElement.rowIndex") == 26, "the keyboard goes on where the new rows begin"


def test_it_is_searched_filtered_and_sorted_by_keyboard(page):
    page.get_by_label("Search in all columns").focus()
    page.keyboard.type("c000")
    assert count(page) == f"3 of {COUNT} items" and all(name.startswith("c000/") for name in cells(page, 1))
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")  # shared words
    page.keyboard.press("Tab")
    page.keyboard.type(CATEGORY[0])
    assert set(cells(page, 4)) == {CATEGORY[0]} and count(page) == f"{COUNT // 3} of {COUNT} items"
    head = page.get_by_role("button", name="Right, of 4")
    head.focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").text_content() == "Right, of 4"
    rising = [int(value) for value in cells(page, 2)]
    page.keyboard.press("Enter")
    falling = [int(value) for value in cells(page, 2)]
    assert rising == sorted(rising) and falling == sorted(falling, reverse=True) and rising[0] < falling[0]


def test_what_is_not_known_comes_last_in_either_direction(page):
    page.get_by_role("button", name="Show more").click()
    head = page.get_by_role("button", name="Discrimination")
    for _ in range(2):
        head.click()
        page.get_by_role("button", name="Show more").click()
        found = cells(page, 6)
        known = [value for value in found if value != "–"]
        assert found == known + ["–"] * (len(found) - len(known)) and len(known) > 1


def test_statements_are_texts(page):
    assert all(text.startswith(ATTACK) for text in cells(page, 8)) and cells(page, 8)


def test_the_first_rows_are_there_without_the_script(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(page_file.as_uri())
    assert plain.locator("table[data-items] tbody tr").count() == 20
    assert "The first 20 of 120" in plain.locator(".first-rows").text_content()
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_screen_and_the_accuracy_is_in_sight(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for box in page.locator("table.columns tbody tr td:nth-child(2)").all()[:5]:
        place = box.bounding_box()
        assert place["x"] >= 0 and place["x"] + place["width"] <= width
