"""Training a reader on one feature, and what it then answers.

    train_reader(features, texts, 0, settings, "reading").right       # for each test text which facts it has right

The same seed gives the same outcome.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from granted.encoding.token_features import TokenFeatures
from granted.eval_metric.reading.examples import Example, Texts
from granted.eval_metric.reading.reader import Reader, reading_loss, right_answers
from granted.eval_metric.reading.settings import ReadingSettings
from granted.eval_metric.reading.sheet import KINDS, position


CHECKED = 300  # training texts that are read again at the end: has the reader learned what it was shown?
AT_A_TIME = 128
SORTED_TOGETHER = 8  # batches


@dataclass(frozen=True)
class Outcome:
    """What a trained reader answers.

    Args:
        right (`list[list[bool]]`): for each test text, for each of its scored facts.
        learned (`float`): share of the facts of training texts that it has right.
        loss (`list[float]`): of training, every fiftieth step.
        seconds (`float`): of training.
    """

    right: list[list[bool]]
    learned: float
    loss: list[float]
    seconds: float


def train_reader(
    features: TokenFeatures,
    texts: Texts,
    seed: int,
    settings: ReadingSettings,
    shown: str,
    device: torch.device | str = "cpu",
) -> Outcome:
    """Train a reader from scratch and score it; the same seed gives the same outcome.

    Args:
        features ([`TokenFeatures`]): of the training texts, then of the test texts.
        texts ([`Texts`]): as many.
        seed (`int`): of the reader's initialisation and of the order of texts.
        settings ([`ReadingSettings`]): steps, batch size and learning rate.
        shown (`str`): name of the progress bar.
        device (`torch.device`, defaults to the CPU): where the reader is trained.
    """
    features = features.standardized(len(texts.training))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the weights and of dropout
        return _train_reader(features, texts, seed, settings, shown, torch.device(device))


def _train_reader(
    features: TokenFeatures, texts: Texts, seed: int, settings: ReadingSettings, shown: str, device: torch.device
) -> Outcome:
    examples = [*texts.training, *texts.test]
    labels = torch.stack([example.sheet.labels for example in examples]).to(device)  # (T, 10, P)
    kinds = torch.tensor([KINDS.index(example.sheet.kind) for example in examples], device=device)  # (T,)
    reader = Reader(features.width).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps, cycle_momentum=False
    )
    lengths = [len(row) for row in features.rows[: len(texts.training)]]
    batches = batches_of_like_length(lengths, settings.batch_size, seed)
    losses, started = [], time.perf_counter()
    for step, batch in zip(tqdm(range(settings.steps), desc=shown, unit="step", disable=not shown), batches):
        loss = reading_loss(reader(*features.batch(batch, device), kinds[batch]), labels[batch])  # ()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            losses.append(round(loss.item(), 4))
    seconds = time.perf_counter() - started

    @torch.no_grad()
    def answers(indices: range) -> list[list[bool]]:
        found = []
        for start in range(indices.start, indices.stop, AT_A_TIME):
            batch = list(range(start, min(start + AT_A_TIME, indices.stop)))
            right = right_answers(
                reader(*features.batch(batch, device), kinds[batch]), labels[batch]
            ).cpu()  # (B, 10, P)
            found += [_of_facts(examples[i], sheet) for i, sheet in zip(batch, right)]
        return found

    reader.eval()
    shown_before = answers(range(min(CHECKED, len(texts.training))))
    facts = [value for row in shown_before for value in row]
    return Outcome(answers(range(len(texts.training), len(examples))), sum(facts) / len(facts), losses, seconds)


def batches_of_like_length(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Batches without end, each text once an epoch and beside texts of like length: of others half is padding.

    Args:
        lengths (`list[int]`): of the texts, in tokens.
        size (`int`): texts of a batch; what is left of an epoch joins the next.
        seed (`int`): of the order.
    """
    order = torch.Generator().manual_seed(seed)
    left: list[int] = []
    while True:
        while len(left) < SORTED_TOGETHER * size:
            left += torch.randperm(len(lengths), generator=order).tolist()
        pool, left = left[: SORTED_TOGETHER * size], left[SORTED_TOGETHER * size :]
        pool.sort(key=lambda i: lengths[i])
        for number in torch.randperm(SORTED_TOGETHER, generator=order).tolist():
            yield pool[number * size : (number + 1) * size]


def _of_facts(example: Example, right: torch.Tensor) -> list[bool]:
    return [bool(right[position(fact, example.sheet.kind)]) for fact in example.facts]
