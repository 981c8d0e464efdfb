"""Shares, differences and p values as tables, pages and cards show them.

    percent_estimate(0.8125, (0.75, 0.87))         # "81.2 [75.0, 87.0]"
    signed_estimate(-0.031, (-0.1, 0.04))          # "−3.1 [−10.0, +4.0]"

Shares are fractions of 1, and so are their differences.
"""

import re
from collections.abc import Sequence


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 as percent, without the sign %."""
    return f"{100 * share:.{digits}f}"


def percent_interval(ends: Sequence[float], digits: int = 1) -> str:
    """Both ends of an interval in percent."""
    return f"[{percent(ends[0], digits)}, {percent(ends[1], digits)}]"


def percent_estimate(share: float, ends: Sequence[float]) -> str:
    """A share in percent with its interval."""
    return f"{percent(share)} {percent_interval(ends)}"


def signed(share: float, digits: int = 1) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.{digits}f}".replace("-", "−")


def signed_estimate(share: float, ends: Sequence[float], digits: int = 1) -> str:
    """A difference of shares in points with its interval."""
    return f"{signed(share, digits)} [{signed(ends[0], digits)}, {signed(ends[1], digits)}]"


def p_text(value: float) -> str:
    """A p value: `"0.012"`, or `"< 0.001"`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def markdown_escaped(text: str) -> str:
    """Text that stands for itself in a cell of a table in GitHub's Markdown."""
    return re.sub(r"([\\`*$\[\]<>|])", r"\\\1", " ".join(text.split()))


def fact_count(count: int) -> str:
    """`"1 fact"`, `"2 facts"`."""
    return "1 fact" if count == 1 else f"{count} facts"
