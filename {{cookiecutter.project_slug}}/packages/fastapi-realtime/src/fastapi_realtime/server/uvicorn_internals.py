"""All that the engine uses of uvicorn and `websockets` beyond their documentation.

`http_protocol.py` also overrides methods and uses attributes of two of uvicorn's classes;
`tests/engine/test_uvicorn.py` of the template lists them. Hence the upper bound on uvicorn in
`pyproject.toml`.
"""

from contextlib import suppress
from typing import Any

from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected, get_local_addr, get_remote_addr, is_ssl
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, apply_mask
from websockets.http11 import Request
from websockets.server import ServerProtocol

__all__ = [
    "LOGGING_CONFIG",
    "WEBSOCKET_PROTOCOLS",
    "ClientDisconnected",
    "Close",
    "DefaultFormatter",
    "HttpToolsProtocol",
    "Request",
    "RequestResponseCycle",
    "ServerProtocol",
    "ServerState",
    "apply_mask",
    "get_local_addr",
    "get_remote_addr",
    "is_ssl",
]

WEBSOCKET_PROTOCOLS: tuple[type[Any], ...] = (WebSocketsSansIOProtocol,)
"""uvicorn's protocols whose `send` writes a whole frame at once: others can write between two."""
with suppress(ImportError):
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    WEBSOCKET_PROTOCOLS = (WebSocketsSansIOProtocol, WSProtocol)
