"""The broker for several processes, and its settings; Redis keeps a log for each room."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from inspect import signature
from secrets import token_hex
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from weakref import WeakValueDictionary

from pydantic import SecretStr, field_validator
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, SSLConnection
from redis.connection import parse_url
from redis.exceptions import ResponseError

from ...settings import RoomSettings, SettingsError
from ..broker import (
    FOREIGN_LOOP,
    Broker,
    BrokerUnavailable,
    CloseSubject,
    NotePresence,
    Replay,
    RoomRefused,
)
from ..events import LoggedEvent, PresenceEvent, Present
from ..hub import Hub
from ..rooms import memory_broker
from .connection import PATIENCE, Commands, Health, Shared
from .history import Replays, StoredBytes, pack
from .publisher import Publisher
from .reader import Reader, close_command
from .rosters import Rosters
from .scripts import Keys
from .servers import FAILURES, Link, Servers

MEMORY = "memory://"
CHECK_SECONDS = 1.0
"""Seconds to wait for Redis before the server starts without it."""
NO_DATABASE = (
    "These settings do not work:\n  APP_BROKER_URL: Redis answers that it has no database {}; "
    "the highest is one less than its own setting `databases`, which is 16 by default"
)
URL_FORM = (
    "a broker is redis://[[user]:password@]host[:port][/database], the same with rediss:// (TLS), "
    "redis+cluster://host,host, redis+sentinel://host,host/service, unix:///path/of.sock, or memory://"
)
OPTIONS = {*URL_QUERY_ARGUMENT_PARSERS}.union(
    *(signature(each).parameters for each in SSLConnection.__mro__)
)
"""Names of options that redis-py knows, if not for every kind of connection."""


class RedisSettings(RoomSettings):
    """Settings of an application that can use Redis."""

    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://`, `rediss://` or `unix://` URL of Redis, or `memory://` for a single process.

    `redis+cluster://host,host:6379` names nodes of a cluster, `redis+sentinel://host,host/service`
    sentinels that know its primary; with TLS, `rediss+`. One that answers is enough.
    """

    several_workers_need: ClassVar[str] = "another APP_BROKER_URL than memory://"

    @property
    def is_in_memory(self) -> bool:
        """Whether rooms are in the memory of a single process."""
        return self.broker_url.get_secret_value() == MEMORY

    def check_services(self) -> None:
        """Raise `SettingsError` if Redis answers that it doesn't have the database in the URL."""
        url = self.broker_url.get_secret_value()
        if self.is_in_memory or Servers(url).kind:
            return

        async def connect() -> None:
            link = Link(url)
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await link.open()
            finally:
                await link.close()

        try:
            asyncio.run(connect())
        except FAILURES as error:
            if "DB index" in str(error):
                raise SettingsError(NO_DATABASE.format(parse_url(url)["db"])) from None

    @field_validator("broker_url")
    @classmethod
    def check_broker_url(cls, value: SecretStr) -> SecretStr:
        """Reject an invalid URL; see `check_url`."""
        url = value.get_secret_value()
        if url == MEMORY:
            return value
        try:
            servers = Servers(url)
        except ValueError:
            raise ValueError(URL_FORM) from None
        for each in servers.urls:
            check_url(each)
            if servers.kind == "cluster" and parse_url(each).get("db"):
                raise ValueError("a cluster has no other database than 0")
        return value


def check_url(url: str) -> None:
    """Raise `ValueError` for a URL that redis-py rejects, or of which it would ignore a part.

    The error shows nothing of it but options that exist: anything else may be a password.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        plain = urlunsplit(parts._replace(query="", fragment=""))
        is_socket = parts.scheme == "unix"
        is_ignored = parts.port == 0 or "#" in url or (is_socket and bool(parts.hostname))
    except ValueError:
        raise ValueError(URL_FORM) from None
    if is_ignored or not is_accepted(plain):
        raise ValueError(URL_FORM)
    names = [name for name, _ in options]
    if not is_socket and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        raise ValueError("the database must be a number, as in redis://host/0")
    if len({*names}) < len(names) or ("db" in names and parts.path.strip("/") and not is_socket):
        raise ValueError("an option, or the database, is there twice")
    wrong = [
        name
        for name, value in options
        if not value or not is_accepted(f"{plain}?{urlencode({name: value})}")
    ]
    if wrong or not is_accepted(url):
        which = f"the option {wrong[0]}" if OPTIONS.intersection(wrong[:1]) else "an option"
        raise ValueError(f"{which} does not exist here, or has a wrong value")


def is_accepted(url: str) -> bool:
    """Return whether redis-py accepts a URL."""
    with suppress(Exception):
        Link(url)
        return True
    return False


def redis_broker(settings: RedisSettings, hub: Hub) -> Broker:
    """Return the broker for `APP_BROKER_URL`."""
    if settings.is_in_memory:
        return memory_broker(settings, hub)
    return RedisBroker(settings, hub)


class RedisBroker:
    """Carries events between all processes that use the same Redis; `Broker` says what methods do.

    Every message goes through Redis, even to members of the same process, so that all members
    see the same order.
    """

    def __init__(self, settings: RedisSettings, hub: Hub) -> None:
        servers = Servers(settings.broker_url.get_secret_value())
        self.presence_limit = settings.presence_limit
        self._keys = Keys(settings.application)
        self._health = Health("publish", "read", "write", "listen")
        shared = Shared(servers, token_hex(4), self._keys, settings.history_length, self._health)
        self._stored = StoredBytes()
        self._commands = Commands(servers)
        self._replays = Replays(shared)
        self._publisher = Publisher(shared, self._stored)
        self._rosters = Rosters(shared, hub, self._commands, settings.presence_limit)
        self._reader = Reader(shared, hub, self._rosters, self._stored)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def is_ready(self) -> bool:
        return self._health.is_good

    @asynccontextmanager
    async def lifespan(
        self, close_subject: CloseSubject, note_presence: NotePresence | None = None
    ) -> AsyncGenerator[None]:
        """Keep connections to Redis. If Redis is down, the application starts all the same."""
        self._loop = asyncio.get_running_loop()
        self._rosters.senders.note_presence = note_presence
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
                task.cancel()
                await asyncio.wait([task])
            await self._rosters.close()
            await self._commands.close()
            await self._replays.close()

    async def publish(
        self,
        event: LoggedEvent,
        origin: str = "",
        ref: str = "",
        address: str = "",
        *,
        keep: bool = True,
    ) -> asyncio.Future[str]:
        """Publish, and return a future, which is done once Redis has the message.

        Waits while the room has too much pending in this process. Raises `RoomRefused` if the
        address has stored too much, and `RuntimeError` outside of the application's event loop.
        """
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError(FOREIGN_LOOP)
        room, message = event.room, pack(event, keep=keep)
        if self._stored.is_full(address):
            self._health.limits(address, room)
            raise RoomRefused(room)
        # Those who wait keep their turn, even if the last member leaves meanwhile.
        async with self._turns.setdefault(room, asyncio.Lock()):
            cursor = self._reader.cursors.get(room)
            if cursor is None:
                self._reader.trim_later(room)
            else:
                await self._reader.wait_near(cursor, len(message[1]))
            return self._publisher.publish(room, cursor, message, origin, ref, address)

    async def announce(self, event: PresenceEvent) -> None:
        self._rosters.announce(event)

    async def present(self, room: str) -> Present:
        return await self._rosters.present(room)

    async def close_subject(self, subject: str) -> None:
        (answer,) = await self._commands.run(close_command(self._keys, subject))
        if isinstance(answer, ResponseError):
            raise BrokerUnavailable

    async def replay(self, room: str, since: str, address: str = "", last: int = 0) -> Replay:
        return await self._replays.read(room, since, address, last)

    async def enter(self, room: str, address: str = "") -> str:
        return await self._reader.enter(room, address)

    def leave(self, room: str) -> None:
        self._reader.leave(room)

    async def flush(self) -> None:
        """Wait up to `PATIENCE` seconds until everything published has been read back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._reader.catch_up()
