"""uvicorn's protocols, with limits where they have none: on handshakes, and on control frames."""

import asyncio
import logging
from contextlib import suppress

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.frames import Frame
from websockets.http11 import Request

from .connection import HIGH_WATER
from .logs import address_of
from .protocol import CloseCode

HANDSHAKE_SECONDS = 10.0
"""Seconds that a client has for the head of a request."""
MAX_HEAD_BYTES = 65_536
"""Bytes that may have come when the head of a request is still not complete."""
MAX_FRAGMENTS = 1024
"""Frames that a message may come in; they may be empty, so its size does not limit them."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Bytes that may still come, and are thrown away, when a close frame has been sent."""

REFUSAL = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

# Whoever refuses a client, its refusal is found in one place.
logger = logging.getLogger(f"{__package__}.admission")


class Http(HttpToolsProtocol):
    """HTTP, where a request must come in time, and its head must have an end."""

    head_bytes = 0
    deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.stop_waiting()

    def data_received(self, data: bytes) -> None:
        if self.deadline is not None and self.head_bytes > MAX_HEAD_BYTES:
            self.stop_waiting()
            self.send_400_response("The head of the request is too big.")
            return
        self.head_bytes += len(data)
        super().data_received(data)
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self.transport.get_protocol() is self:
            self.expect_head()  # also after bytes that begin none, and stop uvicorn's own timer

    def on_headers_complete(self) -> None:
        self.stop_waiting()
        super().on_headers_complete()

    def expect_head(self) -> None:
        """Begin to count time and bytes, unless that has begun."""
        if self.deadline is None:
            self.head_bytes = 0
            self.deadline = self.loop.call_later(HANDSHAKE_SECONDS, self.transport.close)

    def stop_waiting(self) -> None:
        """Stop counting."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


class WebSocket(WebSocketsSansIOProtocol):
    """WebSocket, where a client can't keep the server busy, or waiting, for nothing."""

    control_frames = 0
    second = 0
    bytes_after_close = 0

    def data_received(self, data: bytes) -> None:
        if self.close_sent:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.transport.abort()
                return
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            # A head that is right as HTTP, but not as a handshake; uvicorn would wait on.
            self.log_refusal(400)
            self.handshake_complete = self.close_sent = True
            self.transport.write(b"".join(self.conn.data_to_send()) or REFUSAL)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.log_refusal(self.response.status_code)

    def start_keepalive(self) -> None:
        """Begin to ping; the handshake is over, and its 3 KiB are not kept."""
        super().start_keepalive()
        del self.request, self.response

    def log_refusal(self, status: int) -> None:
        """Log what the application never hears of."""
        about = {"client": address_of(self.client), "status": status}
        logger.warning("refused", extra={**about, "reason": "not a WebSocket handshake"})

    def handle_ping(self) -> None:
        """Answer, unless there are too many, or the answers are not taken."""
        if not self.is_flooded() and self.transport.get_write_buffer_size() < HIGH_WATER:
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Note that the peer is there."""
        if not self.is_flooded():
            super().handle_pong(event)

    def is_flooded(self) -> bool:
        """Count a control frame, and drop a peer that sends too many of them."""
        second = int(self.loop.time())
        self.control_frames = self.control_frames + 1 if second == self.second else 1
        self.second = second
        if self.control_frames <= CONTROL_FRAMES_PER_SECOND:
            return False
        if not self.transport.is_closing():
            about = {"client": address_of(self.client), "reason": "too many pings or pongs"}
            logger.warning("dropped", extra=about)
        self.transport.abort()
        return True

    def handle_cont(self, event: Frame) -> None:
        """Keep a fragment, unless there are too many."""
        if self.close_sent:
            return
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = []
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()

    def send_receive_event_to_app(self) -> None:
        """Pass a message on; one that is not UTF-8 can't be complained of after a close frame."""
        with suppress(InvalidState):
            super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        """Close, and don't wait for a peer that doesn't read, either."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
