"""Exact scores of images of shapes: the drawings themselves, drawings with one thing wrong, and shuffled prompts."""

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from granted.dataset_builders.scenes.shapes.drawing import (
    Drawing,
    Figure,
    Motion,
    random_drawing,
    render_image,
    render_video,
)
from granted.eval_metric.generation.shapes_score import (
    PROPERTIES,
    bucket,
    other_prompts,
    score_drawing,
    score_shapes,
    shapes_report,
)
from granted.utils.errors import InputError


SIZE = 128
STAR = Figure("star", "red", "large", "solid", (0, 0))
RING = Figure("ring", "blue", "medium", "striped", (2, 0))
HEART = Figure("heart", "green", "small", "dotted", (1, 2))
SQUARE = Figure("square", "purple", "large", "solid", (2, 2), letters="GO")
DRAWING = Drawing((STAR, RING, HEART, SQUARE), "white")


def score(asked, shown, **options):
    return score_drawing(asked, [render_image(shown, SIZE)], **options)


def with_figures(*figures):
    return Drawing(figures, "white")


def test_a_drawing_shows_itself():
    found = score(DRAWING, DRAWING)
    expected = {"background", "count", "shape", "colour", "size", "texture", "letters", "position", "figures"}
    assert set(found) == (expected - {"figures"}) | {"at_places", "whole"}
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "value", "lowered"),
    [
        ("colour", "orange", {"colour": 3 / 4, "count": 3 / 4}),
        ("shape", "circle", {"shape": 3 / 4, "count": 3 / 4}),
        ("size", "medium", {"size": 3 / 4}),
        ("texture", "checkered", {"texture": 3 / 4}),
    ],
)
def test_one_wrong_look_lowers_exactly_that(name, value, lowered):
    found = score(DRAWING, with_figures(replace(STAR, **{name: value}), RING, HEART, SQUARE))
    # Four looks of four figures and the letters of one: 17 attributes at their places.
    lowered = lowered | {"at_places": 16 / 17, "whole": 0.0}
    assert found == pytest.approx({name: lowered.get(name, 1.0) for name in found})


def test_letters_are_over_the_figures_that_have_some():
    found = score(DRAWING, with_figures(STAR, RING, HEART, replace(SQUARE, letters="NO")))
    assert (found["letters"], found["at_places"], found["whole"]) == (0.0, pytest.approx(16 / 17), 0.0)
    found = score(with_figures(STAR, RING), with_figures(replace(STAR, letters="NO"), RING))
    assert "letters" not in found and found["at_places"] == 1.0 and found["whole"] == 0.0


def test_a_figure_elsewhere_has_its_looks_but_nothing_at_its_place():
    found = score(with_figures(STAR, RING), with_figures(replace(STAR, cell=(1, 1)), RING))
    assert found["colour"] == found["shape"] == found["count"] == 1.0
    assert (found["position"], found["at_places"], found["whole"]) == (0.5, 0.5, 0.0)
    swapped = score(with_figures(STAR, RING), with_figures(replace(STAR, cell=(2, 0)), replace(RING, cell=(0, 0))))
    assert (swapped["colour"], swapped["position"], swapped["at_places"]) == (1.0, 0.0, 0.0)


def test_what_is_missing_and_what_is_too_much():
    missing = score(with_figures(STAR, RING), with_figures(STAR))
    assert missing["shape"] == missing["at_places"] == missing["count"] == 0.5
    more = score(with_figures(STAR, RING), with_figures(STAR, RING, HEART))
    assert more["shape"] == more["at_places"] == 1.0 and more["whole"] == 0.0


def test_of_a_group_the_number_counts_and_not_the_cells():
    two = (replace(STAR, cell=(0, 2)), replace(STAR, cell=(1, 1)))
    found = score(with_figures(*two, RING), with_figures(replace(STAR, cell=(0, 0)), replace(STAR, cell=(2, 2)), RING))
    assert set(found.values()) == {1.0}
    found = score(with_figures(*two, RING), with_figures(two[0], RING))
    assert found["count"] == 0.5 and found["position"] == 1.0


def test_only_what_the_prompt_tells_is_scored():
    other = replace(STAR, size="small", texture="striped", cell=(2, 2))
    found = score(with_figures(STAR), Drawing((other,), "navy"), told=("shape", "colour", "count"))
    assert found == {"count": 1.0, "shape": 1.0, "colour": 1.0, "whole": 1.0}
    with pytest.raises(InputError, match="got told"):
        score(with_figures(STAR), with_figures(STAR), told=("hue",))


def test_videos_are_scored_by_what_happens():
    def clip(**motion):
        moving = replace(
            STAR, cell=(0, 2), motion=Motion("moves", **{"direction": "right", "speed": "quickly"} | motion)
        )
        return Drawing((moving, replace(RING, motion=Motion("shrinks", None, "steadily", 0.6, 1.0))), "white", "video")

    asked = clip(start=0.1, end=0.6)
    found = score_drawing(asked, render_video(asked, 16, SIZE))
    assert {"motion", "direction", "speed", "order"} <= set(found) and set(found.values()) == {1.0}
    found = score_drawing(asked, render_video(clip(start=0.1, end=0.6, direction="up"), 16, SIZE))
    assert (found["direction"], found["motion"], found["colour"]) == (0.0, 1.0, 1.0)


def test_images_are_square():
    with pytest.raises(InputError, match="64 x 32"):
        score_drawing(DRAWING, [Image.new("RGB", (64, 32))])


def save(drawings, folder, *, size=64, copies=1):
    rows = []
    for i, (asked, shown) in enumerate(drawings):
        for copy in range(copies):
            render_image(shown, size).save(folder / f"{i}_{copy}.png")
            row = {"id": f"{i}/{copy}", "prompt_id": str(i), "prompt": "...", "media": "image"}
            rows.append(row | {"file": f"{i}_{copy}.png", "drawing": asked.to_json()})
    return rows


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """Thirty prompts of one to six things, each with the image it asks for."""
    folder = tmp_path_factory.mktemp("right")
    drawings = [random_drawing(random.Random(i), n_figures=1 + i % 6) for i in range(30)]
    rows = save([(drawing, drawing) for drawing in drawings], folder)
    return rows, folder, score_shapes(rows, folder)


def test_the_images_asked_for_reach_the_ceiling_and_other_prompts_are_near_chance(right):
    rows, _, items = right
    assert [item["score"] for item in items] == [item["ceiling"] for item in items]
    report = shapes_report(items)
    assert list(report) == ["all", "1 to 3 things", "4 things and more"]
    for part in report.values():
        assert set(part) == {*PROPERTIES, "at_places", "whole"} - {"motion", "direction", "speed", "order"}
        for name in ("shape", "colour", "size", "texture", "position", "at_places"):
            figures = part[name]
            # Of three sizes a third is right by chance; that is the most of all.
            assert figures["score"] > 0.97 and figures["ci95"][0] > 0.75
            assert figures["control"]["score"] < 0.45 and figures["ceiling"] == pytest.approx(figures["score"])
    assert report["all"]["at_places"]["n"] == len(rows)
    assert report["1 to 3 things"]["colour"]["n"] == sum(item["things"] <= 3 for item in items) == 15


def test_a_model_that_ignores_its_prompts_scores_what_the_control_scores(right, tmp_path):
    drawings = [random_drawing(random.Random(1000 + i), n_figures=1 + i % 6) for i in range(30)]
    asked = [Drawing.from_json(row["drawing"]) for row in right[0]]
    items = score_shapes(save(list(zip(asked, drawings)), tmp_path), tmp_path)
    for name, figures in shapes_report(items)["all"].items():
        low, high = figures["ci95"]
        assert low - 0.12 <= figures["control"]["score"] <= high + 0.12, name


def test_everybody_gets_another_prompt_with_about_as_many_things():
    prompts = [(str(i), "image" if i % 4 else "video", bucket(1 + i % 5)) for i in range(100)]
    partners = other_prompts(prompts * 2, seed=3)
    kind = {name: (media, group) for name, media, group in prompts}
    assert set(partners) == set(kind) and all(name != other for name, other in partners.items())
    assert all(kind[name] == kind[other] for name, other in partners.items())
    assert set(Counter(partners.values()).values()) == {1}
    assert partners == other_prompts(prompts, seed=3) != other_prompts(prompts, seed=4)
    lonely = [("a", "image", "few"), ("b", "image", "many"), ("c", "video", "few")]
    assert other_prompts(lonely) == {"a": "b", "b": "a"}


def test_several_images_of_a_prompt_never_meet_their_own_drawing(tmp_path):
    drawings = [with_figures(STAR), with_figures(RING)]
    items = score_shapes(save(list(zip(drawings, drawings)), tmp_path, copies=3), tmp_path)
    assert all(item["control"]["shape"] == 0 and item["score"]["whole"] == 1 for item in items)
    report = shapes_report(items)
    assert list(report) == ["1 to 3 things"] and report["1 to 3 things"]["shape"]["n"] == 6
    alone = score_shapes(save([(drawings[0], drawings[0])], tmp_path), tmp_path)
    assert alone[0]["control"] is None and "control" not in shapes_report(alone)["1 to 3 things"]["shape"]


def test_the_ceiling_is_what_can_be_read_at_that_size(tmp_path):
    drawings = [random_drawing(random.Random(i), n_figures=5, letters_share=0.5) for i in range(5)]
    items = score_shapes(save(list(zip(drawings, drawings)), tmp_path, size=32), tmp_path)
    assert np.mean([item["ceiling"].get("letters", 1.0) for item in items]) < 0.9
    assert [item["score"] for item in items] == [item["ceiling"] for item in items]


def test_rows_that_cannot_be_scored_are_named(tmp_path):
    rows = save([(DRAWING, DRAWING)], tmp_path)
    with pytest.raises(InputError, match="0/0 without a drawing"):
        score_shapes([rows[0] | {"drawing": None}], tmp_path)
    with pytest.raises(InputError, match="the video 0/0 of a drawing for image"):
        score_shapes([rows[0] | {"media": "video"}], tmp_path)
    with pytest.raises(InputError, match="0/0: got told"):
        score_shapes([rows[0] | {"told": ["hue"]}], tmp_path)
    with pytest.raises(InputError, match="no drawing"):
        score_shapes([rows[0] | {"drawing": json.dumps({"figures": []})}], tmp_path)
