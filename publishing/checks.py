"""Is a folder fit for the Hub? Looks at every file of it before anything is sent.

    files = check_folder(Path("release/granted"), "model")     # [ReleasedFile("README.md", 8123, "9f2c..."), ...]

Tiny, on CPU: tests/test_release_checks.py. All findings come in one error, a line each, with the file and, where there
is one, the line in it. What is checked: names and links (here), that a file is what its suffix says (here), code
(`code_checks.py`), secrets and paths of this machine (`leaks.py`), and the card (`model_cards/validation.py`).

Weights are safetensors, and nothing pickled passes under any name. That text is UTF-8, JSON is JSON, Python is Python,
a Parquet file opens and a safetensors header fits its file leaves a pickle of protocol 2 and later no place; older
ones, which are text, are looked for; so are zip archives, which `torch.save` and `numpy.savez` write.
"""

import hashlib
import io
import json
import os
import pickletools
import re
import stat
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError, safe_open

from granted.model_cards.hub_results import FOLDER as HUB_RESULTS
from granted.model_cards.hub_results import read_results
from granted.model_cards.kinds import KINDS
from granted.model_cards.validation import validate_card
from granted.publishing.code_checks import check_code
from granted.publishing.leaks import find_leaks
from granted.utils.errors import InputError


CARD = "README.md"
_LEGAL = ("LICENSE", "NOTICE")  # any repository may have these texts
_PICKLED = frozenset(
    (".bin", ".ckpt", ".dill", ".h5", ".hdf5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pt2", ".pth")
)
# Their pieces come from all the text a tokenizer was made from, paths among it.
_VOCABULARIES = frozenset(("tokenizer.json", "vocab.json", "merges.txt"))
# `auto_map`, `modules.json` and others name a class; of another repository, so.
_CODE_ELSEWHERE = re.compile(r"[\w.-]+/[\w.-]+--[\w.]+")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)

Finding = tuple[int | str | None, str]  # line or other place in the file, and what is wrong there


@dataclass(frozen=True)
class ReleasedFile:
    """A file that was found fit.

    Attributes:
        path (`str`): from the folder, with `/`.
        size (`int`): in bytes.
        sha256 (`str`): of its content.
    """

    path: str
    size: int
    sha256: str


class _Unfit(Exception):
    """A file is not what its suffix says; the message completes the sentence "FILE ..."."""


def check_folder(folder: str | os.PathLike, kind: str) -> list[ReleasedFile]:
    """Check a folder that is about to become a repository on the Hub.

    Args:
        folder (`str` or `os.PathLike`): the folder, with its card.
        kind (`str`): `"model"`, `"dataset"`, `"results"`, `"metric"`, `"pipeline"` or `"leaderboard"`.

    Returns:
        `list[ReleasedFile]`: its files in order of path.

    Raises:
        InputError: it is no folder, or must not ship. Every finding is a line of the message. No secret is in it.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise InputError(f"got kind {kind!r}, expected one of {', '.join(KINDS)}")
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"got {folder}, expected a folder that is no link: check the path")
    lines: list[str] = []
    released: list[ReleasedFile] = []
    names: defaultdict[str, list[str]] = defaultdict(list)
    for path, problem in _walk(folder):
        name = path.relative_to(folder).as_posix()
        shown = ascii(name)[1:-1]
        if find_leaks(name, paths=False):
            shown = f"a file of {path.stat(follow_symlinks=False).st_size:,} bytes"
            lines.append(f"{shown}: has a name that holds a secret, expected another")
        names[name.casefold()].append(shown)
        if problem:
            lines.append(f"{shown}: {problem}")
        if problem or path.is_dir():
            continue
        try:
            lines += [_line(shown, *finding) for finding in _check_file(path, folder, kind)]
            released.append(ReleasedFile(name, path.stat().st_size, _sha256(path)))
        except OSError as error:
            lines.append(f"{shown}: cannot be read ({error.strerror})")
    alike = (sorted(same) for same in names.values() if len(same) > 1)
    lines += [f"{' and '.join(same)}: differ only in case, which not every disk can hold" for same in alike]
    lines += _check_card(folder / CARD, kind, released)
    if lines:
        raise InputError(
            f"got {folder} with {len(lines)} findings, expected a {kind} repository fit for the Hub: mend what is "
            "listed and build it again\n" + "\n".join(sorted(lines))
        )
    return sorted(released, key=lambda file: file.path)


def _line(shown: str, place: int | str | None, text: str) -> str:
    return f"{shown}: {text}" if place is None else f"{shown}:{place}: {text}"


def _walk(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Every entry below a folder, with what is wrong with it as such; nothing is looked for behind a wrong one."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror})"
        return
    for entry in entries:
        path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            yield path, "is a link, expected the file itself"
        elif entry.name == "__pycache__" or entry.name.endswith((".pyc", ".pyo")):
            yield path, "is compiled Python, expected sources only"
        elif entry.name.startswith(".") and entry.name != HUB_RESULTS:
            yield path, "is hidden, expected no hidden file"
        elif not _PLAIN_NAME.fullmatch(entry.name.removeprefix(".")):
            yield path, "has a name with other characters than letters, digits, '.', '_' and '-'"
        elif stat.S_ISDIR(mode):
            yield path, None
            yield from _walk(path)
        elif not stat.S_ISREG(mode):
            yield path, "is neither a file nor a folder"
        else:
            yield path, None if entry.stat().st_size else "is empty"


def _check_file(path: Path, folder: Path, kind: str) -> list[Finding]:
    suffix = path.suffix if path.name not in _LEGAL else ".txt"
    if suffix in _PICKLED:
        return [(None, f"is of a type ({suffix}) that may hold a pickle, expected safetensors")]
    if suffix not in KINDS[kind].file_types and path.name not in _LEGAL:
        return [(None, f"is no type of file for a {kind} repository, expected {', '.join(KINDS[kind].file_types)}")]
    if zipfile.is_zipfile(path):
        return [(None, "holds a zip archive, as torch.save and numpy.savez write them, expected safetensors")]
    try:
        parts = list(_READERS[suffix](path))
    except _Unfit as unfit:
        return [(None, "is a pickle, expected safetensors" if _is_pickle(path.read_bytes()) else str(unfit))]
    if suffix not in (".safetensors", ".parquet", ".png") and _is_pickle(path.read_bytes()):
        return [(None, "is a pickle, expected safetensors")]
    findings: list[Finding] = []
    if suffix == ".py":
        findings += check_code(parts[0][1], path.relative_to(folder).as_posix(), kind)
    if suffix == ".yaml" or HUB_RESULTS in path.relative_to(folder).parts:
        findings += _check_hub_file(path.relative_to(folder), parts[0][1], kind)
    if suffix == ".json" and path.name not in _VOCABULARIES:
        findings += _check_named_code(json.loads(parts[0][1]), [path.parent, folder])
    return findings + _leaks(parts, paths=path.name not in _VOCABULARIES and suffix != ".model")


def _check_hub_file(path: Path, text: str, kind: str) -> list[Finding]:
    """What is wrong with a file that the Hub reads: results of a model, or the task of a benchmark."""
    if kind == "dataset" and path == Path("eval.yaml"):
        return []
    if kind != "model" or path.parent != Path(HUB_RESULTS) or path.suffix != ".yaml":
        return [(None, f"is no file that the Hub reads, expected {HUB_RESULTS}/NAME.yaml or a dataset's eval.yaml")]
    try:
        read_results(text)
    except InputError as error:
        return [(None, f"cannot be read: {error}")]
    return []


def _check_named_code(value: object, places: list[Path]) -> list[Finding]:
    """What is wrong with the classes that a configuration names: `places` are the folders where their code may be, its
    own and the repository's root, where transformers looks too."""
    names = filter(_CODE_ELSEWHERE.fullmatch, _strings(value))
    findings: list[Finding] = [
        (None, "takes code from another repository, expected files beside it") for _ in list(names)[:1]
    ]
    for module in sorted(_own_modules(value)):
        if not any((place / f"{module}.py").is_file() for place in places):
            findings.append((None, f"names code in {module}.py, which is not in the repository"))
    return findings


def _own_modules(value: object) -> set[str]:
    """The modules beside a configuration in which it says that its classes are."""
    named = value.get("auto_map", {}) if isinstance(value, dict) else {}
    classes = chain.from_iterable(one if isinstance(one, list) else [one] for one in named.values())
    return {name.partition(".")[0] for name in classes if name and "--" not in name}


def _leaks(parts: list[tuple[str | None, str]], paths: bool) -> list[Finding]:
    """Secrets and paths in the parts of a file; of parts without lines each kind is reported once."""
    findings: list[Finding] = []
    for place, text in parts:
        for line, kind in find_leaks(text, paths=paths):
            if place is None:
                findings.append((line, f"holds a {kind}"))
            elif not any(said == f"holds a {kind}" for _, said in findings):
                findings.append((place, f"holds a {kind}"))
    return findings


def _check_card(card: Path, kind: str, released: list[ReleasedFile]) -> list[str]:
    """Findings about the card: there, valid, and with the SHA-256 of each Python file as it is."""
    if not card.is_file():
        return [f"{CARD}: is missing, expected the card"]
    try:
        text = card.read_text(encoding="utf-8")
        validate_card(text, kind)
    except UnicodeDecodeError:
        return []  # it was found above
    except InputError as error:
        return [f"{CARD}: {line}" for line in str(error).splitlines()[1:]]
    return [
        f"{file.path}: its SHA-256 is not in {CARD}, expected the card of this code: make the card again"
        for file in released
        if file.path.endswith(".py") and file.sha256 not in text
    ]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------- what the types of file hold
# A reader answers the texts in a file, each with its place (None: lines are counted), or raises _Unfit.


def _text(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise _Unfit("is not UTF-8 text") from None
    if "\0" in text:
        raise _Unfit("holds zero bytes, expected text")
    yield None, text


def _json(path: Path) -> Iterator[tuple[str | None, str]]:
    ((_, text),) = _text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise _Unfit("is not JSON") from None
    yield None, text
    yield "a value", "\n".join(_strings(value))  # as they are without escapes


def _yaml(path: Path) -> Iterator[tuple[str | None, str]]:
    ((_, text),) = _text(path)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise _Unfit("has a YAML alias, expected every value written out")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise _Unfit("is not YAML") from None
    yield None, text
    yield "a value", "\n".join(_strings(value))  # as they are without escapes


def _strings(value: object) -> Iterator[str]:
    """All texts in a JSON value, in any order; not by recursion, which deep nesting would break."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _safetensors(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        with safe_open(path, framework="numpy"):  # the header is parsed and must fit the file to its last byte
            pass
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            yield "header", file.read(size).decode("utf-8")
    except (SafetensorError, UnicodeDecodeError):
        raise _Unfit("has no safetensors header that fits the file") from None


def _parquet(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        row = 0
        for batch in pq.ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                row += 1
                text = json.dumps(values, default=_as_text, ensure_ascii=False)
                yield f"row {row}", text
                if "\\" in text:
                    yield f"row {row}", "\n".join(_strings(values))  # as they are without escapes
        yield "metadata", path.read_bytes().decode("latin-1")
    except (pa.ArrowException, OSError):
        raise _Unfit("is not Parquet") from None


def _as_text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _png(path: Path) -> Iterator[tuple[str | None, str]]:
    try:
        with PIL.Image.open(path, formats=["PNG"]) as image:
            image.verify()
        with PIL.Image.open(path, formats=["PNG"]) as image:
            found = [f"{key} {value}" for key, value in image.text.items()]  # packed in the file, perhaps
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        raise _Unfit("is not a PNG image") from None
    yield "metadata", "\n".join(found)
    yield "metadata", path.read_bytes().decode("latin-1")


def _sentencepiece(path: Path) -> Iterator[tuple[str | None, str]]:
    content = path.read_bytes()
    if not content.startswith(b"\n"):  # the tag of its first field, the pieces
        raise _Unfit("is not a sentencepiece model")
    yield "metadata", content.decode("latin-1")


_READERS: dict[str, Callable[[Path], Iterator[tuple[str | None, str]]]] = {
    ".json": _json,
    ".jinja": _text,
    ".md": _text,
    ".model": _sentencepiece,
    ".parquet": _parquet,
    ".png": _png,
    ".py": _text,
    ".safetensors": _safetensors,
    ".txt": _text,
    ".yaml": _yaml,
}


def _is_pickle(content: bytes) -> bool:
    """Whether a file is one or more pickles: read by its instructions, of which none is carried out."""
    content = content.rstrip()
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    stream = io.BytesIO(content)
    try:
        while stream.tell() < len(content):
            pickletools.dis(stream, out=io.StringIO())
    except Exception:  # what is no pickle fails in many ways
        return False
    return True
