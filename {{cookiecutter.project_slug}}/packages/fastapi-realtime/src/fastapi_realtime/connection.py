"""A WebSocket connection: receiving and sending messages within limits."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Generic, TypeVar, cast

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter

from . import lifecycle
from .close_codes import CloseCode
from .formats import JSON, ErrorCode, Format, InvalidMessage, decode_json
from .limits import LONG_MESSAGE_BYTES, FairTurn, LongMessages, RateLimiter
from .message_types import ANY_MESSAGE, MessageTypes
from .server.fast_path import HIGH_WATER, frame_message, server_frame, wire_size
from .server.inbox import Received
from .settings import RealtimeSettings

T = TypeVar("T")
Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

EXPECTED: dict[type, str] = {bytes: "text", str: "binary", object: "no message"}
"""What a close reason says is expected, by the type that is rejected."""


class Connection(lifecycle.Lifecycle, Generic[Incoming, Outgoing]):
    """A WebSocket that enforces size, rate and type limits.

    Iterate over it to receive messages. The loop ends when the connection is closed or lost, so
    an endpoint needs no `try` around it.

    An endpoint's signature declares `Connection[Incoming, Outgoing]`. `str`, `bytes` and
    `str | bytes` are raw messages; any other type is JSON. Without types, text and binary are
    received and sent.

    The handshake is answered on first use: when the endpoint receives, sends or closes. Until
    then, a dependency can still reject it with an HTTP response.
    """

    # Saves memory: a process holds thousands of connections.
    __slots__ = (
        "_active_at",
        "_invalid_in_a_row",
        "_limiter",
        "_long_messages",
        "_messages_seen",
        "_settings",
        "_types",
        "format",
    )

    def __init__(
        self,
        websocket: WebSocket,
        settings: RealtimeSettings,
        subprotocol: str | None,
        long_messages: LongMessages,
        types: MessageTypes = ANY_MESSAGE,
    ) -> None:
        """`subprotocol` is the one to select, of those that the client offers.

        `long_messages` is shared by all connections, `types` by those of the endpoint.
        """
        super().__init__(websocket, subprotocol)
        now = time.monotonic()
        self.format: Format = JSON
        self._settings = settings
        self._types = types
        self._long_messages = long_messages
        self._limiter = RateLimiter(settings.messages_per_second, settings.message_burst, now)
        self._invalid_in_a_row = 0
        self._messages_seen = 0
        self._active_at = now

    def __aiter__(self) -> AsyncIterator[Incoming]:
        """Yield messages of the declared type: text as `str`, binary as `bytes`, or parsed JSON.

        If only text or only binary is declared, the other closes with 1003. Invalid JSON is
        answered with an error message; more than `max_invalid_messages` in a row close with 1008.

        A message longer than `max_message_bytes` closes with 1009. Messages above the rate limit
        are answered with an error message; more than `message_burst` of them close with 1008.
        """
        schema, refused = self._types.schema, self._types.refused
        messages = self._messages(refused) if schema is None else self.parsed(schema)
        return cast("AsyncIterator[Incoming]", messages)

    def texts(self) -> AsyncIterator[str]:
        """Yield text messages, whatever type is declared; a binary one closes with 1003."""
        return cast("AsyncIterator[str]", self._messages(bytes))

    async def parsed(self, schema: TypeAdapter[T]) -> AsyncIterator[T]:
        """Yield JSON messages that match this schema, whatever type is declared."""
        async for message in self._messages():
            try:
                value = decode_json(message, schema)
            except InvalidMessage as error:
                await self._reject(message, error)
            else:
                self._invalid_in_a_row = 0
                yield value

    def send(self, message: Outgoing) -> Coroutine[Any, Any, None]:
        """Send a message of the declared type: raw if that is `str` or `bytes`, else as JSON.

        Waits while 64 KiB or more are unsent. Raises `WebSocketDisconnect` if the connection is
        closed, or if the client reads too little for `STALL_TIMEOUT` seconds; it is dropped then.
        Don't catch it: `Admission` does.
        """
        # Returns a coroutine instead of being one, to save time for every message.
        return self.send_message(self._types.encode(message))

    async def send_message(self, message: str | bytes) -> None:
        """Send `str` as text or `bytes` as binary, whatever type is declared; see `send`."""
        if not self._accepted:
            await self.accept()
        if (transport := self._start_sending()) is not None:
            frame = server_frame(message)
            self.bytes_out += len(frame)
            transport.write(frame)
        else:
            await self._send_when_there_is_room(message)

    async def send_error(self, code: str, detail: str) -> None:
        """Send an error: `{"error": {"code": ..., "detail": ...}}`; in rooms, an `error` event."""
        await self.send_message(self.format.error(code, detail))

    async def send_frame(self, frame: bytes) -> None:
        """Send a frame made by `server_frame`; see `send`."""
        if not self._accepted:
            await self.accept()
        if (transport := self._start_sending()) is not None:
            self.bytes_out += len(frame)
            transport.write(frame)
        else:
            await self._send_when_there_is_room(frame_message(frame))

    def idle_seconds(self, now: float) -> float:
        """Return the seconds since the last message in or out, measured from call to call."""
        messages = self.messages_in + self.messages_out
        if messages != self._messages_seen:
            self._messages_seen, self._active_at = messages, now
        return now - self._active_at

    async def _messages(self, refused: type | None = None) -> AsyncIterator[str | bytes]:
        turn = FairTurn()
        await self.accept()
        while self.is_open:
            if self.inbox is None:  # other servers do not tell whether a message is waiting
                message, size = await self._receive_event()
            elif (received := self.inbox.take()) is not None:
                message, size = received
            else:
                turn.begin()
                message, size = await self.inbox.get()
            if not isinstance(message, (str, bytes)):
                self._mark_closed(message)
                return
            now = time.monotonic()
            if turn.is_over(now):
                await asyncio.sleep(0)
            self.messages_in += 1
            self.bytes_in += size
            if size > LONG_MESSAGE_BYTES:
                await self._long_messages.wait_turn()
            if size > self._settings.max_message_bytes:
                reason = "message too big; see APP_MAX_MESSAGE_BYTES"
                await self.close(CloseCode.MESSAGE_TOO_BIG, reason)
            elif not self._limiter.allow(now, size):
                await self._limit_rate(message)
            elif refused is not None and isinstance(message, refused):
                await self.close(CloseCode.UNSUPPORTED_DATA, f"{EXPECTED[refused]} expected")
            else:
                yield message

    async def _receive_event(self) -> Received:
        event = await self._receive()
        text = event.get("text")
        message = event.get("bytes") if text is None else text
        return (event, 0) if message is None else (message, wire_size(message))

    async def _limit_rate(self, message: str | bytes) -> None:
        if self._limiter.is_flooded:
            reason = "too many messages; see APP_MESSAGE_BURST"
            await self.close(CloseCode.POLICY_VIOLATION, reason)
        else:
            await self.send_message(self.format.reject(message, ErrorCode.RATE_LIMITED))

    async def _reject(self, message: str | bytes, error: InvalidMessage) -> None:
        self._invalid_in_a_row += 1
        if self._invalid_in_a_row > self._settings.max_invalid_messages:
            reason = "too many invalid messages; see APP_MAX_INVALID_MESSAGES"
            await self.close(CloseCode.POLICY_VIOLATION, reason)
        else:
            await self.send_message(self.format.reject(message, error.code, error.path))

    def _start_sending(self) -> asyncio.Transport | None:
        """Count a message; return the transport, or `None` if the sender has to wait or use ASGI.

        Raises `WebSocketDisconnect` if the connection is closed.
        """
        transport = self.transport
        if not self.is_open or (transport is not None and transport.is_closing()):
            raise WebSocketDisconnect(CloseCode.GOING_AWAY)
        self.messages_out += 1
        if transport is None or transport.get_write_buffer_size() >= HIGH_WATER:
            return None
        return transport

    async def _send_when_there_is_room(self, message: str | bytes) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        self.bytes_out += wire_size(message)
        try:
            async with asyncio.timeout(lifecycle.STALL_TIMEOUT):
                await self.websocket.send({"type": "websocket.send", kind: message})
        except TimeoutError:
            self._drop_stalled()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None
        except RuntimeError:
            # uvicorn has closed by itself, after a frame too big or a missed pong. `receive`
            # will report it.
            self.abort()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None
