"""Reading from Redis: the messages of rooms with members in this process."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from redis.exceptions import ResponseError

from ..broker import BrokerUnavailable, CloseSubject, RoomRefused
from ..events import AFTER_ALL, EncodedEvent, GapEvent
from ..hub import Hub
from .connection import CHANGED_KEYS, PATIENCE, Shared, explain, keep_connected
from .history import UNKEPT, LogEntry, LoggedMessage, StoredBytes, read_entry, read_event
from .rosters import Rosters
from .scripts import (
    EMPTY_BYTES,
    KEEP_SECONDS,
    LOG_SECONDS,
    LOOK_SHA,
    Command,
    Keys,
    change_command,
    room_arguments,
)
from .servers import ANSWER_SECONDS, FAILURES, Link, raise_moved_on

BEAT_SECONDS = 1.0
"""Seconds between two heartbeats, and from a comparison of all rooms with Redis to the next."""
ROOMS_AT_ONCE = 25
"""Rooms that are compared in one round trip; Redis serves nobody else for a millisecond or two."""
TURN_SECONDS = 0.125
"""Seconds between two such round trips."""
ROUND_SECONDS = 60.0
"""Maximum seconds for a comparison of all rooms; where there are many, turns are shorter."""
TRIM_SECONDS = 2.0 * LOG_SECONDS
"""Seconds after which the log of a room is trimmed that has no more members here."""
MAX_TO_TRIM = 10_000
"""Maximum rooms that wait for this."""
READ_COUNT = 512
"""Maximum messages that are read at once, of all rooms together."""
READ_BYTES = 1024 * 1024
"""Bytes that should be read at once; the number of messages is adapted to it."""
SLOW_SECONDS = 0.5
"""Seconds that a read should take; the number of messages is adapted to it."""
MAX_READ_SECONDS = 60.0
"""Maximum seconds for a single message that does not fit into `ANSWER_SECONDS`."""
MAX_LAG = 1024
"""Publishers wait above this many messages of a room not read back; a log has more."""
MAX_LAG_BYTES = 4 * 1024 * 1024
"""The same in bytes, taking all messages to be as long as the next one."""
MAX_UNKEPT = 100
"""Maximum messages of a room that wait for kept ones; above, the oldest are dropped."""
MAX_CLOSED = 10_000
"""Length of the stream of subjects to close; a process that was away longer misses some."""
LOST_SECONDS = 60
"""After Redis has lost a part of that stream, it is read again from this many seconds ago."""


@dataclass(slots=True, eq=False)
class Cursor:
    """The position in a room's log up to which its messages have been passed to the hub."""

    room: str
    address: str = ""  # of the client that entered first, or an empty string
    members: int = 0
    epoch: str = ""  # empty until the room was compared with Redis
    offset: int = 0
    start: int = 0  # where the epoch began; up to there, messages are of earlier epochs
    told: int = 0  # the last offset of the room when it was last compared with Redis
    known: asyncio.Event = field(default_factory=asyncio.Event)  # or the room is refused
    may_begin: bool = False  # whether the room may be created if Redis has none of this name
    read: deque[LogEntry] = field(default_factory=deque)  # not passed on: there is no space
    unkept: deque[tuple[str, int, LoggedMessage]] = field(
        default_factory=lambda: deque(maxlen=MAX_UNKEPT)
    )
    """Messages that are not kept, each with the position to reach before it is passed on."""
    strange: int = -1  # the offset of what comes next, if it is of an unknown epoch
    targets: dict[str, int] = field(default_factory=dict)  # last published here, by epoch
    unconfirmed: int = 0  # messages of this process that Redis has not confirmed

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
            gap = self.skip_to(min(self.offset, seen_end) if seen_end >= 0 else start)
        elif epoch == self.epoch and strange >= 0:
            gap = self.skip_to(strange)
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
        return gap if entry.message is None else [*gap, entry.message]

    def skip_to(self, offset: int) -> list[EncodedEvent]:
        """Go to an offset, and return a `gap`."""
        gap = self._gap()
        self.offset = offset
        self.read.clear()
        return gap

    def _gap(self) -> list[EncodedEvent]:
        event = GapEvent(room=self.room, since=self.position)
        return [EncodedEvent(event, offset=AFTER_ALL)]


class Reader:
    """Passes the messages of rooms to the hub: each once, in order.

    One connection hears which rooms have news; what it misses is found later. The other compares
    rooms with Redis and reads them, in turn, so the two never overlap. Passing messages on never
    waits: a room with too much pending is left out, and delays no other.
    """

    def __init__(self, shared: Shared, hub: Hub, rosters: Rosters, stored: StoredBytes) -> None:
        self._shared = shared
        self._keys = shared.keys
        self._health = shared.health
        self._hub = hub
        self._rosters = rosters
        self._stored = stored
        self.cursors: dict[str, Cursor] = {}  # of rooms with members in this process
        self._unsure: dict[Cursor, None] = {}  # to compare with Redis before they are read
        self._refused: dict[Cursor, None] = {}  # to compare again at the next heartbeat
        self._due: dict[Cursor, int] = {}  # to read, or to pass on, up to this offset
        self._turns: list[Cursor] = []  # to be compared before this round is over
        self._to_trim: dict[str, float] = {}  # rooms without members here, and the loop time
        self._count = READ_COUNT // 8
        self._seconds = 0.0
        self._beat_at = self._turn_at = self._read_at = 0.0
        self._closed = b""  # the position in the stream of subjects to close
        self._has_closed = False
        self._bell: Link | None = None
        self._woken = asyncio.Event()
        self._progress = asyncio.Event()  # set, and replaced, after every read
        hub.on_space = self._woken.set

    async def enter(self, room: str, address: str) -> str:
        """Count a member, and return the position after which it receives every message.

        Raises `BrokerUnavailable` after `PATIENCE` seconds, and `RoomRefused` if the address may
        not begin the room.
        """
        cursor = self.cursors.get(room)
        if cursor is None:
            cursor = self.cursors[room] = Cursor(room, address)
            self._doubt(cursor)
        cursor.may_begin = cursor.may_begin or not self._stored.is_full(address)
        cursor.members += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await cursor.known.wait()
            if not cursor.epoch:
                self._health.limits(address, room)
                raise RoomRefused(room)
        except TimeoutError:
            self.leave(room)
            raise BrokerUnavailable from None
        except BaseException:
            self.leave(room)
            raise
        return cursor.position

    def leave(self, room: str) -> None:
        """Stop counting a member; the last one removes the cursor."""
        cursor = self.cursors[room]
        cursor.members -= 1
        if not cursor.members:
            del self.cursors[room]
            self._due.pop(cursor, None)
            self._note_progress()  # nobody reads on for publishers that wait
            self.trim_later(room)

    def trim_later(self, room: str) -> None:
        """Let the log of a room be trimmed to its history, in case nothing more is published."""
        self._to_trim.setdefault(room, asyncio.get_running_loop().time() + TRIM_SECONDS)
        if len(self._to_trim) > MAX_TO_TRIM:
            del self._to_trim[next(iter(self._to_trim))]

    async def catch_up(self) -> None:
        """Wait until everything that this process has published to these rooms was read back."""
        while any(cursor.lag for cursor in self.cursors.values()):
            await self._progress.wait()

    async def wait_near(self, cursor: Cursor, size: int) -> None:
        """Wait until the reader of a room is close enough to publish a message of `size` bytes.

        Otherwise a burst would trim messages from the log before they are read. Raises
        `BrokerUnavailable` if reading has failed for `PATIENCE` seconds.
        """
        limit = min(MAX_LAG, max(1, MAX_LAG_BYTES // size))
        while cursor.lag >= limit and self._has(cursor):
            await self._progress.wait()
            if asyncio.get_running_loop().time() - self._read_at > PATIENCE:
                raise BrokerUnavailable

    async def listen(self) -> None:
        """Hear which rooms have news, until cancelled."""
        await keep_connected(self._shared, "listen", self._hear)

    async def run(self, close_subject: CloseSubject) -> None:
        """Read until cancelled."""
        loop = asyncio.get_running_loop()
        started_at = self._read_at = loop.time()

        async def work(link: Link) -> None:
            await self._find_closed(link, started_at)
            self._doubt(*self.cursors.values())
            while True:
                self._woken.clear()
                if loop.time() >= self._beat_at:
                    await self._beat(link)
                if loop.time() >= self._turn_at:
                    await self._take_turn(link)
                await self._look(link)
                await self._read_closed(link, close_subject)
                await self._read(link)
                self._health.works("read")
                self._read_at = loop.time()
                self._note_progress()
                await self._wait()

        await keep_connected(self._shared, "read", work, self._note_failure)

    async def _hear(self, link: Link) -> None:
        channels = [self._keys.news, self._keys.moves, self._keys.closed]
        await link.send([("SUBSCRIBE", *channels)])
        loop, seconds = asyncio.get_running_loop(), BEAT_SECONDS + ANSWER_SECONDS
        try:
            async with asyncio.timeout(seconds) as deadline:
                while True:
                    answer = await link.receive()
                    if isinstance(answer, ResponseError):
                        raise answer
                    kind, *rest = answer
                    if kind == b"message":
                        with suppress(ValueError):  # another program has said something
                            self._take_notice(rest[0].decode(), rest[1])
                    elif kind == b"pong":
                        deadline.reschedule(loop.time() + seconds)
                    elif rest[-1] == len(channels):
                        self._bell, self._has_closed = link, True
                        self._doubt(*self.cursors.values())  # what was missed is found now
                        self._rosters.ask_all()
                        self._health.works("listen")
        finally:
            self._bell = None  # nothing may be sent on it from now on

    def _take_notice(self, channel: str, text: bytes) -> None:
        if channel == self._keys.closed:
            self._has_closed = True
            self._woken.set()
        elif channel == self._keys.moves:
            process, _, room = text.decode().partition(" ")
            self._rosters.note_moved(process, room)
        else:
            head, *lines = text.split(b"\n")
            epoch, offset, room = head.decode().split(" ", 2)
            if (cursor := self.cursors.get(room)) is not None:
                messages = [line.split(b" ", 2) for line in lines]
                self._take_news(cursor, epoch, int(offset), messages)

    def _take_news(
        self, cursor: Cursor, epoch: str, offset: int, messages: list[list[bytes]]
    ) -> None:
        """Pass messages on that came with a notice; read those that did not, or are not next."""
        if messages and messages[0][0] == UNKEPT:
            _, origin, text = messages[0]
            event = read_event(UNKEPT, text, cursor.room)
            if event is not None and event.id is None:
                message = LoggedMessage(event, origin.decode(), 0, text)
                cursor.unkept.append((epoch, offset, message))
        if epoch != cursor.epoch:
            self._doubt(cursor)
        elif offset > cursor.offset and not self._take_messages(cursor, offset, messages):
            # What is not kept comes after the news of later messages, with a lower offset.
            self._due[cursor] = max(offset, self._due.get(cursor, 0))
            self._woken.set()
        self._pass_on_unkept(cursor)

    def _take_messages(self, cursor: Cursor, offset: int, messages: list[list[bytes]]) -> bool:
        """Pass on the messages up to an offset, if they are the next; return whether they are."""
        first = offset + 1 - len(messages)
        is_busy = cursor in self._due or cursor in self._unsure or self._hub.is_full(cursor.room)
        if not messages or first != cursor.offset + 1 or is_busy:
            return False
        for offset, (kind, origin, packed) in enumerate(messages, first):
            fields = [b"e", cursor.epoch.encode(), b"o", origin, kind, packed]
            entry = read_entry(cursor.room, (b"%d-0" % offset, fields))
            if entry.message is None:
                return False
            self._hub.deliver(entry.message)
            cursor.offset = offset
        self._note_progress()
        return True

    def _doubt(self, *cursors: Cursor) -> None:
        self._unsure |= dict.fromkeys(cursors)
        self._woken.set()

    def _note_failure(self) -> None:
        self._rosters.note_outage()
        self._note_progress()

    def _note_progress(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

    async def _wait(self) -> None:
        """Wait for news, or for the next heartbeat or turn."""
        if self._unsure or any(not self._hub.is_full(each.room) for each in self._due):
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._beat_at, self._turn_at)):
                await self._woken.wait()

    async def _beat(self, link: Link) -> None:
        """Send a heartbeat, which Redis rejects while it is full or read-only."""
        self._beat_at = asyncio.get_running_loop().time() + BEAT_SECONDS
        if self._bell is not None:
            with suppress(*FAILURES):
                await self._bell.send([("PING",)])
        (answer,) = await link.pipeline([self._rosters.beat_command()])
        raise_moved_on([answer])
        if isinstance(answer, ResponseError):
            self._health.fails("write", answer)
            self._rosters.note_outage()
        else:
            self._health.works("write")
            self._rosters.handle_beat(*answer)
        self._has_closed = True
        self._doubt(*self._refused)
        self._refused.clear()

    async def _take_turn(self, link: Link) -> None:
        """Compare the next rooms; and some without members here, which trims their logs."""
        now = asyncio.get_running_loop().time()
        rooms = self._turns or [*self.cursors.values()]
        self._doubt(*rooms[:ROOMS_AT_ONCE])
        self._turns = rooms[ROOMS_AT_ONCE:]
        trimmed = [room for room, at in islice(self._to_trim.items(), ROOMS_AT_ONCE) if at <= now]
        await self._compare(link, [Cursor(room) for room in trimmed])
        for room in trimmed:
            self._to_trim.pop(room, None)
        is_over = not self._turns and len(trimmed) < ROOMS_AT_ONCE
        turn_seconds = min(TURN_SECONDS, ROUND_SECONDS * ROOMS_AT_ONCE / max(1, len(self.cursors)))
        self._turn_at = now + (BEAT_SECONDS if is_over else turn_seconds)

    async def _compare(self, link: Link, cursors: list[Cursor]) -> list[Any]:
        """Return what `LOOK` does for each; it may be a `ResponseError`."""
        head = room_arguments(self._shared.history_length)
        commands: list[Command] = []
        for cursor in cursors:
            keys, may_begin = self._keys.room(cursor.room)[:4], cursor.may_begin or cursor.epoch
            look = self._shared.process, cursor.epoch, cursor.confirmed, int(bool(may_begin))
            commands.append(("EVALSHA", LOOK_SHA, 4, *keys, *head, *look))
        answers = await link.pipeline(commands) if commands else []
        raise_moved_on(answers)
        return answers

    def _has(self, cursor: Cursor) -> bool:
        return self.cursors.get(cursor.room) is cursor

    async def _look(self, link: Link) -> None:
        """Compare rooms with Redis: new and doubtful ones at once, all of them in turn."""
        cursors = [*islice(self._unsure, ROOMS_AT_ONCE)]
        for cursor in cursors:
            del self._unsure[cursor]
        cursors = [each for each in cursors if self._has(each)]
        for cursor, answer in zip(cursors, await self._compare(link, cursors), strict=True):
            if isinstance(answer, ResponseError):
                self._health.refuses("Redis refuses a room", cursor.room, answer)
                self._due.pop(cursor, None)
                self._refused[cursor] = None
            elif answer:
                self._take_look(cursor, *answer)
            else:  # there is no such room
                cursor.known.set()

    def _take_look(
        self, cursor: Cursor, epoch: bytes, last: bytes, start: bytes, seen_end: bytes, *flags: int
    ) -> None:
        is_listed, is_repaired, is_new = flags
        self._stored.add(cursor.address, is_new * EMPTY_BYTES)
        if is_repaired:
            self._health.breaks(cursor.room, CHANGED_KEYS)
        if not self._has(cursor):
            return  # it was left meanwhile
        self._rosters.note_listed(cursor.room, is_listed=is_listed == 1)
        for gap in cursor.compare(epoch.decode(), int(last), int(start), int(seen_end)):
            self._hub.deliver(gap)
        if cursor.read or cursor.told > cursor.offset:
            self._due[cursor] = cursor.told
        self._pass_on_unkept(cursor)

    async def _read(self, link: Link) -> None:
        sure = [each for each in self._due if each not in self._unsure]
        ready = [each for each in sure if not self._hub.is_full(each.room)]
        unread = [each for each in ready if not each.read][: self._count]
        for cursor in unread:  # the next time, others come first
            self._due[cursor] = self._due.pop(cursor)
        answers = await self._read_logs(link, unread) if unread else []
        for cursor, answer in zip(unread, answers, strict=True):
            if cursor in self._due:  # else it was left meanwhile
                self._take_entries(cursor, answer)
        for cursor in ready:
            if cursor in self._due:
                self._pass_on(cursor)

    async def _read_logs(self, link: Link, cursors: list[Cursor]) -> list[Any]:
        """Read messages of each room; adapt how many are read the next time."""
        count = max(1, self._count // len(cursors))
        logs = [(self._keys.room(each.room).log, each.offset + 1) for each in cursors]
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            answers = await link.pipeline(
                [("XRANGE", *each, "+", "COUNT", count) for each in logs], self._seconds
            )
        except TimeoutError:  # there may be too much for this connection
            if self._count == 1:
                self._seconds = min(2 * (self._seconds or ANSWER_SECONDS), MAX_READ_SECONDS)
            self._count = max(1, self._count // 4)
            raise
        raise_moved_on(answers)
        pages = [answer for answer in answers if not isinstance(answer, ResponseError)]
        size = sum(len(value) for page in pages for entry in page for value in entry[1])
        if clock() - began > SLOW_SECONDS or size > READ_BYTES:
            self._count = max(1, self._count // 2)
        elif any(len(page) == count for page in pages):
            self._count, self._seconds = min(READ_COUNT, 2 * self._count), 0.0
        return answers

    def _take_entries(self, cursor: Cursor, answer: Any) -> None:
        is_lost = cursor.told > cursor.offset  # where Redis had more, and has nothing now
        if isinstance(answer, ResponseError) or not (answer or is_lost):
            del self._due[cursor]
            self._doubt(cursor)
        elif answer:
            cursor.read.extend(read_entry(cursor.room, each) for each in answer)
        else:
            for gap in cursor.skip_to(cursor.told):
                self._hub.deliver(gap)

    def _pass_on(self, cursor: Cursor) -> None:
        while cursor.read and not self._hub.is_full(cursor.room):
            if cursor.read[0].message is None:
                self._health.breaks(cursor.room, "there is an entry in the log that is no message")
            for event in cursor.take():
                self._hub.deliver(event)
            if cursor.strange >= 0:
                self._doubt(cursor)
        if not cursor.read and self._due[cursor] <= cursor.offset:
            del self._due[cursor]
        self._pass_on_unkept(cursor)

    def _pass_on_unkept(self, cursor: Cursor) -> None:
        """Pass on messages that are not kept, as far as their senders' earlier ones are there."""
        while cursor.unkept and cursor not in self._unsure:
            epoch, offset, message = cursor.unkept[0]
            if epoch == cursor.epoch and offset > cursor.offset:
                return
            cursor.unkept.popleft()
            if not self._hub.is_full(cursor.room):
                self._hub.deliver(message)

    async def _find_closed(self, link: Link, started_at: float) -> None:
        """Set the position from which subjects are read, after a connect.

        Where reading stopped, and at first the start of this process. If the stream ends before
        that, Redis has lost a part of it: then `LOST_SECONDS` ago.
        """
        self._has_closed = True
        seconds = int(asyncio.get_running_loop().time() - started_at)
        if self._closed:
            rest = ("XRANGE", self._keys.closed, self._closed, "+", "COUNT", 1)
            (found,) = await link.pipeline([rest])
            if found and not isinstance(found, ResponseError):
                return
            seconds = LOST_SECONDS
        now, _ = await link.request("TIME")
        self._closed = b"%d-0" % (1000 * max(0, int(now) - seconds - 1))

    async def _read_closed(self, link: Link, close_subject: CloseSubject) -> None:
        while self._has_closed:
            self._has_closed = False
            stream = self._keys.closed
            (answer,) = await link.pipeline(
                [("XREAD", "COUNT", 1000, "STREAMS", stream, self._closed)]
            )
            raise_moved_on([answer])
            if isinstance(answer, ResponseError):
                self._health.breaks(stream, explain(answer))
                if str(answer).startswith("WRONGTYPE"):
                    await link.pipeline([("DEL", stream)])
                return
            for id, fields in answer[0][1] if answer else ():
                self._closed, self._has_closed = id, True
                if subject := read_subject(fields):
                    close_subject(subject)
                else:
                    self._health.breaks(stream, "there is an entry that names no subject")


def read_subject(fields: list[bytes]) -> str:
    """Return the subject that an entry of the stream names; empty if it is none of ours."""
    try:
        return fields[1].decode() if fields[:1] == [b"subject"] else ""
    except UnicodeDecodeError:
        return ""


def close_command(keys: Keys, subject: str) -> Command:
    """Return the command that asks every process to close a subject's connections."""
    change = ("XADD", "MAXLEN", "~", MAX_CLOSED, "*", "subject", subject)
    return change_command(keys.closed, KEEP_SECONDS, (keys.closed, ""), *change)
