"""Settings checked against what their dataclass declares, the same for every command.

    @dataclass
    class Settings:
        batch_size: Count = 16
        schedule: Literal["constant", "cosine"] = "constant"

        def __post_init__(self):
            check_settings(self)

A YAML file or a caller may give anything: `true` for a count, 16.0, one text for a list of texts, NaN. Nothing is made
to fit. Tests: tests/test_settings.py.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from granted.utils.errors import InputError


@dataclass(frozen=True)
class Bounds:
    """Which numbers of a type are legal.

    Args:
        words (`str`): what is expected, for the message.
        hold (`Callable`): whether a number is legal.
    """

    words: str
    hold: Callable[[float], bool]


Count = Annotated[int, Bounds("a whole number above 0", lambda value: value > 0)]
Port = Annotated[int, Bounds("a port from 1 to 65535", lambda value: 0 < value < 2**16)]
Natural = Annotated[int, Bounds("a whole number, 0 or more", lambda value: value >= 0)]
Seed = Annotated[int, Bounds("a whole number from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)]  # as numpy's
Positive = Annotated[float, Bounds("a finite number above 0", lambda value: value > 0)]
NonNegative = Annotated[float, Bounds("a finite number, 0 or more", lambda value: value >= 0)]
Share = Annotated[float, Bounds("a number of at least 0 and below 1", lambda value: 0 <= value < 1)]

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    NoneType: "none",
}


def check_settings(settings: Any, names: Iterable[str] | None = None) -> None:
    """Raise unless the fields of a dataclass hold what their annotations declare.

    A `float` takes whole numbers, too, but no NaN and nothing infinite; an `int` takes neither `True` nor `16.0`.

    Args:
        settings (dataclass): the instance, with annotations such as `int`, [`Count`], `str | None`, `list[Positive]`
            or `Literal["a", "b"]`.
        names (`Iterable[str]`, *optional*): the fields to check, such as those that a subclass adds to a library's
            settings; all by default.

    Raises:
        InputError: a value is of another type, or out of bounds.
    """
    declared = get_type_hints(type(settings), include_extras=True)
    for name in [one.name for one in fields(settings)] if names is None else names:
        check_value(name, getattr(settings, name), declared[name])


def refuse_unused(settings: Any, names: Iterable[str], where: str) -> None:
    """Raise if settings that a choice leaves without effect were given.

    Args:
        settings (dataclass): the instance.
        names (`Iterable[str]`): its fields that have no effect; given is what differs from the default.
        where (`str`): they have no effect, such as `"beside --facts"` or `"without --groups"`.

    Raises:
        InputError: one of them was given.
    """
    default = type(settings)(**{one.name: getattr(settings, one.name) for one in fields(settings) if _needed(one)})
    for name in names:
        if getattr(settings, name) != getattr(default, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"got {option} {where}, expected none, as it has no effect there: leave it out")


def _needed(field: Field) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def check_value(name: str, value: Any, kind: Any) -> None:
    """As [`check_settings`], of one value that should be of a kind such as [`Count`] or `str | None`.

    Raises:
        InputError: it is of another type, or out of bounds.
    """
    if not _fits(value, kind):
        raise InputError(f"got {name}={value!r:.80}, expected {expected_of(kind)}")


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _fits(value, parts[0]) and all(bounds.hold(value) for bounds in parts[1:])
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
    if isinstance(value, bool):  # which Python takes for a number
        return kind is bool
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def expected_of(kind: Any) -> str:
    """What a setting of a kind may be, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return " and ".join(bounds.words for bounds in parts[1:])
    if origin in (Union, UnionType):
        return " or ".join(expected_of(part) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is list:
        return f"a list, each part of it {expected_of(parts[0])}"
    return _WORDS.get(kind) or getattr(kind, "__name__", str(kind))


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse a list of seeds that is empty or has one twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"got seeds {list(seeds)}, expected at least one, and each once")
