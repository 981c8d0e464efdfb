"""Charts that are part of a page: words stay words, colours are the page's, and no two charts share an id."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from granted.tests.ted_results import Page
from granted.utils.figures import ACCENT, INK, VARIABLES, chart_style, inline_svg, save_png


NAME = "</text></svg><script>window.hit=1</script> & 'x'"


@pytest.fixture
def figure():
    with chart_style():
        figure = Figure(figsize=(4, 3), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1, 2], [3, 1, 2], "o", color=ACCENT)
        ax.set_title(NAME, color=INK)
    return figure


def test_a_chart_is_one_element_whose_texts_are_data(figure):
    svg = inline_svg(figure, "one", 'the "scores" of <b>')
    page = Page(str(svg))
    assert page.tags[0] == "svg" and "script" not in page.tags and NAME in page.text
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'the "scores" of <b>'


def test_the_style_sheet_decides_on_the_colours(figure):
    svg = inline_svg(figure, "one", "")
    assert all(f"var(--{name})" in svg for name in ("ink", "faint", "page", "accent"))
    assert not set(re.findall("#[0-9a-f]{6}", svg)) & set(VARIABLES)


def test_two_charts_of_a_page_have_no_id_in_common(figure):
    charts = [inline_svg(figure, name, "") for name in ("one", 'a "b" \\1 > c')]
    ids = [set(re.findall(r' id="([^"]+)"', chart)) for chart in charts]
    for own, chart in zip(ids, charts):
        assert own and set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', chart)) and own.isdisjoint(ids[0] & ids[1])
        used = {one or other for one, other in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', chart)}
        assert used == own


def test_what_is_on_the_page_is_also_a_file(figure, tmp_path):
    first = inline_svg(figure, "one", "")
    save_png(figure, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (640, 480)
    assert inline_svg(figure, "one", "") == first, "drawing it once does not change what is drawn next"
