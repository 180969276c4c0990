"""Stores joins and leaves in Redis and fetches rosters, with retries."""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from ..broker import BrokerUnavailable
from .change import Change
from .commands import Commands
from .keys import Keys
from .who import Who, read_who, who_command

logger = logging.getLogger(__name__)

MAX_ROOMS = 100
"""Maximum changes, and maximum rosters, in one round trip."""
RETRY_SECONDS = 0.5
"""Seconds from a failure to the next attempt."""


class Exchange:
    """Changes to store in Redis, and rooms whose rosters to fetch from it."""

    def __init__(
        self,
        commands: Commands,
        keys: Keys,
        process: str,
        limit: int,
        on_stored: Callable[[Change, list[Any]], None],
        on_roster: Callable[[str, Who], None],
    ) -> None:
        """Calls `on_stored` with a change and the answer of Redis, `on_roster` with a roster."""
        self._commands = commands
        self._keys = keys
        self._process = process
        self._limit = limit
        self._on_stored = on_stored
        self._on_roster = on_roster
        self._changes: dict[tuple[str, str], Change] = {}
        self._requests: dict[str, float] = {}  # earliest loop time, by room
        self._in_flight: set[str] = set()  # tokens of changes being sent
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Store and fetch until cancelled."""
        while True:
            try:
                await self._exchange()
                await self._wait()
            except BrokerUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # a bug, or another program has overwritten keys
                logger.exception("failed to exchange rosters")
                await asyncio.sleep(RETRY_SECONDS)

    async def flush(self) -> None:
        """Store all changes that are due; raises `BrokerUnavailable`."""
        while self._due_changes():
            await self._exchange()

    def add_change(self, change: Change) -> None:
        """Queue a change; it is merged with an earlier one of the same room and process."""
        earlier = self._changes.get(change.key)
        self._changes[change.key] = earlier.then(change) if earlier else change
        self._woken.set()

    def pending_connections(self, room: str) -> Collection[str]:
        """Return the connections of this process in a room with changes not yet sent."""
        change = self._changes.get((room, self._process))
        return change.connections if change else ()

    def changed_rooms(self) -> set[str]:
        """Return the rooms with changes not yet sent."""
        return {room for room, _ in self._changes}

    def is_in_flight(self, token: str) -> bool:
        """Return whether the change with this token is being sent to Redis now."""
        return token in self._in_flight

    def request_roster(self, room: str, not_before: float = 0.0) -> None:
        """Queue a fetch of a room's roster, not before a loop time."""
        self._requests.setdefault(room, not_before)
        self._woken.set()

    def cancel_request(self, room: str) -> None:
        """Cancel the queued fetch of a room's roster."""
        self._requests.pop(room, None)

    async def fetch_roster(self, room: str) -> Who:
        """Fetch a room's roster now; raises `BrokerUnavailable`."""
        (answer,) = await self._commands.run(
            who_command(self._keys.room(room), self._process, self._limit)
        )
        if isinstance(answer, ResponseError):
            raise BrokerUnavailable
        return read_who(answer)

    async def _wait(self) -> None:
        """Wait until a change or a fetch is due."""
        self._woken.clear()
        times = [*self._requests.values(), *(each.not_before for each in self._changes.values())]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(times, default=None)):
                await self._woken.wait()

    async def _exchange(self) -> None:
        """Make one round trip; raises `BrokerUnavailable`. What Redis rejects is retried later."""
        changes, rooms = self._take()
        if not changes and not rooms:
            return
        commands = [command for change in changes for command in change.commands(self._keys)]
        commands += [
            who_command(self._keys.room(room), self._process, self._limit) for room in rooms
        ]
        try:
            answers = await self._commands.run(*commands)
        except BaseException:
            self._keep(changes, rooms)
            raise
        finally:
            self._in_flight.clear()
        stored = zip(changes, answers[: 2 * len(changes) : 2], strict=True)
        rosters = zip(rooms, answers[2 * len(changes) :], strict=True)
        for change, answer in stored:
            self._handle_stored(change, answer)
        for room, answer in rosters:
            self._handle_roster(room, answer)

    def _due_changes(self) -> list[Change]:
        now = asyncio.get_running_loop().time()
        return [change for change in self._changes.values() if change.not_before <= now]

    def _take(self) -> tuple[list[Change], list[str]]:
        """Return the due changes and rooms, and remove them from the queues."""
        now = asyncio.get_running_loop().time()
        changes = self._due_changes()[:MAX_ROOMS]
        for change in changes:
            del self._changes[change.key]
        rooms = [room for room, time in self._requests.items() if time <= now][:MAX_ROOMS]
        for room in rooms:
            del self._requests[room]
        self._in_flight = {change.token for change in changes}
        return changes, rooms

    def _keep(self, changes: list[Change], rooms: list[str], seconds: float = 0.0) -> None:
        not_before = asyncio.get_running_loop().time() + seconds
        for change in changes:
            change.not_before = not_before
            self._changes[change.key] = change.then(self._changes.get(change.key))
        for room in rooms:
            self.request_roster(room, not_before)

    def _handle_stored(self, change: Change, answer: Any) -> None:
        if isinstance(answer, ResponseError):
            self._keep([change], [], RETRY_SECONDS)
        else:
            self._on_stored(change, answer)

    def _handle_roster(self, room: str, answer: Any) -> None:
        if isinstance(answer, ResponseError):
            self._keep([], [room], RETRY_SECONDS)
        else:
            self._on_roster(room, read_who(answer))
