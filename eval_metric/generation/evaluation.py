"""Scores of generated images and videos: how well they follow their prompts, read exactly or judged by a model.

    reports = evaluate_generation("images", judge="Qwen/Qwen3-VL-8B-Instruct")
    reports["shapes"]["all"]["at_places"]             # where the prompts carry drawings of shapes
    reports["vqa_score"]["advanced"]                  # where there is a judge

    granted evaluate generation images --judge MODEL

Each score is one JSON with its provenance and a Parquet of per-image scores; `grid.png` shows some of the images.
Images from elsewhere need a `manifest.jsonl` with `id`, `prompt`, `media` and `file`; the folder of GenAI-Bench with
the images that people rated is read as it is, and the judge's agreement with the ratings is reported.
"""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from granted.encoding.loading import LoadingOptions, device_name, split_spec
from granted.eval_metric.generation.manifest import Run, image_grid, read_manifest, readable
from granted.eval_metric.generation.settings import JudgeSettings
from granted.eval_metric.generation.shapes_score import KINDS, PROPERTIES, SUMMARIES, score_shapes, shapes_report
from granted.eval_metric.generation.vqa_score import (
    Judge,
    rating_agreement,
    score_prompts,
    vqa_score_report,
)
from granted.eval_metric.results import provenance
from granted.utils.errors import InputError, refusing
from granted.utils.files import atomic_path, folder_name, read_json, write_json
from granted.utils.settings import check_value


KIND = "granted.generation_score"


def evaluate_generation(
    source: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    judge: str | None = None,
    options: LoadingOptions | None = None,
    question: str = JudgeSettings.question,
    answer: str = JudgeSettings.answer,
    measure: str = JudgeSettings.measure,
    max_frames: int = JudgeSettings.max_frames,
    batch_size: int = 8,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score images by the exact reader, where prompts carry drawings, and by a judge, where one is given.

    Args:
        source (`str`): a folder of `granted generate`, a manifest, or the folder of GenAI-Bench.
        output (`str`, *optional*): gets the scores and the grid; by default `scores` beside the manifest.
        judge (`str`, *optional*): folder or Hub id of a vision-language model; `NAME=PATH` names it.
        options ([`LoadingOptions`], *optional*): how and where the judge is loaded.
        question (`str`): asked of the judge, with `{}` for the prompt.
        answer (`str`, defaults to `"Yes"`): whose probability counts.
        measure (`str`, defaults to `"answer_probability"`): what the judge's score is; `"answer_and_end"` is that of
            the published scores, see `eval_metric/generation/vqa_score.py`.
        max_frames (`int`, defaults to 16): frames of a video that the judge sees.
        batch_size (`int`, defaults to 8): questions asked at a time.
        seed (`int`, defaults to 0): of the control, which gives each image another prompt's drawing.
        skip_unreadable (`bool`, defaults to `False`): leave out images that cannot be read; they are counted.

    Returns:
        `dict`: `shapes` (see [`shapes_report`]), `vqa_score` (see [`vqa_score_report`]) and, if images carry human
        ratings, `agreement` (see [`rating_agreement`]), each where it applies.

    Raises:
        InputError: there is nothing to score by, or images, manifest or judge cannot be used.
    """
    asking = {"question": question, "answer": answer, "measure": measure, "max_frames": max_frames}
    JudgeSettings(**asking, batch_size=batch_size)
    check_value("seed", seed, int)
    rows, run = read_manifest(source)
    drawn = [row for row in rows if row.get("drawing") is not None]
    if not drawn and judge is None:
        raise InputError(
            f"got {source} without drawings of shapes and without a judge, expected one of them: name a "
            "vision-language model by --judge"
        )
    if drawn and len(drawn) < len(rows):
        raise InputError(f"got {len(drawn)} of {len(rows)} rows of {source} with a drawing, expected all or none")
    rows, unreadable = readable(rows, run.folder, skip_unreadable)
    asked = Judge.load(judge, options, **asking) if judge else None
    output = Path(run.folder / "scores" if output is None else output)
    reports: dict[str, dict[str, Any]] = {}
    notes: dict[str, list[tuple[str, bool]]] = {row["id"]: [] for row in rows}
    if drawn:
        started = time.perf_counter()
        items = score_shapes(rows, run.folder, seed=seed)
        reports["shapes"] = shapes_report(items)
        origin = {"device": "cpu", "dtype": "uint8", "settings": {"control seed": seed}}
        scores = Scores("shapes", reports["shapes"], [_flat(item) for item in items])
        scores.save(output / "shapes.json", run, unreadable, origin, time.perf_counter() - started)
        for item in items:
            notes[item["id"]].append(_note(item["score"]))
    if asked is not None:
        items = score_prompts(asked, rows, run.folder, output / "cache", batch_size=batch_size)
        reports["vqa_score"], agreement = vqa_score_report(items), rating_agreement(items)
        reports |= {"agreement": agreement} if agreement else {}
        name, _ = split_spec(judge)
        origin = {
            "device": device_name(asked.model.device),
            "dtype": str(asked.model.dtype).removeprefix("torch."),
            "weights_fingerprint": asked.fingerprint,
            "settings": {"judge": name} | asking,
        }
        parts = ("vqa_score", measure if measure != JudgeSettings.measure else "", folder_name(name))
        file = output / f"{'__'.join(filter(None, parts))}.json"
        scores = Scores("vqa_score", reports["vqa_score"], items, agreement)
        scores.save(file, run, unreadable, origin, sum(item["seconds"] for item in items))
        for item in items:
            notes[item["id"]].append((f"VQAScore {item['score']:.2f}", item["score"] >= 0.5))
    image_grid(rows, run.folder, output / "grid.png", notes)
    return reports


@dataclass(frozen=True)
class Scores:
    """One kind of scores of one run, as it is on disk.

    Attributes:
        score (`str`): `"shapes"` or `"vqa_score"`.
        report (`dict`): what is reported of them.
        items (`list[dict]`): the scores of each image; of shapes flat, `colour`, `colour control`, `colour ceiling`.
        agreement (`dict`, *optional*): with human ratings.
        stored (`dict`): of scores that were loaded, all else that the file says: `images`, `provenance`, ...
    """

    score: str
    report: dict[str, Any]
    items: list[dict[str, Any]]
    agreement: dict[str, Any] | None = None
    stored: dict[str, Any] = field(default_factory=dict)

    def save(
        self, path: Path, run: Run, unreadable: Mapping[str, str], origin: Mapping[str, Any], seconds: float
    ) -> None:
        """Write `path` and a Parquet file of the items beside it; the same scores that are there stay as they are.

        Args:
            path (`Path`): the JSON file.
            run ([`Run`]): the generation whose images were scored.
            unreadable (`Mapping[str, str]`): by file, why it was not scored.
            origin (`Mapping`): of the provenance, without the time.
            seconds (`float`): that scoring took.
        """
        images = {"scored": len(self.items), "unreadable": dict(unreadable), "generation": run.record}
        if self._is_stored(path, images, origin):
            return
        table = path.with_suffix(".parquet")
        with atomic_path(table) as temporary:
            pq.write_table(pa.Table.from_pylist(self.items), temporary)
            digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        value = {
            "kind": KIND,
            "score": self.score,
            "report": self.report,
            "agreement": self.agreement,
            "pictures": images,
            "provenance": provenance(seconds=round(seconds, 2), tokens=0, **origin),
            "items": {"file": table.name, "sha256": digest},
        }
        write_json(path, value)

    def _is_stored(self, path: Path, images: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
        """Whether `path` holds these very scores: then its provenance, which says when they were made, is true."""
        try:
            found = Scores.load(path)
        except InputError:  # nothing, or half of it: a kill came between the two files
            return False
        same = (found.report, found.items, found.agreement) == (self.report, self.items, self.agreement)
        made = {name: found.stored.get("provenance", {}).get(name) for name in origin} | {"device": origin["device"]}
        return same and found.stored.get("pictures") == images and made == origin

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Scores":
        """Read what `save` wrote.

        Raises:
            InputError: it is something else, or the two files are not of one run.
        """
        path, value = Path(path), read_json(path)
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise InputError(f"got {path}, expected scores of granted evaluate generation: check the path")
        with refusing(str(path), "scores that are whole: score the images again"):
            table, digest = path.parent / value["items"]["file"], value["items"]["sha256"]
            found = cls(value["score"], value["report"], [], value["agreement"], value)
        if not table.is_file() or hashlib.sha256(table.read_bytes()).hexdigest() != digest:
            raise InputError(f"got {path} without its own {table.name} beside it: score the images again")
        return replace(found, items=pq.read_table(table).to_pylist())


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with a column for each property, of its score, its control and its ceiling."""
    flat = {name: value for name, value in item.items() if name not in KINDS}
    for name in (*PROPERTIES, *SUMMARIES):
        for kind in KINDS:
            flat[name if kind == "score" else f"{name} {kind}"] = (item[kind] or {}).get(name)
    return flat


def _note(score: Mapping[str, float]) -> tuple[str, bool]:
    """What is wrong with an image of shapes, and whether nothing is."""
    wrong = [f"{name} {100 * value:.0f}%" for name, value in score.items() if value < 1 and name not in SUMMARIES]
    return ", ".join(wrong) or ("all right" if score["whole"] == 1 else "more than was asked for"), score["whole"] == 1
