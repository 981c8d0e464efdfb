"""`granted push`: build the release, check it, push it.

granted push --preset tiny --build-only --output release
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from granted.cli.console import console, status
from granted.cli.registry import command
from granted.publishing.sources import Sources
from granted.utils.errors import InputError
from granted.utils.options import option


@dataclass
class Push:
    """Options of `granted push`."""

    preset: Literal["tiny"] | None = option(None, "The miniature that comes with this repository.")
    output: Path = option(Path("release"), "The folder to build.")
    to: str = option("", "User or organisation on the Hub.")
    public: bool = option(False, "New repositories are public, not private.")
    tag: str | None = option(None, "Tag of the commits, which the cards pin.")
    build_only: bool = option(False, "Push nothing.")
    dry_run: bool = option(False, "List what would be pushed, and push nothing.")


@command("push", without=("prompts", "demonstration"))
def push(settings: Push, sources: Sources):
    """Build the release (model, benchmark, metric, pipelines), check it, and push it to the Hub.

    Made from --preset, --encoder or --checkpoint. Run the same command again to go on after an interruption.
    """
    console.print(f"loading what builds {settings.output}")
    from granted.publishing.build import build_release, miniature
    from granted.publishing.push import push as push_release

    given = [one.name for one in fields(Sources) if getattr(sources, one.name)]
    if not (settings.to or settings.build_only or settings.dry_run):
        raise InputError("got no --to, expected a user on the Hub, or --build-only: add one of them")
    if settings.preset and given:
        raise InputError(f"got --preset with {', '.join(given)}, which it has of its own: leave one of them out")
    with status("building the release"):
        released = build_release(
            settings.output,
            miniature() if settings.preset else sources,
            owner=settings.to,
            tag=settings.tag,
            report=console.print,
        )
    for name, files in released.items():
        size = sum(file.size for file in files)
        console.print(f"{settings.output / name}: {len(files)} files, {size / 1e6:.1f} MB")
        for file in files if settings.dry_run else ():
            console.print(f"  {file.sha256[:16]} {file.size:>12,}  {file.path}")
    if settings.to and not settings.build_only and not settings.dry_run:
        with status("pushing"):
            push_release(
                settings.output, settings.to, private=not settings.public, tag=settings.tag, report=console.print
            )
