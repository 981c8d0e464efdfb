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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from granted.dataset_builders.construction.duplicates import look_alikes
from granted.dataset_builders.construction.media import Measures, kind_of, measure
from granted.dataset_builders.construction.sources import SourceItem, SourceSettings, read_source
from granted.dataset_builders.visual_vqa.rows import RowError
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, remove_abandoned, write_json, writing
from granted.utils.options import option
from granted.utils.settings import Bounds, Count, Natural, Positive, Seed, check_settings
from granted.utils.versions import library_versions


USES = ("ted", "pairs", "vqa")
Fraction = Annotated[float, Bounds("a number from 0 to 1", lambda value: 0 <= value <= 1)]
LIBRARIES = ("granted", "pillow", "av", "ImageHash")
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
    min_motion: Fraction = option(0.002, "Least mean change from frame to frame of a video, 0 to 1.", group="Curation")
    duplicate_bits: Natural = option(
        4, "Media whose perceptual hashes (64 bits) differ in no more are duplicates.", group="Curation"
    )

    def __post_init__(self):
        check_settings(self)
        if len(self.uses) != len(USES) or abs(sum(self.uses) - 1) > 1e-6:
            raise InputError(f"got uses {self.uses}, expected three shares that sum to 1: of {', '.join(USES)}")
        check_range("seconds", self.seconds)


def check_range(name: str, values: list) -> None:
    """Raise unless a setting has a least and a greatest value, in this order."""
    if len(values) != 2 or values[0] > values[1]:
        raise InputError(f"got {name} {values}, expected two numbers: fewest and most")


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
    remove_abandoned(folder / "media")  # there may be nothing left to write
    removed: list[dict[str, Any]] = []
    items: dict[str, dict[str, Any]] = {}
    looks: dict[str, Measures] = {}
    with _Measured(folder / "curate" / "measured.jsonl") as measured:
        found = islice(read_source(settings), settings.limit)
        for one in tqdm(found, desc="curate", unit="item", disable=not show_progress):
            name = hashlib.sha256(one.content).hexdigest()[:16] if one.content else None
            try:
                suffix, look = _looked_at(one, name, items, measured)
                _check_worth(look, settings)
            except _Removed as why:
                removed.append({"id": name, "file": one.name, "reason": why.reason, "detail": why.detail})
                continue
            file = f"media/{name}{suffix}"
            _write_once(folder / file, one.content)
            looks[name] = look
            shown = {key: value for key, value in asdict(look).items() if key in ITEMS.names}
            items[name] = {"id": name, "file": file, "source": one.name, "source_caption": one.caption, **shown}
    for name, kept in _share_out(items, looks, settings).items():
        gone = items.pop(name)
        (folder / gone["file"]).unlink(missing_ok=True)
        detail = f"of {items[kept]['source']}"
        removed.append({"id": name, "file": gone["source"], "reason": "near-duplicate", "detail": detail})
    reasons = dict(Counter(one["reason"] for one in removed).most_common())
    if not items:
        shown = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "it is empty"
        raise InputError(
            f"got no usable image or video in {settings.source} ({shown}), expected at least one: check the source "
            "or lower the thresholds of curation"
        )
    uses = Counter(item["use"] for item in items.values())
    counts = {"kept": len(items), **{use: uses[use] for use in USES}, **reasons}
    _write(folder / "curate" / "removed.parquet", removed, REMOVED)
    _write(folder / "curate" / "rows.parquet", list(items.values()), ITEMS)
    thresholds = {one.name: getattr(settings, one.name) for one in fields(CurationSettings) if one.name != "source"}
    record = {"stage": "curate", "settings": thresholds, "versions": library_versions(*LIBRARIES), "counts": counts}
    write_json(folder / "curate" / "stage.json", record)  # last: then the stage is done
    return counts


class _Removed(Exception):
    """An image or video is not kept."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def _looked_at(
    one: SourceItem, name: str | None, items: Mapping[str, Mapping[str, Any]], measured: "_Measured"
) -> tuple[str, Measures]:
    """The suffix of its file and what decoding has found."""
    if one.content is None:
        raise _Removed("unreadable", one.problem)
    if not one.content:
        raise _Removed("empty")
    if name in items:
        raise _Removed("same file", f"as {items[name]['source']}")
    try:
        kind = kind_of(one.content)
    except RowError as error:
        raise _Removed("unreadable", str(error)) from error
    if kind is None:
        raise _Removed("not an image or video")
    media, suffix = kind
    return suffix, measured.of(name, one.content, media)


def _check_worth(look: Measures, settings: CurationSettings) -> None:
    short, long = sorted((look.width, look.height))
    if short < settings.min_side or long > settings.max_ratio * short:
        raise _Removed(
            "too small" if short < settings.min_side else "too narrow", f"{look.width} x {look.height} pixels"
        )
    if look.media == "video":
        least, most = settings.seconds
        if not least <= look.seconds <= most:
            raise _Removed("too short" if look.seconds < least else "too long", f"{look.seconds:.2f} seconds")
        if look.motion < settings.min_motion:
            raise _Removed("too little motion", f"{look.motion:.4f}")


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
            try:
                row = json.loads(line)
                if row["measures"] is not None:
                    Measures(**row["measures"])
            except (ValueError, TypeError, KeyError):  # cut when the process was killed, or of another version
                break
            self._known[row.pop("id")] = row
            whole += len(line)
        self._file.truncate(whole)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def of(self, name: str, content: bytes, media: str) -> Measures:
        """The measures of one."""
        if name not in self._known:
            try:
                row: dict[str, Any] = {"measures": asdict(measure(content, media))}
            except RowError as error:
                row = {"measures": None, "problem": str(error)}
            with writing(self._path.parent):
                self._file.write(json.dumps({"id": name, **row}).encode() + b"\n")
                self._file.flush()
            self._known[name] = row
        row = self._known[name]
        if row["measures"] is None:
            raise _Removed("unreadable", row["problem"])
        return Measures(**row["measures"])


def _write_once(path: Path, content: bytes) -> None:
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


# ---------------------------------------------------------------------------------------------------------------- uses


def _share_out(
    items: Mapping[str, dict[str, Any]], looks: Mapping[str, Measures], settings: CurationSettings
) -> dict[str, str]:
    """Give each item its use, those that look alike the same; of near-duplicates all but the largest, by its name."""
    names = sorted(items, key=lambda name: (-items[name]["width"] * items[name]["height"], name))
    alike = list(look_alikes({name: looks[name] for name in names}, settings.duplicate_bits))
    for name, group in _groups(names, [(one, other) for one, other, _ in alike]).items():
        items[name]["use"] = use_of(min(group), settings)
    larger: dict[str, list[str]] = {}
    for one, other, same in alike:
        if same:
            larger.setdefault(one, []).append(other)
    gone: dict[str, str] = {}
    for name in names:
        kept = [other for other in larger.get(name, ()) if other not in gone]
        if kept:
            gone[name] = kept[0]
    return gone


def use_of(name: str, settings: CurationSettings) -> str:
    """The use of an item: by its id and the seed alone, so that other items change nothing."""
    drawn = int(hashlib.sha256(f"{settings.seed}/{name}".encode()).hexdigest()[:13], 16) / 16**13
    ends = np.cumsum(settings.uses) / sum(settings.uses)
    return USES[int(np.searchsorted(ends, drawn, side="right"))]


def _groups(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Of each name all that are linked with it, directly or through others."""
    place = {name: i for i, name in enumerate(names)}
    rows, columns = [place[one] for one, _ in pairs], [place[other] for _, other in pairs]
    links = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(links, directed=False)
    members: dict[int, list[str]] = {}
    for name, label in zip(names, labels):
        members.setdefault(label, []).append(name)
    return {name: members[label] for name, label in zip(names, labels)}
