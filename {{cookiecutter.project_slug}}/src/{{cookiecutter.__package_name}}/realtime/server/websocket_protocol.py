"""uvicorn's WebSocket protocol, with limits on control frames, fragments and small frames."""

import asyncio
from http import HTTPStatus

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from ..close_codes import CloseCode
from .fast_path import HIGH_WATER
from .http_protocol import refusal
from .logging import address_of, connection_fields, refusals
from .write_deadline import WriteDeadline

MIN_FRAGMENTS = 1024
"""Fragments that any message may have; they may be empty, so its size does not limit them."""
BYTES_PER_FRAGMENT = 1024
"""Where larger messages are allowed, one fragment more for as many bytes."""
CONTROL_FRAMES_PER_SECOND = 100
"""Pings and pongs that a client may send."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Bytes that may still come, and are thrown away, when a close frame has been sent."""
FRAMES_PER_TURN = 64
"""Frames of one client that are parsed at once; uvicorn reads up to 40,000 small ones."""
TURNS_AT_END = 16
"""Turns for what came before the connection was lost."""

NO_HANDSHAKE = "not a WebSocket handshake"


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket with limits on control frames, fragments, and parsing without a pause.

    A few frames are parsed at once. What cannot be parsed yet, because the handshake has not been
    answered, messages wait for the application, or others have their turn, is kept in
    `unparsed`; reading is paused meanwhile.
    """

    control_frames = 0
    second = 0
    bytes_after_close = 0
    unparsed: bytes | bytearray = b""
    frame_rest = 0  # bytes of the current frame that the parser has not seen
    turn: asyncio.Handle | None = None
    write_deadline: WriteDeadline | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on what came before the end, unless it is very much."""
        for _ in range(TURNS_AT_END):
            if self.can_parse() and not self.close_sent:
                self.parse_frames()
        self.unparsed = b""
        if self.write_deadline is not None:
            self.write_deadline.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self.handshake_received(data)
            return
        if self.close_sent:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.transport.abort()
                return
        waits = self.unparsed or self.frame_rest or self.read_paused or not self.handshake_complete
        if not waits and not self.conn.eof_sent and frame_size(data, 0) == len(data):
            self.parse(data)  # the usual case: one frame
            return
        self.unparsed = self.unparsed + data if self.unparsed else data
        if self.turn is None:
            self.take_turn()

    def handshake_received(self, head: bytes) -> None:
        """Refuse a head that is valid as HTTP, but not as a handshake; uvicorn would wait on."""
        super().data_received(head)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self.handshake_complete = self.close_sent = True
            bad_request = refusal(HTTPStatus.BAD_REQUEST, NO_HANDSHAKE)
            self.transport.write(b"".join(self.conn.data_to_send()) or bad_request)
            self.transport.close()
            self.after_refusal(400)

    def take_turn(self) -> None:
        """Parse some frames; continue later if there are more, and read on if there are not."""
        self.turn = None
        if self.can_parse() and not self.read_paused:
            self.parse_frames()
        if self.transport.is_closing():
            return
        if self.can_parse() or not self.handshake_complete:
            self.transport.pause_reading()
            if self.handshake_complete and not self.read_paused:
                self.take_turn_soon()
        elif not self.read_paused:
            self.transport.resume_reading()

    def take_turn_soon(self) -> None:
        """Parse more when others have had their turn."""
        if self.turn is None:
            self.turn = self.loop.call_soon(self.take_turn)

    def can_parse(self) -> bool:
        """Tell whether there is more of a frame, after the handshake and before the end."""
        if not self.unparsed or not self.handshake_complete or self.conn.eof_sent:
            return False
        return self.frame_rest > 0 or frame_size(self.unparsed, 0) is not None

    def parse_frames(self) -> None:
        """Parse up to `FRAMES_PER_TURN` frames, the last perhaps in part."""
        end = self.frame_rest
        for _ in range(FRAMES_PER_TURN):
            size = frame_size(self.unparsed, end)
            if size is None:
                break
            end += size
        self.frame_rest = max(0, end - len(self.unparsed))
        self.parse(self.take(end))

    def parse(self, data: bytes | bytearray) -> None:
        """Parse data, and handle what comes before an error, too."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def take(self, size: int) -> bytes | bytearray:
        """Return up to `size` bytes of what is unparsed, and remove them."""
        data, self.unparsed = self.unparsed, b""
        if size < len(data):
            self.unparsed = bytearray(data) if isinstance(data, bytes) else data
            data = data[:size]
            del self.unparsed[:size]
        return data

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next event; when there are no more, parse or read on."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if self.unparsed:
                self.take_turn_soon()
            elif not self.transport.is_closing():
                self.transport.resume_reading()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Send; after a close frame, go on to parse until the client's own is found."""
        await super().send(message)
        if self.close_sent and self.unparsed:
            self.take_turn_soon()

    async def run_asgi(self) -> None:
        """Run the application, and bound the time for what it leaves to be written."""
        await super().run_asgi()
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
        """Log what the application never hears of."""
        self.log("refused", status=status, reason=NO_HANDSHAKE)
        self.start_write_deadline()

    def start_keepalive(self) -> None:
        """Start to ping and to parse; the handshake is over, and its 3 KiB are not kept."""
        super().start_keepalive()
        del self.request, self.response
        if self.unparsed:
            self.take_turn_soon()

    def handle_ping(self) -> None:
        """Answer, unless there are too many, or the answers are not read."""
        if self.is_flooded() or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() < HIGH_WATER:
            super().handle_ping()

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
        """Queue a message, and read no more until the application has taken it."""
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        try:
            if self.curr_msg_data_type == "text":
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            else:
                self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        except UnicodeDecodeError:
            self.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
            return
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close because of what the client sent, unless it has closed already."""
        if self.conn.close_rcvd is None:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Close, ignore whatever else came, and log it."""
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


def frame_size(data: bytes | bytearray, start: int) -> int | None:
    """Return the size of the client's frame that begins there (RFC 6455 §5.2).

    It is `None` where there is no complete header, but for the mask.
    """
    if start + 1 >= len(data):
        return None
    length = data[start + 1] & 0x7F
    if length < 126:
        return 6 + length
    width = 2 if length == 126 else 8
    if start + 2 + width > len(data):
        return None
    return 6 + width + int.from_bytes(data[start + 2 : start + 2 + width], "big")
