"""The `granted` command: one module for each group of commands. This file begins it before any library is loaded.

granted --help
"""

import sys

from granted.utils.program import run_as_command


def main() -> None:
    """Entry point of the `granted` command."""

    def command() -> None:
        from granted.cli import (  # noqa: F401  they register commands
            adapt,
            construct,
            data,
            doctor,
            encode,
            evaluate,
            generate,
            leaderboard,
            push,
            review,
            train,
        )
        from granted.cli.registry import run_command

        run_command(sys.argv[1:])

    run_as_command(command)
