"""Prompts and answers: every file is complete, the language reaches all, material stays data, no bad answer passes."""

import json
import re
import string
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granted.dataset_builders.construction.answers import ANSWERS, VERDICTS, read_answer, same_words
from granted.dataset_builders.construction.prompts import FIELDS, OURS, as_data, fill, read_prompt, read_prompts
from granted.dataset_builders.construction.settings import ASPECTS, VIDEO_ASPECTS, ConstructionSettings
from granted.dataset_builders.construction.stages import STAGES
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, VIDEO_ONLY
from granted.utils.errors import InputError


PROMPTS = read_prompts()
SETTINGS = ConstructionSettings(source="x", output=Path("x"), endpoint="http://127.0.0.1:1/v1", model="m")


def test_every_stage_has_a_prompt_for_every_type_and_medium_with_examples():
    for stage in STAGES.values():
        for media in MEDIA:
            for category in CATEGORIES if media == "video" else set(CATEGORIES) - set(VIDEO_ONLY):
                for aspect in ASPECTS if media == "video" else set(ASPECTS) - set(VIDEO_ASPECTS):
                    prompt = PROMPTS[stage.prompt_of({"media": media, "category": category, "aspect": aspect})]
                    if "caption" not in prompt.name:
                        assert prompt.examples[media], f"{prompt.name} has no example of {media}"


def test_examples_are_answers_that_would_be_taken():
    for prompt in PROMPTS.values():
        for example in chain.from_iterable(prompt.examples.values()):
            text = json.dumps(example["answer"])
            assert read_answer(prompt.kind, text, "stop", example["material"], SETTINGS) == (example["answer"], None)


def test_the_language_reaches_every_prompt():
    for prompt in PROMPTS.values():
        for media in MEDIA:
            assert "Write in Japanese." in fill(prompt, {}, media, "Japanese").system


def test_the_same_words_appear_in_no_two_prompts_of_captions():
    first, second = (PROMPTS[name].task for name in ("caption_image", "second_caption_image"))
    assert not same_words(first, second)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), st.text(), min_size=1))
def test_no_material_can_close_its_block_or_change(material):
    prompt = PROMPTS["negatives_quantity"]
    filled = fill(prompt, material, "image", "English")
    begin, end = "<material>\n", "\n</material>"
    assert filled.user.startswith(begin) and filled.user.endswith(end)
    inside = filled.user[len(begin) : -len(end)]
    assert "<" not in inside and ">" not in inside and "\n" not in inside
    assert json.loads(inside) == material
    assert filled.system == fill(prompt, {}, "image", "English").system


def test_a_prompt_of_the_users_replaces_ours_of_its_name(tmp_path):
    text = (OURS / "caption_image.yaml").read_text().replace("Describe the image", "Describe the garment")
    (tmp_path / "caption_image.yaml").write_text(text)
    prompts = read_prompts(tmp_path)
    assert prompts["caption_image"].task.startswith("Describe the garment")
    assert prompts["caption_image"].digest != PROMPTS["caption_image"].digest
    assert prompts["caption_video"] == PROMPTS["caption_video"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_prompt_without_a_field_is_one_line(tmp_path, field):
    lines = (OURS / "check_same.yaml").read_text().replace("\n  ", "\n   ").splitlines()
    kept, dropped = [], False
    for line in lines:
        dropped = line.startswith(f"{field}:") or (dropped and line.startswith(" "))
        kept += [] if dropped else [line]
    (tmp_path / "check_same.yaml").write_text("\n".join(kept))
    with pytest.raises(InputError, match=rf"check_same.yaml without {field}, expected version"):
        read_prompt(tmp_path / "check_same.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("answer: same", "answer: essay", "got the answer 'essay'"),
        ("max_tokens: 100", "max_tokens: many", "got max_tokens 'many'"),
        ("temperature: 0.3", "temperature: -1", "got temperature"),
        ("version: '1'", "version: '1'\nversoin: '2'", "with the unknown versoin"),
        ("  image:", "  picture:", "got examples of picture"),
        ("  same:", "  sama:", "got examples of image"),
    ],
)
def test_a_wrong_field_of_a_prompt_is_one_line(tmp_path, old, new, said):
    text = (OURS / "check_same.yaml").read_text()
    assert old in text
    (tmp_path / "check_same.yaml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path)


def test_a_prompt_that_no_stage_uses_is_refused(tmp_path):
    (tmp_path / "captoin_image.yaml").write_text("version: 1")
    with pytest.raises(InputError, match="captoin_image"):
        read_prompts(tmp_path)
    with pytest.raises(InputError, match=r"got no \*.yaml"):
        read_prompts(tmp_path / "none")


# ------------------------------------------------------------------------------------------------------------- answers

NEGATIVES = ["There are two dogs.", "There are four dogs.", "There are five dogs."]
STATEMENT = {"caption": "…", "statement": "There are three dogs."}


def read(kind, value, finish="stop", material=STATEMENT):
    text = value if isinstance(value, str) else json.dumps(value)
    return read_answer(ANSWERS[kind], text, finish, material, SETTINGS)


def test_an_answer_may_stand_in_a_fence():
    assert read("negatives", f"```json\n{json.dumps({'statements': NEGATIVES})}\n```")[1] is None


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("negatives", '{"statements": ["There are', "no JSON"),
        ("negatives", 'Sure! {"statements": []}', "no JSON"),
        ("negatives", '{"statements": [], "statements": []}', "twice"),
        ("negatives", "NaN", "none of its numbers"),
        ("negatives", "[" * 100_000, "no JSON"),
        ("negatives", {"statements": NEGATIVES[:2]}, "minItems of statements"),
        ("negatives", {"statements": [*NEGATIVES, "There are six."]}, "maxItems"),
        ("negatives", {"statements": NEGATIVES, "note": "x"}, "additionalProperties"),
        ("negatives", {"statements": [*NEGATIVES[:2], 3]}, "type of 2 of statements"),
        ("negatives", {"statements": [*NEGATIVES[:2], "there are TWO dogs"]}, "equals another"),
        ("negatives", {"statements": [*NEGATIVES[:2], "There are three dogs"]}, "equals another"),
        ("negatives", {"statements": [*NEGATIVES[:2], "Six"]}, "has 1 words, not 3 to 40"),
        ("negatives", {"statements": [*NEGATIVES[:2], "There are\nsix dogs."]}, "line break"),
        ("negatives", {"statements": [*NEGATIVES[:2], " There are six dogs."]}, "white space"),
        ("negatives", '{"statements": ["There is a", "There is b", "There is \\ud800"]}', "U\\+D800"),
        ("statement", {"reason": "none", "statement": "  "}, "white space"),
        ("statement", {"statement": None}, "required"),
        ("caption", {"caption": "Too short."}, "the caption has 2 words, not 20 to 400"),
        ("question", {"question": "What is it?", "answer": None}, "without an answer"),
        ("question", {"question": "What is it?", "answer": "What is it"}, "repeats"),
        ("verdict", {"verdict": "maybe"}, "enum of verdict"),
        ("choice", {"choice": 0}, "minimum"),
        ("choice", {"choice": True}, "type"),
        ("choice", '{"choice": 2.0}', "2.0 is none of its numbers"),
        ("choice", '{"choice": 1e999}', "none of its numbers"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(kind, value, said):
    found, fault = read(kind, value)
    assert found is None
    assert re.search(said, fault), fault


def test_an_answer_cut_at_the_limit_is_none_even_if_it_reads_well():
    assert read("negatives", {"statements": NEGATIVES}, finish="length") == (None, "it was cut at the limit of tokens")


def test_words_are_counted_in_languages_without_spaces_and_with_vowel_signs():
    assert read("caption", {"caption": "一只红色的猫坐在木桌上,旁边有三个白色的杯子,窗外正在下雨。"})[1] is None
    assert read("caption", {"caption": "किताब मेज पर है। " * 98 + "वह लाल है।"})[1] is None  # 395 words


def test_there_may_be_nothing_to_say():
    assert read("statement", {"reason": "nothing is counted", "statement": None})[1] is None
    assert read("question", {"question": None, "answer": None})[1] is None


def test_as_many_are_judged_as_there_are():
    material = {"statement": "a", "statements": ["b", "c"]}
    assert read("same", {"same": [True, False]}, material=material)[1] is None
    assert read("same", {"same": [True]}, material=material)[1] == "it judges 1 of 2 statements"


@settings(max_examples=50, deadline=None)
@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_whatever_comes_is_a_value_of_its_form_or_a_fault(text):
    for kind in ANSWERS.values():
        value, fault = read_answer(kind, text, "stop", STATEMENT | {"statements": NEGATIVES}, SETTINGS)
        assert (value is None) != (fault is None)


def test_words_are_the_same_whatever_the_case_and_points():
    assert same_words("Two  dogs, run!", "two dogs run") and not same_words("two dogs run", "two dogs ran")
    assert set(VERDICTS) == {"true", "false", "not stated"} and as_data("<") == '"\\u003c"'
