"""The keys of `APP_AUTH_KEY`: secrets, public keys, and JSON Web Key Sets (JWKS, RFC 7517)."""

import asyncio
import http.client
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener, getproxies

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from fastapi import HTTPException

Algorithm = Literal[
    Literal["HS256", "HS384", "HS512"],
    Literal["RS256", "RS384", "RS512"],
    Literal["PS256", "PS384", "PS512"],
    Literal["ES256", "ES384", "ES512"],
    "EdDSA",
]
"""Signature algorithms (RFC 7518 §3.1, RFC 8037)."""

MAX_KEY_BYTES = 65_536
"""Maximum size of a file or a response with keys."""
TIMEOUT = 5.0
"""Maximum seconds that tokens wait for a JWKS."""
READ_AGAIN_SECONDS = 30
"""Minimum seconds between two attempts to read a JWKS; also the maximum age of a file."""
MAX_URL_AGE = 3600
"""Maximum age of the JWKS of a URL in seconds; then it is read again, and withdrawn keys end."""
KEEP_SECONDS = 86_400
"""Seconds for which keys stay valid after the last successful read."""
LEEWAY_SECONDS = 5
"""Seconds that the clock of who signs tokens may be ahead; `exp` is exact, see `verify`."""

EXAMPLE = re.compile(b"change|example|secret|password|at-least|your-|12345", re.IGNORECASE)
"""Parts of example secrets in documentation; a secret with one of them is rejected."""

Clock = Callable[[], float]

logger = logging.getLogger(__name__)


class NoSecretError(ValueError):
    """There is no key, or one that anybody could guess."""


@dataclass(frozen=True)
class Key:
    """A parsed key (`bytes` if it is a secret), its algorithms, and its `kid` if it has one."""

    value: Any = field(repr=False)
    algorithms: tuple[str, ...]
    kid: object = None


def prepare_key(load: Callable[[str], Any], algorithms: Sequence[str], kid: object = None) -> Key:
    """Return a key for those of the algorithms that fit its type.

    A public key is never used as a secret, whatever `alg` a token has. `load` returns the key
    for the name of an algorithm. Raises a `ValueError` if it fits none of them, or is too weak: a
    secret must be as long as its hash, an RSA key must have 2048 bits (RFC 7518 §3).
    """
    fitting: dict[str, Any] = {}
    for name in algorithms:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            fitting[name] = key = algorithm.prepare_key(load(name))
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, UnsupportedAlgorithm):
            continue  # a key of another type
        if isinstance(key, bytes) and (len(set(key)) < 10 or EXAMPLE.search(key)):
            raise NoSecretError("this looks like an example")
        if problem := algorithm.check_key_length(key):
            raise ValueError(problem)
    if not fitting:
        names = ", ".join(algorithms) or "any"
        raise ValueError(f"this is not a key for {names} of APP_AUTH_ALGORITHMS")
    return Key(next(iter(fitting.values())), tuple(fitting), kid)


def read_key_file(path: Path) -> str:
    """Return the text of a key file; raises `ValueError` if it can't be read, or is too large."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may have no end
            raise ValueError("the file of the key is not a regular file")
        with path.open("rb") as file:
            return limited_text(file.read(MAX_KEY_BYTES + 1))
    except (OSError, UnicodeDecodeError) as failure:
        raise ValueError(f"the file cannot be read: {failure}") from None


class NoRedirects(HTTPRedirectHandler):
    """Makes redirects errors: they could lead to plain HTTP."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Return no request."""


def fetch(url: str) -> str:
    """Return the text at a URL; raises `OSError`, `http.client.HTTPException` or `ValueError`."""
    # A proxy could read and change plain HTTP.
    proxies = {scheme: proxy for scheme, proxy in getproxies().items() if scheme == "https"}
    # Some providers reject urllib's default User-Agent.
    headers = {"Accept": "application/json", "User-Agent": __name__.partition(".")[0]}
    opener = build_opener(NoRedirects, ProxyHandler(proxies))
    content, deadline = b"", time.monotonic() + TIMEOUT
    with opener.open(Request(url, headers=headers), timeout=TIMEOUT) as response:
        while part := response.read1(MAX_KEY_BYTES + 1 - len(content)):
            content += part
            if time.monotonic() > deadline:  # the timeout is for each part; don't keep the thread
                raise TimeoutError("the response took too long")
    return limited_text(content)


def limited_text(content: bytes) -> str:
    """Return the text of a file or a response; raises `ValueError` if it is too large."""
    if len(content) > MAX_KEY_BYTES:
        raise ValueError(f"there are more than {MAX_KEY_BYTES} bytes")
    return content.decode("utf-8-sig").strip()


def check_url(url: str) -> None:
    """Raise a `ValueError` for an invalid URL, or for `http://` to another machine."""
    try:
        parts = urlsplit(url)
        is_well_formed = bool(re.fullmatch("[!-~]+", url) and parts.hostname and parts.port != 0)
    except ValueError:
        is_well_formed = False
    if not is_well_formed or "@" in parts.netloc:
        raise ValueError("this is not a URL like https://login.example.com/jwks.json")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("keys are read from https:// URLs; http:// is for this machine alone")


def parse_jwks(text: str, algorithms: Sequence[str]) -> tuple[list[Key], list[str]]:
    """Return the usable keys, and for each other entry the reason why it is not.

    Raises a `ValueError` if the text is not a JWKS (RFC 7517 §5).
    """
    try:
        entries = json.loads(text)["keys"]
    except (KeyError, RecursionError, TypeError, ValueError):
        entries = None
    if not isinstance(entries, list):
        raise ValueError('this is not a JWKS, which looks like {"keys": [...]}')
    keys, left_out = [], []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(key_of(entry, algorithms))
        except ValueError as problem:
            left_out.append(f"key {number}: {problem}")
    return keys, left_out


def key_of(entry: Any, algorithms: Sequence[str]) -> Key:
    """Return the key of a JWKS entry (RFC 7517 §4), or raise a `ValueError`."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        raise ValueError("this is not a key for signatures")
    if {"d", "p", "q", "dp", "dq", "qi", "oth"} & entry.keys():
        raise ValueError("this is a private key")
    names = [name for name in algorithms if entry.get("alg", name) == name]
    return prepare_key(lambda name: jwt.PyJWK(entry, name).key, names, entry.get("kid"))


@dataclass(eq=False)
class Jwks:
    """The keys of a file or a URL, read in a thread when first needed.

    They are read again for a token that no known key fits, which waits for it, and in the
    background after `max_age` seconds. If reading fails, keys are kept for `KEEP_SECONDS`.
    `name` is for the log.
    """

    name: str
    read: Callable[[], str] = field(repr=False)
    algorithms: Sequence[str]
    max_age: float
    clock: Clock
    keys: list[Key] | None = None
    tried_at: float = -inf  # when the last attempt that has ended began
    read_at: float = -inf  # the same of the last one that was successful
    reading: asyncio.Task["Jwks"] | None = None
    warned: str = ""

    def find(self, kid: str | None) -> list[Key]:
        """Return the known keys that may have signed a token with this `kid`; for `None`, all.

        Starts to read them again in the background after `max_age`.
        """
        now = self.clock()
        if now - self.read_at >= KEEP_SECONDS:
            self.keys = None
        if now - self.read_at >= self.max_age:
            self.read_again()
        # Keys may have been withdrawn while no token was checked for long.
        keys = self.keys if self.keys and now - self.tried_at < 2 * self.max_age else []
        return [key for key in keys if kid is None or key.kid in (kid, None)]

    def read_again(self, kid: str | None = None) -> "asyncio.Task[Jwks] | None":
        """Read the keys again unless this `kid` is known; return the task to wait for, if any.

        They are read at most every `READ_AGAIN_SECONDS`. All callers wait for the same task, so
        it must not be cancelled. Its result is `self`.
        """
        is_known = kid is not None and any(key.kid == kid for key in self.keys or ())
        is_due = self.clock() - self.tried_at >= READ_AGAIN_SECONDS
        if self.reading is None and is_due and not is_known:
            self.reading = asyncio.create_task(self._replace_keys(self.clock()))
        return self.reading

    async def _replace_keys(self, now: float) -> "Jwks":
        message, reason = "keys were left out", ""
        try:
            async with asyncio.timeout(TIMEOUT):
                text = await asyncio.to_thread(self.read)
            self.keys, left_out = parse_jwks(text, self.algorithms)
            self.read_at = now
            reason = "; ".join(left_out if self.keys else [*left_out, "no key is left"])
        except (OSError, http.client.HTTPException, ValueError) as failure:
            message, reason = "keys could not be read", str(failure) or type(failure).__name__
        finally:
            self.tried_at, self.reading = now, None
        if reason and reason != self.warned:
            logger.warning(message, extra={"source": self.name, "reason": reason})
        self.warned = reason
        return self


class KeySet:
    """The keys of `APP_AUTH_KEY`: fixed ones, and those of its JWKS."""

    def __init__(self, text: str, algorithms: Sequence[str], clock: Clock = time.monotonic) -> None:
        """Raises a `ValueError` that says what is wrong; it never shows a key."""
        items = [item.strip() for item in text.split(",") if item.strip()]
        self.keys: list[Key] = []
        self.sources: list[Jwks] = []
        self._algorithms = algorithms
        self._clock = clock
        for number, item in enumerate(items or [""], 1):
            try:
                self._add(item)
            except ValueError as problem:
                where = f"key {number} of {len(items)}, split at commas: " if items[1:] else ""
                raise type(problem)(f"{where}{problem}") from None
        known = {name for each in (*self.keys, *self.sources) for name in each.algorithms}
        if missing := [name for name in algorithms if name not in known]:
            raise ValueError(f"there is no key for {', '.join(missing)} of APP_AUTH_ALGORITHMS")

    def _add(self, item: str) -> None:
        if re.match("https?://", item, re.IGNORECASE):
            check_url(item)
            # Anyone who can read the URL would know a secret.
            public = [name for name in self._algorithms if not name.startswith("HS")]
            if not public:
                raise ValueError("a URL has public keys, for example for RS256")
            name, read = item.partition("?")[0], partial(fetch, item)
            self.sources.append(Jwks(name, read, public, MAX_URL_AGE, self._clock))
            return
        if item.startswith("file:"):
            name = item.removeprefix("file:")
            read = partial(read_key_file, Path(name))
            item = read()
            # A truncated JWKS is an error; it must never be used as a secret.
            if item.startswith(("{", "[")):
                keys, left_out = parse_jwks(item, self._algorithms)
                if not keys:
                    problems = ["this JWKS has no key that can be used", *left_out]
                    raise ValueError("; ".join(problems))
                jwks = Jwks(name, read, self._algorithms, READ_AGAIN_SECONDS, self._clock)
                self.sources.append(jwks)
                return
        if not item:
            raise NoSecretError("it is missing or empty")
        if "PRIVATE KEY" in item:
            raise ValueError("this is a private key; the server needs the public one")
        self.keys.append(prepare_key(lambda algorithm: item, self._algorithms))

    async def decode(self, token: str, audience: str | None) -> dict[str, Any]:
        """Return the claims of a token signed with one of the keys.

        Only `alg` and `kid` of the token's header are used: a token can't name a URL for its key.
        Raises a 503 if keys could not be read yet, `jwt.InvalidKeyError` if none has this `kid`,
        or what `jwt.decode` raises for an invalid token.
        """
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        sources = [each for each in self.sources if header.get("alg") in each.algorithms]
        known = (key for source in sources for key in source.find(kid))
        if (claims := decode_with(chain(self.keys, known), token, audience)) is not None:
            return claims
        waiting = [task for source in sources if (task := source.read_again(kid))]
        for reading in asyncio.as_completed(waiting):
            source = await reading
            if (claims := decode_with(source.find(kid), token, audience)) is not None:
                return claims
        if any(source.keys is None for source in sources):
            seconds = {"Retry-After": str(READ_AGAIN_SECONDS)}
            raise HTTPException(503, "keys are not available", seconds)
        if not self.keys and not any(source.find(kid) for source in sources):
            raise jwt.InvalidKeyError
        raise jwt.InvalidSignatureError


def decode_with(keys: Iterable[Key], token: str, audience: str | None) -> dict[str, Any] | None:
    """Return the claims of a token; `None` if none of the keys has signed it."""
    for key in keys:
        with suppress(jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
            return jwt.decode(
                token, key.value, key.algorithms, audience=audience, leeway=LEEWAY_SECONDS
            )
    return None
