"""The options of a command are the fields of its dataclasses: what a setting is, its default and its help stand there.

    @dataclass
    class Encode:
        encoder: str = option(help="Hub id, folder or GGUF file.", positional=True)
        token_budget: Count = option(8192, "Most tokens read at a time.")

    encode, loading = read_options({"": Encode, "Encoder": EncoderOptions}, arguments, "granted encode")
    settings = read_settings(AggregatorTrainingConfig, "settings.yaml")

Command line and YAML file say the same words: `--token-budget 4096` or `token_budget: 4096`, with hyphens or with
underscores. A list is one word with commas, or a YAML list; a flag is `--offload`, `--no-offload`, `--offload false`.
Hardly anything is loaded with this file. Tests: tests/test_options.py.
"""

import copy
import shutil
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from granted.utils.errors import InputError
from granted.utils.files import parts_of
from granted.utils.settings import check_value, expected_of
from granted.utils.settings_file import read_mapping, read_yaml


Settings = TypeVar("Settings")
NAMES_WIDTH = 34  # of the column of names in a help text
CONFIG = "config"


def option(default: Any = MISSING, help: str = "", *, group: str = "", positional: bool = False) -> Any:
    """A field of a dataclass of options.

    Args:
        default: of any type; without one the option has to be given.
        help (`str`): the sentence that `--help` shows.
        group (`str`, *optional*): its heading in `--help`; that of its dataclass by default.
        positional (`bool`, defaults to `False`): given without its name, before or between the others.
    """
    metadata = {"help": help, "group": group, "positional": positional}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One option of a command, as its field declares it; those made by [`option`] are `shown` in the short help."""

    name: str
    kind: Any
    default: Any
    help: str
    group: str
    positional: bool
    shown: bool

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return self.name if self.positional else f"--{self.name.replace('_', '-')}"

    @property
    def several(self) -> bool:
        """Whether it is a list."""
        return any(get_origin(part) is list or part is list for part in _parts(self.kind))


def options_of(kinds: Mapping[str, type], without: Collection[str] = ()) -> dict[str, Option]:
    """The options of dataclasses by name, in order.

    Args:
        kinds (`dict[str, type]`): the dataclasses by the heading of their options.
        without (`Collection[str]`): fields that are no options of this command.
    """
    found = {}
    for title, kind in kinds.items():
        hints = get_type_hints(kind, include_extras=True)
        for one in fields(kind):
            if not one.init or one.name in without:
                continue
            default = one.default if one.default_factory is MISSING else one.default_factory()
            about = one.metadata
            group, positional = about.get("group") or title, about.get("positional", False)
            found[one.name] = Option(
                one.name, hints[one.name], default, about.get("help", ""), group, positional, "group" in about
            )
    return found


def read_options(
    kinds: Mapping[str, type], arguments: Sequence[str], command: str, without: Collection[str] = ()
) -> list[Any]:
    """The dataclasses of a command, filled from a command line and from the YAML file of its `--config`; options win.

    Args:
        kinds (`dict[str, type]`), without (`Collection[str]`): see [`options_of`].
        arguments (`Sequence[str]`): the words after the command's name.
        command (`str`): such as `"granted encode"`, for messages.

    Raises:
        InputError: an option or a key of the file is unknown or missing, or does not take its value.
    """
    options = options_of(kinds, without)
    given = _command_line(options, arguments, command)
    values = {}
    if path := given.pop(CONFIG, None):
        values = _file_values(options, path)
    for name, value in given.items():
        values[name] = value_of(options[name].flag, value, options[name].kind)
    missing = [one.flag for one in options.values() if one.default is MISSING and one.name not in values]
    if missing:
        raise InputError(f"got no {', '.join(missing)}, expected a value: give one, see {command} --help")
    return [kind(**{one: values[one] for one in _names(kind) if one in values}) for kind in kinds.values()]


def read_settings(kind: type[Settings], path: str | Path) -> Settings:
    """A dataclass filled from a YAML file.

    Raises:
        InputError: the file cannot be read, a key is unknown, or a value is not of its setting's type.
    """
    return kind(**_file_values(options_of({"": kind}), path))


def _names(kind: type) -> list[str]:
    return [one.name for one in fields(kind) if one.init]


def _command_line(options: Mapping[str, Option], arguments: Sequence[str], command: str) -> dict[str, Any]:
    """By option the words that were given for it; the values of positional ones as lists where they take several."""
    given: dict[str, Any] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--"):
            name, value = _named(argument, rest, options, command)
            if name in given and name != CONFIG and options[name].several:  # the first list would be lost
                raise InputError(f"got {options[name].flag} twice, expected one list: join the two with commas")
            given[name] = value
        else:
            words.append(argument)
    for one in (one for one in options.values() if one.positional):
        taken = words if one.several else words[:1]
        words = words[len(taken) :]
        if taken:
            given[one.name] = taken if one.several else taken[0]
    if words:
        raise InputError(f"got {words[0]!r} without the option that it is a value of: see {command} --help")
    return given


def _named(argument: str, rest: list[str], options: Mapping[str, Option], command: str) -> tuple[str, str]:
    """Name and value of `--name value` or `--name=value`; a value that is a word of its own is taken from the rest."""
    name, equals, value = argument[2:].partition("=")
    shown, name = f"--{name.replace('_', '-')}", name.replace("-", "_")
    negated = options.get(name.removeprefix("no_"))
    if negated and name not in options and _is_flag(negated) and not equals:
        return negated.name, "false"
    if name != CONFIG and (name not in options or options[name].positional):
        raise InputError(_unknown(f"got the unknown option {shown}", name, options, command))
    if equals:
        return name, value
    if name != CONFIG and _is_flag(options[name]):
        return name, rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
    if not rest or rest[0].startswith("--"):
        raise InputError(f"got {shown} without a value, expected one: see {command} --help")
    return name, rest.pop(0)


def _unknown(got: str, name: str, known: Iterable[str], place: str) -> str:
    near = get_close_matches(name, list(known), 1)
    perhaps = f" (perhaps --{near[0].replace('_', '-')})" if near else ""
    return f"{got}, expected an option of {place}{perhaps}: see its --help"


def _file_values(options: Mapping[str, Option], path: str | Path) -> dict[str, Any]:
    """What a YAML file says, each value of its option's type."""
    values = {}
    for key, value in read_yaml(path).items():
        name = key.replace("-", "_")
        if name not in options:
            raise InputError(_unknown(f"got {key} in {path}", name, options, "the command"))
        if name in values:
            raise InputError(f"got {name} twice in {path}, with hyphens and with underscores, expected it once")
        try:
            values[name] = value_of(name, value, options[name].kind)
        except InputError as error:
            raise InputError(f"{error} (in {path})") from error
    return values


# -------------------------------------------------------------------------------------------------------------- values


def value_of(name: str, given: Any, kind: Any) -> Any:
    """What words mean for a setting: the text of a command line, or what [`read_yaml`] gives.

    Args:
        name (`str`): of the setting, for the message.
        given (`str`, `list[str]`, `dict` or `None`): the words.
        kind: the annotation of the setting, such as `Count`, `list[float]`, `str | None` or `Literal["a", "b"]`.

    Raises:
        InputError: they mean nothing for it, or what is out of its bounds.
    """
    parts = _parts(kind)
    if isinstance(given, str) and "," not in given and str in parts:  # one text is no list where it may be a text
        parts = [part for part in parts if get_origin(part) is not list]
    for part in parts:
        value = _converted(name, given, part)
        if value is not MISSING:
            return value
    shown = "null" if given is None else f"{given!r:.80}"
    raise InputError(f"got {name} {shown}, expected {expected_of(kind)}")


def _parts(kind: Any) -> list[Any]:
    """The members of a union, those first that take the fewest texts."""
    if get_origin(kind) not in (Union, UnionType):
        return [kind]
    order = (NoneType, bool, int, float)
    members = sorted(
        get_args(kind), key=lambda one: order.index(_bare(one)) if _bare(one) in order else len(order) + (one is str)
    )
    return members


def _bare(kind: Any) -> Any:
    """The type that bounds are put around."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_flag(option: Option) -> bool:
    return any(_bare(part) is bool for part in _parts(option.kind))


def _converted(name: str, given: Any, kind: Any) -> Any:
    """The value, or `MISSING` where words are none of a kind that is no union."""
    origin, bare = get_origin(kind), _bare(kind)
    if given is None:
        return None if bare is NoneType else MISSING
    if origin is list or bare is list:
        return _list_of(name, given, (get_args(kind) or (str,))[0])
    if origin is dict or bare is dict:
        return given if isinstance(given, dict) else _mapping_of(given)
    value = _scalar_of(given, kind, bare) if isinstance(given, str) else MISSING
    if value is not MISSING and (origin is Annotated or bare in (int, float)):
        check_value(name, value, kind)  # in its bounds, and no NaN
    return value


def _scalar_of(text: str, kind: Any, bare: Any) -> Any:
    if get_origin(kind) is Literal:
        return next((one for one in get_args(kind) if str(one) == text), MISSING)
    if bare is bool:
        return {"true": True, "false": False}.get(text.lower(), MISSING)
    if bare in (int, float):
        return _number_of(text, bare)
    if isinstance(bare, type) and issubclass(bare, Enum):
        return next((one for one in bare if one.value == text), MISSING)
    return MISSING if bare is NoneType else Path(text) if bare is Path else text


def _number_of(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        return MISSING


def _list_of(name: str, given: Any, kind: Any) -> Any:
    words = parts_of(given) if isinstance(given, str) else given
    return [value_of(name, word, kind) for word in words] if isinstance(words, list) else MISSING


def _mapping_of(given: Any) -> Any:
    text = given.strip() if isinstance(given, str) else ""
    return read_mapping(text) if text.startswith("{") else MISSING


# ---------------------------------------------------------------------------------------------------------------- help


def help_text(
    kinds: Mapping[str, type],
    command: str,
    description: str,
    without: Collection[str] = (),
    *,
    everything: bool = True,
) -> str:
    """What `--help` shows: usage, what the command does, and its options under their headings.

    Args:
        kinds, without: see [`options_of`].
        command (`str`): such as `"granted encode"`.
        description (`str`): what it does.
        everything (`bool`, defaults to `True`): also the options that no [`option`] describes.

    A dataclass may have `help_groups`, the headings in their order; by default they stand as the fields do.
    """
    width = min(shutil.get_terminal_size().columns, 120)
    options = options_of(kinds, without)
    needed = [one for one in options.values() if one.default is MISSING and not one.positional]
    words = [f"{one.name.upper()}{'...' if one.several else ''}" for one in options.values() if one.positional]
    words += [f"{one.flag} {one.name.rpartition('_')[2].upper()}" for one in needed]
    usage = " ".join(["usage:", command, *words, "[--OPTION VALUE ...] [--config FILE.yaml]"])
    lines = [*textwrap.wrap(usage, width, subsequent_indent="    "), ""]
    for paragraph in description.split("\n\n"):
        lines += [*textwrap.wrap(paragraph, width), ""]
    groups: dict[str, list[Option]] = {}
    for one in options.values():
        if one.shown or everything:
            groups.setdefault(one.group or "Options", []).append(one)
    order = [title for kind in kinds.values() for title in getattr(kind, "help_groups", ())]
    for title in sorted(groups, key=lambda title: order.index(title) if title in order else len(order)):
        members = groups[title]
        lines.append(title)
        lines += [line for one in members for line in _help_lines(one, width)]
        lines.append("")
    return "\n".join(lines[:-1])


def _help_lines(one: Option, width: int) -> list[str]:
    sentences = [one.help]
    choices = [part for part in _parts(one.kind) if get_origin(part) is Literal]
    if choices:
        sentences.append(f"One of {', '.join(str(choice) for part in choices for choice in get_args(part))}.")
    default = ",".join(map(str, one.default)) if isinstance(one.default, list) else one.default
    if default not in (MISSING, None, "", False, {}):
        sentences.append(f"[{str(default).lower() if default is True else default}]")
    lines = textwrap.wrap(" ".join(filter(None, sentences)), max(30, width - NAMES_WIDTH)) or [""]
    first = f"  {one.flag:<{NAMES_WIDTH - 3}} "
    head = [first.rstrip()] if len(first) > NAMES_WIDTH else []
    indent = " " * NAMES_WIDTH
    return head + [(indent if head or i else first) + line for i, line in enumerate(lines)]
