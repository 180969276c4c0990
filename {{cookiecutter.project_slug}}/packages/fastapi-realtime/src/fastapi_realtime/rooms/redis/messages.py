"""Messages as they stand in the log of a room, and on their way to members."""

import json
from typing import NamedTuple

from ...server.fast_path import server_frame
from ..batch import EncodedEvent
from ..events import MessageEvent
from ..formats import EVENTS, RoomFormat

RawEntry = tuple[bytes, list[bytes]]
"""An entry as Redis gives it: an id, and fields with their values."""
FIELDS = [b"e", b"o", b"n", b"m"]
"""Epoch, origin, mark and packed message."""
BEFORE_ID = b'{"type":"message","id":"'
"""What a message under `events.v1` begins with; its id, which Redis gives, comes next."""


def pack(event: MessageEvent) -> bytes:
    """Return what the log keeps of a message: its JSON, without what stands before the id."""
    text = EVENTS.encode(event)
    assert text is not None
    assert text.startswith(BEFORE_ID + b'"')
    return text[len(BEFORE_ID) :]


class LogEntry(NamedTuple):
    """A message in the log of a room."""

    epoch: str
    offset: int
    origin: str
    """The connection that sent it, or an empty text."""
    mark: bytes
    """What no other message has, even where an offset was used twice."""
    packed: bytes

    @property
    def text(self) -> bytes:
        """The message under `events.v1`."""
        return b"%b%b-%d%b" % (BEFORE_ID, self.epoch.encode(), self.offset, self.packed)

    @property
    def frame(self) -> bytes:
        """The same as a frame of a server."""
        return server_frame(self.text, is_text=True)


def read_entry(raw: RawEntry) -> LogEntry | None:
    """Return an entry; `None` for one that another program has put into the log."""
    fields = raw[1]
    if fields[::2] != FIELDS:
        return None
    epoch, origin, mark, packed = fields[1::2]
    try:
        return LogEntry(epoch.decode(), offset_of(raw), origin.decode(), mark, packed)
    except UnicodeDecodeError:
        return None


def offset_of(raw: RawEntry) -> int:
    """Return the offset of an entry."""
    return int(raw[0].partition(b"-")[0])


class LoggedMessage(EncodedEvent):
    """A message from the log. It is encoded already, and decoded only for text members."""

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
        except (ValueError, TypeError):  # another program has put it into the log
            return None
