"""Is the caption needed? Language models answer TED directly, with its caption, another one and none (Section 4.4).

    table = evaluate(["smollm2=SmolLM2.gguf"], records, info, "out")
    print(markdown(table))

`likelihood` scores a statement by the log-probability of its letter as the next token, the mean over all rotations of
the options, so that a model which prefers a letter gains nothing. `generation` asks once and reads the letter that the
model writes. The output folder gets `results` (a [`Result`] for each model, context, way to answer and seed), `cache`,
and made of these `direct_qa.json` and `direct_qa.md`. Tests: tests/test_direct_qa.py.
"""

import os
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from granted.dataset_builders.ted_6k.baselines import baseline_summary
from granted.dataset_builders.ted_6k.records import TedRecord, caption_text
from granted.dataset_builders.ted_6k.shortcuts import shortcut_report
from granted.encoding.loading import LoadingOptions, check_encoders, device_name, load_language_model
from granted.eval_metric.direct_qa.answering import Answerer, with_exact_head
from granted.eval_metric.direct_qa.prompts import LETTERS, PromptForm, other_captions, question_text, read_letter
from granted.eval_metric.evaluation import dataset_description
from granted.eval_metric.part_tables import BASELINE_NAMES
from granted.eval_metric.results import ANSWERS, Result, load_all, provenance
from granted.eval_metric.seed_groups import SeedGroup, compare_all, group_seeds
from granted.utils.errors import InputError
from granted.utils.files import atomic_path, write_json
from granted.utils.settings import check_seeds
from granted.utils.shown import markdown_escaped, p_text, percent_estimate, signed_estimate


CONTEXTS = ("caption", "shuffled", "none")
NEW_TOKENS = 8  # generated for an answer: what is no letter by then is none
REPORT = "direct_qa.json"
HEADER = (
    "Model",
    "Caption",
    "Answers",
    "Accuracy, % [95% interval]",
    "Asked once, %",
    "No letter, %",
    "Ties",
    "Letters, %",
    "Seeds (spread)",
    "Prompt",
)
NAMES = BASELINE_NAMES | {"statement_only": "The statements alone, by regression"}


def evaluate(
    models: Sequence[str],
    records: Sequence[TedRecord],
    info: dict,
    output_dir: str | os.PathLike,
    *,
    contexts: Sequence[str] = CONTEXTS,
    answers: Sequence[str] = ANSWERS,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    options: LoadingOptions | None = None,
) -> dict[str, Any]:
    """Ask models about every instance, save the results, and write the table of all results in the folder.

    Args:
        models (`list[str]`): see [`load_language_model`].
        records, info: what `read_ted` returns.
        output_dir (`str`): where everything goes; a run that was killed goes on.
        contexts (`list[str]`): `"caption"`, the record's own; `"shuffled"`, another one, see [`other_captions`];
            `"none"`, the question and the statements alone.
        answers (`list[str]`): `"likelihood"`, `"generation"` or both.
        seeds (`list[int]`): captions are shuffled once for each; the paper has five runs.
        options ([`LoadingOptions`], *optional*): how and where the models are loaded.

    Returns:
        What is in `direct_qa.json`, see [`report`].

    Raises:
        InputError: anything given that cannot be used.
    """
    output_dir = Path(output_dir)
    check_encoders(models)
    check_seeds(seeds)
    for given, legal in ((contexts, CONTEXTS), (answers, ANSWERS)):
        if not given or not set(given) <= set(legal) or len(set(given)) < len(given):
            raise InputError(f"got {', '.join(given) or 'nothing'}, expected some of {', '.join(legal)}, each once")
    dataset, results = dataset_description(records, info), output_dir / "results"
    earlier = load_all(results) if results.is_dir() else []
    for one in earlier:
        if one.dataset != dataset:
            raise InputError(
                f"got {output_dir} with results on another benchmark ({one.dataset['config']}), expected none or "
                "results on this one: choose another output folder"
            )
    captions = [
        (context, seed, captions_of(records, context, seed))
        for context in contexts
        for seed in (seeds if context == "shuffled" else [None])
    ]
    baselines = baseline_summary(records)
    for spec in models:
        name, model, tokenizer = load_language_model(spec, options)
        parameters = {"encoder": model.num_parameters()}  # before its head is one of its own
        answerer = Answerer(with_exact_head(model), PromptForm.of(tokenizer))
        _check_same_model(earlier, name, answerer)
        for context, seed, shown in captions:
            asked = Asked(answerer, records, shown, output_dir / "cache", f"{name}, {context}")
            for way in answers:
                items, work, seen = asked.likelihood() if way == "likelihood" else asked.generation()
                common = {"dataset": dataset, "baselines": baselines, "items": items, "seed": seed}
                origin = _provenance(answerer, seed=seed, parameters=parameters, seen=seen, **work)
                Result(name, context, way, provenance=origin, **common).keep(results)
    found = report([result for result in load_all(results) if result.pooling in ANSWERS], records)
    write_json(output_dir / REPORT, found)
    with atomic_path(output_dir / "direct_qa.md") as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    return found


def _check_same_model(earlier: Sequence[Result], name: str, answerer: Answerer) -> None:
    """Refuse a model that is called as another one whose answers are there: they would be compared."""
    for one in earlier:
        if one.encoder == name and one.provenance["weights_fingerprint"] != answerer.fingerprint:
            raise InputError(
                f"got {name}, whose answers in the output folder are of other weights or another dtype, expected "
                "those of this model: name it otherwise (NAME=PATH), or choose another output folder"
            )


def captions_of(records: Sequence[TedRecord], context: str, seed: int | None) -> list[str | None]:
    """The caption text that each record is asked with, `None` for none."""
    if context == "shuffled":
        return list(other_captions(records, seed))
    return [caption_text(record) if context == "caption" else None for record in records]


class Asked:
    """The records with one caption each, and what a model answers to them.

    Args:
        answerer ([`Answerer`]): the model.
        records (`list[TedRecord]`): the benchmark.
        captions (`list[str]`): for each the text that stands before the question, or `None`.
        cache_dir, shown: as of [`Answerer.answers`].
    """

    def __init__(
        self,
        answerer: Answerer,
        records: Sequence[TedRecord],
        captions: Sequence[str | None],
        cache_dir: Path,
        shown: str,
    ):
        self.records, self.counts = records, [len(record["statements"]) for record in records]
        self._pairs = list(zip(records, captions, strict=True))
        self._ask = partial(answerer.answers, cache_dir=cache_dir, shown=shown)
        questions = [question_text(record, caption) for record, caption in self._pairs]
        self.once = self._ask(questions, new_tokens=NEW_TOKENS)

    def likelihood(self) -> tuple[list[dict], dict, dict]:
        """Items scored by the mean log-probability of each statement's letter over the rotations of the options.

        Returns:
            The items of a [`Result`]; `tokens`, `texts` and `seconds` that answering took; and what was seen on the
            way: `letters`, the share of each as the likeliest, and `asked_once`, accuracy with the options as listed.
        """
        turned = [(i, turn) for i, count in enumerate(self.counts) for turn in range(1, count)]
        rest = self._ask([question_text(*self._pairs[i], turn) for i, turn in turned], new_tokens=1)
        by_turn = [[one[:count]] for one, count in zip(self.once.log_probs, self.counts)]  # n x turns x (count,)
        for (i, _), one in zip(turned, rest.log_probs):
            by_turn[i].append(one[: self.counts[i]])
        # Option j of turn t is statement (j + t) % count.
        scores = [torch.stack([one.roll(turn) for turn, one in enumerate(rows)]).mean(0) for rows in by_turn]
        chosen = [LETTERS[int(one.argmax())] for rows in by_turn for one in rows]
        listed = [int(rows[0].argmax()) == record["label"] for rows, record in zip(by_turn, self.records)]
        work = {"tokens": self.once.tokens + rest.tokens, "texts": len(listed) + len(turned)}
        work["seconds"] = round(self.once.seconds + rest.seconds, 2)
        seen = {"letters": _shares(chosen), "asked_once": float(np.mean(listed))}
        return self._items([one.tolist() for one in scores]), work, seen

    def generation(self) -> tuple[list[dict], dict, dict]:
        """Items in which the statement whose letter was written has 1 and all others 0: a tie where none was.

        Returns:
            As of `likelihood`; what was seen is `letters`, the share of each among the answers that are one, and
            `no_letter`, the share of answers that are none.
        """
        written = [read_letter(said, count) for said, count in zip(self.once.said, self.counts)]
        scores = [[float(letter == one) for one in LETTERS[:n]] for letter, n in zip(written, self.counts)]
        work = {"tokens": self.once.tokens, "texts": len(written), "seconds": round(self.once.seconds, 2)}
        seen = {"letters": _shares([one for one in written if one]), "no_letter": written.count(None) / len(written)}
        return self._items(scores), work, seen

    def _items(self, scores: Sequence[list[float]]) -> list[dict]:
        kept = ("id", "caption_id", "category", "media", "label")
        return [
            {name: record[name] for name in kept} | {"scores": row}
            for record, row in zip(self.records, scores, strict=True)
        ]


def _shares(letters: Sequence[str]) -> dict[str, float]:
    """The share of each letter that occurs, and of those before it; nothing where none was written."""
    last = LETTERS.index(max(letters)) + 1 if letters else 0
    return {one: letters.count(one) / len(letters) for one in LETTERS[:last]}


def _provenance(answerer: Answerer, seen: dict, **noted: Any) -> dict:
    model = answerer.model
    return provenance(
        device=device_name(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        texts_cut=0,
        tokens_cut=0,
        encoder_revision=getattr(model.config, "_commit_hash", None),
        weights_fingerprint=answerer.fingerprint,
        settings={"max_length": answerer.limit, "prompt": answerer.form.kind, "seen": seen},
        **noted,
    )


def report(results: Sequence[Result], records: Sequence[TedRecord]) -> dict[str, Any]:
    """The table as data.

    Args:
        results (`list[Result]`): of models that answered directly, on one benchmark.
        records (`list[TedRecord]`): that benchmark.

    Returns:
        `dict`: `dataset`; `rows`, one for each model, context and way to answer, with `accuracy`, `ci95`, `ties`,
        `letters`, `asked_once`, `no_letter` (means over seeds; `None` where there is none), `seeds`, `spread` and
        `prompt`; `differences`, of each model and way the caption minus each other context, with `ci95` and `p`
        (Holm-adjusted); `baselines`, the accuracy of each.
    """
    groups = group_seeds(results)
    order = {name: i for i, name in enumerate((*CONTEXTS, *ANSWERS))}
    groups.sort(key=lambda one: (one.encoder, order[one.pooling], order[one.feature]))
    by_key = {(one.encoder, one.pooling, one.feature): one for one in groups}
    pairs = [
        (by_key[model, way, "caption"], by_key[model, way, context])
        for (model, way, own), context in product(by_key, CONTEXTS[1:])
        if own == "caption" and (model, way, context) in by_key
    ]
    differences = [
        {"model": one.a.encoder, "answers": one.a.pooling, "without": one.b.feature}
        | {"difference": one.difference.difference, "ci95": [one.difference.low, one.difference.high]}
        | {"p": one.adjusted_p}
        for one in compare_all(pairs)
    ]
    return {
        "dataset": results[0].dataset,
        "rows": [_row(one) for one in groups],
        "differences": differences,
        "baselines": {name: one["accuracy"] for name, one in shortcut_report(records).items()},
    }


def _row(group: SeedGroup) -> dict[str, Any]:
    settings = [run.provenance["settings"] for run in group.runs]
    seen = [one["seen"] for one in settings]
    letters = sorted({letter for one in seen for letter in one["letters"]})
    return {
        "model": group.encoder,
        "context": group.feature,
        "answers": group.pooling,
        "accuracy": group.estimate.accuracy,
        "ci95": [group.estimate.low, group.estimate.high],
        "asked_once": _mean([one.get("asked_once") for one in seen]),
        "no_letter": _mean([one.get("no_letter") for one in seen]),
        "ties": group.ties,
        "letters": {letter: _mean([one["letters"].get(letter, 0.0) for one in seen]) for letter in letters},
        "seeds": len(group.runs),
        "spread": group.spread,
        "prompt": settings[0]["prompt"],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table as text, one cell per entry of [`HEADER`]."""
    accuracy = percent_estimate(row["accuracy"], row["ci95"])
    shares = [f"{100 * row[name]:.1f}" if row[name] is not None else "–" for name in ("asked_once", "no_letter")]
    letters = ", ".join(f"{letter} {100 * share:.0f}" for letter, share in row["letters"].items())
    seeds = str(row["seeds"]) + (f" ({100 * row['spread']:.1f})" if row["spread"] is not None else "")
    named = (row["model"], row["context"], row["answers"])
    return (*named, accuracy, *shares, f"{row['ties']:.1f}".removesuffix(".0"), letters or "–", seeds, row["prompt"])


def sentences(found: dict[str, Any]) -> list[str]:
    """What the caption adds for each model, and which model cannot say so."""
    lines = []
    for one in found["differences"]:
        p = p_text(one["p"])
        points = signed_estimate(one["difference"], one["ci95"])
        other = "another caption" if one["without"] == "shuffled" else "none"
        lines.append(
            f"{one['model']}, {one['answers']}: its caption instead of {other} adds {points} points, "
            f"p {p if p.startswith('<') else f'= {p}'}."
        )
    for row in found["rows"]:
        if row["context"] == "caption" and row["ci95"][0] <= found["baselines"]["chance"]:
            lines.append(
                f"{row['model']}, {row['answers']}: with its caption it is not above chance, so without one it says "
                "nothing about the benchmark."
            )
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table of [`report`] in GitHub's Markdown, the baselines in italics, and the differences below it."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * 3 + "--:|" * (len(HEADER) - 4) + "---|"]
    for row in found["rows"]:
        shown = [markdown_escaped(cell) if i < 3 else cell for i, cell in enumerate(cells(row))]
        lines.append(f"| {' | '.join(shown)} |")
    for name, accuracy in found["baselines"].items():
        rest = ["–"] * (len(HEADER) - 4)
        lines.append(f"| {' | '.join([f'*{NAMES[name]}*', '–', '–', f'*{100 * accuracy:.1f}*', *rest])} |")
    lines += ["", *(f"- {line}" for line in sentences(found))]
    return "\n".join(lines) + "\n"
