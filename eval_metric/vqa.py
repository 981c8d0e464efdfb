"""How well a vision-language model answers questions about shapes, and whether it looks at the images.

    report = evaluate_vqa(["before=FOLDER", "after=FOLDER"], "held_out.parquet", "training.parquet", "vqa")
    report["counting"]["after"]                    # {"accuracy": ..., "ci95": [...]}

Truth is the key of each question, judged in any wording; of a question for yes or no the decision is judged and not
the reason that may follow, even one that contradicts it. Beside the accuracy stand the majority answer of the training
rows to each kind of question, and the accuracy with another question's image: without looking the two are the same.
"""

import hashlib
import os
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm.auto import tqdm

from granted.dataset_builders.scenes.shapes.questions import is_right
from granted.dataset_builders.visual_vqa.collator import VqaCollator
from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import load_vqa
from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.loading import LoadingOptions, device_name, load_vision_language_model, split_spec
from granted.eval_metric.generation.manifest import spread
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.modeling_fingerprint import weights_hash
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, read_json, write_json
from granted.utils.settings import Count, check_value
from granted.utils.versions import library_versions


REPORT = "vqa.json"
SHOWN = 12  # questions on the sheet
MAX_NEW_TOKENS = 32


def evaluate_vqa(
    models: Sequence[str],
    data: str,
    training_data: str,
    output: str | os.PathLike,
    *,
    options: LoadingOptions | None = None,
    batch_size: int = 32,
) -> dict[str, dict[str, Any]]:
    """Answer held-out questions with each model, and with the last once more about other images; write the report.

    Args:
        models (`list[str]`): folders or Hub ids, `NAME=PATH` to name one.
        data, training_data (`str`): rows of `vqa_rows`; of the second only the majority answers are taken.
        output (`str`): gets `vqa.json`, the report with the answers, `questions.png`, twelve of them, and `cache`, the
            answers as they come: a run that was killed goes on.
        options ([`LoadingOptions`], *optional*): how and where the models are loaded.
        batch_size (`int`, defaults to 32): rows answered at a time.

    Returns:
        `dict`: as of [`vqa_report`].

    Raises:
        InputError: a model or the rows cannot be used.
    """
    check_value("batch_size", batch_size, Count)
    names = dict(split_spec(spec) for spec in models)
    if not names or len(names) < len(models):
        raise InputError(
            f"got the models {', '.join(models) or 'none'}, expected some of different names: give them as NAME=PATH"
        )
    held_out, trained = load_vqa(data), load_vqa(training_data)
    for rows in (held_out, trained):
        missing = {"aspect", "pattern", "key"} - set(rows.column_names)
        if missing:
            raise InputError(f"got rows without {', '.join(sorted(missing))}, expected those of granted data shapes")
    rows = [row for row in held_out if row["key"]]
    others = swapped(rows)
    output, answers, seconds, device = Path(output), {}, 0.0, None
    for spec in models:
        name, model, processor = load_vision_language_model(spec, options)
        device = device_name(model.device)
        asked = {name: rows} | ({f"{name}, picture swapped": others} if spec == models[-1] else {})
        for called, questions in asked.items():
            cache = output / "cache"
            answers[called], took = kept_answers(model, processor, questions, cache, batch_size=batch_size)
            seconds += took
    report = vqa_report(rows, answers, majority_answers(trained.select_columns(["pattern", "key"])))
    said = [{"id": row["id"], "key": row["key"]} | {n: a[i] for n, a in answers.items()} for i, row in enumerate(rows)]
    if not _is_stored(output / REPORT, names, report, said):
        sources = {
            "models": names,
            "data": data,
            "training_data": training_data,
            "device": device,
            "seconds": round(seconds, 2),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": library_versions("granted", "torch", "transformers"),
        }
        write_json(output / REPORT, {"accuracy": report, "provenance": sources, "answers": said})
    shown = spread(len(rows), SHOWN)
    question_sheet([rows[i] for i in shown], [answers[name][i] for i in shown], output / "questions.png")
    return report


def _is_stored(path: Path, models: Mapping[str, str], report: Mapping[str, Any], answers: list[dict]) -> bool:
    """Whether this very outcome is there already: then its provenance, which says when it was made, is true."""
    try:
        found = read_json(path)
        return (found["provenance"]["models"], found["accuracy"], found["answers"]) == (models, report, answers)
    except (InputError, KeyError, TypeError):  # nothing, or something else
        return False


def kept_answers(
    model, processor, rows: Sequence[Mapping[str, Any]], cache_dir: str | os.PathLike, *, batch_size: int = 32
) -> tuple[list[str], float]:
    """As [`answer`], with answers that are kept by model, question and image, and the seconds that all of them took.

    Args:
        model, processor, rows, batch_size: of [`answer`].
        cache_dir (`str`): where answers are kept; what is there is not asked again.
    """
    collate = VqaCollator(processor)
    identity = {
        "model": weights_hash(model),
        "dtype": str(model.dtype),
        "template": collate.chat_template,
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    cache = EmbeddingCache(Path(cache_dir) / identity_hash(identity), identity)
    keys = [_row_key(collate, row) for row in rows]
    by_key = dict(zip(keys, rows))
    missing = cache.missing(keys)
    for start in tqdm(range(0, len(missing), batch_size), desc="answering", unit="batch", disable=not missing):
        part = missing[start : start + batch_size]
        started = time.perf_counter()
        said = answer(model, processor, [by_key[key] for key in part], batch_size=batch_size)
        took = torch.full((len(part), 1), (time.perf_counter() - started) / len(part), dtype=torch.float64)  # (b, 1)
        texts = [torch.tensor(list(text.encode()), dtype=torch.uint8)[:, None] for text in said]  # (bytes, 1) each
        cache.append(part, {"text": texts, "seconds": took.unbind()})
    said = {key: bytes(cache.read("text", key)[:, 0].tolist()).decode() for key in by_key}
    return [said[key] for key in keys], cache.read_vectors("seconds", list(by_key)).sum().item()


def _row_key(collate: VqaCollator, row: Mapping[str, Any]) -> str:
    """A hash of all that a model is shown of a row: the messages up to its first question, pixels and frame rate."""
    messages, videos = collate.with_media(row, question_only=True)
    digest = hashlib.sha256(repr([(video.total_num_frames, video.fps) for video in videos]).encode())
    for role, part in ((message["role"], part) for message in messages for part in message["content"]):
        value = part[part["type"]]
        digest.update(f"{role} {part['type']} {np.shape(value)} ".encode())
        digest.update(value.encode() if isinstance(value, str) else np.asarray(value).tobytes())
    return digest.hexdigest()


@torch.no_grad()
def answer(
    model, processor, rows: Sequence[Mapping[str, Any]], *, batch_size: int = 32, max_new_tokens: int = MAX_NEW_TOKENS
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
    for start in range(0, len(rows), batch_size):
        batch = collate.prompts(rows[start : start + batch_size]).to(model.device)
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)  # (B, N + new)
        said = ids[:, batch["input_ids"].shape[1] :]  # (B, new)
        answers += [text.strip() for text in processor.tokenizer.batch_decode(said, skip_special_tokens=True)]
    model.train(was_training)
    return answers


def swapped(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, each with the image or video of another row of the same medium, and kind of question if there is one.

    Raises:
        InputError: there is one image or one video only.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[bool(row["videos"]), row["pattern"]].append(number)
    other = {n: group[(i + 1) % len(group)] for group in groups.values() for i, n in enumerate(group)}
    for number in [n for n, partner in other.items() if n == partner]:
        alike = [n for n, row in enumerate(rows) if bool(row["videos"]) == bool(rows[number]["videos"])]
        if len(alike) == 1:
            raise InputError("got one question about images or about videos, expected none, or two or more: add rows")
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
    """Write a PNG of questions with their images (of a video three frames), the model's answers and the truth."""
    columns = 4
    lines = -(-len(rows) // columns)
    size = (3.2 * columns, 3.8 * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, row, said in zip(axes.flat, rows, answers):
        if row["images"]:
            image = open_image(row["images"][0])
        else:
            frames = open_video(row["videos"][0], row["fps"]).frames  # (T, H, W, 3)
            image = torch.cat([torch.from_numpy(frames[i]) for i in (0, len(frames) // 2, -1)], 1)  # (H, 3W, 3)
        axis.imshow(image, interpolation="nearest")
        question, truth = (message["content"][-1]["text"] for message in row["messages"][:2])
        good = is_right(said, row["key"])
        text = [line for part in (question, f"answer: {said}", f"truth: {truth}") for line in textwrap.wrap(part, 42)]
        axis.set_title("\n".join(text), fontsize=8, loc="left", color="#1a7f37" if good else "#b3261e")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
