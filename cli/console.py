"""What commands print: text as it is, tables, what is being done."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text
from tqdm import tqdm

from granted.utils.shown import percent_estimate


class PlainConsole(Console):
    """A console that prints what it is given: no brackets or colons of a path are markup, and no line of text is cut.

    What it does goes on if nobody reads it any more, as in `granted ... | head`.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        text = all(isinstance(one, str) for one in objects)
        super().print(*objects, **({"soft_wrap": True} if text else {}) | options)

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()  # leads stdout to nowhere, and would end the process


console = PlainConsole()


def status(text: str) -> Status:
    """Shows what is being done, on a terminal, until it is done."""
    return PlainConsole(stderr=True).status(Text(text))


def progress(items: Iterable[Any], text: str, total: int | None) -> Iterable[Any]:
    """The items one by one, with a bar on a terminal."""
    return tqdm(items, text, total, disable=None)


def percent_with_interval(figures: dict, name: str = "score") -> str:
    """A share with its interval, such as `"43.7 [40.2, 47.1]"`, of figures with `ci95`."""
    return percent_estimate(figures[name], figures["ci95"])
