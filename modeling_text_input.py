"""Texts into a fused encoder: what counts as a text, tokens with the prompt template around them, batches, features.

    encoder.encode(["a red cube", "two dogs"])            # one (N_i, D) tensor per text
    encoder.pad(encoder.tokenize(["a red cube"]))         # ids and mask, (1, N) each

Tiny: tests/test_modeling_granted.py. Ships to the Hub; imports nothing but torch, transformers and its sibling files.
"""

import html
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

import torch
from transformers.utils.logging import tqdm

from .modeling_emphasis import Span, emphasized, find_spans, parse_emphasis, token_factors
from .modeling_text_trunk import NotFiniteError, evaluating, not_finite


try:
    import ftfy  # mends broken characters; diffusers uses it where it is installed, too
except ImportError:
    ftfy = None


# What stands in quotation marks; an apostrophe between two letters is none.
_MARK = r"(?:(?<![a-zA-Z])'|'(?![a-zA-Z]))"
QUOTED = re.compile(rf"{_MARK}(?:[^']|(?<=[a-zA-Z])'(?=[a-zA-Z]))*?{_MARK}|\"[^\"]*?\"|‘[^‘’]*?’|“[^“”]*?”")


def length_sorted_batches(lengths: list[int], token_budget: int) -> list[list[int]]:
    """Indices of texts grouped by length, longest first, into batches worth padding.

    A padded batch holds at most `token_budget` tokens (a longer text is a batch of its own), and texts shorter than
    three quarters of a batch's longest go into the next one once 512 tokens are together: a batch of a long caption
    and many short ones would be mostly padding.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    for i in order:
        longest, count = (lengths[batches[-1][0]], len(batches[-1])) if batches else (0, 0)
        full = (count + 1) * longest > token_budget
        wasteful = 4 * lengths[i] < 3 * longest and count * longest >= 512
        if not batches or full or wasteful:
            batches.append([])
        batches[-1].append(i)
    return batches


def cleaned(text: str, how: str) -> str:
    """A text as `text_cleaning` of [`GrantedConfig`] says."""
    if how.startswith("unescape"):
        text = ftfy.fix_text(text) if ftfy is not None else text
        text = html.unescape(html.unescape(text))
        return " ".join(text.split()) if how == "unescape" else text.strip()
    if how == "lower_strip":
        text = text.lower()
    return text if how == "none" else text.strip()


def quoted_pieces(text: str, begin: int = 0) -> list[tuple[int, str]]:
    """A text in pieces, each with its place from `begin` on: what is quoted by characters, marks included."""
    pieces, end = [], 0
    for match in QUOTED.finditer(text):
        pieces.append((begin + end, text[end : match.start()]))
        pieces += [(begin + place, text[place]) for place in range(*match.span())]
        end = match.end()
    pieces.append((begin + end, text[end:]))
    return [piece for piece in pieces if piece[1]]


class TextInput:
    """What [`GrantedModel`] does with texts, by its tokenizer, configuration and forward pass."""

    emphasized = staticmethod(emphasized)

    @torch.no_grad()
    def encode(
        self,
        texts: Iterable[str],
        *,
        max_sequence_length: int | None = None,
        token_budget: int = 8192,
        show_progress: bool | None = None,
        layer_weights: torch.Tensor | None = None,
        emphasis: Mapping[str, float] | bool = False,
        allow_empty: bool = False,
    ) -> list[torch.Tensor]:
        """Encode texts of any number and length.

        Args:
            texts (`Iterable[str]`): prompts, as a list or a column of any kind (datasets, numpy, pandas); the
                configuration's template is put around each.
            max_sequence_length (`int`, *optional*): most tokens read of a text; the configuration's by default, and
                never more than the encoder has positions for.
            token_budget (`int`, defaults to 8192): most tokens, padding included, of a batch.
            show_progress (`bool`, *optional*): a progress bar; by default for more than one batch.
            layer_weights (`torch.Tensor`, *optional*): instead of the model's own, see [`~GrantedModel.mixing`].
            emphasis (`dict[str, float]` or `bool`, defaults to `False`): words of the texts and their factors, or
                `True` where texts say it themselves, as in `"a (red:1.5) cube"`; see [`emphasized`].
            allow_empty (`bool`, defaults to `False`): whether a text may be empty, as of `tokenize`.

        Returns:
            One CPU tensor per text, (N_i, D) or as the fusion says, in the order given, without padding and without
            the template tokens that the configuration drops.

        Raises:
            ValueError: what cannot be text, features that are NaN or infinite (the message names the text), layer
                weights of another shape, emphasis on words that are not in a text or are not read.
        """
        texts, spans = self.read_emphasis(self.as_texts(texts, allow_empty), emphasis)
        token_ids = self.tokenize(texts, max_sequence_length, allow_empty)
        factors = self.emphasis_factors(texts, spans, token_ids)
        batches = length_sorted_batches([len(ids) for ids in token_ids], token_budget)
        features: list[torch.Tensor | None] = [None] * len(texts)
        with evaluating(self), self.mixing(layer_weights):
            for batch in tqdm(batches, disable=len(batches) < 2 if show_progress is None else not show_progress):
                batch = sorted(batch)  # the first text that is not finite is the one named
                input_ids, attention_mask = self.pad([token_ids[i] for i in batch])
                try:
                    output = self(input_ids, attention_mask).last_hidden_state  # (B, N, D)
                except NotFiniteError:  # the first token of the first text
                    raise not_finite(f"the text {texts[batch[0]][:60]!r}") from None
                self.check_finite(output, attention_mask, lambda row, batch=batch: texts[batch[row]])
                for i, row, kept in zip(batch, output, self.kept_tokens(attention_mask)):
                    row = row[..., kept, :].cpu()  # ([K,] N_i, D)
                    features[i] = emphasized(row, factors[i]) if spans[i] else row
        return features

    def read_emphasis(
        self, texts: list[str], emphasis: Mapping[str, float] | bool
    ) -> tuple[list[str], list[list[Span]]]:
        """The texts without marks of emphasis, and for each the spans that have a factor.

        Args:
            texts (`list[str]`): prompts.
            emphasis (`dict[str, float]` or `bool`): as of `encode`.

        Raises:
            ValueError: marks that cannot be read, or words that are not in a text.
        """
        if not isinstance(emphasis, bool | Mapping | None):
            raise ValueError(f"got emphasis={emphasis!r}, expected True or factors of words, such as {{'red': 1.5}}")
        if emphasis is True:
            parsed = [parse_emphasis(text) for text in texts]
            return [text for text, _ in parsed], [spans for _, spans in parsed]
        return texts, [find_spans(text, emphasis) if emphasis else [] for text in texts]

    def emphasis_factors(
        self, texts: list[str], spans: list[list[Span]], token_ids: list[list[int]]
    ) -> list[list[float]]:
        """The factor of each token that is left of a text once template tokens are dropped; empty without a span.

        Args:
            texts (`list[str]`), spans (`list[list[Span]]`): of `read_emphasis`.
            token_ids (`list[list[int]]`): of `tokenize`, for as many texts.

        Raises:
            ValueError: a tokenizer without character offsets, words that are not read, or a text that is changed by
                the configuration's `text_cleaning`, so that places in it are lost.
        """
        return [self._token_factors(*one) if one[1] else [] for one in zip(texts, spans, token_ids)]

    def _token_factors(self, text: str, spans: list[Span], token_ids: list[int]) -> list[float]:
        if not self.tokenizer.is_fast:
            raise ValueError("got emphasis for a tokenizer without character offsets, expected a fast one")
        if cleaned(text, self.config.text_cleaning) != text:
            raise ValueError(
                f"got emphasis in {text[:60]!r}, which text_cleaning={self.config.text_cleaning!r} changes, expected "
                "a text that it leaves as it is: write it so"
            )
        before = (self.config.prompt_template or "{prompt}").index("{prompt}")
        shifted = [Span(span.start + before, span.end + before, span.factor) for span in spans]
        (offsets,) = self.tokenized([text], limit=len(token_ids), offsets=True)["offset_mapping"]
        factors = self.filled(token_factors(offsets, shifted), 1.0)
        factors += [1.0] * (len(token_ids) - len(factors))
        return [factor for place, factor in enumerate(factors) if place not in self.config.dropped_tokens]

    def filled(self, tokens: list, filler: Any) -> list:
        """What stands for the tokens of a text, with `filler` for those that fill it up (`fill_to_multiple_of`)."""
        padding = [filler] * (-len(tokens) % (self.config.fill_to_multiple_of or 1))
        return padding + tokens if self.config.padding_side == "left" else tokens + padding

    def kept_tokens(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """Where the tokens are that stand for the texts of a batch: no padding, and no template that is dropped.

        Args:
            attention_mask (`torch.Tensor`): (B, N), nonzero at real tokens.

        Returns:
            (B, N) bool.
        """
        mask, dropped = attention_mask.bool(), self.config.dropped_tokens
        places = mask.cumsum(-1) - 1  # (B, N), of each real token among those of its text
        return mask & ((places < dropped.start) | (places >= dropped.stop))

    @staticmethod
    def check_finite(features: torch.Tensor, mask: torch.Tensor, text_of: Callable[[int], str]) -> None:
        """Raise a ValueError that names the first text whose features are NaN or infinite, `text_of(row)`.

        Args:
            features (`torch.Tensor`): (B, N, D) or (B, K, N, D).
            mask (`torch.Tensor`): (B, N), nonzero at real tokens.
        """
        largest = torch.linalg.vector_norm(features, torch.inf, dim=-1)  # (B, [K,] N); no copy of the features
        largest = largest if largest.ndim == 2 else largest.amax(1)  # (B, N)
        bad = (~largest.isfinite() & mask.to(largest.device).bool()).any(-1)  # (B,)
        if bad.any():
            raise not_finite(f"the text {text_of(int(bad.nonzero()[0]))[:60]!r}")

    @staticmethod
    def as_texts(texts: Iterable[str], allow_empty: bool = False) -> list[str]:
        """The texts of a list or column of any kind, as a list.

        Args:
            texts (`Iterable[str]`): a list, a tuple, a column of datasets, numpy or pandas, ...
            allow_empty (`bool`, defaults to `False`): whether a text may be empty.

        Raises:
            ValueError: no such list, or an entry that cannot be text; the message names its position.
        """
        if isinstance(texts, str):
            raise ValueError("got one string, expected a list of texts: put it in a list")
        # A table or a mapping would give its names instead of its texts, and a set any order.
        flat = getattr(texts, "ndim", 1) == 1 and isinstance(texts, Iterable)
        if not flat or isinstance(texts, Mapping | Set):
            raise ValueError(f"got {type(texts).__name__}, expected a list of texts: choose a column, or make a list")
        texts = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)  # pyarrow's entries are no strings
        for i, text in enumerate(texts):
            expected = None
            if not isinstance(text, str) or not (text.strip() or allow_empty):
                expected = "a text" if allow_empty else "a text that is not empty"
            else:
                try:
                    text.encode()
                except UnicodeEncodeError:
                    expected = "a text of whole characters (it has half a surrogate pair)"
            if expected:
                raise ValueError(f"got {' '.join(repr(text).split())[:60]} at position {i}, expected {expected}")
        return texts

    def token_limit(self, max_sequence_length: int | None = None) -> int:
        """Most tokens that are read of a text, template included, never more than the encoder has positions for.

        Args:
            max_sequence_length (`int`, *optional*): in place of the configuration's.
        """
        limit = self.config.max_sequence_length if max_sequence_length is None else max_sequence_length
        limit = limit if self.num_positions is None else min(limit, self.num_positions)
        return limit - limit % (self.config.fill_to_multiple_of or 1)  # what fills a text up is read, too

    def tokenize(
        self, texts: Iterable[str], max_sequence_length: int | None = None, allow_empty: bool = False
    ) -> list[list[int]]:
        """Token ids of each text with the prompt template around it; warns once with the number of texts cut.

        With `allow_empty` a text may be empty, as dropped captions and negative prompts are; where it has no token of
        its own after the template's dropped ones, it gets one of padding to stand for it.
        """
        texts = self.as_texts(texts, allow_empty)
        if not texts:
            return []
        limit, positions = self.token_limit(max_sequence_length), self.num_positions
        least = self.config.dropped_tokens.stop + 1
        if limit < least:
            raise ValueError(
                f"got max_sequence_length={limit}, expected more than the {least - 1} template tokens that come first"
            )
        token_ids = self.tokenized(texts)["input_ids"]
        for text, ids in zip(texts, token_ids):
            if len(ids) < least and not allow_empty:
                raise ValueError(
                    f"got {text[:60]!r} of {len(ids)} tokens with its template, expected more than the {least - 1} "
                    "that are dropped: set template_drop_tokens for this tokenizer"
                )
            ids += [self.tokenizer.pad_token_id] * (least - len(ids))
        cut = [i for i, ids in enumerate(token_ids) if len(ids) > limit]
        if cut:
            longest = max(len(token_ids[i]) for i in cut)
            cure = "raise max_sequence_length to read them whole"
            if limit == positions:
                cure = "the encoder has positions for no more"
            elif positions is not None and longest > positions:
                cure = f"raise max_sequence_length, up to the {positions} tokens that the encoder has positions for"
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts are longer than {limit} tokens (the longest has {longest}): "
                f"{sum(len(token_ids[i]) - limit for i in cut)} tokens were cut; {cure}",
                stacklevel=2,
            )
            for i, ids in zip(cut, self.tokenized([texts[i] for i in cut], limit)["input_ids"]):
                token_ids[i] = ids
        return [self.filled(ids, self.tokenizer.pad_token_id) for ids in token_ids]

    def count_tokens(self, texts: list[str]) -> list[int]:
        """How many tokens each text has with the prompt template around it, however many are read."""
        if not texts:
            return []
        return [len(self.filled(ids, None)) for ids in self.tokenized(texts)["input_ids"]]

    def tokenized(self, texts: list[str], limit: int | None = None, offsets: bool = False) -> Mapping[str, list]:
        """What the tokenizer makes of texts, cleaned and with the prompt template around them.

        Args:
            texts (`list[str]`): prompts.
            limit (`int`, *optional*): most tokens of each; all by default.
            offsets (`bool`, defaults to `False`): whether to say which characters of the templated text a token
                stands for, as `offset_mapping`; fast tokenizers alone know.

        Returns:
            `input_ids` and, if wanted, `offset_mapping`, a list for each text.
        """
        template = self.config.prompt_template or "{prompt}"
        texts = [cleaned(text, self.config.text_cleaning) for text in texts]
        options = {"verbose": False, "add_special_tokens": self.config.add_special_tokens}
        options |= {"return_offsets_mapping": True} if offsets else {}
        if self.config.split_quotes:
            before, after = template.split("{prompt}")
            pieces = [[(0, before), *quoted_pieces(text, len(before)), (len(before + text), after)] for text in texts]
            found = [self._tokenized_pieces(one, options) for one in pieces]
            return {name: [one[name][:limit] for one in found] for name in found[0]}
        # The tokenizer cuts, so that closing special tokens stay.
        cut = {"truncation": limit is not None, "max_length": limit}
        found = self.tokenizer([template.replace("{prompt}", text) for text in texts], **cut, **options)
        if limit is not None and self.tokenizer.is_fast:  # its rules would keep the limit, and be saved with it
            self.tokenizer.backend_tokenizer.no_truncation()
        return found

    def _tokenized_pieces(self, pieces: list[tuple[int, str]], options: Mapping[str, Any]) -> dict[str, list]:
        """As `tokenized`, of one text in pieces that are tokenised one by one, each with its place in the text."""
        found = self.tokenizer([piece for _, piece in pieces], **options)
        joined = {"input_ids": [token for ids in found["input_ids"] for token in ids]}
        if "offset_mapping" in found:
            placed = zip(pieces, found["offset_mapping"])
            joined["offset_mapping"] = [(a + begin, b + begin) for (begin, _), one in placed for a, b in one]
        return joined

    def pad(self, token_ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, N) of a batch, padded to its longest text, on the model's device."""
        ids, mask = self.padded(token_ids)
        return ids.to(self.input_device), mask.to(self.input_device)  # (B, N) each

    def padded(self, token_ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `pad`, on the CPU."""
        options = {"return_attention_mask": True, "return_tensors": "pt", "verbose": False}  # SigLIP's gives no mask
        padded = self.tokenizer.pad({"input_ids": token_ids}, padding_side=self.config.padding_side, **options)
        return padded["input_ids"], padded["attention_mask"]  # (B, N) each

    @property
    def input_device(self) -> torch.device:
        """Where inputs belong and features come out."""
        # Weights that accelerate offloaded lie on the meta device until they are needed.
        hooks = (getattr(module, "_hf_hook", None) for module in self.modules())
        devices = [getattr(hook, "execution_device", None) for hook in hooks]
        return next((torch.device(device) for device in devices if device is not None), self.device)
