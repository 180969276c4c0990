"""Reading the history for members that return."""

import asyncio

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import history
from fastapi_realtime.rooms.redis.connection import Commands, Health, Shared
from fastapi_realtime.rooms.redis.history import Replays
from fastapi_realtime.rooms.redis.servers import Servers

from ..redis_server import KEYS, RedisServer
from .talk import Start, ready

pytestmark = pytest.mark.anyio

LOBBY = KEYS.room("lobby")


def replays_at(server: RedisServer) -> Replays:
    """Return what reads histories, without the rest of a broker."""
    return Replays(Shared(Servers(server.url), "", KEYS, 100, Health()))


def pages_read(server: RedisServer) -> int:
    """Return how many pages of histories were read since the last time."""
    calls: int = server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    server.call("CONFIG", "RESETSTAT")
    server.call(
        "EVALSHA_RO", history.HISTORY_SHA, 2, "a", "b", "", 0, "", 0, 0
    )  # counted next time
    return calls - 1


async def test_a_history_is_bounded_in_bytes_and_read_in_pages(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(server.url)
    ids = [await process.publish("x" * 60_000) for _ in range(30)]
    replay = await process.broker.replay("lobby", ids[0])
    assert not replay.is_complete
    assert replay.size == sum(map(len, replay.frames)) <= 2**20
    assert len(replay.frames) == 17
    replay = await process.broker.replay("lobby", ids[-6])
    assert replay.is_complete
    assert [ids[-5 + n].encode() in frame for n, frame in enumerate(replay.frames)] == [True] * 5


@pytest.mark.parametrize("since", ["", "rubbish", "ffffffff-5", "EPOCH-1000", "EPOCH-20"])
async def test_a_position_that_is_not_known_or_the_last_one_is_read_once(
    server: RedisServer, start: Start, since: str
) -> None:
    process = await start(server.url)
    ids = [await process.publish(number) for number in range(20)]
    server.call("CONFIG", "RESETSTAT")
    replay = await process.broker.replay("lobby", since.replace("EPOCH", ids[0][:8]))
    assert (replay.is_complete, len(replay.frames)) == (since == "EPOCH-20", 20 - 20 * replay[2])
    calls = {name: each["calls"] for name, each in server.call("INFO", "commandstats").items()}
    assert calls["cmdstat_xrevrange"] == (1 if replay.is_complete else 3)


async def test_few_histories_are_read_at_once_and_clients_take_turns(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REPLAYS_AT_ONCE", 1)
    process = await start(server.url)
    position = await process.publish("a")
    replays, order = replays_at(server), []

    async def read(client: str) -> None:
        assert (await replays.read("lobby", position, client)).is_complete
        order.append(client)

    tasks = [asyncio.create_task(read(client)) for client in ("a", "a", "a", "b", "a", "c", "b")]
    await asyncio.sleep(0)
    tasks.pop(2).cancel()
    await asyncio.wait(tasks)
    assert order == ["a", "a", "b", "c", "b", "a"]
    await replays.close()


async def test_who_is_cancelled_when_its_turn_comes_passes_it_on(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REPLAYS_AT_ONCE", 1)
    replays = replays_at(server)
    commands = await replays._take("a")
    waiting = asyncio.create_task(replays._take("a"))
    await asyncio.sleep(0)
    replays._give_back(commands)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert replays._free == [commands]


async def test_histories_that_cannot_be_read_hold_up_neither_joins_nor_presence(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REPLAY_SECONDS", 0.3)
    process = await start(server.url)
    await ready(process)
    run, reading = Commands.run, asyncio.Event()

    async def hang(commands: Commands, *some: object) -> None:
        reading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Commands, "run", hang)
    replays = [asyncio.create_task(process.broker.replay("lobby", "")) for _ in range(9)]
    await reading.wait()
    monkeypatch.setattr(Commands, "run", run)
    await process.join()
    assert (await process.broker.present("another")).count == 0
    for each in replays[:4]:
        with pytest.raises(BrokerUnavailable):
            await each
    await asyncio.gather(*replays, return_exceptions=True)


async def test_a_history_of_a_wrong_type_is_refused(
    server: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    process = await start(server.url)
    server.call("SET", LOBBY.head, "not ours")
    with pytest.raises(BrokerUnavailable):
        await process.broker.replay("lobby", "")
    assert [vars(record)["room"] for record in caplog.records] == ["lobby"]
