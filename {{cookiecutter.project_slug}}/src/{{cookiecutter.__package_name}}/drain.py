"""A graceful end: what happens between a signal to stop and the end of the server."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeGuard

import uvicorn

from .connection import Connection
from .protocol import CloseCode

SignalHandler = Callable[[int, FrameType | None], object]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 1.0
"""Signals that come this soon after the first one are repeats of it."""
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`settled` returns when all that has been said so far is on its way.

        `clock` tells the time of signals, in seconds.
        """
        self.has_begun = False
        self._connections = connections
        self._seconds = seconds
        self._settled = settled
        self._clock = clock

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """Drain at the first signal to stop, and only then give it to the server.

        `uv run`, systemd and uvicorn's parent process send a signal more than once, so those
        within `REPEAT_SECONDS` of the first count as the first, and SIGTERM never counts twice. A
        later Ctrl-C ends the waiting, and one after that goes to the server, which then exits at
        once. This works under uvicorn; other servers close connections in their own way.
        """
        loop = asyncio.get_running_loop()
        handlers = {int(each): signal.getsignal(each) for each in SIGNALS}
        servers = {each: handler for each, handler in handlers.items() if _is_uvicorn(handler)}
        task: asyncio.Task[None] | None = None
        first_at = 0.0

        async def drain_and_stop(number: int) -> None:
            try:
                await self.run()
            finally:
                servers[number](number, None)

        def on_signal(number: int, at: float) -> None:
            nonlocal task, first_at
            if task is None:
                first_at = at
                task = loop.create_task(drain_and_stop(number))
                return
            is_repeat = number != signal.SIGINT or at - first_at <= REPEAT_SECONDS
            if not is_repeat and not task.cancel():  # it is done
                servers[number](number, None)

        def receive(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(on_signal, number, self._clock())

        for each in servers:
            signal.signal(each, receive)
        try:
            yield
        finally:
            if task is None:  # otherwise uvicorn removes them at its end; until then, repeats come
                for each, handler in servers.items():
                    signal.signal(each, handler)

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


def _is_uvicorn(handler: object) -> TypeGuard[SignalHandler]:
    return isinstance(getattr(handler, "__self__", None), uvicorn.Server)
