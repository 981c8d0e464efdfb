"""Calls to an OpenAI-compatible chat endpoint: bounded, paced, tried again, capped, and each answer kept at once.

    async with Endpoint(settings, store) as endpoint:
        call = await endpoint.ask(request, attempt=0)          # from the store, if it was answered before
        call.answer, call.fault

A call that fails for a while (HTTP 408, 429 or 5xx, a time-out, a dropped connection, a body that is none) is tried
again with growing pauses, or after the time that the server asks for. What cannot pass stops the run in one line: a
wrong key, a wrong address, and a first call of a stage that is refused, such as an image sent to a model that cannot
see. A later refusal is about its item only and becomes its answer. Tests: tests/test_construction_client.py.

`huggingface_hub.AsyncInferenceClient` is not used: it rewrites a `json_schema` into a form of its own, sends a stored
Hub token to any address when there is no key, and refuses a server of this machine under HF_HUB_OFFLINE.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import tenacity
from aiolimiter import AsyncLimiter

from granted.dataset_builders.construction.answers import AnswerKind, read_answer
from granted.dataset_builders.construction.prompts import Filled
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.construction.store import Call, CallStore, Spent
from granted.utils.errors import InputError


# Of the first calls, before there is an answer: a wrong address or a server that is gone is to be known soon.
FIRST_TRIES, FIRST_CALLS = 4, 3
LONGEST_WAIT = 600.0  # seconds that a server may ask us to wait
LONGEST_ANSWER = 4 << 20  # bytes
DISPENSABLE = ("response_format", "seed")  # some servers refuse them, and an answer is checked anyway
STOPPING = {
    401: "a key that the endpoint takes: name the environment variable that has it by key_variable",
    402: "an account with credit: see to it",
    403: "a key that may use this model: name the environment variable that has it by key_variable",
    404: "an address and a model that are there: correct endpoint or model",
}
REFUSED = "refused"  # how a call ends that the server does not take
_jitter = tenacity.wait_random_exponential(max=60)


class NoAnswer(Exception):
    """A call got no answer in all its tries; another time it may."""


@dataclass(frozen=True)
class Request:
    """A call to make.

    Fields:
        stage, unit (`str`): what it is for.
        model (`str`), filled (`Filled`), kind (`AnswerKind`): who is asked, what, and what the answer has to be.
        material (`Mapping`): what the prompt was filled with, for the rules of the answer.
        temperature (`float`), max_tokens (`int`), seed (`int`): sampling.
        media (`str`): what is shown beside the text: a hash of its content and how, or nothing.
        data_urls (`Callable`): makes the data URLs of what is shown. Called only if the call is made.
    """

    stage: str
    unit: str
    model: str
    filled: Filled
    kind: AnswerKind
    material: Mapping[str, Any]
    temperature: float
    max_tokens: int
    seed: int
    media: str = ""
    data_urls: Callable[[], list[str]] = field(default=list, compare=False)

    def key(self, attempt: int) -> str:
        """SHA-256 of all that decides the answer."""
        parts = {
            "stage": self.stage,
            "unit": self.unit,
            "model": self.model,
            "system": self.filled.system,
            "user": self.filled.user,
            "media": self.media,
            "sampling": [self.temperature, self.max_tokens, self.seed],
            "attempt": attempt,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def body(self, attempt: int, urls: list[str]) -> dict[str, Any]:
        """What is sent."""
        text = {"type": "text", "text": self.filled.user}
        content = [*({"type": "image_url", "image_url": {"url": url}} for url in urls), text] if urls else text["text"]
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": self.filled.system},
                {"role": "user", "content": content},
            ],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": int(self.key(attempt)[:7], 16),  # another attempt, another seed
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": self.kind.name, "strict": True, "schema": self.kind.schema},
            },
        }


class Passing(Exception):
    """What may pass, and the seconds that the server asks us to wait."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Refusal(Exception):
    """A status and a message of the server that no other try will change."""

    def __init__(self, status: int, message: str):
        super().__init__(f"HTTP {status} ({message})")
        self.status, self.message = status, message


class Endpoint:
    """The endpoint of a run. Use it as an asynchronous context manager, in one event loop.

    Args:
        settings (`ConstructionSettings`): its address, key, pace and caps.
        store (`CallStore`): where answers are kept and found.

    Raises:
        InputError: the environment variable of the key is not set.
    """

    def __init__(self, settings: ConstructionSettings, store: CallStore):
        self.settings, self.store = settings, store
        self.dropped: set[str] = set()  # fields that this server does not take
        self.spent = store.spent()
        self._url = settings.endpoint.rstrip("/") + "/chat/completions"
        self._key = settings.key()
        self._on_their_way = 0
        self._failed_in_row = 0
        self._open: set[str] = set()  # stages whose first call has been answered
        self._first = asyncio.Lock()
        pace = settings.calls_per_minute
        # One at a time, evenly: no burst of a minute's calls at the beginning.
        self._pace = AsyncLimiter(1, 60 / pace) if pace else nullcontext()

    async def __aenter__(self) -> "Endpoint":
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=self.settings.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout),
            proxy=None if proxy_bypass(self.settings.host) else getproxies().get(self._url.partition(":")[0]),
            trust_env=False,  # it would also send what ~/.netrc has
        )
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._session.close()

    async def ask(self, request: Request, attempt: int) -> Call:
        """The answer to a request, from the store or from the endpoint.

        Args:
            request (`Request`): what is asked.
            attempt (`int`): how often it was asked before.

        Raises:
            NoAnswer: there was none in all tries.
            InputError: a cap is reached, the disk is full, or the endpoint takes no calls of this kind.
        """
        key = request.key(attempt)
        if found := self.store.find(key):
            return found
        if request.stage in self._open:
            return await self._made(request, attempt, key)
        async with self._first:  # what is wrong with all calls of a stage is found with one
            call = await self._made(request, attempt, key)
            self._open.add(request.stage)
            return call

    async def _made(self, request: Request, attempt: int, key: str) -> Call:
        self._require_budget(request.stage)
        self.store.require_space()
        self._on_their_way += 1
        try:
            urls = await asyncio.to_thread(request.data_urls) if request.media else []
            call = await self._answered(request, attempt, urls)
            self.store.add(key, call, self.dropped)
            self.spent = _sum(self.spent, call)
        finally:
            self._on_their_way -= 1
        self._failed_in_row = 0
        if self.settings.max_tokens and call.prompt_tokens is None and call.finish != REFUSED:
            raise InputError("got an answer without usage, expected it for max_tokens: leave max_tokens out")
        return call

    async def _answered(self, request: Request, attempt: int, urls: list[str]) -> Call:
        begun = time.monotonic()
        try:
            answer = await self._tried(request.body(attempt, urls))
        except Refusal as refusal:
            self._stop_if_all_are_refused(request, refusal)
            answer = {"answer": refusal.message, "finish": REFUSED, "prompt_tokens": None, "completion_tokens": None}
            fault = f"the endpoint refused it: HTTP {refusal.status}"
        else:
            read = read_answer(request.kind, answer["answer"], answer["finish"], request.material, self.settings)
            fault = read[1]
        return Call(request.stage, request.unit, attempt, fault=fault, seconds=time.monotonic() - begun, **answer)

    async def _tried(self, body: dict[str, Any]) -> dict[str, Any]:
        """What the server answers, in as many tries as there may be."""
        tries = self.settings.retries if self._open else min(self.settings.retries, FIRST_TRIES)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Passing),
            wait=lambda state: max(_jitter(state), state.outcome.exception().wait),
            stop=tenacity.stop_after_attempt(tries),
            reraise=True,
        )
        try:
            return await retrying(self._sent, body)
        except Passing as error:
            self._failed_in_row += 1
            if self._failed_in_row >= self._patience():
                raise InputError(
                    f"got no answer from {self.settings.host} ({error}), expected an OpenAI-compatible server: start "
                    "it or correct endpoint, and run the same command again"
                ) from None
            raise NoAnswer(str(error)) from None

    def _patience(self) -> int:
        """How many calls in a row may stay without an answer: none of a server that has never given one."""
        return self.settings.concurrency + 1 if self._open else FIRST_CALLS if self.spent.calls else 1

    async def _sent(self, body: dict[str, Any]) -> dict[str, Any]:
        """One try, or another at once if the server does not take a field that can be left out."""
        while True:
            sent = {name: value for name, value in body.items() if name not in self.dropped}
            try:
                return await self._posted(sent)
            except Refusal as refusal:
                named = [name for name in DISPENSABLE if name in sent and name in refusal.message]
                if refusal.status not in (400, 422) or not named:
                    raise
                self.dropped |= set(named)

    async def _posted(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self._pace:
            pass
        try:
            async with self._session.post(self._url, json=body, allow_redirects=False) as response:
                content, status, headers = await _read(response), response.status, response.headers
        except asyncio.TimeoutError:
            raise Passing(f"none within {self.settings.timeout:g} s") from None
        except aiohttp.ClientError as error:  # not as the cause: it may hold the headers, with the key
            raise Passing(self._without_key(str(error) or type(error).__name__)) from None
        if status == 200:
            return _answer_of(content)
        message = self._without_key(_message_of(content))
        if status in (408, 429) or status >= 500:
            raise Passing(f"HTTP {status}, {message}", _seconds_to_wait(headers.get("Retry-After", "")))
        if status in STOPPING or status < 400:
            expected = STOPPING.get(status, "an answer and no redirection: correct endpoint")
            raise InputError(f"got HTTP {status} from {self.settings.host} ({message}), expected {expected}")
        raise Refusal(status, message)

    def _stop_if_all_are_refused(self, request: Request, refusal: Refusal) -> None:
        spent = self.store.spent(request.stage)
        if request.stage in self._open or spent.calls > spent.refused:
            return
        able = f"a model that sees {request.media.split()[0]}s" if request.media else "a model that takes it"
        raise InputError(
            f"got {refusal} from {self.settings.host} for the first call of stage {request.stage} ({request.unit}), "
            f"expected {able}: choose another model, or remove the item if it alone is at fault"
        ) from None

    def _require_budget(self, stage: str) -> None:
        calls, tokens = self.spent.calls + self._on_their_way, self.spent.tokens
        for name, spent in (("max_calls", calls), ("max_tokens", tokens)):
            most = getattr(self.settings, name)
            if most is not None and spent >= most:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"got to {name}={most} in stage {stage}, expected more for the rest: run the same command with a "
                    f"higher {flag}; everything so far is kept"
                )

    def _without_key(self, text: str) -> str:
        text = text.replace(self._key, "***") if self._key else text
        text = "".join(c if c.isprintable() else " " for c in text)  # it is shown on a terminal, which obeys some
        return " ".join(text.split())[:300]


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > LONGEST_ANSWER:
            raise Passing(f"an answer of more than {LONGEST_ANSWER >> 20} MB")
    return bytes(content)


def _answer_of(content: bytes) -> dict[str, Any]:
    """Text, end and tokens of a chat completion.

    Raises:
        Passing: it is none.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        text = choice["message"]["content"] or ""
        finish = str(choice.get("finish_reason") or "")
        usage = body.get("usage") or {}
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be kept
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise Passing("a body that is no chat completion") from None
    tokens = [count if type(count) is int and 0 <= count < 1 << 53 else None for count in tokens]
    return {"answer": text, "finish": finish, "prompt_tokens": tokens[0], "completion_tokens": tokens[1]}


def _message_of(content: bytes) -> str:
    """What the server says about an error, in whichever of the usual forms."""
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(name):
            value = value[name]
    return value if isinstance(value, str) else json.dumps(value)


def _seconds_to_wait(header: str) -> float:
    """What a `Retry-After` asks for, as a number or as a date; 0 where there is none that can be read.

    Raises:
        InputError: it is too long.
    """
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(timezone.utc)).total_seconds()
        except (TypeError, ValueError):
            return 0.0
    if seconds > LONGEST_WAIT:
        raise InputError(
            f"got an endpoint that asks us to wait {seconds:.0f} s, expected at most {LONGEST_WAIT:.0f}: run the same "
            "command again then"
        )
    return max(0.0, seconds) if seconds == seconds else 0.0


def _sum(spent: Spent, call: Call) -> Spent:
    return replace(
        spent,
        calls=spent.calls + 1,
        prompt_tokens=spent.prompt_tokens + (call.prompt_tokens or 0),
        completion_tokens=spent.completion_tokens + (call.completion_tokens or 0),
    )
