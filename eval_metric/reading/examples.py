"""The texts of the reading instrument and of its ladder, each with the facts that it tells.

    texts = reading_texts(training=3000, test=150, seed=0)
    texts.training[0].text, texts.test[0].wording         # training wordings alone; every wording

Scenes of the test are in no training text, and neither are its held-out wordings.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from granted.dataset_builders.scenes.shapes.drawing import COLOURS, Drawing, Figure
from granted.dataset_builders.scenes.shapes.rungs import drawing_of_facts
from granted.dataset_builders.scenes.shapes.varied_captions import WORDINGS, Fact, chosen_detail, varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import is_held_out, random_figures, sample_drawing
from granted.dataset_builders.scenes.shapes.wordings import LEXICON
from granted.eval_metric.reading.sheet import Sheet, answer_sheet


# The ladder: each axis with its rungs.
AXES: dict[str, tuple[int, ...]] = {
    "facts": (1, 2, 3, 4, 6, 8, 12),
    "distance": (0, 6, 12, 24, 48),
    "distractors": (0, 1, 2, 3),
}


@dataclass(frozen=True)
class Example:
    """One text with its answers.

    Args:
        scene (`str`): texts about one scene share it; intervals resample scenes.
        text (`str`): the caption.
        facts (`tuple[Fact, ...]`): what is scored.
        sheet ([`Sheet`]): every answer that the text gives.
        wording (`str`): one of `WORDINGS`.
        axis (`str`), rung (`int`): of the ladder; `""` and 0 elsewhere.
    """

    scene: str
    text: str
    facts: tuple[Fact, ...]
    sheet: Sheet
    wording: str = "seen"
    axis: str = ""
    rung: int = 0


@dataclass(frozen=True)
class Texts:
    """What a reader learns from, and what it is scored on."""

    training: list[Example]
    test: list[Example]


def reading_texts(training: int, test: int, seed: int) -> Texts:
    """Texts in every wording.

    Args:
        training (`int`): texts to learn from.
        test (`int`): scenes to be scored on, each told in every wording that it can be told in.
        seed (`int`): another seed, other texts.
    """
    learned = []
    for number in range(training):
        rng = random.Random(f"reading/{seed}/training/{number}")
        learned.append(_told(f"training/{number}", sample_drawing(rng, held_out=False), "seen", rng))
    scored = []
    for number in range(test):
        name = f"reading/{seed}/test/{number}"
        drawing = sample_drawing(random.Random(name), held_out=True)
        for wording in _possible_wordings(drawing):
            scored.append(_told(f"test/{number}", drawing, wording, random.Random(f"{name}/{wording}")))
    return Texts(learned, scored)


def _possible_wordings(drawing: Drawing) -> list[str]:
    """Those that differ for this drawing: a place is told of single figures, a reference needs two of them."""
    groups = len({replace(figure, cell=(0, 0)) for figure in drawing.figures}) < len(drawing.figures)
    still = drawing.media == "image" and not groups
    possible = {"place": not groups, "reference": still and len(drawing.figures) > 1, "negation": still}
    return [wording for wording in WORDINGS if possible.get(wording, True)]


def _told(scene: str, drawing: Drawing, wording: str, rng: random.Random) -> Example:
    caption = varied_caption(drawing, wording, rng, **chosen_detail(rng))
    return Example(scene, caption.text, caption.facts, answer_sheet(caption.facts), wording)


# ---------------------------------------------------------------------------------------------------------- the ladder


def ladder_texts(training: int, test: int, seed: int) -> Texts:
    """Texts of rising difficulty, in training wordings, as many of each rung.

    The rungs of `AXES`: how many facts a text tells (a figure at its place is one, its colour another); how many words
    stand between where two figures are and their colours; how many of three other figures have the shape of the one
    whose colour is asked for.

    Args:
        training (`int`): texts to learn from, of all rungs in turn.
        test (`int`): texts to be scored on, of each rung.
        seed (`int`): another seed, other texts.
    """
    rungs = [(axis, rung) for axis, all_rungs in AXES.items() for rung in all_rungs]
    learned = [
        _rung(f"{seed}/training", number, *rungs[number % len(rungs)], held_out=False) for number in range(training)
    ]
    scored = [_rung(f"{seed}/test", number, *rung, held_out=True) for rung in rungs for number in range(test)]
    return Texts(learned, scored)


def _rung(prefix: str, number: int, axis: str, rung: int, held_out: bool) -> Example:
    rng = random.Random(f"ladder/{prefix}/{axis}/{rung}/{number}")
    write = {"facts": _many_facts, "distance": _far_apart, "distractors": _alike}[axis]
    text, told, scored = write(rng, rung, held_out)
    return Example(f"{axis}/{rung}/{number}", text, scored, answer_sheet(told), "seen", axis, rung)


def _drawings(rng: random.Random, count: int, held_out: bool) -> Iterator[Drawing]:
    while True:
        drawing = Drawing(random_figures(rng, count), "white")
        if is_held_out(drawing) == held_out:
            yield drawing


def _many_facts(rng: random.Random, facts: int, held_out: bool):
    drawing, looks = drawing_of_facts(rng, facts, held_out)
    caption = varied_caption(drawing, "seen", rng, looks=looks)
    return caption.text, caption.facts, caption.facts


def _far_apart(rng: random.Random, words: int, held_out: bool):
    drawing = next(_drawings(rng, 2, held_out))
    one, other = drawing.figures
    names = [_name(figure, rng) for figure in drawing.figures]
    places = [LEXICON.pick("places", figure.cell, False, rng).text for figure in drawing.figures]
    colours = [
        LEXICON.carry("colour", LEXICON.pick("colours", figure.colour, False, rng), False, rng)
        for figure in drawing.figures
    ]
    between: list[str] = []
    while len(" ".join(between).split()) < words:
        between.append(rng.choice(LEXICON.fillers))
    text = [f"There is a certain {names[0]} {places[0]} and a certain {names[1]} {places[1]}.", *between]
    text.append(f"The {names[0]} is {colours[0]}, the {names[1]} is {colours[1]}.")
    told = tuple(
        Fact(figure.cell, name, getattr(figure, name)) for figure in (one, other) for name in ("shape", "colour")
    )
    return " ".join(text), told, tuple(fact for fact in told if fact.property == "colour")


def _alike(rng: random.Random, sharing: int, held_out: bool):
    for drawing in _drawings(rng, 4, held_out):
        target, *others = drawing.figures
        colours = rng.sample([one for one in COLOURS if one != target.colour], 3)
        figures = [replace(figure, colour=colour) for figure, colour in zip(others, colours)]
        figures[:sharing] = [replace(figure, shape=target.shape) for figure in figures[:sharing]]
        drawing = Drawing((target, *figures), "white")
        if is_held_out(drawing) == held_out:
            break
    caption = varied_caption(drawing, "seen", rng)
    # Its shape alone could be guessed from the others, its colour is bound to its place.
    asked = Fact(target.cell, "colour", target.colour)
    return caption.text, caption.facts, (asked,)


def _name(figure: Figure, rng: random.Random) -> str:
    return LEXICON.carry("shape", LEXICON.pick("shapes", figure.shape, False, rng), False, rng)
