"""TED inside a training run: the encoder's score before, every N steps and after, each with an aggregator of its own.

    probe = TedProbe(records, dataset, pairs, settings, output / "ted", every=500)
    SFTTrainer(..., callbacks=[probe])             # then probe.scores, and ted/scores.json

The aggregator is trained anew each time, on the same pairs from the same seed, so that only the encoder differs. The
training does not notice: its random numbers go on where they were.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import TrainerCallback
from transformers.modeling_utils import PreTrainedModel

from granted.dataset_builders.caption_pairs.pairs import read_pairs
from granted.dataset_builders.ted_6k.reading import read_ted
from granted.eval_metric.benchmark import load_aggregator, score_encoder
from granted.eval_metric.evaluation import check_apart, dataset_description
from granted.eval_metric.results import Result
from granted.modeling_granted import GrantedModel
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.aggregator.training import train_context_aggregators
from granted.utils.errors import InputError, refusing
from granted.utils.files import parts_of, read_json, write_json
from granted.utils.options import read_settings


class TedProbe(TrainerCallback):
    """Scores the text trunk of the model in training.

    Args:
        records (`list[TedRecord]`), dataset (`dict`): the benchmark and its `dataset_description`.
        pairs (`list[CaptionPair]`): what the aggregators are trained on.
        settings ([`AggregatorTrainingConfig`]): how; its features are those scored.
        output (`Path`): the folder; `step-N/results` gets the results of a score, `scores.json` all of them with what
            was asked for.
        every (`int`, *optional*): steps between two scores; by default only before and after.

    Raises:
        InputError: a text of the pairs is one of the benchmark.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`), trainer (`Trainer`): to be set before the training begins.
        scores (`dict[str, dict[str, dict]]`): by step, then by feature: the summary of the [`Result`].
    """

    def __init__(
        self,
        records: Sequence[dict],
        dataset: dict,
        pairs: Sequence[dict],
        settings: AggregatorTrainingConfig,
        output: Path,
        every: int | None = None,
    ):
        check_apart(pairs, records)
        self.records, self.dataset, self.pairs, self.settings = records, dataset, pairs, settings
        self.output, self.every = Path(output), every
        self.scores: dict[str, dict[str, dict]] = {}
        self.tokenizer = self.trainer = None
        # What scores must have in common to be compared.
        self.asked = {
            "benchmark": dataset["fingerprint"],
            "pairs": hashlib.sha256(json.dumps(list(pairs), sort_keys=True).encode()).hexdigest(),
            "settings": asdict(settings),
        }

    def check_scored_since_the_start(self) -> None:
        """Before a run goes on: raise unless it has been scored from its start, and in the same way.

        Raises:
            InputError: there are no scores, or others.
        """
        stored = self._read("asked") if self._stored.exists() else {}
        other = [name for name, value in self.asked.items() if stored.get(name) != value]
        if other:
            found = f"scores with other {', '.join(other)}" if stored else "no scores"
            raise InputError(
                f"got ted for the run in {self.output.parent}, which has {found}, expected it scored in one way from "
                "its start: leave ted out or as it was, and score with granted export and granted evaluate"
            )

    @property
    def _stored(self) -> Path:
        return self.output / "scores.json"

    def _read(self, name: str) -> dict:
        with refusing(f"{self._stored}", "the scores of this run as they were written: leave ted out, or begin anew"):
            return dict(read_json(self._stored)[name])

    @classmethod
    def from_files(cls, config) -> "TedProbe":
        """The probe that a [`VqaFinetuningConfig`] asks for.

        Raises:
            InputError: benchmark, pairs or settings cannot be used.
        """
        records, info = read_ted(config.ted)
        pairs = [pair for path in parts_of(config.ted_pairs) for pair in read_pairs(path)]
        settings = AggregatorTrainingConfig()
        if config.ted_config:
            settings = read_settings(AggregatorTrainingConfig, config.ted_config)
        folder = Path(config.output_dir) / "ted"
        dataset = dataset_description(records, info)
        return cls(records, dataset, pairs, settings, folder, config.ted_steps)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step:  # the run goes on
            scores = self._read("scores")
            self.scores = {step: scores[step] for step in scores if int(step) <= state.global_step}
        if state.global_step == 0:
            self.score(model, 0)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self.score(model, state.global_step)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.score(model, state.global_step)

    def score(self, model: torch.nn.Module, step: int) -> None:
        """Train aggregators for the encoder as it is now and score it, unless this step has been scored."""
        if str(step) in self.scores:
            return
        folder = self.output / f"step-{step}"
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted score left
        with untouched(model):
            results = self._results(model, folder)
        self.scores[str(step)] = {result.feature: result.summary() for result in results}
        write_json(self._stored, {"asked": self.asked, "scores": self.scores})
        if self.trainer is not None:
            self.trainer.log({f"ted/{result.feature}": result.accuracy for result in results})

    def _results(self, model: torch.nn.Module, folder: Path) -> list[Result]:
        encoder = encoder_of(model, self.tokenizer)
        heads = train_context_aggregators(
            encoder, self.pairs, folder / "aggregators", self.settings, encoder_name=folder.name, show_progress=False
        )
        found = score_encoder(
            encoder,
            folder.name,
            [load_aggregator(head) for head in heads.values()],
            self.records,
            self.dataset,
            folder / "cache",
            token_budget=self.settings.token_budget,
            show_progress=False,
        )
        results = [result for result in found if result.pooling == "aggregator"]
        for result in results:
            result.save(folder / "results")
        return results


def encoder_of(model: torch.nn.Module, tokenizer) -> GrantedModel:
    """A fused encoder around the text trunk of a model in training; the weights are shared, adapters stay in place."""
    while not isinstance(model, PreTrainedModel):  # what accelerate and PEFT put around it
        model = model.get_base_model() if hasattr(model, "get_base_model") else model.module
    return GrantedModel.from_loaded(model.base_model, tokenizer, fusion="norm_avg")


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Leaves the model's modes, what of it is trained, all random numbers and accelerate's state as they were."""
    # The aggregator's training has a precision and gradients of its own, where accelerate keeps one for all.
    states = (AcceleratorState, GradientState)
    kept = [dict(state._shared_state) for state in states]
    for state in states:
        state._shared_state.clear()
    modes = {module: module.training for module in model.modules()}
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        for state, values in zip(states, kept):
            state._shared_state.clear()
            state._shared_state.update(values)
        random.setstate(python)
        np.random.set_state(arrays)
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in trained.items():
            parameter.requires_grad_(requires_grad)
