"""A WebSocket connection: receiving and sending messages within limits."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter

from . import lifecycle
from .close_codes import CloseCode
from .formats import JSON, ErrorCode, Format, InvalidMessage, decode_json
from .limits import LONG_MESSAGE_BYTES, FairTurn, LongMessages, RateLimiter
from .message_types import ANY_MESSAGE, MessageTypes
from .server.fast_path import HIGH_WATER, frame_message, server_frame
from .server.frames import wire_size
from .server.inbox import Received
from .settings import RealtimeSettings

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

REJECTED: Any = object()
"""Stands for the value of a message that was answered with an error."""

EXPECTED: dict[type, str] = {bytes: "text", str: "binary", object: "no message"}
"""What a close reason says is expected, by the type that is rejected."""


class MustClose(Exception):
    """Raised for a message after which the connection is closed."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code = code
        self.reason = reason


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
        "_returned",
        "_settings",
        "_turn",
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
        self._turn = FairTurn()
        self._returned: tuple[Received, ...] = ()  # by calls that were cancelled
        self._invalid_in_a_row = 0
        self._messages_seen = 0
        self._active_at = now

    def __aiter__(self) -> Self:
        """Return this connection, which is an iterator of its messages; see `receive`."""
        return self

    def __anext__(self) -> Coroutine[Any, Any, Incoming]:
        return self.next_message(self._types.refused, self._types.schema)

    async def receive(self) -> Incoming:
        """Return the next message of the declared type: `str`, `bytes`, or parsed JSON.

        If this is cancelled, or times out, no message is lost: the next call returns it. Raises
        `WebSocketDisconnect` once the connection has ended; iteration ends without an exception.

        If only text or only binary is declared, the other closes with 1003. Invalid JSON is
        answered with an error message; more than `max_invalid_messages` in a row close with 1008.

        A message longer than `max_message_bytes` closes with 1009. Messages above the rate limit
        are answered with an error message; more than `message_burst` of them close with 1008.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            code = self.close_code or CloseCode.ABNORMAL
            raise WebSocketDisconnect(code, self.close_reason) from None

    async def next_message(
        self, refused: type | None = None, schema: TypeAdapter[Any] | None = None
    ) -> Any:
        """Return the next valid message, whatever type is declared.

        Messages of the type `refused` close with 1003; with a `schema`, messages are JSON. Raises
        `StopAsyncIteration` once the connection has ended.
        """
        if not self._accepted:
            await self.accept()
        while self.is_reading:
            message, size = received = self._take_received() or await self._wait_for_message()
            if not isinstance(message, (str, bytes)):
                self._mark_closed(message)
                break
            try:
                now = time.monotonic()
                if self._turn.is_over(now):
                    await asyncio.sleep(0)
                if size > LONG_MESSAGE_BYTES:
                    await self._long_messages.wait_turn()
                try:
                    value = self._check(message, size, now, refused, schema)
                except (InvalidMessage, MustClose) as error:
                    await self._reject(message, error)
                    value = REJECTED
            except BaseException:  # cancelled: whoever reads next gets the message
                self._returned = (received, *self._returned)
                raise
            self.messages_in += 1
            self.bytes_in += size
            if value is not REJECTED:
                return value
        raise StopAsyncIteration

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

    def _take_received(self) -> Received | None:
        """Return a message that is there already, without waiting."""
        if self._returned:
            first, *rest = self._returned
            self._returned = tuple(rest)
            return first
        return self.inbox.take()

    def _wait_for_message(self) -> Coroutine[Any, Any, Received]:
        self._turn.begin()
        return self.inbox.get()

    def _check(
        self,
        message: str | bytes,
        size: int,
        now: float,
        refused: type | None,
        schema: TypeAdapter[Any] | None,
    ) -> Any:
        """Return the value of a message; raises `InvalidMessage`, or `MustClose`."""
        if size > self._settings.max_message_bytes:
            reason = "message too big; see APP_MAX_MESSAGE_BYTES"
            raise MustClose(CloseCode.MESSAGE_TOO_BIG, reason)
        if not self._limiter.allow(now, size):
            if self._limiter.is_flooded:
                reason = "too many messages; see APP_MESSAGE_BURST"
                raise MustClose(CloseCode.POLICY_VIOLATION, reason)
            raise InvalidMessage(ErrorCode.RATE_LIMITED)
        if refused is not None and isinstance(message, refused):
            raise MustClose(CloseCode.UNSUPPORTED_DATA, f"{EXPECTED[refused]} expected")
        if schema is None:
            return message
        try:
            value = decode_json(message, schema)
        except InvalidMessage:
            if self._invalid_in_a_row >= self._settings.max_invalid_messages:
                reason = "too many invalid messages; see APP_MAX_INVALID_MESSAGES"
                raise MustClose(CloseCode.POLICY_VIOLATION, reason) from None
            raise
        self._invalid_in_a_row = 0
        return value

    async def _reject(self, message: str | bytes, error: InvalidMessage | MustClose) -> None:
        """Answer a message with an error, or close."""
        if isinstance(error, MustClose):
            await self.close(error.code, error.reason)
            return
        await self.send_message(self.format.reject(message, error.code, error.path))
        if error.code is not ErrorCode.RATE_LIMITED:
            self._invalid_in_a_row += 1

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
