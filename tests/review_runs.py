"""A run to review, as the stages before would write it: rendered scenes of shapes with captions and statements."""

import os
import random

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from granted.dataset_builders.scenes.shapes.captions import write_shapes_caption
from granted.dataset_builders.scenes.shapes.drawing import render_image, render_video
from granted.dataset_builders.scenes.shapes.lexicon import COLOURS, SHAPES
from granted.dataset_builders.scenes.shapes.sampling import sample_shapes


def run_rows(run, items=3, videos=0):
    """Rows of the stage `check`, two instances an image or video; the media are written into the run."""
    (run / "media").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(items + videos):
        media = "image" if number < items else "video"
        scene, drawing = sample_shapes(f"review/{number}", media, ("Adjective",))
        name = f"{number:016x}"
        file = f"media/{name}.{'png' if media == 'image' else 'mp4'}"
        if media == "image":
            render_image(drawing, 128).save(run / file)
        else:
            write_video(run / file, render_video(drawing, 16, 128))
        rng = random.Random(number)
        figure = drawing.figures[0]
        shape = SHAPES[figure.shape].text if hasattr(SHAPES[figure.shape], "text") else figure.shape
        others = [colour for colour in sorted(COLOURS) if colour not in {one.colour for one in drawing.figures}]
        colours = [figure.colour, *rng.sample(others, 3)]
        counts = [len(drawing.figures) + more for more in range(4)]
        for category, question, said in (
            ("Adjective", "What does it look like?", [f"There is a {colour} {shape}." for colour in colours]),
            ("Quantity", "How many are there?", [f"There are {count} figures in all." for count in counts]),
        ):
            order = rng.sample(range(4), 4)
            rows.append(
                {
                    "instance": f"{name}-{category.lower()}",
                    "id": name,
                    "media": media,
                    "file": file,
                    "caption": write_shapes_caption(scene, "a").text,
                    "category": category,
                    "question": question,
                    "statements": [said[index] for index in order],
                    "label": order.index(0),
                    "word_overlap": 0.5,
                    "reasons": [],
                    "kept": True,
                }
            )
    return rows


def write_run(run, rows):
    """The rows as the stage `check` leaves them."""
    (run / "check").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), run / "check" / "rows.parquet")
    return run


def make_run(run, items=3, videos=0):
    """A run of so many images and videos."""
    return write_run(run, run_rows(run, items, videos))


def write_video(path, frames):
    """PIL images as an MP4 that browsers play."""
    with av.open(os.fspath(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame.convert("RGB")), "rgb24")))
        container.mux(stream.encode())
