"""uvicorn's protocols, with limits where they have none: on handshakes, and on control frames."""

import asyncio
import logging

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from .connection import HIGH_WATER
from .logs import address_of
from .protocol import CloseCode

HANDSHAKE_SECONDS = 10.0
"""Seconds that a client has for the head of a request."""
MAX_HEAD_BYTES = 65_536
"""Bytes that may have come when the head of a request is still not complete."""
MAX_FRAGMENTS = 1024
"""Frames that a message may come in; they may be empty, so its size does not limit them."""
PINGS_PER_SECOND = 100

logger = logging.getLogger(__name__)


class Http(HttpToolsProtocol):
    """HTTP, where a request must come in time, and its head must have an end."""

    head_bytes = 0
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.on_head_expected()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.on_head_complete()

    def data_received(self, data: bytes) -> None:
        if self.deadline is not None:
            if self.head_bytes > MAX_HEAD_BYTES:
                self.on_head_complete()
                self.send_400_response("The head of the request is too big.")
                return
            self.head_bytes += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.deadline is None:
            self.on_head_expected()

    def on_headers_complete(self) -> None:
        self.on_head_complete()
        super().on_headers_complete()

    def on_head_expected(self) -> None:
        """Begin to count, time and bytes."""
        self.head_bytes = 0
        self.deadline = self.loop.call_later(HANDSHAKE_SECONDS, self.transport.close)

    def on_head_complete(self) -> None:
        """Stop counting."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


class WebSocket(WebSocketsSansIOProtocol):
    """WebSocket, where control frames and fragments have a limit, too."""

    pings = 0
    second = 0

    def handle_ping(self) -> None:
        """Answer, unless there are too many, or the answers are not taken."""
        second = int(self.loop.time())
        self.pings = self.pings + 1 if second == self.second else 1
        self.second = second
        if self.pings > PINGS_PER_SECOND or self.transport.get_write_buffer_size() > HIGH_WATER:
            if not self.transport.is_closing():
                about = {"client": address_of(self.client), "reason": "too many pings"}
                logger.warning("dropped", extra=about)
            self.transport.abort()
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        """Keep a fragment, unless there are too many."""
        if self.close_sent:
            return
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()
