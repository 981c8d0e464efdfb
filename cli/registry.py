"""Which commands there are, and how one is run: its words name it, its dataclasses are its options.

    @command("encode")
    def encode(settings: Encode, encoder: EncoderOptions):
        \"\"\"Encode texts into fused features on disk.\"\"\"

A command is a function whose arguments are dataclasses of options (see utils/options.py). The names of the arguments
are headings in `--help`, and its docstring says what it does.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_type_hints

from granted.cli.console import console, status
from granted.utils.errors import InputError
from granted.utils.options import help_text, read_options
from granted.utils.program import prepare_libraries


GROUPS = {
    "data": "Make and check data: TED-6K, caption pairs, scenes of shapes.",
    "evaluate": "Score text encoders, vision-language models, and generated images and videos.",
    "train": "Train: the context aggregator, the encoder by VQA (stage 1), the diffusion model (stage 2).",
}


@dataclass(frozen=True)
class Command:
    """A command of the tool, see [`command`]."""

    name: str
    run: Callable[..., object]
    without: Collection[str]
    settings: str | None
    models: bool

    @property
    def title(self) -> str:
        """Its first sentence."""
        return (self.run.__doc__ or "").partition("\n")[0]

    def kinds(self) -> dict[str, type]:
        """Its dataclasses by the heading of their options."""
        if self.settings:
            module, name = self.settings.split(":")
            return {"": getattr(import_module(module), name)}
        hints = {name: kind for name, kind in get_type_hints(self.run).items() if name != "return"}
        return {"" if name == "settings" else name.replace("_", " ").capitalize(): hints[name] for name in hints}


COMMANDS: dict[str, Command] = {}


def command(
    name: str, *, without: Collection[str] = (), settings: str | None = None, models: bool = True
) -> Callable[[Callable], Callable]:
    """Makes a function the command of a name.

    Args:
        name (`str`): one or two words, such as `"train vqa"`.
        without (`Collection[str]`): fields of its dataclasses that are no options of it.
        settings (`str`, *optional*): instead of annotations: `module:dataclass`, for one that loads libraries.
        models (`bool`, defaults to `True`): whether it works with models, whose libraries take seconds to load.
    """

    def register(run: Callable) -> Callable:
        COMMANDS[name] = Command(name, run, without, settings, models)
        return run

    return register


def run_command(arguments: Sequence[str]) -> None:
    """Run the command that the arguments name.

    Raises:
        InputError: there is no such command, or its options cannot be read.
    """
    words = [word for word in arguments[:2] if not word.startswith("-")]
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        _show_commands(words, arguments)
        return
    chosen, rest = COMMANDS[name], list(arguments[len(name.split()) :])
    asked = {"--help", "-h", "--help-all"} & set(rest)
    if asked:
        description = "\n\n".join(" ".join(part.split()) for part in (chosen.run.__doc__ or "").split("\n\n"))
        everything = "--help-all" in asked
        console.print(help_text(chosen.kinds(), f"granted {name}", description, chosen.without, everything=everything))
        return
    with status("loading libraries"):
        early = chosen.models and chosen.settings is not None  # the settings are a library's
        if early:
            prepare_libraries()
        given: list[Any] = read_options(chosen.kinds(), rest, f"granted {name}", chosen.without)
        if chosen.models and not early:
            prepare_libraries()
    chosen.run(*given)


def _show_commands(words: Sequence[str], arguments: Sequence[str]) -> None:
    """Show the commands, or those of a group; raise about a word that is none, and exit with 2 where none is given."""
    group = words[0] if words and words[0] in GROUPS else ""
    known = [name for name in COMMANDS if not group or name.startswith(f"{group} ")]
    unknown = words[1:2] if group else words[:1]
    if unknown:
        given = " ".join(words)
        near = get_close_matches(given, known, 1)
        perhaps = f"perhaps {near[0]}" if near else ", ".join(known)
        raise InputError(f"got no command {given!r}, expected one of granted ({perhaps}): see granted --help")
    lines = [f"usage: granted {group or 'COMMAND'} ...", ""]
    lines += [GROUPS[group] if group else "Score, adapt and plug in the text encoders of diffusion models (GRAN-TED)."]
    lines += ["", *(f"  {name:<22} {COMMANDS[name].title}" for name in known)]
    console.print("\n".join([*lines, "", "granted COMMAND --help shows the options of one."]))
    if not {"--help", "-h"} & set(arguments):
        sys.exit(2)
