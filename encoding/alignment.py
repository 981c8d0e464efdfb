"""Which tokens of two encoders stand for the same characters of a text.

    (new,), (old,) = token_places(new_encoder, texts), token_places(old_encoder, texts)
    overlap_weights(new, old)                # (N_new, N_old), every row sums to 1

A text is a line from 0 to its length, and every token that an encoder gives is a stretch of it. What stands before the
text (an opening token, a template) shares the stretch from -1 to 0, what stands after it one behind its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from granted.modeling_granted import GrantedModel
from granted.modeling_text_input import cleaned
from granted.utils.errors import InputError


@dataclass(frozen=True)
class TokenPlaces:
    """Where the tokens of one text stand, those of the template that the encoder drops left out.

    Args:
        text (`str`): as the encoder cleans it, without its template.
        begins (`torch.Tensor`), ends (`torch.Tensor`): (N,) fp64, in characters of that text.
        own (`torch.Tensor`): (N,) bool, tokens of the text itself, as against special tokens and the template.
        cut (`bool`): whether the encoder does not read the whole of it.
    """

    text: str
    begins: torch.Tensor
    ends: torch.Tensor
    own: torch.Tensor
    cut: bool

    def __len__(self) -> int:
        return len(self.begins)


def check_offsets(name: str, encoder: GrantedModel) -> None:
    """Refuse an encoder whose tokenizer does not say where its tokens stand.

    Raises:
        InputError: it does not.
    """
    if not encoder.tokenizer.is_fast:
        kind = type(encoder.tokenizer).__name__
        raise InputError(
            f"got {name} with a {kind}, which does not say where in a text its tokens stand, expected a fast "
            "tokenizer: save the encoder with a tokenizer.json"
        )


def token_places(encoder: GrantedModel, texts: Sequence[str]) -> list[TokenPlaces]:
    """Where the tokens of texts stand, one for each row that the encoder gives of them.

    Args:
        encoder ([`GrantedModel`]): with a fast tokenizer.
        texts (`list[str]`): may be empty ones.
    """
    config, limit = encoder.config, encoder.token_limit()
    before = (config.prompt_template or "{prompt}").index("{prompt}")
    plain = [cleaned(text, config.text_cleaning) for text in texts]
    places = []
    for text, offsets in zip(plain, encoder.tokenized(texts, offsets=True)["offset_mapping"]):
        spans = [(begin - before, end - before) if end > begin else None for begin, end in offsets]
        spans = encoder.filled(spans, None)
        spans += [None] * (config.dropped_tokens.stop + 1 - len(spans))  # an empty text has one of padding
        places.append(_placed(text, spans, config.dropped_tokens, cut=len(offsets) > limit))
    return places


def _placed(text: str, spans: list[tuple[int, int] | None], dropped: range, cut: bool) -> TokenPlaces:
    """Places of tokens from what their offsets say, in characters from the beginning of the text."""
    touching = [i for i, span in enumerate(spans) if span and min(span[1], len(text)) > max(span[0], 0)]
    first, last = (touching[0], touching[-1]) if touching else (len(spans), len(spans))
    begins, ends = torch.zeros(2, len(spans), dtype=torch.float64)  # (N,) each
    kept = [i for i in range(len(spans)) if i not in dropped]
    before, after = [i for i in kept if i < first], range(last + 1, len(spans))
    for group, start in ((before, -1), (after, len(text))):
        for number, i in enumerate(group):
            begins[i], ends[i] = start + number / len(group), start + (number + 1) / len(group)
    reached = 0
    for i in range(first, min(last + 1, len(spans))):
        begin, end = spans[i] or (reached, reached)  # between two words, such as a mark for a space
        begins[i], ends[i] = max(begin, 0), min(end, len(text))
        reached = int(ends[i])
    own = torch.zeros(len(spans), dtype=torch.bool)  # (N,)
    own[first : last + 1] = True
    return TokenPlaces(text, begins[kept], ends[kept], own[kept], cut)


def overlap_weights(new: TokenPlaces, old: TokenPlaces) -> torch.Tensor:
    """How much of each new token stands in each old one.

    A new token that overlaps none takes the nearest: an old encoder may skip spaces, or have no special tokens.

    Args:
        new ([`TokenPlaces`]), old ([`TokenPlaces`]): of the same text.

    Returns:
        (N_new, N_old) fp64, 0 or more; every row sums to 1.
    """
    latest = torch.maximum(new.begins.unsqueeze(1), old.begins)  # (N_new, N_old)
    earliest = torch.minimum(new.ends.unsqueeze(1), old.ends)  # (N_new, N_old)
    overlap = (earliest - latest).clamp(min=0)  # (N_new, N_old)
    total = overlap.sum(1, keepdim=True)  # (N_new, 1)
    nearest = torch.nn.functional.one_hot((latest - earliest).argmin(1), len(old)).double()  # (N_new, N_old)
    return torch.where(total > 0, overlap / total.clamp(min=1e-12), nearest)


def same_text(new: TokenPlaces, old: TokenPlaces) -> bool:
    """Whether two encoders read the same characters, upper and lower case aside, and the whole of them."""
    return not (new.cut or old.cut) and len(new.text) == len(old.text) and new.text.lower() == old.text.lower()
