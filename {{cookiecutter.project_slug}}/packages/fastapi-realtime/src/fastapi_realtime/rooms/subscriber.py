"""Subscribers: write batches of events to uvicorn's transport, or to a queue that is sent by ASGI."""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from itertools import accumulate

from fastapi import WebSocketDisconnect

from ..connection import Connection
from ..server.fast_path import server_frame
from .events import EVENTS, PresenceEvent, PresentEvent, RoomEvent, RoomFormat, format_of

AFTER_ALL = 2**63
"""The offset of a `gap`. It is above all others, since lower offsets may follow a gap."""


class EncodedEvent:
    """An event and its frames, one for each format in use.

    `sender` is the id of the subscriber that sent it. `offset` is that of a message in its room;
    a gap has `AFTER_ALL`, other events 0.
    """

    __slots__ = ("_event", "_frames", "offset", "room", "sender")

    def __init__(self, event: RoomEvent, sender: str = "", offset: int = 0) -> None:
        self.room = event.room
        self.sender = sender
        self.offset = offset
        self._event = event
        self._frames: dict[RoomFormat, bytes] = {}

    @property
    def is_presence(self) -> bool:
        """Whether it is about members: `joined`, `left` or `present`."""
        return isinstance(self._event, PresenceEvent | PresentEvent)

    def frame(self, format: RoomFormat) -> bytes:
        """Return the event as a server frame; empty if the format leaves it out."""
        frame = self._frames.get(format)
        if frame is None:
            text = self._encode(format)
            frame = b"" if text is None else server_frame(text, is_text=True)
            self._frames[format] = frame
        return frame

    def __len__(self) -> int:
        """Return the size of its JSON frame, in bytes; no other form is longer."""
        return len(self.frame(EVENTS))

    def _encode(self, format: RoomFormat) -> bytes | None:
        return format.encode(self._event)


class Batch:
    """Events in one format that are sent together; all subscribers share the bytes."""

    def __init__(self, events: list[EncodedEvent], format: RoomFormat) -> None:
        self.events = events
        self._frames = [event.frame(format) for event in events]
        self._starts = [0, *accumulate(map(len, self._frames))]
        self.data = b"".join(self._frames)
        self.count = sum(map(bool, self._frames))
        self.senders = frozenset([event.sender for event in events])

    def pieces(self, subscriber_id: str, first: int) -> list[memoryview]:
        """Return the bytes from event `first` on, without the subscriber's own events.

        The pieces are views of the shared bytes, as few as possible.
        """
        bounds = [self._starts[first]]
        for index in range(first, len(self.events)):
            if self.events[index].sender == subscriber_id:
                bounds += self._starts[index : index + 2]
        bounds.append(self._starts[-1])
        data = memoryview(self.data)
        pieces = [data[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
        return [piece for piece in pieces if piece]

    def frames(self, subscriber_id: str, first: int) -> list[bytes]:
        """Return the frames from event `first` on, without the subscriber's own events."""
        pairs = zip(self.events[first:], self._frames[first:], strict=True)
        return [frame for event, frame in pairs if frame and event.sender != subscriber_id]


class Subscriber(ABC):
    """A connection in a room. Events are held until `start`, so that missed ones come first."""

    __slots__ = (
        "_held",
        "_max_backlog_bytes",
        "_replayed",
        "connection",
        "format",
        "id",
        "replaying",
        "room",
        "unread",
    )

    def __init__(self, room: str, connection: Connection, max_backlog_bytes: int) -> None:
        self.id = connection.id
        self.room = room
        self.connection = connection
        self.format = format_of(connection)
        self.unread = 0  # unread bytes, as of the last write
        self.replaying = 0  # bytes of missed messages that are being sent
        self._max_backlog_bytes = max_backlog_bytes
        self._held: list[EncodedEvent] | None = []
        self._replayed = 0

    def put(self, batch: Batch, first: int = 0) -> bool:
        """Send a batch from event `first` on; never waits. Return `False` if too much is unread.

        A large batch alone never disconnects a member; unread earlier data does.
        """
        if self._held is None:
            return self._write_new(batch, first) if self._replayed else self._write(batch, first)
        self._held += batch.events[first:]
        self.unread += len(batch.data)
        return self.unread <= self._max_backlog_bytes

    def start(self, replayed: int = 0, present: PresentEvent | None = None) -> None:
        """Send the held events and stop holding; skip messages up to the offset `replayed`.

        `present` is sent first, and replaces held events about members, which are older.
        """
        held, self._held, self.unread, self.replaying = self._held, None, 0, 0
        self._replayed = replayed
        if present is not None:
            others = [each for each in held or () if not each.is_presence]
            held = [EncodedEvent(present), *others]
        if held:
            self.put(Batch(held, self.format))

    def _write_new(self, batch: Batch, first: int) -> bool:
        """Send a batch without replayed messages; the first later message ends this."""
        new = []
        for event in batch.events[first:]:
            if not 0 < event.offset <= self._replayed:
                new.append(event)
                self._replayed = 0 if event.offset else self._replayed
        return self._write(Batch(new, self.format), 0) if new else True

    def measure(self) -> int:
        """Update and return the number of pending bytes."""
        return self.unread + self.replaying

    @abstractmethod
    def stop(self) -> None:
        """Stop sending."""

    @abstractmethod
    def _write(self, batch: Batch, first: int) -> bool: ...


class DirectSubscriber(Subscriber):
    """Writes frames to the transport, which buffers what the client has not read."""

    __slots__ = ("_transport",)

    def __init__(self, room: str, connection: Connection, max_backlog_bytes: int) -> None:
        super().__init__(room, connection, max_backlog_bytes)
        assert connection.transport is not None
        self._transport = connection.transport

    def measure(self) -> int:
        if self._held is None:
            self.unread = self._transport.get_write_buffer_size()
        return super().measure()

    def stop(self) -> None:
        self._held = []

    def _write(self, batch: Batch, first: int) -> bool:
        transport, connection = self._transport, self.connection
        if not connection.is_open or transport.is_closing():
            return True  # no frame may follow a close frame (RFC 6455 §5.5.1)
        self.unread = transport.get_write_buffer_size()
        if self.unread > self._max_backlog_bytes:
            return False
        if not first and self.id not in batch.senders:
            transport.write(batch.data)
            connection.bytes_out += len(batch.data)
            connection.messages_out += batch.count
            return True
        for piece in batch.pieces(self.id, first):
            transport.write(piece)
            connection.bytes_out += len(piece)
        connection.messages_out += len(batch.frames(self.id, first))
        return True


class QueuedSubscriber(Subscriber):
    """Puts frames into a queue; a task sends them through ASGI."""

    __slots__ = ("_backlog", "_sending")

    def __init__(self, room: str, connection: Connection, max_backlog_bytes: int) -> None:
        super().__init__(room, connection, max_backlog_bytes)
        self._backlog: asyncio.Queue[bytes] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send())

    def stop(self) -> None:
        self._sending.cancel()

    async def wait_sent(self) -> None:
        """Wait until the queue is empty."""
        await self._backlog.join()

    def _write(self, batch: Batch, first: int) -> bool:
        if self.unread > self._max_backlog_bytes:
            return False
        for frame in batch.frames(self.id, first):
            self._backlog.put_nowait(frame)
            self.unread += len(frame)
        return True

    async def _send(self) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                frame = await self._backlog.get()
                await self.connection.send_frame(frame)
                self.unread -= len(frame)
                self._backlog.task_done()
