"""Answers of a language model to lettered questions, kept as they come: the letters' log-probabilities and its words.

    answerer = Answerer(model, PromptForm.of(tokenizer))
    answers = answerer.answers(questions, "cache", new_tokens=8)
    answers.log_probs                                    # (n, 8), of the first token of the answer
    answers.said                                         # what it wrote, decoded greedily

Tests: tests/test_direct_qa.py.
"""

import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.eval_metric.direct_qa.prompts import PromptForm
from granted.modeling_fingerprint import encoder_fingerprint
from granted.modeling_text_input import length_sorted_batches
from granted.utils.errors import InputError


TOGETHER = 16384  # questions tokenised and sorted by length at a time
NOTHING = -1  # stands for a token that was not generated


def with_exact_head(model: PreTrainedModel) -> PreTrainedModel:
    """The model with a head of its own that computes in fp32, whatever it runs in: in bf16 letters tie often.

    Logits of about 20 are an eighth apart there.

    Raises:
        InputError: the head is offloaded.
    """
    head = copy.deepcopy(model.get_output_embeddings()).float()
    if head.weight.is_meta:
        raise InputError("got a model whose head is offloaded, expected it on a device: give it more memory")
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
    model.set_output_embeddings(head)
    return model


@dataclass(frozen=True)
class Answers:
    """Of n questions, in their order.

    Attributes:
        log_probs (`torch.Tensor`): (n, letters), natural logarithms over the whole vocabulary, in fp32.
        said (`list[str]`): what was generated.
        tokens (`int`): of all prompts together, each distinct one once.
        seconds (`float`): that answering took, in whatever run it was done.
    """

    log_probs: torch.Tensor
    said: list[str]
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Answerer:
    """A language model with the form of its prompts.

    Args:
        model (`PreTrainedModel`): with its head, in evaluation mode.
        form ([`PromptForm`]): of its tokenizer.
    """

    model: PreTrainedModel
    form: PromptForm

    @cached_property
    def fingerprint(self) -> str:
        """A hash of weights, configuration, dtype and tokenizer."""
        return encoder_fingerprint(
            self.model, self.model.config, self.form.tokenizer, last_layer="head", dtype=self.model.dtype
        )

    @cached_property
    def limit(self) -> int | None:
        """Most tokens of a prompt and its answer; `None` where the configuration names none."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def answers(
        self,
        questions: Sequence[str],
        cache_dir: str | os.PathLike,
        *,
        new_tokens: int,
        token_budget: int = 8192,
        shown: str = "answering",
    ) -> Answers:
        """Ask what is not in the cache, and give all answers.

        Args:
            questions (`list[str]`): texts of [`question_text`].
            cache_dir (`str`): finished batches are kept here, from which an interrupted run goes on.
            new_tokens (`int`): most tokens generated.
            token_budget (`int`, defaults to 8192): most tokens, padding included, of a batch of prompts.
            shown (`str`): what the progress bar is called.

        Raises:
            InputError: a prompt is longer than the model reads; nothing is cut.
        """
        identity = {
            "model": self.fingerprint,
            "prompt": [self.form.kind, self.form.written("{}"), self.form.letters],
            "ends": self.model.generation_config.eos_token_id,
            "new_tokens": new_tokens,
        }
        cache = EmbeddingCache(Path(cache_dir) / identity_hash(identity), identity)
        missing = cache.missing(questions)
        with tqdm(total=len(missing), desc=shown, unit="question", disable=not missing) as bar:
            for start in range(0, len(missing), TOGETHER):
                part = missing[start : start + TOGETHER]
                prompts = [self.form.token_ids(question) for question in part]
                self._check_lengths(part, prompts, new_tokens)
                for batch in length_sorted_batches([len(ids) for ids in prompts], token_budget):
                    started = time.perf_counter()
                    log_probs, said = self._answer([prompts[i] for i in batch], new_tokens)  # (b, letters), (b, new)
                    took = (time.perf_counter() - started) / len(batch)
                    count = torch.tensor([[len(prompts[i]), took] for i in batch], dtype=torch.float64)  # (b, 2)
                    cache.append(
                        [part[i] for i in batch], {"log_probs": log_probs.unbind(), "said": said, "work": count}
                    )
                    bar.update(len(batch))
        said = cache.read_vectors("said", questions)  # (n, new)
        work = cache.read_vectors("work", list(dict.fromkeys(questions))).sum(0)  # (2,)
        decode = self.form.tokenizer.batch_decode
        return Answers(
            cache.read_vectors("log_probs", questions),
            decode([[token for token in row if token != NOTHING] for row in said.tolist()], skip_special_tokens=True),
            int(work[0]),
            float(work[1]),
        )

    def _check_lengths(self, questions: Sequence[str], prompts: Sequence[list[int]], new_tokens: int) -> None:
        if self.limit is None:
            return
        long = [i for i, ids in enumerate(prompts) if len(ids) + new_tokens > self.limit]
        if long:
            longest = max(len(prompts[i]) for i in long)
            raise InputError(
                f"got {len(long)} questions that are longer than the {self.limit} tokens which the model reads, the "
                f"longest of {longest} tokens, first {questions[long[0]][:60]!r}, expected none: use a model that "
                "reads more"
            )

    @torch.no_grad()
    def _answer(self, prompts: Sequence[list[int]], new_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the letters (b, letters) and the tokens generated (b, new_tokens), on the CPU."""
        device, longest = self.model.get_input_embeddings().weight.device, max(map(len, prompts))
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)  # (E,)
        filler = int(ends[0]) if len(ends) else 0  # masked in front, and cut off behind
        input_ids = torch.tensor([[filler] * (longest - len(ids)) + ids for ids in prompts], device=device)  # (b, N)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)  # (b, N)
        generated = self.model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=filler,
                output_logits=True,  # as the model gives them
                return_dict_in_generate=True,
            ),
        )
        first = generated.logits[0].float().log_softmax(-1)  # (b, V)
        words = generated.sequences[:, longest:]  # (b, up to new_tokens)
        words = words.masked_fill(torch.isin(words, ends).cumsum(1) > 0, NOTHING)
        said = torch.full((len(prompts), new_tokens), NOTHING)  # (b, new_tokens)
        said[:, : words.shape[1]] = words.cpu()
        return first[:, self.form.letters].cpu(), said
