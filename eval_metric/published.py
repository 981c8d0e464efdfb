"""What the paper printed, from `published.yaml`: to stand beside own results, never ranked with them.

    published_scores("images_genai")["Qwen3-8B · last"]        # 71.15, percent

`granted compare published:images_genai published:images_ted` correlates two of its columns. Tests:
tests/test_published.py.
"""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from granted.utils.errors import InputError


@cache
def published() -> dict[str, Any]:
    """The whole file: `source`, `families`, `tables`, `categories`, `correlations`."""
    return yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))


def published_scores(table: str) -> dict[str, float]:
    """Percent by `"encoder · feature"` of one of its tables.

    Raises:
        InputError: there is no such table; the message names those there are.
    """
    tables = published()["tables"]
    if table not in tables:
        raise InputError(f"got the published table {table!r}, expected one of {', '.join(tables)}")
    scores = tables[table]["scores"]
    return {f"{encoder} · {feature}": value for encoder, own in scores.items() for feature, value in own.items()}
