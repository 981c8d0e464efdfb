"""Words of a prompt that count more or less than the rest: `"a (red:1.5) cube"`.

    text, spans = parse_emphasis("a (red:1.5) cube")        # "a red cube", [Span(2, 5, 1.5)]
    factors = token_factors([(0, 1), (2, 5), (6, 10)], spans)                  # [1.0, 1.5, 1.0], by character offsets
    emphasized(features, factors)                                              # (N, D) -> (N, D)

The features of a token are moved away from the mean of the prompt's tokens by the factor: 1 changes nothing, 0 leaves
what all tokens of the prompt have in common, less than 0 turns to the other side. A factor of the features themselves
would be lost where a diffusion model begins with a norm of each token.

Ships to the Hub; imports nothing but torch.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch


ESCAPED = re.compile(r"\\([()\\])")
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
# What a backslash makes part of the text, which is read first; or words without parentheses of their own, a colon and
# a number, between parentheses.
MARKS = re.compile(rf"\\[()\\]|\(((?:\\[()\\]|[^()])*?):\s*({NUMBER})\s*\)", re.DOTALL)


@dataclass(frozen=True)
class Span:
    """Characters of a text, from `start` up to `end`, and their factor."""

    start: int
    end: int
    factor: float


def parse_emphasis(text: str) -> tuple[str, list[Span]]:
    r"""A text without the marks of its emphasis, and what they say.

    `(words:1.3)` gives the words the factor 1.3. Parentheses without a factor are part of the text, and so is what
    follows a backslash: `\(`, `\)` and `\\`.

    Raises:
        ValueError: an emphasis within another one, or without words.
    """
    plain, spans, read, left = "", [], 0, ""  # left: without marks
    for found in MARKS.finditer(text):
        before, words = text[read : found.start()], found[0]
        if found[1] is None:
            words = words[1:]
        else:
            words = ESCAPED.sub(r"\1", found[1])
            if not words.strip():
                raise ValueError(f"got the emphasis {found[0]!r}, expected words before the colon")
            start = len(plain) + len(before)
            spans.append(Span(start, start + len(words), float(found[2])))
        plain, left, read = plain + before + words, f"{left}{before}\0", found.end()
    rest = text[read:]
    if spans and re.search(rf":\s*{NUMBER}\s*\)", left + rest):
        raise ValueError(f"got {text[:60]!r} with an emphasis within another one, expected each by itself")
    return plain + rest, spans


def find_spans(text: str, emphasis: Mapping[str, float]) -> list[Span]:
    """Every place of some words in a text, with their factors.

    Args:
        text (`str`): the prompt.
        emphasis (`dict[str, float]`): words and their factors.

    Raises:
        ValueError: words that are not in the text, or two that overlap in it.
    """
    spans = []
    for words, factor in emphasis.items():
        whole = rf"(?<!\w){re.escape(words)}(?!\w)"  # not "red" in "hundred"
        places = [found.start() for found in re.finditer(whole, text)] if words.strip() else []
        if not places:
            raise ValueError(f"got emphasis on {words!r}, expected words of the prompt {text[:60]!r}")
        spans += [Span(start, start + len(words), float(factor)) for start in places]
    spans.sort(key=lambda span: span.start)
    for one, other in pairwise(spans):
        if other.start < one.end:
            words = text[one.start : one.end]
            raise ValueError(f"got emphasis on {words!r} and on words within it, expected one of them")
    return spans


def token_factors(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[float]:
    """The factor of every token: that of the span it shares most characters with, 1 without one.

    Args:
        offsets (`list[tuple[int, int]]`): first and last character of each token, as fast tokenizers give them.
        spans (`list[Span]`): of the same text.

    Raises:
        ValueError: a span without a token, as of words that were cut off.
    """
    factors, hit = [], set()
    for start, end in offsets:
        shared = {span: min(end, span.end) - max(start, span.start) for span in spans}
        best = max(shared, key=shared.__getitem__, default=None)
        inside = best is not None and shared[best] > 0
        factors.append(best.factor if inside else 1.0)
        if inside:
            hit.add(best)
    missed = [span for span in spans if span not in hit]
    if missed:
        raise ValueError(
            f"got emphasis on characters {missed[0].start} to {missed[0].end}, expected words that are read: they are "
            "cut off, or share their tokens with others"
        )
    return factors


def emphasized(features: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Features of the tokens of one text, moved from their mean by factors; those of factor 1 stay to the bit.

    Args:
        features (`torch.Tensor`): (N, D), or (K, N, D) of several fusions.
        factors (`list[float]`): N of them.
    """
    scale = torch.tensor(factors, device=features.device).unsqueeze(-1)  # (N, 1)
    own = features.float()  # ([K,] N, D)
    centre = own.mean(-2, keepdim=True)  # ([K,] 1, D)
    moved = (centre + scale * (own - centre)).to(features.dtype)  # ([K,] N, D)
    return torch.where(scale == 1, features, moved)
