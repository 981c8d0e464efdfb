"""Seeds of aggregators: how far they are apart, and whether features change places with them."""

from dataclasses import replace

import pytest

from granted.eval_metric.seed_groups import group_seeds
from granted.eval_metric.stability import seed_flips, seed_rows, stability_table
from granted.tests.ted_results import make
from granted.utils.errors import InputError


def scored(feature, right, seed=0, pooling="aggregator"):
    """A result in which so many of the 60 items are right."""
    result = make("tiny", feature, seed=seed, pooling=pooling)
    items = [
        item | {"scores": [float((j == item["label"]) == (i < right)) for j in range(4)]}
        for i, item in enumerate(result.items)
    ]
    return replace(result, items=items)


RESULTS = [scored("norm_avg", right, seed) for seed, right in enumerate((42, 48))]
RESULTS += [scored("last", right, seed) for seed, right in enumerate((30, 36, 42))]
RESULTS += [scored("penultimate", 6), scored("last", 3, seed=None, pooling="mean")]


def test_seeds_are_as_far_apart_as_they_are():
    rows = {row["arm"]: row for row in seed_rows(group_seeds(RESULTS))}
    assert set(rows) == {"tiny · norm_avg", "tiny · last"}  # one seed, or no aggregator, says nothing about seeds
    last = rows["tiny · last"]
    assert last["seeds"] == 3 and last["accuracy"] == pytest.approx(0.6)
    assert last["spread"] == pytest.approx(0.2) and last["deviation"] == pytest.approx(0.1)
    assert last["ci95"][0] < 0.6 < last["ci95"][1]


def test_places_change_in_so_many_pairs_of_seeds():
    (row,) = seed_flips(group_seeds(RESULTS))
    assert (row["better"], row["worse"]) == ("tiny · norm_avg", "tiny · last")
    assert row["difference"] == pytest.approx(0.75 - 0.6)
    assert row["flipped"] == pytest.approx(0.5 / 6)  # of six pairs one is equal, which counts half


def test_the_table_says_both_and_is_empty_without_several_seeds():
    table = stability_table(RESULTS)
    assert "| tiny · last | 3 | 60.0 |" in table and "| 20.0 | 10.0 |" in table
    assert "| tiny · norm_avg | tiny · last | 15.0 | 8 |" in table
    assert "0 of 1 pairs of features keep their order" in table
    assert stability_table(RESULTS[-2:]) == ""
    apart = stability_table([*RESULTS[:2], *(scored("last", right, seed) for seed, right in enumerate((3, 6)))])
    assert "1 of 1 pairs" in apart and "Worse" not in apart


@pytest.mark.parametrize("name", ["encoder_revision", "weights_fingerprint", "config_hash", "dtype"])
def test_seeds_of_another_encoder_are_refused(name):
    one, other = make("tiny", "last", seed=0), make("tiny", "last", seed=1)
    with pytest.raises(InputError, match=f"with different {name}, expected one encoder"):
        group_seeds([one, replace(other, provenance=other.provenance | {name: "another"})])
