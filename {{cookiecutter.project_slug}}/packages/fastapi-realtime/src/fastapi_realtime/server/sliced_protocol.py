"""uvicorn's WebSocket protocol, parsing a few frames of a client at a time."""

import asyncio
from typing import cast

from ..close_codes import CloseCode
from .frames import frame_size, has_minimal_length, read_control, read_message
from .light_protocol import LightWebSocketProtocol
from .uvicorn_internals import ASGIReceiveEvent, ASGISendEvent

FRAMES_PER_TURN = 64
"""Frames of one client to parse before other tasks run; a read can have 40,000 small ones."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Maximum bytes to parse after a close frame was sent, for the client's own; the rest is discarded."""
MAX_DISCARDED_BYTES = 16_777_216
"""Maximum bytes to discard; then reading stops."""
DISCARD_SECONDS = 2.0
"""Seconds for the client to read the close frame and close; then the connection is dropped."""
TURNS_AT_END = 16
"""Maximum turns to parse remaining data when the connection is lost."""


class SlicedWebSocketProtocol(LightWebSocketProtocol):
    """Parses a few frames, then lets other tasks run.

    Data is kept in `unparsed`, and reading is paused, until the handshake has been answered, the
    inbox is empty and other tasks have run.
    """

    bytes_after_close = 0
    unparsed: bytes | bytearray = b""
    frame_bytes_left = 0  # bytes of the current frame that the parser has not seen
    turn: asyncio.Handle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse the remaining data, up to `TURNS_AT_END` turns."""
        for _ in range(TURNS_AT_END):
            if self.can_parse() and not self.close_sent:
                self.parse_frames()
        self.unparsed = b""
        super().connection_lost(exc)

    def handshake_received(self, head: bytes) -> None:
        """Parse the head of a handshake with `websockets`."""
        super().data_received(head)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self.handshake_received(data)
            return
        if self.close_sent or self.close_reply:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.discard()
            if self.is_discarding or self.transport.is_closing() or self.close_reply:
                return
        if self.unparsed:
            self.unparsed = self.unparsed + data
        else:
            self.unparsed = data[self.handle_common_frames(data) :]
        if self.unparsed and self.turn is None:
            self.run_turn()

    def discard(self) -> None:
        """Read on without parsing, so that the client gets the close frame (RFC 6455 §7.1.1).

        To close with data unread would reset the connection, and destroy the frame on its way.
        The client sees the end of the stream at once, and has `DISCARD_SECONDS` to close. After
        `MAX_DISCARDED_BYTES`, no more is read.
        """
        if self.close_reply:  # the client has closed, and must not send more
            self.transport.abort()
        if self.bytes_after_close > MAX_DISCARDED_BYTES:
            self.transport.pause_reading()
        if self.is_discarding or self.transport.is_closing():
            return
        self.is_discarding = self.disconnected = True
        self.unparsed = b""
        self.inbox.end()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self.stop_close_timer()
        self.close_timer = self.loop.call_later(DISCARD_SECONDS, self.transport.abort)

    def run_turn(self) -> None:
        """Parse some frames; schedule another turn if there are more, else resume reading."""
        self.turn = None
        if not self.read_paused:
            self.pop_unparsed(self.handle_common_frames(self.unparsed))
        if self.can_parse() and not self.read_paused:
            self.parse_frames()
        if self.transport.is_closing():
            return
        if self.can_parse() or not self.handshake_complete:
            self.transport.pause_reading()
            if self.handshake_complete and not self.read_paused:
                self.schedule_turn()
        elif not self.read_paused:
            self.transport.resume_reading()

    def schedule_turn(self) -> None:
        """Schedule a turn, after other tasks have run."""
        if self.turn is None:
            self.turn = self.loop.call_soon(self.run_turn)

    def can_parse(self) -> bool:
        """Return whether there is a frame, or a part of one, that can be parsed now."""
        if not self.unparsed or not self.handshake_complete or self.has_ended:
            return False
        return self.frame_bytes_left > 0 or frame_size(self.unparsed, 0) is not None

    def handle_common_frames(self, data: bytes | bytearray) -> int:
        """Handle common messages and control frames at the start of `data`.

        Returns the position of the rest, which the parser of `websockets` has to parse.
        """
        start, limit = 0, self.config.ws_max_size
        if not self.is_open or self.frame_bytes_left or self.frames:
            return start
        while not self.read_paused:
            if found := read_message(data, start, limit):
                message, size, start = found
                self.put(message, size)
            elif control := read_control(data, start):
                opcode, payload, end = control
                self.handle_control_frame(opcode, payload)
                start = len(data) if self.transport.is_closing() or self.close_reply else end
            else:
                break
        return start

    def put(self, message: str | bytes, size: int) -> None:
        """Put a message into the inbox; pause reading if it is full."""
        self.inbox.put(message, size)
        if self.inbox.is_full and not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def on_inbox_empty(self) -> None:
        """Resume parsing and reading, or end if the client has closed."""
        if self.close_reply:
            self.end()
        if not self.read_paused:
            return
        self.read_paused = False
        if self.unparsed:
            self.schedule_turn()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def parse_frames(self) -> None:
        """Parse up to `FRAMES_PER_TURN` frames; the last one may be incomplete."""
        end = self.frame_bytes_left
        is_invalid = False
        for _ in range(FRAMES_PER_TURN):
            size = frame_size(self.unparsed, end)
            is_invalid = size is not None and not has_minimal_length(self.unparsed, end)
            if size is None or is_invalid:
                break
            end += size
        self.frame_bytes_left = max(0, end - len(self.unparsed))
        self.parse(self.pop_unparsed(end))
        if is_invalid and self.is_open:
            self.fail(CloseCode.PROTOCOL_ERROR, "the length of a frame is not minimal")

    def fail(self, code: int, reason: str) -> None:
        """Close because of an invalid message, and ignore what follows; see the subclass."""

    def parse(self, data: bytes | bytearray) -> None:
        """Parse data; events before an error are handled, too."""
        self.conn.receive_data(data)
        self.handle_events()
        if self.conn.parser_exc is not None:
            self.handle_parser_exception()

    def pop_unparsed(self, size: int) -> bytes | bytearray:
        """Remove and return up to `size` bytes of `unparsed`."""
        data, self.unparsed = self.unparsed, b""
        if size < len(data):
            self.unparsed = bytearray(data) if isinstance(data, bytes) else data
            data = data[:size]
            del self.unparsed[:size]
        return data

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message or disconnect, as an ASGI event."""
        message, _ = await self.inbox.get()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if isinstance(message, bytes):
            return {"type": "websocket.receive", "bytes": message}
        return cast(ASGIReceiveEvent, message)

    async def send(self, message: ASGISendEvent) -> None:
        """Send. After a close, end if the client has closed, else parse on to its close frame."""
        is_end = bool(self.close_reply) and message["type"] == "websocket.close"
        if is_end:
            self.stop_close_timer()
        try:
            await super().send(message)
        finally:
            if is_end:
                self.end()
        if self.close_sent and self.unparsed:
            self.schedule_turn()
