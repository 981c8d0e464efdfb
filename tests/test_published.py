"""What the paper printed is there as data, and its columns give the correlations that they give."""

import pytest

from granted.dataset_builders.ted_6k.records import CATEGORIES, OFFICIAL_COUNTS
from granted.eval_metric.comparison import arms_needed, published_pair, read_scores
from granted.eval_metric.published import published, published_scores
from granted.utils.errors import InputError


def test_the_columns_give_the_correlation_printed_for_videos_and_a_higher_one_than_printed_for_images():
    found = {kind: published_pair(kind) for kind in ("images", "videos")}
    printed = published()["correlations"]
    assert found["videos"].pearson.value == pytest.approx(printed["videos"], abs=5e-5)
    assert found["videos"].p_value == pytest.approx(0.04129, abs=5e-6)
    assert printed["images"] == 0.9914
    assert found["images"].pearson.value == pytest.approx(0.9974, abs=5e-5)
    assert {kind: len(one.arms) for kind, one in found.items()} == {"images": 6, "videos": 4}


def test_the_tables_are_as_large_as_the_papers():
    assert len(published_scores("ted")) == 15 * 3 + 1
    assert set(published()["families"]) == set(published()["tables"]["ted"]["scores"])
    assert set(published()["categories"]) == set(CATEGORIES)


def test_the_categories_average_to_the_overall_scores_of_the_paper():
    weights = {name: sum(counts) for name, counts in OFFICIAL_COUNTS.items()}
    for column, overall in ((0, 56.81), (1, 57.42)):  # the second is with learned weights, not Norm-Avg as captioned
        mean = sum(weights[name] * both[column] for name, both in published()["categories"].items())
        assert mean / sum(weights.values()) == pytest.approx(overall, abs=0.025)


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="expected one of ted, images_ted, images_genai"):
        read_scores("published:table9")


def test_the_arms_that_a_correlation_needs_are_those_of_the_textbook():
    assert [arms_needed(size) for size in (0.5, 0.3, -0.3)] == [30, 85, 85]  # Fisher's z, power 80 %, two-sided 5 %
    assert arms_needed(0.99) == 5
