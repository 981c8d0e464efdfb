"""The `granted` command. This file begins it before any library is loaded; options and messages are in commands.py.

granted --help
"""

from granted.utils.program import run_as_command


def main() -> None:
    """Entry point of the `granted` command."""

    def command() -> None:
        from granted.cli.commands import app
        from granted.command_line import run_app

        run_app(app)

    run_as_command(command)
