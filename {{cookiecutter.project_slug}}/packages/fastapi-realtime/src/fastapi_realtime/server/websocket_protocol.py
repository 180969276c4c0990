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
"""Fragments that any message may have; they can be empty, so a limit on size is not enough."""
BYTES_PER_FRAGMENT = 1024
"""If `max_message_bytes` allows more, one fragment per this many bytes; above, 1009."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send; above, it is dropped."""
NO_HANDSHAKE = "not a WebSocket handshake"


class LimitedWebSocketProtocol(SlicedWebSocketProtocol):
    """WebSocket with limits on control frames, fragments, and slow readers."""

    control_frames = 0
    second = 0
    write_deadline: WriteDeadline | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.write_deadline is not None:
            self.write_deadline.stop()
        super().connection_lost(exc)

    def handshake_received(self, head: bytes) -> None:
        """Reject valid HTTP that is not a handshake; uvicorn would wait forever."""
        super().handshake_received(head)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.handshake_complete = self.close_sent = True
            bad_request = refusal(HTTPStatus.BAD_REQUEST, NO_HANDSHAKE)
            response = b"".join(self.conn.data_to_send()) or bad_request
            self.transport.write(response)
            self.transport.close()
            self.after_rejection(int(response[9:12]))

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        """Limit the time to send what is left when the application has returned."""
        super().on_task_complete(task)
        if self.close_reply:
            self.end()
        self.start_write_deadline()

    def start_write_deadline(self) -> None:
        """Start to check that the client reads unsent data, if there is any."""
        if self.transport.get_write_buffer_size() and self.write_deadline is None:
            self.write_deadline = WriteDeadline(self.transport, self.stop_writing)
            self.write_deadline.start()

    def stop_writing(self) -> None:
        """Drop the connection of a client that has stopped reading."""
        self.log("dropped", reason="it stopped reading")
        self.transport.abort()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code != 101:
            self.after_rejection(self.response.status_code)

    def after_rejection(self, status: int) -> None:
        """Log and count a handshake rejected before the application has seen it."""
        self.log("refused", status=status, reason=NO_HANDSHAKE)
        refused.add(1, {STATUS: status})
        self.start_write_deadline()

    def start_keepalive(self) -> None:
        """Start keepalive pings and parsing, after the handshake."""
        super().start_keepalive()
        if self.unparsed:
            self.schedule_turn()

    def handle_ping(self) -> None:
        """Send the parser's pongs, if `may_answer_ping`; keep its other frames."""
        made, pong = self.conn.data_to_send(), bytes([PONG])
        self.conn.writes = [each for each in made if each[:1] != pong]
        if self.may_answer_ping():
            self.transport.write(b"".join(each for each in made if each[:1] == pong))

    def answer_ping(self, payload: bytes) -> None:
        """Send a pong, if `may_answer_ping`."""
        if self.may_answer_ping():
            super().answer_ping(payload)

    def may_answer_ping(self) -> bool:
        """Count a ping; return `False` for a flood, or if the client reads too slowly."""
        if self.is_flooded() or self.transport.is_closing():
            return False
        return self.transport.get_write_buffer_size() < HIGH_WATER

    def handle_pong(self, event: Frame) -> None:
        """Handle a pong, unless there are too many."""
        if not self.is_flooded():
            super().handle_pong(event)

    def is_flooded(self) -> bool:
        """Count a control frame; drop the connection and return `True` if there are too many."""
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
        """Add a fragment; close with 1009 if there are too many."""
        if self.close_sent:
            return
        super().handle_cont(event)
        if len(self.frames) > max(MIN_FRAGMENTS, self.config.ws_max_size // BYTES_PER_FRAGMENT):
            self.frames = []
            self.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")

    def send_receive_event_to_app(self) -> None:
        """Put a complete message into the inbox; invalid UTF-8 closes with 1007."""
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        try:
            self.put(data.decode() if self.curr_msg_data_type == "text" else data, len(data))
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")

    def fail(self, code: int, reason: str) -> None:
        """Close because of an invalid message, and ignore what follows.

        The parser may already have parsed that, and even replied to a close frame.
        """
        event = {"type": "websocket.disconnect", "code": int(code), "reason": reason}
        self.inbox.put_nowait(event)
        self.transport.write(control_frame(CLOSE, Close(code, reason).serialize()))
        self.close_sent = True
        self.log("closed", code=code, reason=reason)
        self.discard()

    def handle_parser_exception(self) -> None:
        """Close after a protocol error, unless a close frame was sent; ignore what follows."""
        close = self.conn.close_sent
        if close is None or self.transport.is_closing():
            return
        if self.close_sent:
            self.discard()
        else:
            self.fail(close.code, close.reason)

    def keepalive_timeout(self) -> None:
        """Close after a missed pong; drop the connection if data is unsent."""
        self.stop_keepalive()
        if self.is_open:
            self.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def log(self, message: str, **fields: object) -> None:
        """Log a warning about this connection."""
        scope = getattr(self, "scope", None)
        client = connection_fields(scope) if scope else {"client": address_of(self.client)}
        refusals.warning(message, extra={**client, **fields})
