"""Who is in a room, and what its members are told of it."""

import asyncio
from collections import Counter
from collections.abc import Callable

from .batch import EncodedEvent
from .events import PresenceEvent, Present, PresentEvent, PresentMember

COUNT_SECONDS = 1.0
"""Seconds between two counts of the members of a room that has too many to name."""


class Roster:
    """The connections in a room, and the sender of each."""

    __slots__ = ("count", "is_counted", "people", "senders", "timer")

    def __init__(self) -> None:
        self.count = 0  # senders, where not all are known here
        self.senders: dict[str, str] = {}
        self.people: Counter[str] = Counter()
        self.timer: asyncio.TimerHandle | None = None
        self.is_counted = False  # whether the last that members were told is a count

    def add(self, connection: str, sender: str) -> None:
        """Add a connection, once however often it joins."""
        self.discard(connection)
        self.senders[connection] = sender
        self.people[sender] += 1

    def discard(self, connection: str) -> bool:
        """Remove a connection, and return whether it was here."""
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
        """Return who is here, without names if there are more connections than `limit`."""
        if self.is_large(limit):
            return Present(count=self.count or len(self.people), members=[])
        connections: dict[str, list[str]] = {sender: [] for sender in self.people}
        for connection, sender in self.senders.items():
            connections[sender].append(connection)
        members = [PresentMember(sender=s, connections=c) for s, c in connections.items()]
        return Present(count=len(members), members=members)


class Presence:
    """The rosters of the rooms that have members in this process.

    A room with more than `limit` connections is sent counts, not names of who comes and goes;
    with a limit of 0, it is sent nothing.
    """

    def __init__(self, deliver: Callable[[EncodedEvent], None], limit: int) -> None:
        self._deliver = deliver
        self._limit = limit
        self._rosters: dict[str, Roster] = {}

    def present(self, room: str) -> Present:
        """Return who is in a room, without names if there are too many."""
        return self._rosters.get(room, Roster()).present(self._limit)

    def announce(self, event: PresenceEvent) -> None:
        """Note that a connection has joined or left a room, and tell the others."""
        if event.type == "joined":
            roster = self._rosters.setdefault(event.room, Roster())
            roster.add(event.connection, event.sender)
        elif not self._discard(event):
            return
        self._tell(event)

    def merge(self, room: str, gone: set[str], come: dict[str, str], count: int) -> None:
        """Take connections elsewhere for what they are, and tell nothing of each.

        With a `count` of senders, not all of them are known here; whenever it changes, members
        are told.
        """
        roster = self._rosters[room]
        for connection in gone:
            roster.discard(connection)
        for connection, sender in come.items():
            roster.add(connection, sender)
        has_changed, roster.count = roster.count != count, count
        if has_changed and roster.timer is None and self._limit:
            self._tell_soon(room, roster)

    def forget(self, room: str) -> None:
        """Forget a room that has no members here any more."""
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

    def _tell(self, event: PresenceEvent) -> None:
        roster = self._rosters.get(event.room)
        if roster is None or roster.timer is not None or not self._limit:
            return
        if roster.is_large(self._limit) or roster.is_counted:
            self._tell_soon(event.room, roster)
        else:
            self._deliver(EncodedEvent(event, event.connection))

    def _tell_soon(self, room: str, roster: Roster) -> None:
        loop = asyncio.get_running_loop()
        roster.timer = loop.call_later(COUNT_SECONDS, self._tell_count, room, roster)

    def _tell_count(self, room: str, roster: Roster) -> None:
        present = roster.present(self._limit)
        roster.timer, roster.is_counted = None, not present.members
        self._deliver(EncodedEvent(PresentEvent(room=room, **dict(present))))
