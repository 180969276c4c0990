"""The events of `events.v1`, from the server and from clients."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from ..formats import DETAILS, ErrorCode

MAX_REF = 255
"""Maximum length of a `ref`, in characters."""

MAX_TOKEN = 8192
"""Maximum length of a token, in characters; the same as fits into a header."""

Position = Annotated[str, Field(examples=["5f0c2a1e-7"])]
RoomName = Annotated[str, Field(examples=["tea"])]
Sender = Annotated[str, Field(examples=["zoe"])]
ConnectionId = Annotated[str, Field(examples=["8b3f7a21c0d94e65"])]
Data = Annotated[JsonValue, Field(examples=[{"sugar": 2}])]

Ref = Annotated[str, Field(max_length=MAX_REF)]
SentRef = Annotated[str, Field(examples=["3fa85f64-5717-4562-b3fc-2c963f66afa6"])]


@dataclass(slots=True, kw_only=True)
class MessageEvent:
    """A message that a member sent; `id` is its position in the room."""

    # No pydantic model: `data` has been validated, and large data is slow to validate again.
    type: Literal["message"] = "message"
    id: Position = ""  # set by the broker
    room: RoomName
    sender: Sender
    data: Data


class PresenceEvent(BaseModel):
    """Another connection joined or left; one sender may have several connections."""

    type: Literal["joined", "left"]
    room: RoomName
    sender: Sender
    connection: ConnectionId


class JoinedEvent(BaseModel):
    """You have joined the room, and receive every message after the position `id`."""

    type: Literal["joined"] = "joined"
    id: Position
    room: RoomName
    sender: Sender
    connection: ConnectionId


class PresentMember(BaseModel):
    """A sender in a room, and its connections."""

    sender: Sender
    connections: list[ConnectionId]


class Present(BaseModel):
    """The number of senders in a room, and their names; `members` is empty in large rooms."""

    count: int
    members: list[PresentMember]


class PresentEvent(BaseModel):
    """Who is in the room: to a new member; in large rooms, to all instead of joins and leaves."""

    type: Literal["present"] = "present"
    room: RoomName
    count: int
    members: list[PresentMember]


class GapEvent(BaseModel):
    """Some messages after `since` are lost; also sent to members that never disconnected."""

    type: Literal["gap"] = "gap"
    room: RoomName
    since: Position


class ResumedEvent(BaseModel):
    """All kept messages after `since` have been sent, up to the position `id`."""

    type: Literal["resumed"] = "resumed"
    id: Position
    room: RoomName
    since: Position


class AcceptedEvent(BaseModel):
    """Your message with this `ref` has been published, now or earlier, as `id`.

    For a new token there is no `id`.
    """

    type: Literal["accepted"] = "accepted"
    ref: SentRef
    id: Position | None = None


class PongEvent(BaseModel):
    """The answer to a `ping`, with the same `ref`."""

    type: Literal["pong"] = "pong"
    ref: SentRef | None = None


class ErrorEvent(BaseModel):
    """Your message was ignored. `path` is the first field that does not match."""

    type: Literal["error"] = "error"
    code: Annotated[str, Field(examples=[ErrorCode.INVALID_SHAPE])]
    detail: Annotated[str, Field(examples=[DETAILS[ErrorCode.INVALID_SHAPE]])]
    path: Annotated[str, Field(examples=["data.price"])] | None = None
    ref: SentRef | None = None


@dataclass(slots=True)
class ClientMessage:
    """A message to the room. With a `ref`, it is published once, and answered by `accepted`."""

    data: Data
    ref: Ref = ""
    type: Literal["message"] = "message"


@dataclass(slots=True)
class ClientPing:
    """Check that the server answers; browsers can't send WebSocket pings."""

    type: Literal["ping"]
    ref: Ref = ""


@dataclass(slots=True)
class ClientToken:
    """A new token for the same subject, before the old one expires."""

    type: Literal["token"]
    token: Annotated[str, Field(max_length=MAX_TOKEN, examples=["eyJhbGciOi..."])]
    ref: Ref = ""


ClientEvent = Annotated[ClientMessage | ClientPing | ClientToken, Field(discriminator="type")]
"""Events from clients under `events.v1`."""

RoomEvent = MessageEvent | PresenceEvent | PresentEvent | GapEvent
"""Events that all members of a room receive."""

ServerEvent = RoomEvent | JoinedEvent | ResumedEvent | AcceptedEvent | PongEvent | ErrorEvent
"""Events from the server under `events.v1`."""
