"""What the page shows, as HTML. Captions, statements and names are data: each goes through `text`, which escapes it.

Tests: tests/test_review.py, tests/test_review_page.py.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from .agreement import Agreement, GoldScore
from .instances import Instance
from .reviewing import Progress, tables_of


def text(words: str) -> str:
    """Words of data as they are: no markup, and the direction of their writing changes nothing around them."""
    return f'<bdi dir="auto">{escape(words, quote=True)}</bdi>'


def progress_bar(one: Progress) -> str:
    """How far a reviewer and all have come, in a line."""
    total = one.done + one.left
    yours = f"<b>{one.done}</b> of {total} yours" if one.left or not one.help else f"<b>{one.done}</b> done, helping"
    return (
        f'<div class="bar"><span class="who">{text(one.reviewer)}</span>'
        f'<span>{yours} <progress value="{one.done}" max="{max(total, 1)}" aria-label="yours"></progress></span>'
        f"<span><b>{one.made}</b> of {one.needed} in all "
        f'<progress value="{one.made}" max="{max(one.needed, 1)}" aria-label="in all"></progress></span></div>'
    )


def media(one: Instance, run: Path) -> str:
    """The image or the video."""
    source = escape("gradio_api/file=" + quote(str(run / one.file)), quote=True)
    if one.media == "image" or one.file.lower().endswith(".gif"):
        return f'<img src="{source}" alt="The image that the caption describes">'
    return f'<video src="{source}" controls autoplay muted loop playsinline tabindex="0"></video>'


def statements(one: Instance, order: Sequence[int]) -> str:
    """The question, and the statements in an order, each with what is claimed about it."""
    lines = [f'<p class="asked"><b>{text(one.category)}</b> {text(one.question)}</p><ol>']
    for index in order:
        claim = "true" if index == one.label else "false"
        lines.append(f'<li class="{claim}"><span class="claim">{claim}</span> {text(one.statements[index])}</li>')
    return "".join([*lines, "</ol>"])


def caption(one: Instance) -> str:
    """The caption; what is longer than its place can be scrolled by keyboard."""
    head = '<div class="caption" tabindex="0" role="region" aria-label="Caption"><h2>Caption</h2>'
    return f"{head}{text(one.caption)}</div>"


def notice(words: str) -> str:
    """What happened, read out by screen readers; an empty line where nothing has to be said."""
    return f'<p role="status">{text(words)}</p>' if words else ""


def overview(everyone: Sequence[Progress], gold: Sequence[GoldScore], agreed: Sequence[Agreement]) -> str:
    """Tables of progress, gold and agreement."""
    tables = "".join(_table(*one) for one in tables_of(everyone, gold, agreed))
    return tables if agreed else tables + '<p class="none">Nothing has been decided by two people yet.</p>'


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<h2>{text(title)}</h2><div class="table" tabindex="0"><table><tr>{cells}</tr>{lines}</table></div>'
