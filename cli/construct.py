"""`granted data construct`, `granted data events`: a benchmark and training data from one's own images and videos.

granted data construct construct.yaml --dry-run
granted data events events.jsonl --output ted-events
"""

from dataclasses import dataclass
from pathlib import Path

from granted.cli.console import console
from granted.cli.registry import command
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Seed


@command("data construct", settings="granted.dataset_builders.construction.settings:ConstructOptions", models=False)
def data_construct(settings):
    """Make a TED, caption pairs and VQA rows from your own images and videos.

    A vision-language model behind an OpenAI-compatible endpoint writes them, it and rules check them, and people
    review them. Run the same command again to go on.
    """
    from granted.dataset_builders.construction.plan import plan
    from granted.dataset_builders.construction.run import construct

    if settings.dry_run:
        for line in plan(settings):
            console.print(line)
    else:
        construct(settings, console.print)


@dataclass
class DataEvents:
    """Options of `granted data events`."""

    captions: Path = option(
        help="JSON Lines (.jsonl or .jsonl.gz) of videos: id, caption, and events, a list of texts in their order.",
        positional=True,
    )
    output: Path = option(help="The folder to write: a benchmark in the layout of TED-6K.")
    seed: Seed = option(0, "Another seed, other events and wordings.")


@command("data events", models=False)
def data_events(settings: DataEvents):
    """Make Temporal and Action Recognition instances by rule, from captions of videos whose events are listed."""
    from granted.dataset_builders.construction.event_rules import event_records
    from granted.dataset_builders.ted_6k.export import export_dataset
    from granted.utils.files import read_jsonl

    records, counts = event_records((row for _, row in read_jsonl(settings.captions)), settings.seed)
    for name, count in sorted(counts.items()):
        console.print(f"{name}: {count:,}")
    if not records:
        raise InputError(f"got no instance from {settings.captions}, expected captions that tell an order: add some")
    note = f"Made by rule from captions of videos with their events, seed {settings.seed}."
    export_dataset(records, settings.output, config_name="custom", source_note=note)
    console.print(f"wrote {len(records):,} instances to {settings.output}")
