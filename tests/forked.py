"""Python programs in processes of their own that begin at once: forked from one that has imported the libraries.

    process = forked(GRANTED, "train", "vqa", ...)           # the fixture of conftest.py: as `granted train vqa ...`
    process.kill()
    process.join()

For what only a process shows: it is killed, it fills a disk, there are two of it. How a process begins and what it
imports is tested in processes that are not forked, see test_program.py and fresh_process.py.
"""

import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path


GRANTED = "from granted import cli; cli.main()"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "granted.eval_metric.evaluation",
        "granted.eval_metric.generation.sampling",
        "granted.training.diffusion.text_to_image",
        "granted.training.vqa.finetuning",
    ]
)


class Forked:
    """Starts programs and keeps what they say; ends with those that still run."""

    def __init__(self, folder: Path):
        self.log = folder / "forked.log"
        self.processes: list[BaseProcess] = []

    def __call__(self, program: str, *arguments: object, **environment: str) -> BaseProcess:
        """Start `python -c program *arguments`, with variables besides those of this process."""
        variables = {**os.environ, **environment}
        process = CONTEXT.Process(target=_run, args=(program, [*map(str, arguments)], self.log, variables))
        process.start()
        self.processes.append(process)
        return process

    def done(self, program: str, *arguments: object, **environment: str) -> int:
        """Run a program to its end; its exit code."""
        process = self(program, *arguments, **environment)
        process.join(600)
        return process.exitcode

    def both_done(self, program: str, *arguments: object, **environment: str) -> None:
        """Run a program in two processes that know of each other; both must end well.

        They find the variables that `torchrun` sets; test_distributed_training.py starts its own by `torchrun`.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment |= {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        both = [self(program, *arguments, RANK=rank, LOCAL_RANK=rank, **environment) for rank in ("0", "1")]
        for process in both:
            process.join(600)
        assert [process.exitcode for process in both] == [0, 0], self.said()[-4000:]

    def said(self) -> str:
        """What the programs wrote on stdout and stderr."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _run(program: str, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
