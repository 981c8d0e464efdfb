"""What TED scores are worth without an encoder: chance, shared words and TF-IDF, printed beside every score.

    from granted.dataset_builders.ted_6k.baselines import baseline_summary
    baseline_summary(records)["word_overlap"]["accuracy"]

Records are TED records (dicts). Any handful of them will do to try it; nothing here needs more than seconds on CPU.

Lexical scores tie often, and the order of the statements must not decide. Their accuracies share the credit of a tie
(1/k where k statements are best and the true one is among them), which is what a coin would get on average. Encoders
are held to more: there a tie counts as wrong.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from granted.utils.errors import InputError


_WORD = re.compile(r"\w+")


def chance(records: Sequence[dict]) -> np.ndarray:
    """(n,) float64: for each record one over its number of statements. The mean is the accuracy of guessing."""
    _check(records)
    return np.array([1 / len(record["statements"]) for record in records])  # (n,)


def word_overlap(records: Sequence[dict]) -> list[list[float]]:
    """Per record the score of every statement: the fraction of its distinct words that occur in the caption.

    Words are maximal runs of letters, digits and underscores (`\\w+`), lowercased. A statement without words scores 0.
    """
    _check(records)
    return [
        [_overlap(_words(statement), caption) for statement in record["statements"]]
        for record in records
        for caption in [_words(record["caption"])]
    ]


def tfidf_cosine(records: Sequence[dict]) -> list[list[float]]:
    """Per record the cosine between the TF-IDF vectors of the caption and of every statement.

    scikit-learn's `TfidfVectorizer` with its defaults, fitted on the distinct captions and all statements of the given
    records: the inverse document frequencies are the benchmark's own, so pass the whole benchmark, not a shard.
    """
    _check(records)
    captions = list(dict.fromkeys(record["caption"] for record in records))
    row = {caption: i for i, caption in enumerate(captions)}
    statements = [statement for record in records for statement in record["statements"]]
    try:
        vectors = TfidfVectorizer().fit_transform(captions + statements)  # (captions + statements, vocabulary), sparse
    except ValueError as error:
        raise InputError("got records without a single word, expected text: check the dataset") from error
    counts = [len(record["statements"]) for record in records]
    of_statement = np.repeat([row[record["caption"]] for record in records], counts)  # (statements,)
    # rows have unit length, so that products are cosines
    cosines = np.asarray(vectors[of_statement].multiply(vectors[len(captions) :]).sum(axis=1)).ravel()  # (statements,)
    return [part.tolist() for part in np.split(cosines, np.cumsum(counts)[:-1])]


def shared_tie_accuracy(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> np.ndarray:
    """(n,) float64 credits: 1 where the true statement is best alone, 1/k where it is one of k best, else 0.

    Args:
        scores: per item the score of every statement; lengths may differ.
        labels: per item the index of the true statement.

    Raises:
        InputError: no items, lengths that differ, or a label out of range.
    """
    if not len(scores) or len(scores) != len(labels):
        raise InputError(f"got {len(scores)} lists of scores and {len(labels)} labels, expected as many, at least one")
    credits = np.zeros(len(scores))  # (n,)
    for i, (values, label) in enumerate(zip(scores, labels)):
        if not 0 <= label < len(values):
            raise InputError(f"got label {label} for {len(values)} scores at item {i}, expected an index into them")
        best = max(values)
        if values[label] == best:
            credits[i] = 1 / sum(value == best for value in values)
    return credits


def baseline_summary(records: Sequence[dict]) -> dict[str, dict]:
    """Accuracies of the three baselines, in the form stored with every result.

    Returns:
        `{"chance": {"accuracy": 0.25, "categories": {"OCR": 0.25, ...}, "media": {...}}, "word_overlap": {...},
        "tfidf_cosine": {...}}`, ties shared.
    """
    labels = [record["label"] for record in records]
    rules: dict[str, Callable[[Sequence[dict]], list]] = {"word_overlap": word_overlap, "tfidf_cosine": tfidf_cosine}
    credits = {"chance": chance(records)}  # each (n,)
    credits |= {name: shared_tie_accuracy(rule(records), labels) for name, rule in rules.items()}
    return {name: mean_credits(records, values) for name, values in credits.items()}


def mean_credits(records: Sequence[dict], credits: np.ndarray) -> dict:
    """The mean of the records' credits (n,): `{"accuracy": ..., "categories": {...}, "media": {...}}`."""
    return {
        "accuracy": float(credits.mean()),
        "categories": _means(credits, [record["category"] for record in records]),
        "media": _means(credits, [record["media"] for record in records]),
    }


def _means(values: np.ndarray, names: list[str]) -> dict[str, float]:
    column = np.array(names)  # (n,)
    return {name: float(values[column == name].mean()) for name in sorted(set(names))}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _overlap(words: set[str], caption: set[str]) -> float:
    return len(words & caption) / len(words) if words else 0.0


def _check(records: Sequence[dict]) -> None:
    if not len(records):
        raise InputError("got no records, expected at least one: load a TED dataset")
    for record in records:
        if len(record["statements"]) < 2:
            raise InputError(f"got {len(record['statements'])} statements in {record['id']!r}, expected 2 or more")
