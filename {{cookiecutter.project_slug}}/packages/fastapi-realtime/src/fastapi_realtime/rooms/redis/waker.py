"""Interrupts a blocking read."""

import asyncio
from contextlib import suppress

from ..broker import BrokerUnavailable
from .commands import Commands

UNBLOCK_SECONDS = 0.005
"""Seconds until `CLIENT UNBLOCK` is repeated if the read is still blocked."""


class Waker:
    """Interrupts the reader when a room is added, since its blocking read does not include it.

    `CLIENT UNBLOCK` writes nothing, so this works on a full or read-only Redis, too.
    """

    def __init__(self, commands: Commands) -> None:
        self.client_id = 0
        """The id of the reader's connection in Redis."""
        self.is_blocked = False
        """Whether the reader is in a blocking read."""
        self._commands = commands
        self._woken = asyncio.Event()
        self._unblocking: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds, or until `wake`."""
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    def wake(self) -> None:
        """Interrupt `sleep` or a blocking read, if there is one."""
        self._woken.set()
        if self.is_blocked and (self._unblocking is None or self._unblocking.done()):
            self._unblocking = asyncio.create_task(self._unblock())

    def close(self) -> None:
        """Stop interrupting."""
        if self._unblocking is not None:
            self._unblocking.cancel()

    async def _unblock(self) -> None:
        with suppress(BrokerUnavailable):
            while self.is_blocked:
                await self._commands.run(("CLIENT", "UNBLOCK", self.client_id))
                # The read may reach Redis only after this command.
                await asyncio.sleep(UNBLOCK_SECONDS)
