"""Settings of sampling and of judging. No library is loaded with them, so that `--help` shows them at once.

SamplingSettings(seed=0, steps=50)
"""

from dataclasses import dataclass
from typing import Literal

from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count, NonNegative, Positive, Seed, check_settings


# What a judge's score is, in words that stand in results and over tables.
MEASURES = {
    "answer_probability": 'probability of "{}"',
    "answer_and_end": 'geometric mean probability of "{}" and the end token',
}


@dataclass(frozen=True)
class SamplingSettings:
    """How images are made. What is `None` is left to the pipeline. The paper's evaluations take 50 steps, and guidance
    4.0 for images and 5.0 for videos (Appendix C.1).

    Raises:
        InputError: a value is of another type or out of range.
    """

    seed: Seed = option(0, "With the prompts' ids it decides the noise.")
    steps: Count | None = option(None, "Denoising steps; like all below by default the pipeline's.")
    guidance: NonNegative | None = option(None, "Scale of classifier-free guidance.")
    negative_prompt: str | None = option(None, "Negative prompt of all images.")
    images_per_prompt: Count = option(1, "Images, or videos, of each prompt.")
    batch_size: Count = option(8, "Images made at a time.")
    height: Count | None = option(None, "Height in pixels.")
    width: Count | None = option(None, "Width in pixels.")
    frames: Count | None = option(None, "Frames of a video.")
    fps: Positive = option(16.0, "Frames a second at which a video is meant to be seen.")

    def __post_init__(self):
        check_settings(self)


@dataclass
class PipelineOptions:
    """How a pipeline is loaded and where it computes: arguments of `load_pipeline`."""

    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "Dtype of the weights.")
    device: str = option("auto", "Such as cpu or cuda:1; auto takes a GPU if there is one.")
    device_map: str | None = option(None, "Spread the parts over devices, such as balanced; replaces --device.")
    offload: bool = option(False, "Keep only the part that works on the accelerator.")
    revision: str | None = option(None, "Branch, tag or commit of the pipeline on the Hub.")
    trust_remote_code: bool = option(False, "Run the code that comes with the pipeline; read it first.")


@dataclass
class JudgeSettings:
    """What VQAScore asks of a vision-language model, see `eval_metric/generation/vqa_score.py`.

    Raises:
        InputError: a value is of another type or out of range.
    """

    judge: str | None = option(None, "A vision-language model: folder or Hub id; NAME=PATH names it.")
    question: str = option('Does this figure show "{}"? Please answer yes or no.', "Asked of it; {} is the prompt.")
    answer: str = option("Yes", "The answer whose probability is the score.")
    measure: Literal[tuple(MEASURES)] = option(
        "answer_probability",
        "answer_and_end is that of the published CLIP-FlanT5 scores: the geometric mean over the answer's tokens and "
        "the end token. The two cannot be compared.",
    )
    max_frames: Count = option(16, "Frames of a video that it sees.")
    batch_size: Count = option(8, "Questions asked at a time.")

    def __post_init__(self):
        check_settings(self)
        if self.question.count("{}") != 1 or not self.answer.strip():
            raise InputError(
                f"got question {self.question!r} and answer {self.answer!r}, expected one {{}} for the prompt and an "
                "answer"
            )
