"""An image of many images, to look at what was drawn and what is said about it.

    entry = (render_image(drawing), "A red star ...", [("The star is red.", True), ("The star is blue.", False)])
    contact_sheet([entry, ...], "sheet.png", columns=3)

A video is given as the list of its frames, of which four are shown. `shapes_contact_sheet("sheet.png")` shows what
scenes of shapes look like.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from granted.dataset_builders.scenes.shapes.captions import write_shapes_caption
from granted.dataset_builders.scenes.shapes.drawing import render_image, render_video
from granted.dataset_builders.scenes.shapes.questions import ASPECTS, IMAGE_ASPECTS, VIDEO_ASPECTS, ask_shapes
from granted.dataset_builders.scenes.shapes.sampling import shapes_in_split
from granted.dataset_builders.ted_6k.records import MEDIA
from granted.utils.errors import InputError
from granted.utils.files import atomic_path


Entry = tuple[Image.Image | Sequence[Image.Image], str, Sequence[tuple[str, bool]]]

CELL, MARGIN, GAP = 480, 12, 4  # pixels: width of a cell, around and between what is in it
SHOWN = 4  # frames of a video
COLUMNS, PIXELS, FRAMES = 4, 256, 16  # of the sheet of shapes
PICTURE = 228  # pixels; a frame of a video is as large as four fit side by side
TEXT = 14  # pixels
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # it has what captions may contain
LINE = 20  # pixels from line to line
PAPER, INK, TRUE, FALSE, RULE = (250, 250, 248), (20, 20, 20), (0, 110, 40), (130, 60, 60), (205, 205, 200)


def contact_sheet(entries: Sequence[Entry], path: str | os.PathLike, columns: int = 3) -> None:
    """Write a PNG of cells, each an image with its caption and statements below; true ones are marked `[x]`.

    Args:
        entries (`Sequence[Entry]`): of each cell the image, or the frames of a video; the caption; and the
            statements, each with whether it is true.
        path (`str` or `os.PathLike`): the file to make.
        columns (`int`, defaults to 3): cells in a row.

    Raises:
        InputError: there is nothing to show, `columns` is below 1, or the file cannot be written.
    """
    if not entries or columns < 1:
        raise InputError(
            f"got {len(entries)} entries in {columns} columns, expected at least one of each: give something to show"
        )
    cells = [_cell(*entry) for entry in entries]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (CELL * min(columns, len(cells)), sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = sum(heights[:number])
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * CELL, top))
            pen.rectangle((column * CELL, top, (column + 1) * CELL - 1, top + heights[number] - 1), outline=RULE)
    with atomic_path(path) as temporary:
        # Flat colours: a palette looks the same in half the bytes.
        sheet.quantize(256, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


def shapes_contact_sheet(path: str | os.PathLike, scenes: int = 24, seed: int = 0) -> None:
    """Write a PNG of scenes of shapes, half images and half videos, each with its caption and a question.

    Args:
        path (`str` or `os.PathLike`): the file to make.
        scenes (`int`, defaults to 24): how many.
        seed (`int`, defaults to 0): which.

    Raises:
        InputError: there is nothing to show, or the file cannot be written.
    """
    entries = []
    for number in range(scenes):
        media = MEDIA[2 * number // scenes]
        others = VIDEO_ASPECTS if media == "image" else IMAGE_ASPECTS
        aspects = [aspect for aspect in ASPECTS if aspect not in others]
        aspect, name = aspects[number % len(aspects)], f"sheet/{seed}/{number}"
        rng = random.Random(name)
        scene, drawing = shapes_in_split(name, "training", media, (rng.choice(ASPECTS[aspect]),))
        image = render_image(drawing, PIXELS) if media == "image" else render_video(drawing, FRAMES, PIXELS)
        asked = ask_shapes(write_shapes_caption(scene, "question"), aspect, rng)
        caption = write_shapes_caption(scene, "caption").text
        entries.append((image, caption, [(f"{asked.question} {asked.answer}", True)]))
    contact_sheet(entries, path, columns=COLUMNS)


def _cell(
    media: Image.Image | Sequence[Image.Image], caption: str, statements: Sequence[tuple[str, bool]]
) -> Image.Image:
    """One image or strip of frames with its text below."""
    font = ImageFont.truetype(FONT, TEXT)
    strip = _strip(media)
    width = CELL - 2 * MARGIN
    lines = [(line, INK) for line in _wrapped(caption, font, width)]
    for text, is_true in statements:
        first, *rest = _wrapped(f"{'[x]' if is_true else '[  ]'} {text}", font, width)
        lines += [(line, TRUE if is_true else FALSE) for line in (first, *(f"      {line}" for line in rest))]
    cell = Image.new("RGB", (CELL, 3 * MARGIN + strip.height + LINE * len(lines)), PAPER)
    cell.paste(strip, (MARGIN, MARGIN))
    pen = ImageDraw.Draw(cell)
    for number, (line, colour) in enumerate(lines):
        pen.text((MARGIN, 2 * MARGIN + strip.height + number * LINE), line, fill=colour, font=font)
    return cell


def _strip(media: Image.Image | Sequence[Image.Image]) -> Image.Image:
    """The image, or frames of the video at even distances from the first to the last, side by side."""
    if isinstance(media, Image.Image):
        return _scaled(media, PICTURE)
    size = (CELL - 2 * MARGIN - (SHOWN - 1) * GAP) // SHOWN
    shown = [media[round(place)] for place in np.linspace(0, len(media) - 1, SHOWN)]
    strip = Image.new("RGB", (SHOWN * size + (SHOWN - 1) * GAP, size), PAPER)
    for number, frame in enumerate(shown):
        strip.paste(_scaled(frame, size), (number * (size + GAP), 0))
    return strip


def _scaled(image: Image.Image, size: int) -> Image.Image:
    """The image within a square of that size, with a thin frame, so that a white one differs from the paper.

    A small one is enlarged with its pixels to be seen.
    """
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    square = Image.new("RGB", (size, size), PAPER)
    square.paste(image.convert("RGB").resize((width, height), method), ((size - width) // 2, (size - height) // 2))
    ImageDraw.Draw(square).rectangle((0, 0, size - 1, size - 1), outline=RULE)
    return square


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines no wider than `width` less the indent of a statement; a longer word stands alone."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(f"      {longer}") > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
