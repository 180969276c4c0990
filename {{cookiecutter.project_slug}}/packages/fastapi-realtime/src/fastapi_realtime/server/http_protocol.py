"""uvicorn's HTTP protocol, with limits on request heads, pipelining and clients that don't read."""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Scope

from .light_protocol import LightWebSocketProtocol
from .logging import address_of, connection_fields, refusals
from .upgrade import read_handshake
from .uvicorn_internals import ASGI3Application, HttpToolsProtocol, RequestResponseCycle
from .write_deadline import WriteDeadline

HANDSHAKE_SECONDS = 10.0
"""Seconds that a client has for the head of a request."""
MAX_HEAD_BYTES = 65_536
"""Size of a request's head, or of the trailers of its body, give or take a slice."""
MAX_SMALL_CHUNKS = 1000
"""Chunks of a request's body that may be smaller than `SMALL_CHUNK_BYTES` on average."""
SMALL_CHUNK_BYTES = 16
"""Below this size, parsing a chunk costs more than reading its bytes."""
MAX_PIPELINED_REQUESTS = 10
"""Requests that may wait for the answer to an earlier one."""
SLICE_BYTES = 16_384
"""Bytes that are parsed at once; uvicorn reads up to 256 KiB."""


class RequestRefused(Exception):
    """Raised in the parser's callbacks for a request that gets no answer from the application."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        self.status = status
        self.reason = reason


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP with limits on the time for and the size of a head, on pipelining, and on writing."""

    in_head = False
    ignores_upgrade = False  # of the current request
    is_repeating = False  # the head of the current request, without its upgrade
    bytes_without_progress = 0
    chunks = 0
    body_bytes = 0
    deadline: asyncio.TimerHandle | None = None
    running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.write_deadline = WriteDeadline(transport, self.stop_writing)
        self.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.stop_waiting()
        self.write_deadline.stop()
        self.disconnect_cycles()

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        self.write_deadline.note_progress()

    def data_received(self, data: bytes) -> None:
        """Parse a slice at a time, so that the limits are checked in between."""
        self._unset_keepalive_if_required()
        start = 0
        try:
            for start in range(0, len(data), SLICE_BYTES):
                self.parse_slice(data[start : start + SLICE_BYTES])
        except HttpParserUpgrade as upgrade:
            self.upgrade(data[start + upgrade.args[0] :])
        except HttpParserError as error:
            self.refuse(error.__context__)
        except RequestRefused as refusal:
            self.refuse(refusal)
        if not self.is_answering() and self.transport.get_protocol() is self:
            self.expect_head()  # also after bytes that begin no request

    def parse_slice(self, data: bytes) -> None:
        """Parse, and raise `RequestRefused` for a head or for trailers that are too long."""
        assert self.parser is not None  # it is until the connection is lost
        self.bytes_without_progress += len(data)
        self.parser.feed_data(data)
        if self.bytes_without_progress > MAX_HEAD_BYTES:
            reason = "request head too long" if self.in_head else "too much after the body"
            raise RequestRefused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)

    def on_message_begin(self) -> None:
        """Start to count the bytes of a head."""
        if self.is_repeating:
            return
        super().on_message_begin()
        self.in_head = True
        self.bytes_without_progress = self.chunks = self.body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are ignored (RFC 9110 §6.5.1)."""
        if self.in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body on, or raise `RequestRefused` for many small chunks."""
        self.bytes_without_progress = 0
        self.chunks += 1
        self.body_bytes += len(body)
        if self.chunks > MAX_SMALL_CHUNKS and self.body_bytes < SMALL_CHUNK_BYTES * self.chunks:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "too many small chunks")
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Check the head, and pass the request on."""
        if self.is_repeating:
            self.is_repeating = False
            return
        self.in_head = False
        self.bytes_without_progress = 0
        self.stop_waiting()
        self.check_head()
        super().on_headers_complete()
        assert self.parser is not None
        self.ignores_upgrade = self.parser.should_upgrade() and not self._should_upgrade()

    def on_message_complete(self) -> None:
        """Note the end of a request, unless the parser has only come to an upgrade."""
        if not self.ignores_upgrade:
            super().on_message_complete()

    def check_head(self) -> None:
        """Raise `RequestRefused` for a wrong version or `Host`, or for too many requests.

        RFC 9112 §3.2 asks for one `Host`; a handshake has HTTP/1.1 (RFC 6455 §4.1), and no
        unanswered request before it, whose answer could end up among the frames.
        """
        assert self.parser is not None
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        is_handshake = self.parser.should_upgrade() and self._should_upgrade()
        if version != "1.1" and (is_handshake or version != "1.0"):
            raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version}")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"{hosts} Host headers")
        if is_handshake and self.is_answering():
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "handshake before an answer")
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise RequestRefused(HTTPStatus.TOO_MANY_REQUESTS, "too many pipelined requests")

    def upgrade(self, early: bytes) -> None:
        """Hand over to the WebSocket protocol, with what came after the handshake's head."""
        if not self._should_upgrade():
            self.ignore_upgrade(early)
            return
        self.write_deadline.stop()
        self.handle_websocket_upgrade()
        # They refer to this protocol: only the garbage collector would free it, some time.
        del self.parser, self.write_deadline
        if early and not self.transport.is_closing():
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(early)

    def ignore_upgrade(self, rest: bytes) -> None:
        """Parse the body, and further requests, as if no upgrade had been asked for.

        The parser would take what follows for another protocol, or a body for a request.
        """
        framing = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        self.parser = HttpRequestParser(self)
        self.ignores_upgrade, self.is_repeating = False, True
        self.data_received(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n", rest]))

    def handle_websocket_upgrade(self) -> None:
        """Hand over a handshake, as it is where it can be, else as bytes to parse again."""
        handshake = None
        kind: Any = self.ws_protocol_class
        if issubclass(kind, LightWebSocketProtocol) and not self.may_compress():
            handshake = read_handshake(self.scope["method"], self.url, self.headers)
        if handshake is None:
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        protocol = kind(self.config, self.server_state, self.app_state, self.loop)
        protocol.take_over(self, handshake)
        self.transport.set_protocol(protocol)

    def may_compress(self) -> bool:
        """Tell whether compression may be agreed on."""
        offered = any(name == b"sec-websocket-extensions" for name, _ in self.headers)
        return offered and self.config.ws_per_message_deflate

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        self.write_deadline.start()
        super()._start_asgi_task(cycle, app)

    def is_answering(self) -> bool:
        """Tell whether a request has not been answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def expect_head(self) -> None:
        """Start the deadline for a head, unless that has been done."""
        if self.deadline is None and not self.transport.is_closing():
            self.deadline = self.loop.call_later(HANDSHAKE_SECONDS, self.head_timeout)

    def stop_waiting(self) -> None:
        """Cancel the deadline for a head."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def head_timeout(self) -> None:
        """Close; that of a client that has sent nothing, as browsers do, is no warning."""
        level = logging.WARNING if self.in_head else logging.INFO
        self.log(level, "dropped", "no complete request in time")
        self.transport.close()

    def stop_writing(self) -> None:
        """Drop a client that does not read."""
        self.log(logging.WARNING, "dropped", "it stopped reading")
        self.transport.abort()

    def refuse(self, cause: BaseException | None) -> None:
        """Answer a request that the application does not see, and close.

        Behind an unanswered request there is no answer, since it would be taken for that one's.
        """
        status, reason = HTTPStatus.BAD_REQUEST, "invalid HTTP request"
        if isinstance(cause, RequestRefused):
            status, reason = cause.status, cause.reason
        if self.is_answering():
            self.log(logging.WARNING, "dropped", reason)
            self.disconnect_cycles()
            self.transport.abort()
        else:
            self.log(logging.WARNING, "refused", reason, status=status.value)
            self.transport.write(refusal(status, reason))
            self.write_deadline.start()
            self.transport.close()

    def disconnect_cycles(self) -> None:
        """Tell unanswered requests; uvicorn tells only the last of pipelined ones."""
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


def refusal(status: HTTPStatus, reason: str) -> bytes:
    """Return a complete response, after which the connection is closed."""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(reason)}\r\n\r\n{reason}".encode()
