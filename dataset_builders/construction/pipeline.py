"""The model stages of a construction as datatrove pipelines: on this machine, on Slurm, or on Ray.

    before = None
    for name, steps, tasks in pipelines(settings, tasks=8):
        before = LocalPipelineExecutor(steps, tasks=tasks, depends=before, logging_dir=f"logs/{name}")
    before.run()                        # then `granted data construct` exports

Each stage is two pipelines. In the first every task asks about its part of the units and keeps the answers in a file
of its own; in the second one task puts them into the run's calls and writes the rows, by the code of `granted data
construct` and so with the same outcome. The run's folder has to be on a disk that all tasks see. Needs the extra
`construct-scale`. Tests: tests/test_construction_pipeline.py.
"""

import asyncio

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from granted.dataset_builders.construction.prompts import read_prompts
from granted.dataset_builders.construction.run import alone, ask_all, curated, done_stage, opened, record_of
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.construction.stages import STAGES
from granted.dataset_builders.construction.store import CallStore
from granted.utils.errors import InputError


def pipelines(settings: ConstructionSettings, tasks: int) -> list[tuple[str, list[PipelineStep], int]]:
    """What is to be run, one after the other: a name, the steps, and the number of tasks of each.

    Args:
        settings (`ConstructionSettings`): those of the run. Its source is curated here, if that is not done.
        tasks (`int`): among which the units of a stage are shared out. Each makes `concurrency` calls at a time.

    Raises:
        InputError: a cap or a pace is set, which tasks cannot keep together; or as of `construct`.
    """
    for name in ("max_calls", "max_tokens", "calls_per_minute"):
        if getattr(settings, name) is not None:
            raise InputError(f"got {name} for {tasks} tasks, which count alone, expected none: leave it out")
    with opened(settings, read_prompts(settings.prompts)):
        curated(settings)
    planned = []
    for stage in STAGES:
        planned.append((f"{stage}-ask", [AskStep(settings, stage)], tasks))
        planned.append((f"{stage}-write", [WriteStep(settings, stage)], 1))
    return planned


class StageStep(PipelineStep):
    """What is done about a stage.

    Args:
        settings (`ConstructionSettings`): those of the run.
        stage (`str`): its name.
    """

    type = "construction"

    def __init__(self, settings: ConstructionSettings, stage: str):
        super().__init__()
        self.settings, self.stage = settings, stage
        self.parts = settings.output / "parts"


class AskStep(StageStep):
    """Makes a task's part of the calls."""

    name = "ask"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Ask, and keep the answers in the file of this task."""
        stage, settings = STAGES[self.stage], self.settings
        if not record_of(stage, settings):
            self.parts.mkdir(exist_ok=True)
            path = self.parts / f"{self.stage}-{rank}.sqlite"
            with alone(path.with_suffix(".lock")), CallStore(path) as store:
                store.take(settings.output / "calls.sqlite", self.stage)
                prompts = read_prompts(settings.prompts)
                asyncio.run(ask_all(stage, settings, prompts, store, part=(rank, world_size)))
        yield from data or ()


class WriteStep(StageStep):
    """Writes the rows from the answers of all tasks."""

    name = "write"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Gather the answers, and write."""
        prompts = read_prompts(self.settings.prompts)
        answered = sorted(self.parts.glob(f"{self.stage}-*.sqlite"))
        with opened(self.settings, prompts) as store:
            for path in answered:
                with CallStore(path):  # puts what a killed task has left beside the file into it
                    pass
                store.take(path, self.stage)
            done_stage(STAGES[self.stage], self.settings, prompts, store)
        for path in answered:
            path.unlink()
            path.with_suffix(".lock").unlink(missing_ok=True)
        yield from data or ()
