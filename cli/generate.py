"""`granted generate`: an image or video of each prompt.

granted generate release/granted-lumina2 --prompts prompts.txt --output images
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from granted.cli.console import console, status
from granted.cli.registry import command
from granted.eval_metric.generation.settings import PipelineOptions, SamplingSettings
from granted.utils.options import option


@dataclass
class Generate:
    """Options of `granted generate`."""

    pipeline: str = option(help="Folder or Hub id of a diffusers pipeline.", positional=True)
    prompts: Path = option(help=".txt (a prompt a line), .jsonl or .parquet (id, prompt), or genai_image.json.")
    output: Path = option(help="Folder for the images, manifest.jsonl and grid.png.")


@command("generate")
def generate(settings: Generate, sampling: SamplingSettings, pipeline: PipelineOptions):
    """Make an image or video of each prompt. Run the same command again to go on after an interruption."""
    from granted.eval_metric.generation.prompts import read_prompts
    from granted.eval_metric.generation.sampling import load_pipeline, sample_prompts

    rows = read_prompts(settings.prompts)
    with status(f"loading {settings.pipeline}"):
        loaded = load_pipeline(settings.pipeline, **asdict(pipeline))
    made = sample_prompts(loaded, rows, settings.output, sampling, name=settings.pipeline)
    console.print(
        f"wrote {len(made)} {made[0]['media']}s to {settings.output}; score them with granted evaluate generation"
    )
