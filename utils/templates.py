"""Cards and pages are filled from templates beside the code that fills them.

text = fill_template(Path(__file__).with_name("card.md"), name="TED-6K")
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape


def fill_template(path: Path, filters: Mapping[str, Callable] | None = None, /, **values: Any) -> str:
    """A Jinja template with everything filled in; values that go into HTML are escaped.

    Args:
        path (`Path`): the template.
        filters (`dict[str, Callable]`, *optional*): by the names it has for them.
        **values: what it speaks of.

    Raises:
        jinja2.UndefinedError: it speaks of something else.
    """
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(path.name).render(**values)
