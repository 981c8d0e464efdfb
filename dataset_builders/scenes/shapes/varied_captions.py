"""Captions of shapes in many wordings, and the facts that each one tells.

    caption = varied_caption(drawing, "word", random.Random(0))     # held-out words in sentence forms of training
    caption.text                                                    # "At the top left: a disc the colour of ketchup."
    caption.facts                                                   # (Fact((0, 0), "shape", "circle"), ...)

A caption is written in one kind of wording (`WORDINGS`): `seen` as in training; `form` in held-out sentence forms;
`word` with held-out words for what is drawn; `both`; `place` with held-out words for places; `reference` with held-out
forms that refer back to a figure; `negation` with held-out forms that also say what is not so.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from granted.dataset_builders.scenes.shapes.drawing import COLOURS, Drawing, Figure
from granted.dataset_builders.scenes.shapes.lexicon import MOTIONS
from granted.dataset_builders.scenes.shapes.wordings import LEXICON
from granted.dataset_builders.scenes.words import plural, present, with_article


WORDINGS = ("seen", "form", "word", "both", "place", "reference", "negation")
LOOKS = ("colour", "size", "texture")  # what may be said of a figure beside its shape
LOOK_SHARE, BACKGROUND_SHARE = 0.25, 0.25  # how often a size, a texture or the background is in it
# How often a training caption refers back, where it tells of two figures, and how often a sentence also denies.
REFERENCE_SHARE, NEGATION_SHARE = 0.3, 0.15


@dataclass(frozen=True)
class Fact:
    """One thing that a caption tells.

    Args:
        subject (`tuple[int, int]`, `str` or `None`): the cell (column, row) of a figure, at the start of a video; the
            shape of a group; `None` for the background.
        property (`str`): `"shape"`, `"colour"`, `"size"`, `"texture"`, `"count"`, `"motion"` or `"background"`.
        value (`str` or `int`): what it is, a key of its lexicon.
    """

    subject: tuple[int, int] | str | None
    property: str
    value: str | int


@dataclass(frozen=True)
class VariedCaption:
    """A text and the facts that it tells."""

    text: str
    facts: tuple[Fact, ...]


def varied_caption(
    drawing: Drawing,
    wording: str,
    rng: random.Random,
    *,
    looks: Sequence[str] | Mapping[tuple[int, int], Sequence[str]] = ("colour",),
    background: bool = False,
) -> VariedCaption:
    """Tell what is drawn: figures at their places, or by their number where some are equal; videos by motions.

    Args:
        drawing (`Drawing`): what is described.
        wording (`str`): one of `WORDINGS`.
        rng (`random.Random`): chooses among the words and forms of that kind.
        looks (`Sequence[str]`, defaults to colours): which of `LOOKS` are said of every figure, or a mapping that says
            it for each cell.
        background (`bool`, defaults to `False`): whether the background is described.
    """
    looks = looks if isinstance(looks, Mapping) else dict.fromkeys((one.cell for one in drawing.figures), looks)
    return _Writer(drawing, wording, rng, looks).write(background)


def chosen_detail(rng: random.Random) -> dict[str, Any]:
    """What is described, as options of [`varied_caption`]: colours always, other looks and background sometimes."""
    looks = ["colour", *(look for look in LOOKS[1:] if rng.random() < LOOK_SHARE)]
    return {"looks": looks, "background": rng.random() < BACKGROUND_SHARE}


class _Writer:
    """The choices of one caption."""

    def __init__(
        self, drawing: Drawing, wording: str, rng: random.Random, looks: Mapping[tuple[int, int], Sequence[str]]
    ):
        self.drawing, self.wording, self.rng, self.looks = drawing, wording, rng, looks
        self.new_words = wording in ("word", "both")
        self.new_forms = wording in ("form", "both")
        self.facts: list[Fact] = []

    def write(self, background: bool) -> VariedCaption:
        alike: dict[Figure, list[Figure]] = {}
        for figure in self.drawing.figures:
            alike.setdefault(replace(figure, cell=(0, 0)), []).append(figure)
        if len(alike) < len(self.drawing.figures):
            sentences = [self.group(figures) for figures in alike.values()]
        else:
            sentences = self.figures(self.drawing.figures)
        if background:
            self.facts.append(Fact(None, "background", self.drawing.background))
            words = LEXICON.pick("backgrounds", self.drawing.background, self.new_words, self.rng).text
            form = self.form("background_forms", self.new_forms)
            sentence = form.format(background=words, a_background=with_article(words))
            sentences.insert(self.rng.randrange(2) * len(sentences), sentence)
        return VariedCaption(" ".join(sentences), tuple(self.facts))

    # ---------------------------------------------------------------------------------------------------- sentences

    def figures(self, figures: Sequence[Figure]) -> list[str]:
        """A sentence for each figure, or one for two that are referred back to."""
        left, sentences = self.rng.sample(figures, len(figures)), []
        while left:
            if len(left) > 1 and self.refers(left[-2:]):
                one, other = left.pop(), left.pop()
                sentences.append(self.reference(one, other, held_out=self.wording == "reference"))
            else:
                sentences.append(self.single(left.pop()))
        return sentences

    def refers(self, two: Sequence[Figure]) -> bool:
        """Whether two figures are described together, their colours by reference."""
        possible = all("colour" in self.looks[figure.cell] and not figure.motion for figure in two)
        share = {"seen": REFERENCE_SHARE, "word": REFERENCE_SHARE, "place": REFERENCE_SHARE, "reference": 1}
        return possible and self.rng.random() < share.get(self.wording, 0)

    def single(self, figure: Figure) -> str:
        if figure.motion:
            kind, held_out = "motion_forms", self.new_forms
        elif "colour" not in self.looks[figure.cell]:
            kind, held_out = "colourless_forms", self.new_forms
        elif self.wording == "negation" or (not self.new_forms and self.rng.random() < NEGATION_SHARE):
            kind, held_out = "negations", self.wording == "negation"
        else:
            kind, held_out = "forms", self.new_forms
        return _filled(self.form(kind, held_out), self.parts(figure))

    def reference(self, one: Figure, other: Figure, held_out: bool) -> str:
        parts = [self.parts(one), self.parts(other)]
        numbered = {f"{name}{i}": text for i, own in enumerate(parts, 1) for name, text in own.items()}
        return _filled(self.form("references", held_out), numbered)

    def group(self, figures: list[Figure]) -> str:
        """A sentence about a group of equal figures, wherever they are."""
        first, count = figures[0], len(figures)
        self.facts.append(Fact(first.shape, "count", count))
        parts = self.parts(first, subject=first.shape, many=count > 1)
        words = LEXICON.pick("counts", count, self.new_words, self.rng).text
        return _filled(self.form("count_forms", self.new_forms), parts | {"count": words})

    def form(self, kind: str, held_out: bool) -> str:
        return self.rng.choice(LEXICON.forms(kind, held_out))

    # -------------------------------------------------------------------------------------------------------- words

    def parts(self, figure: Figure, subject: object = None, many: bool = False) -> dict[str, str]:
        """What the forms ask for, about one figure; and the facts that they tell are noted."""
        rng, new = self.rng, self.new_words
        subject = figure.cell if subject is None else subject
        said = {look: getattr(figure, look) for look in self.looks[figure.cell]}
        if subject == figure.cell:
            self.facts.append(Fact(subject, "shape", figure.shape))
        self.facts += [Fact(subject, look, value) for look, value in said.items()]
        shape = LEXICON.pick("shapes", figure.shape, new, rng)
        noun = LEXICON.carry("shape", shape, self.new_forms, rng)
        noun = _plural(noun, shape.likeness) if many else noun
        traits = [LEXICON.pick(f"{look}s", said[look], new, rng).text for look in ("size", "texture") if look in said]
        thing = " ".join([*traits, noun])
        parts = {"thing": thing, "a_thing": with_article(thing), "a": with_article(thing), "things": thing}
        parts["place"] = LEXICON.pick("places", figure.cell, self.wording == "place", rng).text
        if "colour" in said:
            colour = LEXICON.pick("colours", said["colour"], new, rng)
            parts["colour"] = LEXICON.carry("colour", colour, self.new_forms, rng)
            if colour.likeness:
                joint = ", " if shape.likeness else " "
                parts["things"] = f"{thing}{joint}{parts['colour']}"
            else:
                parts["things"] = " ".join([*traits, colour.text, noun])
            parts["a"] = with_article(parts["things"])
            other = rng.choice([one for one in COLOURS if one != said["colour"]])
            parts["other"] = LEXICON.carry("colour", LEXICON.pick("colours", other, new, rng), self.new_forms, rng)
        if figure.motion:
            motion = MOTIONS[figure.motion.kind, figure.motion.direction].key
            self.facts.append(Fact(subject, "motion", motion))
            parts["does"] = present(LEXICON.pick("motions", motion, new, rng).text)
        return parts


def _plural(noun: str, likeness: bool) -> str:
    """`"plus sign"` -> `"plus signs"`, `"shape like a coin"` -> `"shapes like a coin"`."""
    if not likeness:
        return plural(noun)
    head, rest = noun.split(" ", 1)
    return f"{plural(head)} {rest}"


def _filled(form: str, parts: dict[str, str]) -> str:
    """A form with its words; names with a capital get a capital."""
    capitals = {name[0].upper() + name[1:]: text[0].upper() + text[1:] for name, text in parts.items()}
    return form.format(**parts, **capitals)
