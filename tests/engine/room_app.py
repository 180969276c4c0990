"""An application with rooms, for tests."""

import http.client
import json
from contextlib import closing
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from fastapi_realtime import (
    Admission,
    Connection,
    Identity,
)
from fastapi_realtime.rooms import (
    EVENTS_V1,
    JSON_BODY,
    ROOM_STATE,
    AdmittedRequest,
    EventStream,
    IdempotencyKey,
    JsonBody,
    Last,
    RequestedStream,
    Rooms,
    RoomsDep,
    RoomSettings,
    RoomState,
)
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from .serving import NO_RATE_LIMIT, connect, realtime_app

EventsAdmitted = Annotated[Connection, Depends(Admission(EVENTS_V1))]


class SubjectAsToken:
    """An authenticator for which a token is a subject, whose own claims it knows."""

    subprotocols = ()

    def __init__(self, **claims: dict[str, Any]) -> None:
        self.claims = claims
        self.revoked: set[str] = set()

    async def identify(self, connection: HTTPConnection) -> Identity:
        token = connection.headers.get("authorization", "")
        return await self.verify(token.removeprefix("Bearer "))

    async def verify(self, token: str) -> Identity:
        subject, _, _ = token.partition("/")
        if not subject:
            raise HTTPException(401, "no valid token")
        if subject == "unknown":
            raise HTTPException(503, "keys are not available")
        return Identity(subject, 2**33, self.claims.get(subject, {}) | {"token": token})

    async def check_revoked(self, identity: Identity) -> None:
        if identity.claims["token"] in self.revoked:
            raise HTTPException(401, "no valid token")


class PolicyFromClaims:
    """A policy by which claims name the rooms that may be joined and published to."""

    async def may_join(self, identity: Identity, room: str) -> bool:
        return room in identity.claims.get("join", ["lobby"])

    async def may_publish(self, identity: Identity, room: str) -> bool:
        return room in identity.claims.get("publish", ["lobby"])


def token_app(
    *, policy: Any = None, settings: RoomSettings | None = None, **claims: dict[str, Any]
) -> FastAPI:
    """An application with rooms and subjects as tokens; each of them has these claims."""
    rooms = Rooms(settings or RoomSettings(), policy or PolicyFromClaims())
    return room_app(rooms, authenticator=SubjectAsToken(**claims))


def room_app(rooms: Rooms | None = None, authenticator: Any = None, **settings: Any) -> FastAPI:
    """An application with these settings whose rooms are at `/rooms/<room>`."""
    all_settings = RoomSettings.model_validate(NO_RATE_LIMIT | settings)
    services = [rooms or Rooms(all_settings)]
    app = realtime_app(all_settings, services=services, authenticator=authenticator)

    @app.websocket("/rooms/{room:path}")
    async def talk(
        connection: EventsAdmitted,
        rooms: RoomsDep,
        room: str,
        name: str = "somebody",
        since: str = "",
        last: int = 0,
    ) -> None:
        async with rooms.join(connection, room, connection.subject or name, since, last) as member:
            async for message in member:
                await member.relay(message)

    @app.post("/rooms/{room:path}", status_code=202, openapi_extra=JSON_BODY)
    async def publish(
        client: AdmittedRequest,
        rooms: RoomsDep,
        room: str,
        data: JsonBody,
        ref: IdempotencyKey,
        name: str = "somebody",
    ) -> dict[str, str]:
        await rooms.check_publish(client, room)
        return {"id": await rooms.publish(room, data, client.subject or name, ref)}

    @app.get("/rooms/{room:path}", **ROOM_STATE)
    async def present(
        client: AdmittedRequest,
        rooms: RoomsDep,
        room: str,
        stream: RequestedStream,
        last: Last = 0,
    ) -> RoomState | EventStream:
        if stream:
            return stream
        await rooms.check_join(client, room)
        present = await rooms.present(room)
        messages = await rooms.latest(room, last, client.subject)
        return RoomState(count=present.count, members=present.members, messages=messages or None)

    return app


def connect_events(url: str, token: str = "", **options: Any) -> ClientConnection:
    """Connect a client that receives events."""
    options = {"additional_headers": {"authorization": token}} | options if token else options
    return connect(url, subprotocols=[Subprotocol(EVENTS_V1)], **options)


def next_event(client: ClientConnection, kind: str) -> dict[str, Any]:
    """Receive events up to one of this type."""
    while True:
        event: dict[str, Any] = json.loads(client.recv(timeout=10))
        if event["type"] == kind:
            return event


def send(client: ClientConnection, *messages: object, **fields: object) -> None:
    """Send messages under `events.v1`."""
    for data in messages:
        client.send(json.dumps({"type": "message", "data": data, **fields}))


def request(url: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Send a request to the URL of a server, a POST if there is a body; return status and JSON."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    method = "GET" if body is None else "POST"
    connection.request(method, f"{parts.path}?{parts.query}", body, names)
    with closing(connection):
        response = connection.getresponse()
        return response.status, json.loads(response.read())
