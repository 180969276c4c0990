"""Ends a read that waits."""

import asyncio
from contextlib import suppress

from ..broker import BrokerUnavailable
from .commands import Commands

UNBLOCK_SECONDS = 0.005
"""Seconds until a read that didn't end is told again to end."""


class Waker:
    """Ends what a reader waits in, since it doesn't know of a new room.

    `CLIENT UNBLOCK`, unlike a stream to wake readers by, needs no key, no write and no right to
    write: a full or read-only Redis can still be read.
    """

    def __init__(self, commands: Commands) -> None:
        self.client_id = 0
        """What Redis calls the reader's connection."""
        self.is_blocked = False
        """Whether the reader waits in Redis."""
        self._commands = commands
        self._woken = asyncio.Event()
        self._unblocking: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait for so long, or until this is woken."""
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def wake(self) -> None:
        """End the wait, if there is one."""
        self._woken.set()
        if self.is_blocked and (self._unblocking is None or self._unblocking.done()):
            self._unblocking = asyncio.create_task(self._unblock())

    def close(self) -> None:
        """Wake nobody any more."""
        if self._unblocking is not None:
            self._unblocking.cancel()

    async def _unblock(self) -> None:
        with suppress(BrokerUnavailable):
            while self.is_blocked:
                await self._commands.run(("CLIENT", "UNBLOCK", self.client_id))
                # The read may come to Redis after this.
                await asyncio.sleep(UNBLOCK_SECONDS)
