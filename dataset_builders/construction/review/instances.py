"""What is reviewed: a caption, one statement that is claimed true and three that are claimed false.

    instances = read_instances("run")     # of run/check/rows.parquet, by name; the media are in run/media

Tests: tests/test_review.py.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .refusal import ReviewError


ROWS = "check/rows.parquet"
MEDIA = ("image", "video")
FOLDER = "media"  # of the run; the page shows nothing outside it
PAGES = {".svg", ".svgz", ".html", ".htm", ".xhtml", ".xht", ".xml"}  # in which a browser runs code
STATEMENTS = 4
# Categories of Unicode that no statement has, be it of a model or of a reviewer: line breaks and what is not shown.
CONTROLS = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")
NUMBERS = [str(number) for number in range(1, STATEMENTS + 1)]  # what they are called
TEXTS = ("instance", "id", "media", "file", "caption", "category", "question")
COLUMNS = (*TEXTS, "statements", "label", "kept")


@dataclass(frozen=True)
class Instance:
    """One question of the benchmark, as the stage `check` has written it.

    Attributes:
        instance (`str`): its name.
        id (`str`): of its image or video; the instances of one are reviewed one after the other, by one person.
        media (`str`): `"image"` or `"video"`.
        file (`str`): relative to the folder of the run.
        caption, category, question (`str`): texts.
        statements (`tuple[str, ...]`): four.
        label (`int`): the index of the one that is claimed true.
        kept (`bool`): whether the automatic checks have kept it; only those are reviewed.
    """

    instance: str
    id: str
    media: str
    file: str
    caption: str
    category: str
    question: str
    statements: tuple[str, ...]
    label: int
    kept: bool = True

    def content(self) -> str:
        """A hash of all that a person judges; a decision is about this content and no other."""
        judged = {name: value for name, value in asdict(self).items() if name not in ("file", "kept")}
        return hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()


def read_instances(run: str | os.PathLike) -> dict[str, Instance]:
    """All instances of a run by name, in their order; those that the checks have not kept as well.

    Args:
        run (`str` or `os.PathLike`): the folder of the run.

    Raises:
        ReviewError: there is no such folder, no row that was kept, a row is malformed, or media are missing.
    """
    run, path = Path(run), Path(run, ROWS)
    if not run.is_dir():
        raise ReviewError(f"got {run}, which is no folder, expected that of a run: check the path")
    if not path.is_file():
        raise ReviewError(f"got {run} without {ROWS}, expected the rows that the stage check writes: run it first")
    instances: dict[str, Instance] = {}
    for number, row in enumerate(_rows(path)):
        one = _instance(row, f"row {number} of {path}")
        if one.instance in instances:
            raise ReviewError(f"got the instance {one.instance!r} twice in {path}, expected it once: run check again")
        instances[one.instance] = one
    kept = [one for one in instances.values() if one.kept]
    if not kept:
        raise ReviewError(f"got {path} with no row that was kept, expected some to review: see why none was")
    _require_media(run, kept)
    return instances


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        names = pq.read_schema(path).names
        missing = [name for name in COLUMNS if name not in names]
        if not missing:
            return pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ReviewError(f"got {path}, which is not Parquet ({reason:.200}): run the stage check again") from error
    raise ReviewError(f"got {path} without the columns {', '.join(missing)}, expected those of the stage check")


def _instance(row: dict[str, Any], place: str) -> Instance:
    for name in TEXTS:
        if not isinstance(row[name], str) or not (row[name].strip() or name == "question"):
            raise ReviewError(f"got {name} {row[name]!r:.80} in {place}, expected a text: run the stage check again")
    if row["media"] not in MEDIA:
        raise ReviewError(f"got media {row['media']!r:.80} in {place}, expected one of {', '.join(MEDIA)}")
    if problem := statements_problem(row["statements"], row["label"]):
        raise ReviewError(f"got {problem} in {place}, expected {STATEMENTS} different statements and the true one")
    if not isinstance(row["kept"], bool):
        raise ReviewError(f"got kept {row['kept']!r:.80} in {place}, expected true or false")
    return Instance(**row | {"statements": tuple(row["statements"])})


def bare_words(text: str) -> str:
    """Letters, digits and symbols alone, in one case; of punctuation what stands before a digit: "-5" and "2:1"."""
    text = unicodedata.normalize("NFKC", text).casefold()
    following = [*text[1:], " "]
    kept = (
        letter.isalnum() or unicodedata.category(letter)[0] in "MS" or (letter in "-−:.,/" and after.isdigit())
        for letter, after in zip(text, following)
    )
    return " ".join("".join(letter if keep else " " for letter, keep in zip(text, kept)).split()) or text


def statements_problem(statements: Any, label: Any) -> str | None:
    """What is wrong with statements and the index of the true one, in words; `None` where nothing is."""
    if not isinstance(statements, list | tuple) or len(statements) != STATEMENTS:
        return f"statements {statements!r:.80}"
    for number, statement in enumerate(statements, start=1):
        if not isinstance(statement, str) or not statement.strip():
            return f"no text as statement {number}"
    said = Counter(" ".join(statement.split()).casefold() for statement in statements)
    if max(said.values()) > 1:
        return f"the statement {said.most_common(1)[0][0]!r:.80} twice"
    if type(label) is not int or not 0 <= label < STATEMENTS:
        return f"label {label!r:.80}"
    return None


def _require_media(run: Path, instances: list[Instance]) -> None:
    """Refuse media that are not there, that lie elsewhere, or that are no media but pages."""
    folder = os.path.realpath(run / FOLDER)
    files = {one.file: one.instance for one in instances}
    for file, name in files.items():
        if not os.path.realpath(run / file).startswith(folder + os.sep):
            raise ReviewError(f"got the file {file!r} of {name}, expected one within {run / FOLDER}")
        if Path(file).suffix.lower() in PAGES:
            raise ReviewError(f"got the file {file!r} of {name}, expected an image or a video: convert it")
    missing = [file for file in files if not (run / file).is_file()]
    if missing:
        raise ReviewError(
            f"got no file {run / missing[0]} of {files[missing[0]]} ({len(missing)} of {len(files)} are missing), "
            "expected the media of the run: copy its folder media as well"
        )
