"""Tables over parts of a benchmark: what shared words answer, families, and what is printed bold."""

import pytest

from granted.eval_metric.part_tables import (
    family_table,
    is_floor,
    overlap_credits,
    part_tables,
    size_name,
    strata_table,
    stratum_of,
)
from granted.eval_metric.results import Result, provenance
from granted.eval_metric.seed_groups import group_seeds
from granted.tests.ted_results import make


CAPTION = "a red cube left of a blue ball"
STATEMENTS = {  # the true one first; another that shares fewer, as many, more words
    "words answer": ["red cube", "green cube"],
    "words tie": ["red cube", "blue ball"],
    "words mislead": ["scarlet cube", "blue ball"],
}


def records():
    found = []
    for number, (name, statements) in enumerate(3 * list(STATEMENTS.items())):
        place = {"id": f"{number}", "caption_id": f"c{number}", "caption": CAPTION, "media": "image"}
        found.append(place | {"category": "OCR", "question": "", "statements": statements, "label": 0, "source": name})
    return found


def scored(encoder, right, pooling="aggregator", feature="last"):
    """Right where `right` has the stratum."""
    items = []
    for one in records():
        kept = {name: one[name] for name in ("id", "caption_id", "category", "media", "label")}
        items.append(kept | {"scores": [1.0, 0.0] if one["source"] in right else [0.0, 1.0]})
    dataset = {"name": "t", "config": "custom", "fingerprint": "f", "instances": 9, "captions": 9}
    made = provenance(device="cpu", dtype="float32", seconds=1.0, tokens=1)
    return Result(encoder, feature, pooling, 0, items, dataset, made)


def test_a_stratum_is_what_shared_words_make_of_an_item():
    credits = overlap_credits(records())
    assert [credits[str(number)] for number in range(3)] == [1.0, 0.5, 0.0]
    assert [stratum_of(credits[one["id"]]) for one in records()] == [one["source"] for one in records()]


def test_strata_tell_an_encoder_from_counting_words():
    groups = group_seeds(
        [scored("reads", STATEMENTS), scored("counts", ["words answer"]), scored("pools", ["words tie"], "mean")]
    )
    table = strata_table(groups, overlap_credits(records()))
    assert table["columns"] == [(name, 3) for name in STATEMENTS]
    shown = {row["label"]: [cell["accuracy"] for cell in row["cells"]] for row in table["rows"]}
    assert shown == {
        "reads · last": [1, 1, 1],
        "counts · last": [1, 0, 0],
        "pools · last · mean": [0, 1, 0],
        "Chance": [0.5, 0.5, 0.5],
        "Word overlap": [1, 0.5, 0],
    }
    cell = table["rows"][0]["cells"][2]
    assert cell["low"] < 1 == cell["high"], "three captions are few"


def test_bold_is_neither_a_baseline_nor_below_one():
    groups = group_seeds([scored("poor", ["words answer"]), scored("pools", ["words answer", "words tie"], "mean")])
    table = strata_table(groups, overlap_credits(records()))
    best = {row["label"]: [cell["best"] for cell in row["cells"]] for row in table["rows"]}
    assert best.pop("poor · last") == [True, False, False]
    assert not any(any(cells) for cells in best.values())
    assert [row["baseline"] for row in table["rows"]] == [False, True, True, True]


def test_random_weights_are_a_baseline_of_every_table():
    groups = group_seeds([make("a, random weights", "last", quality=9.0), make("a", "last", quality=0.1)])
    for table in part_tables(groups):
        rows = {row["label"]: row for row in table["rows"]}
        assert rows["a, random weights · last"]["baseline"] and not rows["a · last"]["baseline"]
        assert not any(cell["best"] for row in table["rows"] for cell in row["cells"] if cell)
    assert is_floor("random · last") and not is_floor("a · last")


def test_families_stand_in_the_order_of_the_paper_and_nothing_is_guessed():
    known = {"parameters": {"encoder": 8_190_000_000}, "family": "multimodal", "tuning": "instruct"}
    groups = group_seeds(
        [
            make("old", "norm_avg", quality=9.0),
            make("vl", "last", **known),
            make("vl", "norm_avg", **known),
            make("bert", "norm_avg", family="encoder-only"),
            make("vl", "layer_3", **known),
            make("vl", "norm_avg_first_2", **known),
            make("vl", "norm_avg", None, pooling="mean"),
        ]
    )
    table = family_table(groups)
    assert table["features"] == ["norm_avg", "last"]
    assert [(row["encoder"], row["family"], row["tuning"], row["size"]) for row in table["rows"]] == [
        ("bert", "encoder-only", None, None),
        ("vl", "multimodal", "instruct", "8.2B"),
        ("old", None, None, None),
    ]
    vl = {group.feature: group.estimate for group in groups if group.encoder == "vl" and group.pooling != "mean"}
    assert table["rows"][1]["cells"] == [vl["norm_avg"], vl["last"]] and table["rows"][0]["cells"][1] is None


@pytest.mark.parametrize("count, shown", [(22_713_216, "22.7M"), (999_949_999, "999.9M"), (999_950_000, "1.0B")])
def test_a_size_is_short(count, shown):
    assert size_name(count) == shown
