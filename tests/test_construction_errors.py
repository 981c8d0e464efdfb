"""The experiment on planted errors: what rules decide is always found, and a judge without errors loses nothing."""

import pytest

from granted.benchmarks.construction_errors import GOOD, KINDS, run_once


# By what an instance says in itself nobody sees that its caption is of another image, or that an adjective is missing.
FOR_PEOPLE = {"caption: of another image", "positive: Adjective without an adjective"}


@pytest.fixture(scope="module")
def found():
    return run_once(each=1, good=4, error_rate=0.0)


def test_a_judge_without_errors_loses_no_good_instance(found):
    assert found[GOOD] == {"planted": 4, "not_kept": 0, "by": {}}


def test_every_error_is_found_but_those_that_only_people_see(found):
    assert set(found) == set(KINDS)
    assert {kind for kind, one in found.items() if not one["not_kept"]} == {GOOD, *FOR_PEOPLE}
