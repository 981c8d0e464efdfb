"""Check every row before training begins, and name or drop those that cannot be used.

dataset = load_vqa("train.jsonl")
problems = check_rows(dataset)
raise_if_broken(problems, len(dataset))            # or: dataset = usable(dataset, problems)
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import as_conversation
from granted.utils.errors import InputError


NAMED = 3  # rows that the error names


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row: its number from 0, its `id` (empty if it has none), `RowError`'s kind and message."""

    row: int
    id: str
    kind: str
    message: str


def check_rows(
    dataset: Iterable[Mapping[str, Any]],
    *,
    rows: range | None = None,
    use: Callable[[int, Mapping[str, Any]], object] | None = None,
    show_progress: bool = False,
) -> list[Problem]:
    """Check all rows, one after the other; of a broken row the first problem is reported.

    Args:
        dataset (`Dataset`, `IterableDataset` or any `Iterable` of rows): what `load_vqa` gives.
        rows (`range`, *optional*): the numbers of those to check, of a `Dataset`; all by default.
        use (`Callable`, *optional*): what is going to be done with a row, such as `lambda number, row:
            collator([row])`; a `ValueError` is a problem of kind "model": a video of one frame, an image too narrow,
            `<|image_pad|>` in a text.
        show_progress (`bool`, defaults to `False`): show a bar.
    """
    problems = []
    numbers = rows if rows is not None else count()
    if rows is not None:
        dataset = dataset.select(rows)
    bar = tqdm(dataset, desc="checking rows", unit="row", disable=not show_progress)
    for number, row in zip(numbers, bar):
        try:
            conversation = as_conversation(row)
            for image in conversation.images:
                open_image(image)
            for video in conversation.videos:
                # Of a file all frames are decoded, but two are held: a long video would fill the memory.
                open_video(video, conversation.fps, max_frames=None if isinstance(video, list) else 2)
            if use:
                use(number, row)
        except ValueError as error:  # a RowError is one
            name, kind = row.get("id"), getattr(error, "kind", "model")
            message = " ".join(str(error).split())[:300]
            problems.append(Problem(number, "" if name is None else str(name), kind, message))
    return problems


def usable(dataset: Dataset, problems: list[Problem]) -> Dataset:
    """The dataset without the rows of `problems`, in its order; it may be empty."""
    broken = {problem.row for problem in problems}
    return dataset.select([number for number in range(len(dataset)) if number not in broken])


def raise_if_broken(problems: list[Problem], total: int) -> None:
    """Raise if there is a problem.

    Args:
        problems (`list[Problem]`): what `check_rows` found.
        total (`int`): the rows it checked.

    Raises:
        InputError: one line with the number of broken rows by kind, and the first three of them.
    """
    if not problems:
        return
    by_kind = Counter(problem.kind for problem in problems).most_common()
    kinds = ", ".join(f"{number} {kind}" for kind, number in by_kind)
    named = "; ".join(
        f"row {problem.row}{f' ({problem.id})' if problem.id else ''}, {problem.kind}: {problem.message}"
        for problem in problems[:NAMED]
    )
    more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    raise InputError(
        f"got {len(problems)} broken rows of {total} ({kinds}), expected none [{named}{more}]: "
        "mend them, or skip them with --skip-broken"
    )
