"""A room in this process: its subscribers and its pending events."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from .batch import Batch, EncodedEvent
from .formats import EVENTS, TEXT, RoomFormat
from .subscriber import Subscriber

SUBSCRIBERS_PER_TURN = 200
"""Subscribers written to before other tasks run: less than a millisecond."""
MAX_ROOM_EVENTS = 256
"""Publishers wait above this many pending events of a room."""
MAX_ROOM_BYTES = 256 * 1024
"""Publishers wait above this many pending bytes of a room."""


class Share(NamedTuple):
    """A batch, and some of the subscribers to send it to."""

    batch: Batch
    subscribers: set[Subscriber]
    skip: dict[Subscriber, int]
    """Events of the batch from before a subscriber joined."""


class Room:
    """The subscribers of a room, by format, and its pending events."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribers: dict[RoomFormat, set[Subscriber]] = {TEXT: set(), EVENTS: set()}
        self.pending: list[EncodedEvent] = []
        self.pending_bytes = 0
        self.pending_since = 0.0  # loop time of the first pending event
        self.skip: dict[Subscriber, int] = {}  # events that were pending when it joined
        self.taken = asyncio.Event()  # set, and replaced, when pending events are taken

    def __len__(self) -> int:
        return sum(map(len, self.subscribers.values()))

    @property
    def is_full(self) -> bool:
        """Whether publishers must wait for the next fan-out."""
        return len(self.pending) >= MAX_ROOM_EVENTS or self.pending_bytes >= MAX_ROOM_BYTES

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber. It does not receive events that are already pending."""
        self.subscribers[subscriber.format].add(subscriber)
        if self.pending:
            self.skip[subscriber] = len(self.pending)

    def discard(self, subscriber: Subscriber) -> None:
        """Remove a subscriber if it is present."""
        self.subscribers[subscriber.format].discard(subscriber)

    def append(self, event: EncodedEvent) -> None:
        """Add an event to the next fan-out; raises for one that can't be encoded."""
        self.pending_bytes += len(event)  # encodes it, so it must come first
        self.pending.append(event)

    def take(self) -> Iterator[Share]:
        """Take all pending events, so that publishers can continue, and yield them in shares."""
        events, skip = self.pending, self.skip
        self.pending, self.skip, self.pending_bytes = [], {}, 0
        self.taken.set()
        self.taken = asyncio.Event()
        present = {format: list(members) for format, members in self.subscribers.items()}
        for format, subscribers in present.items():
            batch = Batch(events, format) if subscribers else None
            if batch is not None and batch.count:
                yield from self._shares(batch, subscribers, skip)

    def _shares(
        self, batch: Batch, subscribers: list[Subscriber], skip: dict[Subscriber, int]
    ) -> Iterator[Share]:
        for start in range(0, len(subscribers), SUBSCRIBERS_PER_TURN):
            some = subscribers[start : start + SUBSCRIBERS_PER_TURN]
            present = self.subscribers[some[0].format].intersection(some)
            yield Share(batch, present, skip)
