"""Parameters of endpoints with rooms, and of HTTP routes: the same checks and limits for both."""

import asyncio
from secrets import token_hex
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Query, Request
from fastapi.requests import HTTPConnection
from pydantic import Field, JsonValue, TypeAdapter
from starlette.requests import ClientDisconnect

from ..admission import Admission
from ..connection import Connection
from ..handshake import ANONYMOUS, Identity, check_origin
from ..limits import COUNTED_BYTES
from ..messages import InvalidMessage, decode_json
from ..realtime import RealtimeDep
from ..server.metrics import route_of
from .access import check_name, check_room
from .events import EVENTS_V1, MAX_REF, RoomText
from .rooms import RoomsDep

BODY_TIMEOUT = 10.0
"""Seconds within which the whole body must arrive."""

CLOSE = {"Connection": "close"}
"""Close the connection after the response: the server need not read the rest of the body."""

JSON_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}
}
"""Documents a route with `JsonBody` in OpenAPI: pass it as `openapi_extra=JSON_BODY`."""

json_value: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


RoomConnection = Annotated[Connection[str, RoomText], Depends(Admission(EVENTS_V1))]
"""A member's connection: text, or JSON events with the subprotocol `events.v1`."""

Since = Annotated[
    str, Query(description="The last `id` received: messages after it are sent first.")
]
"""The last `id` that a returning member received, from `?since=`."""

Last = Annotated[int, Query(ge=0, description="How many of the latest messages to send first.")]
"""The number of messages for a new member, or in a response, from `?last=`."""


async def room_or_lobby(connection: HTTPConnection) -> str:
    """Return the room in the path, or `lobby`; an invalid name gives 422.

    Raises `RuntimeError` for a path with other parameters: all of them would mean the lobby.
    """
    path, parameters = route_of(connection.scope), connection.path_params
    if "{" in path and "room" not in parameters:
        raise RuntimeError(f"RoomOrLobby: no parameter of {path} is called `room`")
    return check_room(parameters.get("room", "lobby"))


async def room_in_path(room: str) -> str:
    """Return the room in the path; an invalid name gives 422."""
    return check_room(room)


async def sender_name(
    name: Annotated[str, Query(description="The name that others see; without it, a guest.")] = "",
) -> str:
    """Return the name in `?name=`, or a generated one; an invalid name gives 422."""
    return check_name(name or f"guest-{token_hex(3)}")


RoomOrLobby = Annotated[
    str,
    Depends(room_or_lobby),
    Field(description="1 to 260 printable characters; not `.` or `..`.", examples=["tea"]),
]
"""The room in the path of a WebSocket route, or `lobby` where the path has none."""

RoomInPath = Annotated[str, Depends(room_in_path)]
"""The room in the path of an HTTP route."""

SenderName = Annotated[str, Depends(sender_name)]
"""The name that others see, from `?name=`; for an application without tokens."""


async def admit_request(request: Request, realtime: RealtimeDep, rooms: RoomsDep) -> Identity:
    """Check a request like a handshake, and return its sender.

    Raises 503 while the server shuts down, 403 for an origin that is not allowed, 401 for a
    missing or invalid token if tokens are required, and 429 above `messages_per_second` and
    `message_burst` for one subject or, without tokens, one address.
    """
    realtime.check_running()
    # Browsers send no Origin header with a GET to the page's own origin.
    is_required = realtime.settings.require_origin and request.method != "GET"
    check_origin(request, realtime.settings.allowed_origins, is_required)
    identity = ANONYMOUS
    if realtime.authenticator is not None:
        identity = await realtime.authenticator.identify(request)
        await realtime.authenticator.check_revoked(identity)
    rooms.limit_requests(identity.subject, host_of(request))
    return identity


AdmittedRequest = Annotated[Identity, Depends(admit_request)]


async def read_json(
    request: Request, realtime: RealtimeDep, rooms: RoomsDep, client: AdmittedRequest
) -> JsonValue:
    """Return the JSON value in the body of an admitted request.

    Raises 413 above `max_message_bytes`, 408 after `BODY_TIMEOUT` seconds, 415 for a compressed
    body, 422 for a body that is not JSON, and 400 if the client disconnects.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "send the body without compression")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await _read_body(request, realtime.settings.max_message_bytes)
        if more := len(body) // COUNTED_BYTES:
            rooms.limit_requests(client.subject, host_of(request), more)
            await realtime.long_messages.wait_turn()
        return decode_json(body.decode(), json_value)
    except TimeoutError:
        raise HTTPException(408, "the body took too long", CLOSE) from None
    except (InvalidMessage, UnicodeDecodeError):
        raise HTTPException(
            422, "the body is not JSON, or too deep, or has too long a number"
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body is incomplete") from None


JsonBody = Annotated[JsonValue, Depends(read_json)]


async def idempotency_key(request: Request) -> str:
    """Return the `Idempotency-Key` header, or an empty string.

    Raises 422 for more than one, or for more than `MAX_REF` characters.
    """
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1 or any(len(key) > MAX_REF for key in keys):
        raise HTTPException(422, f"Idempotency-Key: one of at most {MAX_REF} characters")
    return keys[0] if keys else ""


IdempotencyKey = Annotated[str, Depends(idempotency_key)]


def host_of(request: Request) -> str:
    """Return the client's address; behind a trusted proxy, the one that the proxy reports."""
    return request.client.host if request.client else ""


async def _read_body(request: Request, limit: int) -> bytes:
    too_big = HTTPException(413, "the body is too big; see APP_MAX_MESSAGE_BYTES", CLOSE)
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_big
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_big
    return bytes(body)
