"""What can be asked about a scene of shapes, for each category of TED.

    asker = ShapesAsker(write_shapes_caption(scene, "a"), random.Random(0))
    ask(asker, "Quantity").options[0][0]           # "The number of stars is three; the number of rings is one."

With three subjects in a table a statement is about two of them, so that three can be false in the caption's own words.
"""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import permutations

from granted.dataset_builders.scenes.scene import All, Concept, InOrder, Is
from granted.dataset_builders.scenes.shapes.captions import BESIDE, SIDES, ShapesCaption, letters
from granted.dataset_builders.scenes.shapes.lexicon import (
    COLOURS,
    LINES,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SPEEDS,
    TEXTS,
    TEXTURES,
)
from granted.dataset_builders.scenes.statements import NEGATIVES, Asker, Frame, Option, as_sentence
from granted.dataset_builders.scenes.words import number_word, participle, present


Subject = str | Concept
TOGETHER = ("{}, while {}", "{}, and {}", "{}; {}")


class ShapesAsker(Asker):
    """Asks in the words of one caption; what it brings in from outside has the words that the caption would use.

    Args:
        caption (`ShapesCaption`): a full one, of a scene that was sampled for the categories.
        rng (`random.Random`): what is asked, and how.
    """

    def __init__(self, caption: ShapesCaption, rng: random.Random):
        super().__init__(caption.scene, rng)
        self.caption = caption

    def frames(self, category: str) -> Iterator[Frame]:
        yield from getattr(self, category.lower().replace(" ", "_"))()

    def table(
        self,
        relation: str,
        question: str,
        say: Callable[[Subject, Hashable], str],
        new_values: Sequence[Hashable] = (),
        together: Sequence[str] = TOGETHER,
        pairs_only: bool = False,
    ) -> Iterator[Frame]:
        """Frames about two cells of a table and, if it has values enough, about one.

        Args:
            relation (`str`): the table.
            question (`str`): the question's text.
            say (`Callable`): words the claim that `relation(subject) = value`.
            new_values (`Sequence`): values of which the caption says nothing.
            together (`Sequence[str]`): ways to say two such claims.
            pairs_only (`bool`, defaults to `False`): whether to ask about two cells in any case.
        """
        table = self.scene.facts[relation]
        values = list(dict.fromkeys(table.values()))
        new = self.unused(tuple(SHAPES.values()))
        if len(values) > NEGATIVES and not pairs_only:
            yield self.cell(
                relation, question, say, subjects=list(table), new_subjects=new, new_values=new_values,
            )  # fmt: skip
        both = self.one_of(*together)
        a, b = self.rng.sample(list(table), 2)
        while table[a] == table[b]:  # two groups may be equally many
            a, b = self.rng.sample(list(table), 2)

        def option(x: Hashable, y: Hashable, b: Subject = b) -> Option:
            name = b if isinstance(b, str) else f"no {b.key}"
            return as_sentence(both(say(a, x), say(b, y))), All((Is(relation, a, x), Is(relation, name, y)))

        rivals = [option(x, y) for x, y in permutations(values, 2)]
        outside = [option(x, table[b]) for x in new_values[:2]] + [option(table[a], x) for x in new_values[2:]]
        outside += [option(table[a], table[b], shape) for shape in new]
        yield self.frame(question, option(table[a], table[b]), rivals, outside)

    def adjective(self) -> Iterator[Frame]:
        caption = self.caption
        for dimension, words in (("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)):
            if dimension in self.scene.tables:
                yield from self.table(
                    dimension, f"What has which {dimension}?",
                    lambda s, v: f"{caption.the(s)} {caption.be(s)} {caption.form(v)}",
                    self.unused(tuple(words.values())),
                )  # fmt: skip

    def adverb(self) -> Iterator[Frame]:
        caption = self.caption
        if "line" in self.scene.tables:
            yield from self.table(
                "line", "How are they lined up?",
                lambda s, v: f"{caption.the(s)} {caption.be(s)} lined up {caption.form(v)}",
                self.unused(tuple(LINES.values())),
            )  # fmt: skip
        else:
            motions = self.scene.facts["motion"]
            pool = self.unused(tuple(SPEEDS.values()))
            yield from self.table(
                "speed", "How fast does it go?",
                lambda s, v: f"{caption.the(s)} {caption.does(s, self._motion(s, motions))} {caption.form(v)}", pool,
            )  # fmt: skip
            yield from self.table(
                "speed", "How fast does it go?",
                lambda s, v: f"{caption.the(s)} {caption.does(s, 'change')} {caption.form(v)}", pool,
            )  # fmt: skip

    def _motion(self, subject: Subject, motions: dict[str, Concept]) -> str:
        """What a subject does; a shape that is not there changes."""
        return self.caption.form(motions[subject]) if subject in motions else "change"

    def action_recognition(self) -> Iterator[Frame]:
        yield from self.table(
            "motion", "What does which shape do?",
            self.happens, self.unused(tuple(MOTIONS.values())),
            # Of groups it is said that they "can be seen" doing something: not twice in one sentence.
            (
                "{}, and {}", "in the video, {} and {}",
                "in the course of the video, {}, and {}" if self._seen() else "one can see that {} and that {}",
            ),
        )  # fmt: skip

    def happens(self, subject: Subject, motion: Concept) -> str:
        """`"the star moves up"`; beside groups `"the star can be seen moving up"`, which fits one and many alike."""
        phrase = self.caption.form(motion)
        if self._seen():
            return f"{self.caption.the(subject)} can be seen {participle(phrase)}"
        return f"{self.caption.the(subject)} {present(phrase)}"

    def _seen(self) -> bool:
        """Whether what moves is said to be seen moving: in videos with groups."""
        return "motion" in self.scene.facts and any(map(self.caption.many, self.scene.entities))

    def basic_event(self) -> Iterator[Frame]:
        caption = self.caption
        third = "this is what happens: {}, and {}" if self._seen() else "what can be seen is that {} and that {}"
        together = ("{}, while {}", "{}; meanwhile, {}", third)
        relation = next(name for name in ("motion", "line", "band", "place") if name in self.scene.tables)
        if relation == "motion":
            yield from self.table(
                relation, "What is going on?", self.happens, self.unused(tuple(MOTIONS.values())), together,
                pairs_only=True,
            )  # fmt: skip
        else:
            lined = "lined up " if relation == "line" else ""
            yield from self.table(
                relation, "What is to be seen?",
                lambda s, v: f"{caption.the(s)} {caption.does(s, 'stand')} {lined}{caption.form(v)}",
                self.unused(tuple(PLACES.values())) if relation == "place" else (), together, pairs_only=True,
            )  # fmt: skip

    def coreference(self) -> Iterator[Frame]:
        caption, traits, mentions = self.caption, self.scene.facts["trait"], self.caption.mentions
        of = {trait: mentions[subject] for subject, trait in traits.items()}
        fill = self.one_of(
            "'{words}' in '{said}' refers to {the}", "in '{said}', '{words}' stands for {the}",
            "the clause '{said}' is about {the}", "where the text says '{said}', {the} {be} meant",
        )  # fmt: skip

        def say(subject: Subject, trait: Hashable) -> str:
            words, said = of[trait]
            return fill(words=words, said=said, the=caption.the(subject), be=caption.be(subject))

        names = list(traits)
        if len(names) > NEGATIVES:
            new = self.unused(tuple(SHAPES.values()))
            yield self.cell("trait", "What is meant?", say, subjects=names, new_subjects=new, vary=("subject",))
        a, b = self.rng.sample(names, 2)
        both = self.one_of(*TOGETHER)

        def option(x: str, y: str) -> Option:
            text = both(say(x, traits[a]), say(y, traits[b]))
            return as_sentence(text), All((Is("trait", x, traits[a]), Is("trait", y, traits[b])))

        yield self.frame("What is meant?", option(a, b), [option(x, y) for x, y in permutations(names, 2)], [])

    def ocr(self) -> Iterator[Frame]:
        caption = self.caption
        fill = self.one_of(
            "{the} {read} '{text}'", "the {letters} on {the} {are} '{text}'", "'{text}' is what {the} {say}",
            "{the} {have} '{text}' written on {it}",
        )  # fmt: skip

        def say(subject: Subject, text: Hashable) -> str:
            verbs = {verb: caption.does(subject, verb) for verb in ("read", "say", "have")}
            it = "them" if caption.many(subject) else "it"
            are = "are" if len(text) > 1 else "is"
            return fill(the=caption.the(subject), text=text, it=it, letters=letters(text), are=are, **verbs)

        texts = self.scene.facts["text"].values()
        new = self.rng.sample([text for text in TEXTS if text not in texts], NEGATIVES)
        yield from self.table("text", "What is written where?", say, new)

    def quantity(self) -> Iterator[Frame]:
        caption = self.caption
        fill = self.one_of(
            "the number of {things} is {n}", "{n} is the number of {things}", "counting the {things} gives {n}"
        )  # fmt: skip
        yield from self.table(
            "count", "How many are there?",
            lambda s, v: fill(things=caption.some(s), n=number_word(v)),
            [n for n in range(1, 7) if n not in self.scene.facts["count"].values()],
        )  # fmt: skip

    def spatial_relationship(self) -> Iterator[Frame]:
        caption, scene = self.caption, self.scene
        for order, (first, last) in SIDES.items():
            if order in scene.tables:
                at = "at" if order == "column" else "on"
                fill = self.one_of(
                    f"from {first} to {last}, one finds {{}}, {{}} and {{}}",
                    f"going from {last} to {first}, one passes {{2}}, {{1}} and {{0}}",
                    f"{{0}} can be found {at} the {first}, {{1}} in between, and {{2}} {at} the {last}",
                )
                yield self.sequence(
                    order, "How are they arranged?", lambda members, fill=fill: fill(*map(caption.the, members))
                )  # fmt: skip
                yield self._beside(order)
        if "place" in scene.tables:
            verb = self.rng.choice(("sit", "stand", "be seen"))
            yield from self.table(
                "place", "Where is it?", lambda s, v: f"{caption.the(s)} {present(verb)} {caption.form(v)}",
                self.unused(tuple(PLACES.values())),
            )  # fmt: skip
        if "place at the end" in scene.tables:
            yield from self.table(
                "place at the end", "Where does it end up?",
                lambda s, v: f"{caption.the(s)} ends up {caption.form(v)}", self.unused(tuple(PLACES.values())),
            )  # fmt: skip
            starts, ends = scene.facts["place"], scene.facts["place at the end"]
            relation, verb = self.rng.choice((("place", "starts out"), ("place at the end", "ends up")))
            yield self.cell(
                relation, "Where is it, and when?", lambda s, v: f"{caption.the(s)} {verb} {caption.form(v)}",
                subjects=list(starts), values=list(dict.fromkeys([*starts.values(), *ends.values()])), vary=("value",),
            )  # fmt: skip

    def _beside(self, order: str) -> Frame:
        """Who is left of, or above, whom: of the six ways to say it of three, three are true."""
        caption, members = self.caption, self.scene.orders[order]
        mirrored = self.rng.random() < 0.5

        def option(a: str, b: str) -> Option:
            one, other = (b, a) if mirrored else (a, b)
            text = f"{caption.the(one)} can be seen {BESIDE[order][mirrored]} {caption.the(other)}"
            return as_sentence(text), InOrder(order, (a, b))

        i, j = sorted(self.rng.sample(range(len(members)), 2))
        truth = option(members[i], members[j])
        return self.frame("How are they arranged?", truth, [option(a, b) for a, b in permutations(members, 2)], [])

    def temporal(self) -> Iterator[Frame]:
        fill = self.one_of(
            "first {}, then {}, and finally {}", "{}; afterwards {}, and later {}",
            "{2}, but only after {1}, which comes after {0}",
        )  # fmt: skip
        yield self.sequence(
            "timeline", "In which order do things begin?", lambda subjects: fill(*map(self.caption.event, subjects))
        )
