"""The family of an encoder, as Table 1 of the paper sorts them: encoder-only, language model or multimodal.

    encoder_family(encoder.config.encoder_config)        # "multimodal"

Whether a checkpoint is a base model, tuned on instructions or to think is not guessed from its files (a base model may
have a chat template, too): whoever evaluates says so (`granted evaluate ted --tuning`). Tests: tests/test_families.py.
"""

import re

from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto


TUNINGS = ("base", "instruct", "thinking", "fine-tuned")


def encoder_family(config: PreTrainedConfig) -> str | None:
    """What transformers can do with models of this type says what they are.

    Args:
        config (`PreTrainedConfig`): of the encoder itself, such as a `Qwen3VLConfig`.

    Returns:
        `"multimodal"` where it writes about images, `"encoder-only"` where it encodes text (of an encoder with a
        decoder only the encoder is read), `"language model"` where it writes; `None` for types that transformers does
        not know.
    """
    kind = config.model_type
    for name in (kind, re.sub("_text(_model)?$", "", kind)):  # a text tower alone is sorted as the model it is part of
        if name in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            return "multimodal"
        if getattr(config, "is_encoder_decoder", False) or any(
            name in encoders
            for encoders in (
                modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
                modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
            )
        ):
            return "encoder-only"
        if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return "language model"
    return None
