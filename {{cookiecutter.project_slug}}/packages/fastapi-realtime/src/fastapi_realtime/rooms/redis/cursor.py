"""How far a process has read a room."""

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
    """The position in a room up to which its events have been handed over."""

    __slots__ = (
        "epoch",
        "is_broken",
        "is_read",
        "keys",
        "known",
        "look_at",
        "mark",
        "members",
        "offset",
        "packed_log",
        "room",
        "strange",
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
        """Empty until Redis was asked."""
        self.offset = 0
        self.mark = b""
        self.known = asyncio.Event()
        """Set once the position is known."""
        self.is_broken = False
        """Whether Redis refuses to compare it, since its keys are not ours."""
        self.is_read = False
        """Whether something came since this was last compared with Redis."""
        self.look_at = 0.0
        """When this is to be compared with Redis even if something came."""
        self.strange = 0
        """The offset of what the log went on with, where that is of another epoch, or not ours."""
        self.target = ("", 0)
        """Epoch and offset of the last message that this process has published here."""
        self.turn = asyncio.Lock()
        """Keeps those in order who wait to publish here."""
        self.unconfirmed = 0
        """Messages that this process is publishing here."""

    @property
    def position(self) -> str:
        """The id of the last message that was handed over."""
        return f"{self.epoch}-{self.offset}"

    @property
    def lag(self) -> int:
        """How many messages are still to come, at least, of those that this process published."""
        return self.unconfirmed + self._confirmed() - self.offset

    def confirm(self, epoch: str, offset: int) -> None:
        """Note that a message which this process is publishing here has got this position."""
        self.unconfirmed -= 1
        if self.target[0] != epoch or self.target[1] < offset:  # else it was published before
            self.target = epoch, offset

    def look(self, process: str) -> Command:
        """Return the command by which a process compares this with Redis."""
        keys = self.keys
        return (
            *("EVALSHA", LOOK_SHA, 6, keys.head, keys.log, keys.refs),
            *(keys.people, keys.processes, keys.here(process)),
            *(self.epoch, self.offset, self.mark),
            *(new_epoch(), KEEP_SECONDS, EMPTY_SECONDS, self._confirmed()),
        )

    def _confirmed(self) -> int:
        """Return the last offset that Redis is known to have had in this epoch."""
        epoch, offset = self.target
        return max(self.offset, offset) if epoch == self.epoch else self.offset

    def take_look(self, answer: list[Any]) -> EncodedEvent | None:
        """Take what the comparison says, and return the gap that members must be told of."""
        epoch, offset, start = answer[0].decode(), int(answer[1]), int(answer[2])
        mark, is_whole = answer[3], bool(answer[4])
        strange, self.strange, self.is_read = self.strange, 0, False
        if not self.epoch:
            self.epoch, self.offset, self.mark = epoch, offset, mark
            self.known.set()
        elif epoch != self.epoch:
            gap = self.gap()
            self.epoch, self.offset, self.mark = epoch, start, b""
            return gap
        elif strange or (offset > self.offset and not is_whole):
            gap = self.gap()
            self.offset, self.mark = strange or offset, b""
            return gap
        return None

    def take(self, entry: LogEntry) -> list[EncodedEvent]:
        """Go on to a message of this epoch, and return it, after the gap before it if any."""
        is_next = entry.offset == self.offset + 1
        events = [] if is_next else [self.gap()]
        self.offset, self.mark, self.is_read = entry.offset, entry.mark, True
        return [*events, LoggedMessage(self.room, entry)]

    def gap(self) -> EncodedEvent:
        """Return what tells members that something after this position is lost."""
        return EncodedEvent(GapEvent(room=self.room, since=self.position), offset=AFTER_ALL)
