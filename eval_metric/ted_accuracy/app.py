"""The page of the metric's Space: paste scores and labels, read TED accuracy.

    python app.py              # on this machine: http://127.0.0.1:7860; on a Space gradio chooses the address itself

Tiny: tests/test_metric_page.py. Ships with `ted_accuracy.py`, which must lie beside it.
"""

import csv
import json
from pathlib import Path

import evaluate
import gradio as gr


MAX_CHARACTERS = 5_000_000
HEADER = ["", "accuracy, %", "95% interval", "instances", "ties"]
CSV_EXAMPLE = """label,category,true,false 1,false 2,false 3
0,OCR,0.9,0.2,0.1,0.3
0,Adverb,0.4,0.4,0.1,0.2
0,OCR,0.5,0.1,0.6,0.2
"""
JSON_EXAMPLE = """[{"scores": [0.9, 0.2, 0.1, 0.3], "label": 0, "category": "OCR"},
 {"scores": [0.1, 0.5], "label": 1, "category": "Adverb"}]"""
HELP = """One row per instance, with the similarity of every statement to the caption and the index of the true one,
counted from 0.

- **CSV** with a header: `label`; if you like `category` and `media`; every other column is a statement's score (an
  empty cell: no such statement).
- **JSON**: a list of objects with `scores` and `label`, if you like `category` and `media`.
"""

Metric = type(evaluate.load(str(Path(__file__).with_name("ted_accuracy.py"))))


def read_rows(text):
    """The instances in a text.

    Args:
        text (`str`): JSON or CSV, as `HELP` says.

    Returns:
        `list[dict]`: each with `scores` (`list[float]`), `label` and perhaps `category` and `media`.

    Raises:
        ValueError: the text is neither, or a row lacks something.
    """
    if len(text) > MAX_CHARACTERS:  # the page itself lets no more in, but its API does
        raise ValueError(f"got {len(text):,} characters, expected at most {MAX_CHARACTERS:,}: score them in parts")
    if not text.strip():
        raise ValueError("got no text, expected rows of scores and labels: paste some")
    if text.lstrip()[0] in "[{":
        return _json_rows(text)
    try:
        lines = [f"{line}\n" for line in text.strip().split("\n")]  # a quoted value may go over several
        return _csv_rows(csv.DictReader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"got text that is not CSV ({error}), expected a header and rows: check the quotes") from None


def _csv_rows(reader):
    if "label" not in (reader.fieldnames or []):
        raise ValueError("got CSV without a column label, expected one in its first line: name the columns")
    if len(set(reader.fieldnames)) < len(reader.fieldnames):
        raise ValueError("got two columns of one name, expected a name for each: rename them")
    rows = []
    for number, cells in enumerate(reader, start=2):
        if None in cells or None in cells.values():
            raise ValueError(f"got another number of cells in row {number} than in the header, expected as many")
        told = {name: cells.pop(name) for name in ("label", "category", "media") if name in cells}
        try:
            scores = [float(cell) if cell.strip() else None for cell in cells.values()]
            label = int(told["label"])
            empty = scores[: max(label, 0)].count(None)  # before the true one
            if 0 <= label < len(scores) and scores[label] is None:
                raise ValueError(f"no score at {label}")
            rows.append(told | {"scores": [one for one in scores if one is not None], "label": label - empty})
        except ValueError:
            raise ValueError(f"got a cell in row {number} that is no number, expected scores and a label") from None
    return rows


def _json_rows(text):
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("got text that is not JSON, expected a list of objects: check brackets and commas") from None
    if not isinstance(rows, list):
        raise ValueError("got one JSON object, expected a list of them: put it in [ ]")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or "scores" not in row or "label" not in row:
            raise ValueError(f"got instance {number} without scores and label, expected an object with both")
    return rows


def score(text):
    """TED accuracy of pasted rows.

    Args:
        text (`str`): JSON or CSV, as `HELP` says.

    Returns:
        `tuple[list[list], dict]`: the rows of a table with the columns `HEADER`, and the metric's answer.

    Raises:
        ValueError: the rows cannot be read or scored.
    """
    rows = read_rows(text)
    parts = {}
    for name, argument in (("category", "categories"), ("media", "media")):
        given = [row.get(name) for row in rows]
        if any(value not in (None, "") for value in given):  # an empty column says nothing
            parts[argument] = given
    predictions, references = [row["scores"] for row in rows], [row["label"] for row in rows]
    metric = Metric(keep_in_memory=True)  # for this request alone: nothing of another one is left in it
    result = metric.compute(predictions=predictions, references=references, **parts)
    whole = {"accuracy": result["accuracy"], "ci95": result["accuracy_ci95"], "n": result["n"], "ties": result["ties"]}
    table = [_cells("all", whole)]
    for argument in ("categories", "media"):
        table += [_cells(name, part) for name, part in result.get(argument, {}).items()]
    return table, result


def _cells(name, part):
    low, high = part["ci95"]
    interval = f"[{100 * low:.1f}, {100 * high:.1f}]"
    return [name, f"{100 * part['accuracy']:.1f}", interval, part["n"], part["ties"]]


def show(text):
    """As [`score`], with errors shown on the page."""
    try:
        return score(text)
    except ValueError as error:
        raise gr.Error(str(error), title="These rows cannot be scored", print_exception=False) from None


page = gr.Interface(
    fn=show,
    inputs=gr.Textbox(label="Rows", lines=12, max_lines=24, max_length=MAX_CHARACTERS),
    outputs=[gr.Dataframe(label="TED accuracy", headers=HEADER), gr.JSON(label="The metric's answer")],
    title="TED accuracy",
    description=HELP,
    article="A tie of the true statement with another counts as wrong. The interval is Wilson's.",
    examples=[[CSV_EXAMPLE], [JSON_EXAMPLE]],
    flagging_mode="never",
    analytics_enabled=False,
    api_name="score",
)

if __name__ == "__main__":
    page.launch()
