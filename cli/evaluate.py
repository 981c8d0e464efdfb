"""`granted evaluate ...`, `compare`, `report`: scores of encoders, vision-language models and generated images.

granted evaluate ted smollm2=SmolLM2-135M-Instruct.gguf --pairs pairs.parquet --features last,norm_avg
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.table import Column, Table

from granted.cli.console import console, percent_with_interval, status
from granted.cli.registry import command
from granted.encoding.options import EncoderOptions, LoadingOptions
from granted.eval_metric.drawing.settings import DrawingSettings
from granted.eval_metric.generation.settings import JudgeSettings
from granted.eval_metric.reading.settings import ReadingSettings
from granted.training.aggregator.settings import AggregatorTrainingConfig
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Count, Seed, refuse_unused


TED = "TED-6k.json, an exported folder, or the word sample."


@dataclass
class EvaluateTed:
    """Options of `granted evaluate ted`."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    ted: str = option("sample", f"The benchmark: {TED}")
    pairs: list[str] = option([], "Caption pairs to train the aggregators on: Parquet or JSON Lines files.")
    aggregator: Path | None = option(None, "A trained aggregator, or a folder of them, instead of pairs.")
    output: Path = option(Path("evaluation"), "Folder of aggregators, results and report.")
    seeds: list[Seed] = option([0], "An aggregator of every feature is trained for each seed.")
    controls: list[Literal["random", "words", "bag"]] = option(
        [], "Also score each encoder's random weights, its words with positions, a bag of words."
    )
    shard: str | None = option(None, "Score part i/n only; see granted evaluate merge.")
    tuning: list[Literal["base", "instruct", "thinking", "fine-tuned"]] = option(
        [], "What each encoder is, in their order, for the table of families: it is not guessed from files."
    )
    max_length: Count | None = option(
        None, "Most tokens read of a text, template included; by default the smallest of the encoders' limits."
    )


@command("evaluate ted", without=("seed",))
def evaluate_ted(settings: EvaluateTed, aggregator_training: AggregatorTrainingConfig, encoder: EncoderOptions):
    """Score text encoders on TED: train an aggregator per feature where none is given, score, write the report.

    Run the same command again to go on after an interruption.
    """
    from granted.dataset_builders.ted_6k.reading import read_ted
    from granted.eval_metric import evaluation
    from granted.eval_metric.results import load_all

    if settings.aggregator and not settings.pairs:
        refuse_unused(settings, ["seeds", "controls"], "beside --aggregator")
        refuse_unused(aggregator_training, [one.name for one in fields(aggregator_training)], "beside --aggregator")
    records, info = read_ted(settings.ted)
    evaluation.evaluate(
        settings.encoders,
        records,
        info,
        settings.output,
        pairs=read_all_pairs(settings.pairs) if settings.pairs else None,
        settings=aggregator_training,
        seeds=settings.seeds,
        controls=settings.controls,
        aggregator=settings.aggregator,
        options=encoder,
        max_length=settings.max_length,
        shard=settings.shard,
        tunings=settings.tuning,
    )
    results = settings.output / "results"
    if settings.shard is None:
        _show_report([result for result in load_all(results) if not result.shard], records, settings.output)
    else:
        console.print(f"wrote shard {settings.shard} to {results}; join the shards with granted evaluate merge")


@dataclass
class Merge:
    """Options of `granted evaluate merge`."""

    folders: list[Path] = option(help="Result folders of all shards.", positional=True)
    ted: str = option("sample", f"The benchmark that they are of: {TED}")
    output: Path = option(Path("evaluation"), "Folder of the joined results and the report.")


@command("evaluate merge")
def merge(settings: Merge):
    """Join the results of `granted evaluate ted --shard i/n` and write the report."""
    from granted.dataset_builders.ted_6k.reading import read_ted
    from granted.eval_metric.results import load_all, merge_shards

    def run(result):
        return (result.encoder, result.feature, result.pooling, -1 if result.seed is None else result.seed)

    records, _ = read_ted(settings.ted)
    parts = sorted((result for folder in settings.folders for result in load_all(folder) if result.shard), key=run)
    if not parts:
        raise InputError("got folders without a single shard, expected results of granted evaluate ted --shard i/n")
    merged = [merge_shards(list(shards)) for _, shards in groupby(parts, key=run)]
    for result in merged:
        result.save(settings.output / "results")
    _show_report(merged, records, settings.output)


@dataclass
class Compare:
    """Options of `granted compare`."""

    reference: str = option(
        help="What is to be predicted: results of granted evaluate, as FOLDER:aggregator, FOLDER:mean, "
        "reading.json:WORDING/PROPERTY, ladder.json:threshold or drawing.json:WORDING/PROPERTY, or published:TABLE.",
        positional=True,
    )
    others: list[str] = option(help="What may predict it, in the same form.", positional=True)
    names: list[str] = option([], "What to call all of them, the reference first.")
    leave_out: list[str] = option([], "Leave out encoders whose name holds one of these, such as 'random weights'.")
    output: Path = option(Path("comparison"), "Folder for comparison.json, .md and .png.")


@command("compare")
def compare(settings: Compare):
    """Correlate instruments over the encoders and features that they have all scored."""
    from granted.eval_metric.comparison import compare, leave_out, read_scores, write_comparison

    specs = [settings.reference, *settings.others]
    names = settings.names or [""] * len(specs)
    if len(names) != len(specs):
        raise InputError(f"got {len(names)} names for {len(specs)} results, expected one for each")
    reference, *others = leave_out(list(map(read_scores, specs, names)), settings.leave_out)
    text = write_comparison([compare(reference, other) for other in others], settings.output)
    console.print(text)


@dataclass
class Report:
    """Options of `granted report`."""

    folder: Path = option(help="Results of granted evaluate, however deep below it.", positional=True)
    output: Path = option(Path("report"), "Folder for report.html and figures, as PNG with their data as CSV.")
    ted: list[str] = option([], f"Benchmarks that were scored, to tell where shared words mislead, each {TED}")
    texts: bool = option(False, "Also show the true statements of those benchmarks in the tables of items.")


@command("report", models=False)
def report(settings: Report):
    """One page of everything that was measured: which encoder, which layers, what predicts what, what is published."""
    from granted.eval_metric.overview.page import write_overview
    from granted.eval_metric.part_tables import is_floor

    if not settings.ted:
        refuse_unused(settings, ["texts"], "without --ted")
    with status("drawing the figures"):
        evaluations = write_overview(settings.folder, settings.output, settings.ted, settings.texts)
    table = _folded_table(("evaluation", "ranked by", "best", "encoders and features"), str(settings.folder))
    for one in evaluations:
        arms = [arm for arm in one.headline.by_arm if not is_floor(arm)] or list(one.headline.by_arm)
        best = max(arms, key=lambda arm: one.headline.by_arm[arm].value)
        table.add_row(one.path, one.headline.name, best, str(len(one.headline.by_arm)))
    console.print(table)
    console.print(f"wrote {settings.output / 'report.html'}")


@command("evaluate reading")
def evaluate_reading(settings: ReadingSettings, encoder: EncoderOptions):
    """How well a small reader answers what texts tell, from the token features of encoders: seen and unseen wordings.

    Run the same command again to go on after an interruption.
    """
    _read("reading", settings, encoder)


@command("evaluate ladder")
def evaluate_ladder(settings: ReadingSettings, encoder: EncoderOptions):
    """How many facts a text may tell, how far apart and how alike, before a small reader loses them.

    Run the same command again to go on after an interruption.
    """
    _read("ladder", settings, encoder)


@command("evaluate drawing")
def evaluate_drawing(settings: DrawingSettings, encoder: EncoderOptions):
    """How well a small text-to-image model, trained from scratch on each feature, draws seen and unseen wordings.

    Run the same command again to go on after an interruption.
    """
    from granted.eval_metric.drawing.evaluation import evaluate

    evaluate(settings, encoder)
    _show("drawing", settings.output)


def _read(instrument: str, settings: ReadingSettings, encoder: EncoderOptions) -> None:
    from granted.eval_metric.reading.evaluation import evaluate

    evaluate(instrument, settings, encoder)
    _show(instrument, settings.output)


def _show(instrument: str, output: Path) -> None:
    console.print((output / f"{instrument}.md").read_text(encoding="utf-8"))
    console.print(f"wrote {output / instrument}.json, .md and .png")


@dataclass
class EvaluateVqa:
    """Options of `granted evaluate vqa`."""

    models: list[str] = option(help="Folders or Hub ids; NAME=PATH names one, such as before=...", positional=True)
    data: str = option(help="Held-out rows of granted data shapes vqa; files with commas.")
    training_data: str = option(help="The rows trained on, for the majority answers; files with commas.")
    output: Path = option(help="Folder for vqa.json and questions.png.")
    batch_size: Count = option(32, "Rows answered at a time.")


@command("evaluate vqa")
def evaluate_vqa(settings: EvaluateVqa, model: LoadingOptions):
    """How well vision-language models answer questions about shapes, with the right image and with another.

    Run the same command again to go on after an interruption.
    """
    from granted.eval_metric import vqa

    report = vqa.evaluate_vqa(**asdict(settings), options=model)
    names = [name for name in report["all"] if name != "n"]
    table = Table("aspect", "n", *names, title="answered right, % [95% interval]")
    for aspect, figures in report.items():
        table.add_row(aspect, str(figures["n"]), *(percent_with_interval(figures[name], "accuracy") for name in names))
    console.print(table)
    console.print(f"wrote {settings.output}")


@dataclass
class EvaluateQa:
    """Options of `granted evaluate qa`."""

    models: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    ted: str = option("sample", f"The benchmark: {TED}")
    context: list[Literal["caption", "shuffled", "none"]] = option(
        ["caption", "shuffled", "none"], "What stands before the question: its caption, another one, or none."
    )
    answers: list[Literal["likelihood", "generation"]] = option(
        ["likelihood", "generation"], "The likeliest letter over all rotations of the options, or the letter written."
    )
    seeds: list[Seed] = option([0, 1, 2, 3, 4], "Captions are shuffled once for each.")
    output: Path = option(Path("evaluation_qa"), "Folder of results and table.")


@command("evaluate qa")
def evaluate_qa(settings: EvaluateQa, model: LoadingOptions):
    """Is the caption needed? Language models answer TED directly, with its caption, another one and none.

    Run the same command again to go on after an interruption.
    """
    from granted.dataset_builders.ted_6k.reading import read_ted
    from granted.eval_metric.direct_qa import evaluation as direct_qa

    if "shuffled" not in settings.context:
        refuse_unused(settings, ["seeds"], "without shuffled captions")
    records, info = read_ted(settings.ted)
    found = direct_qa.evaluate(
        settings.models,
        records,
        info,
        settings.output,
        contexts=settings.context,
        answers=settings.answers,
        seeds=settings.seeds,
        options=model,
    )
    table = _folded_table(direct_qa.HEADER, f"TED answered directly, {info['config']}, {len(records)} instances")
    for row in found["rows"]:
        table.add_row(*direct_qa.cells(row))
    for name, accuracy in found["baselines"].items():
        table.add_row(direct_qa.NAMES[name], "–", "–", f"{100 * accuracy:.1f}", style="dim")
    console.print(table)
    for line in direct_qa.sentences(found):
        console.print(line)
    console.print(f"wrote {settings.output / 'direct_qa'}.json and .md")


@dataclass
class EvaluateSensitivity:
    """Options of `granted evaluate sensitivity`."""

    encoders: list[str] = option(help="Hub ids, folders or GGUF files; NAME=PATH names one.", positional=True)
    aggregator: Path = option(help="Their trained aggregators: a folder of granted evaluate ted.")
    ted: str = option("sample", f"The benchmark: {TED}")
    output: Path = option(Path("evaluation_sensitivity"), "Folder of the table.")
    max_length: Count | None = option(None, "Most tokens read of a text, as in the training.")


@command("evaluate sensitivity")
def evaluate_sensitivity(settings: EvaluateSensitivity, encoder: EncoderOptions):
    """How much TED scores move with what should not matter: order, padding, dtype, the caption's first line, ...

    Run the same command again to go on after an interruption.
    """
    from granted.dataset_builders.ted_6k.reading import read_ted
    from granted.eval_metric.sensitivity import markdown, sensitivity

    records, info = read_ted(settings.ted)
    found = sensitivity(
        settings.encoders,
        records,
        info,
        settings.aggregator,
        settings.output,
        options=encoder,
        max_length=settings.max_length,
    )
    console.print(markdown(found))
    console.print(f"wrote {settings.output / 'sensitivity'}.json and .md")


@dataclass
class EvaluateGeneration:
    """Options of `granted evaluate generation`."""

    images: Path = option(
        help="Folder of granted generate, a manifest, or GenAI-Bench with its rated images.", positional=True
    )
    output: Path | None = option(None, "Folder of the scores; by default scores in IMAGES.")
    seed: Seed = option(0, "Seed of the control, which swaps the prompts of shapes.")
    skip_unreadable: bool = option(False, "Leave out images that cannot be read.")


@command("evaluate generation")
def evaluate_generation(settings: EvaluateGeneration, judge: JudgeSettings, judge_model: LoadingOptions):
    """How well images and videos follow their prompts: shapes are read exactly, all else a model judges.

    Run the same command again to go on after an interruption.
    """
    from granted.eval_metric.generation import evaluation
    from granted.eval_metric.generation.settings import MEASURES

    reports = evaluation.evaluate_generation(
        settings.images,
        settings.output,
        **asdict(judge),
        options=judge_model,
        seed=settings.seed,
        skip_unreadable=settings.skip_unreadable,
    )
    for part, properties in reports.get("shapes", {}).items():
        table = Table("", "n", "right, %", "other prompts, %", "ceiling, %", title=f"shapes, {part} [95% interval]")
        for name, figures in properties.items():
            control = percent_with_interval(figures["control"]) if figures.get("control") else ""
            ceiling = f"{100 * figures['ceiling']:.1f}" if "ceiling" in figures else ""
            table.add_row(name.replace("_", " "), str(figures["n"]), percent_with_interval(figures), control, ceiling)
        console.print(table)
    if "vqa_score" in reports:
        measure = MEASURES[judge.measure].format(judge.answer)
        table = Table("", "n", "% [95% interval]", title=f"VQAScore, {measure}")
        for name, figures in reports["vqa_score"].items():
            table.add_row(name, str(figures["n"]), percent_with_interval(figures))
        console.print(table)
    if "agreement" in reports:
        found = reports["agreement"]
        low, high = found["ci95"]
        figures = f"r = {found['pearson']:.2f} [{low:.2f}, {high:.2f}], Spearman {found['spearman']:.2f}"
        console.print(f"agreement with people over {found['n']} images: {figures}, Kendall {found['kendall']:.2f}")
    console.print(f"wrote {settings.output or 'scores beside the manifest'}")


def _folded_table(header: Sequence[str], title: str) -> Table:
    """A table that cuts no name where the terminal is narrow."""
    return Table(*(Column(name, overflow="fold") for name in header), title=title)


def read_all_pairs(paths: list[str]) -> list[dict]:
    """The caption pairs of several files."""
    from granted.dataset_builders.caption_pairs.pairs import read_pairs

    with status("reading pairs"):
        return [pair for path in paths for pair in read_pairs(path)]


def _show_report(results, records, output: Path) -> None:
    from granted.eval_metric.evaluation import write_report
    from granted.eval_metric.report import HEADER, table_rows

    paths = write_report(results, records, output)
    table = _folded_table(HEADER, f"TED accuracy, {results[0].dataset['config']}, {len(records)} instances")
    for row in table_rows(results):
        table.add_row(*row.cells(), style="dim" if row.baseline else None)
    console.print(table)
    for path in paths:
        console.print(f"wrote {path}")
