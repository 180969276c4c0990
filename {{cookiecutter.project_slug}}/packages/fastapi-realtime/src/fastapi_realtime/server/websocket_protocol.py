"""uvicorn's WebSocket protocol, with limits on control frames, fragments and slow readers."""

import asyncio
from http import HTTPStatus

from ..close_codes import CloseCode
from .fast_path import HIGH_WATER
from .frames import CLOSE, PONG, control_frame
from .http_protocol import refusal
from .logging import address_of, connection_fields, refusals
from .metrics import STATUS, refused
from .sliced_protocol import SlicedWebSocketProtocol
from .websockets_internals import Close, Frame, Request
from .write_deadline import WriteDeadline

MIN_FRAGMENTS = 1024
"""Fragments that any message may have; they may be empty, so its size does not limit them."""
BYTES_PER_FRAGMENT = 1024
"""Where larger messages are allowed, one fragment more for as many bytes."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send."""
NO_HANDSHAKE = "not a WebSocket handshake"


class LimitedWebSocketProtocol(SlicedWebSocketProtocol):
    """WebSocket with limits on control frames, fragments, and the time to read an answer."""

    control_frames = 0
    second = 0
    write_deadline: WriteDeadline | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline, too."""
        if self.write_deadline is not None:
            self.write_deadline.stop()
        super().connection_lost(exc)

    def handshake_received(self, head: bytes) -> None:
        """Refuse a head that is valid as HTTP, but not as a handshake; uvicorn would wait on."""
        super().handshake_received(head)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.handshake_complete = self.close_sent = True
            bad_request = refusal(HTTPStatus.BAD_REQUEST, NO_HANDSHAKE)
            self.transport.write(b"".join(self.conn.data_to_send()) or bad_request)
            self.transport.close()
            self.after_refusal(400)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Bound the time for what the application has left to be written."""
        super().on_task_complete(task)
        if self.last_frame:
            self.end()
        self.start_write_deadline()

    def start_write_deadline(self) -> None:
        """Drop the client if it does not read what waits for it."""
        if self.transport.get_write_buffer_size() and self.write_deadline is None:
            self.write_deadline = WriteDeadline(self.transport, self.stop_writing)
            self.write_deadline.start()

    def stop_writing(self) -> None:
        """Drop a client that does not read."""
        self.log("dropped", reason="it stopped reading")
        self.transport.abort()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.after_refusal(self.response.status_code)

    def after_refusal(self, status: int) -> None:
        """Log a refusal that the application does not see."""
        self.log("refused", status=status, reason=NO_HANDSHAKE)
        refused.add(1, {STATUS: status})
        self.start_write_deadline()

    def start_keepalive(self) -> None:
        """Start to ping and to parse, since the handshake is over."""
        super().start_keepalive()
        if self.unparsed:
            self.take_turn_soon()

    def handle_ping(self) -> None:
        """Send the pongs that the parser has made, if there are to be any."""
        made, pong = self.conn.data_to_send(), bytes([PONG])
        self.conn.writes = [each for each in made if each[:1] != pong]
        if self.may_answer_ping():
            self.transport.write(b"".join(each for each in made if each[:1] == pong))

    def answer_ping(self, payload: bytes) -> None:
        """Send a pong, if there is to be one."""
        if self.may_answer_ping():
            super().answer_ping(payload)

    def may_answer_ping(self) -> bool:
        """Count a ping; there is no answer to too many, nor to a client that reads none."""
        if self.is_flooded() or self.transport.is_closing():
            return False
        return self.transport.get_write_buffer_size() < HIGH_WATER

    def handle_pong(self, event: Frame) -> None:
        """Note that the client is there."""
        if not self.is_flooded():
            super().handle_pong(event)

    def is_flooded(self) -> bool:
        """Count a control frame, and drop a client that sends too many of them."""
        second = int(self.loop.time())
        self.control_frames = self.control_frames + 1 if second == self.second else 1
        self.second = second
        if self.control_frames <= CONTROL_FRAMES_PER_SECOND:
            return False
        if not self.transport.is_closing():
            self.log("dropped", reason="too many pings or pongs")
        self.transport.abort()
        return True

    def handle_cont(self, event: Frame) -> None:
        """Keep a fragment, unless there are too many."""
        if self.close_sent:
            return
        super().handle_cont(event)
        if len(self.frames) > max(MIN_FRAGMENTS, self.config.ws_max_size // BYTES_PER_FRAGMENT):
            self.frames = []
            self.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def send_receive_event_to_app(self) -> None:
        """Put a message into the inbox."""
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        try:
            self.put(data.decode() if self.curr_msg_data_type == "text" else data, len(data))
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close because of what the client sent; what comes behind it is ignored.

        The parser may have read that already, a close frame perhaps.
        """
        self.inbox.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(control_frame(CLOSE, Close(code, reason).serialize()))
        self.transport.close()
        self.close_sent = self.disconnected = True
        self.unparsed = b""
        self.log("closed", code=code, reason=reason)

    def handle_parser_exception(self) -> None:
        """Close, ignore whatever else came, and log it."""
        if self.transport.is_closing():
            return
        was_closed = self.close_sent
        super().handle_parser_exception()
        self.unparsed = b""
        if not was_closed:
            self.log_close()

    def keepalive_timeout(self) -> None:
        """Close, and don't wait for a client that doesn't read, either."""
        was_closed = self.close_sent
        super().keepalive_timeout()
        if self.close_sent and not was_closed:
            self.log_close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def log_close(self) -> None:
        """Log a close frame that the application has not sent."""
        close = self.conn.close_sent
        if close is not None:
            self.log("closed", code=close.code, reason=close.reason)

    def log(self, message: str, **fields: object) -> None:
        """Log the end of a connection as a warning."""
        scope = getattr(self, "scope", None)
        client = connection_fields(scope) if scope else {"client": address_of(self.client)}
        refusals.warning(message, extra={**client, **fields})
