"""Drawings of shapes: what they refuse, what they look like in closed form, and how random ones are distributed."""

import math
import random
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chi2_contingency, chisquare

from granted.dataset_builders.scenes.shapes.contact_sheet import CELL, contact_sheet
from granted.dataset_builders.scenes.shapes.drawing import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    DIRECTIONS,
    GRID,
    KINDS,
    MIN_GAP,
    SIZES,
    SPEEDS,
    SUDDEN,
    Drawing,
    Figure,
    Motion,
    figure_state,
    random_drawing,
    render_image,
    render_video,
)
from granted.dataset_builders.scenes.shapes.figure_tiles import BLACK, OUTLINES, SHAPES, TEXTURES, WHITE, figure_tile
from granted.utils.errors import InputError


STAR = Figure("star", "red", "large", "striped", (0, 2), letters="GO")
GOLDEN = Drawing(
    figures=(
        Figure(
            shape="star",
            colour="green",
            size="small",
            texture="striped",
            cell=(1, 0),
            letters="",
            motion=Motion(kind="moves", direction="right", speed="quickly", start=0.5, end=1.0),
        ),
        Figure(
            shape="cross",
            colour="red",
            size="small",
            texture="solid",
            cell=(0, 2),
            letters="S",
            motion=Motion(kind="grows", direction=None, speed="steadily", start=0.2, end=0.7),
        ),
    ),
    background="white",
    media="video",
)


def figure(shape="square", colour="blue", size="medium", texture="solid", cell=(1, 1), **more):
    return Figure(shape, colour, size, texture, cell, **more)


def pixels(image):
    return np.asarray(image).astype(int)  # (H, W, 3)


def polygon_area(points):
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, (*points[1:], *points[:1])))) / 2


def area(shape, height):
    """Pixels that a figure covers, partly covered ones in part."""
    tile = figure_tile(shape, ((0, 0, 0),) * 2, "solid", (200.3, 200.6), height)
    return float(np.asarray(tile.coverage).sum()) / 255


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "blob"},
        {"colour": "white"},
        {"size": "huge"},
        {"texture": "furry"},
        {"cell": (3, 0)},
        {"cell": (-1, 0)},
        {"cell": [0, 0]},
        {"letters": "go"},
        {"letters": "HELLO"},
        {"letters": None},
    ],
)
def test_a_figure_refuses_what_it_does_not_know(change):
    with pytest.raises(InputError, match=r"^got .*expected .*[^\n]*$"):
        replace(STAR, **change)


@pytest.mark.parametrize(
    "values",
    [
        ("spins", None, None, 0.0, 1.0),
        ("moves", "north", "slowly", 0.0, 1.0),
        ("moves", None, "slowly", 0.0, 1.0),
        ("moves", "left", None, 0.0, 1.0),
        ("moves", "left", "at once", 0.0, 1.0),
        ("grows", "left", "slowly", 0.0, 1.0),
        ("blinks", None, "slowly", 0.2, 0.6),
        ("moves", "left", "slowly", -0.1, 1.0),
        ("moves", "left", "slowly", 0.0, 1.1),
        ("moves", "left", "slowly", 0.6, 0.4),
        ("moves", "left", "slowly", 0.4, 0.6),
        ("moves", "left", "slowly", math.nan, 1.0),
        ("moves", "left", "slowly", None, 1.0),
        ("appears", None, None, 0.2, 0.3),
        ("disappears", None, None, 0.0, 0.0),
        ("blinks", None, None, 0.0, 0.5),
        ("blinks", None, None, 0.5, 1.0),
        ("shrinks", None, "quickly", 0.0, 1.0),
    ],
)
def test_a_motion_refuses_what_does_not_go_together(values):
    with pytest.raises(InputError, match=r"^got .*expected "):
        Motion(*values)


def test_a_drawing_refuses_what_cannot_be_drawn():
    right = Motion("moves", "right", "steadily", 0.0, 0.8)
    for figures, background, media, complaint in (
        ((figure(),), "mauve", "image", "background 'mauve'"),
        ((figure(),), "white", "film", "media 'film'"),
        ([figure()], "white", "image", "tuple of Figure"),
        (("star",), "white", "image", "tuple of Figure"),
        ((figure(), figure("star")), "white", "image", "figures 0 and 1 overlapping at 0.00"),
        ((figure(motion=right),), "white", "image", "make a video"),
        ((figure(cell=(2, 1), motion=right),), "white", "video", "all of it on the canvas"),
        ((figure(motion=right), figure(cell=(2, 1))), "white", "video", "overlapping at"),
    ):
        with pytest.raises(InputError, match=complaint):
            Drawing(figures, background, media)


def test_figures_may_take_a_place_one_after_the_other():
    away = figure(cell=(1, 1), motion=Motion("moves", "down", "quickly", 0.0, 0.4))
    after = figure(cell=(0, 1), motion=Motion("moves", "right", "quickly", 0.5, 0.9))
    Drawing((away, after), "white", "video")
    with pytest.raises(InputError, match="overlapping"):
        Drawing((away, replace(after, motion=replace(after.motion, start=0.0, end=0.4))), "white", "video")


def boxes_meet(figures, time, gap=MIN_GAP - 1e-6):
    """Whether two boxes are closer than `gap` at one moment, by definition."""
    states = []
    for one in figures:
        still = one if one.motion and one.motion.kind == "moves" else replace(one, motion=None)
        states.append((*figure_state(still, time)[:2], *one.box))
    return any(
        all(abs(a[axis] - b[axis]) < (a[2 + axis] + b[2 + axis]) / 2 + gap for axis in (0, 1))
        for a, b in combinations(states, 2)
    )


@st.composite
def moving_figures(draw):
    start = draw(st.integers(0, 7))
    end = draw(st.integers(start + 3, 10))
    motion = Motion(
        "moves", draw(st.sampled_from(tuple(DIRECTIONS))), draw(st.sampled_from(tuple(SPEEDS))), start / 10, end / 10
    )
    letters = draw(st.sampled_from(("", "A", "WORD")))
    return figure(
        size=draw(st.sampled_from(tuple(SIZES))), cell=draw(st.sampled_from(CELLS)), letters=letters, motion=motion
    )


@settings(max_examples=150, deadline=None)
@given(moving_figures(), moving_figures())
def test_figures_that_meet_are_found_exactly(one, other):
    moments = [step / 400 for step in range(401)]
    try:
        Drawing((one, other), "white", "video")
    except InputError as error:
        # Between two of the moments they may be a little closer than at both.
        assert "canvas" in str(error) or any(boxes_meet((one, other), moment, MIN_GAP + 0.004) for moment in moments)
    else:
        assert not any(boxes_meet((one, other), moment) for moment in moments)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_the_area_of_its_outline(shape):
    outline, hole = OUTLINES[shape]
    inside = polygon_area(outline)
    if shape == "crescent":  # its hole reaches beyond it: a lens of two discs is left out
        large, small, apart = 0.5, 0.45, 0.3
        a = large**2 * math.acos((apart**2 + large**2 - small**2) / (2 * apart * large))
        b = small**2 * math.acos((apart**2 + small**2 - large**2) / (2 * apart * small))
        edges = (-apart + large + small, apart + large - small, apart - large + small, apart + large + small)
        inside -= a + b - math.sqrt(math.prod(edges)) / 2
    elif hole:
        inside -= polygon_area(hole)
    for height in (19.2, 38.4, 153.6):
        assert area(shape, height) == pytest.approx(inside * height**2, rel=0.02)


def test_a_circle_has_the_area_of_a_disc_and_a_square_that_of_its_side():
    for height in (9.6, 27.0, 38.4, 154.0):
        assert area("circle", height) == pytest.approx(math.pi * height**2 / 4, rel=0.02)
        assert area("square", height) == pytest.approx(height**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_height_and_is_centred(shape):
    image = render_image(Drawing((figure(shape, cell=(2, 0)),), "white"), 512)
    rows, columns = np.nonzero((pixels(image) != 255).any(axis=2))
    assert rows.max() + 1 - rows.min() == pytest.approx(SIZES["medium"] * 512, abs=2)
    assert (rows.max() + 1 + rows.min()) / 2 == pytest.approx(512 / 6, abs=1)
    assert (columns.max() + 1 + columns.min()) / 2 == pytest.approx(512 * 5 / 6, abs=1)


@pytest.mark.parametrize("size", (32, 64, 128, 500))
def test_every_colour_and_background_is_seen_as_it_is(size):
    for background, ground in BACKGROUNDS.items():
        figures = tuple(figure("square", colour, "large", cell=cell) for colour, cell in zip(COLOURS, CELLS))
        seen = pixels(render_image(Drawing(figures, background), size))
        if size > 32:  # there the margin is half a pixel
            assert tuple(seen[0, 0]) == tuple(seen[-1, -1]) == ground
        for one in figures:
            column, row = (int((place + 0.5) / GRID * size) for place in one.cell)
            assert tuple(seen[row, column]) == COLOURS[one.colour][0]


@pytest.mark.parametrize("texture, share", (("solid", 0.0), ("striped", 0.4), ("checkered", 0.48), ("dotted", 0.283)))
def test_a_texture_has_its_share_of_the_second_tone(texture, share):
    tile = figure_tile("square", ((0, 0, 0), (255, 255, 255)), texture, (100.0, 100.0), 150.0)
    assert np.asarray(tile.colours).mean() / 255 / (np.asarray(tile.coverage).mean() / 255) == pytest.approx(
        share, abs=0.01
    )


@pytest.mark.parametrize("background, plate, ink", (("beige", BLACK, WHITE), ("navy", WHITE, BLACK)))
def test_letters_are_written_on_a_plate_that_contrasts(background, plate, ink):
    seen = pixels(render_image(Drawing((figure("square", "green", "large", letters="I"),), background), 512))
    colours = {tuple(value) for value in seen[200:312, 200:312].reshape(-1, 3)}
    assert {plate, ink, COLOURS["green"][0]} <= colours
    blank = pixels(render_image(Drawing((figure("square", "green", "large"),), background), 512))
    assert plate not in {tuple(value) for value in blank.reshape(-1, 3)}


def test_other_letters_are_other_pixels():
    images = {
        render_image(Drawing((figure(letters=letters),), "white"), 64).tobytes()
        for letters in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    }
    assert len(images) == 26


def test_where_a_figure_is_at_every_moment():
    moving = figure(cell=(0, 1), motion=Motion("moves", "right", "steadily", 0.2, 0.7))
    assert figure_state(moving, 0.2) == pytest.approx((1 / 6, 0.5, 0.21))
    assert figure_state(moving, 0.45) == pytest.approx((1 / 6 + 0.1, 0.5, 0.21))
    assert figure_state(moving, 1.0) == pytest.approx((1 / 6 + 0.2, 0.5, 0.21))
    growing = figure(motion=Motion("grows", None, "steadily", 0.5, 1.0))
    assert [figure_state(growing, time)[2] for time in (0, 0.5, 0.75, 1)] == pytest.approx(
        [0.147, 0.147, 0.1785, 0.21]
    )
    shrinking = figure(motion=Motion("shrinks", None, "slowly", 0.0, 0.5))
    assert [figure_state(shrinking, time)[2] for time in (0, 0.5, 1)] == pytest.approx([0.21, 0.1785, 0.1785])
    for motion, seen in (
        (Motion("appears", None, None, 0.5, 0.5), (False, True, True)),
        (Motion("disappears", None, None, 0.5, 0.5), (True, False, False)),
        (Motion("blinks", None, None, 0.3, 0.7), (True, False, True)),
    ):
        assert [figure_state(figure(motion=motion), time) is not None for time in (0, 0.5, 1)] == list(seen)


def test_a_video_begins_with_the_image_and_changes_only_during_its_events():
    drawing = Drawing((figure(motion=Motion("moves", "up", "slowly", 0.4, 0.8)),), "white", "video")
    frames = render_video(drawing, 16, 64)
    assert len(frames) == 16 and all(frame.size == (64, 64) for frame in frames)
    assert frames[0].tobytes() == render_image(drawing, 64).tobytes()
    changes = [a.tobytes() != b.tobytes() for a, b in pairwise(frames)]
    assert changes == [number in range(6, 12) for number in range(15)]  # from 6 / 15 to 12 / 15 of the video


@pytest.mark.parametrize("size", (31, 513, 64.0))
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(InputError, match="pixels"):
        render_image(Drawing((), "white"), size)


@pytest.mark.parametrize("frames", (7, 50, None))
def test_a_length_out_of_range_is_refused(frames):
    with pytest.raises(InputError, match="frames"):
        render_video(Drawing((), "white", "video"), frames)


def test_a_random_drawing_is_the_same_on_every_machine():
    drawing = random_drawing(random.Random(42), "video", 2, letters_share=0.5, motion_share=1.0)
    assert drawing == random_drawing(random.Random(42), "video", 2, letters_share=0.5, motion_share=1.0)
    assert drawing == GOLDEN
    assert render_image(drawing, 96).tobytes() == render_image(drawing, 96).tobytes()


def test_a_random_drawing_refuses_too_many_figures():
    for media, number in (("image", 10), ("video", 6), ("image", -1), ("image", 2.0)):
        with pytest.raises(InputError, match="figures of a random"):
            random_drawing(random.Random(0), media, number)
    with pytest.raises(InputError, match="media"):
        random_drawing(random.Random(0), "film")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(("image", "video")), st.integers(0, 5))
def test_random_drawings_have_room(seed, media, number):
    drawing = random_drawing(random.Random(seed), media, number, letters_share=0.5)
    assert len(drawing.figures) == number and drawing.media == media
    assert not any(boxes_meet(drawing.figures, step / 50) for step in range(51))
    for one in drawing.figures:
        for step in range(51):
            state = figure_state(one, step / 50)
            if state:
                assert all(
                    state[axis] - one.box[axis] / 2 >= 0 and state[axis] + one.box[axis] / 2 <= 1 for axis in (0, 1)
                )


def test_random_properties_are_uniform_and_independent():
    rng = random.Random(0)
    drawings = [random_drawing(rng, "image", 3, letters_share=0.5) for _ in range(1500)]
    rows = [
        (one.shape, one.colour, one.size, one.texture, one.cell, len(one.letters), drawing.background)
        for drawing in drawings
        for one in drawing.figures[:1]
    ]
    for column, kinds in enumerate((SHAPES, COLOURS, SIZES, TEXTURES, CELLS, None, BACKGROUNDS)):
        if kinds:
            assert chisquare([sum(row[column] == kind for row in rows) for kind in kinds]).pvalue > 1e-3
    for one, other in combinations(range(7), 2):
        kinds, other_kinds = (sorted({row[column] for row in rows}) for column in (one, other))
        table = [[sum(row[one] == a and row[other] == b for row in rows) for b in other_kinds] for a in kinds]
        assert chi2_contingency(table).pvalue > 1e-4


def test_random_motions_are_of_every_kind():
    rng = random.Random(0)
    motions = [random_drawing(rng, "video", 1, motion_share=1.0).figures[0].motion for _ in range(600)]
    assert chisquare([sum(motion.kind == kind for motion in motions) for kind in KINDS]).pvalue > 1e-3
    assert {motion.direction for motion in motions if motion.kind == "moves"} == set(DIRECTIONS)
    assert {motion.speed for motion in motions if motion.kind == "grows"} == set(SPEEDS)
    assert all((motion.start == motion.end) == (motion.kind in SUDDEN) for motion in motions)


def test_a_contact_sheet_shows_images_and_videos(tmp_path):
    clip = Drawing((figure(motion=Motion("moves", "up", "slowly", 0.4, 0.8)),), "white", "video")
    entries = [
        (
            render_image(Drawing((STAR,), "navy"), 64),
            "A star. " * 30,
            [("It’s red — or 50 %.", True), ("It is blue.", False)],
        ),
        (render_video(clip, 8, 32), "", []),
        (render_video(clip, 49, 32), "Supercalifragilistic" * 9, [("", True)]),
    ]
    path = tmp_path / "sheets" / "sheet.png"
    contact_sheet(entries, path, columns=2)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG" and sheet.width == 2 * CELL and sheet.height > 500
        assert (pixels(sheet.convert("RGB")) == BACKGROUNDS["navy"]).all(axis=2).sum() > 10_000
    assert [child.name for child in path.parent.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("entries, columns", (([], 3), ([(Image.new("RGB", (9, 9)), "", [])], 0)))
def test_a_contact_sheet_of_nothing_is_refused(tmp_path, entries, columns):
    with pytest.raises(InputError, match="entries"):
        contact_sheet(entries, tmp_path / "sheet.png", columns)
    assert not list(tmp_path.iterdir())
