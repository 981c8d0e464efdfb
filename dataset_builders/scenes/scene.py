"""A scene: everything that is true of an image or video, as tables; and claims, which a scene makes true or false.

    scene.facts["activity"]["person0"]                       # one cell of one table: who does what
    holds(scene, Is("activity", "person0", mending))         # True or False
    holds(scene, InOrder("timeline", ("event2", "event0")))  # does event2 come earlier than event0?

Every relation is a function: a subject has at most one value of it (a scarf one colour, a lantern one place). So a
claim with another value is false, and a scene cannot contradict itself. Words play no part here.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Concept:
    """One meaning and the wordings it may take.

    Args:
        key (`str`): its name, unique in its list; the first wording.
        forms (`tuple[str, ...]`): wordings that mean the same: nouns in the singular, verb phrases in the base form.
        posture (`str`, defaults to `""`): for an activity, how it is done (`"standing"`, ...).
    """

    key: str
    forms: tuple[str, ...]
    posture: str = ""


@dataclass(frozen=True)
class Entity:
    """Somebody or something in a scene.

    Args:
        id (`str`): unique in the scene.
        kind (`str`): `"person"`, `"crowd"`, `"animal"`, `"garment"`, `"item"`, `"object"`, `"portable"`, `"support"`,
            `"sign"`, `"event"` or `"figure"`.
        concept (`Concept`): what it is.
        pronoun (`str`, defaults to `"it"`): `"he"`, `"she"` or `"it"`.
    """

    id: str
    kind: str
    concept: Concept
    pronoun: str = "it"


@dataclass(frozen=True)
class Place:
    """Where something is: in a `relation` (on, under, ...) to the entity `ground`."""

    relation: Concept
    ground: str


@dataclass
class Scene:
    """What is true.

    Args:
        id (`str`): its name, from which it was sampled.
        media (`str`): `"image"` or `"video"`.
        theme (`str`): the theme it was drawn from.
        setting (`dict[str, Concept]`): place, hour, light, weather, view, style, atmosphere, ...
        entities (`dict[str, Entity]`): by id.
        facts (`dict[str, dict[str, Hashable]]`): relation -> subject -> its one value.
        orders (`dict[str, tuple[str, ...]]`): sequences of ids: `"row"` from left to right, `"timeline"` in time.
        backdrop (`list[Concept]`): clauses about the scenery.
        tables (`dict[str, tuple[str, tuple[str, ...]]]`): what a caption has to tell, beside who is there and what
            they do: for each table its relation and the subjects told apart by it.
    """

    id: str
    media: str
    theme: str
    setting: dict[str, Concept] = field(default_factory=dict)
    entities: dict[str, Entity] = field(default_factory=dict)
    facts: dict[str, dict[str, Hashable]] = field(default_factory=dict)
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    backdrop: list[Concept] = field(default_factory=list)
    tables: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def add(self, kind: str, concept: Concept, pronoun: str = "it") -> str:
        """Put an entity in and return its id, `kind` and a number."""
        name = f"{kind}{sum(entity.kind == kind for entity in self.entities.values())}"
        self.entities[name] = Entity(name, kind, concept, pronoun)
        return name

    def state(self, relation: str, subject: str, value: Hashable) -> None:
        """Make `relation(subject) = value` true; a second value for the same subject is an error of the sampler."""
        table = self.facts.setdefault(relation, {})
        if table.setdefault(subject, value) != value:
            raise ValueError(f"got a second {relation} for {subject} of scene {self.id}, expected one")

    def of_kind(self, kind: str) -> list[str]:
        """The ids of all entities of a kind, in the order in which they were added."""
        return [name for name, entity in self.entities.items() if entity.kind == kind]

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that is true in the scene (its name does not count)."""
        content = {
            "media": self.media,
            "theme": self.theme,
            "setting": {name: concept.key for name, concept in self.setting.items()},
            "entities": {name: (e.kind, e.concept.key, e.pronoun) for name, e in self.entities.items()},
            "facts": {relation: {s: _plain(v) for s, v in table.items()} for relation, table in self.facts.items()},
            "orders": self.orders,
            "tables": sorted(self.tables),
            "backdrop": [concept.key for concept in self.backdrop],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Hashable) -> Hashable:
    if isinstance(value, Concept):
        return value.key
    if isinstance(value, Place):
        return (value.relation.key, value.ground)
    return value


# ----------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Is:
    """The claim that a relation has this value for this subject."""

    relation: str
    subject: str
    value: Hashable


@dataclass(frozen=True)
class InOrder:
    """The claim that the subjects follow one another in an order of the scene, others in between or not."""

    order: str
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class All:
    """The claim that every one of the claims is true."""

    claims: tuple["Claim", ...]


Claim = Is | InOrder | All


def holds(scene: Scene, claim: Claim) -> bool:
    """Whether the scene makes the claim true. What the scene does not say is false: a caption tells all that counts.

    Args:
        scene (`Scene`): the world.
        claim (`Claim`): what is claimed of it.
    """
    match claim:
        case Is(relation, subject, value):
            return scene.facts.get(relation, {}).get(subject) == value
        case InOrder(order, subjects):
            known = scene.orders.get(order, ())
            if not set(subjects) <= set(known):
                return False
            at = [known.index(subject) for subject in subjects]
            return all(earlier < later for earlier, later in pairwise(at))
        case All(claims):
            return all(holds(scene, part) for part in claims)
