"""Batches of conversations about images, videos or nothing, for vision-language models: the loss is on answers only.

    collate = VqaCollator(processor, video_fps=4)
    batch = collate([row, other_row])              # input_ids (B, N), labels (B, N), pixel_values, ...

Rows of all three kinds may share a batch. Nothing is cut: an image whose tokens are cut is no image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin
from transformers.video_utils import VideoMetadata
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from granted.dataset_builders.visual_vqa.media import open_image, open_video
from granted.dataset_builders.visual_vqa.rows import RowError, as_conversation
from granted.utils.errors import InputError


IGNORED = -100  # a label that has no part in the loss
FPS = 2.0  # frames a second seen of a video where the processor says nothing, as Qwen's models are trained


class VqaCollator:
    """Turns rows in TRL's layout into a batch.

    Args:
        processor (`ProcessorMixin`): the model's, with a chat template.
        video_fps (`float`, *optional*): frames a second that the model sees of a video; by default the processor's,
            or two.
        max_frames (`int`, *optional*): the most frames of a video that are handed to the processor.

    Raises:
        InputError: the chat template does not say which tokens are answers, and TRL knows no variant that does.
    """

    def __init__(self, processor: ProcessorMixin, *, video_fps: float | None = None, max_frames: int | None = None):
        self.processor, self.max_frames = processor, max_frames
        video_processor = getattr(processor, "video_processor", None)
        self.takes_videos = video_processor is not None
        self.video_fps = video_fps or getattr(video_processor, "fps", None) or FPS
        self.chat_template = answer_template(processor)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """A batch: `input_ids`, `attention_mask` and `labels` (B, N), padded on the right, and the media's tensors."""
        batch = self._encode(rows, "right", return_assistant_tokens_mask=True)
        answered = batch.pop("assistant_masks").bool() & batch["attention_mask"].bool()  # (B, N)
        batch["labels"] = batch["input_ids"].masked_fill(~answered, IGNORED)  # (B, N)
        return batch

    def prompts(self, rows: Sequence[Mapping[str, Any]]) -> BatchFeature:
        """The first question of each row, up to where the answer is to begin, padded on the left: for generation."""
        return self._encode(rows, "left", questions_only=True, add_generation_prompt=True)

    def _encode(
        self, rows: Sequence[Mapping[str, Any]], padding_side: str, questions_only: bool = False, **template: bool
    ) -> BatchFeature:
        conversations, metadata = [], []
        for row in rows:
            messages, own = self.with_media(row, questions_only)
            conversations.append(messages)
            metadata += own
        options: dict[str, Any] = {"padding": True, "padding_side": padding_side, "add_special_tokens": False}
        if metadata and not self.takes_videos:
            raise RowError(
                f"got a video for {type(self.processor).__name__}, which takes none, expected images: drop the row",
                "video",
            )
        if metadata:
            options |= {"video_metadata": metadata, "do_sample_frames": True, "fps": self.video_fps}
        return self.processor.apply_chat_template(
            conversations,
            chat_template=self.chat_template,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
            **template,
        )

    def with_media(
        self, row: Mapping[str, Any], question_only: bool = False
    ) -> tuple[list[dict[str, Any]], list[VideoMetadata]]:
        """The messages of a row with its images in their places, and what there is to know of its videos."""
        conversation = as_conversation(row)
        images, videos = iter(conversation.images), iter(conversation.videos)
        metadata: list[VideoMetadata] = []
        messages = []
        for message in conversation.messages:
            parts = []
            for part in message["content"]:
                if part["type"] == "image":
                    part = part | {"image": open_image(next(images))}
                elif part["type"] == "video":
                    video = open_video(next(videos), conversation.fps, max_frames=self.max_frames)
                    # Frames that come without a rate are taken to have been sampled at the rate that is wanted.
                    metadata.append(VideoMetadata(total_num_frames=len(video.frames), fps=video.fps or self.video_fps))
                    part = part | {"video": video.frames}
                parts.append(part)
            messages.append({"role": message["role"], "content": parts})
            if question_only and message["role"] == "user":
                break
        return messages, metadata


def answer_template(processor: ProcessorMixin) -> str:
    """A chat template that marks what the assistant says: the processor's own, or TRL's variant of it."""
    template = processor.chat_template
    if template and has_generation_markers(template):
        return template
    try:
        return get_training_chat_template(processor)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"got {type(processor).__name__} with a chat template that marks no answers and that TRL has no training "
            "variant of, expected one with {% generation %} markers: add them to chat_template.jinja beside the model"
        ) from error
