"""Presence: who is in a room, and `joined`, `left` and `present` events."""

import asyncio
from collections import Counter
from collections.abc import Callable

from .events import PresenceEvent, Present, PresentEvent, PresentMember
from .subscriber import EncodedEvent

COUNT_SECONDS = 1.0
"""Minimum seconds between two `present` events with counts in a large room."""


class Roster:
    """The connections in a room, and the sender of each."""

    __slots__ = ("count", "is_counted", "people", "senders", "timer")

    def __init__(self) -> None:
        self.count = 0  # senders, if this process does not know all connections; else 0
        self.senders: dict[str, str] = {}  # by connection
        self.people: Counter[str] = Counter()  # connections of each sender
        self.timer: asyncio.TimerHandle | None = None
        self.is_counted = False  # whether the last event to members was a count

    def add(self, connection: str, sender: str) -> None:
        """Add a connection, or replace its sender."""
        self.discard(connection)
        self.senders[connection] = sender
        self.people[sender] += 1

    def discard(self, connection: str) -> bool:
        """Remove a connection; return whether it was present."""
        sender = self.senders.pop(connection, None)
        if sender is None:
            return False
        self.people[sender] -= 1
        if not self.people[sender]:
            del self.people[sender]
        return True

    def is_large(self, limit: int) -> bool:
        """Return whether there are more connections than `limit`."""
        return self.count > 0 or len(self.senders) > limit

    def present(self, limit: int) -> Present:
        """Return who is present; above `limit` connections, only the count."""
        if self.is_large(limit):
            return Present(count=self.count or len(self.people), members=[])
        connections: dict[str, list[str]] = {sender: [] for sender in self.people}
        for connection, sender in self.senders.items():
            connections[sender].append(connection)
        members = [PresentMember(sender=s, connections=c) for s, c in connections.items()]
        return Present(count=len(members), members=members)


class Presence:
    """The rosters of the rooms that have members in this process.

    A room with more than `limit` connections gets counts instead of joins and leaves. With a
    limit of 0, rooms get neither.
    """

    def __init__(self, deliver: Callable[[EncodedEvent], None], limit: int) -> None:
        self._deliver = deliver
        self._limit = limit
        self._rosters: dict[str, Roster] = {}

    def present(self, room: str) -> Present:
        """Return who is in a room; above the limit, only the count."""
        return self._rosters.get(room, Roster()).present(self._limit)

    def announce(self, event: PresenceEvent) -> None:
        """Record that a connection has joined or left a room, and notify the other members."""
        if event.type == "joined":
            roster = self._rosters.setdefault(event.room, Roster())
            roster.add(event.connection, event.sender)
        elif not self._discard(event):
            return
        self._notify(event)

    def merge(self, room: str, left: set[str], joined: dict[str, str], count: int) -> None:
        """Update the connections of other processes, without an event for each.

        A `count` above 0 is the number of senders in a room too large to list; members are
        notified when it changes.
        """
        roster = self._rosters[room]
        for connection in left:
            roster.discard(connection)
        for connection, sender in joined.items():
            roster.add(connection, sender)
        has_changed, roster.count = roster.count != count, count
        if has_changed and roster.timer is None and self._limit:
            self._schedule_count(room, roster)

    def forget(self, room: str) -> None:
        """Forget a room that has no more members in this process."""
        roster = self._rosters.pop(room, None)
        if roster is not None and roster.timer is not None:
            roster.timer.cancel()

    def _discard(self, event: PresenceEvent) -> bool:
        roster = self._rosters.get(event.room)
        if roster is None or not roster.discard(event.connection):
            return False
        if not roster.senders:
            self.forget(event.room)
        return True

    def _notify(self, event: PresenceEvent) -> None:
        roster = self._rosters.get(event.room)
        if roster is None or roster.timer is not None or not self._limit:
            return
        if roster.is_large(self._limit) or roster.is_counted:
            self._schedule_count(event.room, roster)
        else:
            self._deliver(EncodedEvent(event, event.connection))

    def _schedule_count(self, room: str, roster: Roster) -> None:
        loop = asyncio.get_running_loop()
        roster.timer = loop.call_later(COUNT_SECONDS, self._send_count, room, roster)

    def _send_count(self, room: str, roster: Roster) -> None:
        present = roster.present(self._limit)
        roster.timer, roster.is_counted = None, not present.members
        self._deliver(EncodedEvent(PresentEvent(room=room, **dict(present))))
