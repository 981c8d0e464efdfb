"""Charts as PNG, and as SVG that is part of a page and takes its colours, light or dark, from the page's style sheet.

    with chart_style():
        figure = Figure(layout="constrained")
    save_png(figure, "scores.png")
    inline_svg(figure, "scores", "What the chart shows, for who cannot see it.")

The variables that an inline chart uses (`--ink`, `--faint`, `--line`, `--band`, `--page`, `--accent`) are those of
`eval_metric/page.css`. Tests: tests/test_figures.py.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
import PIL.Image
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from granted.utils.files import atomic_path


INK, FAINT, LINE, BAND, PAGE, ACCENT = "#1c2330", "#5d6675", "#dfe3e9", "#f5f6f8", "#ffffff", "#0063a0"
VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", BAND: "band", PAGE: "page", ACCENT: "accent"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", FAINT)  # Okabe-Ito
DPI = 160
LARGER = 1.4  # times its own size at most, as part of a page: letters in charts are small
PIXELS_PER_POINT = 96 / 72


@contextmanager
def chart_style() -> Iterator[None]:
    """Colours that a page can replace, for all that is drawn within."""
    inks = ("text.color", "axes.titlecolor")
    faints = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    pages = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    colours = dict.fromkeys(inks, INK) | dict.fromkeys(faints, FAINT) | dict.fromkeys(pages, PAGE)
    with matplotlib.rc_context(colours | {"grid.color": LINE}):
        yield


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the curve of a number: 24 of them look different."""
    dashes = ("-", "--", ":")[number // len(COLOURS) % 3]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes}


def save_png(figure: Figure, path: str | os.PathLike) -> None:
    """Write a chart, whole or not at all; of 256 colours, in which it takes less than half of the place."""
    FigureCanvasAgg(figure)
    _take_literally(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with atomic_path(path) as temporary, PIL.Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


def _take_literally(figure: Figure) -> None:
    """Dollars in a name are dollars, no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A chart as an element of a page: letters stay letters, and the style sheet decides on light and dark.

    Args:
        figure (`Figure`): drawn within [`chart_style`].
        name (`str`): unique on the page.
        alt (`str`): what it shows, in words.
    """
    own = f"c{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # a name may have any characters
    buffer = io.StringIO()
    _take_literally(figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": own}):
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = buffer.getvalue().partition("<svg")[2].partition(">")
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawn[0]).groups())  # in points
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', drawn[2]))
    pixels = width * PIXELS_PER_POINT
    size = f"width: {LARGER * pixels:.0f}px; min-width: {pixels:.0f}px"
    start = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}" style="{size}">'
    inner = re.sub("<style.*?</style>", "", drawn[2], flags=re.DOTALL)  # it would be about the whole page
    inner = re.sub("<[^>]+>", lambda tag: _compact(tag[0], used, own), inner)
    return Markup(start + re.sub(r">\s+<", "><", inner))


def _compact(tag: str, used: set[str], own: str) -> str:
    """A tag without what a page does not need, with ids that no other chart has and the page's colours."""
    tag = re.sub(r' id="([^"]+)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\1{own}-", tag).replace("xlink:href", "href")
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r" font-family: [^;]+;| transform=\"rotate\(-0 [^\"]+\"", "", tag)  # the page's letters
    return re.sub("#[0-9a-f]{6}", lambda one: f"var(--{VARIABLES[one[0]]})" if one[0] in VARIABLES else one[0], tag)
