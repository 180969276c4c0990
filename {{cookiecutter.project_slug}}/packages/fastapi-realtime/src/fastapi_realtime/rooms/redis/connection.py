"""Connections to Redis: one, one that is kept up, and one to run commands on; and their health."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ..broker import BrokerUnavailable
from .scripts import SCRIPTS, Keys

logger = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that a member or a publisher waits for Redis."""
ANSWER_SECONDS = 3.0
"""Seconds to wait for a connection, or for all answers to one pipeline."""
FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds between two attempts to connect: the first delay, and the longest."""
REPORT_SECONDS = 60.0
"""Minimum seconds between log lines about the same room, or the same reason."""
MAX_REPORTS = 100
"""Rooms and reasons that are remembered for that."""
CHANGED_KEYS = "another program has changed its keys; it begins a new epoch"
"""Why a room is broken."""
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
        self.server = ""
        """The name of this instance of Redis; a restart or a failover leads to another."""

    async def connect(self) -> None:
        """Connect, check the version, and load the scripts, which a restarted Redis has lost.

        Raises one of `FAILURES`.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.connect()
        self.server, version = read_info(await self.request("INFO", "server"))
        if version < OLDEST:
            found, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
            raise RedisError(f"Redis {found} is too old, {oldest} is needed")
        for answer in await self.pipeline([("SCRIPT", "LOAD", script) for script in SCRIPTS]):
            if isinstance(answer, ResponseError):
                raise answer

    async def request(self, *command: str | bytes | int) -> Any:
        """Send a command and return the answer; raises one of `FAILURES`."""
        (answer,) = await self.pipeline([command])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def pipeline(self, commands: Iterable[Command], seconds: float = 0.0) -> list[Any]:
        """Send commands together and return the answers; any of them may be a `ResponseError`.

        Raises `TimeoutError` if they don't arrive within some seconds, by default `ANSWER_SECONDS`.
        """
        commands = list(commands)
        async with asyncio.timeout(seconds or ANSWER_SECONDS):
            await self.send(commands)
            return [await self.receive() for _ in commands]

    async def send(self, commands: Iterable[Command]) -> None:
        """Send commands without waiting for the answers."""
        await self._connection.send_packed_command(self._connection.pack_commands(commands))

    async def receive(self) -> Any:
        """Wait for an answer, which may be a `ResponseError`."""
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Close the connection without waiting for the server."""
        await self._connection.disconnect(nowait=True)


def read_info(info: bytes | str) -> tuple[str, tuple[int, ...]]:
    """Return the name of an instance of Redis, and its version."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    fields = dict(line.split(":", 1) for line in text.split() if ":" in line)
    numbers = fields.get("redis_version", "0").split(".")
    version = tuple(int(number) if number.isdecimal() else 0 for number in numbers[:2])
    return fields.get("run_id", "")[:16], version


class Commands:
    """Runs commands that can safely be repeated, for one caller at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands and return the answers; any of them may be a `ResponseError`.

        Raises `BrokerUnavailable` if they do not arrive within `PATIENCE` seconds.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                try:
                    return await self._run_once(commands)
                except FAILURES:  # the server may have closed the idle connection
                    return await self._run_once(commands)
        except FAILURES:
            raise BrokerUnavailable from None

    async def close(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _run_once(self, commands: tuple[Command, ...]) -> list[Any]:
        try:
            if self._link is None:
                self._link = Link(self._url)
                await self._link.connect()
            answers = await self._link.pipeline(commands)
            raise_moved_on(answers)
            return answers
        except BaseException:
            await self.close()
            raise


class Health:
    """Keeps track of what fails; logs one line whenever that changes."""

    def __init__(self, *parts: str) -> None:
        """All parts count as failing until they report that they work."""
        self._failing = {*parts}
        self._is_reported = False
        self._reports: dict[tuple[str, str], float] = {}

    @property
    def is_good(self) -> bool:
        """Whether everything works."""
        return not self._failing

    def is_working(self, part: str) -> bool:
        """Return whether a part has worked since its last failure."""
        return part not in self._failing

    def works(self, part: str) -> None:
        """Record that a part works."""
        self._failing.discard(part)
        if self._is_reported and not self._failing:
            self._is_reported = False
            logger.info("Redis is available again")

    def fails(self, part: str, error: BaseException) -> None:
        """Record that a part fails."""
        self._failing.add(part)
        if not self._is_reported:
            self._is_reported = True
            logger.warning("Redis is not available", extra={"reason": explain(error)})

    def refuses(self, what: str, room: str, error: BaseException) -> None:
        """Log that Redis has rejected something in a room."""
        self._report(what, reason=explain(error), room=room)

    def limits(self, address: str, room: str) -> None:
        """Log that a room was refused to an address that has stored too much."""
        self._report("an address has stored too much in Redis", address=address, room=room)

    def breaks(self, room: str, reason: str) -> None:
        """Log that Redis has something wrong in a room."""
        self._report("a room is broken in Redis", room=room, reason=reason)

    def _report(self, message: str, **fields: str) -> None:
        """Log the same message about a room, or for a reason, once in `REPORT_SECONDS`."""
        key, now = (message, next(iter(fields.values()))), time.monotonic()
        if now - self._reports.get(key, -REPORT_SECONDS) >= REPORT_SECONDS:
            self._reports.pop(key, None)
            self._reports[key] = now
            if len(self._reports) > MAX_REPORTS:
                del self._reports[next(iter(self._reports))]
            logger.warning(message, extra=fields)


class Shared(NamedTuple):
    """What the parts of a broker have in common."""

    url: str
    process: str
    """The name of this process."""
    keys: Keys
    history_length: int
    health: Health


async def keep_connected(
    shared: Shared,
    part: str,
    work: Callable[[Link], Awaitable[None]],
    note_failure: Callable[[], None] = lambda: None,
) -> None:
    """Connect and run `work`; whenever that fails, connect again.

    Delays grow until `work` reports to `health` that `part` works.
    """
    delays, health = backoff(), shared.health
    while True:
        link = Link(shared.url)
        try:
            await link.connect()
            await work(link)
        except Exception as error:
            delays = backoff() if health.is_working(part) else delays
            health.fails(part, error)
            if not isinstance(error, FAILURES):  # a bug
                logger.exception("failed to %s", part)
        finally:
            await link.close()
        note_failure()
        await asyncio.sleep(next(delays))


def backoff() -> Iterator[float]:
    """Yield the delays between attempts, with jitter so that processes don't reconnect together."""
    delay = FIRST_DELAY
    while True:
        yield random.uniform(delay / 2, delay)
        delay = min(2 * delay, LAST_DELAY)


def raise_moved_on(answers: Iterable[Any]) -> None:
    """Raise the first answer that says that another connection is needed."""
    for answer in answers:
        if isinstance(answer, MOVED_ON):
            raise answer


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
