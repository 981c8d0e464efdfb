"""Sampling scenes of shapes: a drawing made at random for what is to be asked, and all that is true of it.

    scene, drawing = sample_shapes("training/0", "video", ("Adverb", "Temporal"))
    scene.facts["speed"]                             # {"figure0": quickly, "figure1": slowly, ...}
    render_video(drawing)

A subject is a figure, or a group of equal figures, with a shape and a colour of its own. Properties are drawn
independently of each other; where one is asked about, every subject has another value of it. The facts are read off
the drawing and stated nowhere else, so that image and facts agree.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from granted.dataset_builders.scenes.scene import Concept, Scene
from granted.dataset_builders.scenes.shapes.drawing import (
    CELLS,
    GRADUAL,
    GRID,
    SUDDEN,
    Drawing,
    Figure,
    Motion,
    figure_state,
)
from granted.dataset_builders.scenes.shapes.figure_tiles import LETTERS
from granted.dataset_builders.scenes.shapes.lexicon import (
    BACKGROUNDS,
    BANDS,
    COLOURS,
    LINES,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SPEEDS,
    TEXTS,
    TEXTURES,
)
from granted.dataset_builders.scenes.world import split_of
from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, VIDEO_ONLY
from granted.utils.errors import InputError


# What does not fit into nine cells together.
APART = {"image": ("Adverb", "Spatial Relationship"), "video": ("Adverb", "Quantity")}
STARTS = {3: (0.2, 0.4, 0.6), 4: (0.2, 0.35, 0.5, 0.65)}  # of the events in a video with so many subjects
DURATIONS = (0.3, 0.35, 0.4, 0.5)
LAST = 0.95  # when all is over
# Numbers of equal figures. The one without a single figure comes more often, so that no number is much the likeliest.
COUNTS = ((1, 2, 3), (1, 2, 4), (1, 2, 5), (1, 2, 6), (1, 3, 4), (1, 3, 5), *[(2, 3, 4)] * 3)
LETTERS_SHARE = 0.15  # of the subjects that have letters without being asked about
GAP = 0.15  # between the middles of figures of which one is left of, or above, the other
INSIDE = 0.03  # from the middle of a figure to the border of the cell that it is said to be in
DRAWINGS, PLACEMENTS = 400, 60  # tries


@dataclass(frozen=True)
class Task:
    """What a drawing has to offer.

    Args:
        media (`str`): `"image"` or `"video"`.
        counts (`tuple[int, ...]`): how many figures each subject has.
        layout (`str`): `"scattered"`, `"row"` and `"column"` (nobody shares a column, or a row, and nobody changes
            it), `"still"` (nobody leaves its cell), `"moving"` (everybody goes to another cell) or `"lines"`.
        tables (`tuple[str, ...]`): what is asked about.
    """

    media: str
    counts: tuple[int, ...]
    layout: str
    tables: tuple[str, ...]


def sample_shapes(name: str, media: str, categories: Sequence[str]) -> tuple[Scene, Drawing]:
    """A scene that holds what the categories ask about, with its drawing; the same for the same arguments everywhere.

    Args:
        name (`str`): the seed, and the scene's id.
        media (`str`): `"image"` or `"video"`.
        categories (`Sequence[str]`): names of TED's categories. Action Recognition and Temporal need a video. Adverb
            goes with everything but Spatial Relationship in an image and Quantity in a video.

    Raises:
        InputError: the media or a category are unknown, or categories do not go together.
    """
    _check(media, categories)
    rng = random.Random(f"shapes/{name}/{media}/{'+'.join(categories)}")
    task = _task(media, categories, rng)
    for _ in range(DRAWINGS):
        drawing = _draw(task, rng)
        scene = drawing and scene_of(drawing, name, task.tables)
        if scene and (task.layout != "moving" or _all_different(scene, "place at the end")):
            return scene, drawing
    raise InputError(f"got no drawing for {', '.join(categories)} in {DRAWINGS} tries, expected one: ask for fewer")


def split_of_drawing(drawing: Drawing) -> str:
    """The split of what is seen, `"benchmark"` or `"training"`, in whatever order the figures are listed."""
    figures = tuple(sorted(drawing.figures, key=lambda figure: figure.cell))
    return split_of(scene_of(replace(drawing, figures=figures), ""))


def shapes_in_split(name: str, split: str, media: str, categories: Sequence[str]) -> tuple[Scene, Drawing]:
    """The first scene of this name that belongs to a split by what is seen, with its drawing.

    So benchmark and training never share a scene, whatever it is called.

    Args:
        name, media, categories: as in `sample_shapes`.
        split (`str`): `"benchmark"` or `"training"`.
    """
    attempt = 0
    while True:
        scene, drawing = sample_shapes(f"{name}/{attempt}", media, categories)
        if split_of_drawing(drawing) == split:
            return scene, drawing
        attempt += 1


def _check(media: str, categories: Sequence[str]) -> None:
    if media not in MEDIA:
        raise InputError(f"got media {media!r}, expected one of {', '.join(MEDIA)}")
    legal = [category for category in CATEGORIES if media == "video" or category not in VIDEO_ONLY]
    unknown = [category for category in categories if category not in legal]
    if unknown:
        raise InputError(f"got {unknown} for an {media}, expected some of {', '.join(legal)}")
    if all(category in categories for category in APART[media]):
        raise InputError(
            f"got {' and '.join(APART[media])} for one {media}, expected no more than one of them: use two scenes"
        )


def _all_different(scene: Scene, relation: str) -> bool:
    values = scene.facts.get(relation, {}).values()
    return len(dict.fromkeys(values)) == len(scene.entities)


def _task(media: str, categories: Sequence[str], rng: random.Random) -> Task:
    video, groups, spatial = media == "video", "Quantity" in categories, "Spatial Relationship" in categories
    lines, speeds = not video and "Adverb" in categories, video and "Adverb" in categories
    tables = {"line": lines, "speed": speeds, "count": groups, "text": "OCR" in categories}
    tables["timeline"] = "Temporal" in categories
    tables["motion"] = video and ("Action Recognition" in categories or "Basic Event" in categories)
    standing = not video and "Basic Event" in categories  # what goes on in an image is who stands where
    layout = "lines" if lines else "scattered"
    if spatial or groups:
        layout = layout if lines else rng.choice(("row", "column"))
        if groups and not lines and not spatial and not standing and rng.random() < 0.6:
            layout = "still" if video else "scattered"
        elif spatial and not groups and not speeds and rng.random() < 0.5:
            layout = rng.choice(("still", "moving")) if video else "still"
    if lines:
        counts = rng.sample(rng.choice(((2, 2, 2), (3, 2, 2))), 3)  # two lines of three would cross
        counts = [*rng.sample((3, 2, 2), 3), 1] if groups else counts
    elif groups:
        counts = rng.choice(COUNTS if layout in ("scattered", "still") else COUNTS[:1])
        counts = rng.sample(counts, len(counts))
    else:
        counts = (1,) * (3 if layout in ("row", "column", "moving") or speeds else rng.choice((3, 4, 4)))
    tables["band"] = groups and standing and not lines
    tables["place"] = (standing and not groups and not lines) or (spatial and layout == "still")
    tables["place at the end"] = layout == "moving"
    tables["row"], tables["column"] = (spatial and layout == order for order in ("row", "column"))
    sides = [name for name in ("texture", "size") if name == "texture" or len(counts) == len(SIZES)]
    trait = rng.choice(sides)
    adjective = rng.choice([name for name in ("colour", *sides) if name != trait or "Coreference" not in categories])
    tables[adjective] = "Adjective" in categories
    if "Coreference" in categories:
        tables[f"trait {trait}"] = True
    return Task(media, tuple(counts), layout, tuple(name for name, wanted in tables.items() if wanted))


# ------------------------------------------------------------------------------------------------------ the drawing


def _draw(task: Task, rng: random.Random) -> Drawing | None:
    """A drawing for a task, or none if there is no room for what was drawn."""
    looks, motions, background = _looks(task, rng), _motions(task, rng), rng.choice(tuple(BACKGROUNDS))
    for _ in range(PLACEMENTS):
        cells = _cells(task, rng)
        figures = [
            Figure(**look, cell=cell, motion=motion)
            for look, motion, own in zip(looks, motions, cells)
            for cell in own
        ]
        try:
            return Drawing(tuple(figures), background, task.media)
        except InputError:  # they would meet or leave the canvas
            continue
    return None


def _looks(task: Task, rng: random.Random) -> list[dict[str, str]]:
    count = len(task.counts)
    asked = [table.removeprefix("trait ") for table in task.tables]
    columns = {name: rng.sample(tuple(values), count) for name, values in (("shape", SHAPES), ("colour", COLOURS))}
    for name, values in (("size", SIZES), ("texture", TEXTURES)):
        values = tuple(values)
        columns[name] = rng.sample(values, count) if name in asked else [rng.choice(values) for _ in range(count)]
    columns["letters"] = [
        text if "text" in asked or rng.random() < LETTERS_SHARE else "" for text in _texts(count, rng)
    ]
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


def _texts(count: int, rng: random.Random) -> list[str]:
    """Words and strings of letters, all different."""
    texts: dict[str, None] = {}
    while len(texts) < count:
        strange = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 3)))
        texts[rng.choice(TEXTS) if rng.random() < 0.6 else strange] = None
    return list(texts)


def _motions(task: Task, rng: random.Random) -> list[Motion | None]:
    """For each subject of a video what happens to it: all different, in any order, at any speed."""
    count = len(task.counts)
    if task.media == "image":
        return [None] * count
    barred = {"row": ("left", "right"), "column": ("up", "down"), "still": ("left", "right", "up", "down")}
    pool = [(kind, way) for kind, way in MOTIONS if way not in barred.get(task.layout, ())]
    if max(task.counts) > 1:
        pool = [(kind, way) for kind, way in pool if kind != "moves"]  # a group finds no room to move
    if task.layout == "moving":
        pool = [(kind, way) for kind, way in pool if kind == "moves"]
    if "speed" in task.tables:
        pool = [(kind, way) for kind, way in pool if kind in GRADUAL]
    speeds = tuple(SPEEDS)
    speeds = rng.sample(speeds, count) if "speed" in task.tables else [rng.choice(speeds) for _ in range(count)]
    starts = rng.sample(STARTS[count], count)
    motions = []
    for (kind, way), speed, start in zip(rng.sample(pool, count), speeds, starts):
        lasting = rng.choice([time for time in DURATIONS if start + time <= LAST + 1e-9])
        end = start if kind in SUDDEN else round(start + lasting, 2)
        motions.append(Motion(kind, way, speed if kind in GRADUAL else None, start, end))
    return motions


def _cells(task: Task, rng: random.Random) -> list[Sequence[tuple[int, int]]]:
    """For each subject the cells of its figures."""
    if task.layout in ("row", "column"):
        bands = rng.sample(range(GRID), GRID)
        own = [(band, rng.sample(range(GRID), count)) for band, count in zip(bands, task.counts)]
        if task.layout == "row":
            return [[(band, place) for place in places] for band, places in own]
        return [[(place, band) for place in places] for band, places in own]
    if task.layout == "lines":
        return _lined_up(task.counts, rng)
    cells = rng.sample(CELLS, sum(task.counts))
    return [[cells.pop() for _ in range(count)] for count in task.counts]


def _lined_up(counts: Sequence[int], rng: random.Random) -> list[Sequence[tuple[int, int]]]:
    """Cells in a horizontal, a vertical and a diagonal line, in any order, and anywhere for whoever is left."""
    steps = {"horizontally": ((1, 0),), "vertically": ((0, 1),), "diagonally": ((1, 1), (1, -1))}
    while True:
        taken: list[tuple[int, int]] = []
        own = []
        for direction, count in zip(rng.sample(tuple(steps), len(steps)), counts):
            (x, y), (dx, dy) = rng.choice(CELLS), rng.choice(steps[direction])
            own.append([(x + i * dx, y + i * dy) for i in range(count)])
            taken += own[-1]
        free = [cell for cell in CELLS if cell not in taken]
        if len(free) + len(taken) == len(CELLS):  # all of them cells, none of them twice
            return [*own, *(rng.sample(free, count) for count in counts[len(own) :])]


# ------------------------------------------------------------------------------------------- what is true of a drawing


def scene_of(drawing: Drawing, name: str, tables: Sequence[str] = ()) -> Scene:
    """What is true of a drawing in which figures of one shape are equal in everything but their cells.

    Facts, for each subject (a figure, or a group of equal ones): `colour`, `size`, `texture`, `count`; `text` if it
    has letters; of a single figure its `place`, and its `place at the end` if it ends in another one; of groups that
    have a row or a column each their `band`; of a group in a line how it runs, `line`; of a video `motion`, and
    `speed` if it has one. Orders: `row` from left to right and `column` from top to bottom if they hold at any time,
    and `timeline`, in which things begin.

    Args:
        drawing (`Drawing`): the drawing.
        name (`str`): the scene's id.
        tables (`Sequence[str]`): what is to be asked about.
    """
    scene = Scene(name, drawing.media, "shapes")
    scene.setting["background"] = BACKGROUNDS[drawing.background]
    groups: dict[str, list[Figure]] = {}
    for figure in drawing.figures:
        groups.setdefault(figure.shape, []).append(figure)
    subjects = {scene.add("figure", SHAPES[shape]): group for shape, group in groups.items()}
    for subject, group in subjects.items():
        _state_looks(scene, subject, group)
        if drawing.media == "video" and group[0].motion:
            motion = group[0].motion
            scene.state("motion", subject, MOTIONS[motion.kind, motion.direction])
            if motion.speed:
                scene.state("speed", subject, SPEEDS[motion.speed])
    _state_orders(scene, subjects)
    for table in tables:
        relation = "trait" if table.startswith("trait ") else table
        if relation == "trait":
            scene.facts["trait"] = dict(scene.facts[table.removeprefix("trait ")])
        known = scene.facts.get(relation, subjects)  # an order has all subjects, a line or a text not always
        scene.tables[table] = (relation, tuple(subject for subject in subjects if subject in known))
    return scene


def _state_looks(scene: Scene, subject: str, group: Sequence[Figure]) -> None:
    first = group[0]
    scene.state("colour", subject, COLOURS[first.colour])
    scene.state("size", subject, SIZES[first.size])
    scene.state("texture", subject, TEXTURES[first.texture])
    scene.state("count", subject, len(group))
    if first.letters:
        scene.state("text", subject, first.letters)
    if len(group) == 1:
        scene.state("place", subject, PLACES[first.cell])
        end = _end_cell(first)
        if end != first.cell and end in PLACES:
            scene.state("place at the end", subject, PLACES[end])
    elif _line(group):
        scene.state("line", subject, _line(group))


def _end_cell(figure: Figure) -> tuple[int, int] | None:
    """The cell in which a figure ends, none if it ends near the border of two."""
    if not figure.motion or figure.motion.kind != "moves":
        return figure.cell
    middle = [value * GRID for value in figure_state(figure, 1.0)[:2]]
    if any(abs(value - round(value)) < INSIDE * GRID for value in middle):
        return None
    return int(middle[0]), int(middle[1])


def _line(group: Sequence[Figure]) -> Concept | None:
    cells = sorted(figure.cell for figure in group)
    steps = list(dict.fromkeys((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(cells)))
    names = {(1, 0): "horizontally", (0, 1): "vertically", (1, 1): "diagonally", (1, -1): "diagonally"}
    return LINES[names[steps[0]]] if len(steps) == 1 and steps[0] in names else None


def _state_orders(scene: Scene, subjects: dict[str, list[Figure]]) -> None:
    for axis, order in enumerate(("row", "column")):
        reach = {subject: _reach(group, axis) for subject, group in subjects.items()}
        ordered = sorted(reach, key=reach.__getitem__)
        if all(reach[b][0] - reach[a][1] >= GAP for a, b in pairwise(ordered)):
            scene.orders[order] = tuple(ordered)
            if len(ordered) == GRID and any(len(group) > 1 for group in subjects.values()):
                for subject, band in zip(ordered, BANDS[order]):
                    scene.state("band", subject, band)
    moving = {subject: group[0].motion.start for subject, group in subjects.items() if group[0].motion}
    if moving and len(dict.fromkeys(moving.values())) == len(moving):
        scene.orders["timeline"] = tuple(sorted(moving, key=moving.__getitem__))


def _reach(group: Sequence[Figure], axis: int) -> tuple[float, float]:
    """The least and the greatest place of the middles of a group along an axis, at the start or at the end."""
    places = [(figure.cell[axis] + 0.5) / GRID for figure in group]
    places += [figure_state(f, 1.0)[axis] for f in group if f.motion and f.motion.kind == "moves"]
    return min(places), max(places)
