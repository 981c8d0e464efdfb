"""Rows for visual question answering in TRL's layout, from any dataset: read them, and check them as conversations.

    dataset = load_vqa("train.jsonl,more.jsonl")       # Parquet or JSON Lines, a folder, or a Hub id
    conversation = as_conversation(dataset[0])         # messages with places for media, images, videos, fps

A row has `messages`, or `prompt` and `completion`; its media, if it has any, are in `images` or `image`, `videos` or
`video`, and `fps` is the rate of videos that are given as frames. `media.py` opens media; `check.py` checks all rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import dropwhile
from textwrap import shorten
from typing import Any

from datasets import Dataset, IterableDataset

from granted.dataset_builders.loading import FOLDER, load_source, placed
from granted.utils.errors import InputError


INLINE = ("image", "video", "url", "path", "base64")  # keys under which other layouts put the medium into its part


class RowError(InputError):
    """A row that cannot be used, said in one line.

    `kind` is one of `columns`, `roles`, `content`, `empty answer`, `placeholders`, `image` and `video`.
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(shorten(message, 600))
        self.kind = kind


@dataclass(frozen=True)
class Conversation:
    """A row that can be used, its media unopened.

    Fields:
        messages (`list[dict]`): `role` and `content` each; content is a list of `{"type": "text", "text": str}`,
            `{"type": "image"}` and `{"type": "video"}`. They begin with the user, after the system if it speaks, and
            end with the assistant. Prompt and completion are joined.
        images, videos (`list`): as many as there are places for them, in their order; values that `open_image` and
            `open_video` take.
        fps (`float`, *optional*): frames per second of the videos that are given as frames.
    """

    messages: list[dict[str, Any]]
    images: list[Any]
    videos: list[Any]
    fps: float | None


def load_vqa(source: str, split: str = "train", streaming: bool = False) -> Dataset | IterableDataset:
    """Load rows as [`load_source`] does, whose column `media_folder` `as_conversation` needs for relative paths: a
    trainer must leave it there (`remove_unused_columns=False`).

    Args:
        source, split, streaming: as of [`load_source`].

    Raises:
        InputError: a file is missing or cannot be read, or the columns are others.
    """
    return load_source(source, split, streaming, _check_columns)


def _check_columns(name: str, columns: list[str]) -> None:
    if "messages" not in columns and not {"prompt", "completion"} <= set(columns):
        raise InputError(
            f"got columns {', '.join(columns) or 'none'} in {name}, expected messages, or prompt and completion, "
            "with images or videos: rename them, or name the file that has them"
        )


def as_conversation(row: Mapping[str, Any]) -> Conversation:
    """Check a row and give it one form. The row itself is not changed.

    If there are media, but no place for any in the messages, the places are put at the beginning of the first
    user turn, as TRL does. Fields of message parts other than `type` and `text` are passed over.

    Args:
        row (`Mapping`): a row as `load_vqa` gives it, or with opened images.

    Raises:
        RowError: the row cannot be used; its `kind` says which of the rules it breaks.
    """
    turns = _turns(row)
    _check_roles([turn.get("role") for turn in turns])
    messages = [{"role": turn["role"], "content": _parts(turn)} for turn in turns]
    media = {kind: _media(row, kind) for kind in ("image", "video")}
    if all(part["type"] == "text" for message in messages for part in message["content"]):
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [{"type": kind} for kind in media for _ in media[kind]] + first["content"]
    for kind, values in media.items():
        places = sum(part["type"] == kind for message in messages for part in message["content"])
        if places != len(values):
            raise RowError(
                f"got {places} {kind} parts in the messages and {len(values)} {kind}s, expected as many: "
                f"add or remove {{'type': '{kind}'}} parts",
                "placeholders",
            )
    return Conversation(messages, media["image"], media["video"], _fps(row))


def _turns(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if row.get("messages") is not None:
        turns = row["messages"]
    elif row.get("prompt") is not None and row.get("completion") is not None:
        sides = ((row["prompt"], "user"), (row["completion"], "assistant"))
        lists = [side if isinstance(side, list) else [{"role": role, "content": side}] for side, role in sides]
        turns = lists[0] + lists[1]
    else:
        given = ", ".join(name for name in row if row[name] is not None) or "nothing"
        raise RowError(f"got a row with {given}, expected messages, or prompt and completion: fill them in", "columns")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise RowError("got messages of another type, expected a list of {'role', 'content'}", "content")
    return turns


def _check_roles(roles: list[Any]) -> None:
    if "tool" in roles:
        raise RowError("got a turn of a tool, expected system, user and assistant: remove calls of tools", "roles")
    spoken = list(dropwhile(lambda role: role == "system", roles))
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise RowError(
            f"got the roles {', '.join(map(str, roles)) or 'none'}, expected user and assistant in turn, the "
            "assistant last, after system if there is one: mend the order",
            "roles",
        )


def _parts(turn: Mapping[str, Any]) -> list[dict[str, str]]:
    """A turn's content as a list of parts without nulls."""
    role, content = turn["role"], turn.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if content is None and role == "assistant":
        content = []
    if not isinstance(content, list):
        given = type(content).__name__
        raise RowError(f"got {role} content of type {given}, expected text or a list of parts", "content")
    parts = [_part(part, role) for part in content]
    if role == "assistant" and not any(part["text"].strip() for part in parts):
        raise RowError("got an assistant turn without text, expected an answer: write or drop it", "empty answer")
    return parts


def _part(part: Any, role: str) -> dict[str, str]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "image", "video"):
        given = f"type {kind!r}" if isinstance(part, Mapping) else type(part).__name__
        raise RowError(f"got a part of {given} in a {role} turn, expected text, image or video", "content")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise RowError(f"got {part.get('text')!r} as text in a {role} turn, expected a string", "content")
        return {"type": "text", "text": part["text"]}
    if role != "user":
        raise RowError(f"got a {kind} in a {role} turn, expected media in user turns only: move it", "content")
    if any(part.get(key) is not None for key in INLINE):
        raise RowError(f"got a {kind} inside its part, expected it in the column {kind}s: move it there", "content")
    return {"type": kind}


def _media(row: Mapping[str, Any], kind: str) -> list[Any]:
    """The values of `images` or `image` (`videos` or `video`), relative paths put into the row's folder."""
    many, one = row.get(f"{kind}s"), row.get(kind)
    many = [] if many is None else many
    ones = [] if one is None or one == [] else [one]
    if not isinstance(many, list):
        given = type(many).__name__
        raise RowError(f"got {kind}s of type {given}, expected a list: put a single one into {kind}", "columns")
    if many and ones:
        raise RowError(f"got both {kind} and {kind}s, expected one of them: remove the other", "columns")
    return [placed(value, row.get(FOLDER)) for value in many or ones]


def _fps(row: Mapping[str, Any]) -> float | None:
    fps = row.get("fps")
    if fps is None:
        return None
    if not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise RowError(f"got fps {fps!r}, expected frames per second above 0, or nothing", "video")
    return float(fps)
