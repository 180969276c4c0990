"""The short way out: whole frames, straight to the transport of the server's event loop."""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send

WRITING_WHOLE = (
    "uvicorn.protocols.websockets.websockets_sansio_impl",
    "uvicorn.protocols.websockets.wsproto_impl",
)


class FindTransport:
    """Middleware that finds a WebSocket's transport, and leaves it in `scope["transport"]`.

    It is there under the protocols of uvicorn that write a handshake or a frame whole before
    `send` returns, so that ours may follow. Under other servers, and inside a middleware that
    wraps `send`, it is not, and everything goes the way of ASGI.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        protocol = getattr(send, "__self__", None)
        if any(each.__module__ in WRITING_WHOLE for each in type(protocol).__mro__):
            scope["transport"] = getattr(protocol, "transport", None)
        return self.app(scope, receive, send)


def find_transport(scope: Scope) -> asyncio.Transport | None:
    """Return what the middleware has found."""
    return scope.get("transport")


def server_frame(message: str | bytes) -> bytes:
    """Return a message as one unmasked frame (RFC 6455 §5.2).

    It is not compressed, which is right also where compression was agreed on (RFC 7692 §6).
    """
    if isinstance(message, str):
        first, payload = 0x81, message.encode()
    else:
        first, payload = 0x82, message
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload
