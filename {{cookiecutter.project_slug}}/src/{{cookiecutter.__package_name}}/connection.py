"""One accepted WebSocket: what its peer may send, and every way it can end."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.types import Message
from starlette.websockets import WebSocketState

from .logs import address_of, connection_fields
from .protocol import CAUSED_BY_CLIENT, CloseCode, ErrorCode, check_close, error_json
from .settings import Settings
{% if cookiecutter.auth == "jwt" %}
from .tokens import ANYBODY
{% endif %}
from .transport import find_transport, server_frame

STALL_TIMEOUT = 10.0
"""Seconds that a peer may take to make room for one frame; after that it counts as gone."""

HIGH_WATER = 64 * 1024
"""Bytes that may wait in the transport before a sender waits, too; asyncio's own measure."""

MESSAGES_PER_TURN = 64
"""Messages of one peer that are taken at once before others get their turn."""

SECONDS_PER_TURN = 0.005
"""Seconds that these may take, in the endpoint, too, before others get their turn."""

AT_ONCE = 0.0001
"""Seconds within which a message is there that need not be waited for."""

MAX_PATH = 200
"""Characters of a path in an error; its keys may be the client's own."""

Shape = TypeVar("Shape")

logger = logging.getLogger(__name__)


class Connection:
    """A WebSocket that enforces size, rate and type limits.

    Iterate over it, or over `texts()` or `parsed()`, for its messages. The loop ends when the
    connection does, for whatever reason, so an endpoint needs no `try` around it.

    The handshake is answered on first use: when it is read from, sent to or closed. So whatever
    else the endpoint asks for has been checked by then, and can still refuse it with HTTP.
    """

    # A process holds thousands of them.
    __slots__ = (
        "_accepted",
        "_allowance",
        "_closed_early",
        "_closing",
{% if cookiecutter.auth == "jwt" %}
        "_expiry",
{% endif %}
        "_invalid_in_a_row",
        "_opened_at",
        "_opening",
        "_reading",
        "_settings",
        "_websocket",
        "close_code",
        "close_reason",
        "encode_error",
{% if cookiecutter.auth == "jwt" %}
        "identity",
{% endif %}
        "is_open",
        "last_received_at",
        "messages_in",
        "messages_out",
        "subprotocol",
        "transport",
    )

    def __init__(
        self, websocket: WebSocket, settings: Settings, subprotocol: str | None = None
    ) -> None:
        """`subprotocol` is the one to choose of those that the client offers."""
        self.is_open = False
        self.close_code: int | None = None
        self.close_reason = ""
        self.messages_in = 0
        self.messages_out = 0
        self.last_received_at = time.monotonic()
{% if cookiecutter.auth == "jwt" %}
        self.identity = ANYBODY
        self._expiry: asyncio.TimerHandle | None = None
{% endif %}
        self.subprotocol = subprotocol
        self.transport = find_transport(websocket.scope)
        self.encode_error: Callable[[ErrorCode, str], str] = error_json
        self._accepted = False
        self._closed_early: tuple[int, str] | None = None
        self._opened_at = self.last_received_at
        self._opening: asyncio.Future[None] | None = None
        self._websocket = websocket
        self._settings = settings
        self._invalid_in_a_row = 0
        self._allowance: float = settings.message_burst
        self._reading: asyncio.Timeout | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def host(self) -> str:
        """The peer's address; behind a trusted proxy, what the proxy says it is."""
        return self._websocket.client.host if self._websocket.client else ""

    @property
    def address(self) -> str:
        """The same with the port, for people."""
        return address_of(self._websocket.client)
{% if cookiecutter.auth == "jwt" %}

    @property
    def subject(self) -> str:
        """The subject of the peer's token."""
        return self.identity.subject
{% endif %}

    @property
    def is_accepted(self) -> bool:
        """Whether the handshake has been answered; from then on, refusals are close codes."""
        return self._accepted

    async def accept(self) -> None:
        """Answer the handshake with 101, unless that is done.

        Raises `HTTPException` if the connection was closed before: with 401 where its token has
        expired or was revoked, else with 503.
        """
        if self._accepted:
            return
        if self._opening is not None:
            await self._opening
            return
        if self._closed_early is not None:
{% if cookiecutter.auth == "jwt" %}
            code, reason = self._closed_early
            raise HTTPException(401 if code == CloseCode.UNAUTHORIZED else 503, reason)
{% else %}
            raise HTTPException(503, self._closed_early[1])
{% endif %}
        self._opening = asyncio.get_running_loop().create_future()
        try:
            await self._websocket.accept(self.subprotocol)
        except OSError:
            raise WebSocketDisconnect(CloseCode.ABNORMAL) from None
        finally:
            self._opening.set_result(None)
            self._opening = None
        self._accepted = self.is_open = True
        self._opened_at = self.last_received_at = time.monotonic()
        origin = self._websocket.headers.get("origin", "")
        logger.info("connected", extra=self.log_fields() | {"origin": origin})
        if self._closed_early is not None:
            self.close_soon(*self._closed_early)  # while the handshake was being answered

    def log_fields(self) -> dict[str, Any]:
        """Return what identifies this connection in the log."""
        scope = self._websocket.scope
{% if cookiecutter.auth == "jwt" %}
        return connection_fields(scope) | {"path": scope["path"], "subject": self.subject}
{% else %}
        return connection_fields(scope) | {"path": scope["path"]}
{% endif %}

    def log_end(self) -> None:
        """Write the last line about this connection: how it ended, and what it did."""
        if not self._accepted:
            return
        fields = self.log_fields() | {
            "code": self.close_code,
            "reason": self.close_reason,
            "seconds": round(time.monotonic() - self._opened_at, 3),
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
        }
        logger.info("disconnected", extra=fields)

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Yield every message, text as `str` and binary as `bytes`.

        The peer sees 1009 after a message over `max_message_bytes`. Messages over
        `messages_per_second` and `message_burst` are answered with an error frame; as many of
        them as a burst has close with 1008.
        """
        return self._messages()

    def texts(self) -> AsyncIterator[str]:
        """Yield every text message; a binary one closes with 1003."""
        return cast("AsyncIterator[str]", self._messages(binary=False))

    async def _messages(self, *, binary: bool = True) -> AsyncIterator[str | bytes]:
        rate, burst = self._settings.messages_per_second, self._settings.message_burst
        at_once, turn_began = 0, 0.0
        await self.accept()
        while self.is_open:
            asked = time.monotonic()
            if self.transport is None:
                event = await self._receive_unless_closed()
            else:
                event = await self._websocket.receive()  # uvicorn ends this when we close
            if event["type"] == "websocket.disconnect":
                self._note_end(event)
                return
            now = time.monotonic()
            if now - asked >= AT_ONCE:
                at_once, turn_began = 0, now
            elif at_once >= MESSAGES_PER_TURN or now - turn_began > SECONDS_PER_TURN:
                await asyncio.sleep(0)
                at_once, turn_began = 0, time.monotonic()
            at_once += 1
            self._allowance = min(burst, self._allowance + (now - self.last_received_at) * rate) - 1
            self.last_received_at = now
            self.messages_in += 1
            text = event.get("text")
            message: str | bytes = event["bytes"] if text is None else text
            if _size(message) > self._settings.max_message_bytes:
                await self.close(CloseCode.MESSAGE_TOO_BIG, "message too big")
            elif self._allowance < -burst:
                await self.close(CloseCode.POLICY_VIOLATION, "too many messages")
            elif self._allowance < 0:
                await self.send(self.encode_error(ErrorCode.RATE_LIMITED, ""))
            elif text is None and not binary:
                await self.close(CloseCode.UNSUPPORTED_DATA, "text expected")
            else:
                yield message

    async def parsed(self, shape: TypeAdapter[Shape]) -> AsyncIterator[Shape]:
        """Yield the value of every JSON message that has the given shape.

        Anything else is answered with an error frame; more than `max_invalid_messages` in a
        row close with 1008.
        """
        async for message in self:
            if isinstance(message, bytes):
                await self._reject(ErrorCode.TEXT_EXPECTED)
                continue
            try:
                if "NaN" in message or "Infinity" in message:
                    from_json(message, allow_inf_nan=False)  # validation alone lets these pass
                value = shape.validate_json(message)
            except ValidationError as error:
                await self._reject(*describe(error))
            except ValueError:
                await self._reject(ErrorCode.INVALID_JSON)
            else:
                self._invalid_in_a_row = 0
                yield value

    async def send(self, message: str | bytes) -> None:
        """Send `str` as a text message, `bytes` as a binary one, and wait for room to do so.

        Raises `WebSocketDisconnect` when the peer is gone, or has made no room for
        `STALL_TIMEOUT` seconds. Let it pass: admission expects it.
        """
        if not self._accepted:
            await self.accept()
        transport = self.transport
        if not self.is_open or (transport is not None and transport.is_closing()):
            raise WebSocketDisconnect(CloseCode.GOING_AWAY)
        self.messages_out += 1
        if transport is not None and transport.get_write_buffer_size() < HIGH_WATER:
            transport.write(server_frame(message))
        else:
            await self._send_when_there_is_room(message)

    async def _send_when_there_is_room(self, message: str | bytes) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                if isinstance(message, str):
                    await self._websocket.send_text(message)
                else:
                    await self._websocket.send_bytes(message)
        except TimeoutError:
            self._give_up()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None
        except RuntimeError:
            # By a RuntimeError, uvicorn tells a sender that it has closed on its own, for a
            # frame too big or a missed pong, of which only the reader has been told so far.
            self.abort()
            raise WebSocketDisconnect(CloseCode.GOING_AWAY) from None

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close, unless that has begun already, and wait until the close frame is sent.

        `code` is one that RFC 6455 §7.4 lets an application send, your own are 4000 to 4999;
        anything else is a `ValueError`. Of the reason, 123 bytes are sent. A peer that makes no
        room for the close frame within `STALL_TIMEOUT` seconds is dropped without.
        """
        code, reason = check_close(code, reason)
        if not self._accepted:
            await self.accept()
        if self.close_code is None and self._is_lost():
            await self._read_end()
        self.close_soon(code, reason)
        if self._closing is not None:
            await asyncio.wait([self._closing])

    def close_soon(self, code: int, reason: str) -> None:
        """Do the same without waiting, for those whom this peer must not hold up.

        A handshake that has not been answered is refused: with 401 for 4401, else with 503.
        """
        if not self._accepted:
            self._closed_early = code, reason
        if not self.is_open:
            return
        self.is_open, self.close_code, self.close_reason = False, code, reason
        self._closing = asyncio.create_task(self._close(code, reason))
        if code in CAUSED_BY_CLIENT:
            self._warn("closed", code=code, reason=reason)

    def _is_lost(self) -> bool:
        """Whether the client or the server has ended this; only reading tells with which code."""
        if self.transport is not None and self.is_open:
            return self.transport.is_closing()
        is_disconnected = self._websocket.application_state is WebSocketState.DISCONNECTED
        return is_disconnected or not self.is_open

    async def _read_end(self) -> None:
        """Skip what else was received before the end, for its code."""
        with suppress(RuntimeError, TimeoutError):  # it has been read, or there is none
            async with asyncio.timeout(STALL_TIMEOUT):
                while (event := await self._websocket.receive())["type"] != "websocket.disconnect":
                    pass
                self._note_end(event)

    def _note_end(self, event: Message) -> None:
        self.is_open = False
        if self.close_code is None:
            self.close_code, self.close_reason = event.get("code"), event.get("reason") or ""

    async def _close(self, code: int, reason: str) -> None:
        try:
            with suppress(WebSocketDisconnect):
                async with asyncio.timeout(STALL_TIMEOUT):
                    await self._websocket.close(code, reason)
        except TimeoutError:
            self._give_up()
        except RuntimeError:
            # uvicorn has closed on its own, and may wait for ever for what nobody reads.
            if self.transport is not None and self.transport.get_write_buffer_size():
                self.abort()
        self._stop_reading()

{% if cookiecutter.auth == "jwt" %}
    def close_at(self, expires: float) -> None:
        """Close with 4401 when the peer's token expires, in seconds since 1970."""
        self._expiry = asyncio.get_running_loop().call_later(
            expires - time.time(), self.close_soon, CloseCode.UNAUTHORIZED, "token expired"
        )

{% endif %}
    def abort(self) -> None:
        """Drop the connection at once, with what is still on its way to the peer."""
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()
        self._stop_reading()

    def _give_up(self) -> None:
        self._warn("dropped", reason="it stopped reading")
        self.abort()

    def _warn(self, message: str, **fields: Any) -> None:
        logger.warning(message, extra=self.log_fields() | fields)

    async def wait_flushed(self) -> None:
        """Wait until the peer has taken what is left for it; drop it after `STALL_TIMEOUT`.

        A transport that is closed waits for that, too, but for as long as it takes.
        """
        self.is_open = False
{% if cookiecutter.auth == "jwt" %}
        if self._expiry is not None:
            self._expiry.cancel()
{% endif %}
        with suppress(asyncio.CancelledError):  # the server may wait no longer than that
            for _ in range(100):
                if self.transport is None or not self.transport.get_write_buffer_size():
                    return
                await asyncio.sleep(STALL_TIMEOUT / 100)
        self._give_up()

    def _stop_reading(self) -> None:
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)

    async def _receive_unless_closed(self) -> Message:
        try:
            async with asyncio.timeout(None) as self._reading:
                return await self._websocket.receive()
        except TimeoutError:
            return {"type": "websocket.disconnect"}  # `_stop_reading` woke us
        finally:
            self._reading = None

    async def _reject(self, code: ErrorCode, path: str = "") -> None:
        self._invalid_in_a_row += 1
        if self._invalid_in_a_row > self._settings.max_invalid_messages:
            await self.close(CloseCode.POLICY_VIOLATION, "too many invalid messages")
        else:
            await self.send(self.encode_error(code, path))


def describe(error: ValidationError) -> tuple[ErrorCode, str]:
    """Return what is wrong with a message, and where, like `data.price`; never a value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ErrorCode.INVALID_JSON, ""
    return ErrorCode.INVALID_SHAPE, ".".join(map(str, first["loc"]))[:MAX_PATH]


def _size(message: str | bytes) -> int:
    """Return the length on the wire, in bytes."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())
