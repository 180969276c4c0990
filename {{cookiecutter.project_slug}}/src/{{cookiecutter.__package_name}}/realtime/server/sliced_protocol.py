"""uvicorn's WebSocket protocol, which parses a few frames of a client at a time."""

import asyncio

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

FRAMES_PER_TURN = 64
"""Frames of one client that are parsed at once; uvicorn reads up to 40,000 small ones."""
MAX_BYTES_AFTER_CLOSE = 262_144
"""Bytes that may still come, and are thrown away, when a close frame has been sent."""
TURNS_AT_END = 16
"""Turns for what came before the connection was lost."""


class SlicedWebSocketProtocol(WebSocketsSansIOProtocol):
    """Parses a few frames, and then gives others their turn.

    What cannot be parsed yet, because the handshake has not been answered, messages wait for the
    application, or others have their turn, is kept in `unparsed`; reading is paused meanwhile.
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
