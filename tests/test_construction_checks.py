"""Checks of statements that need no model: planted faults are found, and good instances pass."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granted.dataset_builders.construction.checks import (
    TEXT_SCORES,
    CheckSettings,
    model_free_checks,
    quoted,
    words_of,
)
from granted.dataset_builders.ted_6k.reading import read_ted


DEV = Path(__file__).parents[2] / "shared" / "data" / "ted" / "ted6k_dev.json"
CAPTION = "Three black cats sleep on the left of an old sign that reads 'Do not disturb'; then a dog opens the door."
GOOD = {
    "Quantity": ["Three cats sleep.", "Two cats sleep.", "Four cats sleep.", "A single cat sleeps."],
    "Adjective": ["The cats are black.", "The cats are white.", "The cats are grey.", "The cats are ginger."],
    "OCR": ["The sign reads 'Do not disturb'.", "The sign reads 'Do disturb'.", "It says 'No dogs'.", "It is blank."],
    "Temporal": [
        "The cats sleep before the dog opens the door.",
        "The dog opens the door before the cats sleep.",
        "The cats wake up before the dog opens the door.",
        "The cats sleep after the dog has opened the door.",
    ],
    "Spatial Relationship": [
        "The cats are to the left of the sign.",
        "The sign is to the left of the cats.",
        "The cats are behind the sign.",
        "The cats are under the sign.",
    ],
    "Action Recognition": ["A dog opens a door.", "A dog closes a door.", "A cat opens a door.", "A dog eats."],
}


def checked(statements, category="Adjective", label=0, caption=CAPTION, media="video", **settings):
    instance = {"media": media, "caption": caption, "category": category, "statements": statements, "label": label}
    return model_free_checks(instance, CheckSettings(**settings))


def reasons(*positive_and_negatives, **options):
    return checked(list(positive_and_negatives), **options)[1]


@pytest.mark.parametrize("category", GOOD)
@pytest.mark.parametrize("label", range(4))
def test_a_good_instance_passes_wherever_its_positive_stands(category, label):
    statements = GOOD[category][1:]
    statements.insert(label, GOOD[category][0])
    scores, found = checked(statements, category, label)
    assert found == []
    assert set(scores) == set(TEXT_SCORES) and all(type(score) is float for score in scores.values())


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("The cats are black.", "The cats are black."),
        ("The cats are black.", "the cats  are BLACK"),
        ("The cats are black.", "A cat is black."),
        ("On the left, a cat sleeps.", "A cat sleeps on the left."),
        ("Three cats and two dogs.", "Two dogs and three cats."),
        ("Three cats sleep.", "3 cats sleep."),
        ("The ｃａｔ sleeps.", "The cat sleeps."),
        ("After the dog barks, the cat runs.", "The cat runs after the dog barks."),
    ],
)
def test_a_negative_that_says_the_same_is_found(positive, negative):
    expected = "a negative says the same as the positive"
    assert reasons(positive, negative, "It rains all day.", "Nobody is here at all.") == [expected]


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("A dog chases a cat.", "A cat chases a dog."),
        ("The red cube and the blue ball roll.", "The blue cube and the red ball roll."),
        ("The man sits before the dog barks.", "The dog barks before the man sits."),
        ("The tree is left of the house.", "The house is left of the tree."),
        ("The dog barks, then the man sits.", "The man sits, then the dog barks."),
    ],
)
def test_the_same_words_in_an_order_that_means_something_else_are_no_paraphrase(positive, negative):
    scores, found = checked([positive, negative, "It rains all day.", "Nobody is here at all."])
    assert found == [] and scores["reordered"] == 1


def test_in_a_statement_of_quantity_singular_and_plural_differ():
    assert reasons("One cat sleeps.", "One cats sleeps.", "Six cats nap.", "Ten cats nap.", category="Quantity") == []
    assert "a negative says the same as the positive" in reasons(
        "Two cats sleep.", "2 cats sleep.", "Six cats nap.", "Ten cats nap.", category="Quantity"
    )


def test_two_negatives_that_say_the_same_are_found():
    assert reasons("Black cats sleep.", "White cats sleep.", "A white cat sleeps.", "Red cats sleep.") == [
        "two negatives say the same"
    ]


def test_statements_have_as_many_words_as_the_settings_say():
    assert reasons("Black cats.", "White cats.", "Grey cats.", "Red cats.") == ["a statement is too short"]
    long = [" ".join([word] * 7) for word in ("black", "white", "grey", "red")]
    assert "a statement is too long" in reasons(*long, statement_words=[3, 6])
    # Chinese has no spaces: each of these has six characters and so six words.
    chinese = ["三只黑猫睡觉", "两只白猫睡觉", "四只灰猫睡觉", "一只红猫睡觉"]
    assert reasons(*chinese, statement_words=[6, 6], language="Chinese") == []


def test_a_positive_that_its_words_or_its_length_give_away_is_found():
    caption = "Three black cats sleep on a warm roof."
    statements = ["Black cats sleep on a roof.", "Nobody was ever here.", "Rain falls everywhere.", "It is night now."]
    scores, found = checked(statements, caption=caption)
    assert scores["shortcut"] == 1 - 0 and found == ["the positive has more words of the caption than its negatives"]
    assert checked(statements, caption=caption, max_shortcut=1.0)[1] == []
    longer = ["The cats are black from head to tail.", "Cats are red.", "Cats are new.", "Cats are old."]
    scores, found = checked(longer)
    assert scores["longer"] == 1 - 13 / 37 and found == ["its length tells the positive"]
    scores, found = checked(longer[1:2] + [one + " and have been so for years" for one in longer[1:]])
    assert scores["longer"] == 13 / 40 - 1 and "its length tells the positive" in found


@pytest.mark.parametrize(
    ("category", "positive", "reason"),
    [
        ("Quantity", "The cats sleep there.", "a Quantity statement without a number"),
        ("Temporal", "The dog opens the door.", "a Temporal statement without a word of time"),
        ("Spatial Relationship", "The black cats sleep.", "a Spatial Relationship statement without a word of place"),
        ("OCR", "The sign reads Do not disturb.", "an OCR statement without quoted text"),
        ("OCR", "The sign reads 'Do disturb'.", "an OCR statement whose text is not in the caption"),
    ],
)
def test_a_positive_of_another_category_is_found_where_words_decide(category, positive, reason):
    others = ["Then a dog reads the old sign.", "The black door opens left.", "Three dogs sleep on a sign."]
    assert reasons(positive, *others, category=category) == [reason]
    german = reasons(positive, *others, category=category, language="German")
    assert german == ([reason] if category == "OCR" else []), "rules about English words were used for German"


def test_an_image_shows_no_order_of_events():
    assert reasons(*GOOD["Temporal"], category="Temporal", media="image") == ["a Temporal statement of an image"]


def test_quotation_marks_of_any_kind_are_read_and_apostrophes_are_none():
    text = "A dog's sign reads \"Don't run\", 'It's', “eins”, «deux» and 「三」; the boys' cat."
    assert quoted(text) == ["Don't run", "It's", "eins", "deux", "三"]


@given(st.lists(st.text(min_size=1, max_size=40), min_size=4, max_size=4), st.text(max_size=200))
def test_any_text_is_checked(statements, caption):
    for category in GOOD:
        scores, found = checked(statements, category, caption=caption)
        assert set(scores) == set(TEXT_SCORES) and all(isinstance(one, str) for one in found)


@given(st.text(max_size=80))
def test_words_hold_no_space_and_are_in_the_text(text):
    words = words_of(text)
    assert all(word and not any(letter.isspace() for letter in word) for word in words)


@pytest.mark.skipif(not DEV.is_file(), reason=f"real TED-6K instances are absent: {DEV}")
def test_nine_in_ten_of_the_instances_that_people_verified_pass():
    records, _ = read_ted(DEV)
    kept = [record for record in records if not model_free_checks(record, CheckSettings())[1]]
    assert len(kept) >= 0.85 * len(records)
