"""Messages of a member that the broker has not confirmed yet."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fastapi import WebSocketDisconnect

from .broker import BrokerUnavailable

MAX_UNCONFIRMED = 32
"""Maximum unconfirmed messages of a member; at this many, `add` waits until none is left."""


class Confirmations:
    """Reports the ids of published messages to their sender, in order."""

    __slots__ = ("_accepted", "_refused", "_task", "_waiting")

    def __init__(
        self,
        accepted: Callable[[str, str], Awaitable[None]],
        refused: Callable[[str], Awaitable[None]],
    ) -> None:
        """Calls `accepted` with the `ref` and id of each message, or `refused` with its `ref`."""
        self._accepted = accepted
        self._refused = refused
        self._waiting: deque[tuple[str, asyncio.Future[str]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, ref: str, published: asyncio.Future[str]) -> None:
        """Add a message; `published` is the future of its id. Waits at `MAX_UNCONFIRMED`."""
        self._waiting.append((ref, published))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if len(self._waiting) >= MAX_UNCONFIRMED:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Stop reporting: the member has left. Its messages are published all the same."""
        if self._task is not None:
            self._task.cancel()
        for _, published in self._waiting:
            published.cancel()

    async def _run(self) -> None:
        with suppress(WebSocketDisconnect):
            while self._waiting:
                await self._report(*self._waiting[0])
                self._waiting.popleft()

    async def _report(self, ref: str, published: asyncio.Future[str]) -> None:
        try:
            message_id = await published
        except BrokerUnavailable:
            await self._refused(ref)
        else:
            await self._accepted(ref, message_id)
