"""How the stock pipelines of diffusers read their text encoder, by name: data, read off diffusers 0.42.

    model = GrantedModel.for_pipeline("krea2", "Qwen/Qwen3-VL-4B-Instruct")
    model.encode(["a red cube"])             # what Krea2Pipeline.encode_prompt gives at the real tokens of a prompt

A rule says what is done to a positive prompt: the text around it, which states are taken, what is done to them, which
tokens are dropped. Places that a pipeline fills up with padding are left out, unless its encoder reads them as text.

Ships to the Hub; imports nothing but its sibling files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .configuration_granted import FusionOptions


DESCRIBE = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the"
)
QWEN_IMAGE = (
    f"<|im_start|>system\n{DESCRIBE} objects and background:<|im_end|>\n"
    "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
)
HUNYUAN_VIDEO = (
    "Describe the video by detailing the following aspects: 1. The main content and theme of the video.2. The color, "
    "shape, size, texture, quantity, text, and spatial relationships of the objects.3. Actions, events, behaviors "
    "temporal relationships, physical movement changes of the objects.4. background environment, light, style and "
    "atmosphere.5. camera angles, movements, and transitions used in the video:"
)
HUNYUAN_VIDEO_15 = (
    "You are a helpful assistant. Describe the video by detailing the following aspects:{gap}1. The main content and "
    "theme of the video.{gap}2. The color, shape, size, texture, quantity, text, and spatial relationships of the "
    "objects.{gap}3. Actions, events, behaviors temporal relationships, physical movement changes of the objects.{gap}4. "
    "background environment, light, style and atmosphere.{gap}5. camera angles, movements, and transitions used in the "
    "video."
).format(gap=" " * 9)
KANDINSKY_VIDEO = "\n".join(
    (
        "Describe how the camera moves or shakes, describe the zoom and view angle, whether it follows the objects.",
        "Describe the location of the video, main characters or objects and their action.",
        "Describe the dynamism of the video and presented actions.",
        "Name the visual style of the video: whether it is a professional footage, user generated content, some kind of "
        "animation, video game or scren content.",
        "Describe the visual effects, postprocessing and transitions if they are presented in the video.",
        "Pay attention to the order of key actions shown in the scene.<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>",
    )
)
FLUX2 = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
NUCLEUS = (
    "You are an image generation assistant. Follow the user's prompt literally. Pay careful attention to spatial layout: "
    "objects described as on the left must appear on the left, on the right on the right. Match exact object counts and "
    "assign colors to the correct objects."
)


def _sana(asked: str, simple: str, cat: str, street: str) -> str:
    """Sana's instruction from the four of its lines that differ between images and videos."""
    detailed = (
        "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating."
    )
    examples = "Here are examples of how to transform or refine prompts:"
    only = (
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:"
    )
    return "\n".join((asked, simple, detailed, examples, cat, street, only, "User Prompt: "))


SANA = _sana(
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships "
    "to create vivid and concrete scenes.",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully on "
    "a warm sunny windowsill, surrounded by pots of blooming red flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a "
    "diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.",
)
SANA_VIDEO = _sana(
    "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for video "
    "generation. Evaluate the level of detail in the user prompt:",
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, and temporal "
    "relationships to create vivid and dynamic scenes.",
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled position, peacefully "
    "falling asleep on a warm sunny windowsill, with gentle sunlight filtering through surrounding pots of blooming red "
    "flowers.",
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps "
    "gradually lighting up, a diverse crowd of people in colorful clothing walking past, and a double-decker bus smoothly "
    "passing by towering glass skyscrapers.",
)
LONGCAT = (
    "<|im_start|>system\nAs an image captioning expert, generate a descriptive text prompt based on an image content, "
    "suitable for input to a text-to-image model.<|im_end|>\n<|im_start|>user\n"
)
QWEN_IMAGE_21 = "<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n"


@dataclass(frozen=True)
class PipelineRule:
    """What a stock pipeline does to a positive prompt.

    Args:
        pipeline (`str`): its class in diffusers.
        encoder (`str`): the model type of its encoder.
        length (`int`, *optional*): most tokens read, template included; as many as the tokenizer allows by default.
            Where there is a `drop_text`: most tokens that are left.
        drop (`int`, defaults to 0): leading tokens that are cut off the output.
        drop_text (`str`, *optional*): as many more of them as this text has tokens.
        keep_first (`bool`, defaults to `False`): whether the first token stays, and those cut off come after it.
        template (`str`, *optional*): the text around the prompt, as it is tokenised.
        chat (`tuple`, *optional*): instead: messages for the tokenizer's chat template, (role, text) each.
        parts (`bool`, defaults to `False`): whether their content is a list of parts instead of a text.
        chat_options (`Mapping`): of `apply_chat_template`.
        options (`Mapping`): further fields of [`GrantedConfig`].
    """

    pipeline: str
    encoder: str
    length: int | None = None
    drop: int = 0
    template: str | None = None
    drop_text: str | None = None
    keep_first: bool = False
    chat: tuple[tuple[str, str], ...] | None = None
    parts: bool = False
    chat_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def _state(index: int, **more: Any) -> dict[str, Any]:
    return {"fusion": "single", "layer_index": index, **more}


USER = (("user", "{prompt}"),)
PROMPTED = {"add_generation_prompt": True}
LAST = _state(-1)
BEFORE_LAST = _state(-2)

PIPELINE_RULES: dict[str, PipelineRule] = {
    "cogview4": PipelineRule(
        "CogView4Pipeline",
        "glm",
        1024,
        # Of a prompt by itself: beside a longer one the encoder reads more padding.
        options={**BEFORE_LAST, "padding_side": "left", "fill_to_multiple_of": 16},
    ),
    "cosmos2.5": PipelineRule(
        "Cosmos2_5_PredictBasePipeline",
        "qwen2_5_vl",
        512,
        chat=(
            ("system", "You are a helpful assistant who will provide prompts to an image generator."),
            ("user", "{prompt}"),
        ),
        parts=True,
        chat_options={"add_generation_prompt": False, "add_vision_id": False},
        options={
            "fusion": "concat",
            "layer_norm": "token_std",
            "layer_norm_eps": 1e-8,
            "add_special_tokens": False,
        },
    ),
    "dreamlite": PipelineRule(
        "DreamLitePipeline",
        "qwen3_vl",
        234,
        34,
        QWEN_IMAGE.replace("{prompt}", "[Generate]: {prompt}"),
        options=LAST,
    ),
    "easyanimate": PipelineRule(
        "EasyAnimatePipeline",
        "qwen2_vl",
        256,
        chat=USER,
        parts=True,
        chat_options=PROMPTED,
        options={**BEFORE_LAST, "fused_hidden_states": False},  # it reads the states of padding, too
    ),
    "ernie-image": PipelineRule("ErnieImagePipeline", "mistral3", options=BEFORE_LAST),
    "fibo": PipelineRule("BriaFiboPipeline", "smollm3", 3000, options={"fusion": "concat", "layers": [-1, -2]}),
    "flux2": PipelineRule(
        "Flux2Pipeline",
        "mistral3",
        512,
        chat=(("system", FLUX2), ("user", "{prompt}")),
        parts=True,
        chat_options={"add_generation_prompt": False},
        options={"fusion": "concat", "layers": [9, 19, 29], "add_special_tokens": False},
    ),
    "flux2-klein": PipelineRule(
        "Flux2KleinPipeline",
        "qwen3",
        512,
        chat=USER,
        chat_options={**PROMPTED, "enable_thinking": False},
        options={"fusion": "concat", "layers": [8, 17, 26]},
    ),
    "hidream": PipelineRule("HiDreamImagePipeline", "llama", 128, options={"fusion": "stack"}),
    "hunyuan-image": PipelineRule(
        "HunyuanImagePipeline",
        "qwen2_5_vl",
        1034,
        34,
        QWEN_IMAGE.removesuffix("\n<|im_start|>assistant\n"),
        options=_state(-3),
    ),
    "hunyuan-video": PipelineRule(
        "HunyuanVideoPipeline",
        "llama",
        351,
        95,
        f"<|start_header_id|>system<|end_header_id|>\n\n{HUNYUAN_VIDEO}<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{prompt}<|eot_id|>",
        options=_state(-3),
    ),
    "hunyuan-video-1.5": PipelineRule(
        "HunyuanVideo15Pipeline",
        "qwen2_5_vl",
        1108,
        108,
        chat=(("system", HUNYUAN_VIDEO_15), ("user", "{prompt}")),
        chat_options=PROMPTED,
        options=_state(-3, add_special_tokens=False),
    ),
    "ideogram4": PipelineRule(
        "Ideogram4Pipeline",
        "qwen3_vl",
        2048,
        chat=USER,
        parts=True,
        chat_options=PROMPTED,
        options={
            "fusion": "interleave",
            "layers": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 35],
            "last_layer": "pre_norm",
            "add_special_tokens": False,
        },
    ),
    "joyimage-edit": PipelineRule(
        "JoyImageEditPipeline",
        "qwen3_vl",
        4130,
        34,
        QWEN_IMAGE.replace("system\n", "system\n \\n"),
        options=_state(-1, last_layer="pre_norm"),
    ),
    "kandinsky5-image": PipelineRule(
        "Kandinsky5T2IPipeline",
        "qwen2_5_vl",
        552,
        40,
        QWEN_IMAGE.replace("system\n", "system\nYou are a prompt engineer. ").removesuffix(
            "\n<|im_start|>assistant\n"
        ),
        options={**LAST, "text_cleaning": "unescape"},
    ),
    "kandinsky5-video": PipelineRule(
        "Kandinsky5T2VPipeline",
        "qwen2_5_vl",
        640,
        128,
        f"<|im_start|>system\nYou are a prompt engineer. Describe the video in detail.\n{KANDINSKY_VIDEO}",
        options={**LAST, "text_cleaning": "unescape"},
    ),
    "kandinsky6": PipelineRule(
        "Kandinsky6TI2VAPipeline",
        "qwen2_5_vl",
        1153,
        129,
        f"<|im_start|>system\nYou are a promt engineer. Describe the video in detail.\n{KANDINSKY_VIDEO}",
        options=LAST,
    ),
    "krea2": PipelineRule(
        "Krea2Pipeline",
        "qwen3_vl",
        546,
        34,
        QWEN_IMAGE,
        options={"fusion": "stack", "layers": [1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34]},
    ),
    "longcat-image": PipelineRule(
        "LongCatImagePipeline",
        "qwen2_5_vl",
        512,
        template=LONGCAT + "{prompt}",  # what follows it is not seen by the tokens of the prompt
        drop_text=LONGCAT,
        # the diffusion model reads what stands at padding, too
        options={**LAST, "add_special_tokens": False, "split_quotes": True, "fused_hidden_states": False},
    ),
    "ltx2": PipelineRule(
        "LTX2Pipeline",
        "gemma3",
        1024,
        options={
            "fusion": "interleave",
            "embeddings": True,
            "padding_side": "left",
            "text_cleaning": "strip",
        },
    ),
    "lumina": PipelineRule("LuminaPipeline", "gemma", 256, options={**BEFORE_LAST, "text_cleaning": "lower_strip"}),
    "lumina2": PipelineRule(
        "Lumina2Pipeline",
        "gemma2",
        256,
        template="You are an assistant designed to generate superior images with the superior degree of image-text "
        "alignment based on textual prompts or user prompts. <Prompt Start> {prompt}",
        options=BEFORE_LAST,
    ),
    "motif-video": PipelineRule("MotifVideoPipeline", "t5gemma2", 512, options=_state(-1, last_layer="output")),
    "nucleus-image": PipelineRule(
        "NucleusMoEImagePipeline",
        "qwen3_vl",
        1024,
        chat=(("system", NUCLEUS), ("user", "{prompt}")),
        parts=True,
        chat_options=PROMPTED,
        options=_state(-8),
    ),
    "ovis-image": PipelineRule(
        "OvisImagePipeline",
        "qwen3",
        284,
        28,
        chat=(
            (
                "user",
                "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial relationships "
                "of the objects and background: {prompt}",
            ),
        ),
        chat_options={**PROMPTED, "enable_thinking": False},
        options=_state(-1, add_special_tokens=False),
    ),
    # As with skip_text_cleaning=True. What the pipeline takes out of a prompt otherwise (links, long numbers, Chinese
    # characters, ...) is not taken out here.
    "prx": PipelineRule("PRXPipeline", "t5gemma", options={**LAST, "text_cleaning": "unescape_strip"}),
    "prx-pixel": PipelineRule("PRXPixelPipeline", "qwen3_vl", 256, options={**LAST, "text_cleaning": "unescape_strip"}),
    "qwen-image": PipelineRule("QwenImagePipeline", "qwen2_5_vl", 546, 34, QWEN_IMAGE, options=LAST),
    "qwen-image-2.1": PipelineRule(
        "QwenImage21Pipeline",
        "qwen3_vl",
        template=f"{QWEN_IMAGE_21}<|im_start|>user\n{{prompt}}<|im_end|>\n<|im_start|>assistant\n",
        drop_text=QWEN_IMAGE_21,
        options=_state(-1, last_layer="pre_norm", padding_side="left"),
    ),
    "sana": PipelineRule(
        "SanaPipeline",
        "gemma2",
        300,
        -2,  # the opening token and the last one of the instruction stay
        SANA + "{prompt}",
        drop_text=SANA,
        keep_first=True,
        options={**LAST, "text_cleaning": "lower_strip"},
    ),
    "sana-video": PipelineRule(
        "SanaVideoPipeline",
        "gemma2",
        300,
        -2,
        SANA_VIDEO + "{prompt}",
        drop_text=SANA_VIDEO,
        keep_first=True,
        options={**LAST, "text_cleaning": "lower_strip"},
    ),
    "wan": PipelineRule("WanPipeline", "umt5", 512, options={**LAST, "text_cleaning": "unescape"}),
    "z-image": PipelineRule(
        "ZImagePipeline",
        "qwen3",
        512,
        chat=USER,
        chat_options={**PROMPTED, "enable_thinking": True},
        options=BEFORE_LAST,
    ),
}


def pipeline_rule(name: str) -> PipelineRule:
    """The rule of a pipeline by its name here.

    Raises:
        ValueError: there is none; the message names those there are.
    """
    if name not in PIPELINE_RULES:
        raise ValueError(f"got the pipeline {name!r}, expected one of {', '.join(PIPELINE_RULES)}")
    return PIPELINE_RULES[name]


def rule_fusion(rule: PipelineRule, num_layers: int) -> FusionOptions:
    """The fusion of a rule, for an encoder of so many layers."""
    names = ("fusion", "layer_index", "layers", "layer_norm", "embeddings")
    return FusionOptions(num_layers=num_layers, **{name: rule.options[name] for name in names if name in rule.options})


def read_states(rule: PipelineRule, num_layers: int) -> tuple[str, ...]:
    """The states that a rule takes of an encoder of so many layers, as `hidden_states` counts them.

    The last one after the final norm is `"last"`.
    """
    options = rule_fusion(rule, num_layers)
    normed = rule.options.get("last_layer") != "pre_norm"
    return tuple("last" if normed and index == num_layers - 1 else str(index + 1) for index in options.used_layers())


def dropped_tokens(rule: PipelineRule, tokenizer: Any) -> int:
    """How many tokens a rule cuts off, with the encoder's tokenizer."""
    return rule.drop + (0 if rule.drop_text is None else len(tokenizer.encode(rule.drop_text)))


def pipeline_options(name: str, tokenizer: Any) -> dict[str, Any]:
    """The fields of [`GrantedConfig`] that make a model read as a pipeline does.

    Args:
        name (`str`): one of `PIPELINE_RULES`.
        tokenizer (`PreTrainedTokenizerBase`): the encoder's; its chat template is used where the pipeline uses it.

    Raises:
        ValueError: an unknown name, or a tokenizer without a chat template where one is needed.
    """
    rule = pipeline_rule(name)
    template = rule.template
    if rule.chat is not None:
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"got a tokenizer without a chat template for {name}, expected that of a {rule.encoder}, which has one"
            )
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if rule.parts else text}
            for role, text in rule.chat
        ]
        template = tokenizer.apply_chat_template(messages, tokenize=False, **rule.chat_options)
    dropped = dropped_tokens(rule, tokenizer)
    length = tokenizer.model_max_length
    if rule.length is not None:
        length = rule.length if rule.drop_text is None else rule.length + dropped
    return {
        "prompt_template": template,
        "template_drop_tokens": dropped,
        "template_keep_first": rule.keep_first,
        "max_sequence_length": length,
        "fused_hidden_states": rule.options["fusion"] == "single",  # a pipeline joins several states by itself
        **rule.options,
    }
