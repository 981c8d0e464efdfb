"""The stages as datatrove pipelines: the rows are those of `granted data construct`, and no call is made twice."""

import pickle
from dataclasses import replace

import pytest

from granted.dataset_builders.construction.run import construct
from granted.dataset_builders.construction.store import CallStore
from granted.tests.construction_runs import data_of, knowing, paid, scenes_in, settings_of
from granted.tests.loopback_chat import LoopbackChat
from granted.utils.errors import InputError


pytest.importorskip("datatrove", reason="datatrove is not installed (extra construct-scale)")

from datatrove.executor import LocalPipelineExecutor

from granted.dataset_builders.construction.pipeline import AskStep, pipelines


SCENES = 6


def run_all(settings, tasks, logs):
    """The tasks of a step one after the other in this process: others take long to start."""
    before = None
    for name, steps, count in pipelines(settings, tasks=tasks):
        folder = str(logs / name)
        before = LocalPipelineExecutor(steps, tasks=count, workers=1, depends=before, logging_dir=folder)
    before.run()


def test_two_tasks_write_the_rows_of_one_command(tmp_path):
    truths = scenes_in(tmp_path / "one", SCENES)
    scenes_in(tmp_path / "two", SCENES)
    with LoopbackChat(knowing(truths)) as server:
        construct(settings_of(tmp_path / "one", server))
        calls = paid(server)
        settings = settings_of(tmp_path / "two", server)
        run_all(settings, 2, tmp_path / "logs")
        assert paid(server) == 2 * calls and not list((tmp_path / "two" / "parts").iterdir())
        construct(settings)
        assert paid(server) == 2 * calls, "the command finds every stage done"
    assert data_of(tmp_path / "two") == data_of(tmp_path / "one")


def test_what_one_of_the_two_was_answered_the_other_does_not_ask_again(tmp_path):
    truths = scenes_in(tmp_path / "run", SCENES)
    with LoopbackChat(knowing(truths)) as server:
        settings = settings_of(tmp_path / "run", server)
        with pytest.raises(InputError, match="max_calls"):
            construct(replace(settings, max_calls=4, concurrency=1))
        (_, [step], _), *_ = pipelines(settings, tasks=2)
        for rank in range(2):
            list(step.run(None, rank, 2))
            list(step.run(None, rank, 2))
        assert paid(server) == SCENES
        for rank in range(2):
            with CallStore(tmp_path / "run" / "parts" / f"caption-{rank}.sqlite") as store:
                assert store.spent().calls >= SCENES // 2


@pytest.mark.parametrize("name", ["max_calls", "max_tokens", "calls_per_minute"])
def test_what_tasks_cannot_keep_together_is_refused(tmp_path, name):
    scenes_in(tmp_path / "run", 1)
    with LoopbackChat(knowing({})) as server, pytest.raises(InputError, match=f"got {name} for 2 tasks"):
        pipelines(settings_of(tmp_path / "run", server, **{name: 10}), tasks=2)


def test_a_step_goes_to_other_processes_and_holds_nothing_of_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_TEST", "sk-secret")
    with LoopbackChat(knowing({})) as server:
        step = AskStep(settings_of(tmp_path, server, key_variable="SECRET_OF_TEST"), "caption")
    content = pickle.dumps(step)
    assert b"sk-secret" not in content and pickle.loads(content).settings == step.settings
