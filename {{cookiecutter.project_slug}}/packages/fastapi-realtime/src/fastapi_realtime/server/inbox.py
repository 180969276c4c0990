"""Messages of a client that wait for the application."""

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Message, Scope

MAX_MESSAGES = 64
"""Messages of a client that may wait for the application; then reading pauses."""
MAX_BYTES = 65_536
"""Bytes of such messages, to which the last one may add as many as a message may have."""

Received = tuple[str | bytes | Message, int]
"""A text or binary message and its size in bytes, or another event of ASGI."""
NOTHING: deque[Received] = deque(maxlen=0)
"""What all empty inboxes have; a deque of its own would take 600 bytes of each idle connection."""


class Inbox:
    """What has come from a client and was not taken yet, in order.

    It takes the place of uvicorn's queue, for which reading pauses and resumes at every message.
    """

    __slots__ = ("_bytes", "_received", "_resume", "_waiter", "is_full")

    def __init__(self, resume: Callable[[], None]) -> None:
        """`resume` is called when an inbox that was full is empty."""
        self.is_full = False
        self._received = NOTHING
        self._bytes = 0
        self._resume = resume
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._received)

    def put(self, message: str | bytes, size: int) -> None:
        """Add a message of so many bytes."""
        self._add((message, size))
        self._bytes += size
        if len(self._received) >= MAX_MESSAGES or self._bytes >= MAX_BYTES:
            self.is_full = True
        self._wake()

    def put_nowait(self, event: Message) -> None:
        """Add an event that is no message; uvicorn calls this."""
        self._add((event, 0))
        self._wake()

    def detach(self) -> None:
        """Call `resume` no more: the connection is lost, and nothing shall refer to it."""
        self._resume = ignore

    def take(self) -> Received | None:
        """Return what came first, and remove it; `None` where nothing waits."""
        if not self._received:
            return None
        received = self._received.popleft()
        self._bytes -= received[1]
        if not self._received:
            self._received = NOTHING
            if self.is_full:
                self.is_full = False
                self._resume()
        return received

    async def get(self) -> Received:
        """Wait until there is something, and take it."""
        while (received := self.take()) is None:
            if self._waiter is not None:  # somebody else reads, too
                await asyncio.wait([self._waiter])
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return received

    def _add(self, received: Received) -> None:
        if not self._received:
            self._received = deque()
        self._received.append(received)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def ignore() -> None:
    """Do nothing."""


def find_inbox(scope: Scope) -> Inbox | None:
    """Return what the middleware of `fast_path.py` has found."""
    return scope.get("inbox")
