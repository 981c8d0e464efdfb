"""What each kind of answer has to be: a JSON schema, which is sent along, and rules that a schema cannot say.

    kind = ANSWERS["negatives"]
    kind.schema                                        # for response_format
    read_answer(kind, text, finish, material, settings)     # (value, None), or (None, why it cannot be used)

An answer is used as it is or not at all; nothing is repaired. Tests: tests/test_construction_prompts.py.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jsonschema import Draft202012Validator

from granted.dataset_builders.construction.checks import words_of
from granted.dataset_builders.construction.review.instances import CONTROLS, bare_words
from granted.dataset_builders.construction.settings import ConstructionSettings


NEGATIVES = 3
VERDICTS = ("true", "false", "not stated")
Rule = Callable[[dict[str, Any], Mapping[str, Any], ConstructionSettings], str | None]


@dataclass(frozen=True)
class AnswerKind:
    """A kind of answer.

    Fields:
        name (`str`): what the schema is called.
        properties (`dict`): the JSON schema of each field; all are required, and there are no others.
        words (`dict[str, str]`): for the prompt: what each field is.
        rule (`Callable`): says what is wrong with an answer of the right form to some material, or `None`.
    """

    name: str
    properties: dict[str, Any]
    words: dict[str, str]
    rule: Rule

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.properties),
            "additionalProperties": False,
        }

    @cached_property
    def validator(self) -> Draft202012Validator:
        """Says whether a value is of this form."""
        return Draft202012Validator(self.schema)


def read_answer(
    kind: AnswerKind, text: str, finish: str, material: Mapping[str, Any], settings: ConstructionSettings
) -> tuple[dict[str, Any] | None, str | None]:
    """The value of an answer, or why it cannot be used.

    Args:
        kind (`AnswerKind`): what it should be.
        text (`str`): as it came; JSON alone, or in one fenced block of Markdown.
        finish (`str`): why the model ended, as the server says.
        material (`Mapping`): what the prompt was filled with.
        settings (`ConstructionSettings`): the legal lengths.

    Returns:
        `tuple[dict | None, str | None]`: one of them is `None`.
    """
    if finish == "length":
        return None, "it was cut at the limit of tokens"
    try:
        value = json.loads(
            _unfenced(text), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_no_number
        )
    except (ValueError, RecursionError) as error:
        return None, f"it is no JSON: {error}"
    broken = next(kind.validator.iter_errors(value), None)
    if broken:
        where = "".join(f" of {part}" for part in reversed(broken.absolute_path))
        return None, f"it is not of the form that was asked for ({broken.validator}{where})"
    fault = next(filter(None, map(text_fault, _texts(value))), None) or kind.rule(value, material, settings)
    return (None, fault) if fault else (value, None)


def _unfenced(text: str) -> str:
    text = text.strip()
    first, _, rest = text.partition("\n")
    if first in ("```", "```json") and rest.endswith("```"):
        return rest.removesuffix("```")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is none of its numbers")


def _texts(value: Any) -> list[str]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] if isinstance(value, str) else [text for part in parts for text in _texts(part)]


def text_fault(text: str) -> str | None:
    """What keeps a text out of the data, whatever it says."""
    if text != text.strip() or not text:
        return "a text is empty or begins or ends with white space"
    bad = next((c for c in sorted(set(text)) if unicodedata.category(c) in CONTROLS), None)
    return bad and f"a text has the character U+{ord(bad):04X} or a line break"


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ in case, spaces and punctuation at most, as of `bare_words`."""
    return bare_words(one) == bare_words(other)


def length_fault(what: str, text: str, words: list[int]) -> str | None:
    """Whether a text has too few words or too many; a Chinese or Japanese character counts as one."""
    count = len(words_of(text))
    return None if words[0] <= count <= words[1] else f"{what} has {count} words, not {words[0]} to {words[1]}"


def _caption_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> str | None:
    return length_fault("the caption", value["caption"], settings.caption_words)


def _statement_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> str | None:
    statement = value["statement"]
    return statement and length_fault("the statement", statement, settings.statement_words)


def _negatives_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> str | None:
    statements = value["statements"]
    everything = [material["statement"], *statements]
    if len({bare_words(text) for text in everything}) < len(everything):
        return "a statement equals another one or the true one"
    faults = (length_fault("a statement", text, settings.statement_words) for text in statements)
    return next(filter(None, faults), None)


def _question_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> str | None:
    if (value["question"] is None) != (value["answer"] is None):
        return "it has a question without an answer, or an answer without a question"
    if value["question"] and same_words(value["question"], value["answer"]):
        return "the answer repeats the question"
    return None


def _no_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> None:
    return None


def _same_rule(value: dict, material: Mapping, settings: ConstructionSettings) -> str | None:
    asked, got = len(material["statements"]), len(value["same"])
    return None if asked == got else f"it judges {got} of {asked} statements"


_TEXT = {"type": "string", "minLength": 1}
_TEXT_OR_NULL = {"type": ["string", "null"]}
ANSWERS = {
    kind.name: kind
    for kind in (
        AnswerKind("caption", {"caption": _TEXT}, {"caption": "the caption"}, _caption_rule),
        AnswerKind(
            "statement",
            {"reason": _TEXT, "statement": _TEXT_OR_NULL},
            {"reason": "in a few words, where the caption says it or that it does not", "statement": "one, or null"},
            _statement_rule,
        ),
        AnswerKind(
            "negatives",
            {"statements": {"type": "array", "items": _TEXT, "minItems": NEGATIVES, "maxItems": NEGATIVES}},
            {"statements": "a list of three false statements"},
            _negatives_rule,
        ),
        AnswerKind(
            "question",
            {"question": _TEXT_OR_NULL, "answer": _TEXT_OR_NULL},
            {"question": "one, or null", "answer": "its answer, or null where the question is null"},
            _question_rule,
        ),
        AnswerKind(
            "verdict",
            {"verdict": {"type": "string", "enum": list(VERDICTS)}},
            {"verdict": "one of " + ", ".join(f'"{verdict}"' for verdict in VERDICTS)},
            _no_rule,
        ),
        AnswerKind(
            "same",
            {"same": {"type": "array", "items": {"type": "boolean"}}},
            {"same": "a list of true or false, one for each of the statements"},
            _same_rule,
        ),
        AnswerKind(
            "choice",
            {"choice": {"type": "integer", "minimum": 1, "maximum": NEGATIVES + 1}},
            {"choice": "the number of the statement, 1 to 4"},
            _no_rule,
        ),
    )
}
