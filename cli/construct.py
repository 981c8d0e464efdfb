"""`granted data construct`: a benchmark, caption pairs and VQA rows from one's own images and videos.

granted data construct construct.yaml --dry-run
"""

from granted.cli.console import console
from granted.cli.registry import command


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
