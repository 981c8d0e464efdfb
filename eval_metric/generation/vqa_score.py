"""VQAScore (Lin et al., arXiv 2404.01291): how likely a vision-language model finds that an image shows its prompt.

    judge = Judge.load("Qwen/Qwen3-VL-8B-Instruct", LoadingOptions(dtype="bfloat16"))
    judge.score([[image]], ["a red star"])                # [0.87], the probability of "Yes"
    items = score_prompts(judge, rows, "images", "cache")
    vqa_score_report(items)["advanced"]                   # {"score": 0.71, "ci95": [...], "n": 871}

The model is asked 'Does this figure show "..."? Please answer yes or no.' in its own chat template. There are two
measures, and their numbers cannot be compared:

- `answer_probability`, the default: the probability of "Yes" over the whole vocabulary, not against "No" alone. The
  authors' package, t2v_metrics, takes it for Qwen-VL. Where "Yes" is several tokens it is their geometric mean.
- `answer_and_end`: the exponential of the mean log-likelihood of "Yes" and of the token that ends the answer. The
  published scores are this: t2v_metrics takes it for CLIP-FlanT5, InstructBLIP and LLaVA-1.5. A judge that is sure to
  stop after "Yes" gives about the square root of the probability: 0.25 becomes 0.5.

Any model will do that AutoModelForImageTextToText loads and that generates: causal ones and encoder-decoders. What has
no chat template, such as InstructBLIP and BLIP-2, is asked in plain text. CLIP-FlanT5 itself is no model of
transformers; nearest to it are InstructBLIP and BLIP-2 with Flan-T5, which t2v_metrics asks for "yes".
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin
from transformers.video_utils import VideoMetadata

from granted.encoding.embedding_cache import EmbeddingCache, identity_hash
from granted.encoding.loading import LoadingOptions, load_vision_language_model
from granted.eval_metric.generation.manifest import media_hash, open_media, spread
from granted.eval_metric.generation.prompts import GROUPS
from granted.eval_metric.generation.settings import JudgeSettings
from granted.eval_metric.statistics import bootstrap_accuracy
from granted.modeling_fingerprint import weights_hash
from granted.utils.errors import InputError, refusing
from granted.utils.settings import Count, check_value


COLUMN, SECONDS = "score", "seconds"


@dataclass(frozen=True)
class Judge:
    """A vision-language model with the question it is asked.

    Args:
        model (`PreTrainedModel`): in evaluation mode.
        processor (`ProcessorMixin`): the model's, with a chat template, or one that needs none to place an image.
        question (`str`): with `{}` where the prompt goes.
        answer (`str`, defaults to `"Yes"`): whose probability is the score.
        measure (`str`, defaults to `"answer_probability"`): or `"answer_and_end"`, see above.
        max_frames (`int`, defaults to 16): frames of a video that are shown, at equal distances; as a video if the
            processor takes videos, else as images one after the other.

    Raises:
        InputError: there is no place for the prompt in the question, none for an image, or no such measure.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    question: str = JudgeSettings.question
    answer: str = JudgeSettings.answer
    measure: str = JudgeSettings.measure
    max_frames: int = JudgeSettings.max_frames

    def __post_init__(self):
        JudgeSettings(None, self.question, self.answer, self.measure, self.max_frames)  # raises where they are wrong
        if not self.chat_template:
            self.encode([[PIL.Image.new("RGB", (64, 64))]], ["a star"], [None])  # raises where images have no place

    @classmethod
    def load(cls, spec: str, options: LoadingOptions | None = None, **asked: Any) -> "Judge":
        """Load a judge onto its device.

        Args:
            spec (`str`): a folder or Hub id, or `NAME=PATH`.
            options ([`LoadingOptions`], *optional*): how it is loaded and where it computes.
            asked: `question`, `answer`, `measure` and `max_frames`.

        Raises:
            InputError: it is no vision-language model, its weights are not complete, or it cannot be asked so.
        """
        JudgeSettings(**asked)  # raises before the model is loaded
        _, model, processor = load_vision_language_model(spec, options)
        return cls(model, processor, **asked)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights."""
        return weights_hash(self.model)

    @property
    def chat_template(self) -> str | None:
        """How the processor writes conversations, if it does."""
        return getattr(self.processor, "chat_template", None)

    @cached_property
    def scored_ids(self) -> list[int]:
        """The tokens that are scored: those of the answer and, for `answer_and_end`, its end."""
        ids = self.processor.tokenizer.encode(self.answer, add_special_tokens=False)
        return [*ids, self._end_id()] if self.measure == "answer_and_end" else ids

    def _end_id(self) -> int:
        """The end of an answer: where the model stops in what its chat template writes, else the tokenizer's end."""
        tokenizer = self.processor.tokenizer
        stops = self.model.generation_config.eos_token_id
        written: list[int] = []
        if self.chat_template:
            said = {"user": self.question, "assistant": self.answer}
            turns = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()]
            text = self.processor.apply_chat_template(turns, tokenize=False)
            written = tokenizer.encode(text, add_special_tokens=False)
        ends = [token for token in written if token in (stops if isinstance(stops, list) else [stops])]
        if not ends and tokenizer.eos_token_id is None:
            raise InputError(f"got {type(tokenizer).__name__} without an end token, expected one for answer_and_end")
        return ends[-1] if ends else tokenizer.eos_token_id

    @torch.no_grad()
    def score(
        self,
        media: Sequence[Sequence[PIL.Image.Image]],
        prompts: Sequence[str],
        fps: Sequence[float | None] | None = None,
    ) -> list[float]:
        """How likely the answer to each question is the judge's, by its measure.

        Args:
            media (`list[list[PIL.Image.Image]]`): for each prompt one image, or the frames of a video.
            prompts (`list[str]`): what each should show.
            fps (`list[float]`, *optional*): of the videos, frames a second.

        Returns:
            `list[float]`: from 0 to 1.
        """
        batch = self.encode(media, prompts, fps or [None] * len(prompts))
        batch = batch.to(self.model.device, self.model.dtype)
        wanted = self.scored_ids
        starts: list[int] = []

        def forced(_: int, ids: torch.Tensor) -> list[int]:
            # The first call says where the answer begins: after the question, or with the decoder's own first token.
            starts.append(len(ids))
            return [wanted[len(ids) - starts[0]]]

        # The library's own first steps of generation: positions, caches and padding are each model's own business.
        generated = self.model.generate(
            **batch,
            max_new_tokens=len(wanted),
            do_sample=False,
            num_beams=1,
            prefix_allowed_tokens_fn=forced,
            output_logits=True,  # as the model gives them: forcing an answer does not change them
            return_dict_in_generate=True,
        )
        if (generated.sequences[:, -len(wanted) :] != torch.tensor(wanted, device=generated.sequences.device)).any():
            kind = type(self.model).__name__
            raise InputError(f"got {kind}, which begins every answer in its own way, expected one that can be asked")
        steps = [logits.float().log_softmax(-1) for logits in generated.logits]  # len(wanted) x (B, V)
        chosen = torch.stack([step[:, token] for step, token in zip(steps, wanted)])  # (len(wanted), B)
        return chosen.mean(0).exp().tolist()

    def encode(
        self, media: Sequence[Sequence[PIL.Image.Image]], prompts: Sequence[str], fps: Sequence[float | None]
    ) -> BatchFeature:
        """The questions up to where the answer begins, padded on the left; `input_ids` (B, N) and the images."""
        as_video = getattr(self.processor, "video_processor", None) is not None
        if not self.chat_template:
            return self._encode_plainly(media, prompts)
        conversations, videos = [], []
        for frames, prompt, rate in zip(media, prompts, fps, strict=True):
            text = {"type": "text", "text": self.question_about(prompt)}
            shown = [frames[i] for i in spread(len(frames), self.max_frames)]
            if len(frames) > 1 and as_video:
                rate = (rate or 1.0) * len(shown) / len(frames)
                videos.append(
                    VideoMetadata(total_num_frames=len(shown), fps=rate, frames_indices=list(range(len(shown))))
                )
                parts = [{"type": "video", "video": np.stack([np.asarray(one) for one in shown])}]  # (T, H, W, 3)
            else:
                parts = [{"type": "image", "image": one} for one in shown]
            conversations.append([{"role": "user", "content": [*parts, text]}])
        options: dict[str, Any] = {"padding": True, "padding_side": "left", "add_special_tokens": False}
        if videos:
            options |= {"video_metadata": videos, "do_sample_frames": False}
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )

    def question_about(self, prompt: str) -> str:
        """The question whether an image shows the prompt."""
        return self.question.replace("{}", prompt)

    def _encode_plainly(self, media: Sequence[Sequence[PIL.Image.Image]], prompts: Sequence[str]) -> BatchFeature:
        """The questions for a processor without a chat template, which has to place the one image itself."""
        kind = type(self.processor).__name__
        if self.max_frames > 1 and any(len(frames) > 1 for frames in media):
            raise InputError(
                f"got a video for {kind}, which takes one image a question, expected images: use a judge that takes "
                "videos, or show it the first frame alone (max_frames 1)"
            )
        # An encoder counts from the image on; without one the answer has to follow the question without a gap.
        encodes = self.model.config.get_text_config().is_encoder_decoder
        self.processor.tokenizer.padding_side = "right" if encodes else "left"
        images, questions = [frames[0] for frames in media], [self.question_about(prompt) for prompt in prompts]
        with refusing(f"{kind} without a chat template", "a model tuned to follow a chat, or BLIP-2 or InstructBLIP"):
            batch = self.processor(images=images, text=questions, padding=True, return_tensors="pt")
        image_token = getattr(self.model.config, "image_token_id", None)
        if image_token is None or not (batch["input_ids"] == image_token).any(1).all():
            raise InputError(
                f"got {kind} without a chat template, which leaves no place for an image in a question, expected a "
                "model tuned to follow a chat, or BLIP-2 or InstructBLIP: use another judge"
            )
        return batch


def score_prompts(
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    folder: str | os.PathLike,
    cache_dir: str | os.PathLike,
    *,
    batch_size: int = 8,
) -> list[dict[str, Any]]:
    """VQAScore of each image; what is in the cache already is not asked again.

    Args:
        judge ([`Judge`]): the model.
        rows (`list[dict]`): of a manifest.
        folder (`str`): of the manifest.
        cache_dir (`str`): answers are kept here by judge, image and prompt: a run that was killed goes on.
        batch_size (`int`, defaults to 8): questions asked at a time.

    Returns:
        `list[dict]`: of each row `id`, `prompt_id`, `file`, `media`, `score`, `seconds` (that judging took, in
        whatever run it was done), and `skills`, `group`, `rating` and `model` as the row has them, or `None`.
    """
    identity = {
        "judge": judge.fingerprint,
        "dtype": str(judge.model.dtype),
        "question": [judge.question, judge.answer, judge.chat_template],
        "measure": judge.measure,
        "frames": judge.max_frames,
    }
    check_value("batch_size", batch_size, Count)
    cache = EmbeddingCache(Path(cache_dir) / identity_hash(identity), identity)
    keys = [f"{media_hash(row, folder)} {row.get('fps')}\n{row['prompt']}" for row in rows]
    place = {key: i for i, key in enumerate(keys)}
    # Images and videos apart, prompts of like length together: little is padding.
    missing = sorted(cache.missing(keys), key=lambda key: (rows[place[key]]["media"], len(rows[place[key]]["prompt"])))
    for start in tqdm(range(0, len(missing), batch_size), desc="judging", unit="batch", disable=not missing):
        part = missing[start : start + batch_size]
        asked = [rows[place[key]] for key in part]
        started = time.perf_counter()
        scores = judge.score(
            [open_media(row, folder) for row in asked],
            [row["prompt"] for row in asked],
            [row.get("fps") for row in asked],
        )
        if not np.isfinite(scores).all():
            raise InputError(
                f"got NaN from the judge for {asked[0]['id']}, expected probabilities: try --dtype float32"
            )
        took = (time.perf_counter() - started) / len(part)
        kept = torch.tensor([[score, took] for score in scores], dtype=torch.float64)  # (b, 2)
        cache.append(part, {COLUMN: kept[:, :1].unbind(), SECONDS: kept[:, 1:].unbind()})
    found, seconds = (cache.read_vectors(name, keys)[:, 0].tolist() for name in (COLUMN, SECONDS))
    first = {key: i for i, key in reversed(list(enumerate(keys)))}  # what is asked once took its time once
    seconds = [took if first[key] == i else 0.0 for i, (key, took) in enumerate(zip(keys, seconds))]
    copied = ("id", "prompt_id", "file", "media", "skills", "group", "rating", "model")
    return [
        {name: row.get(name) for name in copied} | {"score": score, "seconds": took}
        for row, score, took in zip(rows, found, seconds)
    ]


def vqa_score_report(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean scores with 95% intervals (prompts resampled): over all, per group and per skill of GenAI-Bench.

    Seven of GenAI-Bench's 1,600 prompts have no skill; its own evaluation leaves them out, which is `tagged` here.

    Args:
        items (`list[dict]`): of [`score_prompts`].

    Returns:
        `dict`: `{"all": {"n", "score", "ci95"}, "basic": {...}, "advanced": {...}, "counting": {...}, ...}`.
    """
    tagged = [item for item in items if item["skills"] or item["group"]]
    parts = {"all": list(items)} | ({"tagged": tagged} if 0 < len(tagged) < len(items) else {})
    parts |= {group: [item for item in items if item["group"] == group] for group in GROUPS}
    for item in items:
        for skill in item["skills"] or ():
            parts.setdefault(skill, []).append(item)
    return {name: _estimate(own) for name, own in parts.items() if own}


def _estimate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    estimate = bootstrap_accuracy([item["score"] for item in items], [item["prompt_id"] for item in items])
    return {"n": len(items), "score": estimate.accuracy, "ci95": [estimate.low, estimate.high]}


def rating_agreement(items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How the scores go together with what people gave the same images, if at least four carry a `rating`.

    Returns:
        `dict`, *optional*: `n`, `pearson` with `ci95` (Fisher's z, images taken as independent), `spearman` and
        `kendall` (tau-b), over all rated images.
    """
    rated = [item for item in items if item["rating"] is not None]
    scores, ratings = [item["score"] for item in rated], [item["rating"] for item in rated]
    if len(rated) < 4 or len(set(scores)) < 2 or len(set(ratings)) < 2:
        return None
    pearson = pearsonr(scores, ratings)
    low, high = pearson.confidence_interval()
    return {
        "n": len(rated),
        "pearson": float(pearson.statistic),
        "ci95": [float(low), float(high)],
        "spearman": float(spearmanr(scores, ratings).statistic),
        "kendall": float(kendalltau(scores, ratings).statistic),
    }
