"""The Python files that ship are this package's own, as they are here, and import little.

    check_code("import requests\\n", "modeling_granted.py", "model")
    # [(None, "is not as this package has it, expected its file: build the folder again")]

Tiny: tests/test_release_checks.py. A user runs such a file with `trust_remote_code=True`. What a text does cannot be
read from it with certainty; where it comes from can.
"""

import ast
from functools import cache
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from granted.pipeline_base import ENCODER_FILE, as_one_file


_ROOT = Path(__file__).parents[1]
# Modules of the standard library that they may import.
_STANDARD = (
    *("__future__", "abc", "ast", "collections", "collections.abc", "contextlib", "copy", "csv", "dataclasses"),
    *("enum", "functools", "glob", "hashlib", "html", "inspect", "itertools", "json", "math", "numbers", "operator"),
    *("os", "pathlib", "re", "reprlib", "sys", "textwrap", "types", "typing", "warnings", "weakref"),
)
# The folders of Spaces in eval_metric, and their code.
_SPACES = {"metric": ("ted_accuracy", ("ted_accuracy.py", "app.py")), "leaderboard": ("leaderboard", ("app.py",))}
# Libraries that they may import; those not named here, torch and transformers.
_LIBRARIES = {
    "sentence_granted.py": ("torch", "transformers", "sentence_transformers"),
    "pipeline_granted.py": ("torch", "transformers", "diffusers", "numpy"),
    **dict.fromkeys(
        ("modeling_text_input.py", f"text_encoder/{ENCODER_FILE}.py"), ("torch", "transformers", "ftfy")
    ),  # ftfy where it is installed
    "ted_6k.py": ("datasets",),
    "ted_accuracy.py": ("datasets", "evaluate", "numpy", "scipy"),
    "app.py": ("evaluate", "gradio", "huggingface_hub"),
}


def with_imports(path: Path) -> list[Path]:
    """A Python file and the files beside it that it needs."""
    return [path, *map(Path, get_relative_import_files(path))]


@cache
def shipped_code(kind: str) -> dict[str, str]:
    """The Python files that a repository of a kind may have: their places in it, and their texts."""
    if kind == "pipeline":
        return {
            "pipeline_granted.py": as_one_file(_ROOT / "pipeline_granted.py"),
            f"text_encoder/{ENCODER_FILE}.py": as_one_file(_ROOT / "modeling_granted.py"),
        }
    if kind == "model":
        paths = [*with_imports(_ROOT / "modeling_granted.py"), *with_imports(_ROOT / "sentence_granted.py")]
    elif kind == "dataset":
        paths = [_ROOT / "dataset_builders" / "ted_6k" / "ted_6k.py"]
    else:
        folder, names = _SPACES[kind]
        paths = [_ROOT / "eval_metric" / folder / name for name in names]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def check_code(text: str, name: str, kind: str) -> list[tuple[int | None, str]]:
    """What is wrong with a Python file that is to ship.

    Args:
        text (`str`): the file.
        name (`str`): its place in the repository.
        kind (`str`): of repository, as of [`shipped_code`].

    Returns:
        `list[tuple[int | None, str]]`: line, where there is one, and finding; empty for a file that may ship.
    """
    expected = shipped_code(kind).get(name)
    if expected is None:
        return [(None, f"is no file of this package's, expected only {', '.join(sorted(shipped_code(kind)))}")]
    if text != expected:
        return [(None, "is not as this package has it, expected its file: build the folder again")]
    libraries = _LIBRARIES.get(name, ("torch", "transformers"))
    return [
        (line, f"imports {module}, expected only {', '.join(libraries)} and what code_checks.py names")
        for line, module in _imports(ast.parse(text))
        if module not in _STANDARD and module.partition(".")[0] not in libraries
    ]


def _imports(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of each module that is imported by its absolute name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.lineno, node.module))
    return sorted(found)
