"""The hub: fans events out to the subscribers of all rooms in this process."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import WebSocketDisconnect
from opentelemetry import metrics

from ..connection import Connection
from ..errors import CloseCode
from .events import (
    EVENTS,
    TEXT,
    Batch,
    EncodedEvent,
    PresenceEvent,
    PresentEvent,
    RoomFormat,
    format_of,
)

SUBSCRIBERS_PER_TURN = 200
"""Subscribers written to before other tasks run: less than a millisecond."""
MAX_ROOM_EVENTS = 256
"""Publishers wait above this many pending events of a room."""
MAX_ROOM_BYTES = 256 * 1024
"""Publishers wait above this many pending bytes of a room."""
SHED_SECONDS = 1.0
"""Seconds to send a close frame to a member cut off by `max_pending_bytes`; then abort."""

meter = metrics.get_meter(__name__)
subscribers_cut_off = meter.create_counter(
    "websocket.members.cut_off",
    unit="{member}",
    description="Members that could not keep up with their room.",
)
fan_out = meter.create_histogram(
    "websocket.rooms.fan_out.duration",
    unit="s",
    description="From when an event is given to a room until it is written to its last member here.",
    explicit_bucket_boundaries_advisory=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5),
)


@dataclass(slots=True, eq=False)
class Hold:
    """What a subscriber must not get yet of a room that it joins: missed messages come first."""

    events: list[EncodedEvent] | None = field(default_factory=list)  # `None` once they are sent
    events_size: int = 0  # bytes
    size: int = 0  # the same, and missed messages that are being sent
    replayed: int = 0  # offset up to which the subscriber has the messages


@dataclass(slots=True, eq=False)
class Subscriber(ABC):
    """A connection in rooms. Events of a room are held until `start`."""

    connection: Connection
    _max_backlog_bytes: int
    _unflushed: set["Subscriber"]  # of the hub: those with `_pieces`
    rooms: tuple[str, ...] = ()
    _pieces: Sequence[bytes | memoryview] = ()  # of several rooms, for one write
    unread: int = 0  # unread bytes, as of the last write, and those that are held
    counted: int = 0  # of `unread`, in the sum of the hub
    _held: int = 0
    _holds: dict[str, Hold] | None = None  # by room; `None` if there are none
    id: str = field(init=False)
    format: RoomFormat = field(init=False)

    def __post_init__(self) -> None:
        self.id, self.format = self.connection.id, format_of(self.connection)

    def put(self, batch: Batch, first: int = 0) -> bool:
        """Send a batch from event `first` on; never waits. Return `False` if too much is unread.

        A large batch alone never disconnects a member; unread earlier data does. A subscriber in
        several rooms writes at the next `flush`.
        """
        hold = None if self._holds is None else self._holds.get(batch.room)
        if hold is None:
            return self._write(batch, first)
        if hold.events is None:
            return self._write_new(hold, batch, first)
        hold.events += batch.events[first:]
        hold.events_size += len(batch.data)
        self.hold(batch.room, len(batch.data))
        return hold.events_size <= self._max_backlog_bytes

    def hold(self, room: str, size: int) -> None:
        """Begin to hold the events of a room, or count more bytes that wait for `start`."""
        self._holds = self._holds or {}
        self._holds.setdefault(room, Hold()).size += size
        self._held += size
        self.unread += size

    def start(self, room: str, replayed: int = 0, present: PresentEvent | None = None) -> None:
        """Send the held events of a room and stop holding; skip messages up to `replayed`.

        `present` is sent first, and replaces held events about members, which are older.
        """
        if room not in self.rooms:
            return  # it was cut off meanwhile
        held = self.release(room)
        if replayed:
            self._holds = {room: Hold(None, replayed=replayed)} | (self._holds or {})
        if present is not None:
            about_members = PresenceEvent | PresentEvent
            others = [each for each in held if not isinstance(each.event, about_members)]
            held = [EncodedEvent(present), *others]
        if held:
            self.put(Batch(held, self.format))
            self.flush()

    @abstractmethod
    def flush(self) -> None:
        """Write what several rooms have put."""

    def release(self, room: str) -> list[EncodedEvent]:
        """Forget what is held of a room, and return it."""
        hold = (self._holds or {}).pop(room, None)
        if hold is None:
            return []
        self._holds = self._holds or None
        self._held -= hold.size
        self.unread -= hold.size
        return hold.events or []

    def _write_new(self, hold: Hold, batch: Batch, first: int) -> bool:
        """Send a batch without replayed messages; the first later message ends this."""
        new = []
        for event in batch.events[first:]:
            if not 0 < event.offset <= hold.replayed:
                new.append(event)
                hold.replayed = 0 if event.offset else hold.replayed
        if not hold.replayed:
            self.release(batch.room)
        return self._write(Batch(new, self.format), 0) if new else True

    def measure(self) -> int:
        """Update and return the number of pending bytes."""
        return self.unread

    @abstractmethod
    def stop(self) -> None:
        """Stop sending, once it is in no room."""

    @abstractmethod
    def _write(self, batch: Batch, first: int) -> bool: ...


class DirectSubscriber(Subscriber):
    """Writes frames to the transport, which buffers what the client has not read."""

    __slots__ = ()

    def measure(self) -> int:
        self.unread = self.connection.unsent_bytes + self._held
        return self.unread

    def stop(self) -> None:
        """Do nothing: the transport sends by itself."""

    def _write(self, batch: Batch, first: int) -> bool:
        connection, transport = self.connection, self.connection.transport
        assert transport is not None
        if not connection.is_open or transport.is_closing():
            return True  # no frame may follow a close frame (RFC 6455 §5.5.1)
        unsent = transport.get_write_buffer_size()
        self.unread = unsent + self._held
        if unsent > self._max_backlog_bytes:
            return False
        if not first and self.id not in batch.senders:
            connection.bytes_out += len(batch.data)
            connection.messages_out += batch.count
            if len(self.rooms) < 2:
                transport.write(batch.data)
            else:
                self._write_later(batch.data)
            return True
        pieces = batch.pieces(self.id, first)
        connection.bytes_out += sum(map(len, pieces))
        connection.messages_out += len(batch.frames(self.id, first))
        if len(self.rooms) < 2:
            transport.writelines(pieces)
        else:
            self._write_later(*pieces)
        return True

    def _write_later(self, *pieces: bytes | memoryview) -> None:
        self._pieces = [*self._pieces, *pieces]
        self._unflushed.add(self)

    def flush(self) -> None:
        pieces, self._pieces = self._pieces, ()
        self._unflushed.discard(self)
        if pieces and self.connection.is_open and self.connection.transport is not None:
            self.connection.transport.writelines(pieces)


class QueuedSubscriber(Subscriber):
    """Puts frames into a queue; a task sends them through ASGI."""

    __slots__ = ("_sending", "backlog")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.backlog: asyncio.Queue[bytes] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send())

    def stop(self) -> None:
        self.backlog.put_nowait(b"")  # the end

    def flush(self) -> None:
        """Do nothing: the task writes."""

    def _write(self, batch: Batch, first: int) -> bool:
        if not self.connection.is_open:
            return True
        if self.unread - self._held > self._max_backlog_bytes:
            return False
        for frame in batch.frames(self.id, first):
            self.backlog.put_nowait(frame)
            self.unread += len(frame)
        return True

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):
            while frame := await self.backlog.get():
                await self.connection.send_frame(frame)
                self.unread -= len(frame)
                self.backlog.task_done()


Share = tuple[Batch, set[Subscriber], dict[Subscriber, int]]
"""A batch, some of the subscribers to send it to, and how many of its events each must skip."""


class Room:
    """The subscribers of a room, by format, and its pending events."""

    def __init__(self) -> None:
        self.subscribers: dict[RoomFormat, set[Subscriber]] = {TEXT: set(), EVENTS: set()}
        self.pending: list[EncodedEvent] = []
        self.pending_bytes = 0
        self.pending_since = 0.0  # loop time of the first pending event
        self.skip: dict[Subscriber, int] = {}  # events that were pending when it joined
        self.taken = asyncio.Event()  # set, and replaced, when pending events are taken

    @property
    def is_full(self) -> bool:
        """Whether publishers must wait for the next fan-out."""
        return len(self.pending) >= MAX_ROOM_EVENTS or self.pending_bytes >= MAX_ROOM_BYTES

    def take(self) -> Iterator[Share]:
        """Take all pending events, so that publishers can continue, and yield them in shares."""
        events, skip = self.pending, self.skip
        self.pending, self.skip, self.pending_bytes = [], {}, 0
        self.taken.set()
        self.taken = asyncio.Event()
        present = {format: list(members) for format, members in self.subscribers.items()}
        for format, subscribers in present.items():
            batch = Batch(events, format) if subscribers else None
            if batch is None or not batch.count:
                continue
            for start in range(0, len(subscribers), SUBSCRIBERS_PER_TURN):
                some = subscribers[start : start + SUBSCRIBERS_PER_TURN]
                yield batch, self.subscribers[format].intersection(some), skip


class Hub:
    """Queues events for each room and writes them, joined, once per turn of the event loop.

    A slow subscriber delays nobody: with more than `max_backlog_bytes` of unread data it is cut
    off, and sees 1013 if it still reads. When all subscribers of the process together have more
    than `max_pending_bytes` unread, those with the most are cut off.
    """

    def __init__(self, max_backlog_bytes: int, max_pending_bytes: int = 2**28) -> None:
        self._max_backlog_bytes = max_backlog_bytes
        self._max_pending_bytes = max_pending_bytes
        self._unread = 0  # of all subscribers, as of the last write to each
        self._rooms: dict[str, Room] = {}
        self._busy: deque[Room] = deque()
        self._unflushed: set[Subscriber] = set()
        self._fanning_out: asyncio.Task[None] | None = None
        self.on_space: Callable[[], None] = lambda: None
        """Called when a room that was full has space again."""

    def __len__(self) -> int:
        """Return the number of rooms with subscribers."""
        return len(self._rooms)

    def subscribe(
        self, name: str, connection: Connection, subscriber: Subscriber | None = None
    ) -> Subscriber:
        """Add a connection, or its `subscriber` if it is in other rooms already, to a room.

        Events of the room are held until `Subscriber.start`.
        """
        if subscriber is None:
            kind = QueuedSubscriber if connection.transport is None else DirectSubscriber
            subscriber = kind(connection, self._max_backlog_bytes, self._unflushed)
        room = self._rooms.setdefault(name, Room())
        room.subscribers[subscriber.format].add(subscriber)
        if room.pending:
            room.skip[subscriber] = len(room.pending)
        subscriber.rooms += (name,)
        subscriber.hold(name, 0)
        return subscriber

    def unsubscribe(self, name: str, subscriber: Subscriber) -> None:
        """Remove a subscriber from a room; does nothing if it was removed before."""
        if name not in subscriber.rooms:
            return
        room = self._rooms[name]
        room.subscribers[subscriber.format].remove(subscriber)
        room.skip.pop(subscriber, None)
        if not any(room.subscribers.values()):
            del self._rooms[name]
        subscriber.release(name)
        subscriber.rooms = tuple(each for each in subscriber.rooms if each != name)
        if not subscriber.rooms:
            subscriber.stop()
            subscriber.unread = 0
        self._count(subscriber)

    def hold(self, name: str, subscriber: Subscriber, size: int) -> None:
        """Count missed messages of a room as pending, until `Subscriber.start`."""
        if name in subscriber.rooms:
            subscriber.hold(name, size)
            self._count(subscriber)
        if self._unread > self._max_pending_bytes:
            self._shed()

    def is_full(self, name: str) -> bool:
        """Return whether a room has too much pending; see `Room.is_full`."""
        room = self._rooms.get(name)
        return room is not None and room.is_full

    async def wait_ready(self, name: str) -> None:
        """Wait while a room has too much pending; see `Room.is_full`."""
        while (room := self._rooms.get(name)) is not None and room.is_full:
            await room.taken.wait()

    def deliver(self, event: EncodedEvent) -> None:
        """Queue an event for all subscribers of its room but its sender."""
        room = self._rooms.get(event.room)
        if room is None:
            return
        room.pending_bytes += len(event)  # encodes it, or raises, so it must come first
        room.pending.append(event)
        if len(room.pending) == 1:
            room.pending_since = asyncio.get_running_loop().time()
            self._busy.append(room)
        if self._fanning_out is None or self._fanning_out.done():
            self._fanning_out = asyncio.create_task(self._fan_out())

    async def flush(self) -> None:
        """Wait until everything published so far has been written to the subscribers."""
        if self._fanning_out is not None:
            await asyncio.wait([self._fanning_out])
        for subscriber in self._subscribers():
            if isinstance(subscriber, QueuedSubscriber):
                await subscriber.backlog.join()

    async def _fan_out(self) -> None:
        served, clock = 0, asyncio.get_running_loop().time
        while self._busy:
            room = self._busy.popleft()
            since, was_full = room.pending_since, room.is_full
            for batch, subscribers, skip in room.take():
                self._put(batch, subscribers, skip)
                served += len(subscribers)
                if served >= SUBSCRIBERS_PER_TURN:
                    served = 0
                    self._flush()
                    await asyncio.sleep(0)
            if was_full:
                self.on_space()
            fan_out.record(clock() - since)
        self._flush()

    def _flush(self) -> None:
        for subscriber in [*self._unflushed]:
            subscriber.flush()

    def _put(self, batch: Batch, subscribers: set[Subscriber], skip: dict[Subscriber, int]) -> None:
        """Send a batch to subscribers, and cut off those that are too slow."""
        for subscriber in subscribers:
            keeps_up = subscriber.put(batch, skip.get(subscriber, 0) if skip else 0)
            if subscriber.unread != subscriber.counted:
                self._count(subscriber)
            if not keeps_up:
                self._cut_off(subscriber)
        if self._unread > self._max_pending_bytes:
            self._shed()

    def _count(self, subscriber: Subscriber) -> None:
        """Count what a subscriber has not read now, instead of what was counted before."""
        self._unread += subscriber.unread - subscriber.counted
        subscriber.counted = subscriber.unread

    def _shed(self) -> None:
        """Cut off the subscribers with most unread bytes, until a tenth of the limit is free."""
        subscribers = sorted(self._subscribers(), key=lambda each: each.measure())
        for subscriber in subscribers:
            self._count(subscriber)
        if self._unread <= self._max_pending_bytes:
            return
        loop = asyncio.get_running_loop()
        while self._unread > 0.9 * self._max_pending_bytes:
            subscriber = subscribers.pop()
            self._cut_off(subscriber)
            loop.call_later(SHED_SECONDS, subscriber.connection.abort)

    def _cut_off(self, subscriber: Subscriber) -> None:
        for name in subscriber.rooms:
            self.unsubscribe(name, subscriber)
        subscribers_cut_off.add(1)
        reason = "could not keep up; see APP_MAX_BACKLOG_BYTES"
        subscriber.connection.close_soon(CloseCode.TRY_AGAIN_LATER, reason)

    def _subscribers(self) -> set[Subscriber]:
        groups = [each for room in self._rooms.values() for each in room.subscribers.values()]
        return set().union(*groups)
