"""What this folder raises when a person gave something that cannot be used; as it stands alone, it has its own."""


class ReviewError(ValueError):
    """One line: what was got, what was expected, what to do. `granted data review` shows it as any wrong input."""
