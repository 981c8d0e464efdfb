"""The pixels of one figure: its outline, texture and letters, drawn large and scaled down, at any place and height.

    tile = figure_tile("star", ((222, 32, 38), (125, 8, 20)), "striped", centre=(64.0, 64.0), height=38.4)
    paste_tile(canvas, tile)

Both the renderer (`drawing.py`) and the reader (`reader.py`), which compares its guesses with what it sees, use it.
All lengths here are in pixels of the image, fractions of pixels included.
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFont


Colour = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]

TEXTURES = ("solid", "striped", "dotted", "checkered")
BAND = 0.2  # width of a stripe and of a check, in heights of the figure
DOT_PITCH, DOT_RADIUS = 0.3, 0.1
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PLATE_END, PLATE_SLOT = 0.13, 0.62  # each end of the plate under the letters and each letter, in heights of the plate
CAP_HEIGHT, CAP_WIDTH = 0.66, 0.54  # of a capital (at most as wide), in heights of the plate
GLYPH_CAP = 96  # pixels of a capital in the cached glyphs
GLYPH_TAIL = 0.2  # room below the base line, for the tail of Q, in heights of a capital
GLYPH_BOLD = 3  # pixels by which the strokes of the cached glyphs are thickened
BLACK, WHITE = (16, 16, 16), (255, 255, 255)
STEPS = 120  # corners of a curve


class Tile(NamedTuple):
    """A figure ready to paste: L `coverage`, RGB `colours` times the coverage, and the `corner` (left, top)."""

    colours: Image.Image
    coverage: Image.Image
    corner: tuple[int, int]


def _arc(radius: float, x: float = 0.0) -> Points:
    angles = [2 * math.pi * step / STEPS for step in range(STEPS)]
    return tuple((x + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


def _boxed(points: Points) -> Points:
    """The points stretched to fill the box from -0.5 to 0.5 both ways."""
    (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*points))
    return tuple(((x - left) / (right - left) - 0.5, (y - top) / (bottom - top) - 0.5) for x, y in points)


def _star() -> Points:
    corners = [(0.5 if corner % 2 == 0 else 0.22, math.pi * corner / 5) for corner in range(10)]
    return _boxed(tuple((radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in corners))


def _heart() -> Points:
    def point(t: float) -> tuple[float, float]:
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        return 16 * math.sin(t) ** 3, -y

    return _boxed(tuple(point(2 * math.pi * step / STEPS) for step in range(STEPS)))


CROSS = 0.18  # half the width of its arms
# Outline and hole of each shape, in heights of the figure; each is as high as the box from -0.5 to 0.5 and centred.
OUTLINES: dict[str, tuple[Points, Points]] = {
    "circle": (_arc(0.5), ()),
    "square": (((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)), ()),
    "triangle": (((0.0, -0.5), (0.5, 0.5), (-0.5, 0.5)), ()),
    "diamond": (((0.0, -0.5), (0.38, 0.0), (0.0, 0.5), (-0.38, 0.0)), ()),
    "star": (_star(), ()),
    "heart": (_heart(), ()),
    "cross": (
        (
            *((-CROSS, -0.5), (CROSS, -0.5), (CROSS, -CROSS), (0.5, -CROSS), (0.5, CROSS), (CROSS, CROSS)),
            *((CROSS, 0.5), (-CROSS, 0.5), (-CROSS, CROSS), (-0.5, CROSS), (-0.5, -CROSS), (-CROSS, -CROSS)),
        ),
        (),
    ),
    "ring": (_arc(0.5), _arc(0.3)),
    # A disc less another one 0.3 to its right and a little smaller; 0.1354 centres what is left of it.
    "crescent": (_arc(0.5, 0.1354), _arc(0.45, 0.4354)),
}
SHAPES = tuple(OUTLINES)


def plate_aspect(count: int) -> float:
    """Width of a plate with `count` letters, in heights of the plate; 0 without letters."""
    return 2 * PLATE_END + PLATE_SLOT * count if count else 0.0


class _Sheet(NamedTuple):
    """An enlarged piece of the image: its scale, its size there, its corner here, and the middle of the figure."""

    scale: int
    size: tuple[int, int]
    corner: tuple[int, int]
    middle: tuple[float, float]

    @classmethod
    def about(cls, centre: tuple[float, float], width: float, height: float) -> "_Sheet":
        """The whole pixels that a box of that size touches, the more enlarged the smaller it is."""
        scale = min(16, max(4, math.ceil(128 / height)))
        left, top = math.floor(centre[0] - width / 2), math.floor(centre[1] - height / 2)
        right, bottom = math.ceil(centre[0] + width / 2), math.ceil(centre[1] + height / 2)
        # Pillow names a pixel by its middle, hence the half.
        middle = (centre[0] - left) * scale - 0.5, (centre[1] - top) * scale - 0.5
        size = max(1, right - left) * scale, max(1, bottom - top) * scale
        return cls(scale, size, (left, top), middle)


def figure_tile(
    shape: str,
    tones: tuple[Colour, Colour],
    texture: str,
    centre: tuple[float, float],
    height: float,
    letters: str = "",
    plate: float = 0.0,
    dark: bool = False,
) -> Tile:
    """Draw one figure, four times and more enlarged, and scale it down by averaging.

    Args:
        shape (`str`): one of `SHAPES`.
        tones (`tuple[Colour, Colour]`): the colour of the figure, and the tone that a texture draws on it.
        texture (`str`): one of `TEXTURES`.
        centre (`tuple[float, float]`): x and y of its middle in the image.
        height (`float`): its height.
        letters (`str`, defaults to `""`): capitals for the plate across its middle.
        plate (`float`, defaults to 0.0): height of the plate, if there are letters.
        dark (`bool`, defaults to `False`): whether the background is dark: then the plate is white, not black.
    """
    sheet = _Sheet.about(centre, max(height, plate * plate_aspect(len(letters))), height)
    coverage = _outline(shape, sheet, height)
    colours = Image.new("RGB", sheet.size, tones[0])
    _draw_texture(ImageDraw.Draw(colours), texture, sheet.middle, height * sheet.scale, tones[1])
    if letters:
        box = _draw_plate(
            colours, letters, sheet.middle, plate * sheet.scale, *((WHITE, BLACK) if dark else (BLACK, WHITE))
        )
        ImageDraw.Draw(coverage).rectangle(box, fill=255)
    colours = Image.composite(colours, Image.new("RGB", sheet.size, 0), coverage)
    return Tile(colours.reduce(sheet.scale), coverage.reduce(sheet.scale), sheet.corner)


def outline_tile(shape: str, centre: tuple[float, float], height: float) -> tuple[Image.Image, tuple[int, int]]:
    """The coverage alone of a figure without letters, and the corner where it goes."""
    sheet = _Sheet.about(centre, height, height)
    return _outline(shape, sheet, height).reduce(sheet.scale), sheet.corner


def plate_tile(
    letters: str, centre: tuple[float, float], height: float, dark: bool
) -> tuple[Image.Image, tuple[int, int]]:
    """A plate alone with its letters, as an L image, and the corner where it goes.

    Args:
        letters (`str`): what it says.
        centre (`tuple[float, float]`), height (`float`): where it is and how high, in pixels.
        dark (`bool`): white letters on black instead of black ones on white.
    """
    sheet = _Sheet.about(centre, height * plate_aspect(len(letters)), height)
    image = Image.new("L", sheet.size, 128)
    tones = (WHITE[0], BLACK[0]) if dark else (BLACK[0], WHITE[0])
    _draw_plate(image, letters, sheet.middle, height * sheet.scale, *tones)
    return image.reduce(sheet.scale), sheet.corner


def _outline(shape: str, sheet: _Sheet, height: float) -> Image.Image:
    """The enlarged coverage of a figure."""
    coverage = Image.new("L", sheet.size, 0)
    pen = ImageDraw.Draw(coverage)
    (x, y), reach = sheet.middle, height * sheet.scale - 1  # Pillow draws the border of a polygon too
    for points, value in zip(OUTLINES[shape], (255, 0)):
        if points:
            pen.polygon([(x + a * reach, y + b * reach) for a, b in points], fill=value)
    return coverage


def paste_tile(canvas: Image.Image, tile: Tile) -> None:
    """Put a figure on an RGB image; what reaches beyond the image is left out."""
    left, top = tile.corner
    box = (left, top, left + tile.coverage.width, top + tile.coverage.height)
    below = Image.composite(Image.new("RGB", tile.coverage.size, 0), canvas.crop(box), tile.coverage)
    canvas.paste(ImageChops.add(below, tile.colours), tile.corner)


def _draw_texture(
    pen: ImageDraw.ImageDraw, texture: str, centre: tuple[float, float], height: float, tone: Colour
) -> None:
    """The second tone, over the box that the figure fits in; the middle keeps the first tone."""
    x, y = centre
    if texture == "striped":
        for place in (-1, 1):
            pen.rectangle(_box(x + place * BAND * height, y, BAND * height, height * 1.1), fill=tone)
    elif texture == "checkered":
        for column in range(-2, 3):
            for row in range(-2, 3):
                if (column + row) % 2:
                    middle = (x + column * BAND * height, y + row * BAND * height)
                    pen.rectangle(_box(*middle, BAND * height, BAND * height), fill=tone)
    elif texture == "dotted":
        radius = DOT_RADIUS * height
        for column in (-1, 0, 1):
            for row in (-1, 0, 1):
                dot = (x + column * DOT_PITCH * height, y + row * DOT_PITCH * height)
                pen.ellipse(_box(*dot, 2 * radius, 2 * radius), fill=tone)


def _box(x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
    """Pillow's box, whose last column and row are drawn, of a rectangle about (x, y)."""
    left, top = round(x - width / 2 + 0.5), round(y - height / 2 + 0.5)
    return left, top, max(left, round(x + width / 2 - 0.5)), max(top, round(y + height / 2 - 0.5))


def _draw_plate(
    image: Image.Image,
    letters: str,
    centre: tuple[float, float],
    height: float,
    ground: Colour | int,
    ink: Colour | int,
) -> tuple[int, int, int, int]:
    """The plate and its letters. Returns Pillow's box of the plate."""
    x, y = centre
    box = _box(x, y, plate_aspect(len(letters)) * height, height)
    ImageDraw.Draw(image).rectangle(box, fill=ground)
    cap = CAP_HEIGHT * height
    for number, letter in enumerate(letters):
        middle = x + (number - (len(letters) - 1) / 2) * PLATE_SLOT * height
        glyph = _glyph(letter)
        width = max(1, round(min(CAP_WIDTH * height, glyph.width * cap / GLYPH_CAP)))
        corner = (round(middle - width / 2 + 0.5), round(y - cap / 2 + 0.5))
        image.paste(ink, corner, _scaled_glyph(letter, width, max(1, round(glyph.height * cap / GLYPH_CAP))))
    return box


@lru_cache(maxsize=2048)
def _scaled_glyph(letter: str, width: int, height: int) -> Image.Image:
    return _glyph(letter).resize((width, height), Image.Resampling.BOX)


@cache
def _glyph(letter: str) -> Image.Image:
    """A capital of Pillow's own font, from its top to GLYPH_TAIL below the base line."""
    font = _font()
    left, _, right, _ = font.getbbox(letter, anchor="ls", stroke_width=GLYPH_BOLD)
    glyph = Image.new("L", (int(right - left), round(GLYPH_CAP * (1 + GLYPH_TAIL))), 0)
    ImageDraw.Draw(glyph).text((-left, GLYPH_CAP), letter, fill=255, font=font, anchor="ls", stroke_width=GLYPH_BOLD)
    return glyph


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Pillow's own font, in the size in which a capital is GLYPH_CAP high."""
    _, top, _, bottom = ImageFont.load_default(1000).getbbox("H", anchor="ls")
    return ImageFont.load_default(round(1000 * GLYPH_CAP / (bottom - top)))
