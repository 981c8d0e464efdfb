"""The words of the shapes world: for everything that can be drawn its meaning and how it may be called.

    COLOURS["purple"].forms            # ("purple", "violet")
    MOTIONS["moves", "left"].forms     # verb phrases in the base form: ("move left", "slide left", ...)

A caption chooses one wording for each meaning. The keys are those of `Drawing`.
"""

from granted.dataset_builders.scenes.scene import Concept


def _concepts(*entries: str) -> dict[str, Concept]:
    """Concepts by key; bars separate wordings, the first of which is the key."""
    concepts = [Concept(entry.split("|")[0], tuple(entry.split("|"))) for entry in entries]
    return {concept.key: concept for concept in concepts}


def _grid(*entries: str) -> tuple[Concept, ...]:
    return tuple(_concepts(*entries).values())


SHAPES = _concepts(
    "circle|disc", "square", "triangle", "diamond|rhombus", "star", "heart", "cross|plus sign", "ring|hoop", "crescent"
)
COLOURS = _concepts("red", "orange", "yellow", "green", "turquoise|teal", "blue", "purple|violet", "pink", "brown")
SIZES = _concepts("small|little|tiny", "medium|medium-sized|mid-sized", "large|big")
TEXTURES = _concepts("solid|plain", "striped|stripy", "dotted|spotted", "checkered|checked|chequered")
BACKGROUNDS = _concepts(
    "white", "light grey|pale grey", "beige|cream-coloured", "pale blue|light blue", "navy|navy blue|dark blue"
)
# Where a figure is, by column and row.
PLACES = dict(
    zip(
        [(column, row) for row in range(3) for column in range(3)],
        _grid(
            "in the top left corner|at the top left|in the upper left corner",
            "at the top, in the middle|halfway along the top|in the middle of the top row",
            "in the top right corner|at the top right|in the upper right corner",
            "on the left, halfway down|halfway down the left side|at the left end of the middle row",
            "in the centre|in the very middle|right in the centre",
            "on the right, halfway down|halfway down the right side|at the right end of the middle row",
            "in the bottom left corner|at the bottom left|in the lower left corner",
            "at the bottom, in the middle|halfway along the bottom|in the middle of the bottom row",
            "in the bottom right corner|at the bottom right|in the lower right corner",
        ),
    )
)
# Where groups are that have a row or a column each.
BANDS = {
    "row": _grid(
        "in the left-hand column|on the left", "in the middle column", "in the right-hand column|on the right"
    ),
    "column": _grid("in the top row|along the top", "in the middle row", "in the bottom row|along the bottom"),
}
LINES = _concepts("horizontally", "vertically", "diagonally")
MOTIONS = {
    ("moves", "left"): Concept("moves left", ("move left", "slide left", "move to the left", "glide to the left")),
    ("moves", "right"): Concept(
        "moves right", ("move right", "slide right", "move to the right", "glide to the right")
    ),
    ("moves", "up"): Concept("moves up", ("move up", "rise", "float upwards")),
    ("moves", "down"): Concept("moves down", ("move down", "sink", "float downwards")),
    ("grows", None): Concept("grows", ("grow", "get bigger", "swell")),
    ("shrinks", None): Concept("shrinks", ("shrink", "get smaller", "dwindle")),
    ("appears", None): Concept("appears", ("appear", "pop up", "come into view")),
    ("disappears", None): Concept("disappears", ("disappear", "vanish", "drop out of sight")),
    ("blinks", None): Concept("blinks", ("blink once", "flicker off and on")),
}
SPEEDS = _concepts("slowly|unhurriedly|sluggishly", "steadily|evenly", "quickly|swiftly|rapidly")
# What may be written on a figure.
# fmt: off
TEXTS = (
    "GO", "STOP", "EXIT", "OPEN", "SALE", "TEA", "CAFE", "BUS", "TAXI", "HELP", "PUSH", "PULL", "UP", "DOWN",
    "YES", "NO", "ON", "OFF", "HOT", "COLD", "EAST", "WEST", "FISH", "MILK", "ZOO", "BANK", "SHOP", "FREE", "NEW",
    "VIP", "WIFI", "LOVE", "HOME", "STAR", "KEY", "MAP", "JAM", "PIE", "SUN", "SKY", "RED", "JAZZ", "GYM", "LAB",
    "QUIZ", "XRAY", "OK", "HI", "BYE",
)
# fmt: on
