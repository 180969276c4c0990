"""A graceful end: what happens between a signal to stop and the end of the server."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress

import uvicorn

from .connection import Connection
from .protocol import CloseCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PER_SECOND = 50
"""Connections that are closed in a second at least; faster if there are too many for that."""


async def nothing_to_settle() -> None:
    """Return at once."""


class Drain:
    """Closes all connections, a few at a time, so that not all clients come back at once.

    They see 1012, after all that was said before. Whoever takes too long for that is dropped at
    the end of `seconds`.
    """

    def __init__(
        self,
        connections: set[Connection],
        seconds: float,
        settled: Callable[[], Awaitable[None]] = nothing_to_settle,
    ) -> None:
        """`settled` returns when all that has been said so far is on its way."""
        self.has_begun = False
        self._connections = connections
        self._seconds = seconds
        self._settled = settled

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """Drain at the first signal to stop, and only then give it to the server.

        The same signal again ends the waiting. Of the servers, uvicorn can be made to wait like
        that, where it handles signals itself; others close connections in their own way.
        """
        loop = asyncio.get_running_loop()
        handlers = {int(each): signal.getsignal(each) for each in SIGNALS}
        before = {each: handler for each, handler in handlers.items() if _is_uvicorn(handler)}
        received: list[int] = []
        task: asyncio.Task[None] | None = None

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        async def drain_and_stop() -> None:
            try:
                await self.run()
            finally:
                restore()
                for number in received:
                    signal.raise_signal(number)

        def on_signal(number: int) -> None:
            nonlocal task
            if task is None:
                task = loop.create_task(drain_and_stop())
            elif number in received:
                task.cancel()
                return
            received.append(number)

        for each in before:
            signal.signal(each, lambda number, _: loop.call_soon_threadsafe(on_signal, number))
        try:
            yield
        finally:
            restore()

    async def run(self) -> None:
        """Close every connection within `seconds`; from now on, new ones are refused with 503."""
        self.has_begun = True
        try:
            async with asyncio.timeout(self._seconds):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled(), self._seconds / 4)
                await self._close_in_batches()
                while self._connections:
                    self._close(self._connections)  # of those, who came in the meantime
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pass
        finally:
            for connection in list(self._connections):
                connection.abort()

    async def _close_in_batches(self) -> None:
        waiting = list(self._connections)
        random.shuffle(waiting)
        batches = max(1, min(len(waiting), 100))
        pause = min(len(waiting) / PER_SECOND, self._seconds / 2) / batches
        for number in range(batches):
            self._close(waiting[number::batches])
            await asyncio.sleep(random.uniform(0, 2 * pause))

    def _close(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            connection.close_soon(CloseCode.SERVICE_RESTART, "restarting")


def _is_uvicorn(handler: object) -> bool:
    return isinstance(getattr(handler, "__self__", None), uvicorn.Server)
