"""Events of a room, and what members send."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field, JsonValue

from ..formats import DETAILS, ErrorCode

MAX_REF = 255
"""Characters of a `ref`."""

MAX_TOKEN = 8192
"""Characters of a token; as much fits into a header."""

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

    # No pydantic model: `data` has been validated, and that takes long for much of it.
    type: Literal["message"] = "message"
    id: Position = ""  # added by the broker
    room: RoomName
    sender: Sender
    data: Data


class PresenceEvent(BaseModel):
    """Another member joined or left; one sender may have several connections."""

    type: Literal["joined", "left"]
    room: RoomName
    sender: Sender
    connection: ConnectionId


class JoinedEvent(BaseModel):
    """You have joined, and receive every message after the position `id`."""

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
    """How many senders are in a room, and who they are, unless there are too many to name."""

    count: int
    members: list[PresentMember]


class PresentEvent(BaseModel):
    """Who is here, to a new member; and to all where there are too many to name joins and leaves."""

    type: Literal["present"] = "present"
    room: RoomName
    count: int
    members: list[PresentMember]


class GapEvent(BaseModel):
    """Some messages after `since` are lost, for a member that comes back or that is here."""

    type: Literal["gap"] = "gap"
    room: RoomName
    since: Position


class ResumedEvent(BaseModel):
    """What is kept of the messages after `since` has been sent, up to the position `id`."""

    type: Literal["resumed"] = "resumed"
    id: Position
    room: RoomName
    since: Position


class AcceptedEvent(BaseModel):
    """To its sender: the message with this `ref` has been published, now or earlier, as `id`.

    A token that has been accepted has no `id`.
    """

    type: Literal["accepted"] = "accepted"
    ref: SentRef
    id: Position | None = None


class PongEvent(BaseModel):
    """The answer to a `ping`, with its `ref`."""

    type: Literal["pong"] = "pong"
    ref: SentRef | None = None


class ErrorEvent(BaseModel):
    """A message was ignored. `path` is where it first has the wrong shape."""

    type: Literal["error"] = "error"
    code: Annotated[str, Field(examples=[ErrorCode.INVALID_SHAPE])]
    detail: Annotated[str, Field(examples=[DETAILS[ErrorCode.INVALID_SHAPE]])]
    path: Annotated[str, Field(examples=["data.price"])] | None = None
    ref: SentRef | None = None


@dataclass(slots=True)
class ClientMessage:
    """A message that a member sends; with a `ref`, it is published once and `accepted`."""

    data: Data
    ref: Ref = ""
    type: Literal["message"] = "message"


@dataclass(slots=True)
class ClientPing:
    """A question whether the server answers; browsers can't send the protocol's own."""

    type: Literal["ping"]
    ref: Ref = ""


@dataclass(slots=True)
class ClientToken:
    """A new token for the same subject, before the old one expires."""

    type: Literal["token"]
    token: Annotated[str, Field(max_length=MAX_TOKEN, examples=["eyJhbGciOi..."])]
    ref: Ref = ""


ClientEvent = Annotated[ClientMessage | ClientPing | ClientToken, Field(discriminator="type")]
"""What a member sends under `events.v1`."""

RoomEvent = MessageEvent | PresenceEvent | PresentEvent | GapEvent
"""Events that all members of a room receive."""

ServerEvent = RoomEvent | JoinedEvent | ResumedEvent | AcceptedEvent | PongEvent | ErrorEvent
"""What a member receives under `events.v1`."""
