"""Server-Sent Events: what a WebSocket endpoint sends, as the body of an HTTP response.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import random
import socket
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.types import Message, Receive, Scope, Send

from .events import EVENTS_V1, RoomState

PING_SECONDS = 15.0, 20.0
"""Seconds between two comments, at random: proxies close connections that are silent for longer."""
ACK_SECONDS = 40
"""Seconds after which a client that has acknowledged nothing is gone (Linux)."""
RETRY_SECONDS = 1.0, 5.0
"""Seconds for a client to wait before it connects again, at random."""


class EventStream(Response):
    """Runs the WebSocket endpoint of the same path, and streams what it sends under `events.v1`.

    The endpoint receives nothing but the end of the connection. Admission, limits, presence,
    resuming and shutdown are those of the endpoint.
    """

    media_type = "text/event-stream"
    _pinging: asyncio.Task[None] | None = None  # while events can be sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, before_routing = scope["before_routing"]
        self._scope, self._receive, self._send = scope, receive, send
        self._room = scope["path_params"].get("room", "lobby")
        self._has_connected = False
        try:
            await app(handshake_scope(before_routing), self._receive_event, self._send_event)
        finally:
            if self._pinging is not None:
                self._pinging.cancel()

    async def _receive_event(self) -> Message:
        if not self._has_connected:
            self._has_connected = True
            return {"type": "websocket.connect"}
        while (await self._receive())["type"] != "http.disconnect":
            pass  # a body, which has no meaning here
        return {"type": "websocket.disconnect", "code": 1006}

    async def _send_event(self, message: Message) -> None:
        match message["type"]:
            case "websocket.accept":
                await self._start(message)
            case "websocket.send" if message.get("text") is not None:
                await self._write(encode(message["text"], self._room))
            case "websocket.close" if self._pinging is not None:
                self._pinging.cancel()
                self._pinging = None
                retry = 1000 * random.uniform(*RETRY_SECONDS)
                await self._write(b"retry: %d\n\n" % retry, is_last=True)
            case "websocket.close":  # before it was accepted
                refusal = JSONResponse({"detail": "Forbidden"}, 403)
                await refusal(self._scope, self._receive, self._send)
            case "websocket.http.response.start" | "websocket.http.response.body" as kind:
                await self._send({**message, "type": kind.removeprefix("websocket.")})

    async def _start(self, message: Message) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"vary", b"Origin"),
            (b"x-accel-buffering", b"no"),  # nginx
            *message.get("headers", ()),
        ]
        if origin := dict(self._scope["headers"]).get(b"origin"):  # admission has checked it
            headers.append((b"access-control-allow-origin", origin))
        if (transport := self._scope.get("http_transport")) is not None:
            # `Connection.abort` may come late, and must not end another request.
            headers.append((b"connection", b"close"))
            with suppress(AttributeError, OSError):  # not Linux; no TCP
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * ACK_SECONDS
                )
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._pinging = asyncio.create_task(self._ping())

    async def _write(self, body: bytes, *, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})

    async def _ping(self) -> None:
        with suppress(OSError):  # the client has gone
            while True:
                await asyncio.sleep(random.uniform(*PING_SECONDS))
                await self._write(b": ping\n\n")


def handshake_scope(scope: Scope) -> Scope:
    """Return the scope of a WebSocket handshake that asks for the same as a request.

    Browsers send no `Origin` with a GET to the page's own origin, but `Sec-Fetch-Site`, which no
    page can set: `same-origin` stands for that origin, another site's for one that is unknown.
    """
    headers, query = [*scope["headers"]], scope["query_string"]
    values = dict(headers)
    site = values.get(b"sec-fetch-site", b"none")
    if b"origin" not in values and site != b"none":
        own = scope["scheme"].encode() + b"://" + values.get(b"host", b"")
        headers.append((b"origin", own if site == b"same-origin" else b"null"))
    if last_event_id := values.get(b"last-event-id"):
        query += b"&since=" + quote(last_event_id).encode()  # the last one counts
    return {
        **scope,
        "type": "websocket",
        "scheme": "wss" if scope["scheme"] == "https" else "ws",
        "headers": headers,
        "query_string": query,
        "subprotocols": [str(EVENTS_V1)],
        "extensions": {"websocket.http.response": {}},
    }


@lru_cache(32)  # the members of a room are sent the same
def encode(text: str, room: str) -> bytes:
    """Return a message as an event, with an `id` if the message has a position in the room."""
    lines = [b"data: " + line for line in text.encode().splitlines() or [b""]]
    with suppress(ValueError):
        event = from_json(text)
        event_id = event.get("id") if isinstance(event, dict) else None
        if isinstance(event_id, str) and event_id.isprintable() and event.get("room") == room:
            lines.insert(0, b"id: " + event_id.encode())
    return b"\n".join([*lines, b"", b""])


async def requested_stream(request: Request) -> EventStream | None:
    """Return a response that streams the room, if the request accepts `text/event-stream`."""
    accepted = ",".join(request.headers.getlist("accept"))
    return EventStream() if EventStream.media_type in accepted.lower() else None


RequestedStream = Annotated[EventStream | None, Depends(requested_stream)]
"""The response to a request for Server-Sent Events; `None` for any other request."""

ROOM_STATE: dict[str, Any] = {
    "response_model": RoomState,
    "response_model_exclude_none": True,
    "responses": {200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
}
"""Options of a route that returns `RoomState`, or a `RequestedStream`: `@router.get(path, **ROOM_STATE)`."""
