"""The rooms with members in this process, and a cursor for each."""

import asyncio
from collections.abc import Iterator

from ..broker import BrokerUnavailable
from .commands import PATIENCE
from .cursor import Cursor
from .keys import Keys
from .waker import Waker

MAX_LAG = 1024
"""Publishers wait above this many messages of a room not read back; `LOG_LENGTH` is higher."""
MAX_LAG_BYTES = 4 * 1024 * 1024
"""The same in bytes, taking all messages to be as long as the next one."""


class Members:
    """The cursors of the rooms that have members in this process."""

    def __init__(self, waker: Waker, keys: Keys) -> None:
        self.to_compare: set[Cursor] = set()
        """New rooms, and rooms with a foreign entry: the reader compares them with Redis next."""
        self._waker = waker
        self._keys = keys
        self._cursors: dict[str, Cursor] = {}
        self._by_log: dict[bytes, Cursor] = {}
        self._read_at = 0.0
        self._progress = asyncio.Event()  # set, and replaced, after every read

    def __iter__(self) -> Iterator[Cursor]:
        return iter(self._cursors.values())

    def __len__(self) -> int:
        """Return the number of rooms."""
        return len(self._cursors)

    def get(self, room: str) -> Cursor | None:
        """Return the cursor of a room; `None` if it has no members in this process."""
        return self._cursors.get(room)

    def of_log(self, key: bytes) -> Cursor | None:
        """Return the cursor for the key of a log; `None` if it has no members in this process."""
        return self._by_log.get(key)

    def note_read(self) -> None:
        """Record a successful read, and wake waiting publishers."""
        self._read_at = asyncio.get_running_loop().time()
        self.note_attempt()

    def note_attempt(self) -> None:
        """Wake waiting publishers, which then check how long ago the last read was."""
        self._progress.set()
        self._progress = asyncio.Event()

    async def catch_up(self) -> None:
        """Wait until everything that this process has published to these rooms was read back."""
        while any(cursor.lag for cursor in self._cursors.values()):
            await self._progress.wait()

    async def wait_near(self, cursor: Cursor, size: int) -> None:
        """Wait until the reader of a room is close enough to publish a message of `size` bytes.

        Otherwise a burst would trim messages from the log before they are read. Raises
        `BrokerUnavailable` if reading has failed for `PATIENCE` seconds.
        """
        limit = min(MAX_LAG, max(1, MAX_LAG_BYTES // size))
        while cursor.lag >= limit:
            await self._progress.wait()
            if self._cursors.get(cursor.room) is not cursor:
                return  # its last member has left, so the room is no longer read
            if asyncio.get_running_loop().time() - self._read_at > PATIENCE:
                raise BrokerUnavailable

    async def enter(self, room: str) -> str:
        """Count a member, and return the position after which it receives every message.

        Raises `BrokerUnavailable` after `PATIENCE` seconds.
        """
        cursor = self._cursors.get(room)
        if cursor is None:
            cursor = self._cursors[room] = Cursor(room, self._keys.room(room))
            self._by_log[cursor.keys.log.encode()] = cursor
            self.to_compare.add(cursor)
            self._waker.wake()
        cursor.members += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.known.wait()
        except TimeoutError:
            self.leave(room)
            raise BrokerUnavailable from None
        except BaseException:
            self.leave(room)
            raise
        return cursor.position

    def leave(self, room: str) -> None:
        """Stop counting a member; the last one removes the cursor."""
        cursor = self._cursors[room]
        cursor.members -= 1
        if not cursor.members:
            del self._cursors[room], self._by_log[cursor.keys.log.encode()]
            self.to_compare.discard(cursor)
            self.note_attempt()  # waiting publishers would never be woken by a read
