"""A construction from its settings to the exported data: the stages in their order, each once.

    construct(settings)                         # goes on where it was
    plan(settings)                              # what would be asked, without a call

Each stage has a folder in the run with `rows.parquet`, `set_aside.parquet` and `stage.json`, which appear together
when it is complete; what a stage has been answered until then is in `calls.sqlite`. A stage is done again if what it
is made of has changed, and takes the answers that still hold from there. How to run it tiny: docs/construction.md.
Tests: tests/test_construction_run.py.
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from granted.dataset_builders.construction.card import counted
from granted.dataset_builders.construction.client import Endpoint, NoAnswer, Request
from granted.dataset_builders.construction.curation import curate
from granted.dataset_builders.construction.export import export
from granted.dataset_builders.construction.prompts import Prompt, read_prompts
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.construction.stages import (
    SET_ASIDE,
    STAGES,
    Outcome,
    Stage,
    Unit,
    Writer,
    made_rows,
    name_of,
    take_step,
    units_of,
)
from granted.dataset_builders.construction.store import Call, CallStore
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.versions import library_versions


ROWS_PER_GROUP = 1000
LIBRARIES = ("granted", "aiohttp", "pyarrow", "jsonschema", "pillow")


def construct(settings: ConstructionSettings, report: Callable[[str], object] = lambda line: None) -> None:
    """Take every stage of a run that is not done yet.

    Args:
        settings (`ConstructionSettings`): what and how. Those of the data may not change within a folder.
        report (`Callable`): called with a line for each stage.

    Raises:
        InputError: the settings are not those of the folder, another process is working in it, or a stage cannot be
            finished. Run again, it goes on.
    """
    prompts = read_prompts(settings.prompts)
    with opened(settings, prompts) as store:
        report(f"curate: {curated(settings)}")
        for stage in STAGES.values():
            report(f"{stage.name}: {counted(done_stage(stage, settings, prompts, store)['counts'])}")
        run = settings.output
        kept = any(row["kept"] for row in made_rows(run, "check"))
        if settings.unreviewed or not kept or any(True for _ in made_rows(run, "review")):
            report(f"export: {counted(export(settings, run))}")
        else:
            report(f"export: waits for the review of the benchmark (granted data review {run}); then run this again")


def curated(settings: ConstructionSettings) -> str:
    """Curate the source, if that is not done; its counts in words."""
    path = settings.output / "curate" / "stage.json"
    if not path.is_file():
        curate(settings, settings.output, sys.stderr.isatty())
    return counted(read_json(path)["counts"])


@contextmanager
def opened(settings: ConstructionSettings, prompts: dict[str, Prompt]) -> Iterator[CallStore]:
    """The store of a run's folder, for this process alone and for these settings and prompts alone.

    Raises:
        InputError: the folder is in use, or belongs to other settings.
    """
    run = settings.output
    run.mkdir(parents=True, exist_ok=True)
    with alone(run / "run.lock"), CallStore(run / "calls.sqlite") as store:
        _require_same(run / "settings.json", settings, prompts, store)
        yield store


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """For one process at a time.

    Raises:
        InputError: there is another one.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(filelock.FileLock(lock, timeout=0))
        except filelock.Timeout:
            raise InputError(
                f"got {lock.parent}, in which another process is working, expected none: wait for it"
            ) from None
        yield


def _require_same(path: Path, settings: ConstructionSettings, prompts: dict[str, Prompt], store: CallStore) -> None:
    """Until the first call settings may change, as after a plan; then what was made by others is made again."""
    now = settings.of_the_data() | {f"prompt {name}": prompt.digest for name, prompt in prompts.items()}
    now = json.loads(json.dumps(now))
    before = read_json(path) if path.is_file() else now
    other = [name for name in now | before if now.get(name) != before.get(name)]
    if not path.is_file():
        write_json(path, now)
    elif other and not store.spent().calls:
        for name in ("curate", *STAGES):
            (path.parent / name / "stage.json").unlink(missing_ok=True)
        write_json(path, now)
    elif other:
        shown = [f"{name} {now.get(name)!r:.60} (before: {before.get(name)!r:.60})" for name in other[:3]]
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise InputError(
            f"got {', '.join(shown)}{more} for {path.parent}, expected the settings that it was begun with: take "
            "those, or another output, into which calls.sqlite may be copied so that no call is made twice"
        )


# -------------------------------------------------------------------------------------------------------------- stages


def done_stage(
    stage: Stage, settings: ConstructionSettings, prompts: dict[str, Prompt], store: CallStore
) -> dict[str, Any]:
    """The record of a stage, which is taken if it is not done, or was made of other rows.

    Args:
        stage (`Stage`), settings ([`ConstructionSettings`]): what is to be done, and in which run.
        prompts (`dict[str, Prompt]`): all prompts, by name.
        store ([`CallStore`]): where answers are read from and kept.

    Raises:
        InputError: it cannot be finished now.
    """
    if record := record_of(stage, settings):
        return record
    folder, made_of = settings.output / stage.name, _made_of(stage, settings)
    asyncio.run(ask_all(stage, settings, prompts, store))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        counts = _write(temporary, stage, _replayed(stage, settings, prompts, store))
        record = _record(stage, settings, prompts, store)
        write_json(temporary / "stage.json", record | {"counts": counts, "input": made_of})
    return read_json(folder / "stage.json")


def record_of(stage: Stage, settings: ConstructionSettings) -> dict[str, Any] | None:
    """The record of a stage that is done, and was made of the rows that are there now."""
    path = settings.output / stage.name / "stage.json"
    record = read_json(path) if path.is_file() else None
    return record if record and record.get("input") == _made_of(stage, settings) else None


async def ask_all(
    stage: Stage,
    settings: ConstructionSettings,
    prompts: dict[str, Prompt],
    store: CallStore,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Make the calls of a stage, so many at a time.

    Args:
        stage, settings, prompts, store: what is asked, and where answers are kept.
        part (`tuple[int, int]`, defaults to all): `(2, 8)` asks about the units 2, 10, 18, ... only.

    Raises:
        InputError: some calls got no answer. The others are kept.
    """
    first, step_size = part

    def units() -> Iterator[Unit]:
        return islice(units_of(stage, settings, settings.output), first, None, step_size)

    total = sum(1 for _ in units())
    async with Endpoint(settings, store) as endpoint:
        writer = Writer(settings, prompts, settings.output, endpoint.ask)
        with tqdm(desc=stage.name, total=total, disable=None) as bar:

            async def step(unit: Unit) -> None:
                await take_step(stage, unit, writer)
                bar.update()

            unanswered = await for_each(units(), step, settings.concurrency)
        if unanswered:
            unit, error = unanswered[0]
            raise InputError(
                f"got no answer for {len(unanswered)} of {total} in stage {stage.name} ({name_of(unit)}: {error}), "
                "expected one for each: run the same command again, which asks for these only"
            )


async def for_each(
    units: Iterable[Unit], step: Callable[[Unit], Any], concurrency: int
) -> list[tuple[Unit, NoAnswer]]:
    """Take a step for every unit, so many at a time; no more units than that are in memory.

    What ends it, such as Ctrl-C, lets the calls that are on their way come in: their answers are paid. A second Ctrl-C
    does not.

    Returns:
        `list`: the units without an answer, with what came instead.
    """
    waiting, unanswered, ended = iter(units), [], []

    async def work() -> None:
        for unit in waiting:
            try:
                await step(unit)
                await asyncio.sleep(0)  # a step that finds its answers in the store waits for nothing
            except NoAnswer as error:
                unanswered.append((unit, error))
            except BaseException as error:
                ended.append(error)
            if ended:
                return

    workers = [asyncio.ensure_future(work()) for _ in range(concurrency)]
    try:
        await asyncio.wait(workers)
    except asyncio.CancelledError as error:
        ended.append(error)
        await asyncio.wait(workers)
    if ended:
        raise ended[0]
    return unanswered


def _replayed(
    stage: Stage, settings: ConstructionSettings, prompts: dict[str, Prompt], store: CallStore
) -> Iterator[Outcome]:
    """What the recorded answers make of the units, in their order."""

    async def recorded(request: Request, attempt: int) -> Call:
        return store.find(request.key(attempt))

    writer = Writer(settings, prompts, settings.output, recorded)
    with closing(asyncio.new_event_loop()) as loop:
        for unit in units_of(stage, settings, settings.output):
            yield loop.run_until_complete(take_step(stage, unit, writer))


def _write(folder: Path, stage: Stage, outcomes: Iterable[Outcome]) -> dict[str, int]:
    counts = Counter({"rows": 0, "null": 0, "set aside": 0})
    with (
        pq.ParquetWriter(folder / "rows.parquet", stage.columns) as rows,
        pq.ParquetWriter(folder / "set_aside.parquet", SET_ASIDE) as set_aside,
    ):
        outcomes = iter(outcomes)
        while chunk := list(islice(outcomes, ROWS_PER_GROUP)):
            made = [row for outcome in chunk for row in outcome.rows]
            kept = [row for row in made if stage.keeps_null or row[stage.null] is not None]
            aside = [row for outcome in chunk for row in outcome.set_aside]
            rows.write_table(pa.Table.from_pylist(kept, schema=stage.columns))
            set_aside.write_table(pa.Table.from_pylist(aside, schema=SET_ASIDE))
            counts["rows"] += len(kept)
            counts["null"] += sum(row[stage.null] is None for row in made) if stage.null else 0
            counts["set aside"] += len(aside)
            if "kept" in stage.columns.names:
                counts["kept"] += sum(row["kept"] for row in kept)
            counts.update(f"not kept: {reason}" for row in made for reason in row.get("reasons", ()))
    return dict(counts)


def _record(
    stage: Stage, settings: ConstructionSettings, prompts: dict[str, Prompt], store: CallStore
) -> dict[str, Any]:
    """The provenance of a stage."""
    spent = store.spent(stage.name)
    used = {name: prompts[name] for name in prompts if name.startswith(PROMPTS_OF[stage.name])}
    given = stage.name == "caption" and settings.captions == "source"
    return {
        "stage": stage.name,
        "model": None if given else settings.model,
        "endpoint": settings.host,
        "prompts": {
            name: {
                "version": one.version,
                "hash": one.digest,
                "temperature": one.temperature,
                "max_tokens": one.max_tokens,
            }
            for name, one in used.items()
            if not given
        },
        "language": settings.language,
        "seed": settings.seed,
        "not_sent": store.not_sent(stage.name),
        "usage": asdict(spent),
        "mean_seconds": spent.seconds / spent.calls if spent.calls else None,
        "versions": library_versions(*LIBRARIES),
        "settings": hashlib.sha256((settings.output / "settings.json").read_bytes()).hexdigest(),
    }


PROMPTS_OF = {name: "check_" if name == "check" else stage.prompt.partition("{")[0] for name, stage in STAGES.items()}


def _made_of(stage: Stage, settings: ConstructionSettings) -> str:
    """A hash of the rows that a stage takes, and of the thresholds if it has some."""
    digest = hashlib.sha256(json.dumps(settings.thresholds()).encode() if stage.name == "check" else b"")
    for name in ("curate", *stage.inputs):
        digest.update(hashlib.sha256((settings.output / name / "rows.parquet").read_bytes()).digest())
    return digest.hexdigest()
