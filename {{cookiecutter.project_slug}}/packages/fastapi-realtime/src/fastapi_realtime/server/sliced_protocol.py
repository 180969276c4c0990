"""uvicorn's WebSocket protocol, which parses a few frames of a client at a time."""

import asyncio
from typing import cast

from .frames import frame_size, read_control, read_message
from .light_protocol import LightWebSocketProtocol
from .uvicorn_internals import ASGIReceiveEvent, ASGISendEvent

FRAMES_PER_TURN = 64
"""Frames of one client that are parsed at once; uvicorn reads up to 40,000 small ones."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Bytes that may still come, and are thrown away, when a close frame has been sent."""
TURNS_AT_END = 16
"""Turns for what came before the connection was lost."""


class SlicedWebSocketProtocol(LightWebSocketProtocol):
    """Parses a few frames, and then gives others their turn.

    What cannot be parsed yet, because the handshake has not been answered, the inbox is full, or
    others have their turn, is kept in `unparsed`; reading is paused meanwhile.
    """

    bytes_after_close = 0
    unparsed: bytes | bytearray = b""
    frame_rest = 0  # bytes of the current frame that the parser has not seen
    turn: asyncio.Handle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on what came before the end, unless it is very much."""
        for _ in range(TURNS_AT_END):
            if self.can_parse() and not self.close_sent:
                self.parse_frames()
        self.unparsed = b""
        super().connection_lost(exc)

    def handshake_received(self, head: bytes) -> None:
        """Take the head of a handshake."""
        super().data_received(head)

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self.handshake_received(data)
            return
        if self.close_sent or self.last_frame:
            self.bytes_after_close += len(data)
            if self.bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.transport.abort()
            if self.transport.is_closing() or self.last_frame:
                return
        if self.unparsed:
            self.unparsed = self.unparsed + data
        else:
            self.unparsed = data[self.take_frames(data) :]
        if self.unparsed and self.turn is None:
            self.take_turn()

    def take_turn(self) -> None:
        """Parse some frames; continue later if there are more, and read on if there are not."""
        self.turn = None
        if not self.read_paused:
            self.take(self.take_frames(self.unparsed))
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
        if not self.unparsed or not self.handshake_complete or self.has_ended:
            return False
        return self.frame_rest > 0 or frame_size(self.unparsed, 0) is not None

    def take_frames(self, data: bytes | bytearray) -> int:
        """Take messages and control frames, as long as data begins with a common one.

        Return where what is left for the parser begins.
        """
        start, limit = 0, self.config.ws_max_size
        if not self.is_open or self.frame_rest or self.frames:
            return start
        while not self.read_paused:
            if found := read_message(data, start, limit):
                message, size, start = found
                self.put(message, size)
            elif control := read_control(data, start):
                opcode, payload, end = control
                self.take_control_frame(opcode, payload)
                start = len(data) if self.transport.is_closing() or self.last_frame else end
            else:
                break
        return start

    def put(self, message: str | bytes, size: int) -> None:
        """Put a message into the inbox, and read no more while that is full."""
        self.inbox.put(message, size)
        if self.inbox.is_full and not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Parse or read on, since the inbox is empty, or end where the client has closed."""
        if self.last_frame:
            self.end()
        if not self.read_paused:
            return
        self.read_paused = False
        if self.unparsed:
            self.take_turn_soon()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

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
        """Return what comes next, as an event of ASGI."""
        message, _ = await self.inbox.get()
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        if isinstance(message, bytes):
            return {"type": "websocket.receive", "bytes": message}
        return cast(ASGIReceiveEvent, message)

    async def send(self, message: ASGISendEvent) -> None:
        """Send; after a close frame, end, or go on to parse until the client's own is found."""
        is_end = bool(self.last_frame) and message["type"] == "websocket.close"
        if is_end:
            self.stop_close_timer()
        try:
            await super().send(message)
        finally:
            if is_end:
                self.end()
        if self.close_sent and self.unparsed:
            self.take_turn_soon()
