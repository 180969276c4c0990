"""All names that the engine uses of uvicorn beyond its documentation.

`http_protocol.py` and the three WebSocket protocols extend two of these classes: they override
their callbacks and use their attributes, which `tests/engine/test_uvicorn.py` of the template
lists. Hence the upper bound on uvicorn in `pyproject.toml`.
"""

from contextlib import suppress
from typing import Any

from uvicorn import Server
from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveEvent,
    ASGISendEvent,
    WebSocketAcceptEvent,
    WebSocketScope,
)
from uvicorn.config import LOGGING_CONFIG, Config
from uvicorn.logging import DefaultFormatter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

__all__ = [
    "LOGGING_CONFIG",
    "WEBSOCKET_PROTOCOLS",
    "ASGI3Application",
    "ASGIReceiveEvent",
    "ASGISendEvent",
    "ClientDisconnected",
    "Config",
    "DefaultFormatter",
    "HttpToolsProtocol",
    "RequestResponseCycle",
    "Server",
    "ServerState",
    "WebSocketAcceptEvent",
    "WebSocketScope",
    "WebSocketsSansIOProtocol",
]

WEBSOCKET_PROTOCOLS: tuple[type[Any], ...] = (WebSocketsSansIOProtocol,)
"""Protocols that write a handshake or a frame whole before `send` returns, so that others may follow."""
with suppress(ImportError):
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    WEBSOCKET_PROTOCOLS = (WebSocketsSansIOProtocol, WSProtocol)
