"""Many wordings for what is drawn: a wording means one thing, and nothing that is held out is in a training text."""

import random
import re

import pytest

from granted.dataset_builders.scenes.shapes.drawing import Drawing, Figure
from granted.dataset_builders.scenes.shapes.lexicon import MOTIONS
from granted.dataset_builders.scenes.shapes.varied_captions import WORDINGS, Fact, varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import is_held_out, sample_drawing, single_figures
from granted.dataset_builders.scenes.shapes.wordings import CONCEPTS, FORMS, LEXICON


# Words that carry no meaning of their own here.
FUNCTION_WORDS = {
    "a",
    "an",
    "the",
    "of",
    "for",
    "with",
    "in",
    "on",
    "at",
    "to",
    "is",
    "that",
    "what",
    "from",
    "one",
    "like",
    "as",
    "s",
    "who",
    "coloured",
}


def contains(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text, in whole words, whatever the case."""
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text, re.IGNORECASE) is not None


def content_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", re.sub(r"\{\w+\}", "", text).lower())) - FUNCTION_WORDS


def every_phrase(held_out: bool):
    for kind, concepts in CONCEPTS.items():
        for concept in concepts:
            for phrase in LEXICON.phrases(kind, concept, held_out):
                yield kind, concept, phrase.text


def training_captions(count: int = 400):
    for number in range(count):
        rng = random.Random(number)
        looks = ("colour", "size", "texture")
        yield varied_caption(sample_drawing(rng, held_out=False), "seen", rng, looks=looks, background=True)


def test_every_concept_has_wordings_for_training_and_held_out_ones():
    for kind, concepts in CONCEPTS.items():
        for concept in concepts:
            assert all(LEXICON.phrases(kind, concept, held_out) for held_out in (False, True)), (kind, concept)


def test_a_wording_means_one_concept_only():
    phrases = [*every_phrase(False), *every_phrase(True)]
    assert len({text for _, _, text in phrases}) == len(phrases)
    # A background may be called "pale blue", where no figure's colour is told.
    apart = [
        (kind, concept, text) for kind, concept, text in phrases if kind not in ("backgrounds", "places", "counts")
    ]
    for kind, concept, text in apart:
        inside = [other for k, c, other in apart if (k, c) != (kind, concept) and contains(text, other)]
        assert not inside, f"{text!r} of {kind} {concept} contains {inside}"


def test_no_content_word_of_a_held_out_wording_is_in_a_training_wording():
    known = set().union(*(content_words(text) for _, _, text in every_phrase(False)))
    for kind, concept, text in every_phrase(True):
        if kind != "places":  # a place that was never named is made of left, right, top and bottom
            assert not content_words(text) & known, f"{text!r} of {kind} {concept}"


def test_no_held_out_wording_or_form_is_in_a_training_text():
    texts = [caption.text for caption in training_captions()]
    for kind, concept, phrase in every_phrase(True):
        assert not any(contains(text, phrase) for text in texts), f"{phrase!r} of {kind} {concept}"
    for kind in FORMS:
        for form in LEXICON.forms(kind, held_out=True):
            longest = max(re.split(r"\{\w+\}", form), key=len).strip()
            assert not any(longest in text for text in texts), form


@pytest.mark.parametrize("wording", WORDINGS)
def test_a_caption_tells_each_look_of_each_figure_once(wording):
    figures = (Figure("star", "red", "large", "dotted", (0, 0)), Figure("ring", "blue", "small", "solid", (2, 1)))
    caption = varied_caption(Drawing(figures, "navy"), wording, random.Random(0), looks=("colour", "size"))
    expected = {Fact(one.cell, name, getattr(one, name)) for one in figures for name in ("shape", "colour", "size")}
    assert set(caption.facts) == expected and len(caption.facts) == len(expected)
    assert caption.text[0].isupper() and caption.text.endswith(".") and "{" not in caption.text


def test_held_out_words_are_used_where_they_are_asked_for():
    drawing = Drawing((Figure("star", "red", "large", "solid", (0, 0)),), "white")
    for wording, held_out in (("seen", False), ("form", False), ("word", True), ("both", True)):
        for seed in range(20):
            text = varied_caption(drawing, wording, random.Random(seed)).text
            used = [
                phrase.text
                for split in (False, True)
                for phrase in LEXICON.phrases("colours", "red", split)
                if contains(text, phrase.text) and split == held_out
            ]
            assert used, (wording, text)


def test_equal_figures_are_told_by_their_number():
    drawing = Drawing(tuple(Figure("star", "red", "large", "solid", (column, 0)) for column in range(3)), "white")
    caption = varied_caption(drawing, "seen", random.Random(0))
    assert Fact("star", "count", 3) in caption.facts and Fact("star", "colour", "red") in caption.facts


def test_what_is_held_out_of_a_motion_is_in_no_other_lexicon():
    for concept in MOTIONS.values():
        verbs = {phrase.text.split()[0] for phrase in LEXICON.phrases("motions", concept.key, held_out=True)}
        assert verbs and not verbs & {form.split()[0] for form in concept.forms}, concept.key


def test_drawings_that_are_kept_for_tests_are_never_sampled_for_training():
    assert not any(is_held_out(sample_drawing(random.Random(seed), held_out=False)) for seed in range(50))
    kept, trained = single_figures(held_out=True), single_figures(held_out=False)
    assert len(kept) + len(trained) == 9 * 9 * 9 and not set(kept) & set(trained)
