"""Prompts to make images from: a text file, JSON Lines, Parquet, or GenAI-Bench as its authors publish it.

    read_prompts("prompts.txt")                # [{"id": "1", "prompt": "a red star"}, ...], a prompt a line
    read_prompts("shapes.parquet")             # rows of granted data shapes: with the drawing behind each caption
    read_prompts("genai_image.json")           # with the skills of genai_skills.json, which lies beside it

The id of a prompt and the seed of a run decide the noise that its image starts from, so ids are kept as they are.
"""

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from granted.utils.errors import InputError, refusing
from granted.utils.files import read_json, read_jsonl, read_lines


GROUPS = ("basic", "advanced")  # of GenAI-Bench's skills; the groups are among the tags of genai_skills.json
SKILLS_FILE = "genai_skills.json"
ENDINGS = {"image": ".jpeg", "video": ".mp4"}  # of the images and videos that come with it
KINDS = ".txt, .jsonl, .parquet, or GenAI-Bench's genai_image.json"


def read_prompts(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read prompts with whatever else their rows say.

    Args:
        path (`str` or `os.PathLike`): a `.txt` file (UTF-8, a prompt a line, whose number is its id), JSON Lines or
            Parquet (rows with `id`, and `prompt` or else `caption`), or GenAI-Bench's `genai_image.json` or
            `genai_video.json`. Of Parquet, columns that hold bytes, such as images, are left out.

    Returns:
        `list[dict]`: `id` and `prompt`, both strings, and all other fields as they are. Of GenAI-Bench also `skills`
        (a list) and `group` (`"basic"`, `"advanced"` or `None`).

    Raises:
        InputError: the file cannot be read, holds no prompt, or a row has no id, no prompt or an id twice.
    """
    path = Path(path)
    readers = {
        ".txt": _lines,
        ".jsonl": _json_lines,
        ".gz": _json_lines,
        ".parquet": _table,
        ".json": read_genai_bench,
    }
    if path.suffix not in readers:
        raise InputError(f"got {path}, expected {KINDS}: save the prompts as one of these")
    rows = [_checked(row, f"row {number} of {path}") for number, row in enumerate(readers[path.suffix](path), 1)]
    if not rows:
        raise InputError(f"got no prompt in {path}, expected at least one: add some")
    twice = [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]
    if twice:
        raise InputError(f"got the id {twice[0]!r} more than once in {path}, expected each prompt once: rename it")
    return rows


def read_genai_bench(path: str | os.PathLike) -> list[dict[str, Any]]:
    """GenAI-Bench's prompts (Li et al., arXiv 2406.13743) with their skills.

    Its two files are `{"00000": {"prompt": str, "models": {name: [ratings]}, ...}}` and `{skill: [0, 7, ...]}`; the
    skills of the second one include `basic` and `advanced`. Both sets, of 527 and of 1,600 prompts, look like this.

    Args:
        path (`str` or `os.PathLike`): `genai_image.json` or `genai_video.json`, beside `genai_skills.json`.

    Raises:
        InputError: a file is missing or of another layout.
    """
    prompts, tags = read_json(path), read_json(Path(path).parent / SKILLS_FILE)
    if not isinstance(prompts, dict) or not all(isinstance(one, dict) and "prompt" in one for one in prompts.values()):
        raise InputError(f"got {path}, expected GenAI-Bench's layout, an object of prompts by id: check the file")
    if not isinstance(tags, dict) or not all(isinstance(ids, list) for ids in tags.values()):
        raise InputError(f"got {SKILLS_FILE} of another layout, expected a list of numbers for each skill: check it")
    skills: dict[str, list[str]] = defaultdict(list)
    with refusing(SKILLS_FILE, "a list of numbers for each skill: check it"):
        for skill, ids in tags.items():
            for number in ids:
                skills[f"{int(number):05d}"].append(skill)
    if not skills.keys() & prompts.keys():
        raise InputError(f"got {SKILLS_FILE} without a prompt of {path}, expected the two of one release: fetch both")
    return [
        {
            "id": name,
            "prompt": one["prompt"],
            "skills": [skill for skill in skills[name] if skill not in GROUPS],
            "group": next((group for group in GROUPS if group in skills[name]), None),
        }
        for name, one in prompts.items()
    ]


def rated_images(folder: str | os.PathLike) -> list[dict[str, Any]] | None:
    """The images or videos that come with GenAI-Bench, as rows of a manifest with the mean `rating` people gave.

    Args:
        folder (`str` or `os.PathLike`): with `genai_image.json` (or `genai_video.json`), `genai_skills.json` and a
            folder of each model's images, `DALLE_3/00000.jpeg` (of videos `.mp4`).

    Returns:
        `list[dict]`: of each image `id`, `prompt_id`, `prompt`, `media`, `file`, `model`, `rating` (1 to 5),
        `skills` and `group`; `None` if the folder is not GenAI-Bench.
    """
    media = next((media for media in ENDINGS if (Path(folder) / f"genai_{media}.json").is_file()), None)
    if media is None:
        return None
    path = Path(folder) / f"genai_{media}.json"
    ratings = read_json(path)
    rows = []
    for row in read_genai_bench(path):
        with refusing(f"the ratings of prompt {row['id']} in {path}", "numbers for each model: check the file"):
            given = {model: mean(ones) for model, ones in (ratings[row["id"]].get("models") or {}).items()}
        for model, rating in given.items():
            own = {"id": f"{model}/{row['id']}", "prompt_id": row["id"], "media": media, "model": model}
            rows.append(row | own | {"file": f"{model}/{row['id']}{ENDINGS[media]}", "rating": rating})
    return rows


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"got {type(row).__name__} in {where}, expected an object with id and prompt")
    prompt = row["caption"] if row.get("prompt") is None and "caption" in row else row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"got prompt {prompt!r:.80} in {where}, expected text: write it, or drop the row")
    if row.get("id") is None or not str(row["id"]).strip():
        raise InputError(f"got no id in {where}, expected one for each prompt: number them")
    try:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"got {where}, which is no JSON ({error}), expected plain values: leave them out") from error
    return {name: value for name, value in row.items() if name != "caption"} | {"id": str(row["id"]), "prompt": prompt}


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = enumerate(read_lines(path), 1)
    return [{"id": str(number), "prompt": line.strip()} for number, line in lines if line.strip()]


def _json_lines(path: Path) -> list[Any]:
    return [row for _, row in read_jsonl(path)]


def _table(path: Path) -> list[dict[str, Any]]:
    with refusing(str(path), "a Parquet file: check it"):
        schema = pq.read_schema(path)
        plain = [field.name for field in schema if not _holds_bytes(field.type)]
        return pq.read_table(path, columns=plain).to_pylist()


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
