"""The stages that a model writes: which rows go in, what is asked about each, and which rows come out.

    stage = STAGES["negatives"]
    for unit in units_of(stage, settings, run_folder):          # one item, or one item and one category
        outcome = await take_step(stage, unit, Writer(settings, prompts, run_folder, endpoint.ask))
        outcome.rows, outcome.set_aside

Stages differ in their data alone; only `check` asks several things of a unit. A step knows nothing of the run around
it, so that whatever has units and somewhere to ask can take it. Rows have the order of those that they are made of,
and are read as a stream. Tests: tests/test_construction_run.py.
"""

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from granted.dataset_builders.construction import media
from granted.dataset_builders.construction.answers import length_fault, read_answer, text_fault
from granted.dataset_builders.construction.checks import TEXT_SCORES, model_free_checks
from granted.dataset_builders.construction.client import REFUSED, Request
from granted.dataset_builders.construction.curation import USES
from granted.dataset_builders.construction.prompts import Prompt, fill
from granted.dataset_builders.construction.settings import ASPECTS, VIDEO_ASPECTS, ConstructionSettings
from granted.dataset_builders.construction.store import Call
from granted.dataset_builders.ted_6k.records import CATEGORIES, VIDEO_ONLY, snake_case
from granted.utils.errors import InputError, refusing


Unit = dict[str, Any]
Ask = Callable[[Request, int], Awaitable[Call]]
QUESTIONS = {
    "Action Recognition": "What does somebody or something do?",
    "Adjective": "What is something or somebody like?",
    "Adverb": "In which manner, or to which degree?",
    "Basic Event": "What is going on?",
    "Coreference": "What does the quoted expression refer to?",
    "OCR": "Which text can be read?",
    "Quantity": "How many are there?",
    "Spatial Relationship": "Where is it in relation to something else?",
    "Temporal": "In which order do things happen?",
}
INSTANCE = pa.schema(
    [
        *((name, pa.string()) for name in ("instance", "id", "media", "file", "caption", "category", "question")),
        ("statements", pa.list_(pa.string())),
        ("label", pa.int64()),
    ]
)
MODEL_SCORES = ("supported", "contradicted", "paraphrased", "blind")
SCORES = (*TEXT_SCORES, *MODEL_SCORES)
SET_ASIDE = pa.schema([(name, pa.string()) for name in ("id", "category", "reason", "answer")])


@dataclass
class Outcome:
    """What a step makes of a unit."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    set_aside: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Writer:
    """Who writes.

    Args:
        settings (`ConstructionSettings`), prompts (`dict[str, Prompt]`): how.
        run (`Path`): the folder that the files of items are in.
        ask (`Callable`): answers a request, such as `Endpoint.ask`.
    """

    settings: ConstructionSettings
    prompts: dict[str, Prompt]
    run: Path
    ask: Ask

    async def answer(
        self, stage: "Stage", unit: Unit, prompt: str, material: dict[str, Any], part: str = ""
    ) -> tuple[dict[str, Any] | None, Call]:
        """The value of the first answer that can be used, or `None`, and the last call.

        Args:
            stage (`Stage`), unit (`dict`): what asks, and what it asks about.
            prompt (`str`): the name of the prompt.
            material (`dict`): what the prompt is filled with, and what an answer is checked against.
            part (`str`): tells several requests about one unit apart.
        """
        request = self.request(stage, unit, prompt, material, part)
        for attempt in range(self.settings.asks):
            call = await self.ask(request, attempt)
            if call.finish == REFUSED:
                break
            value, fault = read_answer(request.kind, call.answer, call.finish, material, self.settings)
            if fault is None:
                return value, call
        return None, call

    def request(
        self, stage: "Stage", unit: Unit, prompt_name: str, material: dict[str, Any], part: str = ""
    ) -> Request:
        """What is asked about a unit.

        Args:
            stage, unit, prompt_name, material, part: as of [`answer`].
        """
        prompt = self.prompts[prompt_name]
        return Request(
            stage=stage.name,
            unit=name_of(unit) + part,
            model=self.settings.model,
            filled=fill(prompt, material, unit["media"], self.settings.language),
            kind=prompt.kind,
            material=material,
            temperature=prompt.temperature,
            max_tokens=prompt.max_tokens,
            seed=self.settings.seed,
            **(self._shown(unit) if stage.sees else {}),
        )

    def _shown(self, unit: Unit) -> dict[str, Any]:
        path, frames = self.run / unit["file"], self.settings.frames
        if unit["media"] == "image":
            return {"media": f"image {unit['id']}", "data_urls": lambda: [media.image_data_url(path)]}
        return {
            "media": f"video {unit['id']} in {frames} frames",
            "data_urls": partial(media.frame_data_urls, path, frames),
        }


@dataclass(frozen=True)
class Stage:
    """A stage.

    Fields:
        name (`str`): also of its folder.
        uses (`tuple[str, ...]`): of the items that it is for.
        inputs (`tuple[str, ...]`): the stages whose rows it takes, beside the items.
        prompt (`str`): the file's name, in which the unit's fields are put.
        columns (`pa.Schema`): of its rows, which have them from the unit and from the answer.
        material (`tuple[str, ...]`): fields of the unit that the prompt is filled with.
        sees (`bool`): whether the image or video is shown.
        per (`str`, *optional*): `"category"` or `"aspect"`, if an item is one unit for each.
        null (`str`, *optional*): the column that is null where the answer is that there is nothing to say.
        keeps_null (`bool`): whether such a row is kept.
        step (`Callable`): another step than asking once.
    """

    name: str
    uses: tuple[str, ...]
    inputs: tuple[str, ...]
    prompt: str
    columns: pa.Schema
    material: tuple[str, ...] = ()
    sees: bool = False
    per: str | None = None
    null: str | None = None
    keeps_null: bool = True
    step: Callable[["Stage", Unit, Writer], Awaitable[Outcome]] | None = None

    def prompt_of(self, unit: Unit) -> str:
        """The name of the prompt for a unit."""
        return self.prompt.format(**{key: snake_case(str(unit.get(key))) for key in ("media", "category", "aspect")})


async def take_step(stage: Stage, unit: Unit, writer: Writer) -> Outcome:
    """What a stage makes of a unit: its rows, or why it is set aside."""
    if stage.step:
        return await stage.step(stage, unit, writer)
    if stage.name == "caption" and writer.settings.captions == "source":
        return _given_caption(unit, writer.settings)
    material = {name: unit[name] for name in stage.material}
    value, call = await writer.answer(stage, unit, stage.prompt_of(unit), material)
    if value is None:
        return Outcome(set_aside=[_set_aside(unit, call)])
    row = {name: (unit | value)[name] for name in stage.columns.names}
    return Outcome([row])


def _given_caption(unit: Unit, settings: ConstructionSettings) -> Outcome:
    caption, fault = unit["source_caption"], "the source has no caption of it"
    if caption:
        # Line breaks may be in it, other than in an answer.
        fault = text_fault(" ".join(caption.split())) or length_fault("the caption", caption, settings.caption_words)
    if fault:
        return Outcome(set_aside=[{"id": unit["id"], "category": None, "reason": fault, "answer": caption}])
    return Outcome([{"id": unit["id"], "caption": caption}])


async def check(stage: Stage, unit: Unit, writer: Writer) -> Outcome:
    """An instance with its scores: those that need no model first, and the model's if those let it pass."""
    settings, outcome = writer.settings, Outcome()
    instance = instance_of(unit, settings.seed)
    found, reasons = model_free_checks(instance, settings)
    scores = dict.fromkeys(SCORES) | found
    if not reasons:
        judged = await _judged(stage, unit, instance, writer, outcome)
        scores |= judged
        reasons = model_reasons(judged, settings)
    outcome.rows.append(instance | scores | {"reasons": reasons, "kept": not reasons})
    return outcome


async def _judged(stage: Stage, unit: Unit, instance: Unit, writer: Writer, outcome: Outcome) -> dict[str, float]:
    """Scores from 0 to 1 by the model; an answer that cannot be used is a vote for nothing."""

    async def judge(prompt: str, material: dict[str, Any], part: str) -> dict[str, Any]:
        value, call = await writer.answer(stage, unit, prompt, material, part)
        if value is None:
            outcome.set_aside.append(_set_aside(unit, call))
        return value or {}

    votes, caption = range(writer.settings.votes), unit["caption"]
    shares = []
    for number, statement in enumerate([unit["statement"], *unit["statements"]]):
        wanted, material = "false" if number else "true", {"caption": caption, "statement": statement}
        verdicts = [await judge("check_support", material, f"/statement {number}/vote {vote}") for vote in votes]
        shares.append(sum(verdict.get("verdict") == wanted for verdict in verdicts) / len(votes))
    material = {"statement": unit["statement"], "statements": unit["statements"]}
    same = [(await judge("check_same", material, f"/same/vote {vote}")).get("same", ()) for vote in votes]
    blind = 0
    for vote in votes:
        order = random.Random(f"{writer.settings.seed}/{instance['instance']}/{vote}").sample(range(4), 4)
        material = {"statements": [instance["statements"][i] for i in order]}
        choice = (await judge("check_blind", material, f"/blind/vote {vote}")).get("choice")
        blind += choice is not None and order[choice - 1] == instance["label"]
    return {
        "supported": shares[0],
        "contradicted": min(shares[1:]),
        "paraphrased": max(map(sum, zip_longest(*same, fillvalue=False)), default=0) / len(votes),
        "blind": blind / len(votes),
    }


def model_reasons(scores: dict[str, float], settings: ConstructionSettings) -> list[str]:
    """Why an instance is not kept, by what the model judged."""
    found = {
        "the caption does not support the positive": scores["supported"] < settings.min_supported,
        "the caption does not contradict a negative": scores["contradicted"] < settings.min_contradicted,
        "a negative paraphrases the positive": scores["paraphrased"] > 0.5,
        "the positive is found without the caption": scores["blind"] > settings.max_blind,
    }
    return [reason for reason, holds in found.items() if holds]


def instance_of(unit: Unit, seed: int) -> dict[str, Any]:
    """The instance of a unit with caption, positive and negatives; its statements in an order of its own."""
    name = f"{unit['id']}-{snake_case(unit['category'])}"
    statements = [unit["statement"], *unit["statements"]]
    order = random.Random(f"{seed}/{name}").sample(range(len(statements)), len(statements))
    return {
        "instance": name,
        **{key: unit[key] for key in ("id", "media", "file", "caption", "category")},
        "question": QUESTIONS[unit["category"]],
        "statements": [statements[i] for i in order],
        "label": order.index(0),
    }


def _set_aside(unit: Unit, call: Call) -> dict[str, Any]:
    part = unit.get("category") or unit.get("aspect")
    return {"id": unit["id"], "category": part, "reason": call.fault, "answer": call.answer}


def name_of(unit: Unit) -> str:
    """What a unit is called among the calls of its stage."""
    part = unit.get("category") or unit.get("aspect")
    return f"{unit['id']}/{snake_case(part)}" if part else unit["id"]


def _strings(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


STAGES = {
    stage.name: stage
    for stage in (
        Stage("caption", USES, (), "caption_{media}", _strings("id", "caption"), sees=True),
        Stage("second_caption", ("pairs",), (), "second_caption_{media}", _strings("id", "caption"), sees=True),
        Stage(
            "positive",
            ("ted",),
            ("caption",),
            "positive_{category}",
            _strings("id", "category", "statement"),
            material=("caption",),
            per="category",
            null="statement",
        ),
        Stage(
            "negatives",
            ("ted",),
            ("caption", "positive"),
            "negatives_{category}",
            pa.schema([("id", pa.string()), ("category", pa.string()), ("statements", pa.list_(pa.string()))]),
            material=("caption", "statement"),
        ),
        Stage(
            "questions",
            ("vqa",),
            ("caption",),
            "question_{aspect}",
            _strings("id", "aspect", "question", "answer"),
            material=("caption",),
            sees=True,
            per="aspect",
            null="question",
            keeps_null=False,
        ),
        Stage(
            "check",
            ("ted",),
            ("caption", "positive", "negatives"),
            "check_support",
            pa.schema(
                [
                    *INSTANCE,
                    *((name, pa.float64()) for name in SCORES),
                    ("reasons", pa.list_(pa.string())),
                    ("kept", pa.bool_()),
                ]
            ),
            step=check,
        ),
    )
}


# --------------------------------------------------------------------------------------------------------------- units


def units_of(stage: Stage, settings: ConstructionSettings, run: Path) -> Iterator[Unit]:
    """The units of a stage, from the rows of the stages before it."""
    units = read_rows(run, "curate")
    for name in stage.inputs:
        units = along(units, read_rows(run, name))
    for unit in units:
        if unit["use"] not in stage.uses:
            continue
        if stage.per:
            yield from ({**unit, stage.per: part} for part in parts_of(stage.per, unit["media"], settings))
        elif unit.get("statement", "") is not None:
            yield unit


def parts_of(per: str, media: str, settings: ConstructionSettings) -> list[str]:
    """The categories, or the aspects, that an image or a video is asked about."""
    chosen, video = {
        "category": (settings.categories or CATEGORIES, VIDEO_ONLY),
        "aspect": (settings.aspects or ASPECTS, VIDEO_ASPECTS),
    }[per]
    return [part for part in chosen if media == "video" or part not in video]


def along(left: Iterable[Unit], right: Iterable[Unit]) -> Iterator[Unit]:
    """Each row of the left with those of the right that have its id, and its category if both have one.

    The right has the order of the left; a row of the left may have none.

    Raises:
        InputError: a row of the right has no place in this order.
    """
    rows = iter(right)
    row = next(rows, None)
    for one in left:
        while row is not None and all(one[key] == row[key] for key in ("id", "category") if key in one and key in row):
            yield {**one, **row}
            row = next(rows, None)
    if row is not None:
        raise InputError(
            f"got a row of item {row['id']} that the stage before does not have, expected stages of one run: remove "
            "the folders of the later stages and run the same command again; no call is made twice"
        )


def made_rows(run: Path, stage: str) -> Iterator[Unit]:
    """The rows of a stage, and none where it has not been taken."""
    return read_rows(run, stage) if (run / stage / "rows.parquet").is_file() else iter(())


def read_rows(run: Path, stage: str) -> Iterator[Unit]:
    """The rows of a stage, as a stream.

    Raises:
        InputError: they are missing or cannot be read.
    """
    path = run / stage / "rows.parquet"
    with refusing(str(path), "the rows of a stage: remove its folder and run the same command again"):
        file = pq.ParquetFile(path)
    with file:
        for batch in file.iter_batches(batch_size=1000):
            yield from batch.to_pylist()
