"""Presence across processes: who is in a room."""

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
"""Above this many waiting changes of a room, all its connections are sent instead."""


class Rosters:
    """Stores joins and leaves of this process in Redis, and notifies members of those in others.

    Redis has a hash of connections for each room and process. Every change gives the room's
    roster a new token, and other processes a notice. A process that knows another token fetches
    the roster and notifies its members of the differences. Tokens are also compared when rooms
    are, so missed notices and data that Redis has lost are repaired.
    """

    def __init__(
        self,
        presence: Presence,
        commands: Commands,
        keys: Keys,
        processes: Processes,
        limit: int,
    ) -> None:
        """Rooms with more than `limit` connections get counts instead of names."""
        self._presence = presence
        self._processes = processes
        self._limit = limit
        self._views: dict[str, View] = {}
        self._exchange = Exchange(
            commands, keys, processes.own, limit, self._take_told, self._take_who
        )

    async def run(self) -> None:
        """Store changes and fetch rosters until cancelled."""
        await self._exchange.run()

    async def close(self) -> None:
        """Remove the members of this process from all rooms; give up after `PATIENCE` seconds."""
        for room in {*self._views, *self._exchange.changed_rooms()}:
            self._exchange.add_change(Change(room, self._processes.own, is_reset=True))
        self._views.clear()
        with suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._exchange.flush()

    def announce(self, event: PresenceEvent) -> None:
        """Record that a connection of this process has joined or left, and notify other members."""
        room, connection = event.room, event.connection
        view = self._views.get(room) or View()
        if event.type == "joined":
            if not view.here:
                self._views[room] = view
                self._exchange.request_roster(room)
            view.here[connection] = event.sender
        elif view.here.pop(connection, None) is None:
            return
        self._presence.announce(event)
        change = {connection: view.here.get(connection)}
        self._exchange.add_change(Change(room, self._processes.own, change))
        if len(self._exchange.pending_connections(room)) > MAX_CHANGES + len(view.here):
            self._send_all(room, view)
        if not view.here:
            self._presence.forget(room)
            self._exchange.cancel_request(room)
            del self._views[room]
            view.known.set()

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable` if its roster can't be fetched."""
        view = self._views.get(room)
        if view is None:
            return self._describe(room, await self._exchange.fetch_roster(room))
        try:
            async with asyncio.timeout(PATIENCE):
                await view.known.wait()
        except TimeoutError:
            raise BrokerUnavailable from None
        if self._views.get(room) is not view:  # this process left the room meanwhile
            return await self.present(room)
        return self._presence.present(room)

    def note_token(self, room: str, token: str) -> None:
        """Fetch the roster if its token is new; if Redis has none, it has lost the roster."""
        view = self._views.get(room)
        if view is None or token == view.token or self._exchange.is_in_flight(token):
            return
        if not token:
            self._send_all(room, view)
        self._exchange.request_roster(room, view.next_at)

    def remove_dead(self) -> None:
        """Remove the members of dead processes from the rooms with members in this process."""
        for room, view in self._views.items():
            self._remove_dead(room, view.processes)

    def _remove_dead(self, room: str, processes: set[str]) -> set[str]:
        """Remove the members of dead processes from a room, and return these processes."""
        dead = self._processes.dead(processes)
        for process in dead:
            self._exchange.add_change(Change(room, process, is_reset=True))
        return dead

    def _describe(self, room: str, who: Who) -> Present:
        roster = Roster()
        for connection, sender in who.elsewhere(self._remove_dead(room, who.processes)).items():
            roster.add(connection, sender)
        roster.count = who.count if who.rosters is None else 0
        return roster.present(self._limit)

    def _take_told(self, change: Change, answer: list[Any]) -> None:
        """Handle the answer of Redis to a change; fetch the roster if others changed it, too."""
        before, has_changed, size = answer
        view = self._views.get(change.room)
        if view is None:
            return
        is_own, is_known = change.process == self._processes.own, view.elsewhere is not None
        if (
            is_own
            and size != len(view.here)
            and not self._exchange.pending_connections(change.room)
        ):
            self._send_all(change.room, view)
        elif is_own and is_known and has_changed and before.decode() == view.token:
            view.token = change.token
        else:
            self._exchange.request_roster(change.room, view.next_at)

    def _take_who(self, room: str, who: Who) -> None:
        view, own = self._views.get(room), self._processes.own
        if view is None:
            return
        if view.is_wrong(who, own, self._exchange.pending_connections(room)):
            self._send_all(room, view)
        view.token, view.processes = who.token, who.processes - {own}
        dead = self._remove_dead(room, view.processes)
        if who.rosters is None:
            self._presence.merge(room, {*(view.elsewhere or ())}, {}, who.count)
            view.elsewhere = None
            view.next_at = asyncio.get_running_loop().time() + COUNT_SECONDS
        else:
            self._update_others(room, view, who.elsewhere(dead | {own}))
        view.known.set()

    def _send_all(self, room: str, view: View) -> None:
        """Store all members of this process, replacing what Redis has."""
        self._exchange.add_change(Change(room, self._processes.own, {**view.here}, is_reset=True))

    def _update_others(self, room: str, view: View, now: dict[str, str]) -> None:
        was_named = view.elsewhere is not None
        gone, come = view.take_elsewhere(now)
        if not was_named:
            self._presence.merge(room, set(), come, 0)
            return
        for connection, sender in gone.items():
            self._announce("left", room, connection, sender)
        for connection, sender in come.items():
            self._announce("joined", room, connection, sender)

    def _announce(
        self, kind: Literal["joined", "left"], room: str, connection: str, sender: str
    ) -> None:
        event = PresenceEvent(type=kind, room=room, sender=sender, connection=connection)
        self._presence.announce(event)
