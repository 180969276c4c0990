"""Fixtures for rooms over Redis."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack

import pytest
from fastapi_realtime.rooms.redis import connection, reader, rosters, servers, sync_rooms

from ..brokers import Process, running_process
from ..redis_server import NOT_SAVED, SAVED, RedisServer, rooms_at, running_redis
from .talk import Start


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing take long."""
    monkeypatch.setattr(connection, "LAST_DELAY", 0.2)
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(reader, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(reader, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(rosters, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(sync_rooms, "RETRY_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that loses nothing."""
    with running_redis(*SAVED) as server:
        yield server


@pytest.fixture
def forgetful() -> Iterator[RedisServer]:
    """A Redis that keeps nothing when it stops."""
    with running_redis(*NOT_SAVED) as server:
        yield server


@pytest.fixture
async def start() -> AsyncGenerator[Start]:
    """Start a broker, as another process would."""
    async with AsyncExitStack() as stack:

        async def start(url: str, **settings: object) -> Process:
            return await stack.enter_async_context(running_process(rooms_at(url, **settings)))

        yield start
