"""How well a vision-language model answers questions about shapes, and whether it looks at the pictures.

    report = evaluate_vqa(["before=FOLDER", "after=FOLDER"], "held_out.parquet", "training.parquet", "vqa")
    report["counting"]["after"]                    # {"accuracy": ..., "ci95": [...]}

Truth is the key of each question, judged in any wording. Beside the accuracy stand the majority answer of the training
rows to each kind of question, and the accuracy with another question's picture: without looking the two are the same.
"""

import os
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from granted.dataset_builders.scenes.shapes.questions import is_right
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.media import open_clip, open_image
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.encoding.loading import split_spec
from granted.errors import InputError
from granted.eval_metric.results import library_versions
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.files import atomic_path, write_json


SHOWN = 12  # questions on the sheet


def evaluate_vqa(
    models: Sequence[str], data: str, training_data: str, output: str | os.PathLike, *, batch_size: int = 32
) -> dict[str, dict[str, Any]]:
    """Answer held-out questions with each model, and with the last once more about other pictures; write the report.

    Args:
        models (`list[str]`): folders or Hub ids, `NAME=PATH` to name one.
        data, training_data (`str`): rows of `vqa_rows`; of the second only the majority answers are taken.
        output (`str`): gets `vqa.json`, the report with the answers, and `questions.png`, twelve of them.
        batch_size (`int`, defaults to 32): rows answered at a time.

    Returns:
        `dict`: as of [`vqa_report`].

    Raises:
        InputError: a model or the rows cannot be used.
    """
    held_out, trained = load_vqa(data), load_vqa(training_data)
    for rows in (held_out, trained):
        missing = {"aspect", "pattern", "key"} - set(rows.column_names)
        if missing:
            raise InputError(f"got rows without {', '.join(sorted(missing))}, expected those of granted data shapes")
    rows = [row for row in held_out if row["key"]]
    answers: dict[str, list[str]] = {}
    for spec in models:
        name, path = split_spec(spec)
        if name in answers:
            raise InputError(f"got two models called {name}, expected different names: give them as NAME=PATH")
        try:
            processor = AutoProcessor.from_pretrained(path)
            model = AutoModelForImageTextToText.from_pretrained(path).to(PartialState().device)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"got model {path} ({reason}), expected a vision-language model: check it") from error
        answers[name] = answer(model, processor, rows, batch_size=batch_size)
    answers[f"{name}, picture swapped"] = answer(model, processor, swapped(rows), batch_size=batch_size)
    sources = {
        "models": dict(split_spec(spec) for spec in models),
        "data": data,
        "training_data": training_data,
        "device": str(PartialState().device),
        "versions": library_versions("granted", "torch", "transformers"),
    }
    report = vqa_report(rows, answers, majority_answers(trained.select_columns(["pattern", "key"])))
    said = [{"id": row["id"], "key": row["key"]} | {n: a[i] for n, a in answers.items()} for i, row in enumerate(rows)]
    write_json(Path(output) / "vqa.json", {"accuracy": report, "provenance": sources, "answers": said})
    shown = [round(i * (len(rows) - 1) / (SHOWN - 1)) for i in range(SHOWN)]
    question_sheet([rows[i] for i in shown], [answers[name][i] for i in shown], Path(output) / "questions.png")
    return report


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
    """The rows, each with the picture or clip of another row of the same medium, and kind of question if there is one.

    Raises:
        InputError: there is one picture or one clip only.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[bool(row["videos"]), row["pattern"]].append(number)
    other = {n: group[(i + 1) % len(group)] for group in groups.values() for i, n in enumerate(group)}
    for number in [n for n, partner in other.items() if n == partner]:
        alike = [n for n, row in enumerate(rows) if bool(row["videos"]) == bool(rows[number]["videos"])]
        if len(alike) == 1:
            raise InputError("got one question about pictures or about clips, expected none or more: add rows")
        other[number] = alike[alike.index(number) - 1]
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
    size = (3.2 * columns, 3.8 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
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
        text = [line for part in (question, f"answer: {said}", f"truth: {truth}") for line in textwrap.wrap(part, 42)]
        axis.set_title("\n".join(text), fontsize=8, loc="left", color="#1a7f37" if good else "#b3261e")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
