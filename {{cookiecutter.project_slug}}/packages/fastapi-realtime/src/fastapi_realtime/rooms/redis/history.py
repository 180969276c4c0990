"""The history of rooms: reading it for members that return, and what clients may add to it."""

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from redis.exceptions import ResponseError

from ...server.wire import server_frame
from ..broker import BrokerUnavailable, Replay
from ..memory import MAX_ROOM_BYTES
from .connection import Commands, Health, explain
from .log import LogEntry, read_entry
from .scripts import HISTORY_SHA, KEEP_SECONDS, RoomKeys
from .servers import Servers

REPLAYS_AT_ONCE = 4
"""Histories that are read at the same time; others wait, and clients take turns."""
REPLAY_SECONDS = 30.0
"""Seconds for a history to be read, with the time that it waits."""
PAGE_BYTES = 128 * 1024
"""Bytes of a history that are read at once; at least one message is."""

STORED_BYTES = 256 * 1024 * 1024
"""Bytes that an address may store in Redis within `KEEP_SECONDS`, by way of this process."""
MAX_ADDRESSES = 10_000
"""Maximum addresses to keep; the one that is silent for longest is forgotten."""

POSITION = re.compile("([0-9a-f]{8})-([0-9]{1,15})")


class StoredBytes:
    """What each address has stored. It expires evenly, in `KEEP_SECONDS`.

    Only the growth of a room beyond its peak counts: where new messages replace old ones,
    nothing more is stored.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stored: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def add(self, address: str, size: int) -> None:
        """Count bytes that a client has stored; an empty address has no limit."""
        if address and size:
            self._stored[address] = self._left(address) + size, self._clock()
            self._stored.move_to_end(address)
            if len(self._stored) > MAX_ADDRESSES:
                self._stored.popitem(last=False)

    def is_full(self, address: str) -> bool:
        """Return whether an address has stored too much."""
        return self._left(address) >= STORED_BYTES

    def _left(self, address: str) -> float:
        """Return what an address has stored, without what has expired."""
        size, since = self._stored.get(address, (0.0, 0.0))
        return max(0.0, size - (self._clock() - since) * STORED_BYTES / KEEP_SECONDS)


class Replays:
    """Reads the history of rooms for members that return.

    It has connections of its own. They are few, and clients take turns: who asks often waits
    for its own earlier requests. A history is read in pages, from the latest message back.
    """

    def __init__(self, servers: Servers, history_length: int, health: Health) -> None:
        self._history_length = history_length
        self._health = health
        self._all = [Commands(servers) for _ in range(REPLAYS_AT_ONCE)]
        self._free = [*self._all]
        self._waiting: dict[str, deque[asyncio.Future[Commands]]] = {}  # by client

    async def close(self) -> None:
        """Close the connections."""
        for commands in self._all:
            await commands.close()

    async def read(self, keys: RoomKeys, since: str, client: str, last: int = 0) -> Replay:
        """Return the messages after a position, or the `last`; if some are lost, all that are kept.

        Raises `BrokerUnavailable`.
        """
        try:
            async with asyncio.timeout(REPLAY_SECONDS):
                commands = await self._take(client)
                try:
                    return await self._read(commands, keys, since, last)
                finally:
                    self._give_back(commands)
        except TimeoutError:
            raise BrokerUnavailable from None

    async def _take(self, client: str) -> Commands:
        if self._free:
            return self._free.pop()
        turn: asyncio.Future[Commands] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, commands: Commands) -> None:
        """Pass a connection to the next client, which then waits for all others."""
        while self._waiting:
            client, turns = next(iter(self._waiting.items()))
            del self._waiting[client]
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns
            if not turn.done():
                turn.set_result(commands)
                return
        self._free.append(commands)

    async def _read(self, commands: Commands, keys: RoomKeys, since: str, last: int) -> Replay:
        found = None if last else POSITION.fullmatch(since)
        kept = min(last or self._history_length, self._history_length)
        epoch, seen = (found[1], int(found[2])) if found else ("", 0)
        frames: deque[bytes] = deque()
        size = 0
        room = await self._read_page(commands, keys, epoch, seen, None, kept)
        first = max(seen if room.is_known else 0, room.offset - kept) + 1
        entries, oldest = deque(room.entries), room.offset + 1
        while entries and oldest > first:
            entry = entries.popleft()
            frame = server_frame(entry.text, is_text=True)
            size += len(frame)
            if not entry.epoch or entry.offset != oldest - 1 or size > MAX_ROOM_BYTES:
                break  # what is older is not connected to this, or not kept
            frames.appendleft(frame)
            oldest = entry.offset
            if not entries and oldest > first:
                page = await self._read_page(commands, keys, epoch, seen, oldest, kept)
                entries.extend(page.entries)
        is_complete = last > 0 or (room.is_known and oldest == seen + 1)
        # The reader may be behind: what it passes on up to this offset is known to the member.
        last_offset = room.offset if frames else seen if room.is_known else 0
        position = f"{room.epoch}-{room.offset}"
        return Replay([*frames], last_offset, is_complete, position, sum(map(len, frames)))

    async def _read_page(
        self,
        commands: Commands,
        keys: RoomKeys,
        epoch: str,
        seen: int,
        before: int | None,
        kept: int,
    ) -> "Page":
        (answer,) = await commands.run(
            (
                *("EVALSHA", HISTORY_SHA, 2, keys.head, keys.log),
                *(epoch, seen, before or "", kept, PAGE_BYTES),
            )
        )
        if isinstance(answer, ResponseError):
            self._health.breaks(keys.room, explain(answer))
            raise BrokerUnavailable
        if not answer:
            return Page("", 0, False, [])
        entries = [read_entry(keys.room, each) for each in answer[3]]
        if not all(entry.epoch for entry in entries):
            self._health.breaks(keys.room, "there is an entry in the log that is no message")
        return Page(answer[0].decode(errors="replace"), int(answer[1]), answer[2] == 1, entries)


class Page(NamedTuple):
    """A page of the history of a room."""

    epoch: str
    offset: int
    """That of the last message in the room."""
    is_known: bool
    """Whether Redis knows the position that the history is read from."""
    entries: list[LogEntry]
    """The latest first."""
