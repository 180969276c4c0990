"""Messages in the log of a room: packing, reading, encoding for members."""

import json
from typing import NamedTuple

from ...server.fast_path import server_frame
from ..batch import EncodedEvent
from ..events import MessageEvent
from ..formats import EVENTS, RoomFormat

RawEntry = tuple[bytes, list[bytes]]
"""A stream entry from Redis: its id, then its field names and values in turn."""
FIELDS = [b"e", b"o", b"n", b"m"]
"""The field names of an entry: epoch, origin, mark, packed message."""
BEFORE_ID = b'{"type":"message","id":"'
"""The start of a message's JSON, up to its id, which Redis assigns."""


def pack(event: MessageEvent) -> bytes:
    """Return the packed form of a message: its JSON without `BEFORE_ID`."""
    text = EVENTS.encode(event)
    assert text is not None
    assert text.startswith(BEFORE_ID + b'"')
    return text[len(BEFORE_ID) :]


class LogEntry(NamedTuple):
    """A message in the log of a room."""

    epoch: str
    offset: int
    origin: str
    """The connection that sent it, or an empty string."""
    mark: bytes
    """Unique to the message, even if an offset is used twice after a failover."""
    packed: bytes

    @property
    def text(self) -> bytes:
        """The message as JSON, as under `events.v1`."""
        return b"%b%b-%d%b" % (BEFORE_ID, self.epoch.encode(), self.offset, self.packed)

    @property
    def frame(self) -> bytes:
        """The same as a server frame."""
        return server_frame(self.text, is_text=True)


def read_entry(raw: RawEntry) -> LogEntry | None:
    """Return an entry; `None` for a foreign one, written by another program."""
    fields = raw[1]
    if fields[::2] != FIELDS:
        return None
    epoch, origin, mark, packed = fields[1::2]
    try:
        return LogEntry(epoch.decode(), offset_of(raw), origin.decode(), mark, packed)
    except UnicodeDecodeError:
        return None


def offset_of(raw: RawEntry) -> int:
    """Return the offset of a raw entry."""
    return int(raw[0].partition(b"-")[0])


class LoggedMessage(EncodedEvent):
    """A message from the log. It is JSON already, and decoded only for the text format."""

    __slots__ = ("_text",)

    def __init__(self, room: str, entry: LogEntry) -> None:
        self.room = room
        self.sender = entry.origin
        self.offset = entry.offset
        self._text = entry.text
        self._frames: dict[RoomFormat, bytes] = {}

    @property
    def is_presence(self) -> bool:
        return False

    def _encode(self, format: RoomFormat) -> bytes | None:
        if format is EVENTS:
            return self._text
        try:
            return format.encode(MessageEvent(**json.loads(self._text)))
        except (ValueError, TypeError):  # a foreign entry
            return None
