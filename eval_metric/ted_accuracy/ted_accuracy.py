"""TED accuracy: how often a text encoder places the true statement about a caption above the contradicting ones.

    import evaluate
    ted_accuracy = evaluate.load("ted_accuracy")
    ted_accuracy.compute(predictions=[[0.9, 0.2, 0.1, 0.3]], references=[0])

Tiny, offline and on CPU: run the lines above in the folder that holds `ted_accuracy/`.
"""

import math
import numbers
from reprlib import repr

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest


CATEGORIES = (
    "Action Recognition",
    "Adjective",
    "Adverb",
    "Basic Event",
    "Coreference",
    "OCR",
    "Quantity",
    "Spatial Relationship",
    "Temporal",
)
MEDIA = ("image", "video")
_MIXED = "got lists of scores and indices mixed, expected one form: pass scores for every instance"

_DESCRIPTION = """
TED accuracy is the share of TED instances that a text encoder answers rightly. An instance is one caption, one
statement that agrees with it and a few that contradict it; it is right when the true statement has the strictly
highest similarity to the caption. A tie of the true statement with any other counts as wrong and is reported.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list` of `list` of `float`, or `list` of `int`): for each instance the score of every statement (two
        or more; their number may differ between instances), or the index of the chosen statement. One form per
        computation. Indices carry no scores, so that no ties can be seen in them.
    references (`list` of `int`): for each instance the index of the true statement, counted from 0.
    categories (`list` of `str`, optional, argument of `compute`): for each instance its category, one of Action
        Recognition, Adjective, Adverb, Basic Event, Coreference, OCR, Quantity, Spatial Relationship, Temporal.
    media (`list` of `str`, optional, argument of `compute`): for each instance "image" or "video".
    With `add_batch` both lists cover all instances added; with `num_process` they cover the instances of process 0,
    then those of process 1, and so on, and only process 0 needs them.

Returns:
    accuracy (`float`): share of right instances, 0 to 1.
    accuracy_ci95 (`list` of two `float`): 95% Wilson interval. It takes instances as independent; several instances
        share a caption in TED, for which a bootstrap over captions is the better interval.
    ties (`int`): instances in which the true statement ties with another for the best score.
    n (`int`): number of instances.
    categories, media (`dict`, when given): the same per category and medium,
        `{"OCR": {"accuracy", "ci95", "n", "ties"}}`.

Raises:
    ValueError: no instances, lists of different lengths, fewer than 2 scores, a NaN or infinite score, a label out
        of range, an unknown category or medium.

Examples:
    >>> ted_accuracy = evaluate.load("ted_accuracy")
    >>> scores = [[0.9, 0.2, 0.1, 0.3], [0.4, 0.4, 0.1, 0.2]]
    >>> result = ted_accuracy.compute(predictions=scores, references=[0, 0], categories=["OCR", "Adverb"])
    >>> result["accuracy"], result["ties"], result["categories"]["OCR"]["accuracy"]
    (0.5, 1, 1.0)
"""

_CITATION = """
@article{li2025granted,
  title={GRAN-TED: Generating Robust, Aligned, and Nuanced Text Embedding for Diffusion Models},
  author={Li, Bozhou and Yang, Sihan and Guan, Yushuo and An, Ruichuan and Chen, Xinlong and Shi, Yang and Wan,
    Pengfei and Zhang, Wentao and Zhang, Yuanxing},
  journal={arXiv preprint arXiv:2512.15560},
  year={2025}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TedAccuracy(evaluate.Metric):
    """The `evaluate` metric `ted_accuracy`."""

    def _info(self):
        # float64: scores that differ in float32 must not become ties
        scores = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": scores, "references": datasets.Value("int64")}),
                datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            ],
            reference_urls=["https://arxiv.org/abs/2512.15560"],
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add a batch of instances; bad input is refused here, before it is stored."""
        predictions, references = _checked(predictions, references)
        self._check_form(predictions[0])
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one instance; bad input is refused here, before it is stored."""
        (prediction,), (reference,) = _checked([prediction], [reference])
        self._check_form(prediction)
        super().add(prediction=prediction, reference=reference, **kwargs)

    def _check_form(self, prediction):
        """Raises if scores were added before and this is an index, or the other way round."""
        stored = self.selected_feature_format
        if stored is not None and isinstance(stored["predictions"], datasets.Value) == isinstance(prediction, list):
            raise ValueError(_MIXED)

    def _compute(self, predictions, references, categories=None, media=None):
        judged = [_judge(prediction, label) for prediction, label in zip(predictions, references)]
        right, tied = np.array(judged, dtype=bool).T  # (n,), (n,)
        whole = _summary(right, tied)
        result = {
            "accuracy": whole["accuracy"],
            "accuracy_ci95": whole["ci95"],
            "ties": whole["ties"],
            "n": whole["n"],
        }
        if categories is not None:
            result["categories"] = _by(categories, right, tied, "categories", CATEGORIES)
        if media is not None:
            result["media"] = _by(media, right, tied, "media", MEDIA)
        return result


def _checked(predictions, references):
    """The two columns as plain lists, once every instance has been found valid."""
    if predictions is None or references is None:
        raise ValueError("got predictions or references missing, expected both: pass both lists")
    predictions, references = _plain(predictions), _plain(references)
    if not predictions and not references:
        raise ValueError("got no instances, expected at least one: pass predictions and references")
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and {len(references)} references, expected as many of each: "
            "pass one of each per instance"
        )
    predictions = [_plain(prediction) for prediction in predictions]
    if len({isinstance(prediction, list) for prediction in predictions}) > 1:
        raise ValueError(_MIXED)
    for i, (prediction, label) in enumerate(zip(predictions, references)):
        if not _is_index(label):
            raise ValueError(f"got label {repr(label)} at instance {i}, expected an index from 0: pass whole numbers")
        if isinstance(prediction, list):
            _check_scores(i, prediction, label)
        elif not _is_index(prediction):
            raise ValueError(
                f"got prediction {repr(prediction)} at instance {i}, expected a list of scores or the index of the "
                "chosen statement: pass one of the two"
            )
    return predictions, references


def _check_scores(i, scores, label):
    if len(scores) < 2:
        raise ValueError(f"got {len(scores)} scores at instance {i}, expected 2 or more: score every statement")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, numbers.Real) or not _is_float(score):
            raise ValueError(
                f"got score {repr(score)} at instance {i}, expected finite numbers that float64 holds: check the "
                "encoder's output"
            )
    if label >= len(scores):
        raise ValueError(
            f"got label {repr(label)} at instance {i} with {len(scores)} scores, expected 0 to {len(scores) - 1}: "
            "pass the index of the true statement"
        )


def _plain(values):
    """Arrays, tensors and tuples as lists; numpy scalars as Python numbers; everything else as it is."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return [_plain(value) for value in values] if isinstance(values, (list, tuple)) else values


def _is_index(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63  # what int64 holds


def _is_float(value):
    """Whether float64 holds a number, so that no two become one."""
    try:
        return math.isfinite(value) and float(value) == value
    except OverflowError:
        return False


def _judge(prediction, label):
    """(right, tied) of one instance; right means strictly above every other statement."""
    if isinstance(prediction, int):
        return prediction == label, False
    others = max(score for i, score in enumerate(prediction) if i != label)
    return prediction[label] > others, prediction[label] == others


def _summary(right, tied):
    interval = binomtest(int(right.sum()), right.size).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": float(right.mean()),
        "ci95": [float(interval.low), float(interval.high)],
        "n": int(right.size),
        "ties": int(tied.sum()),
    }


def _by(names, right, tied, argument, legal):
    """The summary of every name that occurs, in the benchmark's order."""
    names = _plain(names)
    if len(names) != right.size:
        raise ValueError(
            f"got {len(names)} {argument} for {right.size} instances, expected one each: pass all to compute()"
        )
    unknown = [name for name in names if name not in legal]
    if unknown:
        raise ValueError(f"got {repr(unknown[0])} in {argument}, expected one of {', '.join(legal)}: correct the name")
    masks = {name: np.array([other == name for other in names]) for name in legal if name in names}  # each (n,) bool
    return {name: _summary(right[mask], tied[mask]) for name, mask in masks.items()}
