"""Redis that goes away, is slow or full: what was accepted arrives once, the rest is refused."""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import publisher, reader

from ..brokers import running_process
from ..redis_server import RedisServer, rooms_at
from .talk import Start, Talk, ready, until

pytestmark = pytest.mark.anyio


async def test_all_processes_see_the_same_order(server: RedisServer, start: Start) -> None:
    async with Talk(await start(server.url), await start(server.url)) as talk:
        await talk.more(500)
    await talk.check()
    assert talk.refused == []


@pytest.mark.parametrize("kill", [False, True])
async def test_nothing_accepted_is_lost_when_redis_restarts(
    server: RedisServer, start: Start, kill: bool
) -> None:
    async with Talk(await start(server.url), await start(server.url)) as talk:
        for _ in range(3):
            await talk.more()
            await asyncio.to_thread(server.stop, kill=kill)
            await until(lambda: not talk.processes[0].broker.is_ready)
            await asyncio.to_thread(server.start)
        await talk.more()
    await talk.check()


async def test_nothing_is_lost_or_twice_when_connections_are_killed(
    server: RedisServer, start: Start
) -> None:
    async with Talk(await start(server.url), await start(server.url)) as talk:
        for _ in range(10):
            await talk.more(50)
            await asyncio.to_thread(server.call, "CLIENT", "KILL", "TYPE", "normal")
    await talk.check()
    assert talk.refused == []


@pytest.mark.parametrize("milliseconds", [200, 1500])
async def test_a_slow_redis_loses_nothing(
    server: RedisServer, start: Start, milliseconds: int
) -> None:
    async with Talk(await start(server.url), await start(server.url)) as talk:
        await talk.more()
        await asyncio.to_thread(server.call, "CLIENT", "PAUSE", milliseconds, "ALL")
        await talk.more()
    await talk.check()


async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int) -> None:
    """Pass on so many bytes, and then cut the connection; also where the other side did so."""
    try:
        while limit > 0 and (data := await source.read(min(limit, 4096))):
            target.write(data)
            limit -= len(data)
    finally:
        target.transport.abort()


async def test_an_answer_that_is_cut_off_leads_to_no_second_message(
    server: RedisServer, start: Start
) -> None:
    path = server.url.removeprefix("unix://")
    cuts = iter(range(8000, 20_000, 531))
    handlers: set[asyncio.Task[None] | None] = set()

    async def cut(from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        from_server, to_server = await asyncio.open_unix_connection(path)
        await asyncio.gather(
            forward(from_client, to_server, 10**9),
            forward(from_server, to_client, next(cuts, 10**9)),
            return_exceptions=True,
        )
        for writer in (to_server, to_client):
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    proxy = await asyncio.start_unix_server(cut, f"{path}.proxy")
    async with proxy, AsyncExitStack() as stack:
        rooms = [rooms_at(url) for url in (f"{server.url}.proxy", server.url)]
        processes = [await stack.enter_async_context(running_process(each)) for each in rooms]
        async with Talk(*processes) as talk:
            await talk.more(3000)
        await talk.check()
    await asyncio.gather(*filter(None, handlers))
    assert next(cuts, None) is None  # all were made


async def test_scripts_that_redis_forgot_are_loaded_again(
    server: RedisServer, start: Start
) -> None:
    async with Talk(await start(server.url)) as talk:
        for _ in range(3):
            await talk.more(50)
            await asyncio.to_thread(server.call, "SCRIPT", "FLUSH")
        await talk.processes[0].join("another")
    await talk.check()
    assert talk.refused == []


@pytest.mark.parametrize(
    ("harm", "cure", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), "maxmemory"),
        (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), "replica"),
    ],
)
async def test_a_redis_that_takes_nothing_is_said_aloud(
    server: RedisServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    harm: tuple[str | int, ...],
    cure: tuple[str | int, ...],
    reason: str,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(publisher, "PATIENCE", 0.1)
    process = await start(server.url)
    listener = await process.join()
    await process.publish("before")
    await ready(process)
    server.call(*harm)
    await until(lambda: not process.broker.is_ready)
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            await process.publish("refused")
    server.call(*cure)
    await ready(process)
    await process.publish("after")
    assert await listener.take(2) == ["before", "after"]
    assert listener.waiting() == 0
    messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert messages.count("Redis is not available") == 1
    assert "Redis is available again" in caplog.text
    reasons = [vars(record).get("reason", "") for record in caplog.records]
    assert any(reason in each for each in reasons)
    assert len(reasons) <= 4


async def test_members_of_rooms_that_are_read_here_can_join_while_redis_is_away(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PATIENCE", 0.3)
    process = await start(server.url)
    first = await process.join()
    server.stop()
    await until(lambda: not process.broker.is_ready)
    second = await process.join()
    with pytest.raises(BrokerUnavailable):
        await process.join("another")
    with pytest.raises(BrokerUnavailable):
        await process.broker.replay("lobby", "")
    joining = asyncio.create_task(process.join("another"))
    await asyncio.sleep(0)  # it begins
    joining.cancel()
    await asyncio.wait([joining])
    server.start()
    await ready(process)
    await process.publish("a")
    assert await first.take(1) == await second.take(1) == ["a"]
