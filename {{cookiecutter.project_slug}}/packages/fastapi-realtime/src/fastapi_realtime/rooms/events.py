"""Events of rooms, and how clients get them: as text, or as JSON under `events.v1`."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, Field, JsonValue, TypeAdapter
from pydantic_core import from_json

from ..connection import Connection
from ..messages import DETAILS, ErrorCode, JsonFormat, Subprotocol, dump_json, dump_json_bytes
from ..server.wire import server_frame
from .access import ROOM_RULE, Profile, is_room

MAX_REF = 255
"""Maximum length of a `ref`, in characters."""
MAX_TOKEN = 8192
"""Maximum length of a token, in characters; the same as fits into a header."""
AFTER_ALL = 2**63
"""The offset of a `gap`. It is above all others, since lower offsets may follow a gap."""


def _check_room(name: str) -> str:
    if not is_room(name):
        raise ValueError(ROOM_RULE)
    return name


Position = Annotated[str, Field(examples=["5f0c2a1e-7"])]
RoomName = Annotated[str, Field(examples=["tea"])]
Sender = Annotated[str, Field(examples=["zoe"])]
ConnectionId = Annotated[str, Field(examples=["8b3f7a21c0d94e65"])]
Data = Annotated[JsonValue, Field(examples=[{"sugar": 2}])]

Ref = Annotated[str, Field(max_length=MAX_REF)]
RoomToJoin = Annotated[str, AfterValidator(_check_room), Field(examples=["tea"])]
SentRef = Annotated[str, Field(examples=["3fa85f64-5717-4562-b3fc-2c963f66afa6"])]


@dataclass(slots=True, kw_only=True)
class MessageEvent:
    """A message that a member sent; `id` is its position in the room, if it is kept."""

    # No pydantic model: `data` has been validated, and large data is slow to validate again.
    type: Literal["message"] = "message"
    id: Position | None = None  # set by the broker
    room: RoomName
    sender: Sender
    data: Data


@dataclass(slots=True, kw_only=True)
class AppendEvent:
    """More text for the message with the id `to`, whose data is a text, too."""

    type: Literal["append"] = "append"
    id: Position = ""  # set by the broker
    room: RoomName
    sender: Sender
    to: Position
    data: Annotated[str, Field(examples=[" and milk"])]


class PresenceEvent(BaseModel):
    """A connection joined or left; one sender may have several. Your own: you left a room."""

    type: Literal["joined", "left"]
    room: RoomName
    sender: Sender
    connection: ConnectionId
    profile: Profile | None = None


class JoinedEvent(BaseModel):
    """You have joined the room, and receive every message after the position `id`.

    `ref` is that of your `join`.
    """

    type: Literal["joined"] = "joined"
    id: Position
    room: RoomName
    sender: Sender
    connection: ConnectionId
    ref: SentRef | None = None


class PresentMember(BaseModel):
    """A sender in a room, and its connections."""

    sender: Sender
    connections: list[ConnectionId]
    profile: Profile | None = None


class Present(BaseModel):
    """The number of senders in a room, and their names; `members` is empty in large rooms."""

    count: int
    members: list[PresentMember]


class RoomState(Present):
    """Who is in a room, and its latest messages, if any were asked for."""

    messages: list[MessageEvent] | None = None


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

    For a new token, or a message that is not kept, there is no `id`.
    """

    type: Literal["accepted"] = "accepted"
    ref: SentRef
    id: Position | None = None


class PongEvent(BaseModel):
    """The answer to a `ping`, with the same `ref`."""

    type: Literal["pong"] = "pong"
    ref: SentRef | None = None


class ErrorEvent(BaseModel):
    """Your message was ignored. `path` is the first field that does not match.

    `room` is the one that you could not join or leave.
    """

    type: Literal["error"] = "error"
    code: Annotated[str, Field(examples=[ErrorCode.INVALID_SHAPE])]
    detail: Annotated[str, Field(examples=[DETAILS[ErrorCode.INVALID_SHAPE]])]
    path: Annotated[str, Field(examples=["data.price"])] | None = None
    ref: SentRef | None = None
    room: RoomName | None = None


@dataclass(slots=True)
class ClientMessage:
    """A message to a room; by default, that of the URL.

    With a `ref`, it is published once, and answered by `accepted`. If `keep` is false, only who is
    there now receives it, and it has no `id`: for typing indicators and cursors.
    """

    data: Data
    ref: Ref = ""
    type: Literal["message"] = "message"
    room: RoomName = ""
    keep: bool = True


@dataclass(slots=True)
class ClientJoin:
    """Join one more room. Messages after `since` come first, or else the `last` ones.

    The answer is `joined`, or `error`. A room that is joined already is left first.
    """

    type: Literal["join"]
    room: RoomToJoin
    since: Annotated[str, Field(max_length=MAX_REF, examples=["5f0c2a1e-7"])] = ""
    last: Annotated[int, Field(ge=0)] = 0
    ref: Ref = ""


@dataclass(slots=True)
class ClientLeave:
    """Leave a room; the answer is `left`, and no event of the room follows."""

    type: Literal["leave"]
    room: RoomName
    ref: Ref = ""


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


ClientRequest = ClientJoin | ClientLeave | ClientPing | ClientToken

ClientEvent = Annotated[ClientMessage | ClientRequest, Field(discriminator="type")]
"""Events from clients under `events.v1`."""

LoggedEvent = MessageEvent | AppendEvent
"""Events that a room keeps, in one order for all."""

RoomEvent = LoggedEvent | PresenceEvent | PresentEvent | GapEvent
"""Events that all members of a room receive."""

ServerEvent = RoomEvent | JoinedEvent | ResumedEvent | AcceptedEvent | PongEvent | ErrorEvent
"""Events from the server under `events.v1`."""


RoomText = Annotated[
    str, Field(description="A message of another member.", examples=["New message: Hello"])
]
"""What a member receives without a subprotocol."""

EVENTS_V1 = Subprotocol(
    "events.v1", ClientEvent, ServerEvent, "Every event as JSON.", with_tokens=(ClientToken,)
)

client_event: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


class TextFormat(JsonFormat):
    """Messages as `New message: <data>`; all other events are left out."""

    def error(self, code: str, detail: str, ref: str = "", path: str = "", room: str = "") -> str:
        return super().error(code, detail)

    def encode(self, event: RoomEvent) -> bytes | None:
        """Return an event as a text message in UTF-8; `None` if the format leaves it out."""
        if not isinstance(event, MessageEvent):
            return None
        data = event.data if isinstance(event.data, str) else dump_json(event.data)
        return f"New message: {data}".encode()

    async def receive(self, connection: Connection) -> str:
        """Return what a member sends next; raises `StopAsyncIteration` at the end."""
        return cast("str", await connection.next_message(refused=bytes))


class EventsFormat(JsonFormat):
    """Every event as JSON."""

    def error(self, code: str, detail: str, ref: str = "", path: str = "", room: str = "") -> str:
        """Return an error as an event; `ref` is that of the message with the error."""
        where = path or None, ref or None, room or None
        event = ErrorEvent(code=code, detail=detail, path=where[0], ref=where[1], room=where[2])
        return event.model_dump_json(exclude_none=True)

    def reject(self, message: str | bytes, code: ErrorCode, path: str = "") -> str:
        return self.error(code, DETAILS[code], find_ref(message), path)

    def encode(self, event: RoomEvent) -> bytes:
        if isinstance(event, BaseModel):
            return event.model_dump_json(exclude_none=True).encode()
        if event.id is None:
            fields = {"room": event.room, "sender": event.sender, "data": event.data}
            return dump_json_bytes({"type": event.type} | fields)
        return dump_json_bytes(event)

    async def receive(self, connection: Connection) -> ClientEvent:
        return cast("ClientEvent", await connection.next_message(schema=client_event))


RoomFormat = TextFormat | EventsFormat
TEXT, EVENTS = TextFormat(), EventsFormat()


def find_ref(message: str | bytes) -> str:
    """Return the `ref` of a rejected message, or an empty string, so its sender can identify it."""
    try:
        value = from_json(message)
    except ValueError:
        return ""
    ref = value.get("ref") if isinstance(value, dict) else None
    return ref if isinstance(ref, str) and len(ref) <= MAX_REF else ""


def format_of(connection: Connection) -> RoomFormat:
    """Return the format for the connection's subprotocol."""
    return EVENTS if connection.subprotocol == EVENTS_V1 else TEXT


class EncodedEvent:
    """An event and its frames, one for each format in use.

    `sender` is the id of the subscriber that sent it. `offset` is that of a message in its room;
    a gap has `AFTER_ALL`, other events 0.
    """

    __slots__ = ("_frames", "event", "offset", "room", "sender")

    def __init__(self, event: RoomEvent, sender: str = "", offset: int = 0) -> None:
        self.room = event.room
        self.sender = sender
        self.offset = offset
        self.event = event
        self._frames: dict[RoomFormat, bytes] = {}

    def frame(self, format: RoomFormat) -> bytes:
        """Return the event as a server frame; empty if the format leaves it out."""
        frame = self._frames.get(format)
        if frame is None:
            text = self._encode(format)
            frame = b"" if text is None else server_frame(text, is_text=True)
            self._frames[format] = frame
        return frame

    def __len__(self) -> int:
        """Return the size of its JSON frame, in bytes; no other form is longer."""
        return len(self.frame(EVENTS))

    def _encode(self, format: RoomFormat) -> bytes | None:
        return format.encode(self.event)


class Batch:
    """Events of a room in one format, sent together; all subscribers share the bytes."""

    def __init__(self, events: list[EncodedEvent], format: RoomFormat) -> None:
        self.events = events
        self.room = events[0].room
        self._frames = [event.frame(format) for event in events]
        self._starts = [0, *accumulate(map(len, self._frames))]
        self.data = b"".join(self._frames)
        self.count = sum(map(bool, self._frames))
        self.senders = frozenset([event.sender for event in events])

    def pieces(self, subscriber_id: str, first: int) -> list[memoryview]:
        """Return the bytes from event `first` on, without the subscriber's own events.

        The pieces are views of the shared bytes, as few as possible.
        """
        bounds = [self._starts[first]]
        for index in range(first, len(self.events)):
            if self.events[index].sender == subscriber_id:
                bounds += self._starts[index : index + 2]
        bounds.append(self._starts[-1])
        data = memoryview(self.data)
        pieces = [data[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
        return [piece for piece in pieces if piece]

    def frames(self, subscriber_id: str, first: int) -> list[bytes]:
        """Return the frames from event `first` on, without the subscriber's own events."""
        pairs = zip(self.events[first:], self._frames[first:], strict=True)
        return [frame for event, frame in pairs if frame and event.sender != subscriber_id]
