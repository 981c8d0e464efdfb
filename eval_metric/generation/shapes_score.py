"""How well images of shapes follow their prompts: read from their pixels, property by property, without a judge.

    scores = score_drawing(drawing, [image])              # {"shape": 1.0, "colour": 0.67, "at_places": 0.67, ...}
    items = score_shapes(rows, "images")                # rows of a manifest that carry a `drawing`
    shapes_report(items)["1 to 3 things"]["at_places"]    # {"score": 0.93, "ci95": [...], "control": {...}, ...}

A score means little alone, so each has two others beside it. The control reads the same images against the drawing
of another prompt with about as many things: what a model that ignores its prompts would get. The ceiling reads the
drawing's own rendering at the size of the image: what the reader would say of a model without fault.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import numpy as np
import PIL.Image
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.drawing import (
    MAX_FRAMES,
    MAX_PIXELS,
    MIN_FRAMES,
    MIN_PIXELS,
    Drawing,
    Figure,
    render_image,
    render_video,
)
from granted.dataset_builders.scenes.shapes.reader import (
    LOOKS,
    Reading,
    pair_figures,
    properties_match,
    read_image,
    read_video,
    verdicts_of,
)
from granted.eval_metric.generation.manifest import open_media
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.utils.errors import InputError


PROPERTIES = ("background", "count", *LOOKS, "position", "motion", "direction", "speed", "order")
SUMMARIES = ("at_places", "whole")
FEW = 3  # things, up to which a scene is counted as simple
KINDS = ("score", "control", "ceiling")


def score_drawing(
    drawing: Drawing, frames: Sequence[PIL.Image.Image], told: Collection[str] = PROPERTIES
) -> dict[str, float]:
    """What an image or video shows of a drawing: of each property the share that is right, from 0 to 1.

    Beside the properties of `properties_match` stand two summaries. `at_places` is strict: of every figure the shape,
    colour, size, texture and letters, if it has some, as they are read in its own cell, and nothing where no figure
    is read there. `whole` is 1 if everything is right and nothing is there that was not asked for. `letters` is over
    the figures that have letters. Cells count of figures that have no equal: of a group a caption tells the
    arrangement at most.

    Args:
        drawing (`Drawing`): what was asked for.
        frames (`Sequence[PIL.Image.Image]`): one image, or the frames of a video; square.
        told (`Collection[str]`, defaults to all): the properties that the prompt tells.

    Raises:
        InputError: a property is unknown, or the image is not square.
    """
    unknown = set(told) - set(PROPERTIES)
    if unknown or not told:
        raise InputError(f"got told {sorted(unknown) or 'nothing'}, expected some of {', '.join(PROPERTIES)}")
    if frames[0].width != frames[0].height:
        size = f"{frames[0].width} x {frames[0].height}"
        raise InputError(f"got an image of {size} pixels, expected a square one as the drawings are: make it square")
    return compare(drawing, read(drawing.media, frames), told)


def read(media: str, frames: Sequence[PIL.Image.Image]) -> Reading:
    """What an image, or the frames of a video, shows."""
    return read_image(frames[0]) if media == "image" else read_video(frames)


def compare(drawing: Drawing, reading: Reading, told: Collection[str] = PROPERTIES) -> dict[str, float]:
    """As [`score_drawing`], of what has been read already."""
    told = set(told)
    scores = properties_match(drawing, reading, told)
    pairs = pair_figures(drawing, reading, told)
    alike = Counter(replace(figure, cell=(0, 0)) for figure in drawing.figures)
    placed = [i for i, figure in enumerate(drawing.figures) if alike[replace(figure, cell=(0, 0))] == 1]
    lettered = [i for i, figure in enumerate(drawing.figures) if figure.letters]
    verdicts = [verdicts_of(figure, pairs.get(i), drawing.media) for i, figure in enumerate(drawing.figures)]
    scores |= {"position": _mean(verdicts[i]["position"] for i in placed)}
    scores |= {"letters": _mean(verdicts[i]["letters"] for i in lettered)}
    kept = {name: scores[name] for name in PROPERTIES if name in told and scores.get(name) is not None}
    marks = [right for i in placed for right in _at_place(drawing.figures[i], reading, told)]
    if "position" in told and marks:
        kept["at_places"] = _mean(marks)
    unasked = "letters" in told and not all(verdict["letters"] for verdict in verdicts)
    exact = all(score == 1 for score in kept.values()) and len(reading.figures) == len(drawing.figures) and not unasked
    return kept | {"whole": float(exact)}


def _at_place(figure: Figure, reading: Reading, told: Collection[str]) -> list[bool]:
    """Whether each look of a figure is read in its own cell; of several figures there the largest counts."""
    there = max((one for one in reading.figures if one.cell == figure.cell), key=attrgetter("height"), default=None)
    verdicts = verdicts_of(figure, there, "image")
    return [verdicts[name] for name in LOOKS if name in told and (name != "letters" or figure.letters)]


def _mean(marks: Any) -> float | None:
    marks = list(marks)
    return float(np.mean(marks)) if marks else None


def score_shapes(
    rows: Sequence[Mapping[str, Any]], folder: str | os.PathLike, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Score images against the drawings of their prompts, of other prompts, and against what the reader can read.

    Args:
        rows (`list[dict]`): of a manifest, with `drawing` (JSON, as of [`Drawing`]) and, where a prompt does not tell
            everything, `told`, a list of properties.
        folder (`str`): of the manifest.
        seed (`int`, defaults to 0): of the control.

    Returns:
        `list[dict]`: of each row `id`, `prompt_id`, `file`, `media`, `things` (how many figures were asked for),
        `score`, `control` (`None` where there is no other prompt) and `ceiling`.

    Raises:
        InputError: a row has no drawing, or its medium is not the drawing's.
    """
    drawings = [_drawing(row) for row in rows]
    told = [tuple(row.get("told") or PROPERTIES) for row in rows]
    others = other_prompts(
        [(row["prompt_id"], one.media, bucket(len(one.figures))) for row, one in zip(rows, drawings)], seed
    )
    first = {row["prompt_id"]: i for i, row in reversed(list(enumerate(rows)))}
    items = []
    for i, row in enumerate(tqdm(rows, desc="reading", unit="picture")):
        frames = open_media(row, folder)
        try:
            item = {name: row[name] for name in ("id", "prompt_id", "file", "media")}
            item |= {"things": len(drawings[i].figures), "score": score_drawing(drawings[i], frames, told[i])}
        except InputError as error:
            raise InputError(f"{row['id']}: {error}") from error
        other = first[others[row["prompt_id"]]] if row["prompt_id"] in others else None
        reading = read(row["media"], frames)
        item["control"] = None if other is None else compare(drawings[other], reading, told[other])
        item["ceiling"] = _ceiling(drawings[i], frames, told[i])
        items.append(item)
    return items


def _drawing(row: Mapping[str, Any]) -> Drawing:
    if not isinstance(row.get("drawing"), str):
        raise InputError(f"got {row['id']} without a drawing, expected one in every row: give prompts of shapes only")
    drawing = Drawing.from_json(row["drawing"])
    if drawing.media != row["media"]:
        raise InputError(
            f"got the {row['media']} {row['id']} of a drawing for {drawing.media}, expected the same: use prompts of "
            f"{row['media']}s"
        )
    return drawing


def _ceiling(drawing: Drawing, frames: Sequence[PIL.Image.Image], told: Collection[str]) -> dict[str, float] | None:
    """The score of the drawing's own rendering at the size of an image, if it can be rendered so."""
    size = frames[0].width
    if not MIN_PIXELS <= size <= MAX_PIXELS:
        return None
    if drawing.media == "image":
        return score_drawing(drawing, [render_image(drawing, size)], told)
    if not MIN_FRAMES <= len(frames) <= MAX_FRAMES:
        return None
    return score_drawing(drawing, render_video(drawing, len(frames), size), told)


def bucket(things: int) -> str:
    """The group of scenes with about so many things."""
    return f"1 to {FEW} things" if things <= FEW else f"{FEW + 1} things and more"


def other_prompts(prompts: Sequence[tuple[str, str, str]], seed: int = 0) -> dict[str, str]:
    """For each prompt another one of the same medium, and of the same group if there is one: nobody keeps their own.

    Args:
        prompts (`list[tuple[str, str, str]]`): id, medium and group of the prompt of each image.
        seed (`int`, defaults to 0): another seed, other partners.

    Returns:
        `dict[str, str]`: by id. A prompt that is alone of its medium has no partner.
    """
    rng = random.Random(f"control/{seed}")
    unique = list(dict.fromkeys(prompts))
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    media: dict[str, list[str]] = defaultdict(list)
    for name, medium, group in rng.sample(unique, len(unique)):
        groups[medium, group].append(name)
        media[medium].append(name)
    partners = {name: group[i - 1] for group in groups.values() for i, name in enumerate(group) if len(group) > 1}
    for names in media.values():
        for i, name in enumerate(names):
            if name not in partners and len(names) > 1:
                partners[name] = names[i - 1]
    return partners


def shapes_report(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracies with 95% intervals (prompts resampled), over all images and by how many things were asked for.

    Every image that has a property counts once, however many of its figures have it.

    Args:
        items (`list[dict]`): of [`score_shapes`].

    Returns:
        `dict`: `{"all": {"colour": {"n", "score", "ci95", "control": {"score", "ci95"}, "ceiling": float}}}`,
        `control` and `ceiling` where there are any.
    """
    parts: dict[str, list[Mapping[str, Any]]] = {"all": list(items)}
    for name in sorted({bucket(item["things"]) for item in items}):
        parts[name] = [item for item in items if bucket(item["things"]) == name]
    if len(parts) == 2:  # the only group is all there is
        parts = {next(reversed(parts)): parts["all"]}
    return {
        part: {
            name: _figures(own, name)
            for name in (*PROPERTIES, *SUMMARIES)
            if any(name in item["score"] for item in own)
        }
        for part, own in parts.items()
    }


def _figures(items: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind in KINDS:
        found = [(item[kind][name], item["prompt_id"]) for item in items if item[kind] and name in item[kind]]
        if not found:
            continue
        credits, prompts = zip(*found)
        if kind == "ceiling":
            figures[kind] = float(np.mean(credits))
            continue
        estimate = bootstrap_accuracy(credits, prompts)
        values = {"n": len(found), "score": estimate.accuracy, "ci95": [estimate.low, estimate.high]}
        figures |= values if kind == "score" else {kind: values}
    return figures
