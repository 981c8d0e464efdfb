"""The `granted` command. It reads options, calls the library and prints; anything worth testing is elsewhere.

    granted evaluate smollm2=SmolLM2-135M-Instruct.gguf --ted sample --pairs pairs.parquet --features last,norm_avg
"""

import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from granted.errors import InputError


app = typer.Typer(
    help="Score, adapt and plug in the text encoders of diffusion models (GRAN-TED, arXiv 2512.15560).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Make data sets: TED-6K and caption pairs.", no_args_is_help=True)
train = typer.Typer(help="Train: the context aggregator.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(train, name="train")
console = Console()


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take defaults of the command's options from a YAML file; options on the command line win."""
    if path is None:
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"got {path}, expected a readable YAML file ({str(error).splitlines()[0]})") from error
    known = {parameter.name for parameter in context.command.params} - {"config"}
    if not isinstance(values, dict) or set(values) - known:
        unknown = ", ".join(map(str, set(values) - known)) if isinstance(values, dict) else "no mapping"
        raise InputError(f"got {unknown} in {path}, expected options of this command: {', '.join(sorted(known))}")
    context.default_map = {
        key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()
    }
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with any of these options.", callback=_read_config, is_eager=True),
]
EncoderName = Annotated[str, typer.Option("--encoder", help="Hub id, folder or GGUF file; NAME=PATH names it.")]
EncoderDtype = Annotated[str, typer.Option("--dtype", help="The encoder's: auto, float32, bfloat16 or float16.")]


@train.command("aggregator")
def train_aggregator(
    encoder: EncoderName,
    pairs: Annotated[str, typer.Option(help="Caption pairs: Parquet or JSON Lines files, comma-separated.")],
    output: Annotated[Path, typer.Option(help="Folder that gets one aggregator per feature.")],
    config: ConfigFile = None,
    features: Annotated[
        str,
        typer.Option(help="last, penultimate, layer_I, all_layers, avg, norm_avg, learned, weights:PATH; with commas."),
    ] = "norm_avg",
    learning_rates: Annotated[str, typer.Option(help="One, or several from which held-out pairs choose.")] = "1e-5",
    batch_size: Annotated[int, typer.Option(help="Pairs per process and step.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 1,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    schedule: Annotated[str, typer.Option(help="constant or cosine.")] = "constant",
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear rise.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-5,
    max_grad_norm: Annotated[float, typer.Option(help="Gradient clip, per aggregator.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Of the contrastive loss.")] = 0.07,
    hard_negatives: Annotated[bool, typer.Option(help="Use the pairs' negatives column.")] = False,
    held_out: Annotated[int, typer.Option(help="Pairs kept to measure on (at most a tenth).")] = 500,
    seed: Annotated[int, typer.Option(help="Of initialisation and data order.")] = 0,
    mixed_precision: Annotated[str, typer.Option(help="bf16 or no.")] = "bf16",
    recompute_layers: Annotated[bool, typer.Option(help="Least memory for learned layer weights.")] = True,
    token_budget: Annotated[int, typer.Option(help="Most tokens the encoder reads at a time.")] = 8192,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 200,
    log_steps: Annotated[int, typer.Option(help="Steps between points of the curve.")] = 10,
    tracker: Annotated[str, typer.Option(help="file or trackio.")] = "file",
    dtype: EncoderDtype = "auto",
):
    """Train context aggregators on caption pairs; rerun to go on after an interruption. Defaults are the paper's."""
    from granted.training.context_aggregator import AggregatorTrainingConfig, train_context_aggregators

    options = dict(locals())
    settings = {field.name: options[field.name] for field in fields(AggregatorTrainingConfig)}
    settings |= {"features": _names(features), "learning_rates": _numbers(learning_rates)}
    name, model = _load_encoder(encoder, dtype)
    rows = _read_pairs(pairs)
    folders = train_context_aggregators(model, rows, output, AggregatorTrainingConfig(**settings), encoder_name=name)
    for folder in folders.values():
        console.print(f"wrote {folder}")


@data.command("pairs")
def data_pairs(
    output: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    groups: Annotated[str, typer.Option(help="JSON Lines files of caption groups (id, media, captions).")] = "",
    authors: Annotated[str, typer.Option(help="The authors' JSON Lines (processed_caption1, processed_caption2).")] = "",
    dataset: Annotated[str, typer.Option(help="Any dataset that load_dataset takes; needs --columns.")] = "",
    columns: Annotated[str, typer.Option(help="Its two caption columns, comma-separated.")] = "",
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    target_words: Annotated[str, typer.Option(help="Words of a text made from a group; one number, or one per file.")] = "60",
    limit: Annotated[str, typer.Option(help="Most pairs from each groups file; one number, or one per file.")] = "",
    seed: Annotated[int, typer.Option(help="Of the choice of captions.")] = 0,
    config: ConfigFile = None,
):
    """Make caption pairs from caption groups, from the authors' file or from two columns of a dataset."""
    from itertools import chain

    from granted.dataset_builders.caption_pairs import pairs as builder

    sources = []
    files = _names(groups)
    words, limits = _per_file(target_words, files, "target-words"), _per_file(limit, files, "limit")
    reports = {}
    for file, target, most in zip(files, words, limits):
        name = Path(file).name.split(".")[0]
        reports[name] = builder.GroupReport()
        sources.append(
            builder.pairs_from_groups(
                builder.read_caption_groups(file),
                target_words=target or 60,
                seed=seed,
                source=name,
                limit=most,
                report=reports[name],
            )
        )
    sources += [builder.pairs_from_authors_jsonl(file) for file in _names(authors)]
    if dataset:
        from datasets import load_dataset

        if len(_names(columns)) != 2:
            raise InputError(f"got columns {columns!r}, expected two names: give --columns CAPTION_A,CAPTION_B")
        rows = load_dataset(dataset, split=split, streaming=True)
        sources.append(builder.pairs_from_columns(rows, *_names(columns), source=dataset))
    if not sources:
        raise InputError("got no source, expected --groups, --authors or --dataset: name at least one")
    with console.status(f"writing {output}"):
        count = builder.write_pairs(chain(*sources), output)
    for name, report in reports.items():
        console.print(f"{name}: {report.pairs} pairs, {report.skipped} groups with fewer than two captions skipped")
    console.print(f"wrote {count} pairs to {output}")


# --------------------------------------------------------------------------------------------------------- plumbing


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in _names(str(text))]
    except ValueError as error:
        raise InputError(f"got {text!r}, expected numbers separated by commas ({error})") from error


def _per_file(text: str, files: list[str], option: str) -> list[int | None]:
    values = [int(value) for value in _numbers(text)] or [None]
    if len(values) not in (1, len(files)):
        raise InputError(f"got {len(values)} values for --{option} and {len(files)} files, expected one, or one each")
    return values * len(files) if len(values) == 1 else values


def _read_pairs(paths: str) -> list[dict]:
    from granted.dataset_builders.caption_pairs.pairs import read_pairs

    with console.status("reading pairs"):
        return [pair for path in _names(paths) for pair in read_pairs(path)]


def _load_encoder(spec: str, dtype: str):
    """Name and model of `PATH` or `NAME=PATH`."""
    from granted.eval_metric.evaluation import load_encoder

    with console.status(f"loading {spec}"):
        return load_encoder(spec, dtype)


def main() -> None:
    """Entry point: errors of the input are one line and exit code 2, an interrupt exits with 130."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except InputError as error:
        print(f"granted: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("granted: interrupted; run the same command again to go on", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
