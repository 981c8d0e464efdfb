"""The ceiling of the reading instrument: the facts of a text themselves, as if from an encoder without fault.

    scene_features(texts.test)                      # TokenFeatures, a token for each fact
"""

from collections.abc import Sequence

import torch

from granted.encoding.token_features import TokenFeatures
from granted.eval_metric.reading.examples import Example
from granted.eval_metric.reading.sheet import CLASSES, PROPERTIES, UNTOLD, nothing


def scene_features(examples: Sequence[Example]) -> TokenFeatures:
    """The facts themselves as features, a token each: the ceiling, an encoder without fault."""
    return TokenFeatures([torch.stack([_one_hot(fact) for fact in _all_facts(example)]) for example in examples])


def _all_facts(example: Example) -> list[tuple[int, int, int]]:
    """Query, property and answer of every fact that the text gives."""
    labels = example.sheet.labels  # (10, P)
    given = (labels != UNTOLD) & (labels != torch.tensor([nothing(name) for name in PROPERTIES]))  # (10, P)
    return [(query, name, int(labels[query, name])) for query, name in given.nonzero().tolist()]


def _one_hot(fact: tuple[int, int, int]) -> torch.Tensor:
    sizes = (10, len(CLASSES), max(map(len, CLASSES.values())))
    return torch.cat([torch.nn.functional.one_hot(torch.tensor(i), n) for i, n in zip(fact, sizes)]).float()
