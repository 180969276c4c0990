"""Wire formats of members.

With the subprotocol `events.v1`, a member receives every event as JSON; without it, only
messages, as text.
"""

from typing import Annotated, Protocol, cast

from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from ..connection import Connection
from ..formats import DETAILS, ErrorCode, JsonFormat, dump_json, dump_json_bytes
from ..message_types import Subprotocol
from .events import (
    MAX_REF,
    ClientEvent,
    ClientToken,
    ErrorEvent,
    MessageEvent,
    RoomEvent,
    ServerEvent,
)

RoomText = Annotated[
    str, Field(description="A message of another member.", examples=["New message: Hello"])
]
"""What a member receives without a subprotocol."""

EVENTS_V1 = Subprotocol(
    "events.v1", ClientEvent, ServerEvent, "Every event as JSON.", with_tokens=(ClientToken,)
)

client_event: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


class RoomFormat(Protocol):
    """Encodes and decodes the messages of members."""

    def encode(self, event: RoomEvent) -> bytes | None:
        """Return an event as a text message in UTF-8; `None` if the format leaves it out."""
        ...

    async def receive(self, connection: Connection) -> ClientEvent | str:
        """Return what a member sends next; a `str` is the text of a message.

        Raises `StopAsyncIteration` once the connection has ended.
        """
        ...

    def error(self, code: str, detail: str, ref: str = "") -> str:
        """Return an error as a text message; `ref` is that of the message with the error."""
        ...

    def reject(self, message: str | bytes, code: ErrorCode, path: str = "") -> str:
        """Return the error for an invalid message; `path` is its first field that doesn't match."""
        ...


class TextFormat(JsonFormat):
    """Messages as `New message: <data>`; all other events are left out."""

    def error(self, code: str, detail: str, ref: str = "") -> str:
        return super().error(code, detail)

    def encode(self, event: RoomEvent) -> bytes | None:
        if not isinstance(event, MessageEvent):
            return None
        data = event.data if isinstance(event.data, str) else dump_json(event.data)
        return f"New message: {data}".encode()

    async def receive(self, connection: Connection) -> str:
        return cast("str", await connection.next_message(refused=bytes))


class EventsFormat:
    """Every event as JSON."""

    def encode(self, event: RoomEvent) -> bytes | None:
        return dump_json_bytes(event)

    async def receive(self, connection: Connection) -> ClientEvent:
        return cast("ClientEvent", await connection.next_message(schema=client_event))

    def error(self, code: str, detail: str, ref: str = "", path: str = "") -> str:
        event = ErrorEvent(code=code, detail=detail, path=path or None, ref=ref or None)
        return event.model_dump_json(exclude_none=True)

    def reject(self, message: str | bytes, code: ErrorCode, path: str = "") -> str:
        return self.error(code, DETAILS[code], find_ref(message), path)


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
