"""Reading drawings back from their pixels: round trips, disturbed images, videos, garbage, and the scores."""

import io
import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter

from granted.dataset_builders.scenes.shapes.drawing import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    DARK_BACKGROUNDS,
    SIZES,
    SPEEDS,
    Drawing,
    Figure,
    Motion,
    plate_height,
    random_drawing,
    render_image,
    render_video,
)
from granted.dataset_builders.scenes.shapes.figure_tiles import SHAPES, TEXTURES, figure_tile, paste_tile
from granted.dataset_builders.scenes.shapes.reader import (
    ReadFigure,
    Reading,
    properties_match,
    read_image,
    read_video,
)
from granted.dataset_builders.scenes.shapes.reader_motion import ReadMotion, fit_ramp


LOOKS = ("background", "figures", "count", "shape", "colour", "size", "texture", "position")
MOTIONS = ("motion", "direction", "speed", "order")


def as_jpeg(image, rng):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Image.open(buffer)


def with_noise(image, rng):
    values = np.asarray(image, dtype=float)  # (H, W, 3)
    return Image.fromarray((values + rng.normal(0, 8, values.shape)).clip(0, 255).round().astype(np.uint8))


def with_other_colours(image, rng):
    values = np.asarray(image, dtype=float) + rng.choice((-12, 12), 3)  # (H, W, 3)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def blurred(image, rng):
    return image.filter(ImageFilter.GaussianBlur(0.7))


def read_rates(size, count, media="image", frames=16, disturb=lambda image, rng: image):
    """The share of each property read right over `count` random drawings; `letters` of the figures that have some."""
    scores = defaultdict(list)
    for seed in range(count):
        drawing = random_drawing(
            random.Random(seed), media, 5 if media == "image" else 3, letters_share=0.5, motion_share=0.8
        )
        rng = np.random.default_rng(seed)
        if media == "image":
            reading = read_image(disturb(render_image(drawing, size), rng))
        else:
            reading = read_video([disturb(frame, rng) for frame in render_video(drawing, frames, size)])
        for name, score in properties_match(drawing, reading).items():
            scores[name].append(score)
        scores["letters"].pop()
        read = {figure.cell: figure.letters for figure in reading.figures}
        scores["letters"] += [read.get(figure.cell) == figure.letters for figure in drawing.figures if figure.letters]
    return {name: float(np.mean(values)) for name, values in scores.items()}


def test_every_property_is_read_at_128_pixels():
    rates = read_rates(128, 60)
    assert set(rates) == {*LOOKS, "letters"}
    assert min(rates.values()) >= 0.99, rates


@pytest.mark.parametrize("size", (256, 500))
def test_large_images_are_read_as_well(size):
    assert min(read_rates(size, 12).values()) >= 0.99


def test_small_images_are_read_as_far_as_they_go():
    rates = read_rates(64, 40)
    assert min(rates[name] for name in LOOKS) >= 0.98, rates
    assert rates["letters"] >= 0.93, rates
    rates = read_rates(32, 30)
    assert min(rates[name] for name in ("background", "figures", "size", "position")) >= 0.95, rates
    assert min(rates[name] for name in ("shape", "colour")) >= 0.88, rates
    assert rates["texture"] >= 0.8, rates


@pytest.mark.parametrize("disturb", (as_jpeg, with_noise, with_other_colours, blurred))
def test_small_disturbances_do_no_harm(disturb):
    rates = read_rates(128, 20, disturb=disturb)
    assert min(rates.values()) >= 0.97, rates


@pytest.mark.parametrize("size, frames, least", ((128, 16, 0.99), (128, 8, 0.99), (64, 16, 0.92)))
def test_videos_are_read(size, frames, least):
    rates = read_rates(size, 20, "video", frames)
    assert set(rates) == {*LOOKS, *MOTIONS, "letters"}
    assert min(value for name, value in rates.items() if name != "letters") >= least, rates


def test_noisy_videos_are_read():
    rates = read_rates(128, 8, "video", 12, with_noise)
    assert min(rates.values()) >= 0.97, rates


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_shape_and_texture_is_read_on_every_background(background):
    for number, texture in enumerate(TEXTURES):
        colours = (*tuple(COLOURS)[number:], *tuple(COLOURS)[:number])
        figures = tuple(
            Figure(shape, colour, size, texture, cell)
            for shape, colour, cell, size in zip(SHAPES, colours, CELLS, (*SIZES, *SIZES, *SIZES))
        )
        drawing = Drawing(figures, background)
        assert set(properties_match(drawing, read_image(render_image(drawing, 128))).values()) == {1.0}


def test_figures_off_their_place_and_size_are_read():
    scores = defaultdict(list)
    for seed in range(20):
        rng = random.Random(seed)
        drawing = random_drawing(rng, "image", 4, letters_share=0.25)
        image = Image.new("RGB", (128, 128), BACKGROUNDS[drawing.background])
        for figure in drawing.figures:
            scale = rng.uniform(0.93, 1.0 if figure.size == "large" else 1.07) * 128
            room = 0.0 if figure.size == "large" else 6.0
            centre = tuple((place + 0.5) / 3 * 128 + rng.uniform(-room, room) for place in figure.cell)
            height, plate = (
                value * scale for value in (SIZES[figure.size], plate_height(SIZES[figure.size], len(figure.letters)))
            )
            dark = drawing.background in DARK_BACKGROUNDS
            look = (figure.shape, COLOURS[figure.colour], figure.texture, centre, height, figure.letters, plate, dark)
            paste_tile(image, figure_tile(*look))
        for name, score in properties_match(drawing, read_image(image)).items():
            scores[name].append(score)
    assert min(np.mean(values) for values in scores.values()) >= 0.97, scores


def test_what_is_read_says_where_and_how_sure():
    drawing = Drawing((Figure("heart", "pink", "medium", "dotted", (2, 0), letters="AB"),), "beige")
    reading = read_image(render_image(drawing, 128))
    (heart,) = reading.figures
    assert (reading.background, reading.media) == ("beige", "image") and reading.confidence > 0.9
    assert heart.centre == pytest.approx((5 / 6, 1 / 6), abs=0.01) and heart.height == pytest.approx(0.21, abs=0.01)
    assert heart.motion is None
    assert set(heart.confidence) == {"shape", "colour", "size", "texture", "letters"}
    assert all(0.8 < value <= 1 for value in heart.confidence.values())


def test_what_cannot_be_read_is_not_made_up():
    unreadable = Drawing((Figure("circle", "pink", "small", "solid", (1, 1), letters="WXYZ"),), "white")
    (circle,) = read_image(render_image(unreadable, 40)).figures
    assert circle.letters is None and circle.confidence["letters"] == 0
    image = Image.new("RGB", (128, 128), "white")
    image.paste((128, 128, 128), (44, 50, 84, 78))
    (box,) = read_image(image).figures
    assert box.colour is None and box.confidence["colour"] == 0


def test_when_events_happen_is_read():
    figures = (
        Figure("star", "red", "medium", "solid", (0, 0), motion=Motion("moves", "down", "steadily", 0.1, 0.9)),
        Figure("ring", "blue", "large", "solid", (1, 1), motion=Motion("shrinks", None, "quickly", 0.3, 0.8)),
        Figure("cross", "green", "small", "solid", (2, 2), motion=Motion("blinks", None, None, 0.4, 0.7)),
        Figure("heart", "pink", "small", "solid", (2, 0), motion=Motion("disappears", None, None, 0.6, 0.6)),
        Figure("square", "brown", "small", "solid", (1, 0)),
    )
    reading = read_video(render_video(Drawing(figures, "navy", "video"), 16, 128))
    read = {figure.shape: figure.motion for figure in reading.figures}
    assert read["square"] is None
    for figure in figures[:-1]:
        motion, seen = figure.motion, read[figure.shape]
        assert (seen.kind, seen.direction, seen.speed) == (motion.kind, motion.direction, motion.speed)
        assert (seen.start, seen.end) == pytest.approx((motion.start, motion.end), abs=0.04)


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_ramp_is_found_exactly(speed):
    times = np.linspace(0, 1, 21)  # (n,)
    for start, end in ((0.0, 0.5), (0.2, 0.6), (0.55, 1.0)):
        values = 0.3 - SPEEDS[speed] * np.clip(times - start, 0, end - start)  # (n,)
        ramp = fit_ramp(times, values, SPEEDS)
        assert (ramp.start, ramp.end, ramp.rate) == pytest.approx((start, end, -SPEEDS[speed]), abs=1e-6)
        assert ramp.speed == speed and ramp.fit == pytest.approx(1)


def test_figures_that_touch_are_told_apart():
    image = Image.new("RGB", (128, 128), "white")
    for x, colour in ((21.5, "red"), (63.5, "blue"), (106.0, "red")):
        paste_tile(image, figure_tile("circle", COLOURS[colour], "solid", (x, 64.0), 42.0))
    assert [(one.cell, one.colour, one.shape) for one in read_image(image).figures] == [
        ((0, 1), "red", "circle"),
        ((1, 1), "blue", "circle"),
        ((2, 1), "red", "circle"),
    ]


@pytest.mark.parametrize("colour", ("white", "black", "red", BACKGROUNDS["navy"]))
def test_a_blank_image_has_no_figures(colour):
    assert read_image(Image.new("RGB", (128, 128), colour)).figures == ()
    assert read_video([Image.new("RGB", (64, 64), colour)] * 8).figures == ()


@pytest.mark.parametrize(
    "mode, size", (("L", (1, 900)), ("RGBA", (200, 50)), ("RGB", (3, 3)), ("1", (40, 40)), ("P", (17, 300)))
)
def test_images_of_any_mode_and_size_are_read(mode, size):
    assert read_image(Image.new(mode, size)).figures == ()
    assert read_video([Image.new(mode, size)] * 3).figures == ()


def test_a_video_without_frames_shows_nothing():
    assert read_video([]) == read_video([Image.new("RGB", (64, 64))]) == Reading((), None, "video", 0.0)


def test_noise_is_nothing_or_hardly_anything():
    rng = np.random.default_rng(0)
    for noise in (rng.integers(0, 256, (128, 128, 3)), rng.normal(128, 40, (128, 128, 3)).clip(0, 255)):
        for figure in read_image(Image.fromarray(noise.astype(np.uint8))).figures:
            assert figure.shape is None and figure.confidence["shape"] == figure.confidence["colour"] == 0


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 16), st.integers(1, 16), st.just(3))), st.integers(16, 100))
def test_no_image_makes_the_reader_raise(blocks, size):
    image = Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST)
    for reading in (read_image(image), read_video([image, image.rotate(90), image])):
        for figure in reading.figures:
            assert all(0 <= value <= 1 for value in figure.confidence.values())


def perfect(drawing):
    """The reading of one who sees everything."""
    figures = []
    for one in drawing.figures:
        motion = one.motion and ReadMotion(
            *(getattr(one.motion, name) for name in ("kind", "direction", "speed", "start", "end"))
        )
        looks = (one.shape, one.colour, one.size, one.texture, one.cell, one.letters)
        figures.append(ReadFigure(*looks, centre=(0.5, 0.5), height=0.2, motion=motion, confidence={}))
    return Reading(tuple(figures), drawing.background, drawing.media, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(("image", "video")), st.integers(0, 5))
def test_a_perfect_reading_has_full_marks(seed, media, number):
    drawing = random_drawing(random.Random(seed), media, number)
    reading = perfect(drawing)
    assert set(properties_match(drawing, replace(reading, figures=reading.figures[::-1])).values()) == {1.0}


def test_scores_in_closed_form():
    motions = (
        Motion("moves", "left", "slowly", 0.0, 0.4),
        Motion("moves", "right", "quickly", 0.2, 0.5),
        Motion("appears", None, None, 0.8, 0.8),
        None,
    )
    colours = ("red", "red", "blue", "green")
    figures = tuple(
        Figure("star", colour, "small", "solid", cell, motion=motion)
        for colour, cell, motion in zip(colours, ((2, 0), (0, 1), (0, 2), (2, 2)), motions)
    )
    drawing = Drawing(figures, "white", "video")
    first, second, third, _ = perfect(drawing).figures
    first = replace(first, motion=replace(first.motion, direction="up", start=0.9))
    second = replace(second, motion=replace(second.motion, speed=None), letters="A", size=None)
    third = replace(third, texture="dotted", cell=(1, 1))
    scores = properties_match(drawing, Reading((second, third, first), "navy", "video", 1.0))
    assert scores == {
        "background": 0.0,
        "figures": 0.75,
        "count": pytest.approx(2 / 3),
        "shape": 0.75,
        "colour": 0.75,
        "size": 0.5,
        "texture": 0.5,
        "letters": 0.5,
        "position": 0.5,
        "motion": 0.75,
        "direction": 0.5,
        "speed": 0.5,
        "order": pytest.approx(1 / 3),
    }


def test_scores_of_nothing_and_of_something_else():
    empty = Drawing((), "white")
    star = Drawing((Figure("star", "red", "small", "solid", (0, 0)),), "white")
    other = Drawing((Figure("ring", "blue", "large", "striped", (2, 2), letters="A"),), "white")
    assert properties_match(empty, perfect(empty)) == {"background": 1.0, "figures": 1.0}
    assert properties_match(empty, perfect(star)) == {"background": 1.0, "figures": 0.0}
    for reading in (perfect(empty), perfect(other)):
        scores = properties_match(star, reading)
        assert scores.pop("background") == 1.0 and set(scores.values()) == {0.0}
    assert (
        properties_match(star, perfect(Drawing((*star.figures, replace(star.figures[0], cell=(1, 1))), "white")))[
            "count"
        ]
        == 0.0
    )
