"""What the user got wrong, as against what we did: the command line prints it as one line and exits with 2.

    with refusing("aggregator folder", "an aggregator of granted train: check the path"):
        library_that_reads_foreign_files(folder)
"""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what was got, what was expected and what to do."""


@contextmanager
def refusing(got: str, expected: str) -> Iterator[None]:
    """Whatever a library raises inside the block on a foreign file becomes an [`InputError`] of one line.

    Libraries name no types for what a damaged file does to them. Put the call that reads the file into the block and
    nothing else: a mistake of ours in there would pass for the user's.

    Args:
        got (`str`): what is read, such as `"encoder 'x'"`.
        expected (`str`): what it should be, and after a colon what to do.

    Raises:
        InputError: in place of any other exception, which stays its cause.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        got = " ".join(got.split())  # a name may have a line break
        raise InputError(f"got {got}, which cannot be loaded ({reason}), expected {expected}") from error
