"""Fast path: write frames to uvicorn's transport and read from its inbox, bypassing ASGI."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .inbox import Inbox
from .uvicorn_internals import WEBSOCKET_PROTOCOLS

HIGH_WATER = 64 * 1024
"""Unsent bytes in the transport above which senders wait; asyncio's default."""

SEND_IS_WRAPPED = (
    "a middleware wraps `send` (%s): frames go through ASGI one by one instead of straight to "
    "uvicorn's transport, and broadcasts to large rooms are several times slower"
)

logger = logging.getLogger(__name__)


class FindTransport:
    """Middleware that puts a WebSocket's transport and inbox into `scope`.

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


def find_transport(scope: Scope) -> asyncio.Transport | None:
    """Return the transport that the middleware has found, or `None`."""
    return scope.get("transport")


def server_frame(message: str | bytes, *, is_text: bool = False) -> bytes:
    """Return a message as one unmasked frame (RFC 6455 §5.2).

    `bytes` are a binary message, or with `is_text` an encoded text message.

    The frame is not compressed, which is valid even with permessage-deflate (RFC 7692 §6).
    """
    if isinstance(message, str):
        first, payload = 0x81, message.encode()
    else:
        first, payload = 0x81 if is_text else 0x82, message
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def frame_message(frame: bytes) -> str | bytes:
    """Return the message of a frame made by `server_frame`."""
    payload = frame[{126: 4, 127: 10}.get(frame[1], 2) :]
    return payload.decode() if frame[0] == 0x81 else payload
