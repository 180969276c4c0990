"""What one process keeps of its rooms: the broker for a single one, histories, and who is there."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import NamedTuple

from .access import Profile
from .broker import FOREIGN_LOOP, CloseSubject, NotePresence, Replay
from .events import (
    EVENTS,
    AppendEvent,
    EncodedEvent,
    LoggedEvent,
    PresenceEvent,
    Present,
    PresentEvent,
    PresentMember,
)
from .hub import Hub

MAX_BYTES = 64 * 1024 * 1024
"""Maximum memory of the histories of all rooms, in bytes."""
MAX_ROOM_BYTES = 1024 * 1024
"""Maximum memory of the history of one room, in bytes."""
HISTORY_BYTES = 1024
"""Memory of an empty history, in bytes, without the room's name (up to 4 bytes a character)."""
MESSAGE_BYTES = 112
"""Memory of a message without its frame, in bytes."""
REF_BYTES = 200
"""Memory of a `ref` without its characters (up to 4 bytes each), in bytes."""
COUNT_SECONDS = 1.0
"""Minimum seconds between two `present` events with counts in a large room."""


class HistoryEntry(NamedTuple):
    """A kept message, and its `ref` or an empty string; or what is appended to one."""

    frame: bytes
    ref: str
    is_append: bool

    @property
    def size(self) -> int:
        """Its memory, in bytes."""
        ref_size = REF_BYTES + 4 * len(self.ref) if self.ref else 0
        return MESSAGE_BYTES + len(self.frame) + ref_size


class History:
    """The latest messages of a room, with consecutive offsets.

    A position, also used as a message's id, is `<epoch>-<offset>`. The epoch is random, so a
    position of an earlier history of the room is recognized as unknown.
    """

    def __init__(self, room: str = "") -> None:
        self.epoch = token_hex(4)
        self.offset = 0
        self.messages = 0  # without what is appended to them
        self.members = 0
        self.size = HISTORY_BYTES + 4 * len(room)
        self._entries: deque[HistoryEntry] = deque()
        self._ids: dict[str, str] = {}  # by ref

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> str:
        """The id of the last message."""
        return f"{self.epoch}-{self.offset}"

    @property
    def next_id(self) -> str:
        """The id of the next message."""
        return f"{self.epoch}-{self.offset + 1}"

    def find(self, ref: str) -> str:
        """Return the id of the kept message with this `ref`, or an empty string."""
        return self._ids.get(ref, "")

    def append(self, frame: bytes, ref: str = "", *, is_append: bool = False) -> None:
        """Keep the message with the current offset."""
        entry = HistoryEntry(frame, ref, is_append)
        self._entries.append(entry)
        self.messages += not is_append
        self.size += entry.size
        if ref:
            self._ids[ref] = self.position

    def drop_oldest(self) -> int:
        """Drop the oldest kept message, and what follows up to the next one; return bytes freed."""
        before, is_first = self.size, True
        while self._entries and (is_first or self._entries[0].is_append):
            entry, is_first = self._entries.popleft(), False
            self._ids.pop(entry.ref, None)
            self.messages -= not entry.is_append
            self.size -= entry.size
        return before - self.size

    def since(self, position: str) -> Replay:
        """Return the messages after a position; if some are lost, all that are kept."""
        missed = self._count_after(position)
        is_complete = 0 <= missed <= len(self._entries)
        entries = [*self._entries][len(self._entries) - missed if is_complete else 0 :]
        frames = [entry.frame for entry in entries]
        return Replay(frames, self.offset if frames else 0, is_complete, self.position)

    def latest(self, count: int) -> Replay:
        """Return the latest messages, as many as are kept, and what was appended since."""
        frames: deque[bytes] = deque()
        for entry in reversed(self._entries):
            if not count:
                break
            frames.appendleft(entry.frame)
            count -= not entry.is_append
        return Replay([*frames], self.offset if frames else 0, True, self.position)

    def _count_after(self, position: str) -> int:
        """Return the number of messages after a position; negative if it is unknown."""
        epoch, _, offset = position.partition("-")
        if epoch != self.epoch or not (offset.isdecimal() and len(offset) < 20):
            return -1
        return self.offset - int(offset)


@dataclass(slots=True, eq=False)
class Roster:
    """The connections in a room, and the sender of each."""

    count: int = 0  # senders, if this process does not know all connections; else 0
    senders: dict[str, str] = field(default_factory=dict)  # by connection
    profiles: dict[str, Profile] = field(default_factory=dict)  # by sender
    people: Counter[str] = field(default_factory=Counter)  # connections of each sender
    timer: asyncio.TimerHandle | None = None
    is_counted: bool = False  # whether the last event to members was a count

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
            self.profiles.pop(sender, None)
        return True

    def record(self, event: PresenceEvent) -> bool | None:
        """Record a join or leave; return whether it is the first or last of its sender.

        Returns `None` if nothing has changed.
        """
        if event.type == "left":
            return event.sender not in self.people if self.discard(event.connection) else None
        self.add(event.connection, event.sender)
        if event.profile is not None:
            self.profiles[event.sender] = event.profile
        return self.people[event.sender] == 1

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
        profile = self.profiles.get
        members = [
            PresentMember(sender=sender, connections=each, profile=profile(sender))
            for sender, each in connections.items()
        ]
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

    def announce(self, event: PresenceEvent) -> bool:
        """Record a join or leave, and notify the other members.

        Return whether it is the first or last of its sender in the room.
        """
        roster = self._rosters.setdefault(event.room, Roster())
        is_first_or_last = roster.record(event)
        if not roster.senders:
            self.forget(event.room)
        elif is_first_or_last is not None and roster.timer is None and self._limit:
            if roster.is_large(self._limit) or roster.is_counted:
                self._schedule_count(event.room, roster)
            else:
                self._deliver(EncodedEvent(event, event.connection))
        return is_first_or_last is True

    def merge(
        self,
        room: str,
        left: set[str],
        joined: dict[str, str],
        count: int,
        profiles: dict[str, Profile],
    ) -> None:
        """Update the connections of other processes, without an event for each.

        A `count` above 0 is the number of senders in a room too large to list; members are
        notified when it changes.
        """
        roster = self._rosters[room]
        for connection in left:
            roster.discard(connection)
        for connection, sender in joined.items():
            roster.add(connection, sender)
        roster.profiles |= {each: profiles[each] for each in profiles if each in roster.people}
        has_changed, roster.count = roster.count != count, count
        if has_changed and roster.timer is None and self._limit:
            self._schedule_count(room, roster)

    def forget(self, room: str) -> None:
        """Forget a room that has no more members in this process."""
        roster = self._rosters.pop(room, None)
        if roster is not None and roster.timer is not None:
            roster.timer.cancel()

    def _schedule_count(self, room: str, roster: Roster) -> None:
        loop = asyncio.get_running_loop()
        roster.timer = loop.call_later(COUNT_SECONDS, self._send_count, room, roster)

    def _send_count(self, room: str, roster: Roster) -> None:
        present = roster.present(self._limit)
        roster.timer, roster.is_counted = None, not present.members
        self._deliver(EncodedEvent(PresentEvent(room=room, **dict(present))))


class MemoryBroker:
    """Carries events within this process; `Broker` says what its methods do.

    Keeps up to `history_length` messages and `MAX_ROOM_BYTES` of each room, and `max_bytes` of
    all rooms together. When that is full, rooms without members are dropped, least recently used
    first. After that, a room drops its own old messages for new ones, or does not keep the new
    ones. A room never evicts messages of another room that has members.
    """

    def __init__(
        self, hub: Hub, history_length: int, presence_limit: int = 100, max_bytes: int = MAX_BYTES
    ) -> None:
        self.presence_limit = presence_limit
        self._note_presence: NotePresence | None = None
        self.is_ready = True
        self._hub = hub
        self._presence = Presence(hub.deliver, presence_limit)
        self._history_length = history_length
        self._bytes_left = max_bytes
        self._histories: dict[str, History] = {}
        self._vacant: OrderedDict[str, None] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def lifespan(
        self, close_subject: CloseSubject, note_presence: NotePresence | None = None
    ) -> AsyncGenerator[None]:
        """Bind to the running event loop; without this, the first publish or join does."""
        self._loop = asyncio.get_running_loop()
        self._note_presence = note_presence
        yield

    async def publish(
        self,
        event: LoggedEvent,
        origin: str = "",
        ref: str = "",
        address: str = "",
        *,
        keep: bool = True,
    ) -> str:
        """Publish; wait while the room has too much pending.

        Raises `RuntimeError` outside of the application's event loop.
        """
        self._check_loop()
        await self._hub.wait_ready(event.room)
        if not keep:
            self._hub.deliver(EncodedEvent(event, origin))
            return ""
        history = self._history(event.room)
        if ref and (known := history.find(ref)):
            return known
        event.id = id = history.next_id
        encoded = EncodedEvent(event, origin, history.offset + 1)
        frame = encoded.frame(EVENTS)  # raises for data that has no JSON form
        history.offset += 1
        if self._history_length:
            self._keep(event.room, frame, ref, isinstance(event, AppendEvent))
        self._hub.deliver(encoded)
        return id

    async def announce(self, event: PresenceEvent) -> None:
        is_first_or_last = self._presence.announce(event)
        if is_first_or_last and self._note_presence:
            self._note_presence(event)

    async def present(self, room: str) -> Present:
        return self._presence.present(room)

    async def close_subject(self, subject: str) -> None:
        """Do nothing: there are no other processes."""

    async def replay(self, room: str, since: str, address: str = "", last: int = 0) -> Replay:
        history = self._histories.get(room, History())
        return history.latest(last) if last else history.since(since)

    async def enter(self, room: str, address: str = "") -> str:
        self._check_loop()
        history = self._history(room)
        history.members += 1
        self._vacant.pop(room, None)
        return history.position

    def leave(self, room: str) -> None:
        self._histories[room].members -= 1
        if not self._histories[room].members:
            self._vacant[room] = None

    async def flush(self) -> None:
        """Return at once: `publish` passes messages to the hub directly."""

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError(FOREIGN_LOOP)

    def _history(self, room: str) -> History:
        history = self._histories.get(room)
        if history is None:
            history = self._histories[room] = History(room)
            self._bytes_left -= history.size
            self._vacant[room] = None
            self._forget_vacant(but=room)
        return history

    def _keep(self, room: str, frame: bytes, ref: str, is_append: bool) -> None:
        history = self._histories[room]
        before = history.size
        history.append(frame, ref, is_append=is_append)
        limit = HISTORY_BYTES + MAX_ROOM_BYTES
        while history.messages > self._history_length or history.size > limit:
            history.drop_oldest()
        self._bytes_left += before - history.size
        if room in self._vacant:
            self._vacant.move_to_end(room)
        self._forget_vacant(but=room)
        while self._bytes_left < 0 and history.size > before:  # only its own growth counts
            self._bytes_left += history.drop_oldest()

    def _forget_vacant(self, but: str) -> None:
        """Drop rooms without members until there is space, but not the room `but`."""
        while self._bytes_left < 0 and next(iter(self._vacant), but) != but:
            room, _ = self._vacant.popitem(last=False)
            self._bytes_left += self._histories.pop(room).size
