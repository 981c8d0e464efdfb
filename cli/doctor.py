"""`granted doctor`: what a diffusion pipeline takes from its text encoder, and what it loses.

granted doctor ./my-pipeline --prompts prompts.txt
"""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from granted.cli.console import console, status
from granted.cli.registry import command
from granted.utils.errors import InputError
from granted.utils.options import option


PROMPTS = ("a red cube on a blue sphere", "two black cats sleep under the old wooden table near the river at night")
DRAWING = ("transformer", "transformer_2", "unet")  # left out: nothing is drawn


@dataclass
class Doctor:
    """Options of `granted doctor`."""

    pipeline: str = option(help="Folder or Hub id of a diffusers pipeline.", positional=True)
    prompts: Path | None = option(None, "UTF-8 file, one prompt a line; two short ones by default.")
    component: str = option("text_encoder", "The encoder that is looked at, of a pipeline with several.")
    revision: str | None = option(None, "Branch, tag or commit of the pipeline on the Hub.")
    trust_remote_code: bool = option(False, "Run the code that comes with the pipeline; read it first.")


@command("doctor")
def doctor(settings: Doctor):
    """Watch a pipeline encode prompts: which states it takes, what is around a prompt, and what gets lost.

    The exit code is 1 where something is lost, or is not as the released pipeline does it.
    """
    import torch
    from diffusers import DiffusionPipeline

    from granted.encoding import pipeline_doctor
    from granted.utils.files import read_lines

    prompts = read_lines(settings.prompts) if settings.prompts else list(PROMPTS)
    if not prompts:
        raise InputError(f"got {settings.prompts} without a prompt, expected one a line")
    load = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code, "torch_dtype": "auto"}
    with status(f"loading {settings.pipeline}"):
        try:
            parts = DiffusionPipeline.load_config(settings.pipeline, revision=settings.revision)
            left_out = {name: None for name in DRAWING if name in parts}
            pipe = DiffusionPipeline.from_pretrained(settings.pipeline, **load, **left_out)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"got {settings.pipeline}, expected a diffusers pipeline ({reason})") from error
    encoder = getattr(pipe, settings.component, None)
    if not isinstance(encoder, torch.nn.Module):
        kind = type(pipe).__name__
        raise InputError(f"got a {kind} without a {settings.component}, expected one: choose another --component")
    reading = pipeline_doctor.observe(pipe, prompts[0], component=settings.component)
    found = pipeline_doctor.rule_of(pipe)
    size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    table = Table("", settings.pipeline, show_header=True)
    for name, value in (
        ("pipeline", f"{type(pipe).__name__}{f' ({found[0]})' if found else ''}"),
        ("encoder", f"{type(encoder).__name__}, {encoder.config.model_type}"),
        ("weights", f"{size / 2**20:,.0f} MiB, {str(encoder.dtype).removeprefix('torch.')}"),
        ("takes", pipeline_doctor.describe_states(reading.states, reading.norm, reading.arrangement)),
        ("reads", f"{len(reading.ids)} tokens of the first prompt, {reading.dropped} of them dropped"),
        ("mask", "given to the encoder" if reading.mask_given else "not given to the encoder"),
        ("gives", f"{reading.shape} {reading.dtype}"),
    ):
        table.add_row(name, value)
    console.print(table)
    lines = pipeline_doctor.differences(pipe, reading, settings.component)
    lines += pipeline_doctor.findings(pipe, prompts, component=settings.component)
    for line in lines:
        console.print(f"lost: {line}")
    if lines:
        raise SystemExit(1)
    console.print("nothing is lost")
