"""A room of this process: its subscribers, and the events that are pending for them."""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

from .batch import Batch, EncodedEvent
from .formats import EVENTS, TEXT, RoomFormat
from .subscriber import Subscriber

SUBSCRIBERS_PER_TURN = 200
"""Subscribers that are served before other tasks get their turn: less than a millisecond."""
MAX_ROOM_EVENTS = 256
"""Publishers wait above this many pending events of a room."""
MAX_ROOM_BYTES = 256 * 1024
"""Publishers wait above this many pending bytes of a room."""


class Share(NamedTuple):
    """A batch, some of the subscribers that it is for, and from which event on, if not all."""

    batch: Batch
    subscribers: set[Subscriber]
    first: dict[Subscriber, int]


class Room:
    """The subscribers of a room, by format, and the events that are pending for them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscribers: dict[RoomFormat, set[Subscriber]] = {TEXT: set(), EVENTS: set()}
        self.pending: list[EncodedEvent] = []
        self.pending_bytes = 0
        self.since = 0.0  # when the first of what is pending came
        self.late: dict[Subscriber, int] = {}  # how much was pending already when they came
        self.taken = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self.subscribers.values()))

    @property
    def is_full(self) -> bool:
        """Whether publishers must wait for the next fan-out."""
        return len(self.pending) >= MAX_ROOM_EVENTS or self.pending_bytes >= MAX_ROOM_BYTES

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber, for events that are published from now on."""
        self.subscribers[subscriber.format].add(subscriber)
        if self.pending:
            self.late[subscriber] = len(self.pending)

    def discard(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, if it is still here."""
        self.subscribers[subscriber.format].discard(subscriber)

    def append(self, event: EncodedEvent) -> None:
        """Add an event to the next fan-out."""
        self.pending_bytes += len(event)  # raises for an event that can't be encoded
        self.pending.append(event)

    def take(self) -> Iterator[Share]:
        """Take what is pending, and yield it in shares; publishers may go on meanwhile."""
        events, late = self.pending, self.late
        self.pending, self.late, self.pending_bytes = [], {}, 0
        self.taken.set()
        self.taken = asyncio.Event()
        present = {format: list(members) for format, members in self.subscribers.items()}
        for format, subscribers in present.items():
            batch = Batch(events, format) if subscribers else None
            if batch is not None and batch.count:
                yield from self._shares(batch, subscribers, late)

    def _shares(
        self, batch: Batch, subscribers: list[Subscriber], late: dict[Subscriber, int]
    ) -> Iterator[Share]:
        for start in range(0, len(subscribers), SUBSCRIBERS_PER_TURN):
            some = subscribers[start : start + SUBSCRIBERS_PER_TURN]
            still_here = self.subscribers[some[0].format].intersection(some)
            yield Share(batch, still_here, late)
