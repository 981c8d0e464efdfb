"""`granted leaderboard`: a page on which results are filtered, sorted and compared.

granted leaderboard results
granted leaderboard OWNER/granted-results
"""

from dataclasses import dataclass

from granted.cli.console import console, status
from granted.cli.registry import command
from granted.utils.errors import InputError
from granted.utils.options import option
from granted.utils.settings import Port


@dataclass
class Leaderboard:
    """Options of `granted leaderboard`."""

    results: str = option(
        help="A folder with results of granted evaluate, however deep, or a dataset on the Hub with such files, "
        "OWNER/NAME or OWNER/NAME@REVISION.",
        positional=True,
    )
    host: str = option("127.0.0.1", "Address of the page; others reach it by 0.0.0.0, without a login.")
    port: Port = option(7860, "Its port.")


@command("leaderboard", models=False)
def leaderboard(settings: Leaderboard):
    """Show results on a page: choose an evaluation, filter, sort, compare two encoders item by item.

    What may not be ranked together is apart, and what was published is never ranked. Ctrl-C ends it.
    """
    from granted.eval_metric.leaderboard.app import make_page, serve
    from granted.eval_metric.leaderboard.dataset import read_board

    with status("reading the results"):
        board = read_board(settings.results, console.print)
    count = len(board.content["evaluations"])
    console.print(f"{count} evaluation{'s' * (count != 1)} of {settings.results}; Ctrl-C ends the page")
    try:
        serve(make_page(board.content, board.differences), server_name=settings.host, server_port=settings.port)
    except OSError as error:
        expected = "an address of this machine and a free port: choose another --host or --port"
        raise InputError(f"got '{error}' at {settings.host}, expected {expected}") from error
