"""Is a card finished? Every field filled, no section empty, the metadata whole and as huggingface_hub reads it.

    validate_card(Path("release/granted/README.md").read_text(encoding="utf-8"), "model")

Tiny: tests/test_model_cards.py.
"""

import math
import re
from typing import Any

import yaml

from granted.model_cards.kinds import KINDS
from granted.utils.errors import InputError


_LONGEST, _DEEPEST = 200_000, 20  # characters and levels of metadata; a hundred results are 40,000 and 8
_FENCED = re.compile(r"^ {0,3}(```+|~~~+).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t]*#*$")
_UNFILLED = {
    "a field that was not filled": re.compile(r"\{\{|\{%|\{#"),
    "[More Information Needed]": re.compile(r"\[More Information Needed\]", re.IGNORECASE),
    "a note of something to do": re.compile(r"\b(?:TODO|FIXME|TBD)\b"),
}
# In prose and tables only: code may say None.
_NOTHING = re.compile(r"(?<![\w.])(?:None|nan|undefined)(?![\w.]*\w)(?! of\b)")


def validate_card(text: str, kind: str) -> None:
    """Raise unless a card is finished.

    Args:
        text (`str`): the card, front matter included.
        kind (`str`): `"model"`, `"dataset"`, `"results"`, `"metric"`, `"pipeline"` or `"leaderboard"`.

    Raises:
        InputError: an unfilled field, a section without text, missing or malformed metadata. Each finding is a line.
    """
    if kind not in KINDS:
        raise InputError(f"got kind {kind!r}, expected one of {', '.join(KINDS)}")
    front, body, offset = _split(text)
    findings = _metadata_findings(front, kind) + _body_findings(body, offset)
    if findings:
        raise InputError(
            f"got a card with {len(findings)} findings, expected a finished one: fill in what is listed\n"
            + "\n".join(findings)
        )


def _split(text: str) -> tuple[str | None, str, int]:
    """Front matter if there is some, the rest, and the number of lines before the rest."""
    found = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", text, re.DOTALL | re.MULTILINE)
    if not found:
        return None, text, 0
    return found[1], text[found.end() :], text.count("\n", 0, found.end())


def _metadata_findings(front: str | None, kind: str) -> list[str]:
    if front is None:
        return ["metadata is missing, expected YAML between two lines of ---"]
    try:
        if refused := _refused_before_loading(front):
            return [refused]
        metadata = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError):
        return ["metadata is no YAML"]
    if not isinstance(metadata, dict) or not all(isinstance(key, str) for key in metadata):
        return ["metadata is no mapping of names"]
    findings = [f"metadata lacks {name}" for name in KINDS[kind].metadata if metadata.get(name) in (None, "", [], {})]
    findings += [f"metadata has {place} without a value" for place in _empty(metadata)]
    findings += [f"metadata has {what}" for what, pattern in _UNFILLED.items() if pattern.search(front)]
    try:
        KINDS[kind].card_data(**metadata)
    except (ValueError, TypeError, KeyError, AttributeError):
        findings.append("metadata cannot be read by huggingface_hub, expected what its card data takes")
    return findings


def _refused_before_loading(front: str) -> str | None:
    """What no machine should be made to load: few lines of YAML can stand for more than a memory or a stack holds."""
    if len(front) > _LONGEST:
        return f"metadata is longer than {_LONGEST:,} characters"
    depth = 0
    for event in yaml.parse(front, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return "metadata has a YAML alias, expected every value written out"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            return f"metadata is nested more than {_DEEPEST} deep"
    return None


def _empty(value: Any, place: str = "") -> list[str]:
    """Places in metadata that hold nothing, or a word for it."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _empty(inner, f"{place}.{key}".strip("."))]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in _empty(inner, f"{place}[{i}]")]
    nothing = (
        value is None or value in ("None", "null", "nan") or (isinstance(value, float) and not math.isfinite(value))
    )
    return [place] if nothing else []


def _body_findings(body: str, offset: int) -> list[str]:
    findings = []
    for number, line in enumerate(body.splitlines(), start=offset + 1):
        findings += [f"line {number} has {what}" for what, pattern in _UNFILLED.items() if pattern.search(line)]
    prose = _FENCED.sub(lambda block: "code" + "\n" * block[0].count("\n"), body)
    lines = prose.splitlines()
    for number, line in enumerate(lines, start=offset + 1):
        if _NOTHING.search(_INLINE_CODE.sub("code", line)):
            findings.append(f"line {number} has a field without a value")
    headings = [(i, len(found[1]), found[2]) for i, line in enumerate(lines) if (found := _HEADING.match(line))]
    if not headings:
        findings.append("text has no heading")
    for (i, level, title), (end, next_level, _) in zip(headings, [*headings[1:], (len(lines), 0, "")]):
        if not title:
            findings.append(f"line {offset + i + 1} has a heading without a title")
        if next_level <= level and not any(line.strip() for line in lines[i + 1 : end]):
            findings.append(f"line {offset + i + 1} has a section without text")
    return findings
