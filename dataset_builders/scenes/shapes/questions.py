"""Questions about images and videos of shapes, with true answers: what a vision-language model is fine-tuned on.

    asked = ask_shapes(write_shapes_caption(scene, "a"), "counting", random.Random(0))
    asked.question, asked.answer                   # ("How many stars are there?", "There are three stars.")

About half of the questions are to be answered with yes or no, each as often as the other, and a wrong value is one
that something else in the image has. So nothing can be answered without looking.
"""

import random
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from granted.dataset_builders.scenes.scene import Concept, InOrder, Is, holds
from granted.dataset_builders.scenes.shapes.captions import BESIDE, SIDES, ShapesCaption, write_shapes_caption
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
    TEXTURES,
)
from granted.dataset_builders.scenes.statements import as_sentence
from granted.dataset_builders.scenes.words import number_word, plural, present, with_article
from granted.utils.errors import InputError


# For each aspect the categories one of which a scene is sampled for.
ASPECTS: dict[str, tuple[str, ...]] = {
    "attributes": ("Adjective",),
    "spatial relations": ("Spatial Relationship",),
    "counting": ("Quantity",),
    "text": ("OCR",),
    "temporal order": ("Temporal",),
    "action": ("Action Recognition", "Adverb"),
    "style/background": ("Adjective", "Quantity", "Coreference", "OCR"),
    "listing": ("Adjective", "OCR"),
    "listing by name": ("Adjective", "OCR"),
    "full description": ("Adjective", "Quantity", "Spatial Relationship", "OCR", "Basic Event", "Adverb"),
}
FURTHEST = {
    "left": "furthest to the left",
    "right": "furthest to the right",
    "top": "highest up",
    "bottom": "lowest down",
}
LISTING = (
    "List what there is, from the top left to the bottom right.",
    "What is where? Go through the shapes row by row.",
)
BY_NAME = (
    "Go through the shapes in alphabetical order: what does each look like, and where is it?",
    "Tell me about every shape, by name.",
)
# What is asked of videos only, and of images only: where things in motion are is no single place.
VIDEO_ASPECTS, IMAGE_ASPECTS = ("temporal order", "action"), ("listing", "listing by name")


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Args:
        question, answer (`str`): the texts.
        pattern (`str`): what kind of question it is.
        key (`str`): the answer without its wording: `"yes"`, `"no"`, `"red"`, `"3"`, ...; of a description, `""`.
    """

    question: str
    answer: str
    pattern: str
    key: str


def ask_shapes(caption: ShapesCaption, aspect: str, rng: random.Random) -> Asked:
    """One question about an aspect of a scene.

    Args:
        caption (`ShapesCaption`): gives the words; a full one, of a scene sampled for the aspect.
        aspect (`str`): one of `ASPECTS`; temporal order and action need a video, a listing needs an image.
        rng (`random.Random`): what is asked, and how.

    Raises:
        InputError: the aspect is unknown, or the scene has nothing to ask about it.
    """
    if aspect not in ASPECTS:
        raise InputError(f"got aspect {aspect!r}, expected one of {', '.join(ASPECTS)}")
    method = aspect.replace(" ", "_").replace("/", "_")
    choices = list(getattr(_Questioner(caption, rng), method)())
    if not choices:
        raise InputError(f"got scene {caption.scene.id} without {aspect}, expected one sampled for it: sample it so")
    decided = [one for one in choices if one.key in ("yes", "no")]
    other = [one for one in choices if one not in decided]
    return rng.choice(rng.choice([part for part in (decided, other) if part]))


def is_right(answer: str, key: str) -> bool:
    """Whether an answer says what the key means, in any wording: `is_right("The disc is violet.", "purple")`.

    What is mentioned first counts: "the star is larger than the ring" says star, and "no, it is red" says no.

    Args:
        answer (`str`): what a model said.
        key (`str`): the key of an [`Asked`]; a description has none, and nothing is right for it.
    """
    said = f" {_plain(answer)} "
    if key.isupper():  # letters on a figure: quoted, or all that is said
        return (re.findall(r"['\"“‘](\w+)['\"”’]", answer) or [said.strip()])[0] == key
    kind = next((kind for kind in _wordings() if key in kind), {})
    found = [(said.lower().find(f" {form} "), -len(form), value) for value in kind for form in kind[value]]
    mentioned = [entry for entry in found if entry[0] >= 0]
    return bool(mentioned) and min(mentioned)[2] == key


def _plain(text: str) -> str:
    """The words of a text, without punctuation."""
    return " ".join(re.findall(r"\w+", text))


@cache
def _wordings() -> list[dict[str, set[str]]]:
    """For each kind of answer its keys with all that they may be called."""
    kinds: list[dict[str, set[str]]] = [{"yes": {"yes"}, "no": {"no"}}]
    kinds.append({str(number): {str(number), number_word(number)} for number in range(1, 10)})
    places = [*PLACES.values(), *BANDS["row"], *BANDS["column"]]
    for pool in (SHAPES, COLOURS, SIZES, TEXTURES, BACKGROUNDS, LINES, SPEEDS, MOTIONS):
        kinds.append({concept.key: {_plain(form) for form in concept.forms} for concept in pool.values()})
    kinds.append({place.key: {_plain(form) for form in place.forms} for place in places})
    for concept in MOTIONS.values():
        kinds[-2][concept.key] |= {_plain(present(form)) for form in concept.forms}
    for concept in SHAPES.values():
        kinds[2][concept.key] |= {plural(form) for form in concept.forms}
    return kinds


class _Questioner:
    """One method for each aspect, which gives all that can be asked."""

    def __init__(self, caption: ShapesCaption, rng: random.Random):
        self.caption, self.scene, self.rng = caption, caption.scene, rng
        self.facts, self.subjects = caption.scene.facts, list(caption.scene.entities)

    def pick(self, *choices: str) -> str:
        return self.rng.choice(choices)

    def open(self, pattern: str, question: str, short: str, sentence: str, key: str | None = None) -> Asked:
        """A question for a word or two, answered with them or in a sentence.

        Args:
            pattern (`str`): the kind of question, by which majority answers are counted.
            question (`str`): without its question mark.
            short (`str`), sentence (`str`): the two forms of the answer, of which one is drawn.
            key (`str`, *optional*): what a right answer means, see [`is_right`]; by default `short`.
        """
        answer = self.pick(short, sentence)
        return Asked(_question(question), as_sentence(answer), pattern, short if key is None else key)

    def decided(self, pattern: str, question: str, truth: bool, fact: str) -> Asked:
        """A question for yes or no, answered so or with what is the case.

        Args:
            pattern (`str`): the kind of question, by which majority answers are counted.
            question (`str`): without its question mark.
            truth (`bool`): whether yes is right.
            fact (`str`): what may follow yes or no.
        """
        word = "yes" if truth else "no"
        return Asked(_question(question), as_sentence(self.pick(word, f"{word}, {fact}")), pattern, word)

    def value(self, table: dict[str, Hashable], subject: str) -> Hashable:
        """The subject's value or another one's, each half of the time."""
        others = [value for value in dict.fromkeys(table.values()) if value != table[subject]]
        return table[subject] if self.rng.random() < 0.5 or not others else self.rng.choice(others)

    def about(
        self,
        relation: str,
        what: Callable[[str], str] | None,
        whether: Callable[[str, Hashable], str],
        say: Callable[[str, Hashable], str],
        short: Callable[[Hashable], str] | None,
        which: Callable[[Hashable], str],
    ) -> Iterator[Asked]:
        """What value a subject has, whether it has a value, and which subject has it.

        Args:
            relation (`str`): the table.
            what, whether, which (`Callable`): the questions.
            say (`Callable`): words the fact.
            short (`Callable`, *optional*): words the value; without it a pronoun stands for the subject.
        """
        table = self.facts.get(relation, {})
        if len(dict.fromkeys(table.values())) < 2:
            return
        subject = self.rng.choice(list(table))
        value = table[subject]
        fact = say(subject, value)
        if what:
            key = value.key if isinstance(value, Concept) else str(value)
            it = "they" if self.caption.many(subject) else "it"
            brief = short(value) if short else fact.replace(self.caption.the(subject), it, 1)
            yield self.open(f"what {relation}", what(subject), brief, fact, key)
        guess = self.value(table, subject)
        yield self.decided(
            f"whether {relation}", whether(subject, guess), holds(self.scene, Is(relation, subject, guess)), fact
        )
        if list(table.values()).count(value) == 1 and len(table) == len(self.subjects):
            name = self.caption.the(subject)
            yield self.open(f"which {relation}", which(value), name, fact, self.scene.entities[subject].concept.key)

    # ----------------------------------------------------------------------------------------------------- aspects

    def attributes(self) -> Iterator[Asked]:
        caption = self.caption
        the, be, form = caption.the, caption.be, caption.form

        def say(subject: str, value: Hashable) -> str:
            return f"{the(subject)} {be(subject)} {form(value)}"

        yield from self.about(
            "colour", lambda s: f"what colour {be(s)} {the(s)}", lambda s, v: f"{be(s)} {the(s)} {form(v)}", say, form,
            lambda v: f"which shape is {form(v)}",
        )  # fmt: skip
        *textures, last = map(form, TEXTURES.values())
        yield from self.about(
            "texture", lambda s: f"{be(s)} {the(s)} {', '.join(textures)} or {last}",
            lambda s, v: f"{be(s)} {the(s)} {form(v)}", say, form, lambda v: f"which shape is {form(v)}",
        )  # fmt: skip
        sizes = self.facts["size"]
        rank = {size: place for place, size in enumerate(SIZES.values())}
        a, b = self.rng.sample(self.subjects, 2)
        if sizes[a] != sizes[b]:
            larger, smaller = (a, b) if rank[sizes[a]] > rank[sizes[b]] else (b, a)
            compared = self.pick("larger", "smaller")
            winner, other = (larger, smaller) if compared == "larger" else (smaller, larger)
            fact = f"{the(winner)} {be(winner)} {compared} than {the(other)}"
            yield self.decided("whether larger", f"{be(a)} {the(a)} {compared} than {the(b)}", winner == a, fact)
            yield self.open(
                "which larger",
                f"which is {compared}, {the(a)} or {the(b)}",
                the(winner),
                fact,
                self.scene.entities[winner].concept.key,
            )

    def spatial_relations(self) -> Iterator[Asked]:
        caption = self.caption
        the, be, form = caption.the, caption.be, caption.form
        for order, (first, last) in SIDES.items():
            members = self.scene.orders.get(order, ())
            if not members or order not in self.scene.tables:
                continue
            a, b = self.rng.sample(members, 2)
            asked = self.rng.randrange(2)
            truth = holds(self.scene, InOrder(order, (a, b) if asked == 0 else (b, a)))
            relation = BESIDE[order][asked if truth else 1 - asked]
            yield self.decided(
                f"whether {order}", f"{be(a)} {the(a)} {BESIDE[order][asked]} {the(b)}", truth,
                f"{the(a)} {be(a)} {relation} {the(b)}",
            )  # fmt: skip
            extreme = self.rng.randrange(2)
            place, member = FURTHEST[(first, last)[extreme]], members[-extreme]
            yield self.open(
                f"which {order}", f"which shape is {place}", the(member), f"{the(member)} {be(member)} {place}",
                self.scene.entities[member].concept.key,
            )  # fmt: skip
        moving = "place at the end" in self.scene.tables
        at_first = (" at the beginning", "start out") if moving else ("", "be located")
        for relation, (when, verb) in (("place", at_first), ("place at the end", (" at the end", "end up"))):
            if relation in self.scene.tables or (relation == "place" and moving):
                yield from self.about(
                    relation,
                    lambda s, when=when: f"where is {the(s)}{when}",
                    lambda s, v, when=when: f"is {the(s)} {form(v)}{when}",
                    lambda s, v, verb=verb: f"{the(s)} {caption.does(s, verb)} {form(v)}",
                    form,
                    lambda v, when=when: f"which shape is {form(v)}{when}",
                )

    def counting(self) -> Iterator[Asked]:
        caption, counts = self.caption, self.facts["count"]

        def say(subject: str, count: Hashable) -> str:
            return f"there {'is' if count == 1 else 'are'} {caption.counted(subject, count)}"

        yield from self.about(
            "count",
            lambda s: self.pick("how many {} are there", "how many {} can you see").format(caption.some(s)),
            lambda s, v: f"{'is' if v == 1 else 'are'} there exactly {caption.counted(s, v)}", say, number_word,
            lambda v: f"of which shape {'is' if v == 1 else 'are'} there exactly {number_word(v)}",
        )  # fmt: skip
        a, b = self.rng.sample(self.subjects, 2)
        if counts[a] != counts[b]:
            fact = f"{say(a, counts[a])} and {caption.counted(b, counts[b])}"
            yield self.decided(
                "whether more", f"are there more {caption.some(a)} than {caption.some(b)}", counts[a] > counts[b], fact
            )
        if list(counts.values()).count(max(counts.values())) == 1:
            most = max(counts, key=counts.__getitem__)
            yield self.open(
                "which most", "of which shape are there the most", caption.the(most), say(most, counts[most]),
                self.scene.entities[most].concept.key,
            )  # fmt: skip

    def text(self) -> Iterator[Asked]:
        caption = self.caption
        yield from self.about(
            "text",
            lambda s: self.pick(f"what is written on {caption.the(s)}", f"which letters are on {caption.the(s)}"),
            lambda s, v: self.pick("is '{}' written on {}", "can '{}' be read on {}").format(v, caption.the(s)),
            lambda s, v: f"{caption.the(s)} {caption.does(s, 'read')} '{v}'", lambda v: f"'{v}'",
            lambda v: f"on which shape is '{v}' written",
        )  # fmt: skip

    def temporal_order(self) -> Iterator[Asked]:
        caption, members = self.caption, self.scene.orders["timeline"]
        extreme = self.rng.randrange(2)
        place, member = ("first", "last")[extreme], members[-extreme]
        event = caption.event(member)
        key = self.scene.entities[member].concept.key
        the = caption.the(member)
        yield self.open(
            "which first",
            f"which shape is the {place} to change",
            the,
            f"the {place} to change {caption.be(member)} {the}",
            key,
        )
        yield self.open("what first", f"what happens {place}", event, event, self.facts["motion"][member].key)
        one, following = self.rng.choice(list(pairwise(members)))
        yield self.open(
            "what next", f"what is the next thing to begin after {caption.event(one)}", caption.event(following),
            caption.event(following), self.facts["motion"][following].key,
        )  # fmt: skip
        a, b = self.rng.sample(members, 2)
        word = self.pick("before", "after")
        truth = holds(self.scene, InOrder("timeline", (a, b) if word == "before" else (b, a)))
        real = word if truth else {"before": "after", "after": "before"}[word]
        begin = caption.does(a, "begin to change")
        yield self.decided(
            "whether before", f"{self._do(a)} {caption.the(a)} begin to change {word} {caption.the(b)}", truth,
            f"{caption.the(a)} {begin} {real} {caption.the(b)}",
        )  # fmt: skip

    def _do(self, subject: str) -> str:
        return "do" if self.caption.many(subject) else "does"

    def action(self) -> Iterator[Asked]:
        caption = self.caption
        the, form = caption.the, caption.form
        motions = self.facts["motion"]
        yield from self.about(
            "motion", lambda s: self.pick(f"what {self._do(s)} {the(s)} do", f"what happens to {the(s)}"),
            lambda s, v: f"{self._do(s)} {the(s)} {form(v)}",
            lambda s, v: f"{the(s)} {caption.does(s, form(v))}",
            None, lambda v: f"which shape can be seen to {form(v)}",
        )  # fmt: skip
        if "speed" in self.scene.tables:
            yield from self.about(
                "speed", lambda s: f"how fast {self._do(s)} {the(s)} {form(motions[s])}",
                lambda s, v: f"{self._do(s)} {the(s)} {form(motions[s])} {form(v)}",
                lambda s, v: f"{the(s)} {caption.does(s, form(motions[s]))} {form(v)}", form,
                lambda v: f"which shape changes {form(v)}",
            )  # fmt: skip

    def style_background(self) -> Iterator[Asked]:
        ground = self.scene.setting["background"]
        name = self.caption.form(ground)
        fact = f"the background is {name}"
        question = self.pick("what colour is the background", "on what colour are the shapes drawn")
        yield self.open("what background", question, name, fact, ground.key)
        guess = self.value(dict(enumerate([ground, *BACKGROUNDS.values()])), 0)
        word = self.caption.form(guess)
        yield self.decided("whether background", f"is the background {word}", guess == ground, fact)

    def full_description(self) -> Iterator[Asked]:
        medium = {"image": ("picture", "image"), "video": ("video", "clip")}[self.scene.media]
        ask = self.pick(
            "Describe this {} in detail.",
            "What does the {} show? Tell everything you see.",
            "Give a full description of the {}.",
        )
        yield Asked(ask.format(self.pick(*medium)), self.caption.text, "full description", "")
        ask = self.pick(
            "Describe the {} in a few words.", "What is in this {}, in short?", "Write a short caption for the {}."
        )
        short = write_shapes_caption(self.scene, "question", "short").text
        yield Asked(ask.format(self.pick(*medium)), short, "short description", "")

    def listing(self) -> Iterator[Asked]:
        """Everything in reading order: `"In the top left corner: a big striped red star. In the centre: ..."`."""
        form, noun, order, places = self.caption.form, self.caption.noun, list(PLACES.values()), self.facts["place"]
        entries = [
            f"{form(places[subject])}: {with_article(' '.join([*self.looks(subject), noun(subject)]))}"
            for subject in sorted(places, key=lambda name: order.index(places[name]))
        ]
        yield Asked(self.pick(*LISTING), " ".join(map(as_sentence, entries)), "listing", "")

    def listing_by_name(self) -> Iterator[Asked]:
        """Everything by name: `"Disc: small, plain, blue, in the centre. Star: ..."`."""
        form, noun, places = self.caption.form, self.caption.noun, self.facts["place"]
        entries = [f"{noun(s)}: {', '.join([*self.looks(s), form(places[s])])}" for s in sorted(places, key=noun)]
        yield Asked(self.pick(*BY_NAME), " ".join(map(as_sentence, entries)), "listing by name", "")

    def looks(self, subject: str) -> list[str]:
        """Size, texture and colour of a figure, in words."""
        return [self.caption.form(self.facts[quality][subject]) for quality in ("size", "texture", "colour")]


def _question(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}?"
