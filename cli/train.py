"""`granted train ...`: the aggregator, stage 1, stage 2.

granted train text-to-image --config training/configs/t2i_miniature_32.yaml --data data.parquet --output-dir run
accelerate launch -m granted.cli train aggregator --config training/configs/aggregator_paper.yaml ...
"""

from dataclasses import dataclass
from pathlib import Path

from granted.cli.console import console, status
from granted.cli.evaluate import read_all_pairs
from granted.cli.registry import command
from granted.encoding.options import EncoderOptions
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.training.diffusion.settings import TextToImageConfig, TextToVideoConfig
from granted.utils.options import option
from granted.utils.settings import Count


@dataclass
class TrainAggregator:
    """Options of `granted train aggregator`."""

    encoder: str = option(help="Hub id, folder or GGUF file; NAME=PATH names it.")
    pairs: list[str] = option(help="Caption pairs: Parquet or JSON Lines files.")
    output: Path = option(help="Folder that gets one aggregator per feature.")
    max_length: Count | None = option(None, "Most tokens read of a text, template included; the encoder's own limit.")


@command("train aggregator")
def train_aggregator(settings: TrainAggregator, training: AggregatorTrainingConfig, encoder: EncoderOptions):
    """Train context aggregators on caption pairs; run again to go on where it stopped. Defaults are the paper's."""
    from granted.encoding.loading import load_encoder
    from granted.training.aggregator.training import train_context_aggregators

    rows = read_all_pairs(settings.pairs)
    with status(f"loading {settings.encoder}"):
        name, model = load_encoder(settings.encoder, encoder, max_length=settings.max_length)
    folders = train_context_aggregators(model, rows, settings.output, training, encoder_name=name)
    for folder in folders.values():
        _say(f"wrote {folder}")


@command("train vqa", settings="granted.training.vqa.finetuning:VqaFinetuningConfig")
def train_vqa(settings):
    """Stage 1: fine-tune a vision-language model by VQA, whole or with an adapter.

    All of TRL's SFTConfig and ModelConfig can be set, too (huggingface.co/docs/trl/sft_trainer): --help-all lists it.
    """
    from granted.training.vqa.finetuning import dry_run, finetune

    if settings.dry_run:
        _say(dry_run(settings))
        return
    probe = None
    if settings.ted:
        from granted.eval_metric.ted_probe import TedProbe

        probe = TedProbe.from_files(settings)
    _say(f"wrote {finetune(settings, probe)}; make an encoder of it with granted export {settings.output_dir}")


@command("train text-to-image")
def train_text_to_image(settings: TextToImageConfig):
    """Stage 2: train a Lumina 2 transformer with the encoder's layer weights, jointly and then frozen."""
    from granted.training.diffusion.text_to_image import train

    _say(train(settings))


@command("train text-to-video")
def train_text_to_video(settings: TextToVideoConfig):
    """Stage 2: fine-tune Wan on images and videos with the encoder's layer weights."""
    from granted.training.diffusion.text_to_video import train

    _say(train(settings))


def _say(text: object) -> None:
    """Print once, whatever the number of processes."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        console.print(str(text))
