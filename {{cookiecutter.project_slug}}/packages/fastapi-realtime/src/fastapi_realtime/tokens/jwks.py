"""The keys of `APP_AUTH_KEY`, and JSON Web Key Sets (RFC 7517), which are refreshed."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from itertools import chain
from math import inf
from pathlib import Path
from threading import Thread
from typing import Any

import jwt

from . import download
from .download import check_url, fetch, is_url
from .keys import Key, Loaded, NoSecretError, check_key, parse_jwks, read_key_file

READ_AGAIN_SECONDS = 30
"""Minimum seconds between two attempts to read a JWKS; also the maximum age of a file."""
KEEP_SECONDS = 86_400
"""Seconds for which keys stay valid after the last successful read."""
LEEWAY_SECONDS = 5
"""Seconds that the clock of who signs tokens may be ahead; `exp` is exact, see `verify`."""

Clock = Callable[[], float]

logger = logging.getLogger(__name__)


class Jwks:
    """The keys of a file or a URL, read in a thread when first needed.

    They are read again for a token that no known key fits, which waits for it, and in the
    background after `max_age` seconds. If reading fails, keys are kept for `KEEP_SECONDS`.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], str],
        algorithms: Sequence[str],
        max_age: float,
        clock: Clock,
    ) -> None:
        """`name` is for the log. `read` returns JSON, and may block."""
        self.algorithms = algorithms
        self._name = name
        self._read = read
        self._max_age = max_age
        self._clock = clock
        self._keys: tuple[Key, ...] | None = None
        self._began_at = self._ended_at = self._read_at = -inf
        self._reading: asyncio.Task[None] | None = None
        self._loading: Future[Loaded] | None = None
        self._warned: tuple[str, str] | None = None

    @property
    def is_available(self) -> bool:
        """Whether the keys have been read; there may be none."""
        return self._keys is not None

    def find(self, kid: str | None) -> list[Key]:
        """Return the known keys that may have signed a token with this `kid`; for `None`, all.

        Starts a read in the background after `max_age`. After `2 * max_age` without an attempt
        to read, it returns no keys until there was one.
        """
        now = self._clock()
        if now - self._read_at >= KEEP_SECONDS:
            self._keys = None
        if now - self._read_at >= self._max_age:
            self._read_again()
        # A key that was withdrawn while no token was checked must not be used once more.
        if now - self._ended_at >= 2 * self._max_age:
            return []
        return [key for key in self._keys or () if kid is None or key.kid in (kid, None)]

    def read_for(self, kid: str | None) -> asyncio.Task[None] | None:
        """Read the keys again unless this `kid` is known; return the task to wait for, if any.

        Other callers wait for the same task, so it must not be cancelled.
        """
        if kid is None or not any(key.kid == kid for key in self._keys or ()):
            self._read_again()
        return None if self._reading is None or self._reading.done() else self._reading

    def _read_again(self) -> None:
        """Start reading, at most every `READ_AGAIN_SECONDS`, unless an attempt is running."""
        now = self._clock()
        is_reading = self._reading is not None and not self._reading.done()
        if not is_reading and now - self._began_at >= READ_AGAIN_SECONDS:
            self._began_at = now
            self._reading = asyncio.create_task(self._replace_keys(now))

    async def _replace_keys(self, now: float) -> None:
        try:
            async with asyncio.timeout(download.TIMEOUT):
                keys, left_out = await asyncio.wrap_future(self._load())
        except (OSError, HTTPException, ValueError) as failure:
            self._warn("keys could not be read", str(failure) or type(failure).__name__)
        else:
            self._keys, self._read_at = tuple(keys), now
            nothing = () if keys else ("no key is left",)
            self._warn("keys were left out", "; ".join((*left_out, *nothing)))
        finally:
            self._ended_at = now

    def _load(self) -> Future[Loaded]:
        """Load the keys in a thread; if the last thread hangs, wait for it instead."""
        if self._loading is None or self._loading.done():
            self._loading = in_daemon_thread(lambda: parse_jwks(self._read(), self.algorithms))
        return self._loading

    def _warn(self, message: str, reason: str) -> None:
        """Log a warning if there is a reason, unless the last warning was the same."""
        warning = (message, reason)
        if reason and warning != self._warned:
            logger.warning(message, extra={"source": self._name, "reason": reason})
        self._warned = warning


def in_daemon_thread(load: Callable[[], Loaded]) -> Future[Loaded]:
    """Call a function in a new daemon thread.

    If it hangs, it does not block the default executor, and the process can exit.
    """
    future: Future[Loaded] = Future()
    future.set_running_or_notify_cancel()  # so that it can't be cancelled

    def run() -> None:
        try:
            future.set_result(load())
        except Exception as failure:
            future.set_exception(failure)

    Thread(target=run, name="jwks", daemon=True).start()
    return future


MAX_KEYS = 20
MAX_URL_AGE = 3600
"""Maximum age of the JWKS of a URL in seconds; then it is read again, and withdrawn keys end."""


class KeysNotAvailableError(Exception):
    """The keys that a token needs could not be read yet."""


class UnknownKeyError(jwt.InvalidTokenError):
    """There is no key for the algorithm and the `kid` of a token."""


class KeySet:
    """The keys of `APP_AUTH_KEY`: fixed ones, and those of its JWKS."""

    def __init__(self, text: str, algorithms: Sequence[str], clock: Clock = time.monotonic) -> None:
        """Raises a `ValueError` that says what is wrong; it never shows a key."""
        items = [item.strip() for item in text.split(",") if item.strip()]
        if not items:
            raise NoSecretError("it is missing")
        if len(items) > MAX_KEYS:
            raise ValueError(f"there are {len(items)} keys; at most {MAX_KEYS} are allowed")
        self.keys: list[Key] = []
        self.sources: list[Jwks] = []
        self._algorithms = algorithms
        self._clock = clock
        for number, item in enumerate(items, 1):
            where = f"key {number} of {len(items)}, split at commas: " if len(items) > 1 else ""
            try:
                self._add(item)
            except ValueError as problem:
                kind = NoSecretError if isinstance(problem, NoSecretError) else ValueError
                raise kind(f"{where}{problem}") from None
        self._check_algorithms()

    async def decode(self, token: str, audience: str | None) -> dict[str, Any]:
        """Return the claims of a token signed with one of the keys.

        Only `alg` and `kid` of the token's header are used: a token can't name a URL for its key.
        Raises `KeysNotAvailableError`, or what `jwt.decode` raises for an invalid token.
        """
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        sources = [each for each in self.sources if header.get("alg") in each.algorithms]
        known = (key for source in sources for key in source.find(kid))
        claims = decode_with(chain(self.keys, known), token, audience)
        if claims is None:
            claims = await decode_after_reading(sources, kid, token, audience)
        if claims is not None:
            return claims
        if not all(source.is_available for source in sources):
            raise KeysNotAvailableError
        if not self.keys and not any(source.find(kid) for source in sources):
            raise UnknownKeyError
        raise jwt.InvalidSignatureError

    def _add(self, item: str) -> None:
        if is_url(item):
            check_url(item)
            # Anyone who can read the URL would know the secret.
            names = [name for name in self._algorithms if not name.startswith("HS")]
            self._add_source(item.partition("?")[0], partial(fetch, item), names, MAX_URL_AGE)
        elif item.startswith("file:"):
            self._add_file(Path(item.removeprefix("file:")))
        else:
            self.keys.append(check_key(item, self._algorithms))

    def _add_file(self, path: Path) -> None:
        try:
            text = read_key_file(path)
        except (OSError, UnicodeDecodeError) as failure:
            raise ValueError(f"the file cannot be read: {failure}") from None
        # A truncated JWKS is an error; it must never be used as a secret.
        if not text.startswith(("{", "[")):
            self.keys.append(check_key(text, self._algorithms))
            return
        keys, left_out = parse_jwks(text, self._algorithms)
        if not keys:
            raise ValueError("; ".join(["this JWKS has no key that can be used", *left_out]))
        self._add_source(
            str(path), partial(read_key_file, path), self._algorithms, READ_AGAIN_SECONDS
        )

    def _add_source(
        self, name: str, read: Callable[[], str], algorithms: Sequence[str], max_age: float
    ) -> None:
        self.sources.append(Jwks(name, read, algorithms, max_age, self._clock))

    def _check_algorithms(self) -> None:
        """Reject algorithms without a key, and URLs without a usable algorithm."""
        if not all(source.algorithms for source in self.sources):
            raise ValueError(
                "a URL has public keys; APP_AUTH_ALGORITHMS must name theirs, for example RS256"
            )
        lists = [each.algorithms for each in (*self.keys, *self.sources)]
        for name in self._algorithms:
            if not any(name in algorithms for algorithms in lists):
                raise ValueError(f"there is no key for {name} of APP_AUTH_ALGORITHMS")


async def decode_after_reading(
    sources: Iterable[Jwks], kid: str | None, token: str, audience: str | None
) -> dict[str, Any] | None:
    """Return the claims of a token once any source has its key; `None` if none has."""
    waiting = {task: source for source in sources if (task := source.read_for(kid))}
    while waiting:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        found = [key for task in done for key in waiting.pop(task).find(kid)]
        if (claims := decode_with(found, token, audience)) is not None:
            return claims
    return None


def decode_with(keys: Iterable[Key], token: str, audience: str | None) -> dict[str, Any] | None:
    """Return the claims of a token; `None` if none of the keys has signed it."""
    for key in keys:
        with suppress(jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            return jwt.decode(
                token,
                key.value,
                algorithms=key.algorithms,
                audience=audience,
                options={"require": ["exp", "sub"]},
                leeway=LEEWAY_SECONDS,
            )
    return None
