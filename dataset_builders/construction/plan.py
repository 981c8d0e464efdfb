"""What a construction would ask: three filled prompts a stage, and the number of calls and tokens. No call is made.

    for line in plan(settings):
        print(line)

Where a stage before has no rows yet, the examples of the prompts stand for them. Numbers are for a run in which
nothing is null and every answer can be used at once. Tests: tests/test_construction_run.py.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from granted.dataset_builders.construction.client import REFUSED, Request
from granted.dataset_builders.construction.media import LONGEST_SIDE
from granted.dataset_builders.construction.prompts import Prompt, read_prompts
from granted.dataset_builders.construction.run import curated, opened
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.construction.stages import (
    STAGES,
    Stage,
    Unit,
    Writer,
    parts_of,
    read_rows,
    take_step,
    units_of,
)
from granted.dataset_builders.construction.store import Call


SHOWN = 3
SAMPLE = 100  # units of a stage that are filled, to know how long its prompts are
CHARACTERS = 4  # a token, roughly
PIXELS = 28 * 28  # a token of an image, roughly


@dataclass
class Cost:
    """What a number of calls would cost."""

    calls: float = 0
    read: float = 0
    written: float = 0

    def add(self, request: Request, unit: Unit, frames: int) -> None:
        """Count a call."""
        self.calls += 1
        self.read += (len(request.filled.system) + len(request.filled.user)) / CHARACTERS
        self.written += request.max_tokens
        if request.media:
            scale = min(1, LONGEST_SIDE / max(unit["width"], unit["height"]))
            shown = frames if unit["media"] == "video" else 1
            self.read += shown * unit["width"] * unit["height"] * scale**2 / PIXELS

    def line(self, times: float = 1) -> str:
        """In words, so many times."""
        calls, read, written = (round(times * value) for value in (self.calls, self.read, self.written))
        return f"{calls:,} calls, about {read:,} tokens read and at most {written:,} written"


def plan(settings: ConstructionSettings) -> Iterator[str]:
    """The lines that say what would be asked.

    Args:
        settings (`ConstructionSettings`): those of the run. Its source is curated, which takes no model.

    Raises:
        InputError: as of `construct`.
    """
    prompts, whole = read_prompts(settings.prompts), Cost()
    with opened(settings, prompts):
        yield f"curate: {curated(settings)}"
        for stage in STAGES.values():
            units, count = _units(stage, settings, prompts)
            cost, requests = Cost(), []
            for unit in units:
                made = _requests(stage, unit, settings, prompts)
                requests += made
                for request in made:
                    cost.add(request, unit, settings.frames)
            times = count / len(units) if units else 0
            whole = Cost(*(getattr(whole, name) + times * getattr(cost, name) for name in vars(whole)))
            yield f"\n=== {stage.name}: {cost.line(times)}"
            for request in _different(requests):
                shown = f" (with the {request.media})" if request.media else ""
                yield f"\n--- {request.unit}{shown}\n{request.filled.system}\n\n{request.filled.user}"
    yield f"\nin all: {whole.line()}"


def _units(stage: Stage, settings: ConstructionSettings, prompts: dict[str, Prompt]) -> tuple[list[Unit], int]:
    """Some units of a stage, and how many there are."""
    run = settings.output
    there = all((run / name / "rows.parquet").is_file() for name in stage.inputs)
    find = units_of(stage, settings, run) if there else _imagined(stage, settings, prompts, run)
    units = list(islice(find, SAMPLE))
    return units, len(units) + sum(1 for _ in find)


def _imagined(stage: Stage, settings: ConstructionSettings, prompts: dict[str, Prompt], run: Path) -> Iterator[Unit]:
    """Units made of the items and of the examples of a prompt."""
    per = stage.per or ("category" if "positive" in stage.inputs else None)
    for item in read_rows(run, "curate"):
        if item["use"] not in stage.uses:
            continue
        for part in parts_of(per, item["media"], settings) if per else [None]:
            unit = item | ({per: part} if per else {})
            unit["caption"] = "(the caption)"
            if per == "category":
                example = prompts[STAGES["negatives"].prompt_of(unit)].examples.get(item["media"], [{}])[0]
                unit |= example.get("material", {}) | example.get("answer", {})
            yield unit


def _requests(stage: Stage, unit: Unit, settings: ConstructionSettings, prompts: dict[str, Prompt]) -> list[Request]:
    """What would be asked about a unit. Every answer is a refusal, after which nothing is asked again."""
    asked: list[Request] = []

    async def ask(request: Request, attempt: int) -> Call:
        asked.append(request)
        return Call(request.stage, request.unit, attempt, "", REFUSED, "a plan", None, None, 0.0)

    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(take_step(stage, unit, Writer(settings, prompts, settings.output, ask)))
    return asked


def _different(requests: list[Request]) -> list[Request]:
    """A few requests, of prompts that differ if there are any."""
    by_prompt = {request.filled.system: request for request in reversed(requests)}
    chosen = list(reversed(by_prompt.values()))[:SHOWN]
    return chosen + [request for request in requests if request not in chosen][: SHOWN - len(chosen)]
