"""What the commands share: options from a YAML file or a dataclass, lists in an option, what is printed.

app = Commands()                                 # typer's app; `run_app(app)` is the `granted` command
parse_settings(TextToImageConfig, arguments, "granted train text-to-image")      # a training's own options
"""

import argparse
import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text
from tqdm import tqdm
from typer.core import TyperCommand

from granted.utils.errors import InputError
from granted.utils.files import parts_of
from granted.utils.program import prepare_libraries
from granted.utils.settings_file import read_mapping, read_yaml


Settings = TypeVar("Settings")
LAST_SEED = 2**32 - 1  # of numpy's generators; torch's take more


class PlainConsole(Console):
    """A console that prints what it is given: no brackets or colons of a path are markup, and no line of text is cut.

    What it does goes on if nobody reads it any more, as in `granted ... | head`.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        text = all(isinstance(one, str) for one in objects)
        super().print(*objects, **({"soft_wrap": True} if text else {}) | options)

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()  # leads stdout to nowhere, and would end the process


console = PlainConsole()


def status(text: str) -> Status:
    """Shows what is being done, on a terminal, until it is done."""
    return PlainConsole(stderr=True).status(Text(text))


def progress(items: Iterable[Any], text: str, total: int | None) -> Iterable[Any]:
    """The items one by one, with a bar on a terminal."""
    return tqdm(items, text, total, disable=None)


# ---------------------------------------------------------------------------------------------------- options of typer


class _Command(TyperCommand):
    """A command whose numbers are finite, and which loads libraries only when its options have been read."""

    def parse_args(self, context, arguments):
        rest = super().parse_args(context, arguments)
        for name, value in context.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"got {name} {value}, expected a finite number: correct it")
        return rest

    def invoke(self, context):
        if not {"--help", "-h"} & set(context.args):  # of a training, which shows its own
            with status("loading libraries"):
                prepare_libraries()
        return super().invoke(context)


class Commands(typer.Typer):
    """A group of commands."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Callable], Callable]:
        return super().command(name, cls=_Command, **options)


def run_app(app: typer.Typer) -> None:
    """Run the command that the process's arguments name, and exit with its code.

    Raises:
        InputError: the arguments cannot be used.
    """
    try:
        code = typer.main.get_command(app)(prog_name="granted", standalone_mode=False)
    except typer.BadParameter.__base__ as error:  # a usage error
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
            sys.exit(2)
        path = error.ctx.command_path if error.ctx else "granted"
        raise InputError(f"{error.format_message().rstrip('.')}; see {path} --help") from error
    sys.exit(code or 0)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults of the command's options from a YAML file; options on the command line win."""
    if path is None:
        return None
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name != "config"}
    values = _known_settings(path, known)
    context.default_map = {name: _option_value(known[name], values[name], context, path) for name in values}
    return path


def _known_settings(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """What a YAML file holds, none of it unknown."""
    values = read_yaml(path)
    unknown = [name for name in values if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        perhaps = f" (perhaps {near[0]})" if near else ""
        raise InputError(
            f"got {', '.join(unknown)} in {path}, expected options of the command{perhaps}: see its --help"
        )
    return values


def _option_value(parameter: Any, value: Any, context: typer.Context, path: Path) -> Any:
    """A value of a YAML file as the command line gives it; raises if the option does not take it."""
    if value is None and not parameter.required and parameter.default is None:
        return None
    several = parameter.nargs == -1  # as an argument; an option takes a list as one text with commas
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise _refused(parameter.name, value, path, "a text, a number or a list of them")
    given = texts if several else ",".join(texts)
    try:
        converted = parameter.process_value(context, given)
        if type(converted) is int:
            int(given)  # typer takes 16.0 for a whole number
    except (typer.BadParameter, ValueError) as error:
        raise _refused(parameter.name, value, path, f"another value ({str(error).rstrip('.')})") from error
    if isinstance(value, list) and not several and (not isinstance(converted, str) or parts_of(given) != value):
        raise _refused(parameter.name, value, path, "one value, or a list of texts without commas in them")
    return given


def _refused(name: str, value: Any, path: str | Path, expected: str) -> InputError:
    shown = "null" if value is None else f"{value!r:.80}"
    return InputError(f"got {name}: {shown} in {path}, expected {expected}: correct it")


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


def numbers_of(text: str) -> list[float]:
    """The numbers of an option, which commas separate."""
    try:
        values = [float(part) for part in parts_of(str(text))]
    except ValueError as error:
        raise InputError(f"got {text!r}, expected numbers separated by commas ({error})") from error
    if not all(math.isfinite(value) for value in values):
        raise InputError(f"got {text!r}, expected finite numbers separated by commas")
    return values


def whole_numbers_of(text: str) -> list[int]:
    """As `numbers_of`, of whole numbers."""
    try:
        return [int(part) for part in parts_of(text)]
    except ValueError as error:
        raise InputError(f"got {text!r}, expected whole numbers separated by commas") from error


def seeds_of(text: str) -> list[int]:
    """The seeds of an option, which commas separate: at least one, and each once."""
    seeds = whole_numbers_of(text)
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= LAST_SEED for seed in seeds):
        raise InputError(f"got seeds {text!r}, expected at least one, each once, from 0 to {LAST_SEED}: correct them")
    return seeds


# --------------------------------------------------------------------------------------------- a training's dataclass


def parse_settings(kind: type[Settings], arguments: Sequence[str], command: str) -> Settings:
    """The settings of a training, a dataclass, from options and from a YAML file (`--config`); options win.

    Raises:
        InputError: an option, a key of the file or a value is unknown.
    """
    parser = _parser(kind, command)
    parser.add_argument("--config", help="YAML file with any of these settings")
    given = parser.parse_args(arguments)
    if given.config:
        parser.set_defaults(**_settings_in(given.config, kind, command))
        given = parser.parse_args(arguments)
    return kind(**{name: getattr(given, name) for name in _names(kind)})


def read_settings(kind: type[Settings], path: str) -> Settings:
    """The settings in a YAML file as a dataclass.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is not of its setting's type.
    """
    return kind(**_settings_in(path, kind, ""))


def _parser(kind: type, command: str) -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    parser = HfArgumentParser(
        kind,
        prog=command,
        description=inspect.getdoc(kind),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.register("type", dict, read_mapping)

    def refuse(message: str) -> None:  # instead of the usage, which fills the screen
        raise InputError(f"got options that cannot be read ({message}), expected those of {command} --help")

    parser.error = refuse
    return parser


def _settings_in(path: str, kind: type, command: str) -> dict[str, Any]:
    """What a YAML file says, converted as the same words on the command line."""
    parser, hints = _parser(kind, command), get_type_hints(kind)
    settings = {}
    for name, value in _known_settings(path, _names(kind)).items():
        kinds = {get_origin(part) or part for part in (hints[name], *get_args(hints[name]))}
        several = parser._option_string_actions[f"--{name}"].nargs == "+"
        if several and isinstance(value, str):
            value = parts_of(value)
        texts = value if several and isinstance(value, list) else [value]
        if all(isinstance(text, str) for text in texts):
            words = [f"--{name}", *texts] if several else [f"--{name}={value}"]
            try:
                settings[name] = getattr(parser.parse_args(words), name)
            except InputError as error:
                raise _refused(name, value, path, f"another value ({str(error).partition(';')[0]})") from error
        elif type(value) in kinds and texts is not value:
            settings[name] = value
        else:
            raise _refused(name, value, path, "one value")
    return settings


def _names(kind: type) -> list[str]:
    return [one.name for one in fields(kind) if one.init]
