"""A WebSocket connection: opening, receiving, sending and closing within limits."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Self, TypeVar

from fastapi import HTTPException, WebSocket, WebSocketDisconnect, WebSocketException
from pydantic import TypeAdapter
from starlette.types import Message

from .errors import CAUSED_BY_CLIENT, CloseCode, check_close, without_setting
from .fastapi_internals import is_disconnected
from .handshake import ANONYMOUS, Identity
from .limits import LONG_MESSAGE_BYTES, FairTurn, LongMessages, RateLimiter
from .messages import (
    ANY_MESSAGE,
    JSON,
    ErrorCode,
    InvalidMessage,
    JsonFormat,
    MessageTypes,
    decode_json,
)
from .server.fast_path import HIGH_WATER, Inbox, Received, ReceivingInbox
from .server.logging import connection_fields, connection_id
from .server.metrics import CLOSE_CODE, ROUTE, durations, recorded_code, route_of
from .server.wire import frame_message, server_frame, wire_size
from .settings import RealtimeSettings

Result = TypeVar("Result")

STALL_TIMEOUT = 10.0
"""Seconds to wait for a client that reads too little to send it a frame; then it is dropped."""

logger = logging.getLogger(__name__)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")

REJECTED: Any = object()
"""Stands for the value of a message that was answered with an error."""

EXPECTED: dict[type, str] = {bytes: "text", str: "binary", object: "no message"}
"""What a close reason says is expected, by the type that is rejected."""


@dataclass(slots=True, eq=False, repr=False)  # a process holds thousands
class Connection(Generic[Incoming, Outgoing]):
    """A WebSocket that enforces size, rate and type limits.

    Iterate over it to receive messages. The loop ends when the connection is closed or lost, so
    an endpoint needs no `try` around it.

    An endpoint's signature declares `Connection[Incoming, Outgoing]`. `str`, `bytes` and
    `str | bytes` are raw messages; any other type is JSON. Without types, text and binary are
    received and sent.

    The handshake is answered on first use: when the endpoint receives, sends or closes. Until
    then, a dependency can still reject it with an HTTP response.
    """

    websocket: WebSocket
    _settings: RealtimeSettings
    subprotocol: str | None  # the one to select, of those that the client offers
    _long_messages: LongMessages  # shared by all connections
    _types: MessageTypes = ANY_MESSAGE  # shared by those of the endpoint
    transport: asyncio.Transport | None = None  # what the fast path writes to
    identity: Identity = ANONYMOUS
    format: JsonFormat = JSON
    deadline: asyncio.Timeout | None = None  # of the checks before the handshake
    is_accepted: bool = False  # the handshake has been answered: errors are close codes
    is_open: bool = False  # messages can be sent
    is_reading: bool = False  # messages of the client are handled: until we close
    has_ended: bool = False  # the client has left, or the connection is closed
    memberships: tuple[Any, ...] = ()  # of rooms: each a `rooms.member.Member`
    close_code: int | None = None
    close_reason: str = ""
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    inbox: Inbox = field(init=False)
    _accepting: asyncio.Future[None] | None = None
    _closing: asyncio.Task[None] | None = None
    _closed_before_accept: tuple[int, str] | None = None
    _closed_callbacks: tuple[Callable[[], None], ...] = ()
    _expiry: asyncio.TimerHandle | None = None
    _returned: tuple[Received, ...] = ()  # by calls that were cancelled
    _invalid_in_a_row: int = 0
    _messages_seen: int = 0
    _opened_at: float = field(init=False)
    _active_at: float = field(init=False)
    _limiter: RateLimiter = field(init=False)
    _turn: FairTurn = field(default_factory=FairTurn)
    has_message_types = True  # see `messages.declared_types`

    def __post_init__(self) -> None:
        scope, settings = self.websocket.scope, self._settings
        self.transport = scope.get("transport")
        self.inbox = scope["inbox"] if "inbox" in scope else ReceivingInbox()
        self.inbox.on_leave = self._end
        self._opened_at = self._active_at = now = time.monotonic()
        self._limiter = RateLimiter(settings.messages_per_second, settings.message_burst, now)

    @property
    def host(self) -> str:
        """The client's address; behind a trusted proxy, the one in its `X-Forwarded-For`."""
        return self.websocket.client.host if self.websocket.client else ""

    @property
    def id(self) -> str:
        """The unique id of this connection, in the log and in events of rooms."""
        return connection_id(self.websocket.scope)

    @property
    def route(self) -> str:
        """The path of the route, with parameters unfilled: `/ws_broadcast/{room:path}`."""
        return route_of(self.websocket.scope)

    @property
    def unsent_bytes(self) -> int:
        """Bytes in the transport's write buffer; 0 without the fast path, where it is unknown."""
        transport = self._server_transport
        return 0 if transport is None else transport.get_write_buffer_size()

    @property
    def subject(self) -> str:
        """The subject of the client's token; empty without tokens."""
        return self.identity.subject

    @property
    def early_refusal(self) -> HTTPException | None:
        """The response to a handshake that was closed before it was answered."""
        if self._closed_before_accept is None:
            return None
        code, reason = self._closed_before_accept
        return HTTPException(401 if code == CloseCode.UNAUTHORIZED else 503, reason)

    async def accept(self) -> None:
        """Answer the handshake with 101, if it has not been answered.

        Raises `HTTPException` if the connection was closed before: 401 if its token has expired
        or was revoked, else 503. Raises `WebSocketDisconnect` if the client is gone.
        """
        if self.is_accepted:
            return
        if self._accepting is not None:
            await asyncio.shield(self._accepting)
            return
        if (refusal := self.early_refusal) is not None:
            raise refusal
        self._set_deadline(None)
        self.deadline = None
        self._accepting = asyncio.get_running_loop().create_future()
        try:
            await self.websocket.accept(self.subprotocol)
        except OSError:
            raise WebSocketDisconnect(CloseCode.ABNORMAL) from None
        finally:
            self._accepting.set_result(None)
            self._accepting = None
        self.is_accepted = self.is_open = self.is_reading = True
        self._opened_at = time.monotonic()
        if logger.isEnabledFor(logging.INFO):
            origin = self.websocket.headers.get("origin", "")
            logger.info("connected", extra=self.log_fields() | {"origin": origin})
        if self._closed_before_accept is not None:
            self.close_soon(*self._closed_before_accept)  # during the handshake

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
        if not self.is_accepted:
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
                except (InvalidMessage, WebSocketException) as error:
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
        return self.send_frame(self._types.frame(message))

    def send_message(self, message: str | bytes) -> Coroutine[Any, Any, None]:
        """Send `str` as text or `bytes` as binary, whatever type is declared; see `send`."""
        return self.send_frame(server_frame(message))

    async def send_error(self, code: str, detail: str) -> None:
        """Send an error: `{"error": {"code": ..., "detail": ...}}`; in rooms, an `error` event."""
        await self.send_message(self.format.error(code, detail))

    async def send_frame(self, frame: bytes) -> None:
        """Send a frame made by `server_frame`; see `send`."""
        if not self.is_accepted:
            await self.accept()
        if (transport := self._start_sending()) is not None:
            self.bytes_out += len(frame)
            transport.write(frame)
        else:
            await self._send_when_there_is_room(frame_message(frame))

    async def run(self, work: Awaitable[Result]) -> Result:
        """Return the result of `work`; cancel it when the client leaves.

        Raises `WebSocketDisconnect` then, and also if the connection is closed; don't catch it.
        The limit of `wait_closed` applies.
        """
        try:
            async with asyncio.timeout(None) as timeout:
                cancel = partial(timeout.reschedule, 0)
                self.add_closed_callback(cancel)
                try:
                    return await work
                finally:
                    self.remove_closed_callback(cancel)
        except TimeoutError:
            if not timeout.expired():
                raise
            code = self.close_code or CloseCode.GOING_AWAY
            raise WebSocketDisconnect(code, self.close_reason) from None

    async def wait_closed(self) -> None:
        """Wait until the client has left, or the connection is closed.

        Unlike reading, this takes no messages. It can't see the end of a client behind 64
        messages or 64 KiB that have not been read.
        """
        if not self.is_accepted:
            await self.accept()
        with suppress(WebSocketDisconnect):
            await self.run(asyncio.get_running_loop().create_future())

    def add_closed_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the client leaves or the connection is closed, at once if it is."""
        if self.has_ended:
            callback()
        else:
            self._closed_callbacks += (callback,)

    def remove_closed_callback(self, callback: Callable[[], None]) -> None:
        """Remove a callback, if it has not been called."""
        self._closed_callbacks = tuple(each for each in self._closed_callbacks if each != callback)

    def idle_seconds(self, now: float) -> float:
        """Return the seconds since the last message in or out, measured from call to call."""
        messages = self.messages_in + self.messages_out
        if messages != self._messages_seen:
            self._messages_seen, self._active_at = messages, now
        return now - self._active_at

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close the connection, and wait until the close frame has been sent.

        Does nothing if the connection is closed. Raises `ValueError` for a code that an
        application must not send (RFC 6455 §7.4); your own are 4000 to 4999. A reason longer
        than 123 bytes is cut. If the close frame can't be sent within `STALL_TIMEOUT` seconds,
        the connection is dropped.
        """
        code, reason = check_close(code, reason)
        if not self.is_accepted:
            await self.accept()
        if self.close_code is None and self.is_reading and self._is_lost():
            await self._read_close_code()
        self.close_soon(code, reason)
        if self._closing is not None:
            await asyncio.wait([self._closing])

    def close_soon(self, code: int, reason: str) -> None:
        """Start to close the connection, without waiting.

        A handshake that has not been answered is rejected: with 401 for 4401, else with 503.
        """
        if not self.is_accepted:
            self._closed_before_accept = code, reason
            self._set_deadline(0)
        self.is_reading = False
        if not self.is_open:
            return
        code = int(code)  # no enum, which some servers and metrics take for another value
        self.close_code, self.close_reason = code, reason
        self._end()
        self._closing = asyncio.create_task(self._close(code, reason))
        if code in CAUSED_BY_CLIENT:
            self._warn("closed", code=code, reason=reason)

    def close_at(self, expires: float) -> None:
        """Close with 4401 at `expires`, in seconds since 1970; replaces an earlier time."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(
            expires - time.time(), self.close_soon, CloseCode.UNAUTHORIZED, "token expired"
        )

    def renew(self, identity: Identity) -> None:
        """Replace the identity by that of a new token, and its expiry.

        Does nothing if the connection is closed.
        """
        if self.is_open:
            self.identity = identity
            self.close_at(identity.expires)

    def abort(self) -> None:
        """Drop the connection without a close frame; unsent data is lost."""
        self.is_reading = False
        self._end()
        if (transport := self._server_transport) is not None:
            transport.abort()
        self._stop_reading()

    async def wait_flushed(self) -> None:
        """Wait until all data has been sent; drop the connection after `STALL_TIMEOUT` seconds.

        Without that, a closed transport waits forever for a client that reads nothing.
        """
        self.is_open = self.is_reading = False
        self.inbox.stop()
        if self._expiry is not None:
            self._expiry.cancel()
        try:
            for _ in range(100):
                if not self.unsent_bytes:
                    break
                await asyncio.sleep(STALL_TIMEOUT / 100)
        finally:
            if self.unsent_bytes:
                self._drop_stalled()

    def log_fields(self) -> dict[str, Any]:
        """Return the fields that identify this connection in the log."""
        scope = self.websocket.scope
        fields = connection_fields(scope) | {"path": scope["path"]}
        return fields | {"subject": self.subject} if self.subject else fields

    def log_end(self) -> None:
        """Log the end of an accepted connection, and record its duration as a metric."""
        if not self.is_accepted:
            return
        seconds = time.monotonic() - self._opened_at
        code = recorded_code(self.close_code, is_own=self._closing is not None)
        durations.record(seconds, {ROUTE: self.route, CLOSE_CODE: code})
        if logger.isEnabledFor(logging.INFO):
            fields = {
                "code": self.close_code,
                "reason": self.close_reason,
                "seconds": round(seconds, 3),
                "messages_in": self.messages_in,
                "messages_out": self.messages_out,
            }
            logger.info("disconnected", extra=self.log_fields() | fields)

    @property
    def _server_transport(self) -> asyncio.Transport | None:
        """What the client is connected by: the fast path, or the response of an event stream."""
        return self.transport or self.websocket.scope.get("http_transport")

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
        """Return the value of a message; raises `InvalidMessage`, or `WebSocketException`."""
        if size > self._settings.max_message_bytes:
            reason = "message too big; see APP_MAX_MESSAGE_BYTES"
            raise WebSocketException(CloseCode.MESSAGE_TOO_BIG, reason)
        if not self._limiter.allow(now, size):
            if self._limiter.is_flooded:
                reason = "too many messages; see APP_MESSAGE_BURST"
                raise WebSocketException(CloseCode.POLICY_VIOLATION, reason)
            raise InvalidMessage(ErrorCode.RATE_LIMITED)
        if refused is not None and isinstance(message, refused):
            raise WebSocketException(CloseCode.UNSUPPORTED_DATA, f"{EXPECTED[refused]} expected")
        if schema is None:
            return message
        try:
            value = decode_json(message, schema)
        except InvalidMessage:
            if self._invalid_in_a_row >= self._settings.max_invalid_messages:
                reason = "too many invalid messages; see APP_MAX_INVALID_MESSAGES"
                raise WebSocketException(CloseCode.POLICY_VIOLATION, reason) from None
            raise
        self._invalid_in_a_row = 0
        return value

    async def _reject(
        self, message: str | bytes, error: InvalidMessage | WebSocketException
    ) -> None:
        """Answer a message with an error, or close."""
        if isinstance(error, WebSocketException):
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
            async with asyncio.timeout(STALL_TIMEOUT):
                await self.websocket.send({"type": "websocket.send", kind: message})
        except TimeoutError:
            self._drop_stalled()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None
        except RuntimeError:
            # uvicorn has closed by itself, after a frame too big or a missed pong. `receive`
            # will report it.
            self.abort()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None

    def _end(self, can_send: bool = False) -> None:
        """Note that the connection ends; messages that came before can still be read."""
        self.is_open = self.is_open and can_send
        if self.has_ended:
            return
        self.has_ended = True
        callbacks, self._closed_callbacks = self._closed_callbacks, ()
        for callback in callbacks:
            callback()
        self._set_deadline(0)

    def _set_deadline(self, when: float | None) -> None:
        """Stop waiting for the checks before the handshake at `when`, a loop time, or never."""
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(when)

    def _mark_closed(self, event: Message) -> None:
        self.is_reading = False
        self._end()
        self.inbox.put(event)  # for other tasks that read
        if self.close_code is None:
            self.close_code, self.close_reason = event.get("code"), event.get("reason") or ""

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await self.websocket.close(code, without_setting(reason))
        except WebSocketDisconnect:
            pass  # the client has disconnected
        except TimeoutError:
            self._drop_stalled()
        except RuntimeError:
            # uvicorn has closed by itself, and would wait forever for unsent data to be read.
            if self.unsent_bytes:
                self.abort()
        self._stop_reading()

    def _stop_reading(self) -> None:
        self.inbox.put({"type": "websocket.disconnect"})

    def _is_lost(self) -> bool:
        """Return whether nothing can be sent; the close code is then in a disconnect event."""
        if self.transport is not None and self.transport.is_closing():
            return True
        return not self.is_open or is_disconnected(self.websocket)

    async def _read_close_code(self) -> None:
        """Discard unread messages up to the disconnect event, to learn the close code."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STALL_TIMEOUT):
                while isinstance((event := (await self.inbox.get())[0]), str | bytes):
                    pass
                self._mark_closed(event)

    def _drop_stalled(self) -> None:
        self._warn("dropped", reason="it stopped reading")
        self.abort()

    def _warn(self, message: str, **fields: Any) -> None:
        logger.warning(message, extra=self.log_fields() | fields)
