"""Many wordings for everything that can be drawn, each marked for training or held out (`wordings.yaml`).

    LEXICON.pick("colours", "red", held_out=False, rng)      # Phrase("scarlet"), Phrase("a ripe tomato", True), ...
    LEXICON.forms("references", held_out=True)               # sentence forms

What an encoder adds to a text is what it knows about words and sentences that whoever reads its features has never
seen. So a reader, or a diffusion model, is trained on training wordings alone and scored on both.
"""

import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from granted.dataset_builders.scenes.shapes.drawing import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, TEXTURES
from granted.dataset_builders.scenes.shapes.lexicon import MOTIONS


COUNTS = (1, 2, 3, 4)
SPLITS = ("training", "held_out")
# Every kind of concept with its concepts, in the order of their labels.
CONCEPTS = {
    "shapes": tuple(SHAPES),
    "colours": tuple(COLOURS),
    "sizes": tuple(SIZES),
    "textures": tuple(TEXTURES),
    "backgrounds": tuple(BACKGROUNDS),
    "places": CELLS,
    "counts": COUNTS,
    "motions": tuple(concept.key for concept in MOTIONS.values()),
}
FORMS = ("forms", "colourless_forms", "references", "negations", "background_forms", "count_forms", "motion_forms")


@dataclass(frozen=True)
class Phrase:
    """One wording of a concept.

    Args:
        text (`str`): the words.
        likeness (`bool`): whether they name something that is like it, as in "the colour of a ripe tomato".
    """

    text: str
    likeness: bool = False


class Lexicon:
    """The wordings of a YAML file, see `wordings.yaml`."""

    def __init__(self, path: Path):
        self._content = yaml.safe_load(path.read_text(encoding="utf-8"))

    def phrases(self, kind: str, concept: object, held_out: bool) -> tuple[Phrase, ...]:
        """The wordings of a concept, of training or held out.

        Args:
            kind (`str`): one of `CONCEPTS`.
            concept: one of the concepts of that kind, such as `"red"`; a place is a cell `(column, row)`.
            held_out (`bool`): which.
        """
        return self._phrases[kind, concept, SPLITS[held_out]]

    def forms(self, kind: str, held_out: bool) -> tuple[str, ...]:
        """Sentence forms: `kind` is one of `FORMS`."""
        return tuple(self._content[kind][SPLITS[held_out]])

    @property
    def fillers(self) -> tuple[str, ...]:
        """Sentences that tell nothing."""
        return tuple(self._content["fillers"])

    def pick(self, kind: str, concept: object, held_out: bool, rng: random.Random) -> Phrase:
        """A wording of a concept at random.

        Args:
            kind (`str`): such as `"shapes"` or `"colours"`.
            concept (`object`): one of that kind.
            held_out (`bool`): a wording that is never trained on, instead of one of training.
            rng (`random.Random`): draws it.
        """
        return rng.choice(self.phrases(kind, concept, held_out))

    def carry(self, kind: str, phrase: Phrase, held_out: bool, rng: random.Random) -> str:
        """The phrase as a noun (`kind` is `"shape"`) or after "is" (`"colour"`): a likeness needs a carrier.

        Args:
            held_out, rng: as of [`pick`].
            phrase (`Phrase`): what [`pick`] has drawn.
        """
        if not phrase.likeness:
            return phrase.text
        return rng.choice(self._content["carriers"][kind][SPLITS[held_out]]).format(phrase.text)

    @cached_property
    def _phrases(self) -> dict[tuple[str, object, str], tuple[Phrase, ...]]:
        phrases = {}
        for kind, concepts in CONCEPTS.items():
            for concept in concepts:
                key = " ".join(map(str, concept)) if kind == "places" else concept
                for split, own in self._content[kind][key].items():
                    own = own if isinstance(own, dict) else {"words": own}
                    found = [Phrase(text) for text in own.get("words", [])]
                    found += [Phrase(text, likeness=True) for text in own.get("likenesses", [])]
                    phrases[kind, concept, split] = tuple(found)
        return phrases


LEXICON = Lexicon(Path(__file__).with_name("wordings.yaml"))
