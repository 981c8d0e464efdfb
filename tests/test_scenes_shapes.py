"""The shapes world: images, facts, captions, questions and rows agree with each other."""

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations

import pytest
from datasets import load_dataset
from PIL import Image

from granted.dataset_builders.scenes.shapes.captions import write_shapes_caption
from granted.dataset_builders.scenes.shapes.contact_sheet import shapes_contact_sheet
from granted.dataset_builders.scenes.shapes.drawing import KINDS, Drawing, render_image, render_video
from granted.dataset_builders.scenes.shapes.lexicon import COLOURS, MOTIONS, PLACES, SHAPES, SIZES, SPEEDS, TEXTURES
from granted.dataset_builders.scenes.shapes.questions import ASPECTS, IMAGE_ASPECTS, VIDEO_ASPECTS, ask_shapes
from granted.dataset_builders.scenes.shapes.reader import read_image, read_video
from granted.dataset_builders.scenes.shapes.rows import (
    description_rows,
    text_to_image_rows,
    text_to_video_rows,
    vqa_rows,
    write_rows,
)
from granted.dataset_builders.scenes.shapes.rungs import rung_ted
from granted.dataset_builders.scenes.shapes.sampling import APART, sample_shapes, shapes_in_split, split_of_drawing
from granted.dataset_builders.scenes.shapes.wordings import LEXICON
from granted.dataset_builders.scenes.words import number_word
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, VIDEO_ONLY, fingerprint
from granted.eval_metric.generation.shapes_score import PROPERTIES
from granted.utils.errors import InputError


def legal(media):
    return [category for category in CATEGORIES if media == "video" or category not in VIDEO_ONLY]


def fits(media, categories):
    return not all(category in categories for category in APART[media])


# ----------------------------------------------------------------------------------------------- scenes and drawings


@pytest.mark.parametrize("media", MEDIA)
def test_any_categories_that_go_together_find_a_scene(media):
    for size in range(5):
        for categories in filter(lambda chosen: fits(media, chosen), combinations(legal(media), size)):
            scene, drawing = sample_shapes("any", media, categories)
            assert scene.media == drawing.media == media
            tables = [table.removeprefix("trait ") for table in scene.tables]
            assert all(table in scene.facts or table in scene.orders for table in tables), categories


@pytest.mark.parametrize(
    ("media", "categories", "message"),
    [
        ("film", (), "expected one of image, video"),
        ("image", ("Temporal",), "expected some of"),
        ("image", ("Adverb", "Spatial Relationship"), "no more than one of them"),
        ("video", ("Quantity", "Adverb"), "no more than one of them"),
    ],
)
def test_what_cannot_be_drawn_is_refused(media, categories, message):
    with pytest.raises(InputError, match=message):
        sample_shapes("bad", media, categories)


def read_facts(reading):
    """What the reader sees, in the tables of a scene, by shape."""
    facts = defaultdict(dict)
    for shape in dict.fromkeys(figure.shape for figure in reading.figures):
        group = [figure for figure in reading.figures if figure.shape == shape]
        for name, words in (("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)):
            (value,) = {getattr(figure, name) for figure in group}
            facts[name][shape] = words[value]
        facts["count"][shape] = len(group)
        if len(group) == 1:
            facts["place"][shape] = PLACES[group[0].cell]
        if group[0].letters:
            facts["text"][shape] = group[0].letters
        motion = group[0].motion
        if motion:
            facts["motion"][shape] = MOTIONS[motion.kind, motion.direction]
            if motion.speed:
                facts["speed"][shape] = SPEEDS[motion.speed]
    return facts


@pytest.mark.parametrize(
    ("media", "start", "end"), [("image", 0, 40), ("image", 40, 80), ("video", 0, 10), ("video", 10, 20)]
)
def test_the_reader_sees_the_facts_in_the_pixels(media, start, end):
    wrong = []
    for number in range(start, end):
        categories = (legal(media)[number % len(legal(media))],)
        scene, drawing = sample_shapes(f"read/{number}", media, categories)
        seen = read_facts(
            read_image(render_image(drawing, 128)) if media == "image" else read_video(render_video(drawing, 16, 128))
        )
        shapes = {name: entity.concept.key for name, entity in scene.entities.items()}
        assert set(shapes.values()) <= set(SHAPES)
        for relation in ("colour", "size", "texture", "count", "place", "text", "motion", "speed"):
            told = {shapes[name]: value for name, value in scene.facts.get(relation, {}).items()}
            if told != seen.get(relation, {}):
                wrong.append((scene.id, relation, told, seen.get(relation)))
    assert len(wrong) == 0, wrong


def test_properties_are_independent_of_each_other():
    pairs, starts = Counter(), Counter()
    for number in range(600):
        scene, _ = sample_shapes(f"independent/{number}", "video", ("Adverb", "Temporal"))
        for subject, speed in scene.facts["speed"].items():
            pairs[scene.facts["size"][subject].key, speed.key] += 1
            starts[scene.orders["timeline"].index(subject), speed.key] += 1
    for table in (pairs, starts):
        assert len(table) == 9
        assert min(table.values()) >= 150 and max(table.values()) <= 250  # 200 of each are expected


# ---------------------------------------------------------------------------------------------------------- captions


def test_captions_are_well_formed_and_differ():
    for number in range(300):
        media = MEDIA[number % 2]
        rng = random.Random(number)
        categories = rng.sample(legal(media), 3)
        if not fits(media, categories):
            continue
        scene, _ = sample_shapes(f"told/{number}", media, categories)
        full, other, short = (write_shapes_caption(scene, *args).text for args in (("a",), ("b",), ("a", "short")))
        assert full == write_shapes_caption(scene, "a").text != other
        caption = write_shapes_caption(scene, "a")
        for table in scene.tables:
            values = scene.facts.get(table.removeprefix("trait "), {}).values()
            words = [
                number_word(v) if isinstance(v, int) else v if isinstance(v, str) else caption.form(v) for v in values
            ]
            if table not in ("motion", "place") and words:
                assert all(word in full.lower() or word in full for word in words), (table, full)
        assert len(short) < len(full)
        for text in (full, other, short):
            assert text.endswith(".") and text[0].isupper()
            assert not any(flaw in text for flaw in ("  ", ",,", " ,", "..", ",.", ";.", "{", "}", "None"))
            for before, word in zip(text.split(), text.split()[1:]):
                if before.lower() in ("a", "an"):
                    assert (before.lower() == "an") == (word[0] in "aeio"), f"{before} {word}"


def test_an_unknown_detail_is_refused():
    scene, _ = sample_shapes("told", "image", ())
    with pytest.raises(InputError, match="full, short"):
        write_shapes_caption(scene, "a", "long")


def test_benchmark_and_training_share_no_image():
    images = defaultdict(set)
    for split in ("benchmark", "training"):
        for number in range(200):
            _, drawing = shapes_in_split(f"apart/{number}", split, "image", ("Adjective",))
            images[split].add(drawing)
    assert not images["benchmark"] & images["training"]
    assert split_of_drawing(sample_shapes("apart", "image", ())[1]) in images


# ---------------------------------------------------------------------------------------------------- questions, rows


def asked(media, count):
    aspects = [aspect for aspect in ASPECTS if aspect not in (VIDEO_ASPECTS if media == "image" else IMAGE_ASPECTS)]
    for number in range(count):
        aspect, rng = aspects[number % len(aspects)], random.Random(f"{media}/{number}")
        scene, _ = sample_shapes(f"asked/{media}/{number}", media, (rng.choice(ASPECTS[aspect]),))
        caption = write_shapes_caption(scene, "a")
        yield scene, caption, aspect, ask_shapes(caption, aspect, rng)


@pytest.mark.parametrize("media", MEDIA)
def test_answers_agree_with_the_scene(media):
    for scene, caption, _, one in asked(media, 1000):
        names = {word(subject): subject for subject in scene.entities for word in (caption.noun, caption.some)}
        subjects = [names[name] for name in names if re.search(rf"\b{name}\b", one.question)]
        relation = one.pattern.partition(" ")[2]
        table = scene.facts.get(relation)
        if one.pattern.startswith("what ") and table:
            value = table[subjects[0]]
            assert one.key == str(getattr(value, "key", value)), one
        elif one.pattern.startswith("which ") and table:
            subject = next(s for s, e in scene.entities.items() if e.concept.key == one.key)
            value = table[subject]
            assert list(table.values()).count(value) == 1
            if relation in ("colour", "texture", "motion", "place", "speed"):
                assert caption.form(value) in one.question, one
        elif one.pattern.startswith("whether ") and table and relation in ("colour", "texture", "place", "motion"):
            value = caption.form(table[subjects[0]])
            assert (one.key == "yes") == (f" {value}" in one.question[:-1]), one


def test_nothing_is_answered_without_looking():
    patterns = defaultdict(Counter)
    for media in MEDIA:
        for _, _, aspect, one in asked(media, 2000):
            if aspect != "full description":
                patterns[one.pattern][one.key] += 1
    decided = [counts for counts in patterns.values() if set(counts) <= {"yes", "no"}]
    total = sum(map(sum, (counts.values() for counts in patterns.values())))
    assert 0.4 < sum(map(sum, (counts.values() for counts in decided))) / total < 0.6
    for pattern, counts in patterns.items():
        number = sum(counts.values())
        chance = 1 / len(counts)
        margin = 4 * (chance * (1 - chance) / number) ** 0.5  # four standard errors
        # How many there are is not uniform: six of something leave room for little else.
        slack = 0.15 if pattern == "what count" else 0.02
        assert counts.most_common(1)[0][1] / number <= chance + margin + slack, (pattern, counts)


@pytest.mark.parametrize("media", MEDIA)
def test_the_split_does_not_know_the_order_of_figures(media):
    for number in range(40):
        _, drawing = sample_shapes(f"order/{number}", media, ())
        assert split_of_drawing(drawing) == split_of_drawing(replace(drawing, figures=drawing.figures[::-1]))


def test_aspects_that_a_medium_does_not_have_are_refused_where_they_are_chosen():
    with pytest.raises(InputError, match="got action as aspects of image questions"):
        next(vqa_rows(2, media="image", aspects=["action", "counting"]))
    rows = list(vqa_rows(len(ASPECTS), media="image", size=48))
    assert {row["aspect"] for row in rows} == set(ASPECTS) - set(VIDEO_ASPECTS)


def test_unknown_aspects_are_refused():
    caption = write_shapes_caption(sample_shapes("a", "image", ("Adjective",))[0], "a")
    with pytest.raises(InputError, match="expected one of attributes"):
        ask_shapes(caption, "smell", random.Random(0))


@pytest.mark.parametrize("media", MEDIA)
def test_question_rows_go_through_parquet(tmp_path, media):
    rows = list(vqa_rows(16, media=media, size=48, frames=8))
    assert write_rows(iter(rows), tmp_path / "vqa.parquet") == 16
    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "vqa.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    for row, again in zip(rows, loaded):
        messages = [
            {**message, "content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]]}
            for message in again["messages"]
        ]
        assert messages == row["messages"]
        assert messages[0]["content"][0] == {"type": media}
        assert (again["id"], again["aspect"], again["source"]) == (row["id"], row["aspect"], "scenes")
        (images, seen) = (row["images"], again["images"])
        if media == "video":
            assert not again["images"]
            images, seen = row["videos"][0], again["videos"][0]
            assert len(seen) == 8
        assert [image.tobytes() for image in images] == [image.convert("RGB").tobytes() for image in seen]


def test_descriptions_have_the_wordings_that_were_asked_for(tmp_path):
    def words(wordings):
        rows = list(description_rows(60, size=32, wordings=wordings))
        assert all(
            row["images"][0].size == (32, 32) and row["messages"][0]["content"][0]["type"] == "image" for row in rows
        )
        return " ".join(row["messages"][1]["content"][0]["text"] for row in rows)

    held_out = [phrase.text for colour in COLOURS for phrase in LEXICON.phrases("colours", colour, held_out=True)]
    assert not [text for text in held_out if text in words(["seen", "form"])]
    assert [text for text in held_out if text in words(["word"])]
    write_rows(description_rows(3, size=32), tmp_path / "rows.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path))
    answers = [row["messages"][1]["content"] for row in (rows[0], next(description_rows(1, size=32)))]
    assert answers[0] == answers[1] and rows[0]["images"][0].size == (32, 32)


def test_captioned_rows_go_through_parquet(tmp_path):
    for name, rows in (
        ("images", list(text_to_image_rows(12, size=48))),
        ("clips", list(text_to_video_rows(6, size=48, frames=8))),
    ):
        write_rows(rows, tmp_path / f"{name}.parquet")
        loaded = load_dataset(
            "parquet", data_files=str(tmp_path / f"{name}.parquet"), split="train", cache_dir=str(tmp_path / "cache")
        )
        for row, again in zip(rows, loaded):
            assert again["caption"] == row["caption"] and again["id"] == row["id"]
            drawing = Drawing.from_json(again["drawing"])
            assert drawing.to_json() == row["drawing"]
            one, other = (r["image"] if name == "images" else r["frames"][-1] for r in (row, again))
            assert one.tobytes() == other.convert("RGB").tobytes()
            again = render_image(drawing, 48) if name == "images" else render_video(drawing, 8, 48)[-1]
            assert again.tobytes() == one.tobytes()
    for wrong in ("", "{}", '{"figures": [{}], "background": "white", "media": "image"}', "null"):
        with pytest.raises(InputError, match="no drawing"):
            Drawing.from_json(wrong)
    with pytest.raises(InputError, match="got no row"):
        write_rows([], tmp_path / "none.parquet")
    with pytest.raises(InputError, match="expected rows with the fields"):
        write_rows([{"id": "a"}], tmp_path / "none.parquet")
    with pytest.raises(InputError, match="at least 1"):
        next(text_to_image_rows(0))


def test_the_contact_sheet_is_an_image(tmp_path):
    shapes_contact_sheet(tmp_path / "sheet.png", scenes=4)
    assert Image.open(tmp_path / "sheet.png").width == 4 * 480


PROGRAM = """
import hashlib
import sys
sys.argv[0] = "granted"  # as the command is started, without the libraries of models
from granted.dataset_builders.scenes.shapes.rows import vqa_rows
from granted.dataset_builders.scenes.shapes.rungs import rung_ted
from granted.dataset_builders.ted_6k.records import fingerprint
rows = list(vqa_rows(16, media="video", size=32, frames=8))
content = [(row["messages"], row["videos"][0][5].tobytes()) for row in rows]
print(fingerprint(list(rung_ted(200, seed=3))), hashlib.sha256(repr(content).encode()).hexdigest())
"""


def test_the_same_seed_gives_the_same_data_in_any_process():
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    ).stdout  # fmt: skip
    rows = vqa_rows(16, media="video", size=32, frames=8)
    content = [(row["messages"], row["videos"][0][5].tobytes()) for row in rows]
    hashed = hashlib.sha256(repr(content).encode()).hexdigest()
    assert answer.split() == [fingerprint(list(rung_ted(200, seed=3))), hashed]
    assert fingerprint(list(rung_ted(200, seed=4))) != fingerprint(list(rung_ted(200, seed=3)))


def test_a_plain_caption_says_all_of_a_drawing_in_the_same_words_for_every_scene():
    for row in text_to_image_rows(100, size=32, things=(1, 3), captions="plain"):
        drawing = Drawing.from_json(row["drawing"])
        figures = sorted(drawing.figures, key=lambda figure: figure.cell[::-1])
        listed = [
            f"{'an' if one.size[0] in 'aeiou' else 'a'} {one.size} {one.texture} {one.colour} {one.shape} "
            f"{PLACES[one.cell].forms[0]}"
            for one in figures
        ]
        assert row["caption"] == f"On a {drawing.background} background, {', '.join(listed)}."
    scene, _ = sample_shapes("plain", "video", ("Temporal", "OCR"))
    told = {write_shapes_caption(scene, seed, "plain").text for seed in "abc"}
    assert len(told) == 1 and len({write_shapes_caption(scene, seed).text for seed in "abc"}) == 3
    text = told.pop()
    texts = scene.facts["text"].values()
    assert all(f"with the letter{'s' if len(written) > 1 else ''} '{written}'" in text for written in texts)
    assert text.count(", then ") == len(scene.orders["timeline"]) - 1


@pytest.mark.parametrize(("make", "frames"), [(text_to_image_rows, {}), (text_to_video_rows, {"frames": 8})])
def test_simple_scenes_have_as_many_different_things_as_asked_and_held_out_ones_are_not_among_the_others(make, frames):
    trained = [Drawing.from_json(row["drawing"]) for row in make(100, size=32, things=(1, 3), **frames)]
    held_out = [
        Drawing.from_json(row["drawing"])
        for row in make(50, size=32, things=(1, 3), split="benchmark", captions="plain", **frames)
    ]
    assert {len(drawing.figures) for drawing in trained} == {1, 2, 3}
    for drawing in trained:
        assert len({figure.shape for figure in drawing.figures}) == len(drawing.figures)
        assert not any(figure.letters for figure in drawing.figures)
        assert not frames or all(figure.motion for figure in drawing.figures)
    assert not set(trained) & set(held_out)
    for changed in ({"things": (0, 2)}, {"things": (2, 1)}, {"split": "test"}, {"captions": "long"}):
        with pytest.raises(InputError):
            next(make(1, **changed))


@pytest.mark.parametrize("make", [text_to_image_rows, text_to_video_rows])
def test_in_bold_scenes_all_figures_are_large_and_solid_and_that_is_not_scored(make):
    rows = list(make(40, size=32, things=(1, 3), large_solid=True, captions="plain"))
    assert not [row for row in rows if re.search("large|solid", row["caption"])]
    figures = [figure for row in rows for figure in Drawing.from_json(row["drawing"]).figures]
    assert {(figure.size, figure.texture) for figure in figures} == {("large", "solid")}
    assert len({figure.colour for figure in figures}) > 5 and len({figure.shape for figure in figures}) > 5
    assert {name for row in rows for name in row["told"]} == set(PROPERTIES) - {"size", "texture", "letters"}
    assert next(make(1, size=32))["told"] is None
    with pytest.raises(InputError, match="large_solid without things"):
        next(make(1, large_solid=True))


def test_in_simple_videos_only_the_motions_that_were_asked_for_happen():
    def kinds(**options):
        rows = text_to_video_rows(60, size=32, frames=8, **options)
        return {figure.motion.kind for row in rows for figure in Drawing.from_json(row["drawing"]).figures}

    assert kinds(things=(1, 2)) == set(KINDS)
    assert kinds(things=(1, 2), motions=("moves", "blinks")) == {"moves", "blinks"}
    for options, message in (
        ({}, "motions without things"),
        ({"things": (1, 1), "motions": ("runs",)}, "kind 'runs'"),
    ):
        with pytest.raises(InputError, match=message):
            kinds(**{"motions": ("moves",), **options})
