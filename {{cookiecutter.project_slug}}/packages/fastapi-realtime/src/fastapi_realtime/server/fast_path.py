"""Fast path: inboxes that the server fills, and its transport to write to, bypassing ASGI."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .uvicorn_internals import WEBSOCKET_PROTOCOLS
from .wire import wire_size

HIGH_WATER = 64 * 1024
"""Unsent bytes in the transport above which senders wait; asyncio's default."""

SEND_IS_WRAPPED = (
    "a middleware wraps `send` (%s): frames go through ASGI one by one instead of straight to "
    "uvicorn's transport, and broadcasts to large rooms are several times slower"
)

MAX_MESSAGES = 64
"""Messages of a connection that may wait; at this number, reading pauses."""
MAX_BYTES = 65_536
"""Bytes of these messages; at this size, reading pauses. The last message may exceed it."""

Received = tuple[str | bytes | Message, int]
"""A text or binary message and its size in bytes; or another ASGI event and 0."""
EMPTY: deque[Received] = deque(maxlen=0)
"""Shared by all empty inboxes; one for each would take 600 bytes per idle connection."""

logger = logging.getLogger(__name__)


class FindTransport:
    """Middleware that puts a WebSocket's transport and inbox into `scope`.

    Into that of an HTTP request, it puts the application behind it, and the scope before routing.

    The transport is found only under uvicorn, and if no middleware wraps `send`; else frames are
    sent through ASGI. The inbox is found only with the engine's own protocol, and if no
    middleware wraps `receive`; else messages are received through ASGI.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.has_warned = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "websocket":
            self.find(scope, receive, send)
        elif scope["type"] == "http":
            scope["before_routing"] = self.app, dict(scope)
        return self.app(scope, receive, send)

    def find(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the transport and the inbox into `scope`; warn once if a middleware hides them."""
        protocol = getattr(send, "__self__", None)
        inbox = getattr(getattr(receive, "__self__", None), "inbox", None)
        if isinstance(inbox, Inbox):
            scope["inbox"] = inbox
        is_own = isinstance(getattr(protocol, "inbox", None), Inbox)
        if is_own or isinstance(protocol, WEBSOCKET_PROTOCOLS):
            scope["transport"] = getattr(protocol, "transport", None)
        elif not self.has_warned and is_run_by_uvicorn():
            self.has_warned = True
            logger.warning(SEND_IS_WRAPPED, origin_of(send))


def origin_of(send: Send) -> str:
    """Return the module and name of what wraps `send`; `functools.wraps` would hide both."""
    function: Any = getattr(send, "__func__", send)
    if not hasattr(function, "__code__"):
        return f"{type(send).__module__}.{type(send).__qualname__}"
    return f"{function.__globals__['__name__']}.{function.__code__.co_qualname}"


def is_run_by_uvicorn() -> bool:
    """Return whether a WebSocket protocol of uvicorn has started the current task."""
    task = asyncio.current_task()
    code = getattr(task and task.get_coro(), "cr_code", None)
    return getattr(code, "co_name", "") == "run_asgi"


class Inbox:
    """A queue of received messages.

    With uvicorn's own, reading pauses and resumes at every message.
    """

    __slots__ = ("_bytes", "_received", "_resume", "_waiter", "is_full", "on_leave")

    def __init__(self, resume: Callable[[], None]) -> None:
        """`resume` is called when an inbox that was full is empty again."""
        self.is_full = False
        self.on_leave: Callable[[bool], None] = ignore
        """Called when the client has closed, or is gone; with whether it can still get answers."""
        self._received = EMPTY
        self._bytes = 0
        self._resume = resume
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._received)

    def put(self, message: str | bytes | Message, size: int = 0) -> None:
        """Add a message of `size` bytes, or another ASGI event."""
        if not self._received:
            self._received = deque()
        self._received.append((message, size))
        self._bytes += size
        if len(self._received) >= MAX_MESSAGES or self._bytes >= MAX_BYTES:
            self.is_full = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def start(self, receive: Receive) -> None:
        """Start to receive; a server that fills the inbox has begun before."""

    def stop(self) -> None:
        """Stop receiving; see `start`."""

    def end(self) -> None:
        """Call `on_leave` for the last time: nothing more can be sent to the client."""
        on_leave, self.on_leave = self.on_leave, ignore
        on_leave(False)

    def detach(self) -> None:
        """Drop the reference to `resume`, and so to the protocol: the connection is lost."""
        self._resume = ignore
        self.end()

    def take(self) -> Received | None:
        """Remove and return the oldest item; `None` if the inbox is empty."""
        if not self._received:
            return None
        received = self._received.popleft()
        self._bytes -= received[1]
        if not self._received:
            self._received = EMPTY
            if self.is_full:
                self.is_full = False
                self._resume()
        return received

    async def get(self) -> Received:
        """Remove and return the oldest item; wait until there is one."""
        while (received := self.take()) is None:
            if self._waiter is not None:  # another task is waiting, too
                await asyncio.wait([self._waiter])
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return received


class ReceivingInbox(Inbox):
    """An inbox that is filled through ASGI: under other servers, and behind a middleware."""

    __slots__ = ("_has_room", "_task")

    def __init__(self) -> None:
        self._has_room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        super().__init__(self._has_room.set)

    async def start(self, receive: Receive) -> None:
        """Wait for the handshake, and receive all that follows in a task."""
        await receive()
        self._task = asyncio.create_task(self._fill(receive))

    def stop(self) -> None:
        """Stop receiving, and refer to nothing."""
        if self._task is not None:
            self._task.cancel()
        self.end()

    async def _fill(self, receive: Receive) -> None:
        event: Message = {"type": "websocket.disconnect"}
        try:
            while (event := await receive())["type"] == "websocket.receive":
                text = event.get("text")
                message = event["bytes"] if text is None else text
                self.put(message, wire_size(message))
                if self.is_full:
                    self._has_room.clear()
                    await self._has_room.wait()
        finally:
            is_read = len(self) == 0
            self.put(event)
            if is_read:
                self.end()
            else:
                self.on_leave(True)


def ignore(_: bool = False) -> None:
    """Do nothing."""
