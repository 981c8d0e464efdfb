"""A Qwen3-VL in miniature: the real classes at six million parameters, with tokenizer and processor.

    python -m granted.examples.miniature.model miniature/seeing
    granted train vqa --config examples/miniature/captions.yaml       # then names.yaml and vqa.yaml: `make miniature`

It is small enough to learn the world of shapes on two CPU cores in minutes, and stands in for the real model wherever
stage 1 and stage 2 are tried out whole.
"""

import os
import sys
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from granted.dataset_builders.scenes.shapes.captions import write_shapes_caption
from granted.dataset_builders.scenes.shapes.rows import vqa_rows
from granted.dataset_builders.scenes.shapes.sampling import shapes_in_split
from granted.dataset_builders.scenes.world import world_pairs
from granted.dataset_builders.ted_6k.records import CATEGORIES
from granted.examples.miniature.vision import teach_to_see
from granted.utils.errors import InputError
from granted.utils.files import atomic_path
from granted.utils.program import run_as_command


VOCABULARY = 6144
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
PATCH, MERGE = 16, 2  # a token stands for 32 x 32 pixels: of an image of 96, for one cell of the canvas
PIXELS = {"shortest_edge": 64 * 64, "longest_edge": 192 * 192}
CLIP_PIXELS = {"shortest_edge": 4 * 64 * 64, "longest_edge": 16 * 96 * 96}  # of all frames together
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {%- for part in message.content %}{{- part.text }}{%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for part in message.content %}
                {%- if part.type == 'image' %}
                    {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
                {%- elif part.type == 'video' %}
                    {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
                {%- else %}
                    {{- part.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def build_miniature(
    output: str | os.PathLike,
    *,
    seed: int = 0,
    images: int = 36_000,
    vocabulary: int = VOCABULARY,
    texts: int = 6000,
) -> dict[str, float]:
    """Write a model with its tokenizer and processor into a folder that AutoModel and AutoProcessor load.

    Its vision tower has been taught to see, as that of the real model has been trained before; the rest is untrained.

    Args:
        output (`str`): the folder.
        seed (`int`, defaults to 0): of the weights.
        images (`int`, defaults to 36000): how many the tower is shown; none leaves it untrained.
        vocabulary (`int`, defaults to 6144): tokens.
        texts (`int`, defaults to 6000): scenes of either world from whose texts the tokenizer is made.

    Returns:
        `dict[str, float]`: what the tower sees, as of `teach_to_see`.
    """
    if os.path.isdir(output) and os.listdir(output):
        raise InputError(f"got the output {output}, which is not empty, expected a new folder: choose another")
    tokenizer = miniature_tokenizer(vocabulary, texts)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(miniature_config(tokenizer))
    nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
    processor = miniature_processor(tokenizer)
    seen = teach_to_see(model, processor, images=images, seed=seed) if images else {}
    with atomic_path(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return seen


def miniature_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Six layers of width 192 that read text, four of width 128 that look at images.

    So narrow a model needs larger weights than the 0.02 made for wide ones: with 0.02 the tower sees no shapes, and
    with embeddings of 0.02 the layers learn later to look at images.
    """
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL))))
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [16, 8, 8],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "initializer_range": 0.05,
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE,
            "out_hidden_size": 192,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 2],
            "initializer_range": 0.08,
        },
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def miniature_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Images of up to 192 pixels, videos of four frames a second and 96 pixels."""
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH, merge_size=MERGE, size=PIXELS),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(
            patch_size=PATCH, merge_size=MERGE, size=CLIP_PIXELS, fps=4, cap_pixels_per_frame=False
        ),
        chat_template=CHAT_TEMPLATE,
    )


def miniature_tokenizer(vocabulary: int = VOCABULARY, texts: int = 6000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer made from what is written about scenes of both worlds, of the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
        model_max_length=2048,
    )


def _texts(count: int) -> Iterator[str]:
    """Captions of both worlds, and questions with answers."""
    for pair in world_pairs(count, seed=1):
        yield pair["caption_a"]
    for number in range(count):
        category = CATEGORIES[number % len(CATEGORIES)]
        scene, _ = shapes_in_split(f"tokenizer/{number}", "training", "video", (category,))
        yield write_shapes_caption(scene, "caption").text
    for media in ("image", "video"):
        for row in vqa_rows(count // 6, seed=1, media=media, size=32, frames=8):
            for message in row["messages"]:
                yield message["content"][-1]["text"]


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=build_miniature.__doc__.partition("\n")[0])
    parser.add_argument("output", help="the folder to make")
    seen = build_miniature(parser.parse_args().output)
    for name, share in seen.items():
        sys.stdout.write(f"the tower tells the {name} of {100 * share:.0f} % of the figures\n")


if __name__ == "__main__":
    run_as_command(main)
