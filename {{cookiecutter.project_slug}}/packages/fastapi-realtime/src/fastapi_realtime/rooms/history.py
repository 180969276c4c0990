"""The history of a room: its latest messages, for members that come back."""

from collections import deque
from secrets import token_hex
from typing import NamedTuple

HISTORY_BYTES = 1024
"""Memory of a history without its messages, in bytes; a room's name has four a character."""
MESSAGE_BYTES = 112
"""Memory of a message without the bytes of its frame."""
REF_BYTES = 200
"""Memory of a message's `ref` without its characters, of four bytes at most."""


class Replay(NamedTuple):
    """What a returning member has missed, and whether that is all of it."""

    frames: list[bytes]
    """Messages under `events.v1`."""
    last_offset: int
    """The offset of the last of them; 0 if there are none."""
    is_complete: bool
    position: str
    """The id of the room's last message."""


class HistoryEntry(NamedTuple):
    """A message that is kept, and its `ref` if it has one."""

    frame: bytes
    ref: str

    @property
    def size(self) -> int:
        """The memory that it takes, in bytes."""
        ref_size = REF_BYTES + 4 * len(self.ref) if self.ref else 0
        return MESSAGE_BYTES + len(self.frame) + ref_size


class History:
    """The latest messages of a room, without a hole, and the offset of the last one.

    A position, which is also the id of a message, is the epoch, which no other history has, and
    an offset.
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
        """The id that the next message gets."""
        return f"{self.epoch}-{self.offset + 1}"

    def advance(self) -> None:
        """Count a message."""
        self.offset += 1

    def find(self, ref: str) -> str:
        """Return the id of the message with this `ref`, or an empty text."""
        return self._ids.get(ref, "")

    def append(self, frame: bytes, ref: str = "") -> None:
        """Keep the message that was counted last."""
        entry = HistoryEntry(frame, ref)
        self._entries.append(entry)
        self.size += entry.size
        if ref:
            self._ids[ref] = self.position

    def drop_oldest(self) -> int:
        """Forget the oldest message that is kept; return how much memory that frees, in bytes."""
        entry = self._entries.popleft()
        self._ids.pop(entry.ref, None)
        self.size -= entry.size
        return entry.size

    def since(self, position: str) -> Replay:
        """Return what came after a position, or all that is kept if some of it is not."""
        missed = self._count_after(position)
        is_complete = 0 <= missed <= len(self._entries)
        entries = [*self._entries][len(self._entries) - missed if is_complete else 0 :]
        frames = [entry.frame for entry in entries]
        return Replay(frames, self.offset if frames else 0, is_complete, self.position)

    def _count_after(self, position: str) -> int:
        """Return how many messages came after a position; less than 0 if it never was."""
        epoch, _, offset = position.partition("-")
        if epoch != self.epoch or not (offset.isdecimal() and len(offset) < 20):
            return -1
        return self.offset - int(offset)
