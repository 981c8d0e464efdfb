"""Writing captions of scenes of shapes: true, complete, and differently each time.

    caption = write_shapes_caption(scene, "a")            # another seed, another text about the same scene
    caption.text
    caption.the("figure0")                                # "the disc", or of a group "the discs"
    write_shapes_caption(scene, "a", "short").text        # what is there and, in a video, what happens
    write_shapes_caption(scene, "a", "plain").text        # everything, in one wording and one order for all scenes

One caption uses one wording for each meaning, so that statements about it can use the same words.
"""

import random
import zlib
from collections.abc import Sequence

from granted.dataset_builders.scenes.scene import Concept, Scene
from granted.dataset_builders.scenes.shapes.lexicon import PLACES
from granted.dataset_builders.scenes.statements import as_sentence
from granted.dataset_builders.scenes.words import listed, number_word, plural, present, with_article
from granted.utils.errors import InputError


DETAILS = ("full", "short", "plain")
QUALITIES = ("size", "texture", "colour")
SIDES = {"row": ("left", "right"), "column": ("top", "bottom")}
BESIDE = {"row": ("to the left of", "to the right of"), "column": ("above", "below")}


class ShapesCaption:
    """A text about a scene and the wording that it uses.

    Attributes:
        scene (`Scene`): what it describes.
        text (`str`): the caption.
        mentions (`dict[str, tuple[str, str]]`): for each subject that is referred back to, with which words, and in
            which clause: `{"figure0": ("it", "it is striped")}`.
    """

    def __init__(self, scene: Scene, seed: str, first_words: bool = False):
        self.scene, self._seed, self._first_words = scene, seed, first_words
        self.text = ""
        self.mentions: dict[str, tuple[str, str]] = {}

    def form(self, concept: Concept) -> str:
        """The caption's wording of a meaning; it depends on the seed and the meaning alone."""
        if self._first_words:
            return concept.forms[0]
        return concept.forms[zlib.crc32(f"{self._seed}/{concept.key}".encode()) % len(concept.forms)]

    def many(self, subject: str | Concept) -> bool:
        """Whether a subject is a group. A shape that is not there is named as most of those that are."""
        counts = self.scene.facts["count"]
        if isinstance(subject, str):
            return counts[subject] > 1
        return 2 * sum(count > 1 for count in counts.values()) > len(counts)

    def noun(self, subject: str | Concept) -> str:
        """`"star"`, of a group `"stars"`."""
        return self.some(subject) if self.many(subject) else self._word(subject)

    def some(self, subject: str | Concept) -> str:
        """`"stars"`, however many there are."""
        return plural(self._word(subject))

    def _word(self, subject: str | Concept) -> str:
        return self.form(subject if isinstance(subject, Concept) else self.scene.entities[subject].concept)

    def the(self, subject: str | Concept) -> str:
        """`"the star"`."""
        return f"the {self.noun(subject)}"

    def counted(self, subject: str | Concept, count: int) -> str:
        """`"one star"` or `"three stars"`, whatever the scene has."""
        return f"{number_word(count)} {self._word(subject) if count == 1 else self.some(subject)}"

    def be(self, subject: str | Concept) -> str:
        """`"is"` or `"are"`."""
        return "are" if self.many(subject) else "is"

    def does(self, subject: str | Concept, phrase: str) -> str:
        """A verb phrase in the form that goes with the subject: `"moves up"` or `"move up"`."""
        if self.many(subject):
            return f"are{phrase[2:]}" if phrase.startswith("be ") else phrase
        return present(phrase)

    def event(self, subject: str | Concept) -> str:
        """`"the star moves up slowly"`."""
        facts = self.scene.facts
        speed = facts.get("speed", {}).get(subject)
        manner = f" {self.form(speed)}" if speed else ""
        return f"{self.the(subject)} {self.does(subject, self.form(facts['motion'][subject]))}{manner}"


def write_shapes_caption(
    scene: Scene, seed: str, detail: str = "full", looks: Sequence[str] = QUALITIES
) -> ShapesCaption:
    """Describe a scene.

    Args:
        scene (`Scene`): a scene of shapes.
        seed (`str`): another seed gives another text; the same seed gives the same text on every machine.
        detail (`str`, defaults to `"full"`): `"full"` tells everything that can be asked; `"short"` tells shapes,
            colours, numbers and what happens; `"plain"` tells looks, numbers, places, letters and what happens, in
            reading order and always in the same words, whatever the seed.
        looks (`Sequence[str]`, defaults to all): those that a plain caption tells beside the shape.

    Raises:
        InputError: `detail` is none of them.
    """
    if detail not in DETAILS:
        raise InputError(f"got detail {detail!r}, expected one of {', '.join(DETAILS)}")
    writer = _Writer(scene, f"{scene.id}/{seed}", first_words=detail == "plain")
    sentences = writer.plain(looks) if detail == "plain" else writer.short() if detail == "short" else writer.full()
    writer.caption.text = " ".join(map(as_sentence, sentences))
    return writer.caption


class _Writer:
    """Turns the facts of a scene into sentences."""

    def __init__(self, scene: Scene, seed: str, first_words: bool):
        self.scene, self.facts = scene, scene.facts
        self.caption = ShapesCaption(scene, seed, first_words)
        self.rng = random.Random(seed)
        self.medium = self.rng.choice(("picture", "image") if scene.media == "image" else ("clip", "video"))
        self.background = self.caption.form(scene.setting["background"])
        self.trait = next((t.removeprefix("trait ") for t in scene.tables if t.startswith("trait ")), None)
        self.subjects = self.rng.sample(list(scene.entities), len(scene.entities))

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    # ------------------------------------------------------------------------------------------------------- whole

    def full(self) -> list[str]:
        groups = any(self.facts["count"][subject] > 1 for subject in self.subjects)
        listed = self.rng.random() < 0.35
        sentences = self.together() if listed else self.one_by_one()
        if self.trait:
            sentences += self.said_later("everything {}" if groups else "the {} one")
        sentences += self.writing() + self.arrangement()
        if self.scene.media == "video":
            sentences += self.events()
        return sentences

    def short(self) -> list[str]:
        what = listed([self.introduced(subject, ("colour",)) for subject in self.subjects])
        medium = f"{with_article(self.background)} background"
        parts = [self.pick(f"{what} on {medium}", f"on {medium}, {what}", f"{what} against {medium}")]
        if self.scene.media == "video":
            events = [self.caption.event(subject) for subject in self.scene.orders["timeline"]]
            parts.append(self.pick(f"{', then '.join(events)}", f"first {', then '.join(events)}"))
        return parts

    def plain(self, looks: Sequence[str]) -> list[str]:
        order, places = list(PLACES.values()), self.facts.get("place", {})
        subjects = sorted(self.scene.entities, key=lambda s: order.index(places[s]) if s in places else len(order))
        sentences = [
            f"on {with_article(self.background)} background, {', '.join(self.plainly(s, looks) for s in subjects)}"
        ]
        if self.scene.media == "video":
            sentences.append(", then ".join(self.caption.event(subject) for subject in self.scene.orders["timeline"]))
        return sentences

    def plainly(self, subject: str, looks: Sequence[str]) -> str:
        """`"a large striped red star in the centre"`, `"two small solid blue rings in the left-hand column"`."""
        words = [self.caption.form(self.facts[quality][subject]) for quality in looks]
        count, text = self.facts["count"][subject], self.facts.get("text", {}).get(subject)
        phrase = " ".join([*words, self.caption.noun(subject)])
        phrase = with_article(phrase) if count == 1 else f"{number_word(count)} {phrase}"
        return " ".join(filter(None, [phrase, text and f"with the {letters(text)} '{text}'", self.where(subject)]))

    def opening(self) -> str:
        """The beginning of the first sentence, which goes on with what is there."""
        ground = f"{with_article(self.pick('', 'flat ', 'uniform ') + self.background)} background"
        return self.pick(
            f"on {ground},",
            f"against {ground},",
            f"this {self.medium} has {ground};",
            f"in {with_article(self.medium)} with {ground},",
        )

    # -------------------------------------------------------------------------------------------------- introductions

    def introduced(self, subject: str, qualities: Sequence[str]) -> str:
        """`"a small striped red star"` or `"three small striped red stars"`, with some of the qualities."""
        words = [self.caption.form(self.facts[quality][subject]) for quality in qualities if quality != self.trait]
        count = self.facts["count"][subject]
        phrase = " ".join([*words, self.caption.noun(subject)])
        alone = count == 1 and "count" not in self.scene.tables
        return with_article(phrase) if alone else f"{number_word(count)} {phrase}"

    def described(self, subject: str) -> str:
        """With all its qualities, in one of several ways."""
        if self.rng.random() < 0.7:
            return self.introduced(subject, QUALITIES)
        colour = self.caption.form(self.facts["colour"][subject])
        return f"{self.introduced(subject, ('size', 'texture'))} in {colour}"

    def together(self) -> list[str]:
        """All of them in one sentence, and then where they are."""
        what = listed([self.described(subject) for subject in self.subjects])
        ground = f"{with_article(self.background)} background"
        first = self.pick(
            f"the {self.medium} shows {what} on {ground}",
            f"{what} can be seen against {ground}",
            f"what the {self.medium} shows, against {ground}, is this: {what}",
            f"there are {number_word(len(self.subjects))} kinds of shape here, all on {ground}: {what}",
        )
        clauses = []
        for subject in self.rng.sample(self.subjects, len(self.subjects)):
            where = self.where(subject)
            if where:
                clauses.append(f"{self.caption.the(subject)} {self.stands(subject)} {where}")
        return [first, *self._joined(clauses)]

    def one_by_one(self) -> list[str]:
        """Each with where it is, and maybe with what a pronoun says of it right after."""
        sentences, clauses = [], []
        singles = all(count == 1 for count in self.facts["count"].values())
        for number, subject in enumerate(self.subjects):
            clause = self.clause(subject, first=number == 0)
            if number == 0:
                clause = f"{self.opening()} {clause}"
            if self.trait and singles and self.rng.random() < 0.6:
                sentences += [*self._joined(clauses), clause, self.refer(subject, "it")]
                clauses = []
            else:
                clauses.append(clause)
        return [*sentences, *self._joined(clauses)]

    def clause(self, subject: str, first: bool) -> str:
        """Who is where, in the usual order of words or, unless it comes first, in another."""
        what, where, be = self.described(subject), self.where(subject), self.caption.be(subject)
        if not where:
            return self.pick(f"there {be} {what}", f"{what} can be seen")
        usual = f"{what} {self.stands(subject)} {where}"
        if first or self._moves(subject):
            return usual
        first = f"{where}," if "," in where else where
        return self.pick(usual, f"{first} {self.stands(subject)} {what}", f"there {be} {what} {where}")

    def _joined(self, clauses: Sequence[str]) -> list[str]:
        """The clauses as sentences of one or two each."""
        sentences, left = [], list(clauses)
        while left:
            if len(left) > 1 and self.rng.random() < 0.5 and ";" not in left[0]:
                sentences.append(left.pop(0) + self.pick(", while ", ", and ", "; ") + left.pop(0))
            else:
                sentences.append(left.pop(0))
        return sentences

    def stands(self, subject: str) -> str:
        """The verb for where something is; of what moves, where it is at first."""
        moves, still = ("start out", "start off", "be first seen"), ("sit", "stand", "lie", "be seen")
        return self.caption.does(subject, self.pick(*(moves if self._moves(subject) else still)))

    def _moves(self, subject: str) -> bool:
        motion = self.facts.get("motion", {}).get(subject)
        return motion is not None and motion.key.startswith("moves")

    def where(self, subject: str) -> str:
        """`"in the top left corner"`, `"lined up vertically"`; nothing for a group that is scattered."""
        lines = ("line",) if "line" in self.scene.tables else ()
        for relation in (*lines, "band", "place"):
            value = self.facts.get(relation, {}).get(subject)
            if value is not None:
                return f"lined up {self.caption.form(value)}" if relation == "line" else self.caption.form(value)
        return ""

    # ------------------------------------------------------------------------------------------------------- further

    def refer(self, subject: str, words: str) -> str:
        """The clause that says a subject's trait, naming it by other words; remembered for questions."""
        clause = f"{words} is {self.caption.form(self.facts[self.trait][subject])}"
        self.caption.mentions[subject] = (words, clause)
        return clause

    def said_later(self, words: str) -> list[str]:
        """The traits of those that no pronoun was about: `"the red one is striped"`, `"everything red is striped"`."""
        clauses = []
        for subject in self.rng.sample(self.subjects, len(self.subjects)):
            if subject not in self.caption.mentions:
                clauses.append(self.refer(subject, words.format(self.caption.form(self.facts["colour"][subject]))))
        return [self.pick(listed(clauses), "; ".join(clauses))] if clauses else []

    def writing(self) -> list[str]:
        """What is written on whom."""
        clauses = []
        for subject in self.rng.sample(self.subjects, len(self.subjects)):
            text = self.facts.get("text", {}).get(subject)
            if text:
                the, each = self.caption.the(subject), " each" if self.caption.many(subject) else ""
                clauses.append(
                    self.pick(
                        f"{the}{each} {self.caption.does(subject, 'read')} '{text}'",
                        f"{the}{each} {self.caption.does(subject, 'carry')} the {letters(text)} '{text}'",
                        f"'{text}' is written on {the}",
                        f"{the} {self.caption.be(subject)} marked '{text}'",
                    )
                )
        return self._joined(clauses)

    def arrangement(self) -> list[str]:
        """The order from left to right or from top to bottom, and who ends where."""
        sentences = []
        for order, (first, last) in SIDES.items():
            if order in self.scene.tables:
                members = self.scene.orders[order]
                a, b, c = (self.caption.the(member) for member in members)
                before, after = BESIDE[order]
                is_a, is_b = (self.caption.be(member) for member in members[:2])
                it = "them" if self.caption.many(members[1]) else "it"
                sentences.append(
                    self.pick(
                        f"from {first} to {last} there come {a}, {b} and {c}",
                        f"going from {last} to {first}, one meets {c}, {b} and {a}",
                        f"{a} {is_a} {before} {b} and {b} {is_b} {before} {c}",
                        f"{b} {is_b} between {a}, {before} {it}, and {c}, {after} {it}",
                    )
                )
        if "place at the end" in self.scene.tables:
            ends = {subject: self.caption.form(place) for subject, place in self.facts["place at the end"].items()}
            clauses = [
                f"{self.caption.the(s)} {self.pick('ends up', 'finishes', 'comes to rest')} {ends[s]}"
                for s in self.rng.sample(self.subjects, len(self.subjects))
            ]
            sentences.append(listed(clauses))
        return sentences

    def events(self) -> list[str]:
        """What happens, in time, forwards or from the last to the first."""
        sentences = [self.caption.event(subject) for subject in self.scene.orders["timeline"]]
        if len(sentences) == 1:
            return sentences
        first, *middle, last = sentences
        after = [f"{self.pick('then', 'next', 'after that', 'a little later')} {event}" for event in middle]
        match self.rng.randrange(5):
            case 0:
                return [f"first {first}", *after, f"last of all, {last}"]
            case 1:
                return [
                    f"the first thing to happen is that {first}",
                    f"next, {', then '.join(middle)}, and finally {last}",
                ]
            case 2:
                return [f"things begin to change when {first}", *after, f"the {self.medium} closes as {last}"]
            case 3:
                return [f"{first}, and {'; '.join(after)}", f"in the end {last}"]
            case _:
                when = ("before that", "earlier still")
                before = [f"{when[min(i, 1)]}, {event}" for i, event in enumerate(middle[::-1])]
                return [f"the last thing to happen is that {last}", *before, f"first of all, {first}"]


def letters(text: str) -> str:
    """What a text on a figure is called: `"letter"` or `"letters"`."""
    return "letters" if len(text) > 1 else "letter"
