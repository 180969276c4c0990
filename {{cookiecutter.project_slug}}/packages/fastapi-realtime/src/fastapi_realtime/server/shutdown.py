"""Graceful shutdown: at SIGINT or SIGTERM, all connections are closed with 1012; then uvicorn stops."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import TypeGuard

from uvicorn import Server

from ..connection import Connection
from ..errors import CloseCode

PER_SECOND = 50
"""Connections to close per second; more if that would take over half of `drain_seconds`."""
MAX_BATCHES = 100

SignalHandler = Callable[[int, FrameType | None], object]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 1.0
"""Signals within this time after the first one are ignored as repeats."""


@dataclass(eq=False)
class Drain:
    """Closes all connections with 1012, in batches, so that clients don't all reconnect at once.

    Messages sent before are delivered first. After `seconds`, remaining connections are dropped
    and lose their unsent data.
    """

    connections: set[Connection]
    seconds: float
    flush: Callable[[], Awaitable[None]]
    """Waits until everything published so far has been written to the connections."""
    has_begun: bool = False

    async def run(self) -> None:
        """Close all connections within `seconds`; new handshakes get 503 from now on."""
        self.has_begun = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.seconds):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.flush(), self.seconds / 4)
                    await self._close_in_batches()
                    while self.connections:
                        self._close(self.connections)  # including those opened in the meantime
                        await asyncio.sleep(0.01)
        finally:
            for connection in list(self.connections):
                connection.abort()

    async def _close_in_batches(self) -> None:
        waiting = list(self.connections)
        random.shuffle(waiting)
        batches = max(1, min(len(waiting), MAX_BATCHES))
        pause = min(len(waiting) / PER_SECOND, self.seconds / 2) / batches
        for number in range(batches):
            self._close(waiting[number::batches])
            await asyncio.sleep(random.uniform(0, 2 * pause))

    def _close(self, connections: Iterable[Connection]) -> None:
        for connection in connections:
            connection.close_soon(CloseCode.SERVICE_RESTART, "restarting")


class StopSignals:
    """Runs `drain` at the first signal, then passes the signal to uvicorn.

    `uv run`, systemd and uvicorn's parent process send signals more than once, so repeats within
    `REPEAT_SECONDS` are ignored, and further SIGTERMs always. A later Ctrl-C cancels the drain;
    another one is passed to uvicorn, which exits at once. Under other servers, this does nothing.
    """

    def __init__(
        self, drain: Callable[[], Awaitable[None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns a monotonic time in seconds."""
        self._drain = drain
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._first_at = 0.0
        handlers = {int(each): signal.getsignal(each) for each in SIGNALS}
        self._servers = {each: handler for each, handler in handlers.items() if is_uvicorn(handler)}

    def install(self) -> None:
        """Replace uvicorn's signal handlers."""
        for each in self._servers:
            signal.signal(each, self._receive)

    def restore(self) -> None:
        """Restore uvicorn's handlers; not after a signal, since repeats may still come."""
        if self._task is None:
            for each, handler in self._servers.items():
                signal.signal(each, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._handle, number, self._clock())

    def _handle(self, number: int, at: float) -> None:
        if self._task is None:
            self._first_at = at
            self._task = self._loop.create_task(self._drain_and_stop(number))
            return
        is_repeat = number != signal.SIGINT or at - self._first_at <= REPEAT_SECONDS
        if not is_repeat and not self._task.cancel():  # it is done
            self._servers[number](number, None)

    async def _drain_and_stop(self, number: int) -> None:
        try:
            await self._drain()
        finally:
            self._servers[number](number, None)


def uvicorn_workers() -> int:
    """Return the number of processes that uvicorn runs; 1 under other servers."""
    handler = signal.getsignal(signal.SIGTERM)
    server = getattr(handler, "__self__", None)
    return server.config.workers if isinstance(server, Server) else 1


def is_uvicorn(handler: object) -> TypeGuard[SignalHandler]:
    """Return whether a signal handler is uvicorn's."""
    return isinstance(getattr(handler, "__self__", None), Server)
