"""A graceful stop: every connection is closed before the server ends."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from ..close_codes import CloseCode
from ..connection import Connection

PER_SECOND = 50
"""Connections that are closed in a second at least; faster if there are too many for that."""
MAX_BATCHES = 100


class Drain:
    """Closes all connections, a few at a time, so that not all clients come back at once.

    They see 1012, after all that was sent before. Connections that take too long for that are
    dropped at the end of `seconds`.
    """

    def __init__(
        self,
        connections: set[Connection],
        seconds: float,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        """`flush` returns when what was sent so far is on its way to the clients."""
        self.has_begun = False
        self._connections = connections
        self._seconds = seconds
        self._flush = flush

    async def run(self) -> None:
        """Close every connection within `seconds`; from now on, new ones are refused with 503."""
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
            self._close(self._connections)  # also those that came meanwhile
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
