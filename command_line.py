"""What the commands share: options from a YAML file, lists in an option, errors as one line, the exit code.

run_as_command(lambda: app())                    # the `granted` command
run_as_program(run)                              # accelerate launch -m granted.training.vqa_finetuning ...
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_type_hints

import typer
import yaml
from rich.console import Console

from granted.errors import InputError


console = Console()


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults of the command's options from a YAML file; options on the command line win."""
    if path is None:
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"got {path}, expected a readable YAML file ({str(error).splitlines()[0]})") from error
    known = {parameter.name for parameter in context.command.params} - {"config"}
    several = {parameter.name for parameter in context.command.params if parameter.nargs == -1}
    if not isinstance(values, dict) or set(values) - known:
        unknown = ", ".join(sorted(map(str, set(values) - known))) if isinstance(values, dict) else "no mapping"
        raise InputError(f"got {unknown} in {path}, expected options of this command: {', '.join(sorted(known))}")
    context.default_map = {
        key: ",".join(map(str, value)) if isinstance(value, list) and key not in several else value
        for key, value in values.items()
    }
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with any of these options.", callback=_read_config, is_eager=True),
]


def takes(kind: type, parameter: str, panel: str) -> Callable[[Callable], Callable]:
    """Decorates a command: it has the fields of a dataclass as options and gets them as one argument.

    Args:
        kind (`type`): the dataclass; the `help` in the metadata of a field is its sentence in `--help`.
        parameter (`str`): the argument of the command that gets it.
        panel (`str`): heading of these options in `--help`.
    """
    hints = get_type_hints(kind)

    def decorate(command: Callable) -> Callable:
        options = []
        for one in fields(kind):
            names = [f"--{one.name.replace('_', '-')}"] if hints[one.name] is bool else []
            option = typer.Option(*names, help=one.metadata["help"], rich_help_panel=panel)
            annotation = Annotated[hints[one.name], option]
            options.append(
                inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=annotation)
            )

        @functools.wraps(command)
        def run(**given):
            built = kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            return command(**given, **{parameter: built})

        signature = inspect.signature(command)
        own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
        run.__signature__ = signature.replace(parameters=[one for one in own if one.name != parameter] + options)
        run.__annotations__ = {name: one.annotation for name, one in run.__signature__.parameters.items()}
        return run

    return decorate


def parts_of(text: str) -> list[str]:
    """The parts of an option, which commas separate."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers_of(text: str) -> list[float]:
    """The numbers of an option, which commas separate."""
    try:
        return [float(part) for part in parts_of(str(text))]
    except ValueError as error:
        raise InputError(f"got {text!r}, expected numbers separated by commas ({error})") from error


def whole_numbers_of(text: str) -> list[int]:
    """As `numbers_of`, of whole numbers."""
    values = numbers_of(text)
    if any(value % 1 != 0 for value in values):
        raise InputError(f"got {text!r}, expected whole numbers separated by commas")
    return [int(value) for value in values]


def run_as_command(command: Callable[[], object]) -> None:
    """Run a command: errors of the input are short and exit with 2, an interrupt exits with 130."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        command()
    except ValueError as error:
        from granted.modeling_text_trunk import NotFiniteError  # what ships has no InputError

        if not isinstance(error, InputError | NotFiniteError):
            raise
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        print("granted:", "\n".join(lines), file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, KeyboardInterrupt) or end.code == 130:  # what typer makes of a KeyboardInterrupt
            print("granted: interrupted; run the same command again to go on", file=sys.stderr)  # noqa: T201
            sys.exit(130)
        raise


def run_as_program(run: Callable[[Sequence[str]], str]) -> None:
    """Entry point of a training under `accelerate launch -m`: what `run` answers to the options is printed once."""
    from accelerate import PartialState

    def command() -> None:
        shown = run(sys.argv[1:])
        if PartialState().is_main_process:
            sys.stdout.write(f"{shown}\n")

    run_as_command(command)
