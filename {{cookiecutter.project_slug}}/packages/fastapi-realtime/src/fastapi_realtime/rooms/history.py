"""The history of a room: its latest messages, for members that reconnect."""

from collections import deque
from secrets import token_hex
from typing import NamedTuple

HISTORY_BYTES = 1024
"""Memory of an empty history, in bytes, without the room's name (up to 4 bytes a character)."""
MESSAGE_BYTES = 112
"""Memory of a message without its frame, in bytes."""
REF_BYTES = 200
"""Memory of a `ref` without its characters (up to 4 bytes each), in bytes."""


class Replay(NamedTuple):
    """The messages that a returning member has missed, as far as they are kept."""

    frames: list[bytes]
    """The messages, as frames of `events.v1`."""
    last_offset: int
    """The offset of the last frame; 0 if there are none."""
    is_complete: bool
    """Whether no message is missing."""
    position: str
    """The id of the room's last message."""
    size: int = 0
    """Memory of the frames, in bytes; 0 if the history has them, too."""


class HistoryEntry(NamedTuple):
    """A kept message, and its `ref` or an empty string."""

    frame: bytes
    ref: str

    @property
    def size(self) -> int:
        """Its memory, in bytes."""
        ref_size = REF_BYTES + 4 * len(self.ref) if self.ref else 0
        return MESSAGE_BYTES + len(self.frame) + ref_size


class History:
    """The latest messages of a room, with consecutive offsets.

    A position, also used as a message's id, is `<epoch>-<offset>`. The epoch is random, so a
    position of an earlier history of the room is recognized as unknown.
    """

    def __init__(self, room: str = "") -> None:
        self.epoch = token_hex(4)
        self.offset = 0
        self.members = 0
        self.size = HISTORY_BYTES + 4 * len(room)
        self._entries: deque[HistoryEntry] = deque()
        self._ids: dict[str, str] = {}  # by ref

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> str:
        """The id of the last message."""
        return f"{self.epoch}-{self.offset}"

    @property
    def next_id(self) -> str:
        """The id of the next message."""
        return f"{self.epoch}-{self.offset + 1}"

    def advance(self) -> None:
        """Add one to the offset."""
        self.offset += 1

    def find(self, ref: str) -> str:
        """Return the id of the kept message with this `ref`, or an empty string."""
        return self._ids.get(ref, "")

    def append(self, frame: bytes, ref: str = "") -> None:
        """Keep the message with the current offset."""
        entry = HistoryEntry(frame, ref)
        self._entries.append(entry)
        self.size += entry.size
        if ref:
            self._ids[ref] = self.position

    def drop_oldest(self) -> int:
        """Drop the oldest kept message; return the memory that this frees, in bytes."""
        entry = self._entries.popleft()
        self._ids.pop(entry.ref, None)
        self.size -= entry.size
        return entry.size

    def since(self, position: str) -> Replay:
        """Return the messages after a position; if some are lost, all that are kept."""
        missed = self._count_after(position)
        is_complete = 0 <= missed <= len(self._entries)
        entries = [*self._entries][len(self._entries) - missed if is_complete else 0 :]
        frames = [entry.frame for entry in entries]
        return Replay(frames, self.offset if frames else 0, is_complete, self.position)

    def _count_after(self, position: str) -> int:
        """Return the number of messages after a position; negative if it is unknown."""
        epoch, _, offset = position.partition("-")
        if epoch != self.epoch or not (offset.isdecimal() and len(offset) < 20):
            return -1
        return self.offset - int(offset)
