"""Notices between processes: heartbeats, changed rosters, subjects to close."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from ..broker import CloseSubject
from .health import Health
from .keys import Keys
from .link import MOVED_ON, Command, Link, explain
from .processes import Processes
from .rosters import Rosters
from .scripts import KEEP_SECONDS
from .supervisor import keep_connected

BEAT_SECONDS = 1.0
"""Seconds between two heartbeats."""
MAX_CLOSED = 10_000
"""Length of the stream of subjects to close; a process that was away longer misses some."""
LOST_SECONDS = 60
"""After Redis has lost a part of that stream, it is read again from this many seconds ago."""


class Notices:
    """Sends heartbeats, and reads two streams that all processes write to.

    One has the rooms with joins or leaves, the other the subjects whose connections must be
    closed.
    """

    def __init__(
        self, url: str, keys: Keys, processes: Processes, rosters: Rosters, health: Health
    ) -> None:
        self._url = url
        self._keys = keys
        self._processes = processes
        self._rosters = rosters
        self._health = health
        self._positions: dict[str, bytes] = {}
        self._started_at = 0.0

    async def run(self, close_subject: CloseSubject) -> None:
        """Send heartbeats and read until cancelled."""
        self._started_at = asyncio.get_running_loop().time()
        handlers = {self._keys.moves: self._rosters.note_token, self._keys.closed: close_subject}

        async def work(link: Link) -> None:
            await self._find_positions(link)
            while True:
                await self._beat(link)
                await self._read(link, handlers)

        await keep_connected(self._url, "listen", self._health, work, self._processes.note_outage)

    async def _find_positions(self, link: Link) -> None:
        """Set the positions to read from, after a connect.

        Rooms: the end; missed changes are found when rooms are compared with Redis. Subjects:
        where reading stopped, and at first the start of this process. If the stream ends before
        that, Redis has lost a part of it: then `LOST_SECONDS` ago.
        """
        moves, closed = self._keys.moves, self._keys.closed
        self._positions[moves] = await self._end_of(link, moves)
        before = self._positions.get(closed)
        if before is None:
            seconds = asyncio.get_running_loop().time() - self._started_at
        elif number(before) <= number(await self._end_of(link, closed)):
            return
        else:
            seconds = LOST_SECONDS
        now, _ = await link.request("TIME")
        self._positions[closed] = b"%d-0" % (1000 * max(0, int(now) - int(seconds) - 1))

    async def _end_of(self, link: Link, stream: str) -> bytes:
        entries = await link.request("XREVRANGE", stream, "+", "-", "COUNT", 1)
        return bytes(entries[0][0]) if entries else b"0-0"

    async def _beat(self, link: Link) -> None:
        """Send a heartbeat. Redis rejects it while it is full or read-only."""
        (answer,) = await link.pipeline([self._processes.heartbeat_command()])
        if isinstance(answer, MOVED_ON):
            raise answer
        if isinstance(answer, ResponseError):
            self._health.fails("write", explain(answer))
            self._processes.note_outage()
        else:
            self._health.works("write")
            self._processes.handle_heartbeat(answer)
            self._rosters.remove_dead()
        self._health.works("listen")

    async def _read(self, link: Link, handlers: dict[str, Callable[..., object]]) -> None:
        """Read both streams until the next heartbeat is due."""
        loop = asyncio.get_running_loop()
        end = loop.time() + BEAT_SECONDS
        while (left := int(1000 * (end - loop.time()))) > 0:
            streams = ("STREAMS", *self._positions, *self._positions.values())
            for name, entries in await link.request("XREAD", "BLOCK", left, *streams) or ():
                self._take(name.decode(), entries, handlers)

    def _take(
        self, stream: str, entries: list[Any], handlers: dict[str, Callable[..., object]]
    ) -> None:
        for id, fields in entries:
            self._positions[stream] = id
            handlers[stream](*(value.decode() for value in fields[1::2]))


def close_commands(keys: Keys, subject: str) -> tuple[Command, Command]:
    """Return the commands that ask every process to close a subject's connections."""
    limit = ("MAXLEN", "~", MAX_CLOSED)
    note = ("XADD", keys.closed, *limit, "*", "subject", subject)
    return note, ("EXPIRE", keys.closed, KEEP_SECONDS)


def number(id: bytes) -> tuple[int, int]:
    """Return the id of a stream entry as numbers that can be compared."""
    milliseconds, _, count = id.partition(b"-")
    return int(milliseconds), int(count)
