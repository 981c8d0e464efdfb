"""Captions that tell few or many facts: statements about them in TED's layout, and caption pairs to learn from.

    records = list(rung_ted(600))                      # ids "facts_4/0/2/adjective"; as many of 1, 2, 4 and 8 facts
    pairs = list(rung_pairs(6000, hard_negatives=2))

A figure at its place is one fact, its colour another. A statement is about one figure, and so are some of the second
texts of the pairs. Drawings of the benchmark are in no pair.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from granted.dataset_builders.caption_pairs.pairs import CaptionPair
from granted.dataset_builders.scenes.shapes.drawing import COLOURS, SHAPES, Drawing, Figure
from granted.dataset_builders.scenes.shapes.varied_captions import varied_caption
from granted.dataset_builders.scenes.shapes.varied_scenes import kept_drawing, random_figures
from granted.dataset_builders.ted_6k.records import SYNTHETIC, TedRecord, snake_case
from granted.utils.errors import InputError


VERSION = 2  # of the synthetic benchmark; the first one was of everyday scenes, which no small encoder read
RUNGS = (1, 2, 4, 8)
MOST_FACTS = 18  # two of each of nine figures
STATEMENTS = 4
Looks = Mapping[tuple[int, int], Sequence[str]]  # of each cell what is said of its figure beside the shape


def drawing_of_facts(rng: random.Random, facts: int, held_out: bool) -> tuple[Drawing, Looks]:
    """Figures of different shapes, and what is to be said of them: so many facts in all.

    Args:
        rng (`random.Random`): decides.
        facts (`int`): where a figure is counts for one, its colour for another; of an odd number one figure has none.
        held_out (`bool`): whether it is a drawing that is kept for tests.
    """
    drawing = kept_drawing(lambda: Drawing(random_figures(rng, -(-facts // 2)), "white"), held_out)
    looks = dict.fromkeys((figure.cell for figure in drawing.figures), ("colour",))
    if facts % 2:
        looks[drawing.figures[0].cell] = ()
    return drawing, looks


def rung_ted(instances: int, rungs: Sequence[int] = RUNGS, *, seed: int = 0) -> Iterator[TedRecord]:
    """A benchmark in TED's layout, the rungs in turn.

    Args:
        instances (`int`): how many.
        rungs (`Sequence[int]`, defaults to 1, 2, 4 and 8): how many facts a caption tells.
        seed (`int`, defaults to 0): another seed, other captions.

    Raises:
        InputError: no rung, or one that is out of range.
    """
    for record, _, _ in rung_questions(instances, rungs, seed=seed):
        yield record


def rung_questions(
    instances: int, rungs: Sequence[int] = RUNGS, *, seed: int = 0
) -> Iterator[tuple[TedRecord, Drawing, list[Figure]]]:
    """As `rung_ted`: the record, its drawing, and the figure that each statement tells of."""
    _check_rungs(rungs)
    for number in range(instances):
        facts = rungs[number % len(rungs)]
        name = f"facts_{facts}/{seed}/{number}"
        rng = random.Random(f"ted/{name}")
        drawing, looks = drawing_of_facts(rng, facts, held_out=True)
        asked = rng.choice(drawing.figures)
        wrong = _wrong(asked, drawing, looks[asked.cell], rng)
        figures = [asked, *wrong[: STATEMENTS - 1]]
        statements = [_tell(figure, looks[asked.cell], rng) for figure in figures]
        order = rng.sample(range(STATEMENTS), STATEMENTS)
        category = "Adjective" if looks[asked.cell] else "Spatial Relationship"
        record = TedRecord(
            id=f"{name}/{snake_case(category)}",
            caption_id=name,
            caption=varied_caption(drawing, "seen", rng, looks=looks).text,
            media="image",
            category=category,
            question="Which of these is in the image?",
            statements=[statements[i] for i in order],
            label=order.index(0),
            source=f"{SYNTHETIC} shapes, {facts} {'fact' if facts == 1 else 'facts'}",
        )
        yield record, drawing, [figures[i] for i in order]


def rung_pairs(
    count: int, rungs: Sequence[int] = RUNGS, *, seed: int = 0, hard_negatives: int = 0
) -> Iterator[CaptionPair]:
    """Caption pairs: the whole drawing, and some of its figures in other words.

    Args:
        count (`int`): how many.
        rungs (`Sequence[int]`, defaults to 1, 2, 4 and 8): how many facts the first text tells.
        seed (`int`, defaults to 0): another seed, other drawings.
        hard_negatives (`int`, defaults to 0): texts added to each pair that are its second one with one fact changed.

    Raises:
        InputError: no rung, or one that is out of range.
    """
    _check_rungs(rungs)
    for number in range(count):
        facts = rungs[number % len(rungs)]
        name = f"facts_{facts}/{seed}/{number}"
        rng = random.Random(f"pairs/{name}")
        drawing, looks = drawing_of_facts(rng, facts, held_out=False)
        part = rng.sample(drawing.figures, rng.randint(1, min(2, len(drawing.figures))))
        pair = CaptionPair(
            id=name,
            media="image",
            caption_a=varied_caption(drawing, "seen", rng, looks=looks).text,
            caption_b=varied_caption(Drawing(tuple(part), "white"), "seen", rng, looks=looks).text,
            source="shapes by facts",
        )
        if hard_negatives:
            pair["negatives"] = []
            for _ in range(hard_negatives):
                changed = rng.randrange(len(part))
                wrong = rng.choice(_wrong(part[changed], drawing, looks[part[changed].cell], rng)[: STATEMENTS - 1])
                figures = (*part[:changed], wrong, *part[changed + 1 :])
                text = varied_caption(Drawing(figures, "white"), "seen", rng, looks=looks).text
                pair["negatives"].append(text)
        yield pair


def rung_note(rungs: Sequence[int] = RUNGS, seed: int = 0) -> str:
    """How such a benchmark was made, for its card."""
    counts = ", ".join(map(str, rungs))
    return f"Generated by granted, version {VERSION}: captions of {counts} facts about shapes, seed {seed}."


def facts_of(caption_id: str) -> int | None:
    """How many facts a caption of `rung_ted` tells, `None` of any other."""
    found = re.match(r"facts_(\d+)/", caption_id)
    return int(found[1]) if found else None


def _wrong(figure: Figure, drawing: Drawing, looks: Sequence[str], rng: random.Random) -> list[Figure]:
    """The figure with another colour, or where none is said another shape: those of the drawing first."""
    name, every = ("colour", COLOURS) if looks else ("shape", SHAPES)
    own = getattr(figure, name)
    present = list(dict.fromkeys(getattr(one, name) for one in drawing.figures))
    values = [value for value in rng.sample(present, len(present)) if value != own]
    values += [value for value in rng.sample(tuple(every), len(every)) if value not in (own, *values)]
    return [replace(figure, **{name: value}) for value in values]


def _tell(figure: Figure, looks: Sequence[str], rng: random.Random) -> str:
    return varied_caption(Drawing((figure,), "white"), "seen", rng, looks={figure.cell: looks}).text


def _check_rungs(rungs: Sequence[int]) -> None:
    wrong = [rung for rung in rungs if not 1 <= rung <= MOST_FACTS]
    if not rungs or wrong or len(set(rungs)) < len(rungs):
        raise InputError(f"got {list(rungs)} facts, expected different numbers from 1 to {MOST_FACTS}")
