"""Sampling everyday scenes: a theme, the tables that the wanted categories ask about, and what surrounds them.

    scene = sample_scene("benchmark/0", "video", ("Adverb", "Temporal"))
    scene.facts["manner"]                         # {"person0": wearily, "person1": proudly, ...}

The rule that keeps a bag of words at chance: a statement asks about one cell of a table of at least four subjects and
four values, matched at random. Every value suits every subject, so neither words nor usage tell which belong together.
"""

import random
from collections.abc import Sequence

from granted.dataset_builders.scenes.everyday.lexicon import Lexicon, Theme, load_lexicon
from granted.dataset_builders.scenes.scene import Concept, Place, Scene
from granted.dataset_builders.scenes.words import head_noun, plural


SLOTS = 4  # subjects in a table: one statement is true, three are told apart from it
MANNERS = ("mood", "care")
COUNTS = range(2, 13)
TABLES = {  # per category the tables that can answer it; one is chosen
    "Action Recognition": ("activity",),
    "Adjective": ("outfit", "object", "look"),
    "Adverb": ("manner",),
    "Basic Event": ("gathering",),
    "Coreference": ("trait", "feature"),
    "OCR": ("text",),
    "Quantity": ("count",),
    "Spatial Relationship": ("place", "row"),
    "Temporal": ("timeline", "overlap"),
}
NEEDS_PEOPLE = ("activity", "outfit", "look", "manner", "trait", "row", "timeline", "overlap")
Table = tuple[str, Sequence[str]]  # a relation, and whom or what it tells apart


def sample_scene(name: str, media: str, categories: Sequence[str]) -> Scene:
    """A scene that holds what the categories ask about, the same for the same arguments on every machine.

    Args:
        name (`str`): the seed, and the scene's id.
        media (`str`): `"image"` or `"video"`.
        categories (`Sequence[str]`): names of TED's categories; Action Recognition and Temporal need a video.
    """
    rng = random.Random(f"{name}/{media}/{'+'.join(categories)}")
    lexicon = load_lexicon()
    theme = lexicon.themes[rng.choice(sorted(lexicon.themes))]
    scene = Scene(name, media, theme.name)
    tables = {_table(category, media, rng) for category in categories}
    if "trait" in tables and rng.random() < 0.5:
        tables.add("outfit")  # so that "the one in red" can be resolved
    sampler = _Sampler(scene, theme, lexicon, rng)
    if tables & set(NEEDS_PEOPLE):
        sampler.people()
    for table in sorted(tables):
        relation, subjects = getattr(sampler, table)()
        scene.tables[table] = (relation, tuple(subjects))
    sampler.surroundings()
    return scene


def _table(category: str, media: str, rng: random.Random) -> str:
    if category == "Spatial Relationship" and media == "video":
        return rng.choice(("place", "row", "move"))
    return rng.choice(TABLES[category])


class _Sampler:
    """Adds one table after another to a scene; words that are already taken are passed over."""

    def __init__(self, scene: Scene, theme: Theme, lexicon: Lexicon, rng: random.Random):
        self.scene, self.theme, self.words, self.rng = scene, theme, lexicon.words, rng
        self.taken: set[str] = set()  # head nouns of the entities
        self.moments = rng.sample(theme.moments, len(theme.moments))

    def draw(self, kind: str, concepts: Sequence[Concept], count: int) -> list[str]:
        """`count` new entities of a kind whose nouns are not taken."""
        names = []
        for concept in self.rng.sample(concepts, len(concepts)):
            heads = {word for form in concept.forms for head in [head_noun(form)] for word in (head, plural(head))}
            if len(names) < count and not heads & self.taken:
                self.taken |= heads
                pronoun = self.rng.choice(("he", "she")) if kind == "person" else "it"
                names.append(self.scene.add(kind, concept, pronoun))
        return names

    def match(self, relation: str, subjects: Sequence[str], values: Sequence) -> Table:
        """State `relation` for every subject, each with a value of its own, drawn at random."""
        for subject, value in zip(subjects, self.rng.sample(values, len(subjects))):
            self.scene.state(relation, subject, value)
        return relation, subjects

    def order(self, name: str, members: Sequence[str]) -> Table:
        """Put the members into a random order; the relation of the same name gives each its position, from 0."""
        self.scene.orders[name] = tuple(self.rng.sample(members, len(members)))
        for position, member in enumerate(self.scene.orders[name]):
            self.scene.state(name, member, position)
        return name, members

    def phrases(self, name: str, count: int) -> list[Concept]:
        """Phrases of `frame.yaml` that do not mention an entity."""
        free = [
            concept
            for concept in self.words[name]
            if not self.taken & {word for form in concept.forms for word in form.replace(",", "").split()}
        ]
        return self.rng.sample(free, count)

    def people(self) -> None:
        persons = self.draw("person", self.theme.people, SLOTS)
        self.order("row", persons)
        self.match("activity", persons, self.theme.activities)

    # ------------------------------------------------------------------------------------- one method for each table

    def activity(self) -> Table:
        """Everybody does something already."""
        return "activity", self.scene.of_kind("person")

    def manner(self) -> Table:
        # Nobody looks proud and acts sadly.
        dimension = "care" if "look" in self.scene.tables else self.rng.choice(MANNERS)
        return self.match("manner", self.scene.of_kind("person"), self.words[dimension])

    def look(self) -> Table:
        return self.match("expression", self.scene.of_kind("person"), self.words["expression"])

    def outfit(self) -> Table:
        persons = self.scene.of_kind("person")
        for person, garment in zip(persons, self.draw("garment", self.words["garments"], len(persons))):
            self.scene.state("garment", person, garment)
        dimension = self.rng.choice(("colour", "colour", "pattern"))
        return self.match(dimension, self.scene.of_kind("garment"), self.words[dimension])

    def trait(self) -> Table:
        persons = self.scene.of_kind("person")
        return self.match("trait", persons, self.phrases("traits", len(persons)))

    def row(self) -> Table:
        """Everybody has a place in a row already; only here the caption tells it."""
        return "row", self.scene.of_kind("person")

    def events(self, agents: Sequence[str], count: int) -> list[str]:
        """So many things that happen once, done by the agents in turn."""
        events = [self.scene.add("event", moment) for moment in self.moments[:count]]
        del self.moments[:count]
        for i, event in enumerate(events):
            self.scene.state("agent", event, agents[i % len(agents)])
        return events

    def timeline(self) -> Table:
        agents = self.rng.sample(self.scene.of_kind("person"), SLOTS)
        return self.order("timeline", self.events(agents, SLOTS + self.rng.randrange(2)))

    def overlap(self) -> Table:
        """Things that happen at the same time, two by two. Nobody does both: that would tell who goes with whom."""
        agents = self.rng.sample(self.scene.of_kind("person"), SLOTS)
        one, other = (self.events(half, SLOTS) for half in (agents[:2], agents[2:]))
        self.order("timeline", one)
        return self.match("meanwhile", one, other)

    def gathering(self) -> Table:
        return self.match("gathering", self.draw("crowd", self.theme.crowds, SLOTS - 1), self.theme.gatherings)

    def things(self) -> list[str]:
        """Objects, once for all tables that describe them."""
        return self.scene.of_kind("object") or self.draw("object", self.theme.objects, SLOTS)

    def object(self) -> Table:
        dimension = self.rng.choice(("colour", "colour", "material", "size"))
        return self.match(dimension, self.things(), self.words[dimension])

    def feature(self) -> Table:
        things = self.things()
        return self.match("trait", things, self.phrases("features", len(things)))

    def count(self) -> Table:
        return self.match("count", self.draw("item", self.theme.items, SLOTS), COUNTS)

    def text(self) -> Table:
        signs = self.draw("sign", self.theme.signs, SLOTS)
        openings = self.rng.sample(self.words["text_opening"], SLOTS)
        closings = self.rng.sample(self.words["text_closing"], SLOTS)
        for sign, opening, closing in zip(signs, openings, closings):
            self.scene.state("text", sign, f"{opening.key} {closing.key}".upper())
        return "text", signs

    def place(self) -> Table:
        grounds = self.draw("support", self.theme.supports, SLOTS)
        portable = self.draw("portable", self.theme.portable, SLOTS)
        relations = self.rng.sample(self.words["relation"], SLOTS)
        return self.match("place", portable, [Place(relation, ground) for relation, ground in zip(relations, grounds)])

    def move(self) -> Table:
        grounds = self.draw("support", self.theme.supports, SLOTS)
        relations = self.rng.sample(self.words["relation"], SLOTS)
        places = self.rng.sample([Place(relation, ground) for relation, ground in zip(relations, grounds)], SLOTS)
        things = self.draw("portable", self.theme.portable, SLOTS // 2)
        for i, thing in enumerate(things):
            self.scene.state("place", thing, places[2 * i])
            self.scene.state("place at the end", thing, places[2 * i + 1])
        return "place at the end", things

    # -------------------------------------------------------------------------------------------------------- the rest

    def surroundings(self) -> None:
        """What no statement asks about: how the scene is shown, light, weather, scenery, an animal."""
        scene, rng = self.scene, self.rng
        time = rng.choice(("day", "day", "dark"))
        air = "weather" if self.theme.outdoors else "light"
        atmosphere, other = rng.sample(self.words["atmosphere"], 2)
        scene.setting = {
            "place": rng.choice(self.theme.places),
            "hour": rng.choice(self.words[f"hour_{time}"]),
            "air": rng.choice((*self.words[air], *self.words[f"{air}_{time}"])),
            "view": rng.choice(self.words["view"]),
            "style": rng.choice(self.words[f"{scene.media}_style"]),
            "atmosphere": atmosphere,
            "atmosphere2": other,
        }
        scene.backdrop = rng.sample(self.theme.backdrop, len(self.theme.backdrop))
        for animal in self.draw("animal", self.theme.animals, 1):
            scene.state("doing", animal, self.phrases("animal_doings", 1)[0])
