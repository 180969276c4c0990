"""The history of rooms: its messages, reading it for members that return, and who may add to it."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic_core import from_json
from redis.exceptions import ResponseError

from ...limits import KeyedLimiter
from ...messages import dump_json_bytes
from ..broker import BrokerUnavailable, Replay
from ..events import EVENTS, AppendEvent, EncodedEvent, LoggedEvent, MessageEvent, RoomFormat
from ..memory import MAX_ROOM_BYTES
from .connection import Commands, Shared, explain
from .scripts import HISTORY_SHA, KEEP_SECONDS

FIELDS = [b"e", b"o"]
"""The first field names of an entry: epoch, origin. The last one is a kind, of a packed message."""
MESSAGE, APPEND, UNKEPT = b"m", b"a", b"u"
"""Kinds of messages."""
BEFORE_ID = {MESSAGE: b'{"type":"message","id":"', APPEND: b'{"type":"append","id":"'}
"""The start of their JSON, up to the id, which Redis assigns."""
EPOCH = re.compile("[0-9a-f]{8}")
ENTRY_ID = re.compile(b"([0-9]{1,15})-([0-9]+)")

REPLAYS_AT_ONCE = 4
"""Histories that are read at the same time; others wait, and clients take turns."""
REPLAY_SECONDS = 30.0
"""Seconds for a history to be read, with the time that it waits."""
PAGE_BYTES = 128 * 1024
"""Bytes of a history that are read at once; at least one message is."""

STORED_BYTES = 256 * 1024 * 1024
"""Bytes that an address may store in Redis within `KEEP_SECONDS`, by way of this process."""

POSITION = re.compile("([0-9a-f]{8})-([0-9]{1,15})")


def pack(event: LoggedEvent, *, keep: bool = True) -> tuple[bytes, bytes]:
    """Return the kind of a message, and its packed form: its JSON, without `BEFORE_ID` if kept."""
    if not keep:
        return UNKEPT, EVENTS.encode(event)
    kind = APPEND if isinstance(event, AppendEvent) else MESSAGE
    event.id = ""
    text = dump_json_bytes(event)
    assert text.startswith(BEFORE_ID[kind] + b'"')
    return kind, text[len(BEFORE_ID[kind]) :]


class LoggedMessage(EncodedEvent):
    """A message from Redis. It is JSON already, as under `events.v1`."""

    __slots__ = ("_text",)

    def __init__(self, event: LoggedEvent, origin: str, offset: int, text: bytes) -> None:
        super().__init__(event, origin, offset)
        self._text = text

    def _encode(self, format: RoomFormat) -> bytes | None:
        return self._text if format is EVENTS else super()._encode(format)


class LogEntry(NamedTuple):
    """An entry in the log of a room."""

    offset: int  # -1 if it is too high for a message
    epoch: str = ""
    message: LoggedMessage | None = None  # `None`, without an epoch, if it is none of this room

    @property
    def is_append(self) -> bool:
        """Whether it is a part of an earlier message."""
        return self.message is not None and isinstance(self.message.event, AppendEvent)


def read_event(kind: bytes, text: bytes, room: str) -> LoggedEvent | None:
    """Return the event in a JSON text; `None` if it is none of this room, or of another kind."""
    with suppress(ValueError, TypeError):
        fields = from_json(text, allow_inf_nan=False)
        event = AppendEvent(**fields) if kind == APPEND else MessageEvent(**fields)
        texts: list[object] = [event.sender]
        if isinstance(event, AppendEvent):
            texts += event.to, event.data
        is_right = event.type == ("append" if kind == APPEND else "message")
        if is_right and event.room == room and all(isinstance(each, str) for each in texts):
            return event
    return None


def read_entry(room: str, raw: Any) -> LogEntry:
    """Return an entry from Redis: an id, and field names and values in turn."""
    found = ENTRY_ID.fullmatch(raw[0])
    offset = int(found[1]) if found else -1
    with suppress(ValueError, TypeError, KeyError):
        *names, kind = raw[1][::2]
        if found and found[2] == b"0" and names == FIELDS:
            name, origin, packed = raw[1][1::2]
            text, epoch = b"%b%b-%d%b" % (BEFORE_ID[kind], name, offset, packed), name.decode()
            event = read_event(kind, text, room)
            # `id` is as it was written here, unless the packed text has another one.
            if event and event.id == f"{epoch}-{offset}" and EPOCH.fullmatch(epoch):
                message = LoggedMessage(event, origin.decode(), offset, text)
                return LogEntry(offset, epoch, message)
    return LogEntry(offset)


class StoredBytes(KeyedLimiter):
    """What each address may still store. What it has stored expires evenly, in `KEEP_SECONDS`.

    Only the growth of a room beyond its peak counts: where new messages replace old ones,
    nothing more is stored.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(STORED_BYTES / KEEP_SECONDS, STORED_BYTES, clock)

    def add(self, address: str, size: int) -> None:
        """Count bytes that a client has stored; an empty address has no limit."""
        if address and size:
            self.spend(address, size)

    def is_full(self, address: str) -> bool:
        """Return whether an address has stored too much."""
        return self.left(address) <= 0


class Replays:
    """Reads the history of rooms for members that return.

    It has connections of its own. They are few, and clients take turns: who asks often waits
    for its own earlier requests. A history is read in pages, from the latest message back.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._all = [Commands(shared.servers) for _ in range(REPLAYS_AT_ONCE)]
        self._free = [*self._all]
        self._waiting: dict[str, deque[asyncio.Future[Commands]]] = {}  # by client

    async def close(self) -> None:
        """Close the connections."""
        for commands in self._all:
            await commands.close()

    async def read(self, room: str, since: str, client: str, count: int = 0) -> Replay:
        """Return the messages after a position, or the latest; if some are lost, all that are kept.

        Raises `BrokerUnavailable`.
        """
        try:
            async with asyncio.timeout(REPLAY_SECONDS):
                commands = await self._take(client)
                try:
                    return await self._read(commands, room, since, count)
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

    async def _read(self, commands: Commands, room: str, since: str, count: int) -> Replay:
        found = None if count else POSITION.fullmatch(since)
        kept = min(count or self._shared.history_length, self._shared.history_length)
        after = (found[1], found[2]) if found else ("", "0")
        epoch, last, is_known, entries = await self._read_page(commands, room, after, "", kept)
        seen = int(after[1]) if is_known else 0
        frames: deque[bytes] = deque()
        size, messages, oldest = 0, 0, last + 1
        while entries and oldest > seen + 1 and messages < kept:
            entry = entries.popleft()
            frame = b"" if entry.message is None else entry.message.frame(EVENTS)
            size += len(frame)
            if not frame or entry.offset != oldest - 1 or size > MAX_ROOM_BYTES:
                break  # what is older is not connected to this, or not kept
            frames.appendleft(frame)
            oldest = entry.offset
            messages += not entry.is_append
            if not entries and oldest > seen + 1 and messages < kept:
                *_, entries = await self._read_page(commands, room, after, str(oldest), kept)
        # The reader may be behind: what it passes on up to this offset is known to the member.
        last_offset = last if frames else seen
        is_complete, position = count > 0 or (is_known and oldest == seen + 1), f"{epoch}-{last}"
        return Replay([*frames], last_offset, is_complete, position, sum(map(len, frames)))

    async def _read_page(
        self, commands: Commands, room: str, after: tuple[str, str], before: str, kept: int
    ) -> tuple[str, int, bool, deque[LogEntry]]:
        """Return what `HISTORY` does; without a room, as if it were new."""
        health = self._shared.health
        keys = self._shared.keys.room(room)[:2]
        (answer,) = await commands.run(
            ("EVALSHA", HISTORY_SHA, 2, *keys, *after, before, kept, PAGE_BYTES)
        )
        if isinstance(answer, ResponseError):
            health.breaks(room, explain(answer))
            raise BrokerUnavailable
        epoch, last, is_known, raw = answer or (b"", 0, 0, ())
        entries = deque(read_entry(room, each) for each in raw)
        if not all(entry.epoch for entry in entries):
            health.breaks(room, "there is an entry in the log that is no message")
        return epoch.decode(errors="replace"), int(last), is_known == 1, entries
