"""How shares, differences and p values are shown."""

import pytest

from granted.utils.shown import fact_count, p_text, percent_estimate, signed_estimate


def test_shares_are_shown_in_percent_and_differences_with_a_sign():
    assert percent_estimate(0.8125, (0.75, 1)) == "81.2 [75.0, 100.0]"
    assert signed_estimate(-0.031, (-0.1, 0.04)) == "−3.1 [−10.0, +4.0]"
    assert signed_estimate(0.45, (0.314, 0.587), digits=0) == "+45 [+31, +59]"


@pytest.mark.parametrize(("value", "text"), [(0.0009, "< 0.001"), (0.001, "0.001"), (0.0456, "0.046"), (1, "1.000")])
def test_a_p_value_is_never_shown_as_zero(value, text):
    assert p_text(value) == text


def test_a_single_fact_is_named_in_the_singular():
    assert [fact_count(count) for count in (1, 2)] == ["1 fact", "2 facts"]
