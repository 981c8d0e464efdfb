"""`granted data review`: people verify the instances of a run on a page.

granted data review run
granted data review run --report
"""

import sys
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from granted.cli.console import console
from granted.cli.registry import command
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Port, Seed, Share


if TYPE_CHECKING:
    from granted.dataset_builders.construction.review.login import Users
    from granted.dataset_builders.construction.review.reviewing import Review


@dataclass
class DataReview:
    """Options of `granted data review`."""

    run: Path = option(help="The folder of a run: check/rows.parquet and media.", positional=True)
    host: str = option("127.0.0.1", "Address of the page; one that others reach needs a login.")
    port: Port = option(7860, "Its port.")
    users_file: Path | None = option(
        None, "Who may log in, a name:hash a line; or the environment variable REVIEW_USERS."
    )
    add_user: str = option("", "Add this user to --users-file; the password is asked for, or read from the input.")
    share: Share | None = option(None, "Of a new review: the share of images and videos that two people get; 0.1.")
    seed: Seed | None = option(None, "Of a new review: of the order and of who gets what; 0.")
    gold: Path | None = option(None, "JSON Lines of instance and decision: everyone gets these, to be compared with.")
    report: bool = option(False, "No page: print progress and agreement, write review/rows.parquet and stage.json.")
    to_label_studio: Path | None = option(None, "No page: write tasks and labelling interfaces into this folder.")
    from_label_studio: Path | None = option(None, "No page: take in the decisions of this JSON file.")


@command("data review", models=False)
def data_review(settings: DataReview):
    """Verify the instances of a run on a page: accept, fix, reject or null, by keyboard alone.

    Every decision is saved at once in review/decisions.sqlite of the run, with who and when. When the page is ended by
    Ctrl-C, and with --report, the decisions are written for the stage export.
    """
    from granted.dataset_builders.construction.review import results
    from granted.dataset_builders.construction.review.login import Users, require_login
    from granted.dataset_builders.construction.review.reviewing import Review

    with results.as_input_errors():
        if settings.add_user:
            _add_user(settings)
            return
        users = Users.read(settings.users_file) if settings.users_file else Users.from_environment()
        work = [settings.report, settings.to_label_studio, settings.from_label_studio]
        if not any(work):
            require_login(settings.host, users)
        gold = results.read_gold(settings.gold) if settings.gold else {}
        review = Review(settings.run, settings.seed, settings.share)
        review.add_gold(gold)
        if settings.from_label_studio:
            new = results.read_label_studio(review, settings.from_label_studio, users)
            console.print(f"took in {new} new decisions of {settings.from_label_studio}")
        if settings.to_label_studio:
            for path in results.write_label_studio(review, settings.to_label_studio):
                console.print(f"wrote {path}")
        if not any(work):
            _serve(review, settings, users)
        _report(review)


def _add_user(settings: DataReview) -> None:
    from granted.dataset_builders.construction.review import results

    if not settings.users_file:
        raise InputError("got --add-user without --users-file, expected the file that the user is added to: name it")
    if sys.stdin.isatty():
        password = getpass(f"password of {settings.add_user}: ")
        if getpass("once more: ") != password:
            raise InputError("got two different passwords, expected the same twice: try again")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    results.add_user(settings.users_file, settings.add_user, password)
    console.print(f"added {settings.add_user} to {settings.users_file}")


def _serve(review: "Review", settings: DataReview, users: "Users | None") -> None:
    from granted.dataset_builders.construction.review.page import serve

    console.print(f"{len(review.instances)} instances to review; Ctrl-C ends the page")
    serve(review, settings.host, settings.port, users)


def _report(review: "Review") -> None:
    """Write the decisions and print what is to be said about them."""
    from granted.dataset_builders.construction.review import results
    from granted.dataset_builders.construction.review.reviewing import tables_of

    everyone, gold, agreed = results.write_results(review)
    for title, head, rows in tables_of(everyone, gold, agreed):
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if everyone:
        console.print(f"{everyone[0].made} of {everyone[0].needed} decisions that are needed")
    console.print(f"wrote {review.run / 'review' / 'rows.parquet'}")
