"""Messages that a member has sent, and that the broker has not confirmed."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fastapi import WebSocketDisconnect

from .broker import BrokerUnavailable

MAX_UNCONFIRMED = 32
"""Messages of a member that may be on their way; its next one waits for all of them."""


class Confirmations:
    """Tells a member, in the order of its messages, of the ids that they get."""

    __slots__ = ("_accepted", "_refused", "_task", "_waiting")

    def __init__(
        self,
        accepted: Callable[[str, str], Awaitable[None]],
        refused: Callable[[str], Awaitable[None]],
    ) -> None:
        """Call `accepted` with `ref` and id of a message, or `refused` with its `ref`."""
        self._accepted = accepted
        self._refused = refused
        self._waiting: deque[tuple[str, asyncio.Future[str]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def add(self, ref: str, published: asyncio.Future[str]) -> None:
        """Await the id of a message; wait only if too many are awaited."""
        self._waiting.append((ref, published))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        if len(self._waiting) >= MAX_UNCONFIRMED:
            await asyncio.wait([self._task])

    def drop(self) -> None:
        """Await nothing more: the member has left. What it sent is published all the same."""
        if self._task is not None:
            self._task.cancel()
        for _, published in self._waiting:
            published.cancel()

    async def _run(self) -> None:
        with suppress(WebSocketDisconnect):
            while self._waiting:
                await self._tell(*self._waiting[0])
                self._waiting.popleft()

    async def _tell(self, ref: str, published: asyncio.Future[str]) -> None:
        try:
            message_id = await published
        except BrokerUnavailable:
            await self._refused(ref)
        else:
            await self._accepted(ref, message_id)
