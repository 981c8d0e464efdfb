"""`granted doctor`: what a diffusion model takes from its text encoder, and what is lost on the way.

granted doctor ./my-pipeline --prompts prompts.txt
granted doctor Qwen/Qwen3-VL-4B-Instruct --prompts prompts.txt
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from granted.cli.console import console, status
from granted.cli.registry import command
from granted.encoding.options import EncoderOptions
from granted.utils.errors import InputError, refusing
from granted.utils.options import option


PROMPTS = ("a red cube on a blue sphere", "two black cats sleep under the old wooden table near the river at night")
DRAWING = ("transformer", "transformer_2", "unet")  # left out where that is possible: nothing is drawn
OF_BOTH = ("revision", "trust_remote_code")  # options that a pipeline has, too


@dataclass
class Doctor:
    """Options of `granted doctor`."""

    pipeline: str = option(
        help="Folder or Hub id of a diffusers pipeline; or an encoder alone: Hub id, folder or GGUF file.",
        positional=True,
    )
    prompts: Path | None = option(None, "UTF-8 file, one prompt a line; two short ones by default.")
    component: str = option("text_encoder", "The encoder that is looked at, of a pipeline with several.")


@command("doctor")
def doctor(settings: Doctor, encoder: EncoderOptions):
    """Say what a diffusion model reads: watch a pipeline encode prompts, or look at an encoder alone.

    Of a pipeline: which states it takes, what is around a prompt, and what gets lost. Of an encoder: its layers, its
    fusion, its last state, and how it reads prompts. The exit code is 1 where something is lost, or is not as the
    released pipeline does it.
    """
    from granted.utils.files import read_texts

    prompts = read_texts(settings.prompts) if settings.prompts else list(PROMPTS)
    parts = pipeline_index(settings.pipeline, encoder.revision)
    if parts is None:
        lines = look_at_encoder(settings, encoder, prompts)
    else:
        lines = look_at_pipeline(settings, encoder, prompts, parts)
    for line in lines:
        console.print(f"lost: {line}")
    if lines:
        raise SystemExit(1)
    console.print("nothing is lost")


def pipeline_index(path: str, revision: str | None) -> Mapping[str, Any] | None:
    """The index of a pipeline's components; `None` where there is no pipeline."""
    from diffusers import DiffusionPipeline

    if Path(path).is_file():  # a GGUF file, which would be read whole
        return None
    try:
        return DiffusionPipeline.load_config(path, revision=revision)
    except (OSError, ValueError):
        return None


def saved_dtype(path: str, component: str, revision: str | None) -> Any:
    """The `torch.dtype` that an encoder of a pipeline is saved in; fp32 where its configuration names none."""
    import torch
    from diffusers import AutoModel

    try:
        saved = AutoModel.load_config(path, subfolder=component, revision=revision)
    except (OSError, ValueError):  # what is wrong with it is said by who looks for the encoder
        return torch.float32
    name = saved.get("dtype") or saved.get("torch_dtype")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def look_at_encoder(settings: Doctor, options: EncoderOptions, prompts: list[str]) -> list[str]:
    """Print what an encoder is and how it reads prompts; what is lost, a line each.

    Raises:
        InputError: there is no such encoder.
    """
    from granted.encoding import encoder_doctor
    from granted.modeling_text_trunk import NotFiniteError

    if settings.component != "text_encoder":
        raise InputError(
            f"got --component {settings.component} for an encoder alone, expected a pipeline: leave it out"
        )
    try:
        with status(f"loading {settings.pipeline}"):
            name, model, fused = encoder_doctor.load_for_doctor(settings.pipeline, options)
    except InputError as error:
        if isinstance(error.__cause__, NotFiniteError):
            return [str(error)]
        raise InputError(f"{error}; or a diffusers pipeline") from error
    print_table(name, encoder_doctor.describe(model, fused))
    readings = [encoder_doctor.read(model, prompt) for prompt in prompts]
    table = Table("prompt", "tokens", "cut", "dropped", "unknown")
    for one in readings:
        counts = (one.tokens, one.cut, one.dropped, one.unknown)
        table.add_row(one.prompt[:60], *(f"{count:,}" if count else "" for count in counts))
    console.print(table)
    return encoder_doctor.findings(model, readings)


def look_at_pipeline(
    settings: Doctor, options: EncoderOptions, prompts: list[str], parts: Mapping[str, Any]
) -> list[str]:
    """Print what a pipeline takes from its text encoder; what is lost, a line each.

    Args:
        settings, options, prompts: of the command.
        parts (`Mapping`): the pipeline's own index of its components.

    Raises:
        InputError: it cannot be loaded, or watched, or an option is of encoders alone.
    """
    import torch
    from diffusers import AutoModel, DiffusionPipeline

    from granted.encoding import pipeline_doctor
    from granted.pipeline_blocks import width_in

    plain = EncoderOptions()
    of_encoders = [one.name for one in fields(options) if one.name not in OF_BOTH]
    if given := [name for name in of_encoders if getattr(options, name) != getattr(plain, name)]:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"got {words} for the pipeline {settings.pipeline}, expected an encoder alone: leave it out")
    drawing = [name for name in DRAWING if parts.get(name, (None,))[0] is not None]
    load = {"revision": options.revision, "trust_remote_code": options.trust_remote_code}
    config: Mapping[str, Any] = {}
    # A class with code of its own may read its transformer when it is made.
    stock = isinstance(parts["_class_name"], str)
    left_out = {name: None for name in DRAWING if stock and name in parts}
    what = (f"pipeline {settings.pipeline!r}", "a diffusers pipeline with its code, if it has some: check it")
    with status(f"loading {settings.pipeline}"), refusing(*what):
        # diffusers, unlike transformers, reads everything in fp32 where no dtype is named.
        load["torch_dtype"] = saved_dtype(settings.pipeline, settings.component, options.revision)
        pipe = DiffusionPipeline.from_pretrained(settings.pipeline, **load, **left_out)
        if drawing and "connectors" not in parts:  # which stand between
            config = AutoModel.load_config(settings.pipeline, subfolder=drawing[0], revision=options.revision)
    encoder = getattr(pipe, settings.component, None)
    if not isinstance(encoder, torch.nn.Module):
        kind = type(pipe).__name__
        raise InputError(f"got a {kind} without a {settings.component}, expected one: choose another --component")
    reading = pipeline_doctor.observe(pipe, prompts[0], component=settings.component)
    found = pipeline_doctor.rule_of(pipe)
    size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    width = width_in(config)
    print_table(
        settings.pipeline,
        [
            ("pipeline", f"{type(pipe).__name__}{f' ({found[0]})' if found else ''}"),
            ("encoder", f"{type(encoder).__name__}, {encoder.config.model_type}"),
            ("weights", f"{size / 2**20:,.0f} MiB, {str(encoder.dtype).removeprefix('torch.')}"),
            ("takes", pipeline_doctor.describe_states(reading.states, reading.norm, reading.arrangement)),
            ("reads", f"{len(reading.ids)} tokens of the first prompt, {reading.dropped} of them dropped"),
            ("mask", "given to the encoder" if reading.mask_given else "not given to the encoder"),
            ("gives", f"{reading.shape} {reading.dtype}"),
            ("width", f"{reading.shape[-1]}; the {drawing[0]} reads {width}" if width else f"{reading.shape[-1]}"),
        ],
    )
    lines = pipeline_doctor.differences(pipe, reading, settings.component)
    lines += pipeline_doctor.width_difference(reading, config)
    return lines + pipeline_doctor.findings(pipe, prompts, component=settings.component)


def print_table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A table of names and values."""
    table = Table("", title)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)
