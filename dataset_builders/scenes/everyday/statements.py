"""What can be asked about an everyday scene, for each category of TED.

    asker = EverydayAsker(write_caption(scene, "a"), random.Random(0))
    ask(asker, "Quantity").options[0][0]     # "There are five oars in all."
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

from granted.dataset_builders.scenes.everyday.captions import Caption
from granted.dataset_builders.scenes.everyday.lexicon import load_lexicon
from granted.dataset_builders.scenes.everyday.sampling import COUNTS, MANNERS
from granted.dataset_builders.scenes.scene import All, Concept, Is, Place
from granted.dataset_builders.scenes.statements import Asker, Frame, Option, as_sentence
from granted.dataset_builders.scenes.words import number_word, plural, present


class EverydayAsker(Asker):
    """Asks in the words of one caption; what it brings in from outside has the words that the caption would use.

    Args:
        caption (`Caption`): of an everyday scene.
        rng (`random.Random`): what is asked, and how.
    """

    def __init__(self, caption: Caption, rng: random.Random):
        super().__init__(caption.scene, rng)
        self.caption = caption
        self.lexicon = load_lexicon()
        self.theme = self.lexicon.themes[self.scene.theme]

    def frames(self, category: str) -> Iterator[Frame]:
        yield from getattr(self, category.lower().replace(" ", "_"))()

    def adjective(self) -> Iterator[Frame]:
        facts, caption, words = self.scene.facts, self.caption, self.lexicon.words
        for dimension in ("colour", "pattern", "material", "size"):
            for kind, new in (("garment", words["garments"]), ("object", self.theme.objects)):
                bearers = [name for name in self.scene.of_kind(kind) if name in facts.get(dimension, {})]
                if bearers:
                    fill = self.one_of(
                        "{the} is {value}",
                        "{the} in view is {value}",
                        "the view includes {the}, which is {value}",
                    )
                    yield self.cell(
                        dimension, f"What has which {dimension}?",
                        lambda s, v, fill=fill: fill(the=caption.the(s), value=caption.form(v)),
                        subjects=bearers, new_subjects=self.unused(new), new_values=self.unused(words[dimension]),
                    )  # fmt: skip
        if "expression" in facts:
            fill = self.one_of(
                "{the} looks {value}",
                "{the} has the look of somebody {value}",
                "judging by the face, {the} is {value}",
            )
            yield self.cell(
                "expression", "How do the people look?",
                lambda s, v: fill(the=caption.the(s), value=caption.form(v)),
                subjects=self.scene.of_kind("person"), new_subjects=self.unused(self.theme.people),
                new_values=self.unused(words["expression"]),
            )  # fmt: skip

    def adverb(self) -> Iterator[Frame]:
        caption, manners = self.caption, self.scene.facts["manner"]
        dimension = next(name for name in MANNERS if set(manners.values()) <= set(self.lexicon.words[name]))
        activity = self.scene.facts["activity"]
        people = self.scene.of_kind("person")
        yield self.cell(
            "manner", "In what manner is it done?",
            lambda s, v: f"{caption.the(s)} {caption.doing(activity[s])} {caption.form(v)}",
            subjects=people, new_values=self.unused(self.lexicon.words[dimension]), vary=("value",),
        )  # fmt: skip
        fill = self.one_of(
            "it is {the} who acts {value}", "{the} acts {value}", "the person who acts {value} is {the}"
        )
        yield self.cell(
            "manner", "Who acts in which manner?",
            lambda s, v: fill(the=caption.the(s), value=caption.form(v)),
            subjects=people, new_subjects=self.unused(self.theme.people),
        )  # fmt: skip

    def action_recognition(self) -> Iterator[Frame]:
        caption = self.caption
        fill = self.one_of(
            "{the} {doing}", "it is {the} who {doing}", "in the video, {the} {doing}", "one can see that {the} {doing}"
        )
        yield self.cell(
            "activity", "Who does what?",
            lambda s, v: fill(the=caption.the(s), doing=caption.doing(v)),
            subjects=self.scene.of_kind("person"), new_subjects=self.unused(self.theme.people),
            new_values=self.unused(self.theme.activities),
        )  # fmt: skip

    def basic_event(self) -> Iterator[Frame]:
        caption, scene = self.caption, self.scene
        crowds = self.rng.sample(scene.of_kind("crowd"), 3)
        does = scene.facts["gathering"]
        fill = self.one_of(
            "{A} {x}, while {B} {y}",
            "it can be seen that {A} {x} and that {B} {y}",
            "what happens is that {A} {x}, and {B} {y}",
            "{A} {x}; meanwhile, {B} {y}",
        )
        a, b = crowds[:2]

        def option(x: Concept, y: Concept) -> Option:
            text = fill(
                A=caption.noun(a), x=caption.doing(x, many=True), B=caption.noun(b), y=caption.doing(y, many=True)
            )
            return as_sentence(text), All((Is("gathering", a, x), Is("gathering", b, y)))

        pairs = [option(x, y) for x, y in permutations([does[crowd] for crowd in crowds], 2)]
        new = self.unused(self.theme.gatherings)
        outside = [option(x, does[b]) for x in new[:2]] + [option(does[a], x) for x in new[2:]]
        yield self.frame("What is going on?", option(does[a], does[b]), pairs, outside)

    def coreference(self) -> Iterator[Frame]:
        caption, mentions = self.caption, self.caption.mentions
        names = [name for name in self.scene.facts["trait"] if name in mentions]
        kind = self.scene.entities[names[0]].kind
        new = self.theme.people if kind == "person" else self.theme.objects
        of = {self.scene.facts["trait"][name]: mentions[name] for name in names}
        fill = self.one_of(
            "'{subject}' in '{said}' refers to {the}", "in '{said}', {words} for {the}",
            "the clause '{said}' is about {the}", "where the text says '{said}', {the} is meant",
        )  # fmt: skip
        yield self.cell(
            "trait", "Who or what is meant?",
            lambda s, v: fill(the=caption.the(s), subject=of[v][0], said=of[v][1], words=_words_stand(of[v][0])),
            subjects=names, new_subjects=self.unused(new), vary=("subject",),
        )  # fmt: skip

    def ocr(self) -> Iterator[Frame]:
        caption, words = self.caption, self.lexicon.words
        fill = self.one_of(
            "{the} reads '{text}'",
            "the text on {the} is '{text}'",
            "{the} has the words '{text}' on it",
            "'{text}' is what {the} says",
        )
        pairs = zip(self.rng.sample(words["text_opening"], 3), self.rng.sample(words["text_closing"], 3))
        yield self.cell(
            "text", "What is written where?",
            lambda s, v: fill(the=caption.the(s), text=v),
            subjects=self.scene.of_kind("sign"), new_subjects=self.unused(self.theme.signs, 2),
            new_values=[f"{opening.key} {closing.key}".upper() for opening, closing in pairs],
        )  # fmt: skip

    def quantity(self) -> Iterator[Frame]:
        caption, counts = self.caption, self.scene.facts["count"]
        fill = self.one_of(
            "there are {n} {things} in all",
            "exactly {n} {things} are there",
            "the number of {things} is {n}",
            "{n} {things} can be counted in all",
        )
        yield self.cell(
            "count", "How many are there?",
            lambda s, v: fill(things=plural(caption.noun(s)), n=number_word(v)),
            subjects=list(counts), new_subjects=self.unused(self.theme.items),
            new_values=[n for n in COUNTS if n not in counts.values()],
        )  # fmt: skip

    def spatial_relationship(self) -> Iterator[Frame]:
        scene, caption = self.scene, self.caption
        if "row" in scene.tables:
            fill = self.one_of(
                "from left to right, one finds {}, {} and {}", "{} is to the left of {}, who is to the left of {}",
                "{1} has {0} to the left and {2} to the right", "{0} is to the left and {2} to the right of {1}",
            )  # fmt: skip
            yield self.sequence(
                "row",
                "How are the people arranged?",
                lambda members: fill(*map(caption.the, members)),
                self.unused(self.theme.people),
            )
        if "place" in scene.tables:
            places = scene.facts["place"]
            fill = self.one_of("{the} is {where}", "{where} is {the}", "{the} is to be found {where}")

            def say(thing: str | Concept, place: Place) -> str:
                return fill(the=caption.the(thing), where=caption.where(place))

            new = self.unused(self.theme.portable)
            yield self.cell("place", "Where is it?", say, subjects=list(places), new_subjects=new)
            thing = self.rng.choice(list(places))
            here = places[thing]

            def options(values: list[Place]) -> list[Option]:
                return [(as_sentence(say(thing, place)), Is("place", thing, place)) for place in values]

            relations = [Place(place.relation, here.ground) for place in places.values()]
            grounds = [Place(here.relation, place.ground) for place in places.values()]
            elsewhere = [Place(here.relation, ground) for ground in self.unused(self.theme.supports)]
            yield self.frame("Where is it?", *options([here]), options(relations), options(elsewhere))
            yield self.frame("Where is it?", *options([here]), options(grounds), options(elsewhere))
        if "move" in scene.tables:
            start, end = scene.facts["place"], scene.facts["place at the end"]
            when = self.rng.choice(("start", "end"))
            fill = self.one_of("at the {when}, {the} is {where}", "{the} is {where} at the {when}")
            yield self.cell(
                "place" if when == "start" else "place at the end", "Where is it, and when?",
                lambda s, v: fill(the=caption.the(s), where=caption.where(v), when=when),
                subjects=list(start), values=[*start.values(), *end.values()], vary=("value",),
            )  # fmt: skip

    def temporal(self) -> Iterator[Frame]:
        caption, scene = self.caption, self.scene
        new = self.unused(self.theme.moments)

        def said_of(events: Sequence[str]) -> Callable[[str | Concept], str]:
            # What does not happen is said of somebody who might do it.
            someone = caption.the(scene.facts["agent"][self.rng.choice(events)])
            return lambda event: (
                f"{someone} {present(caption.form(event))}" if isinstance(event, Concept) else caption.event(event)
            )

        happens = said_of(scene.orders["timeline"])
        in_turn = self.one_of(
            "first {}, then {}, and finally {}",
            "{}; afterwards {}, and later {}",
            "{2}, but only after {1}, which comes after {0}",
        )
        yield self.sequence(
            "timeline", "In which order do things happen?", lambda events: in_turn(*map(happens, events)), new
        )
        if "overlap" in scene.tables:
            meanwhile = scene.facts["meanwhile"]
            at_once = self.one_of(
                "{} while {}", "{} at the same time as {}", "{} just when {}", "at the moment when {1}, {0}"
            )
            happens_too = said_of(list(meanwhile.values()))
            yield self.cell(
                "meanwhile", "What happens at the same time?",
                lambda s, v: at_once(happens(s), happens_too(v)),
                subjects=list(meanwhile), new_subjects=new, new_values=new,
            )  # fmt: skip


def _words_stand(words: str) -> str:
    """`"the word 'she' stands"`, `"the words 'the one in red' stand"`."""
    return f"the words '{words}' stand" if " " in words else f"the word '{words}' stands"
