"""Encoders as every command uses them: loaded and placed by one function, their features written to disk."""
