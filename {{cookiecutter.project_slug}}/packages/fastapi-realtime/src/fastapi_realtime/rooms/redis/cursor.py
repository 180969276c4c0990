"""The cursor of a room: how far this process has read its log."""

import asyncio
from typing import Any

from ..batch import AFTER_ALL, EncodedEvent
from ..events import GapEvent
from .keys import RoomKeys
from .link import Command
from .messages import LogEntry, LoggedMessage
from .packed import pack_text
from .scripts import EMPTY_SECONDS, KEEP_SECONDS, LOOK_SHA, new_epoch


class Cursor:
    """The position in a room's log up to which its messages have been passed to the hub."""

    __slots__ = (
        "epoch",
        "is_broken",
        "is_read",
        "keys",
        "known",
        "compare_at",
        "mark",
        "members",
        "offset",
        "packed_log",
        "room",
        "foreign_offset",
        "target",
        "turn",
        "unconfirmed",
    )

    def __init__(self, room: str, keys: RoomKeys) -> None:
        self.room = room
        self.keys = keys
        self.packed_log = pack_text(self.keys.log.encode())
        self.members = 0
        self.epoch = ""
        """Empty until the first comparison with Redis."""
        self.offset = 0
        self.mark = b""
        """The mark of the last message read; empty if unknown."""
        self.known = asyncio.Event()
        """Set once the position is known."""
        self.is_broken = False
        """Whether comparing failed because another program has overwritten the room's keys."""
        self.is_read = False
        """Whether messages have been read since the last comparison with Redis."""
        self.compare_at = 0.0
        """Loop time of the next comparison with Redis, however busy the room is."""
        self.foreign_offset = 0
        """The offset of an entry of another epoch or program that was read; 0 if none was."""
        self.target = ("", 0)
        """Epoch and offset of the last message that this process has published to the room."""
        self.turn = asyncio.Lock()
        """Keeps waiting publishers in order."""
        self.unconfirmed = 0
        """Messages of this process that Redis has not confirmed."""

    @property
    def position(self) -> str:
        """The id of the last message that was passed to the hub."""
        return f"{self.epoch}-{self.offset}"

    @property
    def lag(self) -> int:
        """Messages published by this process and not yet read back; a lower bound."""
        return self.unconfirmed + self._confirmed() - self.offset

    def confirm(self, epoch: str, offset: int) -> None:
        """Record the position of a message that this process has published."""
        self.unconfirmed -= 1
        if self.target[0] != epoch or self.target[1] < offset:  # else it is a repeated message
            self.target = epoch, offset

    def compare_command(self, process: str) -> Command:
        """Return the command that compares this cursor with Redis."""
        keys = self.keys
        return (
            *("EVALSHA", LOOK_SHA, 6, keys.head, keys.log, keys.refs),
            *(keys.people, keys.processes, keys.here(process)),
            *(self.epoch, self.offset, self.mark),
            *(new_epoch(), KEEP_SECONDS, EMPTY_SECONDS, self._confirmed()),
        )

    def _confirmed(self) -> int:
        """Return the highest offset of this epoch that Redis is known to have reached."""
        epoch, offset = self.target
        return max(self.offset, offset) if epoch == self.epoch else self.offset

    def apply_comparison(self, answer: list[Any]) -> EncodedEvent | None:
        """Apply the result of a comparison; return a `gap` event if messages were lost."""
        epoch, offset, start = answer[0].decode(), int(answer[1]), int(answer[2])
        mark, is_whole = answer[3], bool(answer[4])
        foreign_offset, self.foreign_offset, self.is_read = self.foreign_offset, 0, False
        if not self.epoch:
            self.epoch, self.offset, self.mark = epoch, offset, mark
            self.known.set()
        elif epoch != self.epoch:
            gap = self.gap()
            self.epoch, self.offset, self.mark = epoch, start, b""
            return gap
        elif foreign_offset or (offset > self.offset and not is_whole):
            gap = self.gap()
            self.offset, self.mark = foreign_offset or offset, b""
            return gap
        return None

    def take(self, entry: LogEntry) -> list[EncodedEvent]:
        """Advance to a message of this epoch, and return it; after a `gap` if some are missing."""
        is_next = entry.offset == self.offset + 1
        events = [] if is_next else [self.gap()]
        self.offset, self.mark, self.is_read = entry.offset, entry.mark, True
        return [*events, LoggedMessage(self.room, entry)]

    def gap(self) -> EncodedEvent:
        """Return a `gap` event: messages after this position are lost."""
        return EncodedEvent(GapEvent(room=self.room, since=self.position), offset=AFTER_ALL)
