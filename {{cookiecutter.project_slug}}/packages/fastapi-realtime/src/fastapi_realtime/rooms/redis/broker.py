"""The broker for several processes; Redis keeps a log for each room."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from weakref import WeakValueDictionary

from redis.exceptions import ResponseError

from ..broker import FOREIGN_LOOP, Broker, BrokerUnavailable, CloseSubject, RoomRefused
from ..events import MessageEvent, PresenceEvent, Present
from ..history import Replay
from ..hub import Hub
from ..presence import Presence
from ..rooms import memory_broker
from .connection import PATIENCE, Commands, Health, reap
from .log import Replays, StoredBytes, pack
from .publisher import Publisher
from .reader import Reader, close_commands
from .rosters import Rosters
from .scripts import Keys
from .settings import RedisSettings


def redis_broker(settings: RedisSettings, hub: Hub) -> Broker:
    """Return the broker for `APP_BROKER_URL`."""
    if settings.is_in_memory:
        return memory_broker(settings, hub)
    return RedisBroker(settings, hub)


class RedisBroker:
    """Carries events between all processes that use the same Redis.

    Every message goes through Redis, even to members of the same process, so that all members
    see the same order.
    """

    def __init__(self, settings: RedisSettings, hub: Hub) -> None:
        url, process = settings.broker_url.get_secret_value(), token_hex(4)
        length, limit = settings.history_length, settings.presence_limit
        self.presence_limit = limit
        self._keys = keys = Keys(settings.application)
        self._health = health = Health("publish", "read", "write", "listen")
        self._commands = Commands(url)
        self._replays = Replays(url, length, health)
        self._stored = stored = StoredBytes()
        self._publisher = Publisher(url, process, keys, length, health, stored)
        presence = Presence(hub.deliver, limit)
        self._rosters = Rosters(presence, self._commands, keys, process, limit, health)
        self._reader = Reader(url, process, keys, hub, self._rosters, health, length, stored)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and received now."""
        return self._health.is_good

    @asynccontextmanager
    async def lifespan(self, close_subject: CloseSubject) -> AsyncGenerator[None]:
        """Keep connections to Redis. If Redis is down, the application starts all the same."""
        self._loop = asyncio.get_running_loop()
        parts = (
            self._publisher.run(),
            self._reader.listen(),
            self._reader.run(close_subject),
            self._rosters.run(),
        )
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            yield
        finally:
            for task in tasks:
                await reap(task)
            await self._rosters.close()
            await self._commands.close()
            await self._replays.close()

    async def publish(
        self, event: MessageEvent, origin: str = "", ref: str = "", address: str = ""
    ) -> asyncio.Future[str]:
        """Send a message to its room, except to the connection `origin`; return a future of its id.

        The future is done once Redis has the message. If the history has a message with the same
        `ref`, it is the id of that one. Waits while the room has too much pending in this
        process. Raises `BrokerUnavailable`, as the future may, `RoomRefused` if the address of
        the client has stored too much, and `RuntimeError` outside of the application's event loop.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(FOREIGN_LOOP)
        room, packed = event.room, pack(event)
        if self._stored.is_full(address):
            self._health.limits(address, room)
            raise RoomRefused(room)
        message = packed, origin, ref, address
        # Those who wait keep their turn, even if the last member leaves meanwhile.
        turn = self._turns.get(room)
        if turn is None:
            if self._reader.get(room) is None:
                return self._publisher.publish(self._keys.room(room), None, *message)
            turn = self._turns[room] = asyncio.Lock()
        async with turn:
            cursor = self._reader.get(room)
            if cursor is not None:
                await self._reader.wait_near(cursor, len(packed))
            return self._publisher.publish(self._keys.room(room), cursor, *message)

    async def announce(self, event: PresenceEvent) -> None:
        """Record that a connection has joined or left a room, and notify the other members."""
        self._rosters.announce(event)

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable`."""
        return await self._rosters.present(room)

    async def close_subject(self, subject: str) -> None:
        """Ask all processes to close a subject's connections; raises `BrokerUnavailable`."""
        answers = await self._commands.run(*close_commands(self._keys, subject))
        if isinstance(answers[0], ResponseError):
            raise BrokerUnavailable

    async def replay(self, room: str, since: str, address: str = "") -> Replay:
        """Return the messages after the position `since`; raises `BrokerUnavailable`."""
        return await self._replays.read(self._keys.room(room), since, address)

    async def enter(self, room: str, address: str = "") -> str:
        """Count a member that joins a room, and return the room's position.

        Raises `BrokerUnavailable` while Redis is down, if this process has no other member of
        the room, and `RoomRefused` if the room is new and the address has stored too much.
        """
        return await self._reader.enter(room, address)

    def leave(self, room: str) -> None:
        """Stop counting a member that leaves a room."""
        self._reader.leave(room)

    async def flush(self) -> None:
        """Wait up to `PATIENCE` seconds until everything published has been read back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._reader.catch_up()
