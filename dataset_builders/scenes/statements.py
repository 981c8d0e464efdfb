"""Statements about a scene, in the words of one of its captions: one true, three false, decided by the scene.

    question = ask(EverydayAsker(caption, random.Random(0)), "Adverb")
    question.options[0]      # ("The deckhand is mending a torn net wearily.", Is("manner", "person0", wearily))

`compositional` negatives are made of the caption's own words, matched differently; `lexical` ones may bring in a value
or a subject that the caption does not have. Which cell of a table is asked about is drawn evenly, so that neither
shared words nor the statements alone tell which option is true.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from granted.dataset_builders.scenes.scene import Claim, Concept, InOrder, Is, Scene, holds


DIFFICULTIES = ("compositional", "lexical")
NEGATIVES = 3
OUTSIDE = 0.7  # how often a lexical negative brings in something that the caption does not have
Option = tuple[str, Claim]


@dataclass(frozen=True)
class Question:
    """A question and what might be said.

    Args:
        text (`str`): the question.
        options (`tuple[tuple[str, Claim], ...]`): statements with their claims; the first is true, the others are not.
    """

    text: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Frame:
    """Everything that can be asked in one way about one cell: the truth, what is false in the caption's own words
    (`rivals`), and what is false in other words (`outside`)."""

    question: str
    truth: Option
    rivals: list[Option]
    outside: list[Option]


class Asker(ABC):
    """Asks about a scene. A world says what can be asked of each category; what is false is found here.

    Args:
        scene (`Scene`): the world.
        rng (`random.Random`): what is asked, and how.
    """

    def __init__(self, scene: Scene, rng: random.Random):
        self.scene, self.rng = scene, rng

    @abstractmethod
    def frames(self, category: str) -> Iterator[Frame]:
        """One frame for each way in which the scene lets the category be asked."""

    # -------------------------------------------------------------------------------------------- tables and orders

    def cell(
        self,
        relation: str,
        question: str,
        say: Callable[[Hashable, Hashable], str],
        *,
        subjects: Sequence[str],
        values: Sequence[Hashable] | None = None,
        new_subjects: Sequence[Concept] = (),
        new_values: Sequence[Hashable] = (),
        vary: Sequence[str] = ("value", "subject"),
    ) -> Frame:
        """A frame about one cell of a table: the false options have another value, or another subject.

        Args:
            relation (`str`): the table.
            question (`str`): the question's text.
            say (`Callable`): words the claim that `relation(subject) = value`.
            subjects (`Sequence[str]`): who or what is told apart.
            values (`Sequence`, *optional*, defaults to those of the subjects): the values that the caption mentions.
            new_subjects, new_values (`Sequence`): others, of which the caption says nothing.
            vary (`Sequence[str]`): what may differ in the false options.
        """
        table = self.scene.facts[relation]
        values = list(dict.fromkeys(table[subject] for subject in subjects)) if values is None else values
        subject = self.rng.choice(subjects)
        value = table[subject]

        def option(subject: Hashable, value: Hashable) -> Option:
            return as_sentence(say(subject, value)), Is(relation, _name(subject), value)

        if self.rng.choice(vary) == "value":
            rivals, outside = [(subject, v) for v in values], [(subject, v) for v in new_values]
        else:
            rivals, outside = [(s, value) for s in subjects], [(s, value) for s in new_subjects]
        return self.frame(
            question, option(subject, value), [option(*pair) for pair in rivals], [option(*pair) for pair in outside]
        )

    def sequence(
        self, order: str, question: str, say: Callable[[Sequence], str], new_members: Sequence[Concept] = ()
    ) -> Frame:
        """A frame about the order of three members: six orders, one of them true, all in the same words.

        Args:
            order (`str`): the name of the scene's order.
            question (`str`): what is asked.
            say (`Callable`): writes three members as a statement.
            new_members (`Sequence[Concept]`): for each a false statement in other words, with it in a member's place.
        """
        members = self.scene.orders[order]
        three = sorted(self.rng.sample(range(len(members)), 3))
        orders = [tuple(members[i] for i in permutation) for permutation in permutations(three)]
        for concept in new_members:
            place = self.rng.randrange(3)
            orders.append((*orders[0][:place], concept, *orders[0][place + 1 :]))
        options = [(as_sentence(say(members)), InOrder(order, tuple(map(_name, members)))) for members in orders]
        return self.frame(question, options[0], options[1:6], options[6:])

    def frame(self, question: str, truth: Option, rivals: list[Option], outside: list[Option]) -> Frame:
        """A frame of the options that are false by the scene, each wording once.

        Args:
            question (`str`): what is asked.
            truth (`Option`): the true statement and its claim.
            rivals, outside (`list[Option]`): statements in the caption's words, and in others, true ones among them.
        """
        said = {truth[0]}
        kept: tuple[list[Option], list[Option]] = ([], [])
        for options, into in zip((rivals, outside), kept):
            for text, claim in options:
                if text not in said and not holds(self.scene, claim):
                    said.add(text)
                    into.append((text, claim))
        return Frame(question, truth, *kept)

    def unused(self, concepts: Sequence[Concept], count: int = NEGATIVES) -> list[Concept]:
        """At most `count` concepts of a list that neither an entity nor a fact of the scene has."""
        used = {entity.concept for entity in self.scene.entities.values()}
        used |= {
            value for table in self.scene.facts.values() for value in table.values() if isinstance(value, Concept)
        }
        free = [concept for concept in concepts if concept not in used]
        return self.rng.sample(free, min(count, len(free)))

    def one_of(self, *templates: str) -> Callable[..., str]:
        """One of the templates, to be filled in the same way for all options."""
        return self.rng.choice(templates).format


def ask(asker: Asker, category: str, difficulty: str = "compositional") -> Question:
    """One question of a category about a captioned scene.

    Args:
        asker (`Asker`): of a caption whose scene was sampled for this category.
        category (`str`): one of TED's nine.
        difficulty (`str`, defaults to `"compositional"`): `"compositional"` or `"lexical"`.
    """
    rng = asker.rng
    frame = rng.choice(list(asker.frames(category)))
    rivals = rng.sample(frame.rivals, len(frame.rivals))
    outside = []
    if difficulty == "lexical":
        outside = [option for option in rng.sample(frame.outside, len(frame.outside)) if rng.random() < OUTSIDE]
    return Question(frame.question, (frame.truth, *(outside + rivals)[:NEGATIVES]))


def _name(subject: str | Concept) -> str:
    """The id of an entity; for a concept that the scene does not have, one that no entity bears."""
    return subject if isinstance(subject, str) else f"no {subject.key}"


def as_sentence(text: str) -> str:
    """`"the cup is red"` -> `"The cup is red."`"""
    return f"{text[0].upper()}{text[1:]}."
