"""The `granted` command. It reads options, calls the library and prints; anything worth testing is elsewhere.

granted evaluate smollm2=SmolLM2-135M-Instruct.gguf --ted sample --pairs pairs.parquet --features last,norm_avg
"""

import os
import sys
from collections.abc import Callable
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
data = typer.Typer(help="Make and check data: TED-6K, caption pairs, scenes of shapes.", no_args_is_help=True)
train = typer.Typer(
    help="Train: the context aggregator, the encoder by VQA (stage 1), the diffusion model (stage 2).",
    no_args_is_help=True,
)
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
    several = {parameter.name for parameter in context.command.params if parameter.nargs == -1}
    if not isinstance(values, dict) or set(values) - known:
        unknown = ", ".join(sorted(map(str, set(values) - known))) if isinstance(values, dict) else "no mapping"
        raise InputError(f"got {unknown} in {path}, expected options of this command: {', '.join(sorted(known))}")
    context.default_map = {
        key: ",".join(map(str, value)) if isinstance(value, list) and key not in several else value
        for key, value in values.items()
    }
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file with any of these options.", callback=_read_config, is_eager=True),
]
EncoderDtype = Annotated[str, typer.Option("--dtype", help="The encoder's: auto, float32, bfloat16 or float16.")]
Pairs = Annotated[str, typer.Option(help="Caption pairs: Parquet or JSON Lines files, comma-separated.")]
Features = Annotated[
    str,
    typer.Option(help="last, penultimate, layer_I, all_layers, avg, norm_avg, learned, weights:PATH; with commas."),
]
LearningRates = Annotated[str, typer.Option(help="One, or several from which held-out pairs choose.")]
BatchSize = Annotated[int, typer.Option(help="Pairs per process and step.")]
Epochs = Annotated[int, typer.Option(help="Passes over the pairs.")]
MaxSteps = Annotated[int | None, typer.Option(help="Stop after so many steps.")]
Schedule = Annotated[str, typer.Option(help="constant or cosine.")]
WarmupSteps = Annotated[int, typer.Option(help="Steps of linear rise.")]
WeightDecay = Annotated[float, typer.Option(help="Of AdamW.")]
MaxGradNorm = Annotated[float, typer.Option(help="Gradient clip, per aggregator.")]
Temperature = Annotated[float, typer.Option(help="Of the contrastive loss.")]
HardNegatives = Annotated[bool, typer.Option(help="Use the pairs' negatives column.")]
HeldOut = Annotated[int, typer.Option(help="Pairs kept to measure on (at most a tenth).")]
MixedPrecision = Annotated[str, typer.Option(help="Of the aggregators: bf16 or no.")]
RecomputeLayers = Annotated[bool, typer.Option(help="Least memory, not least time, for learned layer weights.")]
TokenBudget = Annotated[int, typer.Option(help="Most tokens the encoder reads at a time, padding included.")]
SaveSteps = Annotated[int, typer.Option(help="Steps between checkpoints; 1 loses nothing to a kill.")]
LogSteps = Annotated[int, typer.Option(help="Steps between points of the curve.")]
Tracker = Annotated[str, typer.Option(help="Where curves go: file or trackio.")]
Ted = Annotated[str, typer.Option(help="TED-6K.json, an exported folder, or the word sample.")]


@app.command()
def evaluate(
    encoders: Annotated[list[str], typer.Argument(help="Hub ids, folders or GGUF files; NAME=PATH names one.")],
    ted: Ted = "sample",
    pairs: Annotated[
        str, typer.Option(help="Caption pairs to train the aggregators on; files, comma-separated.")
    ] = "",
    aggregator: Annotated[
        Path | None, typer.Option(help="A trained aggregator, or a folder of them, instead.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of aggregators, results and report.")] = Path("evaluation"),
    config: ConfigFile = None,
    seeds: Annotated[str, typer.Option(help="An aggregator per feature is trained for each.")] = "0",
    shard: Annotated[str | None, typer.Option(help="Score part i/n only; see `granted merge`.")] = None,
    dtype: EncoderDtype = "auto",
    features: Features = "norm_avg",
    learning_rates: LearningRates = "1e-5",
    batch_size: BatchSize = 16,
    epochs: Epochs = 1,
    max_steps: MaxSteps = None,
    schedule: Schedule = "constant",
    warmup_steps: WarmupSteps = 0,
    weight_decay: WeightDecay = 1e-5,
    max_grad_norm: MaxGradNorm = 0.5,
    temperature: Temperature = 0.07,
    hard_negatives: HardNegatives = False,
    held_out: HeldOut = 500,
    mixed_precision: MixedPrecision = "bf16",
    recompute_layers: RecomputeLayers = True,
    token_budget: TokenBudget = 8192,
    save_steps: SaveSteps = 200,
    log_steps: LogSteps = 10,
    tracker: Tracker = "file",
):
    """Score text encoders on TED: train an aggregator per feature where none is given, score, write the report.

    Run the same command again to go on after an interruption.
    """
    from granted.dataset_builders.ted_6k.authors_layout import read_ted
    from granted.eval_metric import evaluation
    from granted.eval_metric.results import load_all

    settings = _training_settings(locals() | {"seed": 0})
    records, info = read_ted(ted)
    rows = _read_pairs(pairs) if pairs else None
    evaluation.evaluate(
        encoders,
        records,
        info,
        output,
        pairs=rows,
        settings=settings,
        seeds=_whole_numbers(seeds),
        aggregator=aggregator,
        dtype=dtype,
        shard=shard,
    )
    if shard is None:
        _show_report([result for result in load_all(output / "results") if not result.shard], records, output)
    else:
        console.print(f"wrote shard {shard} to {output / 'results'}; join the shards with granted merge")


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Result folders of all shards.")],
    ted: Ted = "sample",
    output: Annotated[Path, typer.Option(help="Folder of the joined results and the report.")] = Path("evaluation"),
):
    """Join the results of `granted evaluate --shard i/n` and write the report."""
    from itertools import groupby

    from granted.dataset_builders.ted_6k.authors_layout import read_ted
    from granted.eval_metric.results import load_all, merge_shards

    def run(result):
        return (result.encoder, result.feature, result.pooling, -1 if result.seed is None else result.seed)

    records, _ = read_ted(ted)
    parts = sorted((result for folder in folders for result in load_all(folder) if result.shard), key=run)
    if not parts:
        raise InputError("got folders without a single shard, expected results of granted evaluate --shard i/n")
    merged = [merge_shards(list(shards)) for _, shards in groupby(parts, key=run)]
    for result in merged:
        result.save(output / "results")
    _show_report(merged, records, output)


@app.command()
def agree(
    reference: Annotated[Path, typer.Argument(help="Folder of results on one benchmark.")],
    other: Annotated[Path, typer.Argument(help="Folder of results on another.")],
    names: Annotated[str, typer.Option(help="What to call the two; by default the folders' names.")] = "",
    output: Annotated[Path, typer.Option(help="Folder for agreement.md and agreement.png.")] = Path("agreement"),
):
    """Correlate two benchmarks over the encoders and features that both have scored."""
    from granted.eval_metric.agreement import agreement, agreement_chart
    from granted.eval_metric.results import load_all
    from granted.files import atomic_path

    called = _names(names) or [reference.name, other.name]
    if len(called) != 2:
        raise InputError(f"got --names {names}, expected two names: give one for each benchmark")
    found = agreement(load_all(reference), load_all(other))
    text = found.markdown(*called)
    with atomic_path(output / "agreement.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    agreement_chart(found, output / "agreement.png", *called)
    console.print(text)


@app.command()
def encode(
    encoder: Annotated[str, typer.Argument(help="Hub id, folder or GGUF file.")],
    texts: Annotated[Path, typer.Argument(help="UTF-8 file, one text a line.")],
    output: Annotated[Path, typer.Option(help="Folder of safetensors shards, keyed by text.")],
    config: ConfigFile = None,
    fusion: Annotated[
        str, typer.Option(help="learned, norm_avg, avg or single; a saved model keeps its own.")
    ] = "norm_avg",
    layer_index: Annotated[int, typer.Option(help="The layer of fusion single; -1 is the last.")] = -1,
    max_sequence_length: Annotated[int, typer.Option(help="Most tokens read of a text.")] = 512,
    token_budget: TokenBudget = 8192,
    dtype: EncoderDtype = "auto",
):
    """Encode texts into fused features (N, D) on disk. Run again to go on after an interruption."""
    from granted.eval_metric.evaluation import encode_file

    count, total = encode_file(
        encoder,
        texts,
        output,
        fusion=fusion,
        layer_index=layer_index,
        max_sequence_length=max_sequence_length,
        token_budget=token_budget,
        dtype=dtype,
    )
    console.print(f"encoded {count} texts; {output} holds {total}")


@train.command("aggregator")
def train_aggregator(
    encoder: Annotated[str, typer.Option(help="Hub id, folder or GGUF file; NAME=PATH names it.")],
    pairs: Pairs,
    output: Annotated[Path, typer.Option(help="Folder that gets one aggregator per feature.")],
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(help="Of initialisation and data order.")] = 0,
    dtype: EncoderDtype = "auto",
    features: Features = "norm_avg",
    learning_rates: LearningRates = "1e-5",
    batch_size: BatchSize = 16,
    epochs: Epochs = 1,
    max_steps: MaxSteps = None,
    schedule: Schedule = "constant",
    warmup_steps: WarmupSteps = 0,
    weight_decay: WeightDecay = 1e-5,
    max_grad_norm: MaxGradNorm = 0.5,
    temperature: Temperature = 0.07,
    hard_negatives: HardNegatives = False,
    held_out: HeldOut = 500,
    mixed_precision: MixedPrecision = "bf16",
    recompute_layers: RecomputeLayers = True,
    token_budget: TokenBudget = 8192,
    save_steps: SaveSteps = 200,
    log_steps: LogSteps = 10,
    tracker: Tracker = "file",
):
    """Train context aggregators on caption pairs; run again to go on where it stopped. Defaults are the paper's."""
    from granted.eval_metric.evaluation import load_encoder
    from granted.training.context_aggregator import train_context_aggregators

    settings = _training_settings(locals())
    rows = _read_pairs(pairs)
    with console.status(f"loading {encoder}"):
        name, model = load_encoder(encoder, dtype)
    folders = train_context_aggregators(model, rows, output, settings, encoder_name=name)
    for folder in folders.values():
        console.print(f"wrote {folder}")


@train.command(
    "vqa",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train_vqa(context: typer.Context):
    """Stage 1: fine-tune a vision-language model by VQA; options are TRL's SFTConfig's and more, see --help."""
    from granted.training.vqa_finetuning import run

    console.print(run(context.args), markup=False, highlight=False, soft_wrap=True)


@train.command(
    "text-to-image",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train_text_to_image(context: typer.Context):
    """Stage 2: train a Lumina 2 transformer with the encoder's layer weights, jointly and then frozen, see --help."""
    from granted.training.text_to_image import run

    console.print(run(context.args), markup=False, highlight=False, soft_wrap=True)


@train.command(
    "text-to-video",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train_text_to_video(context: typer.Context):
    """Stage 2: fine-tune Wan on pictures and clips with the encoder's layer weights, see --help."""
    from granted.training.text_to_video import run

    console.print(run(context.args), markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="What `granted train vqa` wrote: a whole model or an adapter.")],
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    config: ConfigFile = None,
    fusion: Annotated[str, typer.Option(help="learned, norm_avg, avg or single.")] = "norm_avg",
    dtype: EncoderDtype = "auto",
    base: Annotated[str | None, typer.Option(help="The base of an adapter, if it has moved.")] = None,
    keep_vision: Annotated[bool, typer.Option(help="Keep the vision tower.")] = False,
):
    """Make a text encoder of a fine-tuned model: merge the adapter, drop the head, fuse the layers."""
    from granted.training.export import export_encoder

    folder = export_encoder(run, output, fusion=fusion, dtype=dtype, base=base, keep_vision=keep_vision)
    console.print(f"wrote {folder}; load it with AutoModel.from_pretrained or score it with granted evaluate {folder}")


@app.command()
def miniature(
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    pictures: Annotated[int, typer.Option(help="Shown to the vision tower, so that it sees; 0 for none.")] = 36000,
):
    """Make a Qwen3-VL in miniature: the real classes, small enough to train on two cores."""
    from granted.training.miniature import build_miniature

    seen = build_miniature(output, seed=seed, pictures=pictures)
    for name, share in seen.items():
        console.print(f"the tower tells the {name} of {100 * share:.0f} % of the figures")
    console.print(f"wrote {output}")


@app.command()
def vqa(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub ids; NAME=PATH names one, such as before=...")],
    data: Annotated[str, typer.Option(help="Held-out rows of granted data shapes vqa.")],
    training_data: Annotated[str, typer.Option(help="The rows trained on, for the majority answers.")],
    output: Annotated[Path, typer.Option(help="Folder for vqa.json and questions.png.")],
    config: ConfigFile = None,
    batch_size: Annotated[int, typer.Option(help="Rows answered at a time.")] = 32,
):
    """How well vision-language models answer questions about shapes, with the right picture and with another."""
    from granted.eval_metric.vqa import evaluate_vqa

    report = evaluate_vqa(models, data, training_data, output, batch_size=batch_size)
    names = [name for name in report["all"] if name != "n"]
    table = Table("aspect", "n", *names, title="answered right, % [95% interval]")
    for aspect, figures in report.items():
        shares = [(figures[name]["accuracy"], *figures[name]["ci95"]) for name in names]
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share for share in three)) for three in shares]
        table.add_row(aspect, str(figures["n"]), *cells)
    console.print(table)
    console.print(f"wrote {output}")


@app.command()
def generate(
    pipeline: Annotated[str, typer.Argument(help="Folder or Hub id of a diffusers pipeline.")],
    prompts: Annotated[
        Path, typer.Option(help=".txt (a prompt a line), .jsonl or .parquet (id, prompt), or genai_image.json.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the pictures, manifest.jsonl and grid.png.")],
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(help="With the prompts' ids it decides the noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Of denoising; like all below by default the pipeline's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="For all pictures.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Pictures or clips of each prompt.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Pictures made at a time.")] = 8,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Of a clip.")] = None,
    fps: Annotated[float, typer.Option(help="Frames a second at which clips are meant to be seen.")] = 16.0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    offload: Annotated[bool, typer.Option(help="Keep only the part that works on the accelerator.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that ships with the pipeline; read it first.")
    ] = False,
):
    """Make a picture or clip of each prompt. Run the same command again to go on after an interruption."""
    from granted.eval_metric.prompts import read_prompts
    from granted.eval_metric.sampling import SamplingSettings, load_pipeline, sample_prompts

    options = locals()
    settings = SamplingSettings(**{field.name: options[field.name] for field in fields(SamplingSettings)})
    rows = read_prompts(prompts)
    with console.status(f"loading {pipeline}"):
        loaded = load_pipeline(pipeline, dtype=dtype, trust_remote_code=trust_remote_code, offload=offload)
    made = sample_prompts(loaded, rows, output, settings, name=pipeline)
    console.print(f"wrote {len(made)} {made[0]['media']}s to {output}; score them with granted evaluate-generation")


@app.command("evaluate-generation")
def evaluate_generation(
    pictures: Annotated[
        Path, typer.Argument(help="Folder of granted generate, a manifest, or GenAI-Bench with its rated pictures.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the scores; by default scores in PICTURES.")] = None,
    config: ConfigFile = None,
    judge: Annotated[
        str | None, typer.Option(help="A vision-language model for VQAScore: folder or Hub id; NAME=PATH names it.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="The judge's: auto, float32, bfloat16 or float16.")] = "auto",
    question: Annotated[
        str, typer.Option(help="Asked of the judge; {} is the prompt.")
    ] = 'Does this figure show "{}"? Please answer yes or no.',
    max_frames: Annotated[int, typer.Option(help="Frames of a clip that the judge sees.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Questions asked at a time.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the control, which swaps the prompts of shapes.")] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read.")
    ] = False,
):
    """How well pictures follow their prompts: shapes read exactly, anything judged by a vision-language model."""
    from granted.eval_metric import generation

    reports = generation.evaluate_generation(
        pictures,
        output,
        judge=judge,
        dtype=dtype,
        question=question,
        max_frames=max_frames,
        batch_size=batch_size,
        seed=seed,
        skip_unreadable=skip_unreadable,
    )

    def share(figures: dict | None) -> str:
        return (
            "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (figures["score"], *figures["ci95"])))
            if figures
            else ""
        )

    for part, properties in reports.get("shapes", {}).items():
        table = Table("", "n", "right, %", "other prompts, %", "ceiling, %", title=f"shapes, {part} [95% interval]")
        for name, figures in properties.items():
            ceiling = f"{100 * figures['ceiling']:.1f}" if "ceiling" in figures else ""
            table.add_row(
                name.replace("_", " "), str(figures["n"]), share(figures), share(figures.get("control")), ceiling
            )
        console.print(table)
    if "vqa_score" in reports:
        table = Table("", "n", "VQAScore, % [95% interval]")
        for name, figures in reports["vqa_score"].items():
            table.add_row(name, str(figures["n"]), share(figures))
        console.print(table)
    if "agreement" in reports:
        found = reports["agreement"]
        low, high = found["ci95"]
        figures = f"r = {found['pearson']:.2f} [{low:.2f}, {high:.2f}], Spearman {found['spearman']:.2f}"
        console.print(f"agreement with people over {found['n']} pictures: {figures}, Kendall {found['kendall']:.2f}")
    console.print(f"wrote {output or 'scores beside the manifest'}")


@data.command("ted")
def data_ted(
    output: Annotated[Path, typer.Option(help="The folder to write; call it ted-6k to load it by that name.")],
    config: Annotated[
        str, typer.Option(help="synthetic (made from scenes; the default), sample (written by hand) or official.")
    ] = "",
    input: Annotated[str, typer.Option(help="The authors' TED-6K.json; makes it official.")] = "",
    instances: Annotated[int, typer.Option(help="Size of the synthetic benchmark.")] = 6641,
    seed: Annotated[int, typer.Option(help="Of the synthetic benchmark.")] = 0,
    difficulty: Annotated[
        str, typer.Option(help="Negatives of the synthetic one: compositional (the caption's own words) or lexical.")
    ] = "compositional",
    per_caption: Annotated[int, typer.Option(help="1 to 4: about how many questions share a synthetic caption.")] = 4,
    scene_words: Annotated[str, typer.Option(help="Fewest and most words of synthetic captions.")] = "150,250",
):
    """Make TED-6K as a folder that load_dataset reads, with card and statistics."""
    from granted.dataset_builders.scenes.world import synthetic_ted
    from granted.dataset_builders.ted_6k.authors_layout import read_ted
    from granted.dataset_builders.ted_6k.export import export_dataset
    from granted.dataset_builders.ted_6k.records import SYNTHETIC
    from granted.dataset_builders.ted_6k.statistics import describe, rows

    config = config or ("official" if input else SYNTHETIC)
    if config not in (SYNTHETIC, "sample", "official"):
        raise InputError(f"got --config {config}, expected synthetic, sample or official")
    if bool(input) != (config == "official"):
        raise InputError(f"got --config {config} with --input '{input}', expected a file for official, and only there")
    skipped = {}
    if config == SYNTHETIC:
        with console.status("describing scenes"):
            lengths = _range(scene_words, "scene-words")
            records = list(
                synthetic_ted(instances, seed=seed, difficulty=difficulty, per_caption=per_caption, words=lengths)
            )
        source = f"Generated by granted (seed {seed}, {difficulty} negatives, {scene_words} words)."
    else:
        records, info = read_ted(input or config)
        # A file that is not the whole benchmark is exported as what it is: custom.
        config, skipped = info["config"], info["skipped"]
        source = f"Made from `{Path(input).name}`." if input else "Written by hand for this package."
    export_dataset(records, output, config_name=config, source_note=source)
    stats = describe(records)
    header, *lines = rows(stats)
    table = Table(*header, title=f"{output} ({config})")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for name in ("caption", "statement"):
        words = stats[f"{name}_words"]
        console.print(f"{name} words: {words['min']} to {words['max']}, mean {words['mean']:.1f}")
    console.print(f"repeated instances: {len(stats['duplicates'])}, undecidable: {len(stats['undecidable'])}")
    for reason, count in skipped.items():
        if count:
            console.print(f"skipped {count}: {reason.replace('_', ' ')}")


@data.command("check")
def data_check(
    ted: Annotated[str, typer.Option(help="Instead of a synthetic benchmark: a TED file or folder.")] = "",
    instances: Annotated[int, typer.Option(help="Size of the synthetic benchmark.")] = 6641,
    seed: Annotated[int, typer.Option(help="Of the synthetic benchmark.")] = 0,
    difficulty: Annotated[str, typer.Option(help="compositional or lexical.")] = "compositional",
    output: Annotated[Path | None, typer.Option(help="JSON file for the report.")] = None,
):
    """Check what the synthetic benchmark promises, and what shortcuts (shared words, ...) make of any benchmark."""
    from granted.dataset_builders.scenes.check import broken_promises, check_world
    from granted.dataset_builders.ted_6k.authors_layout import read_ted
    from granted.eval_metric.shortcuts import shortcut_report
    from granted.files import write_json

    with console.status("checking"):
        report = {} if ted else check_world(instances, seed=seed, difficulty=difficulty)
        records = read_ted(ted)[0] if ted else report["records"]
        shortcuts = shortcut_report(records)
    printed = {name: value for name, value in report.items() if name != "records"}
    for name, value in printed.items():
        value = f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"{name.replace('_', ' ')}: {value}", highlight=False, soft_wrap=True)
    table = Table("answered, %", *(name.replace("_", " ") for name in shortcuts), title=f"{len(records)} instances")
    table.add_row("all", *(f"{100 * result['accuracy']:.1f}" for result in shortcuts.values()))
    for category in shortcuts["chance"]["categories"]:
        shares = [result["categories"][category] for result in shortcuts.values()]
        table.add_row(category, *(f"{100 * share:.1f}" for share in shares))
    console.print(table)
    if output:
        write_json(output, printed | {"instances": len(records), "shortcuts": shortcuts})
    broken = broken_promises(report, shortcuts if difficulty == "compositional" else None) if report else []
    if broken:
        raise InputError(f"got a synthetic benchmark that breaks its promises, expected none: {'; '.join(broken)}")
    if report:
        console.print("all promises kept")


@data.command("shapes")
def data_shapes(
    kind: Annotated[
        str, typer.Argument(help="vqa, text-to-image, text-to-video, pairs, ted, or sheet (a PNG to look at).")
    ],
    output: Annotated[Path, typer.Option(help="The Parquet file; for ted a folder, for a sheet a PNG.")],
    count: Annotated[int, typer.Option(help="Rows, or scenes of a sheet.")] = 24,
    media: Annotated[str, typer.Option(help="For vqa: image or video.")] = "image",
    size: Annotated[int, typer.Option(help="Pixels, 32 to 512.")] = 128,
    frames: Annotated[int, typer.Option(help="Of a clip, 8 to 49.")] = 16,
    questions: Annotated[int, typer.Option(help="For vqa: about each picture.")] = 1,
    aspects: Annotated[str, typer.Option(help="For vqa: those asked about, comma-separated; all by default.")] = "",
    things: Annotated[str, typer.Option(help="For text-to-image: simple scenes, such as 1,3 (figures).")] = "",
    split: Annotated[str, typer.Option(help="For text-to-image: training, or benchmark (held out).")] = "training",
    hard_negatives: Annotated[int, typer.Option(help="For pairs: captions with one fact changed.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed, other scenes.")] = 0,
):
    """Scenes of shapes: questions, captioned pictures or clips, caption pairs, a TED benchmark, or a contact sheet."""
    from granted.dataset_builders.caption_pairs.pairs import write_pairs
    from granted.dataset_builders.scenes.shapes import rows
    from granted.dataset_builders.scenes.shapes.benchmark import shapes_contact_sheet, shapes_ted
    from granted.dataset_builders.ted_6k.export import export_dataset
    from granted.dataset_builders.ted_6k.records import SYNTHETIC

    makers = {
        "vqa": lambda: rows.vqa_rows(
            count,
            seed=seed,
            media=media,
            size=size,
            frames=frames,
            questions=questions,
            aspects=_names(aspects) or rows.ASPECTS,
        ),
        "text-to-image": lambda: rows.text_to_image_rows(
            count, seed=seed, size=size, things=_range(things, "things") if things else None, split=split
        ),
        "text-to-video": lambda: rows.text_to_video_rows(count, seed=seed, size=size, frames=frames),
    }
    others = {
        "pairs": lambda: write_pairs(rows.shapes_pairs(count, seed=seed, hard_negatives=hard_negatives), output),
        "ted": lambda: export_dataset(
            list(shapes_ted(count, seed=seed)),
            output,
            config_name=SYNTHETIC,
            source_note=f"Generated by granted: scenes of shapes (seed {seed}).",
        ),
        "sheet": lambda: shapes_contact_sheet(output, scenes=count, seed=seed),
    }
    if kind not in makers | others:
        raise InputError(f"got {kind!r}, expected one of {', '.join(makers | others)}: name one")
    with console.status(f"making {output}"):
        others[kind]() if kind in others else rows.write_rows(makers[kind](), output)
    console.print(f"wrote {count} {'scenes' if kind == 'sheet' else 'rows'} to {output}")


@data.command("pairs")
def data_pairs(
    output: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    groups: Annotated[str, typer.Option(help="JSON Lines files of caption groups (id, media, captions).")] = "",
    scenes: Annotated[int, typer.Option(help="So many pairs generated from scenes.")] = 0,
    hard_negatives: Annotated[int, typer.Option(help="For each of these, captions with one fact changed.")] = 0,
    categories: Annotated[int, typer.Option(help="1 to 4: how much those captions have to tell.")] = 4,
    scene_words: Annotated[str, typer.Option(help="Fewest and most words of those captions.")] = "150,250",
    authors: Annotated[
        str, typer.Option(help="The authors' JSON Lines (processed_caption1, processed_caption2).")
    ] = "",
    dataset: Annotated[str, typer.Option(help="Any dataset that load_dataset takes; needs --columns.")] = "",
    columns: Annotated[str, typer.Option(help="Its two caption columns, comma-separated.")] = "",
    split: Annotated[str, typer.Option(help="Its split.")] = "train",
    target_words: Annotated[
        str, typer.Option(help="Words of a text made from a group; one number, or one per file.")
    ] = "60",
    limit: Annotated[str, typer.Option(help="Most pairs from each groups file; one number, or one per file.")] = "",
    seed: Annotated[int, typer.Option(help="Of the choice of captions, and of scenes.")] = 0,
    config: ConfigFile = None,
):
    """Make caption pairs from scenes, from caption groups, from the authors' file or from two columns of a dataset."""
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
    if scenes:
        from granted.dataset_builders.scenes.world import world_pairs

        lengths = _range(scene_words, "scene-words")
        sources.append(
            world_pairs(scenes, seed=seed, hard_negatives=hard_negatives, categories=categories, words=lengths)
        )
    if dataset:
        from datasets import load_dataset

        if len(_names(columns)) != 2:
            raise InputError(f"got columns {columns!r}, expected two names: give --columns CAPTION_A,CAPTION_B")
        rows = load_dataset(dataset, split=split, streaming=True)
        sources.append(builder.pairs_from_columns(rows, *_names(columns), source=dataset))
    if not sources:
        raise InputError("got no source, expected --scenes, --groups, --authors or --dataset: name at least one")
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


def _whole_numbers(text: str) -> list[int]:
    numbers = _numbers(text)
    if any(number % 1 != 0 for number in numbers):
        raise InputError(f"got {text!r}, expected whole numbers separated by commas")
    return [int(number) for number in numbers]


def _range(text: str, option: str) -> tuple[int, int]:
    numbers = _whole_numbers(text)
    if len(numbers) != 2:
        raise InputError(f"got --{option} {text}, expected two whole numbers: the fewest and the most")
    return numbers[0], numbers[1]


def _per_file(text: str, files: list[str], option: str) -> list[int | None]:
    values = _whole_numbers(text) or [None]
    if len(values) not in (1, len(files)):
        raise InputError(f"got {len(values)} values for --{option} and {len(files)} files, expected one, or one each")
    return values * len(files) if len(values) == 1 else values


def _read_pairs(paths: str) -> list[dict]:
    from granted.dataset_builders.caption_pairs.pairs import read_pairs

    with console.status("reading pairs"):
        return [pair for path in _names(paths) for pair in read_pairs(path)]


def _training_settings(options: dict):
    """The training's settings among a command's options."""
    from granted.training.context_aggregator import AggregatorTrainingConfig

    settings = {field.name: options[field.name] for field in fields(AggregatorTrainingConfig)}
    settings |= {"features": _names(options["features"]), "learning_rates": _numbers(options["learning_rates"])}
    return AggregatorTrainingConfig(**settings)


def _show_report(results, records, output: Path) -> None:
    from granted.eval_metric.evaluation import write_report
    from granted.eval_metric.report import HEADER, table_rows

    paths = write_report(results, records, output)
    table = Table(*HEADER, title=f"TED accuracy, {results[0].dataset['config']}, {len(records)} instances")
    for row in table_rows(results):
        table.add_row(*row.cells(), style="dim" if row.baseline else None)
    console.print(table)
    for path in paths:
        console.print(f"wrote {path}")


def run_as_command(command: Callable[[], object]) -> None:
    """Run a command: errors of the input are one line and exit code 2, an interrupt exits with 130."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        command()
    except InputError as error:
        print(f"granted: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, KeyboardInterrupt) or end.code == 130:  # what typer makes of a KeyboardInterrupt
            print("granted: interrupted; run the same command again to go on", file=sys.stderr)  # noqa: T201
            sys.exit(130)
        raise


def main() -> None:
    """Entry point of the `granted` command."""
    run_as_command(lambda: app(prog_name="granted"))


if __name__ == "__main__":
    main()
