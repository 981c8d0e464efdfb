"""Asks the Hub and asks again while it is in trouble, and says in one line without a secret what did not work.

    hub = Hub("me/granted", "model", report=print)
    info = hub.ask(hub.api.repo_info, hub.repo_id, repo_type=hub.repo_type)

Every request ends: what is not answered in a minute counts as not answered. Tiny: tests/test_upload.py.
"""

import errno
import logging
import re
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import tenacity
from huggingface_hub import HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

from granted.utils.errors import InputError


TIMEOUT = 60.0  # seconds until a silent connection counts as broken
ATTEMPTS, PATIENCE = 20, 240.0  # of one call: tries, and seconds after which there is no other
LONGEST_WAIT = 600.0  # seconds that the Hub may ask us to wait

_AGAIN = "run it again to go on"
_ADVICE = {
    408: _AGAIN,
    429: _AGAIN,
    401: "the token is not valid (any more): run `hf auth login`, or correct HF_TOKEN where it is set",
    402: "that account has to pay for it: choose another account, or `static` as a Space's SDK",
    403: "the token may not write there: run `hf auth login` with one that may, or choose another namespace",
    404: "check the name, and that the token may see it",
    409: "it was changed at the same time: run it again",
    412: "it was changed at the same time: run it again",
    413: "the Hub takes no file that large: split it",
}


class HubError(InputError):
    """A call that did not work.

    Attributes:
        status (`int`, *optional*): of HTTP; `None` where the Hub gave no answer, or another than it should.
        no_repository (`bool`): there is no such repository that the token may see.
    """

    def __init__(self, line: str, error: Exception):
        super().__init__(line)
        self.status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        self.no_repository = isinstance(error, RepositoryNotFoundError)


class Hub:
    """The Hub for a push to one repository, with the token that `hf auth login` stored.

    Args:
        repo_id (`str`), repo_type (`str`): the repository.
        report (`Callable`): called with a line each time that something is tried again.

    Raises:
        InputError: there is no token, or one that cannot be sent.
    """

    def __init__(self, repo_id: str, repo_type: str, report: Callable[[str], object]):
        self.repo_id, self.repo_type, self._report = repo_id, repo_type, report
        self._token = _stored_token()
        self.api = HfApi(token=self._token)
        # Where clients log addresses: those of the storage are signed.
        for name in ("httpx", "httpx2", "huggingface_hub.utils._http"):
            logging.getLogger(name).addFilter(_without_signatures)

    def ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method of `api` answers; it is called again where that may help, so it must bear it.

        Raises:
            HubError: it did not work.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=lambda state: max(_jitter(state), _seconds_to_wait(state.outcome.exception())),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE),
            before=lambda state: _limit_time(),
            before_sleep=self._report_retry,
            reraise=True,
        )
        try:
            return retrying(call, *args, **kwargs)
        except Exception as error:
            # Not `from error`: its message may hold a signed address, and whoever logs this one logs its cause.
            raise HubError(self._line(_reason(error)), _reason(error)) from None

    def _report_retry(self, state: tenacity.RetryCallState) -> None:
        said = self._said(_reason(state.outcome.exception()))
        self._report(f"{self.repo_id}: {said} from the Hub; trying again in {state.next_action.sleep:.0f} s")

    def _said(self, error: Exception) -> str:
        """What the Hub answered, or what came instead."""
        if isinstance(error, HfHubHTTPError):
            message = error.server_message or error.response.reason_phrase
            return f"got HTTP {error.response.status_code} ({_without_secrets(message, self._token)})"
        return f"got no proper answer ({_without_secrets(f'{type(error).__name__}: {error}', self._token)})"

    def _line(self, error: Exception) -> str:
        if isinstance(error, OfflineModeIsEnabled):
            return "got HF_HUB_OFFLINE in the environment, expected to reach the Hub: unset it"
        if _is_of_this_machine(error):
            place = f" at {error.filename}" if error.filename else ""
            return f"got '{error.strerror}'{place}, expected files that can be read and space to work: correct that"
        if isinstance(error, HfHubHTTPError):
            status, seconds = error.response.status_code, _seconds_to_wait(error)
            advice = _AGAIN if status >= 500 else _ADVICE.get(status, "correct that")
            wait = f"wait {seconds:.0f} s, then " if seconds else ""
            return f"{self._said(error)} from the Hub for {self.repo_id}, expected it to be accepted: {wait}{advice}"
        if isinstance(error, ValueError) and not _may_pass(error):
            said = _without_secrets(error, self._token)
            return f"got what the Hub does not take for {self.repo_id} ({said}): correct that"
        return f"{self._said(error)} from the Hub for {self.repo_id}: check the network, {_AGAIN}"


_jitter = tenacity.wait_random_exponential(max=30)


def _reason(error: Exception) -> Exception:
    """What "Error while uploading" is about."""
    while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _may_pass(error: BaseException) -> bool:
    """Whether trying again may help: a Hub in trouble, a broken connection, or an answer that is none of the Hub's.

    huggingface_hub, its HTTP library (httpx or httpx2, by version) and its storage library each raise their own, and
    what it raises about an answer that it cannot read may be anything; so what cannot pass is named here.
    """
    if not isinstance(error, Exception):  # Ctrl-C, or the end of the process
        return False
    error = _reason(error)
    if isinstance(error, ValueError) and isinstance(error.__cause__, HfHubHTTPError):  # "Invalid metadata"
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return (status in (408, 429) or status >= 500) and _seconds_to_wait(error) <= LONGEST_WAIT
    return not isinstance(error, OfflineModeIsEnabled | HFValidationError) and not _is_of_this_machine(error)


def _is_of_this_machine(error: Exception) -> bool:
    return isinstance(error, OSError) and (bool(error.filename) or error.errno in (errno.ENOSPC, errno.EDQUOT))


def _seconds_to_wait(error: Exception) -> float:
    """How long the Hub asks us to wait, 0 if it does not."""
    error = _reason(error)
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    limit, after = parse_ratelimit_headers(error.response.headers), error.response.headers.get("Retry-After", "")
    if error.response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    try:
        return float(after) if after.isdigit() else _seconds_until(parsedate_to_datetime(after))
    except (TypeError, ValueError):  # no date either
        return 0.0


def _seconds_until(date: datetime) -> float:
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _limit_time() -> None:
    """See that no request of huggingface_hub, most of which have no limit, waits for ever."""
    session = get_session()  # another one after a connection that could not be made
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = hooks | {"request": [*hooks["request"], _limit]}


def _limit(request: Any) -> None:
    """A hook of httpx, called with each request."""
    limits = request.extensions["timeout"]
    request.extensions["timeout"] = {kind: TIMEOUT if limit is None else limit for kind, limit in limits.items()}


def _stored_token() -> str:
    """The token that huggingface_hub will send."""
    try:
        token = get_token()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"got '{said}' while reading the stored token, expected one: run `hf auth login`") from None
    if not token:
        raise InputError("got no token for the Hub, expected one with write access: run `hf auth login`")
    if not token.isascii() or not token.isprintable():  # the HTTP library's error would quote the header
        raise InputError("got a token with characters that no token has, expected a valid one: run `hf auth login`")
    return token


def _without_secrets(said: object, token: str) -> str:
    """At most 300 characters in one line, without the token, headers, or the signatures in addresses."""
    text = " ".join(str(said).replace(token, "***").split())
    text = re.sub(r"(?i)\b(hf_|bearer |basic )[^\s'\"]+", "***", text)
    return re.sub(r"\?[^\s'\"]+", "", text)[:300]


def _without_signatures(record: logging.LogRecord) -> bool:
    """A filter of a logger, which lets every record pass and takes the queries out of addresses."""
    record.msg, record.args = re.sub(r"(\w://[^\s?'\"]+)\?[^\s'\"]+", r"\1", record.getMessage()), ()
    return True
