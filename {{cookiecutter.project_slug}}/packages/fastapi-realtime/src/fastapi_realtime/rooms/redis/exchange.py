"""What Redis is told of rosters, and asked: again until it has worked."""

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
"""Rooms of which Redis is told, or asked, at once."""
RETRY_SECONDS = 0.5
"""Seconds after a failure until Redis is told and asked again."""


class Exchange:
    """Changes that Redis is to be told of, and rooms of which it is to be asked who is there."""

    def __init__(
        self,
        commands: Commands,
        keys: Keys,
        process: str,
        limit: int,
        told: Callable[[Change, list[Any]], None],
        learned: Callable[[str, Who], None],
    ) -> None:
        """Call `told` with a change and the answer of Redis, `learned` with who is in a room."""
        self._commands = commands
        self._keys = keys
        self._process = process
        self._limit = limit
        self._told = told
        self._learned = learned
        self._changes: dict[tuple[str, str], Change] = {}
        self._asked: dict[str, float] = {}  # rooms, and when they may be asked of
        self._in_flight: set[str] = set()  # tokens
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Tell and ask until this is cancelled."""
        while True:
            try:
                await self._exchange()
                await self._wait()
            except BrokerUnavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # a bug, or something in Redis that isn't ours
                logger.exception("failed to exchange rosters")
                await asyncio.sleep(RETRY_SECONDS)

    async def flush(self) -> None:
        """Tell all that is to be told, and that Redis takes; raises `BrokerUnavailable`."""
        while self._due_changes():
            await self._exchange()

    def tell(self, change: Change) -> None:
        """Tell Redis of a change."""
        earlier = self._changes.get(change.key)
        self._changes[change.key] = earlier.then(change) if earlier else change
        self._woken.set()

    def untold(self, room: str) -> Collection[str]:
        """Return the connections of this process that may have changed in a room since."""
        change = self._changes.get((room, self._process))
        return change.connections if change else ()

    def rooms(self) -> set[str]:
        """Return the rooms of which Redis is to be told."""
        return {room for room, _ in self._changes}

    def is_telling(self, token: str) -> bool:
        """Return whether a token is that of a change that is on its way to Redis."""
        return token in self._in_flight

    def ask(self, room: str, not_before: float = 0.0) -> None:
        """Ask Redis who is in a room, at a time of the event loop."""
        self._asked.setdefault(room, not_before)
        self._woken.set()

    def drop(self, room: str) -> None:
        """Ask of a room no more."""
        self._asked.pop(room, None)

    async def who(self, room: str) -> Who:
        """Return who is in a room; raises `BrokerUnavailable`."""
        (answer,) = await self._commands.run(
            who_command(self._keys.room(room), self._process, self._limit)
        )
        if isinstance(answer, ResponseError):
            raise BrokerUnavailable
        return read_who(answer)

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        self._woken.clear()
        times = [*self._asked.values(), *(each.not_before for each in self._changes.values())]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(times, default=None)):
                await self._woken.wait()

    async def _exchange(self) -> None:
        """Tell and ask once; raises `BrokerUnavailable`. What Redis refuses is tried again."""
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
        told = zip(changes, answers[: 2 * len(changes) : 2], strict=True)
        asked = zip(rooms, answers[2 * len(changes) :], strict=True)
        for change, answer in told:
            self._settle(change, answer)
        for room, answer in asked:
            self._learn(room, answer)

    def _due_changes(self) -> list[Change]:
        now = asyncio.get_running_loop().time()
        return [change for change in self._changes.values() if change.not_before <= now]

    def _take(self) -> tuple[list[Change], list[str]]:
        """Take what is to be told and asked now."""
        now = asyncio.get_running_loop().time()
        changes = self._due_changes()[:MAX_ROOMS]
        for change in changes:
            del self._changes[change.key]
        rooms = [room for room, time in self._asked.items() if time <= now][:MAX_ROOMS]
        for room in rooms:
            del self._asked[room]
        self._in_flight = {change.token for change in changes}
        return changes, rooms

    def _keep(self, changes: list[Change], rooms: list[str], seconds: float = 0.0) -> None:
        not_before = asyncio.get_running_loop().time() + seconds
        for change in changes:
            change.not_before = not_before
            self._changes[change.key] = change.then(self._changes.get(change.key))
        for room in rooms:
            self.ask(room, not_before)

    def _settle(self, change: Change, answer: Any) -> None:
        if isinstance(answer, ResponseError):
            self._keep([change], [], RETRY_SECONDS)
        else:
            self._told(change, answer)

    def _learn(self, room: str, answer: Any) -> None:
        if isinstance(answer, ResponseError):
            self._keep([], [room], RETRY_SECONDS)
        else:
            self._learned(room, read_who(answer))
