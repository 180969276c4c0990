"""uvicorn's HTTP protocol, with limits on request heads, pipelining and slow readers."""

import asyncio
import logging
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.exceptions import HTTPException
from starlette.types import Scope

from .logging import address_of, connection_fields, refusals
from .uvicorn_internals import HttpToolsProtocol, RequestResponseCycle
from .websocket_protocol import LimitedWebSocketProtocol
from .wire import denial, read_handshake
from .write_deadline import WriteDeadline

HANDSHAKE_SECONDS = 10.0
"""Seconds to receive the head of a request; then the connection is closed."""
MAX_HEAD_BYTES = 65_536
"""Maximum size of a request's head, or of its trailers, plus up to `SLICE_BYTES`; then 431."""
MAX_SMALL_CHUNKS = 1000
"""Chunks in a body before their average size must be `SMALL_CHUNK_BYTES`; smaller get 400."""
SMALL_CHUNK_BYTES = 16
"""Below this size, parsing a chunk takes more CPU than reading its bytes."""
MAX_IGNORED_BYTES = 262_144
"""Bytes of a body that are read after the request has been answered; then the connection closes."""
MAX_PIPELINED_REQUESTS = 10
"""Pipelined requests that may wait for a response; one more drops the connection."""
SLICE_BYTES = 16_384
"""Bytes to parse before limits are checked; uvicorn reads up to 256 KiB at once."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP with limits on request heads, pipelining, and slow readers."""

    in_head = False
    ignores_upgrade = False  # whether the current request asks for an unsupported upgrade
    is_reparsing = False  # whether its head is parsed again, without the upgrade
    bytes_without_progress = 0  # received since the last head or part of a body was complete
    chunks = 0
    body_bytes = 0
    ignored_bytes = 0  # of a body whose request has been answered
    head_deadline: asyncio.TimerHandle | None = None
    running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.write_deadline = WriteDeadline(transport, self.stop_writing)
        self.start_head_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.cancel_head_deadline()
        self.write_deadline.stop()
        self.disconnect_cycles()

    def resume_writing(self) -> None:
        """Resume, and restart the write deadline, since the client has read."""
        super().resume_writing()
        self.write_deadline.reset()

    def data_received(self, data: bytes) -> None:
        """Parse in slices, to check limits in between."""
        self._unset_keepalive_if_required()
        start = 0
        try:
            for start in range(0, len(data), SLICE_BYTES):
                if self.transport.is_closing():
                    return
                self.parse_slice(data[start : start + SLICE_BYTES])
        except HttpParserUpgrade as upgrade:
            self.upgrade(data[start + upgrade.args[0] :])
        except HttpParserError as error:
            self.refuse(error.__context__)
        except HTTPException as refusal:
            self.refuse(refusal)
        if not self.is_answering() and self.transport.get_protocol() is self:
            self.start_head_deadline()  # also after bytes outside of a request, such as blank lines

    def parse_slice(self, data: bytes) -> None:
        """Parse a slice; raises `HTTPException` for a head or trailers that are too long."""
        assert self.parser is not None  # uvicorn removes it when the connection is lost
        self.bytes_without_progress += len(data)
        self.parser.feed_data(data)
        if self.bytes_without_progress > MAX_HEAD_BYTES:
            reason = "request head too long" if self.in_head else "too much after the body"
            raise HTTPException(431, reason)

    def on_message_begin(self) -> None:
        """Start counting the bytes of a head."""
        if self.is_reparsing:
            return
        super().on_message_begin()
        self.in_head = True
        self.bytes_without_progress = self.chunks = self.body_bytes = self.ignored_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are ignored (RFC 9110 §6.5.1)."""
        if self.in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body; raises `HTTPException` for too many small chunks."""
        self.bytes_without_progress = 0
        self.chunks += 1
        self.body_bytes += len(body)
        if self.chunks > MAX_SMALL_CHUNKS and self.body_bytes < SMALL_CHUNK_BYTES * self.chunks:
            raise HTTPException(400, "too many small chunks")
        super().on_body(body)
        if self.cycle.response_complete:
            self.ignored_bytes += len(body)
            if self.ignored_bytes > MAX_IGNORED_BYTES and not self.transport.is_closing():
                self.log(logging.WARNING, "dropped", "too long a body after the answer")
                self.transport.close()

    def on_headers_complete(self) -> None:
        """Check the head, and pass on the request."""
        if self.is_reparsing:
            self.is_reparsing = False
            return
        self.in_head = False
        self.bytes_without_progress = 0
        self.cancel_head_deadline()
        self.check_head()
        super().on_headers_complete()
        assert self.parser is not None
        self.ignores_upgrade = self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_complete(self) -> None:
        """End a request; not at an ignored upgrade, where the parser stops before the body."""
        if not self.ignores_upgrade:
            super().on_message_complete()

    def check_head(self) -> None:
        """Raise `HTTPException` for an invalid version or `Host`, or too many requests.

        There must be exactly one `Host` (RFC 9112 §3.2). A handshake needs HTTP/1.1 (RFC 6455
        §4.1), and no pipelined request before it, whose response could mix with frames.
        """
        assert self.parser is not None
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        is_handshake = self.parser.should_upgrade() and self._should_upgrade()
        if version != "1.1" and (is_handshake or version != "1.0"):
            raise HTTPException(505, f"HTTP/{version}")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise HTTPException(400, f"{hosts} Host headers")
        if is_handshake and self.is_answering():
            raise HTTPException(400, "handshake before an answer")
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise HTTPException(429, "too many pipelined requests")

    def upgrade(self, early: bytes) -> None:
        """Switch to the WebSocket protocol; `early` is data received after the handshake."""
        if not self._should_upgrade():
            self.ignore_upgrade(early)
            return
        self.write_deadline.stop()
        handshake, kind = None, cast("Any", self.ws_protocol_class)
        if issubclass(kind, LimitedWebSocketProtocol):
            handshake = read_handshake(self.scope["method"], self.url, self.headers)
        if handshake is None:  # an unusual one, which `websockets` parses again
            self.handle_websocket_upgrade()
        else:
            self.connections.discard(self)
            protocol = kind(self.config, self.server_state, self.app_state, self.loop)
            protocol.connection_made(self.transport)
            protocol.start(handshake)
            self.transport.set_protocol(protocol)
        # Break reference cycles, so that this protocol is freed without the garbage collector.
        del self.parser, self.write_deadline
        if early and not self.transport.is_closing():
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(early)

    def ignore_upgrade(self, rest: bytes) -> None:
        """Parse the body and further requests as if no upgrade had been requested.

        After an upgrade, httptools parses nothing more. So a new parser gets a substitute for
        the head, and then the rest.
        """
        framing = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = HttpRequestParser(self)
        self.ignores_upgrade, self.is_reparsing = False, True
        self.data_received(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n", rest]))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        cast("Scope", cycle.scope)["http_transport"] = self.transport  # for `rooms.event_stream`
        self.write_deadline.start()
        super()._start_asgi_task(cycle, app)

    def is_answering(self) -> bool:
        """Return whether a request has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def start_head_deadline(self) -> None:
        """Start the deadline for a request head, if it is not running."""
        if self.head_deadline is None and not self.transport.is_closing():
            self.head_deadline = self.loop.call_later(HANDSHAKE_SECONDS, self.head_timeout)

    def cancel_head_deadline(self) -> None:
        """Cancel the deadline for a request head."""
        if self.head_deadline is not None:
            self.head_deadline.cancel()
            self.head_deadline = None

    def head_timeout(self) -> None:
        """Close the connection. No warning if nothing was received: browsers open spare ones."""
        level = logging.WARNING if self.in_head else logging.INFO
        self.log(level, "dropped", "no complete request in time")
        self.transport.close()

    def stop_writing(self) -> None:
        """Drop the connection of a client that has stopped reading."""
        self.log(logging.WARNING, "dropped", "it stopped reading")
        self.transport.abort()

    def refuse(self, cause: BaseException | None) -> None:
        """Reject a request with a response, and close.

        If an earlier request is unanswered, drop the connection: the client would take the
        response for that request's.
        """
        status, reason = 400, "invalid HTTP request"
        if isinstance(cause, HTTPException):
            status, reason = cause.status_code, cause.detail
        if self.is_answering():
            self.log(logging.WARNING, "dropped", reason)
            self.disconnect_cycles()
            self.transport.abort()
        else:
            self.log(logging.WARNING, "refused", reason, status=status)
            self.transport.write(denial(status, (), reason.encode()))
            self.write_deadline.start()
            self.transport.close()

    def disconnect_cycles(self) -> None:
        """Send a disconnect to all unanswered requests; uvicorn sends it only to the last one."""
        self.pipeline.clear()
        for cycle in (self.cycle, self.running):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def log(self, level: int, message: str, reason: str, **fields: Any) -> None:
        """Log the end of a connection."""
        client: dict[str, Any] = {"client": address_of(self.client)}
        if self.running is not None:
            client = connection_fields(cast("Scope", self.running.scope))
        refusals.log(level, message, extra={**client, **fields, "reason": reason})
