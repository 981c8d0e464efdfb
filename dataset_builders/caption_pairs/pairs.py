"""Caption pairs: two texts that describe the same image or video, from which the context aggregator learns.

    groups = read_caption_groups("flickr30k.jsonl.gz")         # several short captions an image
    pairs = pairs_from_groups(groups, target_words=40, seed=0, source="flickr30k")
    write_pairs(itertools.chain(pairs, pairs_from_authors_jsonl("pairs.jsonl")), "pairs.parquet")
    pairs = read_pairs("pairs.parquet")

Everything but `read_pairs` is streamed, so that any number of pairs can be made.
"""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

from granted.dataset_builders.loading import readable
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, read_jsonl


MEDIA = ("image", "video")
FIELDS = ("id", "media", "caption_a", "caption_b", "source")
SCHEMA = pa.schema([*((field, pa.string()) for field in FIELDS), ("negatives", pa.list_(pa.string()))])
ROWS_PER_GROUP = 10_000


class CaptionPair(TypedDict, total=False):
    """Two descriptions of one image or video.

    Fields:
        id (`str`): the pair's name.
        media (`str`): `"image"` or `"video"`.
        caption_a, caption_b (`str`): the two texts.
        source (`str`): where the pair comes from.
        negatives (`list[str]`, optional): texts close to the captions that do not describe it.
    """

    id: str
    media: str
    caption_a: str
    caption_b: str
    source: str
    negatives: list[str]


@dataclass
class GroupReport:
    """What `pairs_from_groups` has read so far: `pairs` made, and groups `skipped` for want of two captions."""

    pairs: int = 0
    skipped: int = 0


def read_caption_groups(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """Stream groups of captions, one `{"id": str, "media": "image"|"video", "captions": [str, ...]}` a line.

    Args:
        path (`str` or `os.PathLike`): a `.jsonl` or `.jsonl.gz` file. Other keys are passed over.

    Raises:
        InputError: the file or one of its lines, which is named, cannot be used.
    """
    for number, row in read_jsonl(path):
        where = f"{path} line {number}"
        _require_keys(row, ("id", "media", "captions"), where)
        _require_text(row["id"], "id", where)
        _require_media(row["media"], where)
        if not isinstance(row["captions"], list) or not row["captions"]:
            raise InputError(f"got captions {row['captions']!r} in {where}, expected a list of strings")
        for caption in row["captions"]:
            _require_text(caption, "caption", where)
        yield {key: row[key] for key in ("id", "media", "captions")}


def pairs_from_groups(
    groups: Iterable[dict[str, Any]],
    *,
    target_words: int,
    seed: int,
    source: str,
    limit: int | None = None,
    report: GroupReport | None = None,
) -> Iterator[CaptionPair]:
    """One pair per group: disjoint random subsets of its captions, each joined into a text of about `target_words`.

    Captions stay whole and end in a full stop; the same caption counts once. The shorter text takes the next caption
    until that would lead it away from `target_words`. Of exactly two captions each is a text, however long. A pair
    depends on the seed and on its group alone.

    Args:
        groups (`Iterable[dict]`): `id`, `media` and `captions` each, as `read_caption_groups` yields them.
        target_words (`int`): words, separated by white space, of a text.
        seed (`int`): chooses the subsets and which of the two texts comes first.
        source (`str`): the pairs' field `source`, and the beginning of their ids.
        limit (`int`, *optional*): stop after so many pairs. All by default.
        report (`GroupReport`, *optional*): counts pairs and skipped groups as they go by.

    Raises:
        InputError: `target_words` is below 1 or `limit` below 0.
    """
    if target_words < 1:
        raise InputError(f"got target_words={target_words}, expected at least 1: give the words of a text")
    if limit is not None and limit < 0:
        raise InputError(f"got limit={limit}, expected 0 or more: give the number of pairs")
    return islice(_pairs_from_groups(groups, target_words, seed, source, report or GroupReport()), limit)


def _pairs_from_groups(
    groups: Iterable[dict[str, Any]], target_words: int, seed: int, source: str, report: GroupReport
) -> Iterator[CaptionPair]:
    for group in groups:
        captions = sorted({_sentence(caption) for caption in group["captions"]})
        if len(captions) < 2:
            report.skipped += 1
            continue
        rng = random.Random(f"{seed}/{group['id']}")
        rng.shuffle(captions)
        texts = _two_texts(captions, target_words)
        rng.shuffle(texts)
        report.pairs += 1
        yield CaptionPair(
            id=f"{source}/{group['id']}", media=group["media"], caption_a=texts[0], caption_b=texts[1], source=source
        )


def _sentence(caption: str) -> str:
    caption = " ".join(caption.split())
    return caption if caption.endswith((".", "!", "?", '."', ".”")) else f"{caption}."


def _two_texts(captions: list[str], target_words: int) -> list[str]:
    """Deal at least two captions into two texts, each as near to `target_words` as whole captions allow."""
    texts: list[list[str]] = [[captions[0]], [captions[1]]]
    words = [len(captions[0].split()), len(captions[1].split())]
    for caption in captions[2:]:
        shorter = 0 if words[0] <= words[1] else 1
        length = len(caption.split())
        if words[shorter] + length / 2 > target_words:
            break
        texts[shorter].append(caption)
        words[shorter] += length
    return [" ".join(text) for text in texts]


def pairs_from_authors_jsonl(
    path: str | os.PathLike, *, source: str = "GRAN-TED", media: str = "image"
) -> Iterator[CaptionPair]:
    """Stream the authors' pair file: JSON Lines with `processed_caption1` and `processed_caption2`.

    Args:
        path (`str` or `os.PathLike`): a `.jsonl` or `.jsonl.gz` file.
        source (`str`, defaults to `"GRAN-TED"`): the pairs' field `source`; ids are `{source}/{line number}`.
        media (`str`, defaults to `"image"`): the pairs' field `media`, which the file does not give.

    Raises:
        InputError: the file or one of its lines, which is named, cannot be used.
    """
    for number, row in read_jsonl(path):
        where = f"{path} line {number}"
        _require_keys(row, ("processed_caption1", "processed_caption2"), where)
        yield _pair(
            {
                "id": f"{source}/{number}",
                "media": media,
                "caption_a": row["processed_caption1"],
                "caption_b": row["processed_caption2"],
                "source": source,
            },
            where,
        )


def pairs_from_columns(
    dataset: Dataset | IterableDataset, column_a: str, column_b: str, *, source: str, media: str = "image"
) -> Iterator[CaptionPair]:
    """Stream pairs from two caption columns of any dataset.

    Args:
        dataset (`Dataset` or `IterableDataset`): rows with the two columns; the others are passed over.
        column_a, column_b (`str`): the columns' names.
        source (`str`): the pairs' field `source`; ids are `{source}/{row number}`, from 0.
        media (`str`, defaults to `"image"`): the pairs' field `media`, or the name of the column that gives it.

    Raises:
        InputError: a column is missing, or a row, which is named, cannot be read or has an empty caption.
    """
    for number, row in enumerate(readable(dataset, source)):
        where = f"row {number} of {source}"
        _require_keys(row, (column_a, column_b), where)
        pair = {
            "id": f"{source}/{number}",
            "media": media if media in MEDIA else row.get(media, media),
            "caption_a": row[column_a],
            "caption_b": row[column_b],
            "source": source,
        }
        yield _pair(pair, where)


def write_pairs(pairs: Iterable[CaptionPair], path: str | os.PathLike) -> int:
    """Write pairs as Parquet, in row groups of 10,000, and say how many they were.

    Args:
        pairs (`Iterable[CaptionPair]`): the pairs, read once.
        path (`str` or `os.PathLike`): the file to make; it appears only when it is complete.

    Raises:
        InputError: a pair cannot be used, there is none, or the disk is full.
    """
    count = 0
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(temporary, SCHEMA) as writer:
            checked = _checked(pairs)
            while rows := list(islice(checked, ROWS_PER_GROUP)):
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
                count += len(rows)
        if not count:
            raise InputError(f"got no pair to write to {path}, expected at least one: check the sources")
    return count


def read_pairs(path: str | os.PathLike) -> list[CaptionPair]:
    """All pairs of a file, as `iter_pairs` streams them."""
    return list(iter_pairs(path))


def iter_pairs(path: str | os.PathLike) -> Iterator[CaptionPair]:
    """Stream and check pairs from Parquet (`.parquet`) or JSON Lines (`.jsonl`, `.jsonl.gz`).

    Args:
        path (`str` or `os.PathLike`): a file with `id`, `media`, `caption_a`, `caption_b`, `source` and, if there are
            any, `negatives`. Other columns are passed over.

    Raises:
        InputError: the file cannot be used, or a row, which is named, breaks the layout.
    """
    if Path(path).suffix != ".parquet":
        for number, row in read_jsonl(path):
            yield _pair(row, f"{path} line {number}")
        return
    if not os.path.isfile(path):
        raise InputError(f"got {path}, which is not a file, expected a Parquet file of caption pairs: check the path")
    with refusing(str(path), "a Parquet file: write it again"):
        parquet = pq.ParquetFile(path)
    with parquet:
        columns = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
        rows = chain.from_iterable(batch.to_pylist() for batch in parquet.iter_batches(columns=columns))
        for number, row in enumerate(readable(rows, str(path))):
            yield _pair(row, f"{path} row {number}")


def _checked(pairs: Iterable[CaptionPair]) -> Iterator[CaptionPair]:
    for number, pair in enumerate(pairs):
        yield _pair(pair, f"pair {number}")


def _pair(row: Any, where: str) -> CaptionPair:
    """`row`, if it is a usable pair; without negatives where there are none."""
    _require_keys(row, FIELDS, where)
    for field in ("id", "caption_a", "caption_b", "source"):
        _require_text(row[field], field, where)
    _require_media(row["media"], where)
    pair = CaptionPair({field: row[field] for field in FIELDS})
    negatives = row.get("negatives")
    if negatives is not None:
        if not isinstance(negatives, list):
            raise InputError(f"got negatives {negatives!r} in {where}, expected a list of strings")
        for negative in negatives:
            _require_text(negative, "negative", where)
        pair["negatives"] = negatives
    return pair


def _require_keys(row: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(row, dict):
        raise InputError(f"got {type(row).__name__} in {where}, expected an object with {', '.join(keys)}")
    missing = [key for key in keys if key not in row]
    if missing:
        raise InputError(
            f"got {where} without {', '.join(missing)} (it has {', '.join(map(str, row)) or 'nothing'}), "
            f"expected {', '.join(keys)}: rename or add what is missing"
        )


def _require_text(value: Any, field: str, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"got {field} {value!r} in {where}, expected text: fill it in or remove the row")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"got half a surrogate pair in the {field} of {where}, expected valid Unicode") from None


def _require_media(value: Any, where: str) -> None:
    if value not in MEDIA:
        raise InputError(f"got media {value!r:.80} in {where}, expected one of {', '.join(MEDIA)}")
