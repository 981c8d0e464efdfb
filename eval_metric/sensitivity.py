"""What moves a TED score that should not? Trained aggregators scored again with texts read in another way.

    found = sensitivity(["minilm=./MiniLM"], records, info, "evaluation/aggregators", "out")
    print(markdown(found))

Each of [`VARIATIONS`] changes one thing of the evaluation, and the aggregators stay as they are. They were trained on
plain texts, without a template and without the first line that TED puts before a caption: what a change of these does
says how far an aggregator carries over, not how good it could be. Mean pooling, which learned nothing, stands beside
them. Tests: tests/test_sensitivity.py.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from granted.configuration_granted import GrantedConfig
from granted.dataset_builders.ted_6k.records import TedRecord, caption_text
from granted.encoding.loading import EncoderOptions, check_encoders, load_encoder
from granted.eval_metric.benchmark import TrainedAggregator, find_aggregators, score_encoder
from granted.eval_metric.evaluation import common_length, dataset_description
from granted.eval_metric.results import Result
from granted.eval_metric.seed_groups import SeedGroup, compare_all, group_seeds
from granted.modeling_granted import GrantedModel
from granted.utils.files import atomic_path, write_json
from granted.utils.shown import markdown_escaped, signed_estimate


LEVEL = 0.05  # two features differ if their adjusted p value is below
TEMPLATE = "Describe what is shown: {prompt}"
SHORT = 77  # tokens, as many as CLIP reads


@dataclass(frozen=True)
class Variation:
    """One thing that is changed.

    Attributes:
        name, what (`str`): for tables, and in words.
        config (`dict`): fields of the encoder's configuration.
        other_dtype (`bool`): bfloat16 in place of float32, float32 in place of any other.
        other_side (`bool`): padding on the other side.
        reverse (`bool`): statements and instances in reverse, in batches of a quarter of the tokens.
        captions (`Callable`): what is encoded for the caption of a record.
    """

    name: str
    what: str
    config: Mapping[str, Any] = field(default_factory=dict)
    other_dtype: bool = False
    other_side: bool = False
    reverse: bool = False
    captions: Callable[[TedRecord], str] = caption_text


PLAIN = Variation("plain", "as the aggregators were trained")
VARIATIONS = (
    Variation("order", "statements and instances in reverse, in smaller batches; nothing may change", reverse=True),
    Variation("padding", "padding on the other side; nothing may change but for absolute positions", other_side=True),
    Variation("dtype", "the encoder in bfloat16 where it was float32, else in float32", other_dtype=True),
    Variation("caption alone", "captions without the line that says image or video", captions=lambda r: r["caption"]),
    Variation(
        "other first line",
        'captions begin with "A description of an image:" or "... of a video:"',
        captions=lambda r: f"A description of {'an image' if r['media'] == 'image' else 'a video'}: {r['caption']}",
    ),
    Variation("template", f'texts are read as "{TEMPLATE}"', {"prompt_template": TEMPLATE}),
    Variation(f"{SHORT} tokens", f"no more than {SHORT} tokens of a text are read", {"max_sequence_length": SHORT}),
)


def sensitivity(
    encoders: Sequence[str],
    records: Sequence[TedRecord],
    info: dict,
    aggregator: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    options: EncoderOptions | None = None,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Score aggregators as they were trained and under each variation; write `sensitivity.json` and `.md`.

    Args:
        encoders (`list[str]`): see [`load_encoder`].
        records, info: what `read_ted` returns.
        aggregator (`str`): the folder of `granted evaluate ted` in which their aggregators are, however deep.
        output_dir (`str`): gets the two files and `cache`, from which an interrupted run goes on.
        options ([`EncoderOptions`], *optional*): how and where encoders are loaded: as for the training.
        max_length (`int`, *optional*): as in [`~eval_metric.evaluation.evaluate`].

    Returns:
        What is in `sensitivity.json`, see [`report`].

    Raises:
        InputError: an encoder without an aggregator of its own there, or read otherwise than in the training.
    """
    check_encoders(encoders)
    output_dir, options = Path(output_dir), options or EncoderOptions()
    max_length = common_length(encoders, options, max_length)
    heads = find_aggregators(aggregator)
    dataset = dataset_description(records, info)
    scored: dict[str, list[Result]] = {}
    for spec in encoders:
        name, encoder = load_encoder(spec, options, max_length=max_length)
        fingerprint, dtype = encoder.fingerprint(), str(encoder.dtype).removeprefix("torch.")
        own = [head for head in heads if head.aggregator.config.encoder_fingerprint == fingerprint] or heads
        for one in (PLAIN, *VARIATIONS):
            varied = encoder
            if one.other_dtype:
                other = replace(options, dtype="bfloat16" if dtype == "float32" else "float32")
                varied = load_encoder(spec, other, max_length=max_length)[1]
            cache = output_dir / "cache" / one.name.replace(" ", "_")
            with changed(varied.config, one):
                scored.setdefault(one.name, []).extend(score(varied, name, own, records, dataset, cache, one))
    found = report(scored)
    write_json(output_dir / "sensitivity.json", found)
    with atomic_path(output_dir / "sensitivity.md") as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    return found


@contextmanager
def changed(config: GrantedConfig, variation: Variation) -> Iterator[None]:
    """An encoder's configuration with what the variation changes in it; a limit below the variation's stays."""
    changes = dict(variation.config)
    if variation.other_side:
        changes["padding_side"] = "left" if config.padding_side == "right" else "right"
    if "max_sequence_length" in changes:
        changes["max_sequence_length"] = min(changes["max_sequence_length"], config.max_sequence_length)
    usual = {name: getattr(config, name) for name in changes}
    vars(config).update(changes)
    try:
        yield
    finally:
        vars(config).update(usual)


def score(
    encoder: GrantedModel,
    name: str,
    heads: Sequence[TrainedAggregator],
    records: Sequence[TedRecord],
    dataset: dict,
    cache_dir: Path,
    variation: Variation,
) -> list[Result]:
    """The results of an encoder whose configuration is changed already; in a reversed one labels are where they were.

    Args:
        encoder, name, heads, records, dataset, cache_dir: as of [`score_encoder`].
        variation ([`Variation`]): what is changed.
    """
    if variation.reverse:
        records = [
            record
            | {"statements": record["statements"][::-1], "label": len(record["statements"]) - 1 - record["label"]}
            for record in reversed(records)
        ]
    return score_encoder(
        encoder,
        name,
        heads,
        records,
        dataset,
        cache_dir,
        token_budget=2048 if variation.reverse else 8192,
        captions=variation.captions,
        as_trained=variation is PLAIN,
    )


def report(scored: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """Paired differences from the plain run, and whether features change places.

    Args:
        scored (`dict[str, list[Result]]`): by the name of the variation, the plain one among them.

    Returns:
        `dict`: `dataset`; `rows`, one for each variation, encoder, feature and pooling, with `accuracy`, and except of
        the plain one `difference` from it with `ci95` and `p` (Holm-adjusted over all rows), `changed`, the share of
        items that are right in one and wrong in the other, `cosine`, by how much the true statement's moves at most,
        and `texts_cut`; `ranks`, for each variation and pooling how many `pairs` of encoder and feature there are, how
        many of them `differ` beyond chance in the plain run, and how many of all and of those change places
        (`swapped`, `differ_swapped`). Seeds are averaged.
    """
    groups = {name: {_key(one): one for one in group_seeds(results)} for name, results in scored.items()}
    plain = groups.pop(PLAIN.name)
    pairs = [(one, plain[key]) for found in groups.values() for key, one in found.items()]
    compared = iter(compare_all(pairs))
    rows = [_row(PLAIN.name, one) for one in plain.values()]
    for name, found in groups.items():
        for key, one in found.items():
            comparison = next(compared)
            difference = comparison.difference
            rows.append(
                _row(name, one)
                | {"difference": difference.difference, "ci95": [difference.low, difference.high]}
                | {"p": comparison.adjusted_p, "changed": float((one.correct != plain[key].correct).mean())}
                | {"cosine": _largest_change(one, plain[key])}
            )
    ranks = [
        {"variation": name, "pooling": pooling} | _ranks(plain, found, pooling)
        for name, found in groups.items()
        for pooling in ("aggregator", "mean")
    ]
    return {"dataset": next(iter(plain.values())).runs[0].dataset, "rows": rows, "ranks": ranks}


def _key(group: SeedGroup) -> tuple[str, str, str]:
    return group.encoder, group.feature, group.pooling


def _row(name: str, group: SeedGroup) -> dict[str, Any]:
    named = {"variation": name, "encoder": group.encoder, "feature": group.feature, "pooling": group.pooling}
    estimate, cut = group.estimate, group.runs[0].provenance["texts_cut"]
    return named | {
        "accuracy": estimate.accuracy,
        "accuracy_ci95": [estimate.low, estimate.high],
        "seeds": len(group.runs),
        "texts_cut": cut,
    }


def _largest_change(one: SeedGroup, plain: SeedGroup) -> float:
    def cosines(group: SeedGroup) -> np.ndarray:
        return np.array([[item["scores"][item["label"]] for item in run.items] for run in group.runs])  # (S, n)

    return float(np.abs(cosines(one) - cosines(plain)).max())


def _ranks(plain: Mapping[tuple, SeedGroup], found: Mapping[tuple, SeedGroup], pooling: str) -> dict[str, int]:
    keys = [key for key in plain if key[2] == pooling]
    pairs = list(combinations(keys, 2))
    swapped = [
        np.sign(plain[a].estimate.accuracy - plain[b].estimate.accuracy)
        * np.sign(found[a].estimate.accuracy - found[b].estimate.accuracy)
        < 0
        for a, b in pairs
    ]
    differ = [one.adjusted_p < LEVEL for one in compare_all([(plain[a], plain[b]) for a, b in pairs])]
    return {
        "pairs": len(pairs),
        "swapped": int(sum(swapped)),
        "differ": int(sum(differ)),
        "differ_swapped": sum(map(bool, np.logical_and(swapped, differ))),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of [`report`] in GitHub's Markdown: the differences, then what else each variation does."""
    columns = [one.name for one in VARIATIONS]
    lines = [
        f"| Encoder | Feature | Pooling | Plain, % | {' | '.join(columns)} |",
        "|---|---|---|" + "--:|" * (1 + len(columns)),
    ]
    by_key: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for row in found["rows"]:
        by_key.setdefault((row["encoder"], row["feature"], row["pooling"]), {})[row["variation"]] = row
    for key, rows in by_key.items():
        plain = f"{100 * rows[PLAIN.name]['accuracy']:.1f}"
        moved = (signed_estimate(rows[name]["difference"], rows[name]["ci95"]) for name in columns)
        shown = [*map(markdown_escaped, key), plain, *moved]
        lines.append(f"| {' | '.join(shown)} |")
    lines += ["", "Points more than the plain run [95% interval over captions, paired]; seeds are averaged.", ""]
    heads = ("Variation", "What", "Texts cut", "Items that change, %", "Cosine moves by up to", "Changed places")
    lines += [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * 4]
    for one in VARIATIONS:
        rows = [row for row in found["rows"] if row["variation"] == one.name]
        changed = [100 * row["changed"] for row in rows]
        ranks = {rank["pooling"]: rank for rank in found["ranks"] if rank["variation"] == one.name}
        shown = (
            one.name,
            markdown_escaped(one.what),
            str(max(row["texts_cut"] for row in rows)),
            f"{min(changed):.1f} to {max(changed):.1f}",
            f"{max(row['cosine'] for row in rows):.1e}",
            "; ".join(_places(rank) for rank in ranks.values() if rank["pairs"]) or "–",
        )
        lines.append(f"| {' | '.join(shown)} |")
    lines += ["", "Changed places: pairs of features, and of those that differ beyond chance in the plain run.", ""]
    lines.append(
        "Aggregators stay as they are. They were trained on plain texts, without a template and without the first "
        "line that TED puts before captions. Mean pooling has learned nothing."
    )
    return "\n".join(lines) + "\n"


def _places(rank: Mapping[str, Any]) -> str:
    differ = f" ({rank['differ_swapped']} of {rank['differ']})"
    return f"{rank['pooling']} {rank['swapped']} of {rank['pairs']}" + (differ if rank["differ"] else "")
