"""The broker for several processes; Redis keeps a log for each room."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import ClassVar

from pydantic import SecretStr, field_validator
from redis.exceptions import ResponseError

from ...settings import RoomSettings
from ..broker import FOREIGN_LOOP, Broker, BrokerUnavailable, CloseSubject
from ..events import MessageEvent, PresenceEvent, Present
from ..history import Replay
from ..hub import Hub
from ..presence import Presence
from ..rooms import memory_broker
from .commands import PATIENCE, Commands
from .health import Health
from .keys import Keys
from .link import check_url, reap
from .members import Members
from .messages import pack
from .notices import Notices, close_commands
from .processes import Processes
from .publisher import Publisher
from .reader import Reader
from .replay import read_history
from .rosters import Rosters
from .waker import Waker

MEMORY = "memory://"


class RedisSettings(RoomSettings):
    """Settings of an application that can use Redis."""

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://` URL of Redis, or `memory://` for a single process."""

    several_workers_need: ClassVar[str] = "another APP_BROKER_URL than memory://"

    @property
    def is_in_memory(self) -> bool:
        """Whether rooms are in the memory of a single process."""
        return self.broker_url.get_secret_value() == MEMORY

    @field_validator("broker_url")
    @classmethod
    def check_broker_url(cls, value: SecretStr) -> SecretStr:
        """Reject an invalid URL; see `check_url`."""
        url = value.get_secret_value()
        if url != MEMORY:
            check_url(url)
        return value


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
        self._keys = keys = Keys(settings.application)
        self.presence_limit = settings.presence_limit
        self._hub = hub
        self._history_length = settings.history_length
        self._health = Health("publish", "read", "write", "listen")
        self._commands = Commands(url)
        self._publisher = Publisher(url, process, settings.history_length, self._health)
        waker = Waker(self._commands)
        self._members = Members(waker, keys)
        presence = Presence(hub.deliver, settings.presence_limit)
        processes = Processes(process, keys)
        self._rosters = Rosters(presence, self._commands, keys, processes, settings.presence_limit)
        self._reader = Reader(url, process, hub, self._members, waker, self._rosters, self._health)
        self._notices = Notices(url, keys, processes, self._rosters, self._health)
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
            self._reader.run(),
            self._notices.run(close_subject),
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

    async def publish(
        self, event: MessageEvent, origin: str = "", ref: str = ""
    ) -> asyncio.Future[str]:
        """Send a message to its room, except to the connection `origin`; return a future of its id.

        The future is done once Redis has the message. If the history has a message with the same
        `ref`, it is the id of that one. Waits while the room has too much pending in this
        process. Raises `BrokerUnavailable`, as the future may, and `RuntimeError` outside of the
        application's event loop.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(FOREIGN_LOOP)
        packed = pack(event)
        cursor = self._members.get(event.room)
        if cursor is None:
            return self._publisher.publish(self._keys.room(event.room), None, packed, origin, ref)
        async with cursor.turn:
            await self._hub.wait_ready(event.room)
            await self._members.wait_near(cursor, len(packed))
            return self._publisher.publish(cursor.keys, cursor, packed, origin, ref)

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

    async def replay(self, room: str, since: str) -> Replay:
        """Return the messages after the position `since`; raises `BrokerUnavailable`."""
        return await read_history(
            self._commands, self._keys.room(room), since, self._history_length
        )

    async def enter(self, room: str) -> str:
        """Count a member that joins a room, and return the room's position.

        Raises `BrokerUnavailable` while Redis is down, if this process has no other member of
        the room.
        """
        return await self._members.enter(room)

    def leave(self, room: str) -> None:
        """Stop counting a member that leaves a room."""
        self._members.leave(room)

    async def flush(self) -> None:
        """Wait up to `PATIENCE` seconds until everything published has been read back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._members.catch_up()
