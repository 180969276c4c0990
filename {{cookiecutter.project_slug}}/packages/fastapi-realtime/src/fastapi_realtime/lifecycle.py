"""The life of a connection: it is opened, closed, or lost, and logged."""

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from fastapi import HTTPException, WebSocket, WebSocketDisconnect
from starlette.types import Message

from .close_codes import CAUSED_BY_CLIENT, CloseCode, check_close
from .identity import ANONYMOUS, Identity
from .server.fast_path import find_transport
from .server.inbox import find_inbox
from .server.logging import connection_fields, connection_id
from .server.metrics import CLOSE_CODE, ROUTE, durations, recorded_code, route_of
from .starlette_internals import is_disconnected

STALL_TIMEOUT = 10.0
"""Seconds that a client may take to make room for one frame; after that it counts as gone."""

logger = logging.getLogger(f"{__name__.rpartition('.')[0]}.connection")


class Lifecycle:
    """Opens and closes a WebSocket, once each."""

    __slots__ = (
        "_accepted",
        "_closed_early",
        "_closing",
        "_expiry",
        "_opened_at",
        "_opening",
        "_reading",
        "bytes_in",
        "bytes_out",
        "close_code",
        "close_reason",
        "identity",
        "inbox",
        "is_open",
        "messages_in",
        "messages_out",
        "subprotocol",
        "transport",
        "websocket",
    )

    def __init__(self, websocket: WebSocket, subprotocol: str | None) -> None:
        self.websocket = websocket
        self.transport = find_transport(websocket.scope)
        self.inbox = find_inbox(websocket.scope)
        self.subprotocol = subprotocol
        self.identity = ANONYMOUS
        self.is_open = False
        self.close_code: int | None = None
        self.close_reason = ""
        self.messages_in = 0
        self.messages_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self._opened_at = time.monotonic()
        self._accepted = False
        self._opening: asyncio.Future[None] | None = None
        self._reading: asyncio.Timeout | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed_early: tuple[int, str] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def host(self) -> str:
        """The client's address; behind a trusted proxy, what the proxy says it is."""
        return self.websocket.client.host if self.websocket.client else ""

    @property
    def id(self) -> str:
        """What names this connection in the log, and in events of rooms."""
        return connection_id(self.websocket.scope)

    @property
    def route(self) -> str:
        """The path of the route, with the names of its parameters: `/ws_broadcast/{room:path}`."""
        return route_of(self.websocket.scope)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for the client; unknown, and 0, where frames go through ASGI."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    @property
    def subject(self) -> str:
        """The subject of the client's token; empty where there are no tokens."""
        return self.identity.subject

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
            code, reason = self._closed_early
            raise HTTPException(401 if code == CloseCode.UNAUTHORIZED else 503, reason)
        self._opening = asyncio.get_running_loop().create_future()
        try:
            await self.websocket.accept(self.subprotocol)
        except OSError:
            raise WebSocketDisconnect(CloseCode.ABNORMAL) from None
        finally:
            self._opening.set_result(None)
            self._opening = None
        self._note_start()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close, unless that has begun already, and wait until the close frame is sent.

        `code` is one that RFC 6455 §7.4 lets an application send, your own are 4000 to 4999;
        anything else is a `ValueError`. Of the reason, 123 bytes are sent. A client that makes
        no room for the close frame within `STALL_TIMEOUT` seconds is dropped without.
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
        """Close without waiting.

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

    def close_at(self, expires: float) -> None:
        """Close with 4401 when the client's token expires, in seconds since 1970."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(
            expires - time.time(), self.close_soon, CloseCode.UNAUTHORIZED, "token expired"
        )

    def renew(self, identity: Identity) -> None:
        """Take the identity of a new token, and close when that expires instead.

        A connection that is closing already stays as it is.
        """
        if self.is_open:
            self.identity = identity
            self.close_at(identity.expires)

    def abort(self) -> None:
        """Drop the connection at once, with what is still waiting for the client."""
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()
        self._stop_reading()

    async def wait_flushed(self) -> None:
        """Wait until the client has taken what is left for it; drop it after `STALL_TIMEOUT`.

        A transport that is closed waits for that, too, but for as long as it takes.
        """
        self.is_open = False
        if self._expiry is not None:
            self._expiry.cancel()
        try:
            await self._poll_unsent()
        finally:
            if self._has_unsent():
                self._drop_stalled()

    async def _poll_unsent(self) -> None:
        for _ in range(100):
            if not self._has_unsent():
                return
            await asyncio.sleep(STALL_TIMEOUT / 100)

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(STALL_TIMEOUT):
                await self.websocket.close(code, reason)
        except WebSocketDisconnect:
            pass  # the client was faster
        except TimeoutError:
            self._drop_stalled()
        except RuntimeError:
            # uvicorn has closed on its own, and would wait for what is never read.
            if self._has_unsent():
                self.abort()
        self._stop_reading()

    def _has_unsent(self) -> bool:
        return self.unsent_bytes > 0

    def _drop_stalled(self) -> None:
        self._warn("dropped", reason="it stopped reading")
        self.abort()

    async def _receive(self) -> Message:
        if self.transport is not None:
            return await self.websocket.receive()  # uvicorn ends this when we close
        try:
            async with asyncio.timeout(None) as self._reading:
                return await self.websocket.receive()
        except TimeoutError:
            return {"type": "websocket.disconnect"}  # `_stop_reading` woke us
        finally:
            self._reading = None

    def _stop_reading(self) -> None:
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(0)

    def _is_lost(self) -> bool:
        """Return whether client or server have ended this; only reading tells with which code."""
        if self.transport is not None and self.is_open:
            return self.transport.is_closing()
        return is_disconnected(self.websocket) or not self.is_open

    async def _read_end(self) -> None:
        """Skip what else was received before the end, for its code."""
        with suppress(RuntimeError, TimeoutError):  # it has been read, or there is none
            async with asyncio.timeout(STALL_TIMEOUT):
                self._note_end(await self._skip_to_end())

    async def _skip_to_end(self) -> Message:
        while (event := await self.websocket.receive())["type"] != "websocket.disconnect":
            pass
        return event

    def _note_start(self) -> None:
        self._accepted = self.is_open = True
        self._opened_at = time.monotonic()
        if logger.isEnabledFor(logging.INFO):
            origin = self.websocket.headers.get("origin", "")
            logger.info("connected", extra=self.log_fields() | {"origin": origin})
        if self._closed_early is not None:
            self.close_soon(*self._closed_early)  # while the handshake was being answered

    def _note_end(self, event: Message) -> None:
        self.is_open = False
        if self.close_code is None:
            self.close_code, self.close_reason = event.get("code"), event.get("reason") or ""

    def log_fields(self) -> dict[str, Any]:
        """Return what identifies this connection in the log."""
        scope = self.websocket.scope
        fields = connection_fields(scope) | {"path": scope["path"]}
        return fields | {"subject": self.subject} if self.subject else fields

    def log_end(self) -> None:
        """Log and record how this connection ended, and what it did."""
        if not self._accepted:
            return
        seconds = time.monotonic() - self._opened_at
        code = recorded_code(self.close_code, is_own=self._closing is not None)
        durations.record(seconds, {ROUTE: self.route, CLOSE_CODE: code})
        if logger.isEnabledFor(logging.INFO):
            logger.info("disconnected", extra=self.log_fields() | self._end_fields(seconds))

    def _end_fields(self, seconds: float) -> dict[str, Any]:
        return {
            "code": self.close_code,
            "reason": self.close_reason,
            "seconds": round(seconds, 3),
            "messages_in": self.messages_in,
            "messages_out": self.messages_out,
        }

    def _warn(self, message: str, **fields: Any) -> None:
        logger.warning(message, extra=self.log_fields() | fields)
