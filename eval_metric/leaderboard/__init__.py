"""A page on which results are filtered, sorted and compared: `granted leaderboard FOLDER`, or a Space."""
