"""Writing captions of everyday scenes: 150 to 250 words, differently each time, true each time.

    caption = write_caption(scene, seed="a")       # another seed, another text about the same scene
    caption.text
    caption.the("person0")                         # "the deckhand", as this caption calls it
    caption.mentions["person0"]                    # ("she", "she hums an old tune"), if the caption says so

One caption uses one wording for each meaning, so that statements about it can use the same words; the next caption of
the scene is free to use others. The sentence patterns are in `patterns.yaml`.
"""

import random
import zlib
from collections.abc import Sequence
from itertools import pairwise

from granted.dataset_builders.scenes.everyday.lexicon import load_patterns
from granted.dataset_builders.scenes.scene import Concept, Place, Scene
from granted.dataset_builders.scenes.words import listed, number_word, participle, plural, present, with_article


WORDS = (150, 250)  # of a caption: as long as those of TED-6K
POSTURES = {  # of two words each, so that swapping two activities does not change the length of a caption
    "standing": "stands there",
    "sitting": "sits there",
    "kneeling": "kneels there",
    "moving": "comes past",
    "any": "is there",
}
CONTINUOUS = 0.7  # the share of captions that say "is mending" rather than "mends"


class Caption:
    """A text about a scene and the wording that it uses.

    Attributes:
        scene (`Scene`): what it describes.
        text (`str`): the caption.
        continuous (`bool`): whether it says "is mending" rather than "mends".
        mentions (`dict[str, tuple[str, str]]`): for each entity that is referred back to, with which words, and in
            which clause: `{"person0": ("she", "she hums"), "person1": ("the one in red", "the one in red yawns")}`.
    """

    def __init__(self, scene: Scene, seed: str):
        self.scene, self._seed = scene, seed
        self.text = ""
        self.continuous = zlib.crc32(seed.encode()) % 100 < 100 * CONTINUOUS
        self.mentions: dict[str, tuple[str, str]] = {}

    def form(self, concept: Concept) -> str:
        """The caption's wording of a meaning (the base form of a verb, the singular of a noun).

        It depends on the seed and the meaning alone: where one fact differs, the rest of a text stays as it is.
        """
        return concept.forms[zlib.crc32(f"{self._seed}/{concept.key}".encode()) % len(concept.forms)]

    def noun(self, name: str | Concept) -> str:
        """`"deckhand"`: what the caption calls an entity (or would call a concept that it does not mention)."""
        return self.form(name if isinstance(name, Concept) else self.scene.entities[name].concept)

    def the(self, name: str | Concept) -> str:
        """`"the deckhand"`."""
        return f"the {self.noun(name)}"

    def a(self, name: str) -> str:
        """`"a deckhand"`."""
        return with_article(self.noun(name))

    def doing(self, concept: Concept, many: bool = False) -> str:
        """The predicate of an activity: `"is mending a net"` or `"mends a net"`; with `many`, `"are"` or `"mend"`."""
        verb = self.form(concept)
        if self.continuous:
            return f"{'are' if many else 'is'} {participle(verb)}"
        return verb if many else present(verb)

    def event(self, name: str) -> str:
        """`"the deckhand drops a wrench"`."""
        agent = self.scene.facts["agent"][name]
        return f"{self.the(agent)} {present(self.form(self.scene.entities[name].concept))}"

    def where(self, place: Place) -> str:
        """`"under the bench"`."""
        return f"{self.form(place.relation)} {self.the(place.ground)}"


def write_caption(scene: Scene, seed: str, words: tuple[int, int] = WORDS) -> Caption:
    """Describe a scene.

    Args:
        scene (`Scene`): an everyday scene.
        seed (`str`): another seed gives another realisation; the same seed gives the same text on every machine. Two
            scenes of one name that differ in one fact differ in the words for that fact only.
        words (`tuple[int, int]`, defaults to `WORDS`): the fewest and the most. The facts of the scene come in any
            case; scenery is added or left out.
    """
    return _Writer(scene, f"{scene.id}/{seed}", words).write()


class _Writer:
    """Turns the tables of a scene into sentences: one method for each."""

    def __init__(self, scene: Scene, seed: str, words: tuple[int, int]):
        self.scene, self.seed, self.words = scene, seed, words
        self.caption = Caption(scene, seed)
        self.rng = random.Random(seed)
        self.patterns = load_patterns()
        self._unused: dict[str, list[str]] = {}

    # -------------------------------------------------------------------------------------------------------- whole

    def write(self) -> Caption:
        names = self.blocks()
        self.rng.shuffle(names)
        # About people who were introduced before.
        names += [name for name in ("timeline", "overlap") if name in self.scene.tables]
        sentences = [sentence for name in names for sentence in self.block(name)]
        opening, closing, fillers = self.block("opening"), self.block("closing"), self.block("fillers")
        least, most = self.words
        count = _count([*opening, *sentences, *closing])
        # Scenery stands at the beginning: a pronoun needs its noun right before it, and the last word sums up.
        aim = least + (most - least) * self.rng.random() / 2
        while fillers and (count < least or count + _count(fillers[:1]) < aim):
            opening.append(fillers[0])
            count += _count([fillers.pop(0)])
        while closing and count > most:
            count -= _count([closing.pop()])
        self.caption.text = " ".join(map(_sentence, [*opening, *sentences, *closing]))
        return self.caption

    def blocks(self) -> list[str]:
        """The names of the methods that tell what this scene has."""
        things = "moves" if "move" in self.scene.tables else "places"
        kinds = {"people": "person", "gatherings": "crowd", "objects": "object", "counts": "item", "signs": "sign"}
        return [block for block, kind in (kinds | {things: "portable"}).items() if self.scene.of_kind(kind)]

    def block(self, name: str) -> list[str]:
        """The sentences of a block, drawn independently of the other blocks."""
        self.rng = random.Random(f"{self.seed}/{name}")
        return getattr(self, name)()

    def say(self, name: str, **parts: str) -> str:
        """A pattern of this name that the caption has not used (as long as there is one), with its parts filled in."""
        return self._fresh(name, self.patterns[name]).format(**parts)

    def introduce(self, names: tuple[str, ...], **parts: str) -> str:
        """As `say`, from several lists at once."""
        return self._fresh("+".join(names), [pattern for name in names for pattern in self.patterns[name]]).format(
            **parts
        )

    def _fresh(self, name: str, patterns: Sequence[str]) -> str:
        if not self._unused.get(name):
            self._unused[name] = self.rng.sample(patterns, len(patterns))
        return self._unused[name].pop()

    def _shuffled(self, kind: str) -> list[str]:
        names = self.scene.of_kind(kind)
        return self.rng.sample(names, len(names))

    # ------------------------------------------------------------------------------------------------ frame of a scene

    def opening(self) -> list[str]:
        parts = {name: self.caption.form(concept) for name, concept in self.scene.setting.items()}
        medium = "picture" if self.scene.media == "image" else "video"
        first = self.say("opening", a_style=parts["style"], medium=medium, **parts)
        return [self.say("opening_and_air", first=first, air=parts["air"], Air=_upper(parts["air"]))]

    def closing(self) -> list[str]:
        a, b = (self.caption.form(self.scene.setting[name]) for name in ("atmosphere", "atmosphere2"))
        return [self.say("closing", a=a, b=b)]

    def fillers(self) -> list[str]:
        clauses = [self.caption.form(concept) for concept in self.scene.backdrop]
        sentences = [
            self.say(
                "animal",
                an_animal=self.caption.a(animal),
                doing=present(self.caption.form(self.scene.facts["doing"][animal])),
                manner=self.say("animal_manner"),
                lead=self.say("lead"),
            )
            for animal in self.scene.of_kind("animal")
        ]
        while clauses:
            if len(clauses) > 1 and self.rng.random() < 0.4:
                sentences.append(self.say("backdrops", a=clauses.pop(), b=clauses.pop()))
            else:
                sentences.append(self.say("backdrop", a=clauses.pop()))
        self.rng.shuffle(sentences)
        return sentences

    # ------------------------------------------------------------------------------------------------------- people

    def people(self) -> list[str]:
        """Everybody in turn, with what a pronoun says of them right after; then what is said of "the one in red"."""
        facts, rng = self.scene.facts, self.rng
        sentences, deferred = [], []
        traits, garments, colours = (facts.get(relation, {}) for relation in ("trait", "garment", "colour"))
        row = self.scene.orders["row"]
        for person in rng.sample(row, len(row)):
            garment = garments.get(person)
            separate = garment is not None and rng.random() < 0.25
            by_colour = garment in colours and rng.random() < 0.5
            sentence = self.introduction(person, None if separate else garment)
            if person in traits and by_colour:
                deferred.append((person, f"the one in {self.caption.form(colours[garment])}"))
            elif person in traits:
                said = self.refer_to(person, self.scene.entities[person].pronoun)
                sentence = self.say("refer_back", sentence=sentence, said=said, Said=_upper(said))
            sentences.append(sentence)
            if separate:
                sentences.append(self.outfit(person, garment))
        rng.shuffle(deferred)
        sentences += [self.say("refer_later", said=self.refer_to(person, words)) for person, words in deferred]
        return sentences + (
            self.row([self.caption.the(person) for person in row]) if "row" in self.scene.tables else []
        )

    def introduction(self, person: str, garment: str | None) -> str:
        """The sentence that brings a person in: looks, clothes, what they do and how."""
        caption, facts = self.caption, self.scene.facts
        face, manner = (facts.get(relation, {}).get(person) for relation in ("expression", "manner"))
        noun = caption.noun(person)
        if face is None:
            subject = with_article(noun)
        elif self.rng.random() < 0.6:
            subject = with_article(f"{caption.form(face)} {noun}")
        else:
            subject = f"{with_article(noun)}, {self.say('looks')} {caption.form(face)}"
        apart = "," in subject
        if garment is not None:
            subject += f"{' and' if apart else ''} {self.say('wears')} {self.a_garment(garment)}"
        if apart:
            subject += ","
        activity = facts["activity"][person]
        adverb = caption.form(manner) if manner else ""
        lists = ("introduction_continuous" if caption.continuous else "introduction_finite",)
        return self.introduce(
            (*lists, f"{lists[0]}_manner") if adverb else lists,
            s=subject,
            lead=self.say("lead"),
            doing=participle(caption.form(activity)),
            does=present(caption.form(activity)),
            adverb=adverb,
            manner=f" {adverb}" if adverb else "",
            posture=POSTURES[activity.posture],
        )

    def quality(self, name: str) -> str:
        """The one adjective that a thing has in this scene, or nothing."""
        for dimension in ("colour", "pattern", "material", "size"):
            value = self.scene.facts.get(dimension, {}).get(name)
            if value is not None:
                return self.caption.form(value)
        return ""

    def a_garment(self, garment: str) -> str:
        return with_article(f"{self.quality(garment)} {self.caption.noun(garment)}")

    def outfit(self, person: str, garment: str) -> str:
        return self.say(
            "outfit",
            the=self.caption.the(person),
            a_garment=self.a_garment(garment),
            garment=self.caption.noun(garment),
            quality=self.quality(garment),
        )

    def refer_to(self, name: str, words: str) -> str:
        """The clause that says an entity's trait, naming it by other words; remembered for questions."""
        said = f"{words} {present(self.caption.form(self.scene.facts['trait'][name]))}"
        self.caption.mentions[name] = (words, said)
        return said

    def row(self, names: Sequence[str]) -> list[str]:
        first, *middle, last = names
        match self.rng.randrange(4):
            case 0:
                return [self.say("row_from_left", all=listed(names))]
            case 1:
                return [self.say("row_from_right", all=listed(names[::-1]))]
            case 2:
                parts = {"middle": listed(middle), "reversed_middle": listed(middle[::-1])}
                return [self.say("row_ends", first=first, last=last, **parts)]
            case _:
                one, other, *rest = [self.say("row_steps", a=a, b=b) for a, b in pairwise(names)]
                return [f"{one}, and {other}", *rest]

    # ------------------------------------------------------------------------------------------------ other tables

    def gatherings(self) -> list[str]:
        return [
            self.say(
                "gathering",
                lead=self.say("lead"),
                who=self.say("crowd", crowd=self.caption.noun(crowd)),
                doing=self.caption.doing(self.scene.facts["gathering"][crowd], many=True),
            )
            for crowd in self._shuffled("crowd")
        ]

    def objects(self) -> list[str]:
        names = self._shuffled("object")
        described = [with_article(f"{self.quality(name)} {self.caption.noun(name)}".strip()) for name in names]
        if "feature" not in self.scene.tables and self.rng.random() < 0.5:
            half = len(names) // 2
            parts = (described[:half], described[half:])
            return [self.say("objects", lead=self.say("lead"), list=listed(part)) for part in parts]
        sentences = []
        for name, noun in zip(names, described):
            sentence = self.say("object", a=noun, spot=self.say("spot"), lead=self.say("lead"))
            if "feature" in self.scene.tables:
                said = self.refer_to(name, "it")
                sentence = self.say("refer_back", sentence=sentence, said=said, Said=_upper(said))
            sentences.append(sentence)
        return sentences

    def counts(self) -> list[str]:
        counts = self.scene.facts["count"]
        parts = [f"{number_word(counts[name])} {plural(self.caption.noun(name))}" for name in self._shuffled("item")]
        sentences = []
        for size in self.rng.choice(((4,), (2, 2), (1, 3), (3, 1), (1, 2, 1), (2, 1, 1))):
            part, parts = parts[:size], parts[size:]
            sentences.append(
                self.say("counts", list=listed(part), lead=self.say("lead"), manner=self.say("count_manner"))
            )
        return sentences

    def signs(self) -> list[str]:
        texts = self.scene.facts["text"]
        return [
            self.say("sign", a=self.caption.a(sign), text=texts[sign], lead=self.say("lead"))
            for sign in self._shuffled("sign")
        ]

    def places(self) -> list[str]:
        places = self.scene.facts["place"]
        return [
            self.say("place", a=self.caption.a(name), where=self.at_a(places[name]))
            for name in self._shuffled("portable")
        ]

    def moves(self) -> list[str]:
        starts, ends = self.scene.facts["place"], self.scene.facts["place at the end"]
        return [
            self.say("move", a=self.caption.a(name), start=self.at_a(starts[name]), end=self.at_a(ends[name]))
            for name in self._shuffled("portable")
        ]

    def at_a(self, place: Place) -> str:
        """`"under a bench"`."""
        return f"{self.caption.form(place.relation)} {self.caption.a(place.ground)}"

    def timeline(self) -> list[str]:
        """The events, forwards in ones and twos, or backwards from the last."""
        first, *middle, last = (self.caption.event(name) for name in self.scene.orders["timeline"])
        medium = self.rng.choice(("video", "sequence", "clip"))
        if self.rng.random() < 0.25:
            before = [self.say("event_before", e=event) for event in middle[::-1]]
            return [self.say("last_event", e=last, medium=medium), *before, self.say("first_event", e=first)]
        sentences = [self.say("first_events", a=first, b=middle[0])]
        left = middle[1:]
        while left:
            if len(left) > 1 and self.rng.random() < 0.5:
                sentences.append(self.say("next_events", a=left.pop(0), b=left.pop(0)))
            else:
                sentences.append(self.say("next_event", e=left.pop(0)))
        return [*sentences, self.say("final_event", e=last, medium=medium)]

    def overlap(self) -> list[str]:
        """The events two by two, in the order in which they happen."""
        meanwhile = self.scene.facts["meanwhile"]
        first, *middle, last = (
            self.say("meanwhile", a=self.caption.event(event), b=self.caption.event(meanwhile[event]))
            for event in self.scene.orders["timeline"]
        )
        between = [self.say("next_event", e=events) for events in middle]
        return [self.say("first_overlap", e=first), *between, self.say("final_overlap", e=last)]


def _count(sentences: Sequence[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _sentence(text: str) -> str:
    # An apposition brings its own closing comma, which the pattern may give as well.
    return f"{_upper(text)}.".replace(",,", ",").replace(",.", ".").replace(",;", ";")
