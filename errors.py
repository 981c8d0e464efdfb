"""The one exception that means "the input is at fault": the command line prints it as one line and exits with 2."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what was got, what was expected and what to do."""
