"""The rooms that have members in this process, and how far each was read."""

import asyncio
from collections.abc import Iterator

from ..broker import BrokerUnavailable
from .commands import PATIENCE
from .cursor import Cursor
from .keys import Keys
from .waker import Waker

MAX_LAG = 1024
"""Messages of a room that this process may have published and not read; a log is longer."""
MAX_LAG_BYTES = 4 * 1024 * 1024
"""Bytes of such messages, if all are as long as the next one."""


class Members:
    """A cursor for each room, as long as it has members."""

    def __init__(self, waker: Waker, keys: Keys) -> None:
        self.unsure: set[Cursor] = set()
        """Rooms to be compared with Redis at once: they are new, or odd."""
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
        """Return how far a room was read; `None` for one without members here."""
        return self._cursors.get(room)

    def of_log(self, key: bytes) -> Cursor | None:
        """Return how far the room of a log was read; `None` for one without members here."""
        return self._by_log.get(key)

    def note_read(self) -> None:
        """Note that something was read, for those who wait for it."""
        self._read_at = asyncio.get_running_loop().time()
        self.note_attempt()

    def note_attempt(self) -> None:
        """Note that reading has failed, and let those who wait see for how long."""
        self._progress.set()
        self._progress = asyncio.Event()

    async def catch_up(self) -> None:
        """Wait until all is read that this process has published in these rooms."""
        while any(cursor.lag for cursor in self._cursors.values()):
            await self._progress.wait()

    async def wait_near(self, cursor: Cursor, size: int) -> None:
        """Wait with a message of some bytes while a room is read more slowly than published to.

        So a burst doesn't push out of the log what members here have not received. Raises
        `BrokerUnavailable` if reading has failed for `PATIENCE` seconds.
        """
        limit = min(MAX_LAG, max(1, MAX_LAG_BYTES // size))
        while cursor.lag >= limit:
            await self._progress.wait()
            if self._cursors.get(cursor.room) is not cursor:
                return  # its last member has left: nobody reads on, and nobody misses anything
            if asyncio.get_running_loop().time() - self._read_at > PATIENCE:
                raise BrokerUnavailable

    async def enter(self, room: str) -> str:
        """Count a member, and return the position after which it misses nothing."""
        cursor = self._cursors.get(room)
        if cursor is None:
            cursor = self._cursors[room] = Cursor(room, self._keys.room(room))
            self._by_log[cursor.keys.log.encode()] = cursor
            self.unsure.add(cursor)
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
        """Count a member no more."""
        cursor = self._cursors[room]
        cursor.members -= 1
        if not cursor.members:
            del self._cursors[room], self._by_log[cursor.keys.log.encode()]
            self.unsure.discard(cursor)
            self.note_attempt()  # nobody reads on for those who wait
