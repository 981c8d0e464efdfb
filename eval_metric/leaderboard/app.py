"""The page of a leaderboard: choose an evaluation, filter, sort, compare two encoders.

    python app.py              # beside leaderboard.json: http://127.0.0.1:7860; a Space chooses the address itself

`granted leaderboard FOLDER` shows the same page of results files; it imports gradio and what that needs, so that it
runs as a Space, which `granted push --leaderboard` makes. A Space without leaderboard.json shows that of the dataset
which its card names, as it is when the Space starts. Names and texts of results are data: each goes through `text`,
which escapes it. Tests: tests/test_leaderboard.py, tests/test_leaderboard_dataset.py.
"""

import json
from html import escape
from pathlib import Path

import gradio as gr
from huggingface_hub import SpaceCard, hf_hub_download


HERE = Path(__file__).parent
STORED = "leaderboard.json"
TITLE = "Text encoders, as measured"
BY_NAME = "encoder"  # to sort by
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font is fetched from elsewhere
CSS = """
.gradio-container {
  width: 100% !important; min-width: 0 !important; max-width: 1180px !important; margin: 0 auto !important;
  padding: 8px 12px !important;
}
.gradio-container .main { padding: 0 !important; }
footer { display: none !important; }
#board { gap: 10px; --faint: #5d6675; }
.dark #board { --faint: #a5aebd; }
#board .html-container { padding: 0; }
#board bdi { color: inherit; }
#board h1 { margin: 4px 0 0; font-size: 22px; font-weight: 700; }
#board h2 { margin: 18px 0 2px; font-size: 17px; font-weight: 700; }
#board p, #board li { margin: 2px 0; font-size: 14px; line-height: 1.45; max-width: 78ch; overflow-wrap: anywhere; }
#board .faint, #board small { color: var(--faint); }
#board .scroll { overflow-x: auto; }
#board .scroll:focus-visible { outline: 3px solid #2f7de1; }
#board :is(table, thead, tbody, tr) { border: 0; background: none; }
#board table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
#board :is(th, td) {
  padding: 6px 14px 6px 0; border: 0; border-bottom: 1px solid var(--border-color-primary);
  text-align: right; vertical-align: top; color: var(--body-text-color); white-space: nowrap;
}
#board :is(th, td):first-child { min-width: 132px; text-align: left; white-space: normal; overflow-wrap: anywhere; }
#board th { font-weight: 600; vertical-align: bottom; white-space: normal; }
#board td small { display: block; font-size: 12px; }
#board tr.floor td { font-style: italic; color: var(--faint); }
"""


def text(words):
    """Words of data as they are: no markup, and the direction of their writing changes nothing around them."""
    return f'<bdi dir="auto">{escape(str(words), quote=True)}</bdi>'


def figure(value, unit):
    """A score, in percent where it is a share."""
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.1f}"


def html_table(head, rows, label):
    """A table that scrolls by itself where it is too wide; `head` and cells are HTML, `rows` are (class, cells)."""
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label, quote=True)}"><table><thead><tr>'
    ]
    lines += [f'<th scope="col">{cell}</th>' for cell in head]
    lines.append("</tr></thead><tbody>")
    for kind, cells in rows:
        lines.append(f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def ranking(evaluation, encoders=(), features=(), by=""):
    """The table of an evaluation.

    Args:
        evaluation (`dict`): of the board's `evaluations`.
        encoders, features (`list[str]`): those to show; all without.
        by (`str`): the name of the score to sort by, `"encoder"` for names; the first score without.
    """
    columns = evaluation["columns"]
    names = [column["name"] for column in columns]
    rows = [
        row
        for row in evaluation["rows"]
        if (not encoders or row["encoder"] in encoders) and (not features or row["feature"] in features)
    ]
    if by == BY_NAME:
        rows = sorted(rows, key=lambda row: (row["encoder"], row["feature"]))
    elif by in names:
        index = names.index(by)
        rows = sorted(rows, key=lambda row: -row["scores"][index][0] if row["scores"][index] else float("inf"))
    order = [index for index, name in enumerate(names) if name == by] or [0]  # what is sorted by comes first
    order += [index for index in range(len(names)) if index not in order]
    titles = [text(names[i]) + (", %" if columns[i]["unit"] == "%" else "") for i in order]
    head = ["Encoder <small>feature</small>", titles[0], "Place", *titles[1:]]
    table = []
    for row in rows:
        cells = [_score(row["scores"][i], columns[i]["unit"]) for i in order]
        name = f"{text(row['encoder'])}<small>{text(row['feature'])}</small>"
        table.append(("floor" if row["floor"] else "", [name, cells[0], _places(row["places"]), *cells[1:]]))
    count = len(evaluation["rows"])
    shown = f"{len(rows)} of {count}" if len(rows) < count else f"All {count}"
    return (
        f'<p class="faint">{text(evaluation["what"])} {shown} are shown.</p>'
        + html_table(head, table, "Ranking")
        + f'<p class="faint">Scores with 95% intervals. A place is the range among all, by {text(names[0])}: places '
        "differ only where two scores differ beyond chance. In italics, to compare with: no knowledge of an "
        "encoder, or mean pooling.</p>"
    )


def _score(score, unit):
    if score is None:
        return "–"
    value, low, high = (figure(one, unit) for one in score)
    return f"{value}<small>{low}–{high}</small>"


def _places(places):
    first, last = map(int, places)
    return f"{first}" if first == last else f"{first}–{last}"


def comparison(a, b, found):
    """What is known of the difference of two encoders and features."""
    if a == b:
        return '<p role="status">Choose two different ones.</p>'
    if not found:
        return (
            '<p role="status">Their results do not keep single items, so there is no paired comparison: compare the '
            "intervals above.</p>"
        )
    rows = []
    for one in found:
        low, high = one["ci95"]
        interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
        shown = "&lt; 0.001" if one["p"] < 0.001 else f"{one['p']:.3f}"
        rows.append(("", [text(one["score"]), f"{100 * one['difference']:+.1f}<small>{interval}</small>", shown]))
    return (
        f'<p role="status">{text(a)} minus {text(b)}, on the same items, in percentage points:</p>'
        + html_table(["Score", "Difference", "p"], rows, "Paired difference")
        + '<p class="faint">With 95% interval; p is of this comparison alone, not adjusted for others.</p>'
    )


def published(content):
    """What the paper printed."""
    head = ["Encoder <small>family</small>", *(text(name) for name in content["features"])]
    rows = [
        (
            "",
            [
                f"{text(row['encoder'])}<small>{text(', '.join(row['family']))}</small>",
                *("–" if value is None else f"{value:.2f}" for value in row["cells"]),
            ],
        )
        for row in content["rows"]
    ]
    return (
        f'<p class="faint">Accuracy on the official TED-6K as printed in {text(content["source"])}, '
        f"{text(content['where'])}, percent. Not run here, not comparable with any score above, and not ranked with "
        "them.</p>" + html_table(head, rows, "Published")
    )


def apart(entries):
    """What cannot be ranked, and why."""
    items = "".join(f"<li><b>{text(path)}</b>: {text(reason)}</li>" for path, reason in entries)
    return f"<h2>Not ranked</h2><ul>{items}</ul>" if entries else ""


def make_page(content, differences):
    """The components of the page and what their events do.

    Args:
        content (`dict`): of `Board`, see `board.py`.
        differences (`Callable`): given the index of an evaluation and two names, the better first, their differences.

    Returns:
        `gr.Blocks`: to be launched.
    """
    evaluations = content["evaluations"]
    titles = [(one["title"], index) for index, one in enumerate(evaluations)]

    def show(index, encoders, features, by):
        return ranking(evaluations[index], encoders, features, by)

    def choose(index):
        choices = _choices(evaluations[index])
        return [ranking(evaluations[index]), *(gr.update(**one) for one in choices), ""]

    def compared(index, a, b):
        arms = [row["arm"] for row in evaluations[index]["rows"]]
        a, b = sorted((a, b), key=arms.index)  # the better first
        return comparison(a, b, [] if a == b else differences(index, a, b))

    with gr.Blocks(title=TITLE, analytics_enabled=False) as page, gr.Column(elem_id="board"):
        gr.HTML(f"<h1>{TITLE}</h1>")
        if evaluations:
            first = _choices(evaluations[0])
            chosen = gr.Dropdown(titles, value=0, label="Evaluation", elem_id="evaluation")
            with gr.Accordion("Filter and sort", open=False, elem_id="filter"), gr.Row():
                encoders = gr.Dropdown(**first[0], label="Encoders", multiselect=True, elem_id="encoders")
                features = gr.Dropdown(**first[1], label="Features", multiselect=True, elem_id="features")
                by = gr.Dropdown(**first[2], label="Sort by", elem_id="by")
            table = gr.HTML(ranking(evaluations[0]), elem_id="ranking")
            gr.HTML("<h2>Compare two</h2>")
            with gr.Row():
                a = gr.Dropdown(**first[3], label="One", elem_id="one", min_width=300)
                b = gr.Dropdown(**first[4], label="The other", elem_id="other", min_width=300)
            button = gr.Button("Compare", elem_id="compare")
            outcome = gr.HTML(elem_id="comparison")
            chosen.input(choose, chosen, [table, encoders, features, by, a, b, outcome], **PRIVATE)
            for one in (encoders, features, by):
                one.input(show, [chosen, encoders, features, by], table, **PRIVATE)
            button.click(compared, [chosen, a, b], outcome, **PRIVATE)
        gr.HTML(apart(content["apart"]), elem_id="apart")
        gr.HTML(f"<h2>Published</h2>{published(content['published'])}", elem_id="published")
    return page


def _choices(evaluation):
    """What can be chosen of an evaluation: encoders, features, what to sort by, and two to compare."""
    rows, names = evaluation["rows"], [column["name"] for column in evaluation["columns"]]
    arms = [row["arm"] for row in rows]
    return [
        {"choices": sorted({row["encoder"] for row in rows}), "value": []},
        {"choices": sorted({row["feature"] for row in rows}), "value": []},
        {"choices": [*names, BY_NAME], "value": names[0]},
        {"choices": arms, "value": arms[0]},
        {"choices": arms, "value": arms[min(1, len(arms) - 1)]},
    ]


def stored_content(folder):
    """What a Space shows: leaderboard.json of its folder, or that of the dataset which the card there names."""
    path = folder / STORED
    if not path.is_file():
        (dataset,) = SpaceCard.load(folder / "README.md").data.datasets
        path = Path(hf_hub_download(dataset, STORED, repo_type="dataset"))
    return json.loads(path.read_text(encoding="utf-8"))


def stored_differences(content):
    """The differences that `leaderboard.json` holds, as `make_page` takes them."""
    kept = {(index, a, b): found for index, a, b, found in content["differences"]}
    return lambda index, a, b: kept[index, a, b]


def serve(page, **address):
    """Serve the page until it is interrupted; `address` is gradio's `server_name` and `server_port`."""
    page.launch(
        share=False,
        theme=THEME,
        head=f"<style>{CSS}</style>",  # gradio takes declarations out of what it gets as css
        footer_links=[],
        ssr_mode=False,
        **address,
    )


if __name__ == "__main__":
    CONTENT = stored_content(HERE)
    serve(make_page(CONTENT, stored_differences(CONTENT)))
