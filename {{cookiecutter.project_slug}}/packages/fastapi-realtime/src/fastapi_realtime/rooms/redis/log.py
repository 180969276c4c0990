"""The log of a room: its messages, and how far this process has read it."""

import asyncio
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic_core import from_json

from ..events import AFTER_ALL, EVENTS, EncodedEvent, GapEvent, MessageEvent, RoomFormat
from .scripts import LOOK_SHA, RoomKeys, room_arguments
from .servers import Command

FIELDS = [b"e", b"o", b"m"]
"""The field names of an entry: epoch, origin, packed message."""
BEFORE_ID = b'{"type":"message","id":"'
"""The start of a message's JSON, up to its id, which Redis assigns."""
EPOCH = re.compile("[0-9a-f]{8}")
ENTRY_ID = re.compile(b"([0-9]{1,15})-([0-9]+)")


def pack(event: MessageEvent) -> bytes:
    """Return the packed form of a message: its JSON without `BEFORE_ID`."""
    text = EVENTS.encode(event)
    assert text is not None
    assert text.startswith(BEFORE_ID + b'"')
    return text[len(BEFORE_ID) :]


class LogEntry(NamedTuple):
    """An entry in the log of a room."""

    offset: int
    """-1 if it is too high for a message."""
    epoch: str = ""
    """Empty if the entry is not a message of this room."""
    origin: str = ""
    """The connection that sent it, or an empty string."""
    text: bytes = b""
    """The message as JSON, as under `events.v1`."""
    event: MessageEvent | None = None


def read_entry(room: str, raw: Any) -> LogEntry:
    """Return an entry from Redis: an id, and field names and values in turn."""
    found = ENTRY_ID.fullmatch(raw[0])
    offset = int(found[1]) if found else -1
    try:
        if found is None or found[2] != b"0" or raw[1][::2] != FIELDS:
            return LogEntry(offset)
        epoch, origin, packed = raw[1][1::2]
        text = b"%b%b-%d%b" % (BEFORE_ID, epoch, offset, packed)
        event = MessageEvent(**from_json(text, allow_inf_nan=False))
        # `id` is as it was written here, unless the packed text has another one.
        is_ours = event.room == room and event.type == "message" and isinstance(event.sender, str)
        if is_ours and EPOCH.fullmatch(epoch.decode()) and event.id == f"{epoch.decode()}-{offset}":
            return LogEntry(offset, epoch.decode(), origin.decode(), text, event)
    except (ValueError, TypeError):
        pass
    return LogEntry(offset)


class LoggedMessage(EncodedEvent):
    """A message from the log. It is JSON already."""

    __slots__ = ("_text",)

    def __init__(self, entry: LogEntry) -> None:
        assert entry.event is not None
        super().__init__(entry.event, entry.origin, entry.offset)
        self._text = entry.text

    def _encode(self, format: RoomFormat) -> bytes | None:
        return self._text if format is EVENTS else super()._encode(format)


@dataclass(slots=True, eq=False)
class Cursor:
    """The position in a room's log up to which its messages have been passed to the hub."""

    keys: RoomKeys
    members: int = 0
    epoch: str = ""
    """Empty until the room was compared with Redis."""
    offset: int = 0
    start: int = 0
    """The offset at which the epoch began; up to it, messages are of earlier epochs."""
    told: int = 0
    """The last offset of the room when it was last compared with Redis."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the position is known, or the room is refused."""
    may_begin: bool = False
    """Whether the room may be created if Redis has none of this name."""
    address: str = ""
    """That of the client that entered first, or an empty string."""
    read: deque[LogEntry] = field(default_factory=deque)
    """What comes next, and was not passed on, since the room had too much pending."""
    strange: int = -1
    """The offset of what comes next, if it is of an unknown epoch; else -1."""
    targets: dict[str, int] = field(default_factory=dict)
    """The offset of the last message that this process has published here, by epoch."""
    unconfirmed: int = 0
    """Messages of this process that Redis has not confirmed."""

    @property
    def position(self) -> str:
        """The id of the last message that was passed to the hub."""
        return f"{self.epoch}-{self.offset}"

    @property
    def confirmed(self) -> int:
        """The highest offset of this epoch that Redis is known to have reached."""
        read = self.read[-1].offset if self.read else self.offset
        return max(read, self.targets.get(self.epoch, 0))

    @property
    def lag(self) -> int:
        """Messages published by this process and not yet passed on; a lower bound."""
        return self.unconfirmed + self.confirmed - self.offset

    def confirm(self, position: tuple[str, int] | None) -> None:
        """Record where a message of this process was published; `None` if it was not."""
        self.unconfirmed -= 1
        if position is not None:
            epoch, offset = position  # perhaps that of an earlier message with the same ref
            self.targets[epoch] = max(offset, self.targets.get(epoch, 0))

    def look_command(self, process: str, history_length: int) -> Command:
        """Return the command that compares this with Redis."""
        keys = self.keys
        return (
            *("EVALSHA", LOOK_SHA, 4, keys.head, keys.log, keys.refs, keys.people),
            *room_arguments(history_length),
            *(process, self.epoch, self.confirmed, int(self.may_begin or self.epoch != "")),
        )

    def compare(self, epoch: str, offset: int, start: int, seen_end: int) -> list[EncodedEvent]:
        """Apply the result of a comparison; return a `gap` event if messages were lost.

        `seen_end` is the last offset of the epoch known here, or -1.
        """
        strange, self.strange, self.told = self.strange, -1, offset
        gap: list[EncodedEvent] = []
        if not self.known.is_set():
            self.epoch, self.offset = epoch, offset
            self.known.set()
        elif epoch != self.epoch and seen_end < self.confirmed:
            gap = self._skip_to(min(self.offset, seen_end) if seen_end >= 0 else start)
        elif epoch == self.epoch and strange >= 0:
            gap = self._skip_to(strange)
        if epoch != self.epoch:
            target = min(self.targets.get(self.epoch, 0), offset)
            self.targets = {epoch: max(target, self.targets.get(epoch, 0))}
        self.epoch, self.start = epoch, start
        return gap

    def take(self) -> list[EncodedEvent]:
        """Advance to the next entry, and return its message, after a `gap` if some are missing."""
        entry = self.read.popleft()
        if entry.offset < 0 or (entry.epoch not in ("", self.epoch) and entry.offset > self.start):
            self.strange = max(entry.offset, self.offset)
            self.read.clear()
            return []
        is_next = entry.epoch and entry.offset == self.offset + 1
        gap = [] if is_next else self._gap()
        self.offset = entry.offset
        return [*gap, LoggedMessage(entry)] if entry.epoch else gap

    def lose(self) -> list[EncodedEvent]:
        """Go to the end of the room as it was last compared, and return a `gap`."""
        return self._skip_to(self.told)

    def _skip_to(self, offset: int) -> list[EncodedEvent]:
        gap = self._gap()
        self.offset = offset
        self.read.clear()
        return gap

    def _gap(self) -> list[EncodedEvent]:
        event = GapEvent(room=self.keys.room, since=self.position)
        return [EncodedEvent(event, offset=AFTER_ALL)]
