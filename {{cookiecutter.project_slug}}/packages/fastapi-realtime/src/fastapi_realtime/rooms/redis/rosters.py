"""Who is in a room, in all processes together."""

import asyncio
from contextlib import suppress
from typing import Any, Literal

from ..broker import BrokerUnavailable
from ..events import PresenceEvent, Present
from ..presence import COUNT_SECONDS, Presence, Roster
from .change import Change
from .commands import PATIENCE, Commands
from .exchange import Exchange
from .keys import Keys
from .processes import Processes
from .view import View
from .who import Who

MAX_CHANGES = 1000
"""Connections that Redis is told of one by one; while it is away, more may come and go."""


class Rosters:
    """Tells Redis who joins and leaves here, and members who does elsewhere.

    The truth is in Redis: a hash for each room and process. Whoever changes one gives the roster
    of the room a new name, a token, and tells the other processes; one that knows another token
    reads the roster, and tells its members the difference. Rooms are compared with Redis now and
    then, tokens too, so whatever was missed or forgotten is mended.
    """

    def __init__(
        self,
        presence: Presence,
        commands: Commands,
        keys: Keys,
        processes: Processes,
        limit: int,
    ) -> None:
        """`limit` is the number of connections up to which they are named."""
        self._presence = presence
        self._processes = processes
        self._limit = limit
        self._views: dict[str, View] = {}
        self._exchange = Exchange(
            commands, keys, processes.own, limit, self._take_told, self._take_who
        )

    async def run(self) -> None:
        """Exchange what is new with Redis until this is cancelled."""
        await self._exchange.run()

    async def close(self) -> None:
        """Take the members of this process out of all rooms, if Redis can be reached."""
        for room in {*self._views, *self._exchange.rooms()}:
            self._exchange.tell(Change(room, self._processes.own, is_reset=True))
        self._views.clear()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._exchange.flush()

    def announce(self, event: PresenceEvent) -> None:
        """Note that a connection has joined or left here, and tell the others."""
        room, connection = event.room, event.connection
        view = self._views.get(room) or View()
        if event.type == "joined":
            if not view.here:
                self._views[room] = view
                self._exchange.ask(room)
            view.here[connection] = event.sender
        elif view.here.pop(connection, None) is None:
            return
        self._presence.announce(event)
        change = {connection: view.here.get(connection)}
        self._exchange.tell(Change(room, self._processes.own, change))
        if len(self._exchange.untold(room)) > MAX_CHANGES + len(view.here):
            self._tell_all(room, view)
        if not view.here:
            self._presence.forget(room)
            self._exchange.drop(room)
            del self._views[room]
            view.known.set()

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable` if that was never known here."""
        view = self._views.get(room)
        if view is None:
            return self._describe(room, await self._exchange.who(room))
        try:
            async with asyncio.timeout(PATIENCE):
                await view.known.wait()
        except TimeoutError:
            raise BrokerUnavailable from None
        if self._views.get(room) is not view:  # left meanwhile, perhaps entered again
            return await self.present(room)
        return self._presence.present(room)

    def note_token(self, room: str, token: str) -> None:
        """Note what a roster is called in Redis now; it has no name where Redis has lost it."""
        view = self._views.get(room)
        if view is None or token == view.token or self._exchange.is_telling(token):
            return
        if not token:
            self._tell_all(room, view)
        self._exchange.ask(room, view.next_at)

    def bury_dead(self) -> None:
        """Take members of processes that have died out of the rooms that have members here."""
        for room, view in self._views.items():
            self._bury(room, view.processes)

    def _bury(self, room: str, processes: set[str]) -> set[str]:
        """Take the members of dead processes out of a room, and return these processes."""
        dead = self._processes.dead(processes)
        for process in dead:
            self._exchange.tell(Change(room, process, is_reset=True))
        return dead

    def _describe(self, room: str, who: Who) -> Present:
        roster = Roster()
        for connection, sender in who.elsewhere(self._bury(room, who.processes)).items():
            roster.add(connection, sender)
        roster.count = who.count if who.rosters is None else 0
        return roster.present(self._limit)

    def _take_told(self, change: Change, answer: list[Any]) -> None:
        """Note what Redis answers to a change, and ask who is there if that is not clear now."""
        before, has_changed, size = answer
        view = self._views.get(change.room)
        if view is None:
            return
        is_own, is_known = change.process == self._processes.own, view.elsewhere is not None
        if is_own and size != len(view.here) and not self._exchange.untold(change.room):
            self._tell_all(change.room, view)
        elif is_own and is_known and has_changed and before.decode() == view.token:
            view.token = change.token
        else:
            self._exchange.ask(change.room, view.next_at)

    def _take_who(self, room: str, who: Who) -> None:
        view, own = self._views.get(room), self._processes.own
        if view is None:
            return
        if view.is_wrong(who, own, self._exchange.untold(room)):
            self._tell_all(room, view)
        view.token, view.processes = who.token, who.processes - {own}
        dead = self._bury(room, view.processes)
        if who.rosters is None:
            self._presence.merge(room, {*(view.elsewhere or ())}, {}, who.count)
            view.elsewhere = None
            view.next_at = asyncio.get_running_loop().time() + COUNT_SECONDS
        else:
            self._take_elsewhere(room, view, who.elsewhere(dead | {own}))
        view.known.set()

    def _tell_all(self, room: str, view: View) -> None:
        """Tell Redis of all members here."""
        self._exchange.tell(Change(room, self._processes.own, {**view.here}, is_reset=True))

    def _take_elsewhere(self, room: str, view: View, now: dict[str, str]) -> None:
        was_named = view.elsewhere is not None
        gone, come = view.take_elsewhere(now)
        if not was_named:
            self._presence.merge(room, set(), come, 0)
            return
        for connection, sender in gone.items():
            self._tell("left", room, connection, sender)
        for connection, sender in come.items():
            self._tell("joined", room, connection, sender)

    def _tell(
        self, kind: Literal["joined", "left"], room: str, connection: str, sender: str
    ) -> None:
        event = PresenceEvent(type=kind, room=room, sender=sender, connection=connection)
        self._presence.announce(event)
