"""What a benchmark consists of: counts, lengths, and items that cannot be told apart.

    stats = describe(records)        # a dict that goes into JSON as it is
    rows(stats)                      # [["category", "image", "video", "total"], ...], a table with its header first
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from granted.dataset_builders.ted_6k.records import CATEGORIES, MEDIA, TedRecord, fingerprint, validate_records


def describe(records: Sequence[TedRecord]) -> dict[str, Any]:
    """Describe a benchmark.

    Texts are compared after case folding and joining runs of white space; words are what white space separates.

    Args:
        records (`Sequence[TedRecord]`): the benchmark.

    Returns:
        `dict`: `fingerprint`, `instances`, `captions`, `by_media` and `by_category` (instances), `chance` (accuracy of
        a guess, 0 to 1), `instances_per_caption`, `caption_words`, `statement_words`, `statements_per_instance` (each
        `min`, `mean`, `max`), and three lists of ids: `duplicates` (same caption, same true and same false statements
        as an earlier instance), `undecidable` (the true statement is also one of the false ones) and `contested` (the
        true statement is a false one of another instance of the same caption).

    Raises:
        InputError: a record breaks the schema.
    """
    validate_records(records)
    captions = {record["caption_id"]: record["caption"] for record in records}
    counts = Counter((record["category"], record["media"]) for record in records)
    by_category = {}
    for category in CATEGORIES:
        by_media = {media: counts[category, media] for media in MEDIA}
        by_category[category] = {**by_media, "total": sum(by_media.values())}
    return {
        "fingerprint": fingerprint(records),
        "instances": len(records),
        "captions": len(captions),
        "by_media": {media: sum(count[media] for count in by_category.values()) for media in MEDIA},
        "by_category": by_category,
        "chance": sum(1 / len(record["statements"]) for record in records) / len(records),
        "instances_per_caption": _spread(Counter(record["caption_id"] for record in records).values()),
        "caption_words": _spread(len(caption.split()) for caption in captions.values()),
        "statement_words": _spread(len(text.split()) for record in records for text in record["statements"]),
        "statements_per_instance": _spread(len(record["statements"]) for record in records),
        **_indistinct(records),
    }


def rows(stats: dict[str, Any]) -> list[list[str]]:
    """The counts per category as a table: a header, a row per category present, and the totals, all text."""
    table = [["category", *MEDIA, "total"]]
    for category, count in stats["by_category"].items():
        if count["total"]:
            table.append([category, *(str(count[media]) for media in MEDIA), str(count["total"])])
    table.append(["all", *(str(stats["by_media"][media]) for media in MEDIA), str(stats["instances"])])
    return table


def shared_texts(pairs: Iterable[dict], records: Iterable[TedRecord]) -> list[str]:
    """The texts of caption pairs that a benchmark has too, each once; compared without case and white space."""
    tested = {_normal(text) for record in records for text in (record["caption"], *record["statements"])}
    texts = (t for pair in pairs for t in (pair["caption_a"], pair["caption_b"], *(pair.get("negatives") or ())))
    return list(dict.fromkeys(text for text in texts if _normal(text) in tested))


def _indistinct(records: Sequence[TedRecord]) -> dict[str, list[str]]:
    """The ids of duplicate, undecidable and contested instances."""
    found: dict[str, list[str]] = {"duplicates": [], "undecidable": [], "contested": []}
    seen: set[tuple] = set()
    denials: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # (caption_id, false statement) -> record ids
    split = []
    for record in records:
        statements = [_normal(text) for text in record["statements"]]
        positive = statements.pop(record["label"])
        split.append((positive, statements))
        for negative in statements:
            denials[record["caption_id"], negative].add(record["id"])
    for record, (positive, negatives) in zip(records, split):
        key = (_normal(record["caption"]), positive, *sorted(negatives))
        if key in seen:
            found["duplicates"].append(record["id"])
        seen.add(key)
        if positive in negatives:
            found["undecidable"].append(record["id"])
        if denials[record["caption_id"], positive] - {record["id"]}:
            found["contested"].append(record["id"])
    return found


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _spread(values: Iterable[int]) -> dict[str, float]:
    values = list(values)
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}
