"""Parameters of endpoints with rooms: the connection, the room and the sender."""

from secrets import token_hex
from typing import Annotated

from fastapi import Depends, Query
from fastapi.requests import HTTPConnection
from pydantic import Field

from ..admission import Admission
from ..connection import Connection
from .formats import EVENTS_V1, RoomText
from .names import check_name, check_room

RoomConnection = Annotated[Connection[str, RoomText], Depends(Admission(EVENTS_V1))]
"""A member's connection: text, or JSON events with the subprotocol `events.v1`."""

Since = Annotated[
    str, Query(description="The last `id` received: messages after it are sent first.")
]
"""The last `id` that a returning member received, from `?since=`."""


async def room_or_lobby(connection: HTTPConnection) -> str:
    """Return the room in the path, or `lobby`; an invalid name gives 422."""
    return check_room(connection.path_params.get("room", "lobby"))


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
