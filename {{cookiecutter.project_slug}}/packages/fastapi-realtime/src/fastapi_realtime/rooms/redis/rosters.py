"""Presence across processes: who is in a room."""

import asyncio
import logging
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError
from redis.exceptions import ResponseError

from ..access import Profile
from ..broker import BrokerUnavailable, NotePresence
from ..events import PresenceEvent, Present
from ..hub import Hub
from ..memory import COUNT_SECONDS, Presence, Roster
from .connection import CHANGED_KEYS, PATIENCE, Commands, Shared, explain
from .scripts import (
    BEAT_SHA,
    COUNT_SHA,
    EMPTY_SECONDS,
    KEEP_SECONDS,
    SENT_SECONDS,
    Command,
    change_command,
)

logger = logging.getLogger(__name__)

MAX_ROOMS = 100
"""Maximum rooms to store, and maximum to fetch, in one round trip."""
RETRY_SECONDS = 0.5
"""Seconds from a failure to the next attempt."""
PROCESS_SECONDS = 8
"""Seconds without a heartbeat after which a process is dead."""
LOST_SECONDS = 2.0
"""Seconds in which all processes notice that Redis has lost a roster."""
GRACE_SECONDS = 13.0
"""Seconds after an outage of Redis in which no process counts as dead."""

PROCESS = re.compile(b"[0-9a-f]{8}")

Mode = Literal["change", "restore", "remove"]


class Members(BaseModel, extra="forbid"):
    """The members of a room in one process, as they are in Redis."""

    senders: dict[str, str] = {}  # by connection
    profiles: dict[str, Profile] = {}  # by sender
    count: int = Field(0, ge=0, lt=2**31)  # of senders, if there are too many to list


@dataclass(slots=True, eq=False)
class RoomView:
    """What this process knows of a room with members here."""

    here: Roster = field(default_factory=Roster)
    elsewhere: dict[str, str] | None = None  # senders; `None` if not known, or too many to list
    processes: set[str] = field(default_factory=set)  # the others with members
    known: asyncio.Event = field(default_factory=asyncio.Event)  # set once the roster was fetched
    next_at: float = 0.0  # loop time; large rosters are fetched less often


class Count(NamedTuple):
    """What the script `COUNT` is told about a process and a room."""

    room: str
    process: str
    mode: Mode
    number: int
    changes: list[str]
    """`joined` or `left`, and a sender, in turn."""


class Senders:
    """Counts in Redis in which processes a sender is in a room, for `on_join` and `on_leave`.

    The process that changes it so that a sender is in none, or no longer in none, calls the hook.
    Redis also has a set of the rooms of each process. When it dies, each of the others removes it
    from these; the first one calls the hooks.
    """

    def __init__(
        self,
        shared: Shared,
        commands: Commands,
        here: dict[str, RoomView],
        wake: Callable[[], None],
    ) -> None:
        """`here` are the rooms with members in this process."""
        self.note_presence: NotePresence | None = None
        self._own = shared.process
        self._keys = shared.keys
        self._health = shared.health
        self._commands = commands
        self._here = here
        self._wake = wake
        self._number = 0
        self._queue: dict[tuple[str, str, Mode], list[str]] = {}
        self._batch: dict[str, Count] = {}  # by room; sent, and perhaps done
        self._dead: set[str] = set()  # processes whose rooms are to be found

    @property
    def is_busy(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue or self._batch or self._dead)

    def change(self, event: PresenceEvent) -> None:
        """Count a sender whose first connection to this process has joined, or last has left."""
        self._add(event.room, self._own, "change", event.type, event.sender)

    def restore(self, room: str) -> None:
        """Count all again: Redis may have lost some, or others have taken this process for dead."""
        self._add(room, self._own, "restore")

    def restore_all(self) -> None:
        """Do that for all rooms, also those that this process has left."""
        for room in self._here:
            self.restore(room)
        self.find({self._own})

    def remove(self, room: str, process: str) -> None:
        """Count all senders of a process as left."""
        self._add(room, process, "remove")

    def find(self, processes: set[str]) -> None:
        """Remove dead processes from all their rooms; this one only from those it has left."""
        if self.note_presence is not None and processes:
            self._dead |= processes
            self._wake()

    async def exchange(self) -> None:
        """Send what is to count; raises `BrokerUnavailable`, and is then repeated."""
        await self._find_rooms()
        if not self._batch:
            self._fill()
        if not self._batch:
            return
        counts = [*self._batch.values()]
        own, here = self._keys.rooms(self._own), self._batch.keys() & self._here.keys()
        known: list[Command] = [("SADD", own, *here), ("EXPIRE", own, KEEP_SECONDS)] if here else []
        left: list[Command] = [
            ("SREM", self._keys.rooms(each.process), each.room)
            for each in counts
            if each.process != self._own or each.room not in here
        ]
        answers = await self._commands.run(*known, *map(self._command, counts), *left)
        self._batch, failed = {}, False
        for count, answer in zip(counts, answers[len(known) :], strict=False):
            if isinstance(answer, ResponseError):
                self._health.breaks(count.room, explain(answer))
                key, failed = count[:3], True
                self._queue = {key: count.changes + self._queue.pop(key, [])} | self._queue
            else:
                self._take_answer(count.room, *answer)
        if failed:
            raise BrokerUnavailable

    def _take_answer(self, room: str, is_repaired: int, *told: bytes) -> None:
        if is_repaired:
            self._health.breaks(room, CHANGED_KEYS)
            self.restore(room)
        for kind, name in zip(told[::2], told[1::2], strict=True):
            sender = name.decode(errors="replace")  # another program may have written it
            if self.note_presence is not None:
                self.note_presence(
                    PresenceEvent.model_construct(type=kind.decode(), room=room, sender=sender)
                )

    def _add(self, room: str, process: str, mode: Mode, *change: str) -> None:
        if self.note_presence is not None:
            self._queue.setdefault((room, process, mode), []).extend(change)
            self._wake()

    def _fill(self) -> None:
        """Take a batch from the queue, with one count for each room."""
        for room, process, mode in [*self._queue]:
            if room in self._batch or len(self._batch) >= MAX_ROOMS:
                continue
            changes = self._queue.pop((room, process, mode))
            if mode == "restore":
                people = self._here[room].here.people if room in self._here else ()
                later = self._queue.get((room, process, "change"), [])[1::2]
                kinds = dict.fromkeys(people, "joined") | dict.fromkeys(later, "later")
                changes = [part for sender, kind in kinds.items() for part in (kind, sender)]
            self._number += 1
            self._batch[room] = Count(room, process, mode, self._number, changes)

    def _command(self, count: Count) -> Command:
        room, process, mode, number, changes = count
        keys = self._keys.room(room)
        names = keys.senders, keys.counted(self._own), keys.removed(process)
        rest = number, process, mode, KEEP_SECONDS, SENT_SECONDS, *changes
        return ("EVALSHA", COUNT_SHA, 3, *names, *rest)

    async def _find_rooms(self) -> None:
        while self._dead:
            process = next(iter(self._dead))
            key = self._keys.rooms(process)
            (rooms,) = await self._commands.run(("SMEMBERS", key))
            self._dead.discard(process)
            if isinstance(rooms, ResponseError):
                self._health.breaks(key, explain(rooms))
                await self._commands.run(("DEL", key))
                rooms = []
            for name in rooms:
                room = name.decode(errors="replace")
                if process != self._own:
                    self.remove(room, process)
                elif room not in self._here:
                    self.restore(room)
            if not rooms and process != self._own:
                await self._commands.run(("ZREM", self._keys.processes, process))


class Rosters:
    """Stores joins and leaves of this process in Redis, and notifies members of those in others.

    Redis has a hash for each room, with one field for each process: its `Members` as JSON. A
    process that changes its field notifies the others, which fetch the hash and notify their
    members of the differences. Missed notices and data that Redis has lost are found when rooms
    are compared.
    """

    def __init__(self, shared: Shared, hub: Hub, commands: Commands, limit: int) -> None:
        """Rooms with more than `limit` connections get counts instead of names."""
        self._own = shared.process.encode()  # the field of this process
        self._keys = shared.keys
        self._health = shared.health
        self._presence = Presence(hub.deliver, limit)
        self._commands = commands
        self._limit = limit
        self._views: dict[str, RoomView] = {}
        self._requests: dict[str, float] = {}  # rooms to fetch, and the earliest loop time
        self._writes: dict[tuple[str, bytes], None] = {}  # rooms, and fields to store or delete
        self._retries: set[str] = set()  # rooms that will be stored in a while
        self._alive: set[str] = set()
        self._dead: set[str] = set()
        self._unknown: set[str] = set()  # processes in rosters that are neither
        self._trusted_at = math.inf  # loop time from which missing processes are dead
        self._restore_at = 0.0  # loop time
        self._woken = asyncio.Event()
        self.senders = Senders(shared, commands, self._views, self._woken.set)

    async def run(self) -> None:
        """Store changes and fetch rosters until cancelled."""
        while True:
            try:
                await self._exchange()
                await self.senders.exchange()
                await self._wait()
            except Exception as error:
                if not isinstance(error, BrokerUnavailable):  # a bug
                    logger.exception("failed to exchange rosters")
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Remove the members of this process from all rooms; give up after `PATIENCE` seconds."""
        own = self._own.decode()
        for room, view in self._views.items():
            self._write(room, self._own)
            for sender in view.here.people:
                event = PresenceEvent(type="left", room=room, sender=sender, connection="")
                self.senders.change(event)
        self._views.clear()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._writes or self.senders.is_busy:
                    await self._exchange()
                    await self.senders.exchange()
                await self._commands.run(("ZREM", self._keys.processes, own))

    def announce(self, event: PresenceEvent) -> None:
        """Record that a connection of this process has joined or left, and notify other members."""
        room = event.room
        view = self._views.setdefault(room, RoomView())
        is_first_or_last = view.here.record(event)
        if is_first_or_last is not None:
            self._presence.announce(event)
            self._store(room)
        if is_first_or_last:
            self.senders.change(event)
        if not view.here.senders:
            self._presence.forget(room)
            self._requests.pop(room, None)
            del self._views[room]
            view.known.set()

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable` if its roster can't be fetched."""
        view = self._views.get(room)
        if view is None:
            return await self._present_elsewhere(room)
        try:
            async with asyncio.timeout(PATIENCE):
                await view.known.wait()
        except TimeoutError:
            raise BrokerUnavailable from None
        if self._views.get(room) is not view:  # this process left the room meanwhile
            return await self.present(room)
        return self._presence.present(room)

    def note_moved(self, process: str, room: str) -> None:
        """Record that another process has changed its field."""
        if process != self._own.decode():
            self._dead.discard(process)  # it is running, perhaps again after a pause
            self._fetch(room)

    def note_listed(self, room: str, *, is_listed: bool) -> None:
        """Record whether Redis has the members of this process."""
        if room in self._views and not is_listed:
            self._restore(room)

    def ask_all(self) -> None:
        """Fetch all rosters: notices may have been missed."""
        for room in self._views:
            self._fetch(room)

    def beat_command(self) -> Command:
        """Return the heartbeat of this process."""
        own = self._own, PROCESS_SECONDS, KEEP_SECONDS
        return ("EVALSHA", BEAT_SHA, 1, self._keys.processes, *own, *self._unknown)

    def handle_beat(self, was_alive: int, *processes: list[bytes]) -> None:
        """Handle the answer. If Redis had lost this process, it may have lost others, too."""
        now = asyncio.get_running_loop().time()
        if not was_alive or self._trusted_at == math.inf:
            self._trusted_at, self._restore_at = now + GRACE_SECONDS, now
        if not was_alive:
            for room in self._views:
                self._restore(room)
        if now >= self._restore_at:
            self._restore_at = now + KEEP_SECONDS / 2  # before the keys expire
            self.senders.restore_all()
        self._alive, dead = ({*filter(None, map(read_process, each))} for each in processes)
        before, self._dead = self._dead, dead if now >= self._trusted_at else set()
        self._unknown = set()
        self.senders.find(self._dead)
        if died := self._dead - before:
            for room, view in self._views.items():
                self._remove(room, died & view.processes)

    def _restore(self, room: str) -> None:
        """Store what Redis has lost, and fetch the rest once other processes have stored theirs."""
        view = self._views[room]
        if view.known.is_set():
            view.next_at = asyncio.get_running_loop().time() + LOST_SECONDS
            self._requests[room] = view.next_at
        self._store(room)
        self.senders.restore(room)

    def note_outage(self) -> None:
        """Record an outage of Redis: until it is over, no process counts as dead."""
        self._trusted_at = math.inf

    def _remove(self, room: str, processes: set[str]) -> None:
        """Remove the members of processes from a room."""
        self._write(room, *(process.encode() for process in processes))
        for process in processes:
            self.senders.remove(room, process)

    def _write(self, room: str, *fields: bytes) -> None:
        for each in fields:
            self._writes[room, each] = None
            self._woken.set()

    def _store(self, room: str) -> None:
        self._write(room, self._own)
        self._fetch(room)

    def _fetch(self, room: str) -> None:
        if view := self._views.get(room):
            self._requests.setdefault(room, view.next_at)
            self._woken.set()

    async def _wait(self) -> None:
        self._woken.clear()
        if not self._writes and not self.senders.is_busy:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._requests.values(), default=None)):
                    await self._woken.wait()

    async def _exchange(self) -> None:
        """Make one round trip; raises `BrokerUnavailable`. What Redis rejects is retried later."""
        now = asyncio.get_running_loop().time()
        writes = [*self._writes][:MAX_ROOMS]
        fetched = [room for room, time in self._requests.items() if time <= now][:MAX_ROOMS]
        commands = [self._write_command(*each) for each in writes]
        commands += [("HGETALL", self._keys.room(room).people) for room in fetched]
        for each in writes:
            del self._writes[each]
        for room in fetched:
            del self._requests[room]
        if not commands:
            return
        try:
            answers = await self._commands.run(*commands)
        except BaseException:
            self._writes |= dict.fromkeys(writes)
            for room in fetched:
                self._fetch(room)
            raise
        rooms = [room for room, _ in writes] + fetched
        for index, (room, answer) in enumerate(zip(rooms, answers, strict=True)):
            if isinstance(answer, ResponseError):
                if str(answer).startswith("WRONGTYPE"):
                    self._health.breaks(room, CHANGED_KEYS)
                self._retry_later(room)
            elif index >= len(writes):
                self._take_people(room, answer)

    def _retry_later(self, room: str) -> None:
        if room not in self._retries:
            self._retries.add(room)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, room)

    def _retry(self, room: str) -> None:
        self._retries.discard(room)
        self._store(room)

    def _write_command(self, room: str, name: bytes) -> Command:
        """Return the command that stores or deletes a field, and notifies others."""
        view = self._views.get(room) if name == self._own else None
        change: Command = ("HDEL", name)
        if view is not None:
            change = "HSET", name, self._members(view).model_dump_json(exclude_defaults=True)
        notice = self._keys.moves, b"%b %b" % (name, room.encode())
        return change_command(self._keys.room(room).people, EMPTY_SECONDS, notice, *change)

    def _members(self, view: RoomView) -> Members:
        """Return the members in this process."""
        here = view.here
        if here.is_large(self._limit):
            return Members(count=len(here.people))
        return Members(senders=here.senders, profiles=here.profiles)

    async def _present_elsewhere(self, room: str) -> Present:
        (answer,) = await self._commands.run(("HGETALL", self._keys.room(room).people))
        if isinstance(answer, ResponseError):
            self._health.breaks(room, explain(answer))
            raise BrokerUnavailable
        people = self._read_people(room, answer)
        roster = Roster()
        named, roster.profiles, roster.count = self._sum_up(room, people, {})
        for connection, sender in (named or {}).items():
            roster.add(connection, sender)
        return roster.present(self._limit)

    def _read_people(self, room: str, answer: list[bytes]) -> dict[str, Members]:
        """Return the members in each process; delete fields that are none."""
        people: dict[str, Members] = {}
        wrong: list[bytes] = []
        for name, text in zip(answer[::2], answer[1::2], strict=True):
            members = read_members(text)
            process = read_process(name)
            if members is None or process is None:
                wrong.append(name)
            else:
                people[process] = members
        self._unknown |= people.keys() - self._alive - self._dead
        if wrong:
            self._health.breaks(room, "there is a field in its roster that is no process")
            self._write(room, *wrong)
        return people

    def _sum_up(
        self, room: str, people: dict[str, Members], here: dict[str, str]
    ) -> tuple[dict[str, str] | None, dict[str, Profile], int]:
        """Return who is elsewhere; `None` and the number of senders if there are too many to list.

        A sender with connections to several processes counts twice if one of these has too many.
        """
        dead = self._dead.intersection(people)
        self._remove(room, dead)
        rosters = [members for process, members in people.items() if process not in dead]
        named = {k: v for each in rosters for k, v in each.senders.items()}
        count = sum(each.count for each in rosters)
        if not count and len(named) + len(here) <= self._limit:
            return named, {k: v for each in rosters for k, v in each.profiles.items()}, 0
        return None, {}, count + len({*named.values(), *here.values()})

    def _take_people(self, room: str, answer: list[bytes]) -> None:
        view = self._views.get(room)
        if view is None:
            return
        people = self._read_people(room, answer)
        own = people.pop(self._own.decode(), None)
        if own is None and view.known.is_set():  # it may have lost those of others, too
            self._restore(room)
            return
        if own != self._members(view) and (room, self._own) not in self._writes:
            self._retry_later(room)
        view.processes = {*people}
        before = view.elsewhere
        view.elsewhere, profiles, count = self._sum_up(room, people, view.here.senders)
        if view.elsewhere is None:
            self._presence.merge(room, {*(before or ())}, {}, count, {})
            view.next_at = asyncio.get_running_loop().time() + COUNT_SECONDS
        elif before is None:
            self._presence.merge(room, set(), view.elsewhere, 0, profiles)
        else:
            self._announce("left", room, before, view.elsewhere, {})
            self._announce("joined", room, view.elsewhere, before, profiles)
        view.known.set()

    def _announce(
        self,
        kind: Literal["joined", "left"],
        room: str,
        some: dict[str, str],
        but: dict[str, str],
        profiles: dict[str, Profile],
    ) -> None:
        for connection, sender in some.items():
            if but.get(connection) != sender:
                who = {"sender": sender, "connection": connection, "profile": profiles.get(sender)}
                self._presence.announce(PresenceEvent(type=kind, room=room, **who))


def read_process(name: bytes) -> str | None:
    """Return the name of a process; `None` if it is none."""
    return name.decode() if PROCESS.fullmatch(name) else None


def read_members(text: bytes) -> Members | None:
    """Return the members in a field of a roster; `None` if it is none."""
    try:
        return Members.model_validate_json(text)
    except ValidationError:
        return None
