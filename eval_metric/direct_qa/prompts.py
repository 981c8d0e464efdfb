"""What a language model is asked: an instance of TED as a question with lettered options, with or without a caption.

    question_text(record, caption_text(record))          # "Caption Type: image\nCaption: ...\n\nQuestion: ...\nA. ..."
    form = PromptForm.of(tokenizer)                      # the tokenizer's chat template, or plain text
    form.token_ids(text)                                 # up to where the answer begins
    read_letter("B. The cube is red.", 4)                # "B"

Tests: tests/test_direct_qa.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from granted.dataset_builders.ted_6k.records import MAX_STATEMENTS, MEDIA, TedRecord, caption_text
from granted.utils.errors import InputError


LETTERS = "ABCDEFGH"[:MAX_STATEMENTS]
INSTRUCTION = "Answer with the letter of the true statement alone."
ANSWER = "Answer:"  # where a plain prompt ends
# "B", "(B)", "B.", "B) because": a letter, and then nothing or a mark that ends it. "A cube" is none.
_LETTER = re.compile(rf"\**\(?([{LETTERS}])\)?\**(?:[.:)](?:\s.*)?)?")


def question_text(record: TedRecord, caption: str | None, rotation: int = 0) -> str:
    """The question about a record, its statements as lettered options.

    Args:
        record (`TedRecord`): an instance.
        caption (`str`, *optional*): the text that stands before the question, usually [`caption_text`] of a record.
        rotation (`int`, defaults to 0): by how many places the statements are moved up: option `i` is statement
            `(i + rotation) % n`.
    """
    statements = record["statements"][rotation:] + record["statements"][:rotation]
    options = [f"{letter}. {statement}" for letter, statement in zip(LETTERS, statements)]
    question = [f"Question: {record['question']}"] if record["question"].strip() else []
    return "\n".join([*([caption, ""] if caption else []), *question, *options, INSTRUCTION])


def other_captions(records: Sequence[TedRecord], seed: int) -> list[str]:
    """For each record the caption text of another image or video, of the same medium where there are two.

    The captions of a medium are put into an order by chance, and each gives way to the next: every caption is used,
    never with its own items, and all items of one caption get the same other one.

    Args:
        records (`list[TedRecord]`): the benchmark.
        seed (`int`): of the order.

    Raises:
        InputError: there is one caption only.
    """
    by_medium = {name: sorted({caption_text(one) for one in records if one["media"] == name}) for name in MEDIA}
    parts = list(by_medium.values())
    if any(len(captions) == 1 for captions in parts):
        parts = [[caption for captions in parts for caption in captions]]
    if sum(map(len, parts)) < 2:
        raise InputError("got one caption, expected two or more to shuffle: ask with caption or none, or add records")
    rng = np.random.default_rng(seed)
    other: dict[str, str] = {}
    for captions in parts:
        order = [captions[i] for i in rng.permutation(len(captions))]
        other |= dict(zip(order, order[1:] + order[:1]))
    return [other[caption_text(record)] for record in records]


def read_letter(said: str, options: int) -> str | None:
    """The letter that an answer names in its first line, strictly; `None` for anything else.

    Args:
        said (`str`): what the model wrote.
        options (`int`): how many letters are legal.
    """
    found = _LETTER.fullmatch(said.strip().partition("\n")[0].strip())
    return found[1] if found and found[1] in LETTERS[:options] else None


@dataclass(frozen=True)
class PromptForm:
    """How a question becomes tokens, and which token stands for each letter of the answer.

    Attributes:
        tokenizer (`PreTrainedTokenizerBase`): the model's.
        kind (`str`): `"chat"`, its chat template with the question as the user's words, or `"plain"`, the question and
            then `Answer:`.
        parts (`bool`): whether the chat template takes a message as a list of parts, as those of some multimodal
            models do, and no text.
        letters (`list[int]`): the token of each of [`LETTERS`]: of the letter alone in a chat, of the letter with the
            space before it in plain text.
    """

    tokenizer: PreTrainedTokenizerBase
    kind: str
    parts: bool
    letters: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "PromptForm":
        """The form that a tokenizer calls for.

        Raises:
            InputError: a letter is not one token of its own after a prompt, two letters are one token, or the chat
                template leaves the question out or begins to think.
        """
        kind = "chat" if tokenizer.chat_template else "plain"
        form = cls(tokenizer, kind, parts=False, letters=[])
        if kind == "chat" and INSTRUCTION not in form.written(INSTRUCTION):
            form = cls(tokenizer, kind, parts=True, letters=[])
        prompt = form.written(INSTRUCTION)
        name = type(tokenizer).__name__
        if INSTRUCTION not in prompt:
            raise InputError(f"got a chat template of {name} that leaves out what the user says, expected another")
        if prompt.rstrip().endswith("<think>"):
            raise InputError(
                f"got a chat template of {name} that has the model think before it answers, expected one without: use "
                "an instruction-tuned model"
            )
        before = form.encoded(prompt)
        for letter in LETTERS:
            after = form.encoded(prompt + ("" if kind == "chat" else " ") + letter)
            if after[:-1] != before or after[-1] in form.letters or after[-1] == tokenizer.unk_token_id:
                raise InputError(
                    f"got {name}, for which {letter!r} behind a prompt is not one token of its own, expected a "
                    "tokenizer of letters that are: use another model"
                )
            form.letters.append(after[-1])
        return form

    def token_ids(self, question: str) -> list[int]:
        """The tokens of a question up to where the answer begins."""
        return self.encoded(self.written(question))

    def written(self, question: str) -> str:
        """The whole prompt as text."""
        if self.kind == "plain":
            return f"{question}\n{ANSWER}"
        content: Any = [{"type": "text", "text": question}] if self.parts else question
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # of the templates that know it
        )

    def encoded(self, prompt: str) -> list[int]:
        """The tokens of a prompt; a chat template writes special tokens itself."""
        return self.tokenizer(prompt, add_special_tokens=self.kind == "plain")["input_ids"]
