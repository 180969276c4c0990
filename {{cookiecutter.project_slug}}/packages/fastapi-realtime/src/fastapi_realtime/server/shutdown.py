"""Graceful shutdown: closes all connections with 1012."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from ..close_codes import CloseCode
from ..connection import Connection

PER_SECOND = 50
"""Connections to close per second; more if that would take over half of `drain_seconds`."""
MAX_BATCHES = 100


class Drain:
    """Closes all connections with 1012, in batches, so that clients don't all reconnect at once.

    Messages sent before are delivered first. After `seconds`, remaining connections are dropped
    and lose their unsent data.
    """

    def __init__(
        self,
        connections: set[Connection],
        seconds: float,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        """`flush` waits until everything published so far has been written to the connections."""
        self.has_begun = False
        self._connections = connections
        self._seconds = seconds
        self._flush = flush

    async def run(self) -> None:
        """Close all connections within `seconds`; new handshakes get 503 from now on."""
        self.has_begun = True
        try:
            async with asyncio.timeout(self._seconds):
                await self._flush_and_close()
        except TimeoutError:
            pass
        finally:
            for connection in list(self._connections):
                connection.abort()

    async def _flush_and_close(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._flush(), self._seconds / 4)
        await self._close_in_batches()
        while self._connections:
            self._close(self._connections)  # including those opened in the meantime
            await asyncio.sleep(0.01)

    async def _close_in_batches(self) -> None:
        waiting = list(self._connections)
        random.shuffle(waiting)
        batches = max(1, min(len(waiting), MAX_BATCHES))
        pause = min(len(waiting) / PER_SECOND, self._seconds / 2) / batches
        for number in range(batches):
            self._close(waiting[number::batches])
            await asyncio.sleep(random.uniform(0, 2 * pause))

    def _close(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            connection.close_soon(CloseCode.SERVICE_RESTART, "restarting")
