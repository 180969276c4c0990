"""A single connection to Redis; after an error it is closed and never reused."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from inspect import signature
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import (
    URL_QUERY_ARGUMENT_PARSERS,
    Connection,
    SSLConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from .roster_scripts import ROSTER_SCRIPTS
from .scripts import LOOK, PUBLISH

ANSWER_SECONDS = 3.0
"""Seconds to wait for a connection, or for all answers to one pipeline."""
OLDEST = (6, 2)
"""The oldest supported version of Redis."""

FORCED: dict[str, Any] = {
    "retry_on_timeout": False,
    "decode_responses": False,
    "protocol": 2,
    "driver_info": None,
}
"""Options of redis-py that a URL can't change."""

Command = Sequence[str | bytes | int]

FAILURES = (RedisError, OSError, EOFError, TimeoutError)
"""Exceptions of a connection."""
MOVED_ON = (MasterDownError, NoScriptError, ReadOnlyError)
"""Errors of a server that has restarted or is no longer the primary; reconnecting may help."""


URL_FORM = (
    "a broker is redis://[[user]:password@]host[:port][/database], the same with rediss:// (TLS), "
    "unix:///path/of.sock, or memory://"
)


def check_url(url: str) -> None:
    """Raise `ValueError` for a URL that redis-py rejects, or of which it would ignore a part.

    The error shows nothing of it but options that exist: anything else may be a password.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        plain = urlunsplit(parts._replace(query="", fragment=""))
        is_socket = parts.scheme == "unix"
        is_ignored = parts.port == 0 or (is_socket and bool(parts.hostname))
    except Exception:
        raise ValueError(URL_FORM) from None
    if is_ignored or "#" in url or not is_accepted(plain):
        raise ValueError(URL_FORM)
    names = [name for name, _ in options]
    if not is_socket and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        raise ValueError("the database must be a number, as in redis://host/0")
    if len({*names}) < len(names) or ("db" in names and parts.path.strip("/") and not is_socket):
        raise ValueError("an option, or the database, is there twice")
    if all(value for _, value in options) and is_accepted(url):
        return
    wrong = next(
        (
            name
            for name, value in options
            if not value or not is_accepted(f"{plain}?{urlencode({name: value})}")
        ),
        "",
    )
    which = f"the option {wrong}" if wrong in OPTIONS else "an option"
    raise ValueError(f"{which} does not exist here, or has a wrong value")


def is_accepted(url: str) -> bool:
    """Return whether redis-py accepts a URL."""
    try:
        Link(url)
    except Exception:
        return False
    return True


def parameters_of(kind: type) -> set[str]:
    """Return the names of all parameters of a class of redis-py."""
    return {name for each in kind.__mro__ for name in signature(each).parameters}


OPTIONS = {*URL_QUERY_ARGUMENT_PARSERS} | parameters_of(SSLConnection)
"""Names of options that redis-py knows, if not for every kind of connection."""


class TooOld(RedisError):
    """The server's version is too old."""


class Link:
    """A connection to Redis. It never retries: only the caller knows what is safe to repeat."""

    def __init__(self, url: str) -> None:
        """Raises an exception of any type for an invalid URL."""
        options: dict[str, Any] = dict(parse_url(url))
        kind = options.pop("connection_class", Connection)
        # We use one timeout for all answers. redis-py's is set for each answer, which is slow,
        # and its `wait_for` can miss a cancellation before Python 3.12.
        options |= FORCED | {"socket_timeout": None, "socket_connect_timeout": None}
        # No retries: redis-py would repeat a command whose answer is late, and send a message twice.
        self._connection = kind(retry=Retry(NoBackoff(), 0), **options)

    async def connect(self) -> None:
        """Connect, check the version, and load the scripts, which a restarted Redis has lost.

        Raises one of `FAILURES`.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.connect()
        info = bytes(await self.request("INFO", "server"))
        version = dict(line.split(b":", 1) for line in info.split() if b":" in line)
        numbers = version.get(b"redis_version", b"0").decode().split(".")
        if tuple(int(number) for number in numbers[:2]) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise TooOld(f"Redis {'.'.join(numbers)} is too old, {oldest} is needed")
        for script in (PUBLISH, LOOK, *ROSTER_SCRIPTS):
            await self.request("SCRIPT", "LOAD", script)

    async def request(self, *command: str | bytes | int) -> Any:
        """Send a command and return the answer; raises one of `FAILURES`."""
        (answer,) = await self.pipeline([command])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def request_packed(self, packed: bytes) -> Any:
        """Send a packed command and return the answer; raises like `request`."""
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.send_packed_command([packed])
            return await self._connection.read_response()

    async def pipeline(self, commands: Iterable[Command]) -> list[Any]:
        """Send commands together and return the answers; any of them may be a `ResponseError`."""
        commands = list(commands)
        packed = self._connection.pack_commands(commands)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.send_packed_command(packed)
            return [await self._answer() for _ in commands]

    async def close(self) -> None:
        """Close the connection without waiting for the server."""
        await self._connection.disconnect(nowait=True)

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error


def explain(error: BaseException) -> str:
    """Return why a connection failed, for the log; redis-py's texts have no password."""
    if type(error) is TimeoutError:
        return "it doesn't answer"
    reason, _, _ = str(error).partition(" script: ")
    return reason.rstrip(".") or type(error).__name__


async def reap(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it is done; its exception is not raised."""
    task.cancel()
    await asyncio.wait([task])
