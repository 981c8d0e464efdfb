"""Can a benchmark be answered without understanding its captions? Shared words, TF-IDF, and the statements alone.

    report = shortcut_report(records)
    report["statement_only"]["accuracy"]          # 0.25: the statements do not give the answer away

A benchmark that asks for understanding keeps all of them at chance. Real ones seldom do: print this beside every
score.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from granted.dataset_builders.ted_6k.baselines import baseline_summary, mean_credits, shared_tie_accuracy
from granted.utils.errors import InputError


FOLDS = 2  # parts of the records, each of which is scored by what was fitted on the others


def statement_only(records: Sequence[dict]) -> list[list[float]]:
    """Per record the log-odds of every statement being the true one, from the statements alone.

    Logistic regression on word n-grams (1 to 3, TF-IDF), the number of words and the position among the options,
    fitted on the statements of other captions.

    Args:
        records (`Sequence[dict]`): TED records of at least two captions.

    Raises:
        InputError: there are fewer captions.
    """
    captions = [record["caption_id"] for record in records]
    if len(set(captions)) < FOLDS:
        raise InputError(f"got {len(set(captions))} captions, expected at least {FOLDS}: give more records")
    statements = [statement for record in records for statement in record["statements"]]
    positions = [i for record in records for i in range(len(record["statements"]))]
    owner = np.repeat(np.arange(len(records)), [len(record["statements"]) for record in records])  # (S,)
    is_true = np.array([positions[s] == records[owner[s]]["label"] for s in range(len(statements))])  # (S,)
    lengths = np.array([len(statement.split()) for statement in statements])  # (S,)
    # Shape of an option: its length against the others', and its position.
    shape = np.stack([lengths / lengths.max(), *(np.equal(positions, i) for i in range(max(positions) + 1))], axis=1)
    scores = np.zeros(len(statements))  # (S,)
    for fitted, held_out in GroupKFold(FOLDS).split(statements, groups=[captions[i] for i in owner]):
        words = TfidfVectorizer(ngram_range=(1, 3))
        try:
            words.fit([statements[i] for i in fitted])
        except ValueError:  # no word of two letters or more, as in statements such as "7"
            words.set_params(token_pattern=r"\S+").fit([statements[i] for i in fitted])
        seen = hstack([words.transform([statements[i] for i in fitted]), csr_matrix(shape[fitted])])  # (S1, V)
        new = hstack([words.transform([statements[i] for i in held_out]), csr_matrix(shape[held_out])])  # (S2, V)
        scores[held_out] = LogisticRegression(max_iter=300).fit(seen, is_true[fitted]).decision_function(new)
    return [part.tolist() for part in np.split(scores, np.flatnonzero(np.diff(owner)) + 1)]


def shortcut_report(records: Sequence[dict]) -> dict[str, dict]:
    """Accuracies, ties shared, of all that needs no understanding: as `baseline_summary`, with `statement_only`."""
    credits = shared_tie_accuracy(statement_only(records), [record["label"] for record in records])  # (n,)
    return baseline_summary(records) | {"statement_only": mean_credits(records, credits)}
