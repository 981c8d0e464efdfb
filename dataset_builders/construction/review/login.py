"""Who may log in: a file, or an environment variable, of `name:hash` lines. Passwords themselves are stored nowhere.

    users = Users.read("users.txt")
    users.allows("ana", "a password")     # what gradio asks
    granted data review RUN --users-file users.txt --add-user ana

Tests: tests/test_review_command.py.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .decisions import check_name
from .refusal import ReviewError


VARIABLE = "REVIEW_USERS"
COST = {"n": 2**14, "r": 8, "p": 1}  # of scrypt: 16 MiB and some hundredths of a second
SHORTEST = 8
TRIES, WAIT = 5, 300.0  # wrong passwords for a name from an address in so many seconds, and no other is looked at
MOST_KEPT = 10_000  # names and addresses
ADDRESS: ContextVar[str] = ContextVar("ADDRESS", default="")  # of who is asking now


def hashed(password: str) -> str:
    """What is stored instead of a password: `scrypt$SALT$HASH`, in base64.

    Raises:
        ReviewError: the password is shorter than 8 characters.
    """
    if len(password) < SHORTEST:
        raise ReviewError(f"got a password of {len(password)} characters, expected at least {SHORTEST}")
    salt = secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, **COST)
    return "$".join(["scrypt", *(base64.b64encode(part).decode() for part in (salt, key))])


class Users:
    """Names and hashes of passwords.

    Args:
        lines (`str`): `name:hash` lines; empty ones and those that begin with `#` are passed over.
        place (`str`): where they come from, for messages.

    Raises:
        ReviewError: there is none, or a line is malformed; the message does not show it.
    """

    def __init__(self, lines: str, place: str):
        self._hashes: dict[str, tuple[bytes, bytes]] = {}
        for number, line in enumerate(lines.splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, stored = line.strip().rpartition(":")
            try:
                kind, salt, key = stored.split("$")
                if kind != "scrypt":
                    raise ValueError
                salted = base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True)
                self._hashes[check_name(name)] = salted
            except ValueError:
                raise ReviewError(
                    f"got line {number} of {place} that is not name:hash, expected a line that --add-user writes"
                ) from None
        if not self._hashes:
            raise ReviewError(f"got {place} with no user, expected one at least: add some by --add-user NAME")

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Users":
        """The users of a file."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ReviewError(f"got '{error}' with {path}, expected a file of users: make it by --add-user") from error

    @classmethod
    def from_environment(cls) -> "Users | None":
        """The users in the environment variable REVIEW_USERS; `None` where it is not set."""
        lines = os.environ.get(VARIABLE, "")
        return cls(lines, f"the environment variable {VARIABLE}") if lines.strip() else None

    def names(self) -> list[str]:
        """Who may log in."""
        return list(self._hashes)

    def allows(self, name: str, password: str) -> bool:
        """Whether a name and a password belong together; takes as long for a name that is unknown."""
        salt, key = self._hashes.get(name.strip(), (b"0" * 16, b""))
        given = hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, **COST)
        return hmac.compare_digest(given, key)


class Door:
    """Users of whom nobody can guess passwords in a hurry: what gradio asks, one for a page.

    A try is counted by name and address, so that nobody is kept out by tries from elsewhere; behind a proxy that does
    not say where a request comes from, by name alone.

    Args:
        users ([`Users`]): who may log in.
        clock (`Callable`, defaults to `time.monotonic`): the seconds now.
    """

    def __init__(self, users: Users, clock: Callable[[], float] = time.monotonic):
        self._users, self._clock = users, clock
        self._failed: dict[tuple[str, str], list[float]] = {}

    def allows(self, name: str, password: str) -> bool:
        """As of [`Users`], and not before the wait after too many wrong passwords is over."""
        key, now = (name.strip(), _network(ADDRESS.get())), self._clock()
        failed = [then for then in self._failed.pop(key, []) if now - then < WAIT]
        allowed = len(failed) < TRIES and self._users.allows(name, password)
        if not allowed:
            self._failed[key] = failed if len(failed) >= TRIES else [*failed, now]
            if len(self._failed) > MOST_KEPT:
                del self._failed[next(iter(self._failed))]  # the one that was last tried the longest ago
        return allowed


class KnownAddress:
    """Between server and page: says in ADDRESS where a request comes from, which gradio's login does not."""

    def __init__(self, app: Callable):
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        ADDRESS.set((scope.get("client") or ("",))[0])
        await self._app(scope, receive, send)


def _network(address: str) -> str:
    """An address; of IPv6 its network, of which anybody has as many addresses as they want."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((known, 64), strict=False)) if known.version == 6 else address


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_login(host: str, users: Users | None) -> None:
    """Refuse to serve others without a login.

    Raises:
        ReviewError: the address can be reached from other machines, and there are no users.
    """
    if users is None and not is_loopback(host):
        raise ReviewError(
            f"got host {host} without users, expected a login where others reach the page: "
            f"give --users-file, or set {VARIABLE} (name:hash lines, which --add-user makes)"
        )
