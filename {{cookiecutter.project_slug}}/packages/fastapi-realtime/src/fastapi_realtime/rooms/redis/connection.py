"""Connections that are kept up, and connections to run commands on; and their health."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from ..broker import BrokerUnavailable
from .scripts import Command, Keys
from .servers import FAILURES, Link, Servers, raise_moved_on

logger = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that a member or a publisher waits for Redis."""
FIRST_DELAY, LAST_DELAY = 0.1, 10.0
"""Seconds between two attempts to connect: the first delay, and the longest."""
REPORT_SECONDS = 60.0
"""Minimum seconds between log lines about the same room, or the same reason."""
MAX_REPORTS = 100
"""Rooms and reasons that are remembered for that."""
CHANGED_KEYS = "another program has changed its keys; they are made anew"
"""Why a room is broken."""


class Commands:
    """Runs commands that can safely be repeated, for one caller at a time."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._link: Link | None = None
        self._lock = asyncio.Lock()

    async def run(self, *commands: Command) -> list[Any]:
        """Run commands and return the answers; any of them may be a `ResponseError`.

        Raises `BrokerUnavailable` if they do not arrive within `PATIENCE` seconds.
        """
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                try:
                    return await self.run_once(*commands)
                except FAILURES:  # the server may have closed the idle connection
                    return await self.run_once(*commands)
        except FAILURES:
            raise BrokerUnavailable from None

    async def run_once(self, *commands: Command) -> list[Any]:
        """Do the same, but raise one of `FAILURES` at the first failure, which ends the connection."""
        try:
            if self._link is None:
                self._link = self._servers.link()
                await self._link.connect()
            answers = await self._link.pipeline(commands)
            raise_moved_on(answers)
            return answers
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()


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

    servers: Servers
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

    Delays grow until `work` reports to `health` that `part` works; they vary, so that processes
    don't reconnect together.
    """
    delay, health = FIRST_DELAY, shared.health
    while True:
        link = shared.servers.link()
        try:
            await link.connect()
            await work(link)
        except Exception as error:
            delay = FIRST_DELAY if health.is_working(part) else delay
            health.fails(part, error)
            if not isinstance(error, FAILURES):  # a bug
                logger.exception("failed to %s", part)
        finally:
            await link.close()
        note_failure()
        await asyncio.sleep(random.uniform(delay / 2, delay))
        delay = min(2 * delay, LAST_DELAY)


def explain(error: BaseException) -> str:
    """Return why a connection failed, for the log; redis-py's texts have no password."""
    if type(error) is TimeoutError:
        return "it doesn't answer"
    reason, _, _ = str(error).partition(" script: ")
    return reason.rstrip(".") or type(error).__name__
