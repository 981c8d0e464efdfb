"""Which images and videos are worth a caption, and what each is used for: the stage `curate`.

    curate(settings, "run")        # {"kept": 812, "near-duplicate": 31, "too small": 7, ...}

    run/media/{id}.jpg             the kept ones; the id is the beginning of the SHA-256 of the file
    run/curate/rows.parquet        id, media, file, width, height, seconds, use, source, source_caption
    run/curate/removed.parquet     id, file (its name in the source), reason, detail
    run/curate/measured.jsonl      what decoding has found, so that a run that was stopped does not decode again

An item has one use (a benchmark, caption pairs or questions), and items that look alike share it. Tests:
tests/test_construction_curation.py.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from granted.dataset_builders.construction.media import Measures, measure, suffix_of
from granted.dataset_builders.construction.sources import SourceItem, SourceSettings, read_source
from granted.dataset_builders.visual_vqa.rows import RowError
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, write_json
from granted.utils.options import option
from granted.utils.settings import Bounds, Count, Natural, Positive, Seed
from granted.utils.versions import library_versions


USES = ("ted", "pairs", "vqa")
Fraction = Annotated[float, Bounds("a number from 0 to 1", lambda value: 0 <= value <= 1)]
LIBRARIES = ("granted", "pillow", "av", "ImageHash")
BITS = 64  # of a perceptual hash
BLOCK = 2048  # items compared at a time with all others
SHINGLE = 9  # characters; captions are compared by these, in any language
_TEXT = pa.string()
ITEMS = pa.schema(
    {
        "id": _TEXT,
        "media": _TEXT,
        "file": _TEXT,
        "width": pa.int64(),
        "height": pa.int64(),
        "seconds": pa.float64(),
        "use": _TEXT,
        "source": _TEXT,
        "source_caption": _TEXT,
    }
)
REMOVED = pa.schema({"id": _TEXT, "file": _TEXT, "reason": _TEXT, "detail": _TEXT})


@dataclass(kw_only=True)
class CurationSettings(SourceSettings):
    """Which media are kept, and for what."""

    uses: list[Fraction] = option(
        [0.2, 0.6, 0.2],
        "Shares of the items for the benchmark, for pairs and for VQA; one item has one use.",
        group="Source",
    )
    seed: Seed = option(0, "Decides what each item is used for.", group="Source")
    min_side: Count = option(256, "Least pixels of the shorter side.", group="Curation")
    max_ratio: Positive = option(4.0, "Most of the longer side over the shorter.", group="Curation")
    seconds: list[Positive] = option([2.0, 120.0], "Shortest and longest video.", group="Curation")
    min_motion: Fraction = option(0.004, "Least mean change from frame to frame of a video, 0 to 1.", group="Curation")
    duplicate_bits: Natural = option(
        4, "Media whose perceptual hashes (64 bits) differ in no more are duplicates.", group="Curation"
    )


def curate(settings: CurationSettings, run_folder: str | Path, show_progress: bool = True) -> dict[str, int]:
    """Read a source, keep what is worth a caption, and share it out.

    Args:
        settings ([`CurationSettings`]): the source and the thresholds.
        run_folder (`str` or `Path`): of the whole run; see above for what is written.
        show_progress (`bool`, defaults to `True`): show a bar.

    Returns:
        `dict[str, int]`: how many were `"kept"`, how many of these are for each use, and how many were removed for
        each reason.

    Raises:
        InputError: the source cannot be read, or nothing of it is left.
    """
    folder = Path(run_folder)
    if len(settings.uses) != len(USES) or abs(sum(settings.uses) - 1) > 1e-6:
        raise InputError(f"got uses {settings.uses}, expected three shares that sum to 1: of {', '.join(USES)}")
    removed: list[dict[str, Any]] = []
    items: dict[str, dict[str, Any]] = {}
    hashes: dict[str, list[str]] = {}
    with _Measured(folder / "curate" / "measured.jsonl") as measured:
        found = islice(read_source(settings), settings.limit)
        for one in tqdm(found, desc="curate", unit="item", disable=not show_progress):
            name = hashlib.sha256(one.content).hexdigest()[:16] if one.content else None
            reason, detail, kind = _first_look(one, name, items)
            measures = None
            if not reason:
                measures, detail = measured.of(name, one.content, kind[0])
                reason = "unreadable" if measures is None else ""
            if measures is not None:
                reason, detail = _too_little(measures, settings)
            if reason:
                removed.append({"id": name, "file": one.name, "reason": reason, "detail": detail})
                continue
            file = f"media/{name}{kind[1]}"
            _write_once(folder / file, one.content)
            hashes[name] = measures.hashes
            shown = {key: value for key, value in asdict(measures).items() if key in ITEMS.names}
            items[name] = {"id": name, "file": file, "source": one.name, "source_caption": one.caption, **shown}
    _remove_near_duplicates(items, hashes, removed, settings)
    for one in removed:
        if one["reason"] == "near-duplicate":
            next((folder / "media").glob(f"{one['id']}.*")).unlink()
    if not items:
        reasons = ", ".join(f"{count} {reason}" for reason, count in _reasons(removed).items())
        raise InputError(
            f"got no usable image or video in {settings.source} ({reasons or 'it is empty'}), expected at least one: "
            "check the source, or lower the thresholds of curation"
        )
    uses = Counter(item["use"] for item in items.values())
    counts = {"kept": len(items), **{use: uses[use] for use in USES}, **_reasons(removed)}
    _write(folder / "curate" / "removed.parquet", removed, REMOVED)
    _write(folder / "curate" / "rows.parquet", list(items.values()), ITEMS)
    record = {"stage": "curate", "settings": _thresholds(settings), "versions": library_versions(*LIBRARIES)}
    write_json(folder / "curate" / "stage.json", record | {"counts": counts})  # last: then the stage is done
    return counts


def _thresholds(settings: CurationSettings) -> dict[str, Any]:
    return {one.name: getattr(settings, one.name) for one in fields(CurationSettings) if one.name != "source"}


def _reasons(removed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(one["reason"] for one in removed).most_common())


def _first_look(
    one: SourceItem, name: str | None, items: Mapping[str, Any]
) -> tuple[str, str, tuple[str, str] | None]:
    """Why it is removed before it is decoded, if so; else its medium and suffix."""
    if one.content is None:
        return "unreadable", one.problem, None
    if not one.content:
        return "empty", "", None
    if name in items:
        return "same file", f"as {items[name]['source']}", None
    kind = suffix_of(one.content)
    if kind is None:
        return "not an image or video", "", None
    return "", "", kind


def _too_little(measures: Measures, settings: CurationSettings) -> tuple[str, str]:
    short, long = sorted((measures.width, measures.height))
    size = f"{measures.width} x {measures.height} pixels"
    if short < settings.min_side:
        return "too small", size
    if long > settings.max_ratio * short:
        return "too narrow", size
    if measures.media == "video":
        least, most = settings.seconds
        if not least <= measures.seconds <= most:
            return "too short" if measures.seconds < least else "too long", f"{measures.seconds:.2f} seconds"
        if measures.motion < settings.min_motion:
            return "too little motion", f"{measures.motion:.4f}"
    return "", ""


class _Measured:
    """The measures of all media that were decoded, by id, appended to a file as they are made."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "_Measured":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "ab+")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):  # cut when the process was killed
                break
            row = json.loads(line)
            self._known[row.pop("id")] = row
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def of(self, name: str, content: bytes, media: str) -> tuple[Measures | None, str]:
        """The measures, or why there are none."""
        if name not in self._known:
            try:
                row: dict[str, Any] = {"measures": asdict(measure(content, media))}
            except RowError as error:
                row = {"measures": None, "problem": str(error)}
            self._file.write(json.dumps({"id": name, **row}).encode() + b"\n")
            self._file.flush()
            self._known[name] = row
        row = self._known[name]
        return (Measures(**row["measures"]), "") if row["measures"] else (None, row["problem"])


def _write_once(path: Path, content: bytes) -> None:
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


# ------------------------------------------------------------------------------------------------ duplicates and uses


def _remove_near_duplicates(
    items: dict[str, dict[str, Any]], hashes: Mapping[str, list[str]], removed: list[dict], settings: CurationSettings
) -> None:
    """Keep the largest of items that look alike, and give all of a group one use."""
    names = sorted(items, key=lambda name: (-items[name]["width"] * items[name]["height"], name))
    bits = [_as_signs(hashes[name]) for name in names]
    alike = list(_alike(names, items, bits, settings.duplicate_bits))
    twins: dict[int, list[int]] = {}
    for i, j in alike:
        if items[names[i]]["media"] == items[names[j]]["media"]:
            twins.setdefault(max(i, j), []).append(min(i, j))
    gone: set[int] = set()
    for j in sorted(twins):
        kept = next((i for i in sorted(twins[j]) if i not in gone), None)
        if kept is not None:
            gone.add(j)
            removed.append(
                {
                    "id": names[j],
                    "file": items[names[j]]["source"],
                    "reason": "near-duplicate",
                    "detail": f"of {items[names[kept]]['source']}",
                }
            )
    for j, group in enumerate(_groups(len(names), alike)):
        if j in gone:
            del items[names[j]]
        else:
            items[names[j]]["use"] = use_of(min(names[i] for i in group), settings)


def use_of(name: str, settings: CurationSettings) -> str:
    """The use of an item: by its id and the seed alone, so that other items change nothing."""
    drawn = int(hashlib.sha256(f"{settings.seed}/{name}".encode()).hexdigest()[:13], 16) / 16**13
    ends = np.cumsum(settings.uses) / sum(settings.uses)
    return USES[int(np.searchsorted(ends, drawn, side="right"))]


def _as_signs(hashes: Sequence[str]) -> np.ndarray:
    """(frames * 64,) float32: the bits of hashes as -1 and 1, whose products count those that agree."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8))
    return bits.astype(np.float32) * 2 - 1


def _alike(
    names: Sequence[str], items: Mapping[str, Mapping[str, Any]], bits: Sequence[np.ndarray], most: int
) -> Iterator[tuple[int, int]]:
    """Pairs that look alike: images; videos frame by frame; an image and any frame of a video."""
    kinds: dict[tuple[str, int], list[int]] = {}
    for i, name in enumerate(names):
        kinds.setdefault((items[name]["media"], len(bits[i]) // BITS), []).append(i)
    for members in kinds.values():
        vectors = np.stack([bits[i] for i in members])
        yield from ((members[i], members[j]) for i, j in _near(vectors, vectors, most) if i < j)
    images = kinds.get(("image", 1), [])
    frames = [(i, frame) for i in range(len(names)) if i not in set(images) for frame in bits[i].reshape(-1, BITS)]
    if images and frames:
        shown = np.stack([frame for _, frame in frames])
        near = _near(np.stack([bits[i] for i in images]), shown, most)
        yield from ((images[i], frames[j][0]) for i, j in near)


def _near(left: np.ndarray, right: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Rows of -1 and 1 that differ in at most `most` of 64 bits on average."""
    width = left.shape[1]
    least = width - 2 * most * (width // BITS)
    for start in range(0, len(left), BLOCK):
        found = np.argwhere(left[start : start + BLOCK] @ right.T >= least)
        yield from ((int(i) + start, int(j)) for i, j in found)


def _groups(count: int, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Of each of so many items, all that are linked with it, directly or through others."""
    rows, columns = zip(*pairs) if pairs else ((), ())
    _, labels = connected_components(coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(count, count)))
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    return [members[label] for label in labels]


# ------------------------------------------------------------------------------------------------------------ captions


def near_duplicate_captions(captions: Mapping[Hashable, str], similarity: float) -> list[tuple[Hashable, Hashable]]:
    """Pairs of captions that are almost the same text.

    Texts are compared by the sets of their runs of nine characters, without regard to case and white space (Jaccard).
    MinHash finds candidates, which are then compared exactly.

    Args:
        captions (`Mapping[Hashable, str]`): by name.
        similarity (`float`): the least share of all runs that both have, 0.5 to 1.

    Returns:
        `list[tuple]`: a name and an earlier one.
    """
    index = MinHashLSH(threshold=similarity - 0.1, num_perm=128)
    order = {name: place for place, name in enumerate(captions)}
    shingles = {name: _shingles(text) for name, text in captions.items()}
    found = []
    for name, parts in shingles.items():
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([part.encode() for part in parts])
        for other in sorted(index.query(sketch), key=order.__getitem__):
            if len(parts & shingles[other]) >= similarity * len(parts | shingles[other]):
                found.append((name, other))
        index.insert(name, sketch)
    return found


def _shingles(text: str) -> set[str]:
    text = " ".join(text.casefold().split())
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
