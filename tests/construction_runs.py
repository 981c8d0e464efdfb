"""Small runs of rendered scenes, curated by hand, and a model that knows the scenes: for tests of construction.

truths = scenes_in(run, 6)                          # run/media, run/curate
with LoopbackChat(knowing(truths)) as server:
    construct(settings_of(run, server))
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from granted.dataset_builders.construction.curation import ITEMS
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.scenes.shapes.drawing import render_image, render_video
from granted.dataset_builders.scenes.shapes.rungs import rung_questions
from granted.tests.loopback_chat import Asked, LoopbackChat, Model
from granted.utils.files import write_json


def scenes_in(run: Path, count: int, uses: tuple[str, ...] = ("ted", "pairs", "vqa")) -> dict[str, dict[str, Any]]:
    """Render scenes into a run as if they had been curated; by caption what is true of each."""
    truths, items = {}, []
    (run / "media").mkdir(parents=True)
    for number, (record, drawing, _) in enumerate(rung_questions(count, (6, 8))):
        buffer = io.BytesIO()
        render_image(drawing, 64).save(buffer, "PNG")
        item = add_item(run, buffer.getvalue(), "image", ".png", uses[number % len(uses)])
        items.append(item)
        truths[record["caption"]] = record | {"image": hashlib.sha256(buffer.getvalue()).hexdigest()}
    curated(run, items)
    return truths


def add_item(run: Path, content: bytes, media: str, suffix: str, use: str) -> dict[str, Any]:
    """A file in the run's media, and its row."""
    name = hashlib.sha256(content).hexdigest()[:16]
    (run / f"media/{name}{suffix}").write_bytes(content)
    item = {"id": name, "media": media, "file": f"media/{name}{suffix}", "width": 64, "height": 64, "use": use}
    return item | {"seconds": 2.0 if media == "video" else None, "source": name, "source_caption": None}


def curated(run: Path, items: list[dict[str, Any]]) -> None:
    """The outcome of the stage `curate`."""
    (run / "curate").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(items, schema=ITEMS), run / "curate" / "rows.parquet")
    write_json(run / "curate" / "stage.json", {"stage": "curate", "counts": {"kept": len(items)}})


def video_file(drawing: Any, path: Path) -> bytes:
    """A clip of a drawing."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for image in render_video(drawing, 16, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def settings_of(run: Path, server: LoopbackChat, **options: Any) -> ConstructionSettings:
    """Settings for a run whose items are there."""
    given = {"source": "unused", "model": "a-model", "caption_words": [3, 400], "unreviewed": False, "votes": 2}
    return ConstructionSettings(**given | {"output": run, "endpoint": server.url} | options)


def knowing(truths: dict[str, dict[str, Any]]) -> Model:
    """A model that sees which scene an image is, and knows what is true of it."""
    by_image = {truth["image"]: caption for caption, truth in truths.items()}

    def answer(asked: Asked) -> dict[str, Any]:
        if asked.kind == "caption":
            caption = by_image[hashlib.sha256(asked.images[0]).hexdigest()]
            return {"caption": f"Please paint this. {caption}" if "illustrator" in asked.system else caption}
        if asked.kind == "same":
            return {"same": [False] * len(asked.material["statements"])}
        if asked.kind == "choice":
            return {"choice": 1}
        truth = truths[asked.material["caption"]]
        positive = truth["statements"][truth["label"]]
        if asked.kind == "reason, statement":
            asks = {"Adjective": "said by an adjective", "Spatial Relationship": "where one thing"}[truth["category"]]
            return {"reason": "the caption says so", "statement": positive if asks in asked.system else None}
        if asked.kind == "statements":
            return {"statements": [one for one in truth["statements"] if one != positive]}
        if asked.kind == "question, answer":
            return {"question": "What is there to see?", "answer": asked.material["caption"]}
        return {"verdict": "true" if asked.material["statement"] == positive else "false"}

    return answer


def data_of(run: Path) -> dict[str, Any]:
    """All rows of all stages, and what was set aside."""
    files = sorted(run.glob("*/*.parquet"))
    return {path.relative_to(run).as_posix(): pq.read_table(path).to_pylist() for path in files}


def paid(server: LoopbackChat) -> int:
    """Answers that the server has sent whole."""
    return sum(server.answers.values())


def text_of(body: dict[str, Any]) -> str:
    """A call as the server saw it."""
    return json.dumps(body, sort_keys=True)
