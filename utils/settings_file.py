"""Settings from a YAML file, as the command line would give them: the texts that stand there, whatever they look like.

    read_yaml("settings.yaml")      # {"mixed_precision": "no", "learning_rates": ["1e-4", "2e-4"], "max_steps": None}

YAML makes False of `no` and a text of `1e-4`, whatever an option wants. Here a value stays the text that was written,
and the option's own type converts or refuses it. Only inside a mapping, which has no option for each of its keys, do
values have types: those of YAML 1.2, where `no` is a text and `1e-4` a number. Tests: tests/test_settings_file.py.
"""

import os
import re
from typing import Any

import yaml

from granted.utils.errors import InputError
from granted.utils.files import as_path, read_text


LONGEST = 100_000  # characters; settings are short, and a parser takes minutes over megabytes
DEEPEST = 20
_CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's types; no key twice, no tags, no aliases, of which a few lines make gigabytes, and no great depth."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self.depth += 1
        if isinstance(event, yaml.AliasEvent):
            self.refuse("an alias (*)", event)
        if event.tag is not None:
            self.refuse(f"the tag {event.tag}", event)
        if self.depth > DEEPEST:
            self.refuse(f"a value nested more than {DEEPEST} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.MappingNode):
            self.check_keys(node)
        return node

    def check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse("a key that is no text", key)
            if key.value in seen:
                self.refuse(f"the key {key.value!r} twice", key)
            seen.add(key.value)

    def refuse(self, what: str, where: yaml.Node | yaml.Event) -> None:
        raise yaml.MarkedYAMLError(problem=f"it has {what}", problem_mark=where.start_mark)


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_CORE + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a YAML file.

    Returns:
        By key: the text of a value; a list of texts; `None` for `null`, `~` or nothing; or a mapping, with values of
        their types.

    Raises:
        InputError: the file cannot be read, is no mapping of settings, or has a key twice, an alias or a tag.
    """
    return _parse(read_text(path), path)


def _parse(text: str, place: str | os.PathLike) -> dict[str, Any]:
    if len(text) > LONGEST:
        raise InputError(f"got {len(text):,} characters in {place}, expected a YAML file of settings, which is short")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if isinstance(node, yaml.MappingNode):
            return {key.value: _value(loader, value) for key, value in node.value}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise InputError(f"got {place}, which is no YAML file of settings: {problem}{line}") from error
    raise InputError(f"got no mapping in {place}, expected a YAML file with 'option: value' on its lines")


def _value(loader: _Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return None if node.tag == f"{_CORE}null" else as_path(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(part, yaml.ScalarNode) for part in node.value):
        return [_value(loader, part) for part in node.value]
    return loader.construct_object(node, deep=True)


def read_mapping(text: str) -> dict[str, Any]:
    """A mapping on the command line, in YAML's or JSON's notation, with values of their types.

    Raises:
        InputError: it is none.
    """
    value = _parse(f"mapping: {text}", f"the option {text!r:.80}")["mapping"]
    if not isinstance(value, dict):
        raise InputError(f"got {text!r:.80}, expected a mapping such as {{a: 1, b: 2}}: write one")
    return value
