"""Programs run where this package is not installed, as by someone who has the released files alone."""

import os
import subprocess
import sys
from pathlib import Path


WITHOUT = """
import importlib.abc
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
for name in {blocked}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"{{name}} can be imported: this test would show nothing")
"""


def offline(home: Path) -> dict[str, str]:
    """The environment of a process with its caches under `home` and no network."""
    caches = {"HF_HOME": "home", "HF_HUB_CACHE": "hub", "HF_MODULES_CACHE": "modules"}
    return os.environ | {"HF_HUB_OFFLINE": "1"} | {name: str(home / folder) for name, folder in caches.items()}


def run_without_package(
    program: str,
    folder: Path,
    *arguments: object,
    without: tuple[str, ...] = ("granted",),
    environment: dict[str, str] | None = None,
) -> None:
    """Run a program in `folder`; it must end well.

    Args:
        program (`str`): Python.
        folder (`Path`): where it runs, and where its caches are unless the environment says otherwise.
        *arguments: its `sys.argv[1:]`.
        without (`tuple[str, ...]`): packages that it cannot import.
        environment (`dict[str, str]`, *optional*): in place of [`offline`]'s.
    """
    ran = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT.format(blocked=without) + program, *map(str, arguments)],
        cwd=folder,
        env=offline(folder) if environment is None else environment,
        stdin=subprocess.DEVNULL,  # a question about remote code would fail
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
