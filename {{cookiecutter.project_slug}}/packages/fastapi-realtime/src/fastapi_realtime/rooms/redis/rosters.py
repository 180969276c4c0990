"""Presence across processes: who is in a room."""

import asyncio
import json
import logging
import math
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from redis.exceptions import ResponseError

from ..access import Profile
from ..broker import BrokerUnavailable, NotePresence
from ..events import PresenceEvent, Present
from ..hub import Hub
from ..memory import COUNT_SECONDS, Presence, Roster
from .connection import PATIENCE, Commands, Shared, explain
from .scripts import COUNT_SHA, EMPTY_SECONDS, KEEP_SECONDS, Command, change_command

logger = logging.getLogger(__name__)

MAX_ROOMS = 100
"""Maximum rooms to store, and maximum to fetch, in one round trip."""
RETRY_SECONDS = 0.5
"""Seconds from a failure to the next attempt."""
PROCESS_SECONDS = 8
"""Seconds without a heartbeat after which Redis forgets a process."""
MISSING_SECONDS = 2.0
"""Seconds that a process must be missing before it counts as dead."""
FORGET_SECONDS = 60.0
"""Seconds after which a missing process is no longer asked for, unless it is in a roster again."""
GRACE_SECONDS = 13.0
"""Seconds after an outage of Redis in which no process counts as dead."""

PROCESS = re.compile("[0-9a-f]{8}")
PROFILES = "profiles"
"""The key of the profiles in a process's field, by sender; the other keys are connections."""


@dataclass(slots=True, eq=False)
class RoomView:
    """What this process knows of a room with members here."""

    here: Roster = field(default_factory=Roster)
    elsewhere: dict[str, str] | None = None  # senders; `None` if not known, or too many to list
    processes: set[str] = field(default_factory=set)  # the others with members
    known: asyncio.Event = field(default_factory=asyncio.Event)  # set once the roster was fetched
    next_at: float = 0.0  # loop time; large rosters are fetched less often


class SenderChange(NamedTuple):
    """The first connection of a sender has joined a room in a process, or the last has left it."""

    event: PresenceEvent
    process: str
    is_news: bool = True  # else Redis had lost it


class Rosters:
    """Stores joins and leaves of this process in Redis, and notifies members of those in others.

    Redis has a hash for each room, with one field for each process: its connections, their
    senders and profiles as JSON, or the number of its senders if there are too many to list. A
    process that changes its field notifies the others, which fetch the hash and notify their
    members of the differences. Missed notices and data that Redis has lost are found when rooms
    are compared.
    """

    def __init__(self, shared: Shared, hub: Hub, commands: Commands, limit: int) -> None:
        """Rooms with more than `limit` connections get counts instead of names."""
        self.note_presence: NotePresence | None = None
        self._own = shared.process.encode()  # the field of this process
        self._keys = shared.keys
        self._health = shared.health
        self._presence = Presence(hub.deliver, limit)
        self._commands = commands
        self._limit = limit
        self._views: dict[str, RoomView] = {}
        self._requests: dict[str, float] = {}  # rooms to fetch, and the earliest loop time
        self._writes: dict[tuple[str, bytes], None] = {}  # rooms, and fields to store or delete
        self._changes: deque[SenderChange] = deque()  # if somebody is to be notified
        self._gone: set[tuple[str, bytes]] = set()  # fields of dead processes, to be deleted
        self._dead: deque[tuple[str, str]] = deque()  # rooms, and processes deleted there
        self._missing: dict[str, float] = {}  # loop time since when a process is missing
        self._watched: list[str] = []
        self._trusted_at = math.inf  # loop time from which missing processes are dead
        self._restore_at = 0.0  # loop time
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Store changes and fetch rosters until cancelled."""
        while True:
            try:
                await self._exchange()
                await self._count()
                await self._wait()
            except Exception as error:
                if not isinstance(error, BrokerUnavailable):  # a bug
                    logger.exception("failed to exchange rosters")
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Remove the members of this process from all rooms; give up after `PATIENCE` seconds."""
        self._writes |= dict.fromkeys((room, self._own) for room in self._views)
        self._views.clear()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._writes or self._changes:
                    await self._exchange()
                    await self._count()

    def announce(self, event: PresenceEvent) -> None:
        """Record that a connection of this process has joined or left, and notify other members."""
        room = event.room
        view = self._views.setdefault(room, RoomView())
        is_first_or_last = view.here.record(event)
        if is_first_or_last is not None:
            self._presence.announce(event)
            self._store(room)
        if is_first_or_last:
            self._change(event)
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
            self._missing.pop(process, None)  # it is running, perhaps again after a pause
            self._fetch(room)

    def note_listed(self, room: str, *, is_listed: bool) -> None:
        """Record whether Redis has the members of this process."""
        if room in self._views and not is_listed:
            self._store(room)

    def ask_all(self) -> None:
        """Fetch all rosters: notices may have been missed."""
        for room in self._views:
            self._fetch(room)

    def beat_commands(self) -> list[Command]:
        """Return the heartbeat of this process, and questions after that of others."""
        others = {process for view in self._views.values() for process in view.processes}
        self._watched = [*others.union(self._missing)]
        own = self._keys.process(self._own.decode())
        beat: list[Command] = [("EXISTS", own), ("SET", own, 1, "EX", PROCESS_SECONDS)]
        return beat + [("EXISTS", self._keys.process(each)) for each in self._watched]

    def handle_beat(self, was_alive: bool, alive: list[Any]) -> None:
        """Handle the answers. If Redis had lost this process, it may have lost others, too."""
        now = asyncio.get_running_loop().time()
        if not was_alive or self._trusted_at == math.inf:
            self._trusted_at = now + GRACE_SECONDS
        if not was_alive or now >= self._restore_at:
            self._restore_at = now + KEEP_SECONDS / 2  # before the keys expire
            self._restore_senders()
        for process, answer in zip(self._watched, alive, strict=True):
            since = self._missing.setdefault(process, now)
            if answer != 0 or now - since > FORGET_SECONDS:
                del self._missing[process]
        if dead := self._dead_processes():
            for room, view in self._views.items():
                self._remove(room, dead & view.processes)

    def _restore_senders(self) -> None:
        for room, view in self._views.items():
            for sender in view.here.people:
                event = PresenceEvent(type="joined", room=room, sender=sender, connection="")
                self._change(event, is_news=False)

    def note_outage(self) -> None:
        """Record an outage of Redis: until it is over, no process counts as dead."""
        self._trusted_at = math.inf

    def _dead_processes(self) -> set[str]:
        now = asyncio.get_running_loop().time()
        if now < self._trusted_at:
            return set()
        return {each for each, since in self._missing.items() if now - since >= MISSING_SECONDS}

    def _remove(self, room: str, processes: set[str]) -> None:
        """Remove the members of dead processes from a room."""
        self._write(room, *(process.encode() for process in processes))
        self._gone |= {(room, process.encode()) for process in processes}

    def _change(self, event: PresenceEvent, process: str = "", *, is_news: bool = True) -> None:
        if self.note_presence is not None:
            self._changes.append(SenderChange(event, process or self._own.decode(), is_news))
            self._woken.set()

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
        if not self._writes and not self._changes:
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
                self._retry_later(room, answer)
            elif index >= len(writes):
                self._take_people(room, answer)
            else:
                self._take_deleted(room, writes[index][1], was_there=answer == 1)

    def _take_deleted(self, room: str, name: bytes, *, was_there: bool) -> None:
        """Note that this process, and no other, counts the senders of a dead one as left."""
        if (room, name) in self._gone:
            self._gone.discard((room, name))
            if was_there and self.note_presence is not None:
                self._dead.append((room, name.decode()))

    async def _count_dead(self) -> None:
        """Count the senders of dead processes as left; raises `BrokerUnavailable`."""
        while self._dead:
            room, process = self._dead[0]
            key = self._keys.room(room).senders(process)
            (senders,) = await self._commands.run(("SMEMBERS", key))
            self._dead.popleft()
            if isinstance(senders, ResponseError):
                self._health.breaks(room, explain(senders))
                continue
            for name in senders:
                sender = name.decode(errors="replace")
                left = PresenceEvent(type="left", room=room, sender=sender, connection="")
                self._change(left, process)

    async def _count(self) -> None:
        """Tell Redis which senders have come and gone; raises `BrokerUnavailable`."""
        await self._count_dead()
        changes, commands = [*self._changes][:MAX_ROOMS], []
        for each in changes:
            room, sender = self._keys.room(each.event.room), each.event.sender
            keys = room.sender(sender), room.senders(each.process)
            command = "SADD" if each.event.type == "joined" else "SREM"
            commands.append(
                ("EVALSHA", COUNT_SHA, 2, *keys, command, each.process, sender, KEEP_SECONDS)
            )
        answers = await self._commands.run(*commands) if commands else ()
        for each, answer in zip(changes, answers, strict=True):
            self._changes.popleft()
            if isinstance(answer, ResponseError):
                self._health.breaks(each.event.room, explain(answer))
            elif self.note_presence and each.is_news and answer == (each.event.type == "joined"):
                self.note_presence(each.event)  # the first of all processes, or the last

    def _retry_later(self, room: str, error: ResponseError) -> None:
        if str(error).startswith("WRONGTYPE"):
            self._health.breaks(room, "another program has changed its keys; they are replaced")
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._store, room)

    def _write_command(self, room: str, name: bytes) -> Command:
        """Return the command that stores or deletes a field, and notifies others."""
        view = self._views.get(room) if name == self._own else None
        change = ("HDEL", name) if view is None else ("HSET", name, self._encode(view))
        notice = self._keys.moves, b"%b %b" % (name, room.encode())
        return change_command(self._keys.room(room).people, EMPTY_SECONDS, notice, *change)

    def _encode(self, view: RoomView) -> bytes:
        """Return the field of this process."""
        here = view.here
        if here.is_large(self._limit):
            return json.dumps(len(here.people)).encode()
        profiles = {
            sender: each.model_dump(exclude_none=True) for sender, each in here.profiles.items()
        }
        return json.dumps(here.senders | ({PROFILES: profiles} if profiles else {})).encode()

    async def _present_elsewhere(self, room: str) -> Present:
        (answer,) = await self._commands.run(("HGETALL", self._keys.room(room).people))
        if isinstance(answer, ResponseError):
            self._health.breaks(room, explain(answer))
            raise BrokerUnavailable
        people = self._read_people(room, answer)
        now = asyncio.get_running_loop().time()
        for process in people:
            self._missing.setdefault(process, now)  # until the next heartbeat
        roster = Roster()
        named, roster.profiles, roster.count = self._sum_up(room, people, {})
        for connection, sender in (named or {}).items():
            roster.add(connection, sender)
        return roster.present(self._limit)

    def _read_people(self, room: str, answer: list[bytes]) -> dict[str, Any]:
        """Return the members in each process, or their number; delete fields that are none."""
        people: dict[str, Any] = {}
        wrong: list[bytes] = []
        for name, text in zip(answer[::2], answer[1::2], strict=True):
            members = read_members(text)
            if members is None or not PROCESS.fullmatch(name.decode(errors="replace")):
                wrong.append(name)
            else:
                people[name.decode()] = members
        if wrong:
            self._health.breaks(room, "there is a field in its roster that is no process")
            self._write(room, *wrong)
        return people

    def _sum_up(
        self, room: str, people: dict[str, Any], here: dict[str, str]
    ) -> tuple[dict[str, str] | None, dict[str, Profile], int]:
        """Return who is elsewhere; `None` and the number of senders if there are too many to list.

        A sender with connections to several processes counts twice if one of these has too many.
        """
        dead = self._dead_processes().intersection(people)
        self._remove(room, dead)
        rosters = [members for process, members in people.items() if process not in dead]
        named = {k: v for each in rosters if isinstance(each, dict) for k, v in each.items()}
        profiles: dict[str, Profile] = {}
        for each in rosters:
            if isinstance(each, dict):
                profiles |= {k: Profile(**v) for k, v in each.get(PROFILES, {}).items()}
        named.pop(PROFILES, None)
        count = sum(each for each in rosters if isinstance(each, int))
        if not count and len(named) + len(here) <= self._limit:
            return named, profiles, 0
        return None, {}, count + len({*named.values(), *here.values()})

    def _take_people(self, room: str, answer: list[bytes]) -> None:
        view = self._views.get(room)
        if view is None:
            return
        people = self._read_people(room, answer)
        own = people.pop(self._own.decode(), None)
        if own != json.loads(self._encode(view)) and (room, self._own) not in self._writes:
            self._store(room)
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


def read_members(text: bytes) -> dict[str, Any] | int | None:
    """Return the sender of each connection, and `PROFILES`; or the number of senders.

    Returns `None` if it is neither.
    """
    try:
        members = json.loads(text)
        if isinstance(members, dict):
            for each in dict(members.get(PROFILES, {})).values():
                Profile.model_validate(each)
            senders = [members[key] for key in members if key != PROFILES]
            return members if all(isinstance(each, str) for each in senders) else None
    except (ValueError, TypeError):
        return None
    return members if type(members) is int and 0 < members < 2**31 else None
