"""How well a vision-language model answers questions about shapes, and whether it looks at the pictures.

    answers = answer(model, processor, rows)
    report = vqa_report(rows, answers, majority_answers(training_rows))
    question_sheet(rows[:12], answers, "sheet.png")

Truth is the key of each question, judged in any wording. Beside the accuracy stand the majority answer of the training
rows to each kind of question, and the accuracy with another question's picture: without looking the two are the same.
"""

import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.questions import is_right
from granted.dataset_builders.visual_vqa.media import open_clip, open_image
from granted.errors import InputError
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.files import atomic_path
from granted.training.vqa_collator import VqaCollator


ROWS_SHOWN = 12


@torch.no_grad()
def answer(
    model, processor, rows: Sequence[Mapping[str, Any]], *, batch_size: int = 32, max_new_tokens: int = 32
) -> list[str]:
    """The model's answers to the first question of each row, decoded greedily.

    Args:
        model (`PreTrainedModel`): a vision-language model that generates.
        processor (`ProcessorMixin`): its processor.
        rows (`list[dict]`): rows of VQA in TRL's layout.
        batch_size (`int`, defaults to 32), max_new_tokens (`int`, defaults to 32): as in generation.
    """
    collate = VqaCollator(processor)
    answers: list[str] = []
    was_training = model.training
    model.eval()
    for start in tqdm(range(0, len(rows), batch_size), desc="answering", unit="batch"):
        batch = collate.prompts(rows[start : start + batch_size]).to(model.device)
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)  # (B, N + new)
        said = ids[:, batch["input_ids"].shape[1] :]  # (B, new)
        answers += [text.strip() for text in processor.tokenizer.batch_decode(said, skip_special_tokens=True)]
    model.train(was_training)
    return answers


def swapped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the picture or clip of the next row of the same medium and kind of question."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[bool(row["videos"]), row["pattern"]].append(number)
    other = {n: group[(i + 1) % len(group)] for group in groups.values() for i, n in enumerate(group)}
    return [dict(row) | {name: rows[other[n]][name] for name in ("images", "videos")} for n, row in enumerate(rows)]


def majority_answers(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """For each kind of question the key that is most often right."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        counts[row["pattern"]][row["key"]] += 1
    return {pattern: keys.most_common(1)[0][0] for pattern, keys in counts.items()}


def vqa_report(
    rows: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], majority: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Accuracy per aspect and over all, with 95% intervals, of several sets of answers and of the majority answer.

    Args:
        rows (`list[dict]`): with `aspect`, `pattern` and `key`. Rows without a key (descriptions) are not judged.
        answers (`dict[str, list[str]]`): by name, one answer a row, such as `{"after": [...], "swapped": [...]}`.
        majority (`dict[str, str]`): from [`majority_answers`].

    Raises:
        InputError: no row can be judged.
    """
    judged = [number for number, row in enumerate(rows) if row["key"]]
    if not judged:
        raise InputError("got no question with a key, expected rows of granted data shapes vqa: use such rows")
    right = {name: {n: is_right(given[n], rows[n]["key"]) for n in judged} for name, given in answers.items()}
    right["majority answer"] = {n: majority.get(rows[n]["pattern"]) == rows[n]["key"] for n in judged}
    aspects = {"all": judged}
    for number in judged:
        aspects.setdefault(rows[number]["aspect"], []).append(number)
    return {
        aspect: {"n": len(numbers)} | {name: _estimate([marks[n] for n in numbers]) for name, marks in right.items()}
        for aspect, numbers in aspects.items()
    }


def _estimate(marks: Sequence[bool]) -> dict[str, Any]:
    estimate = bootstrap_accuracy(marks, range(len(marks)))
    return {"accuracy": estimate.accuracy, "ci95": [estimate.low, estimate.high]}


def question_sheet(rows: Sequence[Mapping[str, Any]], answers: Sequence[str], path: str | os.PathLike) -> None:
    """Write a PNG of questions with their pictures (of a clip three frames), the model's answers and the truth."""
    columns = 4
    lines = -(-len(rows) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 3.7 * lines), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, said in zip(axes.flat, rows, answers):
        if row["images"]:
            picture = open_image(row["images"][0])
        else:
            frames = open_clip(row["videos"][0], row["fps"]).frames  # (T, H, W, 3)
            picture = torch.cat([torch.from_numpy(frames[i]) for i in (0, len(frames) // 2, -1)], 1)  # (H, 3W, 3)
        axis.imshow(picture, interpolation="nearest")
        question, truth = (message["content"][-1]["text"] for message in row["messages"][:2])
        good = is_right(said, row["key"])
        text = "\n".join([*textwrap.wrap(question, 38), *textwrap.wrap(f"answer: {said}", 38)[:3]])
        axis.set_title(text, fontsize=8, loc="left", color="#1a7f37" if good else "#b3261e")
        axis.text(
            0, -0.04, "\n".join(textwrap.wrap(f"truth: {truth}", 42)), transform=axis.transAxes, va="top", fontsize=8
        )
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
