"""The commands of `granted`. They read options, call the library and print; anything worth testing is elsewhere.

granted evaluate smollm2=SmolLM2-135M-Instruct.gguf --ted sample --pairs pairs.parquet --features last,norm_avg
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from granted.cli.data import data
from granted.command_line import (
    LAST_SEED,
    Commands,
    ConfigFile,
    console,
    numbers_of,
    parse_settings,
    parts_of,
    seeds_of,
    status,
    takes,
)
from granted.encoding.options import EncoderOptions, LoadingOptions
from granted.utils.errors import InputError


app = Commands(
    help="Score, adapt and plug in the text encoders of diffusion models (GRAN-TED, arXiv 2512.15560).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = Commands(
    help="Train: the context aggregator, the encoder by VQA (stage 1), the diffusion model (stage 2).",
    no_args_is_help=True,
)
# Trainings read their own options, and YAML files of them.
OPTIONS_PASSED_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    "add_help_option": False,
}
app.add_typer(data, name="data")
app.add_typer(train, name="train")


takes_encoder_options = takes(EncoderOptions, "encoder_options", "Encoder")
takes_loading_options = takes(LoadingOptions, "loading", "Model")
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=1, help="Most tokens read of a text, template included; the encoder's own limit, of several the least."
    ),
]
Pairs = Annotated[str, typer.Option(help="Caption pairs: Parquet or JSON Lines files, comma-separated.")]
Features = Annotated[
    str,
    typer.Option(help="last, penultimate, layer_I, all_layers, avg, norm_avg, learned, weights:PATH; with commas."),
]
LearningRates = Annotated[str, typer.Option(help="One, or several from which held-out pairs choose.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs per process and step.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the pairs.")]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")]
Schedule = Annotated[str, typer.Option(help="constant or cosine.")]
WarmupSteps = Annotated[int, typer.Option(min=0, help="Steps of linear rise.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="Of AdamW.")]
MaxGradNorm = Annotated[float, typer.Option(min=0, help="Gradient clip, per aggregator.")]
Temperature = Annotated[float, typer.Option(min=0, help="Of the contrastive loss.")]
AggregatorWidth = Annotated[
    int | None,
    typer.Option(min=1, help="Width of the aggregators' blocks, a multiple of 16; the encoder's by default."),
]
HardNegatives = Annotated[bool, typer.Option(help="Use the pairs' negatives column.")]
HeldOut = Annotated[int, typer.Option(min=0, help="Pairs kept to measure on (at most a tenth).")]
MixedPrecision = Annotated[str, typer.Option(help="Of the aggregators: bf16 or no.")]
RecomputeLayers = Annotated[bool, typer.Option(help="Least memory, not least time, for learned layer weights.")]
TokenBudget = Annotated[int, typer.Option(min=1, help="Most tokens the encoder reads at a time, padding included.")]
SaveSteps = Annotated[int, typer.Option(min=1, help="Steps between checkpoints; 1 loses nothing to a kill.")]
LogSteps = Annotated[int, typer.Option(min=1, help="Steps between points of the curve.")]
Tracker = Annotated[str, typer.Option(help="Where curves go: file or trackio.")]
Ted = Annotated[str, typer.Option(help="TED-6K.json, an exported folder, or the word sample.")]


@app.command()
@takes_encoder_options
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
    max_length: MaxLength = None,
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
    aggregator_width: AggregatorWidth = None,
    hard_negatives: HardNegatives = False,
    held_out: HeldOut = 500,
    mixed_precision: MixedPrecision = "bf16",
    recompute_layers: RecomputeLayers = True,
    token_budget: TokenBudget = 8192,
    save_steps: SaveSteps = 200,
    log_steps: LogSteps = 10,
    tracker: Tracker = "file",
    *,
    encoder_options: EncoderOptions,
):
    """Score text encoders on TED: train an aggregator per feature where none is given, score, write the report.

    Run the same command again to go on after an interruption.
    """
    from granted.dataset_builders.ted_6k.reading import read_ted
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
        seeds=seeds_of(seeds),
        aggregator=aggregator,
        options=encoder_options,
        max_length=max_length,
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

    from granted.dataset_builders.ted_6k.reading import read_ted
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
    from granted.utils.files import atomic_path

    called = parts_of(names) or [reference.name, other.name]
    if len(called) != 2:
        raise InputError(f"got --names {names}, expected two names: give one for each benchmark")
    found = agreement(load_all(reference), load_all(other))
    text = found.markdown(*called)
    with atomic_path(output / "agreement.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    agreement_chart(found, output / "agreement.png", *called)
    console.print(text)


@app.command()
@takes_encoder_options
def encode(
    encoder: Annotated[str, typer.Argument(help="Hub id, folder or GGUF file.")],
    texts: Annotated[Path, typer.Argument(help="UTF-8 file, one text a line.")],
    output: Annotated[Path, typer.Option(help="Folder of safetensors shards, keyed by text.")],
    config: ConfigFile = None,
    fusion: Annotated[
        str | None,
        typer.Option(help="norm_avg (the default), learned, avg or single; a saved model has its own."),
    ] = None,
    layer_index: Annotated[int | None, typer.Option(help="The layer of fusion single; -1 is the last.")] = None,
    max_length: MaxLength = None,
    token_budget: TokenBudget = 8192,
    *,
    encoder_options: EncoderOptions,
):
    """Encode texts into fused features (N, D) on disk. Run again to go on after an interruption."""
    from granted.encoding.feature_files import encode_file

    count, total = encode_file(
        encoder,
        texts,
        output,
        fusion=fusion,
        layer_index=layer_index,
        options=encoder_options,
        max_length=max_length,
        token_budget=token_budget,
    )
    console.print(f"encoded {count} texts; {output} holds {total}")


@train.command("aggregator")
@takes_encoder_options
def train_aggregator(
    encoder: Annotated[str, typer.Option(help="Hub id, folder or GGUF file; NAME=PATH names it.")],
    pairs: Pairs,
    output: Annotated[Path, typer.Option(help="Folder that gets one aggregator per feature.")],
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="Of initialisation and data order.")] = 0,
    max_length: MaxLength = None,
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
    aggregator_width: AggregatorWidth = None,
    hard_negatives: HardNegatives = False,
    held_out: HeldOut = 500,
    mixed_precision: MixedPrecision = "bf16",
    recompute_layers: RecomputeLayers = True,
    token_budget: TokenBudget = 8192,
    save_steps: SaveSteps = 200,
    log_steps: LogSteps = 10,
    tracker: Tracker = "file",
    *,
    encoder_options: EncoderOptions,
):
    """Train context aggregators on caption pairs; run again to go on where it stopped. Defaults are the paper's."""
    from granted.encoding.loading import load_encoder
    from granted.training.aggregator.training import train_context_aggregators

    settings = _training_settings(locals())
    rows = _read_pairs(pairs)
    with status(f"loading {encoder}"):
        name, model = load_encoder(encoder, encoder_options, max_length=max_length)
    folders = train_context_aggregators(model, rows, output, settings, encoder_name=name)
    for folder in folders.values():
        console.print(f"wrote {folder}")


@train.command("vqa", **OPTIONS_PASSED_ON)
def train_vqa(context: typer.Context):
    """Stage 1: fine-tune a vision-language model by VQA; options are TRL's SFTConfig's and more, see --help."""
    from granted.training.vqa.finetuning import run

    console.print(run(context.args))


@train.command("text-to-image", **OPTIONS_PASSED_ON)
def train_text_to_image(context: typer.Context):
    """Stage 2: train a Lumina 2 transformer with the encoder's layer weights, jointly and then frozen, see --help."""
    from granted.training.diffusion.settings import TextToImageConfig

    config = parse_settings(TextToImageConfig, context.args, "granted train text-to-image")
    from granted.training.diffusion.text_to_image import train

    console.print(train(config))


@train.command("text-to-video", **OPTIONS_PASSED_ON)
def train_text_to_video(context: typer.Context):
    """Stage 2: fine-tune Wan on pictures and clips with the encoder's layer weights, see --help."""
    from granted.training.diffusion.settings import TextToVideoConfig

    config = parse_settings(TextToVideoConfig, context.args, "granted train text-to-video")
    from granted.training.diffusion.text_to_video import train

    console.print(train(config))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="What `granted train vqa` wrote: a whole model or an adapter.")],
    output: Annotated[Path, typer.Option(help="The folder to make.")],
    config: ConfigFile = None,
    fusion: Annotated[str, typer.Option(help="learned, norm_avg, avg or single.")] = "norm_avg",
    dtype: Annotated[str, typer.Option(help="The encoder's: auto, float32, bfloat16 or float16.")] = "auto",
    base: Annotated[str | None, typer.Option(help="The base of an adapter, if it has moved.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of that base on the Hub; without, the training's.")] = None,
    keep_vision: Annotated[bool, typer.Option(help="Keep the vision tower.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that comes with the model; read it first.")
    ] = False,
):
    """Make a text encoder of a fine-tuned model: merge the adapter, drop the head, fuse the layers."""
    from granted.training.vqa.export import export_encoder

    folder = export_encoder(
        run,
        output,
        fusion=fusion,
        dtype=dtype,
        base=base,
        revision=revision,
        keep_vision=keep_vision,
        trust_remote_code=trust_remote_code,
    )
    console.print(f"wrote {folder}; load it with AutoModel.from_pretrained or score it with granted evaluate {folder}")


@app.command()
@takes_loading_options
def vqa(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub ids; NAME=PATH names one, such as before=...")],
    data: Annotated[str, typer.Option(help="Held-out rows of granted data shapes vqa.")],
    training_data: Annotated[str, typer.Option(help="The rows trained on, for the majority answers.")],
    output: Annotated[Path, typer.Option(help="Folder for vqa.json and questions.png.")],
    config: ConfigFile = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows answered at a time.")] = 32,
    *,
    loading: LoadingOptions,
):
    """How well vision-language models answer questions about shapes, with the right picture and with another.

    Run the same command again to go on after an interruption.
    """
    from granted.eval_metric.vqa import evaluate_vqa

    report = evaluate_vqa(models, data, training_data, output, options=loading, batch_size=batch_size)
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
    seed: Annotated[int, typer.Option(min=0, max=LAST_SEED, help="With the prompts' ids it decides the noise.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of denoising; like all below by default the pipeline's.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Scale of classifier-free guidance.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="For all pictures.")] = None,
    images_per_prompt: Annotated[int, typer.Option(min=1, help="Pictures or clips of each prompt.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures made at a time.")] = 8,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Of a clip.")] = None,
    fps: Annotated[float, typer.Option(min=0, help="Frames a second at which clips are meant to be seen.")] = 16.0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="Such as cpu or cuda:1; auto takes a GPU if there is one.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Spread the parts over several devices, such as balanced; replaces --device.")
    ] = None,
    offload: Annotated[
        bool, typer.Option("--offload", help="Keep only the part that works on the accelerator.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the pipeline on the Hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that ships with the pipeline; read it first.")
    ] = False,
):
    """Make a picture or clip of each prompt. Run the same command again to go on after an interruption."""
    from granted.eval_metric.generation.prompts import read_prompts
    from granted.eval_metric.generation.sampling import SamplingSettings, load_pipeline, sample_prompts

    options = locals()
    settings = SamplingSettings(**{field.name: options[field.name] for field in fields(SamplingSettings)})
    rows = read_prompts(prompts)
    with status(f"loading {pipeline}"):
        loaded = load_pipeline(
            pipeline,
            dtype=dtype,
            device=device,
            device_map=device_map,
            offload=offload,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    made = sample_prompts(loaded, rows, output, settings, name=pipeline)
    console.print(f"wrote {len(made)} {made[0]['media']}s to {output}; score them with granted evaluate-generation")


@app.command("evaluate-generation")
@takes_loading_options
def evaluate_generation(
    pictures: Annotated[
        Path, typer.Argument(help="Folder of granted generate, a manifest, or GenAI-Bench with its rated pictures.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder of the scores; by default scores in PICTURES.")] = None,
    config: ConfigFile = None,
    judge: Annotated[
        str | None, typer.Option(help="A vision-language model for VQAScore: folder or Hub id; NAME=PATH names it.")
    ] = None,
    question: Annotated[
        str, typer.Option(help="Asked of the judge; {} is the prompt.")
    ] = 'Does this figure show "{}"? Please answer yes or no.',
    answer: Annotated[str, typer.Option(help="The answer whose probability counts.")] = "Yes",
    measure: Annotated[
        str,
        typer.Option(
            help="What VQAScore is: answer_probability, or answer_and_end as in its authors' CLIP-FlanT5 scores, the "
            "geometric mean over the answer's tokens and the end token. The two cannot be compared."
        ),
    ] = "answer_probability",
    max_frames: Annotated[int, typer.Option(min=1, help="Frames of a clip that the judge sees.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at a time.")] = 8,
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Of the control, which swaps the prompts of shapes.")
    ] = 0,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read.")
    ] = False,
    *,
    loading: LoadingOptions,
):
    """How well pictures follow their prompts: shapes read exactly, anything judged by a vision-language model.

    Run the same command again to go on after an interruption.
    """
    from granted.eval_metric.generation.evaluation import evaluation as generation
    from granted.eval_metric.generation.vqa_score import MEASURES

    reports = generation.evaluate_generation(
        pictures,
        output,
        judge=judge,
        options=loading,
        question=question,
        answer=answer,
        measure=measure,
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
        table = Table("", "n", "% [95% interval]", title=f"VQAScore, {MEASURES[measure].format(answer)}")
        for name, figures in reports["vqa_score"].items():
            table.add_row(name, str(figures["n"]), share(figures))
        console.print(table)
    if "agreement" in reports:
        found = reports["agreement"]
        low, high = found["ci95"]
        figures = f"r = {found['pearson']:.2f} [{low:.2f}, {high:.2f}], Spearman {found['spearman']:.2f}"
        console.print(f"agreement with people over {found['n']} pictures: {figures}, Kendall {found['kendall']:.2f}")
    console.print(f"wrote {output or 'scores beside the manifest'}")


@app.command()
def push(
    preset: Annotated[str, typer.Option(help="tiny: the miniature that comes with this repository.")] = "",
    encoder: Annotated[str | None, typer.Option(help="Hub id of an encoder, of which the fusion is released.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of the encoder; pinned to its commit.")] = None,
    layer_weights: Annotated[
        Path | None, typer.Option(help="Of the encoder: a saved GrantedModel, or safetensors. Norm-Avg without.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="A GrantedModel's folder, released whole.")] = None,
    aggregator: Annotated[
        Path | None, typer.Option(help="A context aggregator for the model: makes it a SentenceTransformer.")
    ] = None,
    lumina2: Annotated[Path | None, typer.Option(help="A pipeline's folder: text to image.")] = None,
    wan: Annotated[Path | None, typer.Option(help="A pipeline's folder: text to video.")] = None,
    ted: Annotated[Path | None, typer.Option(help="A benchmark's folder; without, the synthetic one is made.")] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="Results for the cards: ted/*.json, vqa.json, granted-lumina2/ and granted-wan/."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Of the checkpoint's and pipelines' weights, if another.")] = None,
    license: Annotated[str, typer.Option(help="Of the weights, such as apache-2.0; a preset has its own.")] = "",
    datasets: Annotated[str, typer.Option(help="Hub ids of the data they were trained on, comma-separated.")] = "",
    output: Annotated[Path, typer.Option(help="The folder to build.")] = Path("release"),
    to: Annotated[str, typer.Option(help="User or organisation on the Hub.")] = "",
    public: Annotated[bool, typer.Option("--public", help="New repositories are public, not private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag of the commits, which the cards pin.")] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Push nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be pushed, and push nothing.")] = False,
):
    """Build the release (model, benchmark, metric, pipelines), check it, and push it to the Hub.

    Made from --preset, --encoder or --checkpoint. Run the same command again to go on after an interruption.
    """
    console.print(f"loading what builds {output}")
    from granted.publishing.build import Sources, build_release, miniature
    from granted.push_to_hub import push as push_release

    options = locals() | {"datasets": tuple(parts_of(datasets))}
    given = {field.name: options[field.name] for field in fields(Sources) if options.get(field.name)}
    if not (to or build_only or dry_run):
        raise InputError("got no --to, expected a user on the Hub, or --build-only: add one of them")
    if preset not in ("", "tiny"):
        raise InputError(f"got --preset {preset}, expected tiny: correct it, or leave it out")
    if preset and given:
        raise InputError(f"got --preset with {', '.join(given)}, which it has of its own: leave one of them out")
    sources = miniature() if preset else Sources(**given)
    with status("building the release"):
        released = build_release(output, sources, owner=to, tag=tag, report=console.print)
    for name, files in released.items():
        size = sum(file.size for file in files)
        console.print(f"{output / name}: {len(files)} files, {size / 1e6:.1f} MB")
        for file in files if dry_run else ():
            console.print(f"  {file.sha256[:16]} {file.size:>12,}  {file.path}")
    if to and not build_only and not dry_run:
        with status("pushing"):
            push_release(output, to, private=not public, tag=tag, report=console.print)


# --------------------------------------------------------------------------------------------------------- plumbing


def _read_pairs(paths: str) -> list[dict]:
    from granted.dataset_builders.caption_pairs.pairs import read_pairs

    with status("reading pairs"):
        return [pair for path in parts_of(paths) for pair in read_pairs(path)]


def _training_settings(options: dict):
    """The training's settings among a command's options."""
    from granted.training.aggregator.training import AggregatorTrainingConfig

    settings = {field.name: options[field.name] for field in fields(AggregatorTrainingConfig)}
    settings |= {"features": parts_of(options["features"]), "learning_rates": numbers_of(options["learning_rates"])}
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
