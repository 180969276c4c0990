"""Redis that forgets: every member is told."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from fastapi_realtime.rooms.redis import reader

from ..hub_client import Client
from ..redis_server import KEYS, RedisServer, running_redis
from .talk import Start, ready, resume, until

pytestmark = pytest.mark.anyio


async def forget(server: RedisServer) -> None:
    """Delete everything."""
    await asyncio.to_thread(server.call, "FLUSHALL")


async def restart(server: RedisServer) -> None:
    """Stop and start it."""
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)


async def lose_the_tail(server: RedisServer) -> None:
    """Go back to the last snapshot, as a failover to a replica that lags does."""
    await asyncio.to_thread(server.stop, kill=True)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("lose", [forget, restart, lose_the_tail])
async def test_every_member_is_told_of_a_loss_and_talk_goes_on(
    forgetful: RedisServer, start: Start, lose: Callable[[RedisServer], Awaitable[None]]
) -> None:
    processes = [await start(forgetful.url) for _ in range(2)]
    joined = [await process.join() for process in processes for _ in range(2)]
    text_member = Client()
    processes[0].hub.subscribe("lobby", text_member.connection).start("lobby")
    await processes[0].publish("kept")
    if lose is lose_the_tail:
        forgetful.call("SAVE")
    old = [await processes[0].publish(text) for text in ("seen", "lost")][-1]
    for member in joined:
        assert await member.take(3) == ["kept", "seen", "lost"]
    await lose(forgetful)
    for member in joined:
        assert await member.next() == {"type": "gap", "room": "lobby", "since": old}
    await ready(*processes)
    new = await processes[1].publish("new")
    assert new.partition("-")[0] != old.partition("-")[0]
    for member in joined:
        assert await member.take(1) == ["new"]
        assert member.waiting() == 0
    assert not (await processes[1].broker.replay("lobby", old)).is_complete
    assert text_member.written[-1].endswith(b"New message: new")
    assert not any(b"gap" in data for data in text_member.written)


async def test_a_failover_that_lost_the_tail_is_told_of_also_when_its_offsets_came_again(
    server: RedisServer, start: Start
) -> None:
    port = free_port()
    with running_redis("--save", "", "--port", str(port)) as master:
        address = master.socket.with_name("address")
        address.symlink_to(master.socket)
        await become_replica(server, port)
        processes = [await start(f"unix://{address}") for _ in range(2)]
        joined = [await process.join() for process in processes]
        await processes[0].publish("kept")
        master.call("WAIT", 1, 10_000)
        server.call("REPLICAOF", "NO", "ONE")
        old = await processes[0].publish("lost")
        for member in joined:
            assert await member.take(2) == ["kept", "lost"]
        address.unlink()
        master.stop(kill=True)
        other = await start(server.url)
        for number in range(3):
            await other.publish(number)
        address.symlink_to(server.socket)
        for member in joined:
            assert await member.next() == {"type": "gap", "room": "lobby", "since": old}
            assert await member.take(3) == [0, 1, 2]
        await ready(*processes)
        await processes[1].publish("on")
        for member in joined:
            assert await member.take(1) == ["on"]
        assert not (await other.broker.replay("lobby", old)).is_complete


async def become_replica(server: RedisServer, port: int) -> None:
    """Make a server a replica of the one at a port, and wait until it has all."""
    server.call("REPLICAOF", "127.0.0.1", port)
    await until(lambda: server.call("INFO", "replication")["master_link_status"] == "up")


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_a_room_that_is_new_when_redis_has_forgotten_it_is_told_of_at_once(
    forgetful: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BEAT_SECONDS", 0.4)
    process, other = await start(forgetful.url), await start(forgetful.url)
    listener = await process.join()
    for number in range(3):
        await other.publish(number)
    assert await listener.take(3) == [0, 1, 2]
    forgetful.call("FLUSHALL")
    await asyncio.gather(*(other.publish(number) for number in range(10)))
    assert await listener.take(11) == ["gap", *range(10)]


async def test_a_message_of_another_epoch_in_a_log_is_a_gap(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    listener = await process.join()
    log = KEYS.room("lobby").log
    message = '","room":"lobby","sender":"zoe","data":1}'
    server.call("XADD", log, "1-0", "e", "00000000", "o", "", "m", message)
    server.call("HSET", KEYS.room("lobby").head, "offset", 1)
    assert await listener.take(1) == ["gap"]
    await process.publish("a")
    assert await listener.take(1) == ["a"]
    await ready(process)


async def test_a_message_from_an_older_epoch_is_not_delivered(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    listener = await process.join()
    server.call("HSET", KEYS.room("lobby").head, "epoch", "ffffffff")
    sent = await process.publish("a")
    assert sent == "ffffffff-1"
    assert await listener.take(2) == ["gap", "a"]


async def test_a_loss_of_what_nobody_has_read_yet_is_told_of(
    forgetful: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(forgetful.url)
    listener = await process.join()
    await process.publish("kept")
    assert await listener.take(1) == ["kept"]
    forgetful.call("SAVE")
    is_full = True
    monkeypatch.setattr(process.hub, "is_full", lambda room: is_full)
    old = [await process.publish(text) for text in ("lost", "lost, too")][-1]
    await lose_the_tail(forgetful)
    is_full = False
    assert await listener.take(1) == ["gap"]
    await ready(process)
    await process.broker.flush()
    new = await process.publish("new")
    assert new.partition("-")[0] != old.partition("-")[0]
    assert await listener.take(1) == ["new"]


async def test_a_tail_that_redis_loses_while_nobody_is_there_is_a_gap(
    forgetful: RedisServer, start: Start
) -> None:
    process = await start(forgetful.url)
    listener = await process.join()
    kept = await process.publish("kept")
    forgetful.call("SAVE")
    last = [await process.publish(text) for text in ("seen", "seen, too")][-1]
    assert await listener.take(3) == ["kept", "seen", "seen, too"]
    process.broker.leave("lobby")
    await asyncio.to_thread(forgetful.stop, kill=True)
    await until(lambda: not process.broker.is_ready)
    await asyncio.to_thread(forgetful.start)
    await ready(process)
    for text in ("missed 1", "missed 2", "got"):
        await process.publish(text)
    _, replay = await resume(process, last)
    assert not replay.is_complete
    back, replay = await resume(process, kept)
    assert replay.is_complete
    assert await back.take(3) == ["missed 1", "missed 2", "got"]


async def test_after_a_restart_that_lost_nothing_positions_are_still_known(
    server: RedisServer, start: Start
) -> None:
    process, other = await start(server.url), await start(server.url)
    listener = await process.join()
    ids = [await process.publish(0)]
    for number in range(1, 15):
        await asyncio.to_thread(server.stop, kill=number % 2 == 1)
        await until(lambda: not process.broker.is_ready and not other.broker.is_ready)
        await asyncio.to_thread(server.start)
        await ready(process, other)
        ids.append(await process.publish(number))
    assert await listener.take(15) == list(range(15))
    assert len({id.partition("-")[0] for id in ids}) == 15
    assert listener.waiting() == 0
    back, replay = await resume(other, ids[2])
    assert not replay.is_complete  # only some epochs are remembered
    back, replay = await resume(other, ids[5])
    assert replay.is_complete
    assert [(await back.next())["id"] for _ in range(9)] == ids[6:]


async def test_the_id_of_a_known_ref_is_that_of_its_message_in_another_epoch(
    forgetful: RedisServer, start: Start
) -> None:
    process = await start(forgetful.url)
    listener = await process.join()
    first = await process.publish("a", ref="r1")
    forgetful.call("SAVE")
    await process.publish("lost")
    assert await listener.take(2) == ["a", "lost"]
    await lose_the_tail(forgetful)
    assert await listener.take(1) == ["gap"]
    await ready(process)
    assert await process.publish("a", ref="r1") == first
    ids = await asyncio.gather(*(process.publish("b", ref="r2") for _ in range(3)))
    assert len({*ids}) == 1
    forgetful.call("XTRIM", KEYS.room("lobby").log, "MAXLEN", 0)
    assert await process.publish("a", ref="r1") != first  # the history has it no more
