"""What the synthetic benchmarks promise, checked on a whole one and, in the everyday world, on a number of pairs.

    report = check_rungs(6641)                   # captions of shapes; of everyday scenes: check_world(6641)
    report["wrong_statements"]                   # 0: every positive is true and every negative false by its scene

`granted data check` prints it, together with what shortcuts make of the benchmark.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from granted.dataset_builders.scenes.scene import holds
from granted.dataset_builders.scenes.shapes.drawing import Drawing, Figure
from granted.dataset_builders.scenes.shapes.rungs import rung_questions
from granted.dataset_builders.scenes.shapes.varied_scenes import is_held_out
from granted.dataset_builders.scenes.world import split_of, synthetic_questions, world_pairs
from granted.dataset_builders.ted_6k.records import TedRecord, fingerprint, validate_records


def check_rungs(instances: int, *, seed: int = 0) -> dict:
    """Make a benchmark of captions that tell few or many facts, and check it against its drawings.

    Args:
        instances (`int`): size of the benchmark.
        seed (`int`, defaults to 0): which benchmark.

    Returns:
        `dict`: `records`, `fingerprint`, `wrong_statements`, `repeated_statements`, `wrong_split` and
        `caption_words`, as of `check_world`.

    Raises:
        InputError: a record breaks the schema.
    """
    records, wrong_statements, wrong_split = [], 0, 0
    for record, drawing, figures in rung_questions(instances, seed=seed):
        records.append(record)
        # Of colours where the caption names them; else of shapes.
        name = "colour" if record["category"] == "Adjective" else "shape"
        truths = [_has(drawing, figure, name) for figure in figures]
        wrong_statements += sum(truth != (i == record["label"]) for i, truth in enumerate(truths))
        wrong_split += not is_held_out(drawing)
    return _common(records) | {"wrong_statements": wrong_statements, "wrong_split": wrong_split}


def check_world(instances: int, *, seed: int = 0, difficulty: str = "compositional", pairs: int = 200) -> dict:
    """Make a synthetic benchmark and caption pairs, and check them against their scenes.

    Args:
        instances (`int`): size of the benchmark.
        seed (`int`, defaults to 0): which benchmark.
        difficulty (`str`, defaults to `"compositional"`): its negatives.
        pairs (`int`, defaults to 200): caption pairs on which wording is compared.

    Returns:
        `dict`: `records` (`list[TedRecord]`), `fingerprint` of the texts, `scene_fingerprint`,
        `wrong_statements`, `repeated_statements`, `foreign_words` (instances whose statements differ in words that the
        caption does not use), `wrong_split` (scenes of the training split), `distinct_words` of the captions,
        `caption_words` (fewest, most), `four_gram_overlap` (mean over the pairs).

    Raises:
        InputError: a record breaks the schema.
    """
    records, scenes = [], hashlib.sha256()
    wrong_statements = wrong_split = 0
    for record, scene, question in synthetic_questions(instances, seed=seed, difficulty=difficulty):
        records.append(record)
        scenes.update(scene.fingerprint().encode())
        wrong_statements += sum(holds(scene, claim) != (i == 0) for i, (_, claim) in enumerate(question.options))
        wrong_split += split_of(scene) != "benchmark"
    return _common(records) | {
        "scene_fingerprint": scenes.hexdigest(),
        "wrong_statements": wrong_statements,
        "foreign_words": sum(map(_has_foreign_words, records)),
        "wrong_split": wrong_split,
        "distinct_words": len({word for record in records for word in tokens(record["caption"])}),
        "four_gram_overlap": four_gram_overlap(
            (pair["caption_a"], pair["caption_b"]) for pair in world_pairs(pairs, seed=seed)
        ),
    }


def _common(records: list[TedRecord]) -> dict:
    """What is asked of any synthetic benchmark."""
    validate_records(records)
    lengths = [len(record["caption"].split()) for record in records]
    return {
        "records": records,
        "fingerprint": fingerprint(records),
        "repeated_statements": sum(len(set(record["statements"])) < len(record["statements"]) for record in records),
        "caption_words": (min(lengths), max(lengths)),
    }


def _has(drawing: Drawing, figure: Figure, name: str) -> bool:
    """Whether the drawing has a figure there that looks so."""
    return any(one.cell == figure.cell and getattr(one, name) == getattr(figure, name) for one in drawing.figures)


def tokens(text: str) -> list[str]:
    """The lower-cased words of a text."""
    return re.findall(r"\w+", text.lower())


def four_gram_overlap(pairs: Iterable[tuple[str, str]]) -> float:
    """The mean share of a first text's distinct runs of four words that occur in the second."""
    shares = [len(first & second) / len(first) for first, second in (map(_four_grams, pair) for pair in pairs)]
    return sum(shares) / len(shares)


def _four_grams(text: str) -> set[tuple[str, ...]]:
    words = tokens(text)
    return set(zip(words, words[1:], words[2:], words[3:]))


def _has_foreign_words(record: TedRecord) -> bool:
    caption = set(tokens(record["caption"]))
    return len({frozenset(tokens(statement)) - caption for statement in record["statements"]}) > 1


def broken_promises(report: dict, shortcuts: Mapping[str, dict]) -> list[str]:
    """What a report fails to keep, one line each.

    Args:
        report (`dict`): of `check_world` or `check_rungs`.
        shortcuts (`dict`): those of `granted.dataset_builders.ted_6k.shortcuts.shortcut_report` that must not work:
            they are at chance, 25 +- 3, and 25 +- 7 in every category, or three standard errors where these are more.
            With any, no statement may have a word of its own, either.
    """
    broken = [
        f"{report[name]} {text}"
        for name, text in (
            ("wrong_statements", "statements whose truth is not what the record says"),
            ("repeated_statements", "instances that give a statement twice"),
            ("wrong_split", "scenes that belong to the training split"),
        )
        if report[name]
    ]
    if report.get("four_gram_overlap", 0) >= 0.3:
        broken.append(
            f"a four-gram overlap of {report['four_gram_overlap']:.2f} between captions of a scene, not below 0.3"
        )
    if shortcuts and report.get("foreign_words"):
        broken.append(f"{report['foreign_words']} instances with words that the caption does not use")
    counts = Counter(record["category"] for record in report["records"])
    for name, result in shortcuts.items():
        broken += _off_chance(name, "overall", result["accuracy"], 0.03, counts.total())
        for category, accuracy in result["categories"].items():
            broken += _off_chance(name, category, accuracy, 0.07, counts[category])
    return broken


def _off_chance(name: str, part: str, accuracy: float, margin: float, instances: int) -> Sequence[str]:
    # Three standard errors of guessing: a closer bound would be broken by luck where instances are few.
    margin = max(margin, 3 * (0.25 * 0.75 / instances) ** 0.5)
    if abs(accuracy - 0.25) <= margin:
        return ()
    return (f"{name} answers {100 * accuracy:.1f}% of {instances} ({part}), outside of 25 +- {100 * margin:.0f}",)
