"""The words of the everyday world: themes (a harbour, a bakery, ...) and the qualities that any theme draws on.

    lexicon = load_lexicon()                       # the YAML files beside this one
    lexicon.themes["harbour"].people[0].forms      # ("deckhand", "ship's hand"): one meaning, several wordings
    lexicon.words["colour"][0].key                 # "red"

A theme offers facts that fit together in every combination: any of its people may do any of its activities, in any
manner. So no combination is likelier than another, and a statement cannot be guessed from what is usual.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from granted.dataset_builders.scenes.scene import Concept
from granted.utils.errors import InputError


HERE = Path(__file__).parent
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times faster, where it was built
POSTURES = ("any", "standing", "sitting", "kneeling", "moving")
# The least number of entries of each list of a theme.
LEAST = {
    "places": 4,
    "backdrop": 10,
    "people": 9,
    "crowds": 6,
    "animals": 4,
    "activities": 14,
    "gatherings": 8,
    "moments": 14,
    "items": 12,
    "objects": 10,
    "portable": 10,
    "supports": 7,
    "signs": 6,
}


@dataclass(frozen=True)
class Theme:
    """What can be met in one kind of place. Each list is a tuple of concepts, with what they are behind it."""

    name: str
    outdoors: bool
    places: tuple[Concept, ...]  # with preposition: "at a fishing harbour"
    backdrop: tuple[Concept, ...]  # clauses about the scenery: "gulls wheel above the masts"
    people: tuple[Concept, ...]
    crowds: tuple[Concept, ...]  # plural: "day trippers"
    animals: tuple[Concept, ...]
    activities: tuple[Concept, ...]  # lasting, of one person
    gatherings: tuple[Concept, ...]  # lasting, of a crowd
    moments: tuple[Concept, ...]  # brief, of one person
    items: tuple[Concept, ...]  # met in numbers
    objects: tuple[Concept, ...]  # of any colour and material
    portable: tuple[Concept, ...]  # small enough to lie on, under or beside a support
    supports: tuple[Concept, ...]
    signs: tuple[Concept, ...]  # carry writing


@dataclass(frozen=True)
class Lexicon:
    """The themes by name, and the qualities by dimension (`"colour"`, `"pace"`, ...), as tuples of concepts.

    Beside the qualities stand the lists of `frame.yaml`: hours, garments, traits, ...
    """

    themes: dict[str, Theme]
    words: dict[str, tuple[Concept, ...]]


@cache
def load_lexicon() -> Lexicon:
    """Every theme in `themes/`, and the lists of `words.yaml` and `frame.yaml`."""
    themes = {path.stem: read_theme(path) for path in sorted(HERE.glob("themes/*.yaml"))}
    return Lexicon(themes, concept_lists(HERE / "words.yaml") | concept_lists(HERE / "frame.yaml"))


@cache
def load_patterns() -> dict[str, tuple[str, ...]]:
    """The sentence patterns of `patterns.yaml`, by what they tell."""
    return {name: tuple(patterns) for name, patterns in _yaml(HERE / "patterns.yaml").items()}


def read_theme(path: Path) -> Theme:
    """One theme's file.

    Args:
        path (`Path`): a YAML file with `outdoors` and the lists of LEAST; bars separate wordings, activities are
            grouped by posture. What else it has to keep is checked by `rules.py`.

    Raises:
        InputError: a list is missing or too short.
    """
    values = _yaml(path)
    outdoors = values.pop("outdoors", None)
    if set(values) != set(LEAST) or not isinstance(outdoors, bool):
        raise InputError(
            f"got outdoors={outdoors!r} and the lists {sorted(values)} in {path}, "
            f"expected outdoors: true or false, and exactly {sorted(LEAST)}"
        )
    lists = {name: _concepts(name, values[name], path) for name in LEAST}
    for name, least in LEAST.items():
        if len(lists[name]) < least:
            raise InputError(f"got {len(lists[name])} {name} in {path}, expected at least {least}: add some")
    return Theme(name=path.stem, outdoors=outdoors, **lists)


def _yaml(path: Path) -> dict:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"got {' '.join(str(error).split())}, expected a YAML file at {path}") from error
    if not isinstance(values, dict):
        raise InputError(f"got {type(values).__name__} in {path}, expected a mapping of lists")
    return values


def concept_lists(path: Path) -> dict[str, tuple[Concept, ...]]:
    """The lists of a YAML file, as concepts."""
    return {name: tuple(map(_concept, entries)) for name, entries in _yaml(path).items()}


def _concept(entry: str, posture: str = "") -> Concept:
    forms = tuple(" ".join(form.split()) for form in str(entry).split("|"))
    return Concept(forms[0], forms, posture)


def _concepts(name: str, entries: list | dict, path: Path) -> tuple[Concept, ...]:
    if name != "activities":
        return tuple(_concept(entry) for entry in entries)
    if set(entries) - set(POSTURES):
        raise InputError(f"got the postures {sorted(entries)} in {path}, expected some of {', '.join(POSTURES)}")
    return tuple(_concept(entry, posture) for posture, group in entries.items() for entry in group or ())
