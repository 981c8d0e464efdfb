"""What the checks of a construction find: known errors are mixed into what a model writes about rendered scenes.

    python benchmarks/construction_errors.py --output results/construction/errors.json      # some minutes
    python benchmarks/construction_errors.py --each 2 --good 4 --error-rates 0 --output tiny.json       # tiny

The model on a loopback server sees which scene an image shows. It writes a caption, a true statement and three false
ones, and makes one known error in some of them (`KINDS`), each time it is asked. As a judge it does not know of these
errors: it compares what the statement says with what the caption says, and is wrong in a stated share of its answers,
each independent of the others. Without the caption it guesses. Reported is which errors are found and by what, and
which good instances are lost. Tests: tests/test_construction_errors.py.
"""

import argparse
import hashlib
import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from granted.dataset_builders.construction.prompts import read_prompts
from granted.dataset_builders.construction.run import construct
from granted.dataset_builders.scenes.shapes.drawing import COLOURS, Drawing, Figure, render_image
from granted.dataset_builders.scenes.shapes.rungs import drawing_of_facts
from granted.dataset_builders.scenes.shapes.varied_captions import Fact, varied_caption
from granted.tests.construction_runs import add_item, curated, data_of, settings_of
from granted.tests.loopback_chat import Asked, LoopbackChat
from granted.utils.files import write_json


GOOD = "none (a good instance)"
ADJECTIVE, SPATIAL, QUANTITY, OCR = CATEGORIES = ("Adjective", "Spatial Relationship", "Quantity", "OCR")
UNRELATED = ("Wolves howl loudly during winter nights.", "My uncle repairs old clocks.", "Ships sail to Lisbon.")
Meaning = frozenset[Fact]
NOTHING: Meaning = frozenset()


@dataclass
class Written:
    """What the model writes about a scene: values of JSON objects, or texts as they are sent.

    Fields:
        drawing (`Drawing`), about (`Figure`): what is drawn, and the figure that the statements are about.
        kind (`str`): the error in it.
        category (`str`): what there is a statement of.
        meanings (`dict[str, Meaning]`): the facts that each text tells.
    """

    drawing: Drawing
    about: Figure
    kind: str
    category: str
    rng: random.Random
    meanings: dict[str, Meaning] = field(default_factory=dict)
    caption: str = ""
    positive: str = ""
    negatives: list[str] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)  # an answer that is not the JSON of the above, by what it is

    def tell(self, *figures: Figure, looks: tuple[str, ...] = ("colour",)) -> str:
        """A text about figures, in words of its own."""
        told = varied_caption(Drawing(figures, "white"), "seen", self.rng, looks=looks)
        self.meanings[told.text] = frozenset(told.facts)
        return told.text

    def means(self, text: str, meaning: Meaning) -> str:
        """The text, of which is known from now on what it tells."""
        self.meanings[text] = meaning
        return text

    def wrong(self, count: int) -> list[str]:
        """False statements: the figure in another colour, or at the place of another one."""
        figure = self.about
        if self.category == ADJECTIVE:
            colours = self.rng.sample([colour for colour in COLOURS if colour != figure.colour], count)
            return [self.tell(replace(figure, colour=colour)) for colour in colours]
        cells = [other.cell for other in self.drawing.figures if other.cell != figure.cell]
        return [self.tell(replace(figure, cell=cell)) for cell in self.rng.sample(cells, count)]


def written(number: int, kind: str, category: str, seed: int) -> Written:
    """A scene of six figures and what is written about it, with an error of this kind."""
    rng = random.Random(f"{seed}/{number}")
    drawing, _ = drawing_of_facts(rng, 12, held_out=True)
    one = Written(drawing, drawing.figures[0], kind, category, rng)
    one.caption = one.tell(*drawing.figures)
    one.positive, one.negatives = one.tell(one.about), one.wrong(3)
    KINDS[kind][1](one)
    return one


# --------------------------------------------------------------------------------------------------------------- kinds


def _other_caption(one: Written) -> None:
    other, _ = drawing_of_facts(one.rng, 12, held_out=True)
    one.drawing, one.about = other, other.figures[0]
    one.caption, one.positive, one.negatives = one.tell(*other.figures), one.tell(one.about), one.wrong(3)


def _short_caption(one: Written) -> None:
    one.caption = one.means("Some shapes.", NOTHING)


def _false_positive(one: Written) -> None:
    one.positive, *one.negatives = one.wrong(4)


def _open_positive(one: Written) -> None:
    one.positive = one.tell(one.about, looks=("colour", "size"))


def _without_place(one: Written) -> None:
    figure = one.about
    facts = {Fact(figure.cell, "shape", figure.shape), Fact(figure.cell, "colour", figure.colour)}
    one.positive = one.means(f"There is a {figure.colour} {figure.shape}.", frozenset(facts))
    _short_negatives(one)


def _short_negatives(one: Written) -> None:
    figure = one.about
    for i, colour in enumerate(one.rng.sample([name for name in COLOURS if name != figure.colour], 3)):
        facts = frozenset([Fact(figure.cell, "shape", figure.shape), Fact(figure.cell, "colour", colour)])
        one.negatives[i] = one.means(f"There is a {colour} {figure.shape}.", facts)


def _text_not_there(one: Written) -> None:
    one.positive = one.means("The sign says 'OPEN'.", frozenset([Fact(None, "text", "OPEN")]))


def _only_place(one: Written) -> None:
    one.positive = one.tell(one.about, looks=())


def _long(text: str) -> str:
    return text + " " + " ".join(["This is said once more so that it takes up more room."] * 4)


def _long_positive(one: Written) -> None:
    one.positive = one.means(_long(one.positive), one.meanings[one.positive])


def _short_positive(one: Written) -> None:
    one.positive = one.means(f"A {one.about.shape}.", NOTHING)


def _longer_positive(one: Written) -> None:
    longer = f"{one.positive} It can be seen well there, as long as somebody takes a close look at this place."
    one.positive = one.means(longer, one.meanings[one.positive])
    _short_negatives(one)


def _shortcut(one: Written) -> None:
    rest = one.tell(*one.drawing.figures[1:])
    one.caption = one.means(f"{rest} {one.positive}", one.meanings[one.caption])
    one.negatives = [one.means(text, NOTHING) for text in UNRELATED]


def _true_negative(one: Written) -> None:
    one.negatives[0] = one.tell(one.drawing.figures[1])


def _open_negative(one: Written) -> None:
    one.negatives[0] = one.tell(one.about, looks=("colour", "texture"))


def _moved(one: Written, text: str) -> str:
    words = text.rstrip(".").split()
    half = len(words) // 2
    return one.means(" ".join(words[half:] + words[:half]) + ".", one.meanings[text])


def _equal_negative(one: Written) -> None:
    one.negatives[0] = one.positive


def _written_otherwise(one: Written) -> None:
    one.negatives[0] = one.means(one.positive.rstrip(".").upper() + "!", one.meanings[one.positive])


def _moved_negative(one: Written) -> None:
    one.negatives[0] = _moved(one, one.positive)


def _other_words(one: Written) -> None:
    while (text := one.tell(one.about)) == one.positive:
        pass
    one.negatives[0] = text


def _equal_negatives(one: Written) -> None:
    one.negatives[1] = one.negatives[0]


def _alike_negatives(one: Written) -> None:
    one.negatives[1] = _moved(one, one.negatives[0])


def _long_negative(one: Written) -> None:
    one.negatives[0] = one.means(_long(one.negatives[0]), one.meanings[one.negatives[0]])


def _two_negatives(one: Written) -> None:
    one.negatives.pop()


def _line_break(one: Written) -> None:
    one.negatives[0] = one.means(one.negatives[0].replace(" ", "\n", 1), one.meanings[one.negatives[0]])


def _sends(name: str, text: str) -> Callable[[Written], None]:
    def send(one: Written) -> None:
        one.sent[name] = text

    return send


# What goes wrong: the category it is planted in (None: two in turn), and how.
KINDS: dict[str, tuple[str | None, Callable[[Written], None]]] = {
    GOOD: (None, lambda one: None),
    "caption: of another image": (None, _other_caption),
    "caption: too short": (None, _short_caption),
    "positive: the caption says otherwise": (None, _false_positive),
    "positive: the caption leaves it open": (None, _open_positive),
    "positive: Quantity without a number": (QUANTITY, lambda one: None),
    "positive: OCR without a text": (OCR, lambda one: None),
    "positive: OCR of a text that is not there": (OCR, _text_not_there),
    "positive: Spatial without a place": (SPATIAL, _without_place),
    "positive: Adjective without an adjective": (ADJECTIVE, _only_place),
    "positive: too long": (None, _long_positive),
    "positive: too short": (None, _short_positive),
    "positive: much longer than its negatives": (None, _longer_positive),
    "positive: prose and no JSON": (None, _sends("statement", "There is a red ring, I believe.")),
    "positive: JSON within prose": (
        None,
        _sends("statement", 'Here it is: {"reason": "said", "statement": "A ring is red."}'),
    ),
    "negative: true by the caption": (None, _true_negative),
    "negative: the caption leaves it open": (None, _open_negative),
    "negative: equal to the positive": (None, _equal_negative),
    "negative: equal but for case and marks": (None, _written_otherwise),
    "negative: the positive, its beginning moved": (None, _moved_negative),
    "negative: the positive in other words": (None, _other_words),
    "negative: too long": (None, _long_negative),
    "negative: a line break in it": (None, _line_break),
    "negatives: two are equal": (None, _equal_negatives),
    "negatives: two are equal, the beginning moved": (None, _alike_negatives),
    "negatives: two instead of three": (None, _two_negatives),
    "negatives: no word of the caption in them": (None, _shortcut),
    "negatives: JSON that is cut": (None, _sends("statements", '{"statements": ["A ring is blue.", "A ring')),
    "negatives: another field in the JSON": (
        None,
        _sends("statements", '{"statements": ["A is b.", "C is d.", "E is f."], "sure": true}'),
    ),
}


# --------------------------------------------------------------------------------------------------------------- model


class Model:
    """Writes with the planted errors, and judges with an error rate of its own.

    Args:
        scenes (`dict[str, Written]`): by the hash of the image.
        error_rate (`float`): the share of judgements that are wrong.
    """

    def __init__(self, scenes: dict[str, Written], error_rate: float):
        self.scenes, self.error_rate = scenes, error_rate
        self.by_caption = {one.caption: one for one in scenes.values()}
        self.meanings = {text: told for one in scenes.values() for text, told in one.meanings.items()}
        self.tasks = {category: read_prompts()[f"positive_{_slug(category)}"].task.strip() for category in CATEGORIES}

    def __call__(self, asked: Asked) -> dict[str, Any] | str:
        rng = random.Random(f"{asked.seed}/{asked.user}")
        if asked.kind == "caption":
            return {"caption": self.scenes[hashlib.sha256(asked.images[0]).hexdigest()].caption}
        if asked.kind == "verdict":
            truth = self.verdict(asked.material["caption"], asked.material["statement"])
            others = [one for one in ("true", "false", "not stated") if one != truth]
            return {"verdict": rng.choice(others) if rng.random() < self.error_rate else truth}
        if asked.kind == "same":
            meaning = self.meanings[asked.material["statement"]]
            same = [self.meanings[text] == meaning for text in asked.material["statements"]]
            return {"same": [one != (rng.random() < self.error_rate) for one in same]}
        if asked.kind == "choice":
            return {"choice": rng.randint(1, 4)}
        return self.write(asked)

    def write(self, asked: Asked) -> dict[str, Any] | str:
        """A positive statement or negatives."""
        one = self.by_caption[asked.material["caption"]]
        if asked.kind == "statements":
            return one.sent.get("statements") or {"statements": one.negatives}
        if self.tasks[one.category] not in asked.system:
            return {"reason": "the caption does not say it", "statement": None}
        return one.sent.get("statement") or {"reason": "the caption says it", "statement": one.positive}

    def verdict(self, caption: str, statement: str) -> str:
        """Whether a statement is true by a caption: what it tells is compared, fact by fact."""
        told = {(fact.subject, fact.property): fact.value for fact in self.meanings[caption]}
        facts = self.by_caption[caption].meanings[statement]
        values = [told.get((fact.subject, fact.property)) for fact in facts]
        if any(value not in (None, fact.value) for value, fact in zip(values, facts)):
            return "false"
        return "true" if facts and None not in values else "not stated"


def _slug(category: str) -> str:
    return category.casefold().replace(" ", "_")


# ---------------------------------------------------------------------------------------------------------------- runs


def planted(each: int, good: int, seed: int) -> Iterator[tuple[bytes, Written]]:
    """Images and what is written about each: good ones, and so many of each kind of error."""
    plan = [(GOOD, number) for number in range(good)]
    plan += [(kind, number) for kind in KINDS if kind != GOOD for number in range(each)]
    for place, (kind, number) in enumerate(plan):
        category = KINDS[kind][0] or (ADJECTIVE, SPATIAL)[number % 2]
        drawing, _ = drawing_of_facts(random.Random(f"{seed}/{place}"), 12, held_out=True)
        buffer = io.BytesIO()
        render_image(drawing, 64).save(buffer, "PNG")
        yield buffer.getvalue(), written(place, kind, category, seed)


def run_once(each: int, good: int, error_rate: float, seed: int = 0) -> dict[str, dict[str, Any]]:
    """By kind: how many there were, how many were not kept, and by what.

    Args:
        each (`int`), good (`int`): instances of each kind of error, and without one.
        error_rate (`float`): of the model as a judge.
        seed (`int`, defaults to 0): other scenes, other errors of judgement.
    """
    with TemporaryDirectory() as folder:
        run, items, scenes = Path(folder), [], {}
        (run / "media").mkdir()
        for content, one in planted(each, good, seed):
            items.append(add_item(run, content, "image", ".png", "ted"))
            scenes[hashlib.sha256(content).hexdigest()] = one
        curated(run, items)
        with LoopbackChat(Model(scenes, error_rate)) as server:
            server.keep_bodies = False
            options = {"categories": list(CATEGORIES), "asks": 2, "votes": 3, "seed": seed}
            construct(settings_of(run, server, license="cc0-1.0", source_license="cc0-1.0", **options))
        data = data_of(run)
    fates = {row["id"]: f"set aside: {stage}" for stage, row in _set_aside(data)}
    fates |= {row["id"]: "kept" if row["kept"] else "; ".join(row["reasons"]) for row in data["check/rows.parquet"]}
    found: dict[str, dict[str, Any]] = {}
    for item, one in zip(items, scenes.values()):
        fate = fates.get(item["id"], "no statement")
        counts = found.setdefault(one.kind, {"planted": 0, "not_kept": 0, "by": Counter()})
        counts["planted"] += 1
        counts["not_kept"] += fate != "kept"
        counts["by"][fate] += fate != "kept"
    return {kind: one | {"by": dict(+one["by"])} for kind, one in found.items()}


def _set_aside(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for stage in ("caption", "positive", "negatives"):
        for row in data[f"{stage}/set_aside.parquet"]:
            yield f"{stage}: {row['reason'].partition(':')[0]}", row


def table(figures: dict[str, Any]) -> str:
    """The figures in Markdown."""
    rates = list(figures["by_error_rate"])
    judges = " | ".join(f"judge wrong {float(rate):.0%}" for rate in rates)
    lines = [
        "# Which planted errors the checks find",
        "",
        "Instances that are not kept, by the error that was planted in them and by the share of the judge's answers",
        "that are wrong. Without an error an instance should be kept. Made by `benchmarks/construction_errors.py`.",
        "",
        f"| error | planted | {judges} | found by, most often (judge wrong {float(rates[0]):.0%}) |",
        "|---|--:|" + "--:|" * len(rates) + "---|",
    ]
    for kind, first in figures["by_error_rate"][rates[0]].items():
        counts = [figures["by_error_rate"][rate][kind]["not_kept"] for rate in rates]
        by = max(first["by"], key=first["by"].get) if first["by"] else ""
        shares = " | ".join(f"{count / first['planted']:.0%}" for count in counts)
        lines.append(f"| {kind} | {first['planted']} | {shares} | {by} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run with each error rate and write the figures, with a table beside them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10, help="Instances of each kind of error.")
    parser.add_argument("--good", type=int, default=120, help="Instances without one.")
    parser.add_argument("--error-rates", default="0,0.1,0.2", help="Shares of the judge's answers that are wrong.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rates = {}
    for rate in options.error_rates.split(","):
        rates[rate] = run_once(options.each, options.good, float(rate), options.seed)
        print(f"judge wrong {rate}: {rates[rate][GOOD]}", flush=True)  # noqa: T201
    figures = {"seed": options.seed, "votes": 3, "by_error_rate": rates}
    write_json(options.output, figures)
    options.output.with_suffix(".md").write_text(table(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
