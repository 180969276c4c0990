"""Reading all rooms of a process through one connection."""

import asyncio
from contextlib import suppress

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import (
    link,
    members,
    reader,
)
from fastapi_realtime.rooms.redis.packed import (
    pack_read,
    pack_text,
)
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import Connection

from ..brokers import Process
from ..hub_client import Client
from ..redis_server import KEYS, RedisServer
from .talk import Start, Talk, ready, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("left", "told"), [(0, ["gap"]), (3, ["gap", 7, 8, 9])])
async def test_a_reader_that_falls_behind_the_log_says_so_and_delays_nobody(
    server: RedisServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    left: int,
    told: list[object],
) -> None:
    process = await start(server.url)
    is_flooded = True
    monkeypatch.setattr(process.hub, "full_rooms", lambda: {"flooded"} if is_flooded else set())
    slow, other = await process.join("flooded"), await process.join("quiet")
    for number in range(10):
        await process.publish(number, "flooded")
        await process.publish(number, "quiet")
    assert await other.take(10) == list(range(10))
    assert slow.waiting() == 0
    server.call("XTRIM", KEYS.room("flooded").log, "MAXLEN", left)
    is_flooded = False
    assert await slow.take(len(told)) == told
    await process.publish("after", "flooded")
    assert await slow.take(1) == ["after"]


async def test_full_rooms_are_read_on_once_there_is_space(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(server.url)
    is_full = True
    monkeypatch.setattr(process.hub, "full_rooms", lambda: {"lobby"} if is_full else set())
    listener = await process.join()
    await process.publish("a")
    flushing = asyncio.create_task(process.broker.flush())
    for _ in range(20):
        await asyncio.sleep(0)
    assert listener.waiting() == 0
    assert not flushing.done()
    is_full = False
    await flushing
    await process.hub.flush()
    assert await listener.take(1) == ["a"]


@pytest.mark.parametrize("id", ["2-0", "1-7", "*"])
async def test_what_another_program_puts_into_a_log_is_a_gap(
    server: RedisServer, start: Start, id: str
) -> None:
    process = await start(server.url)
    listener = await process.join()
    await process.publish("a")
    assert await listener.take(1) == ["a"]
    server.call("XADD", KEYS.room("lobby").log, id, "not", "ours")
    assert await listener.take(1) == ["gap"]
    await ready(process)
    await process.publish("b")
    assert await listener.take(1) == ["b"]
    assert listener.waiting() == 0


async def test_a_burst_waits_for_its_reader_which_may_fail(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_LAG", 10)
    monkeypatch.setattr(members, "PATIENCE", 0.3)
    process = await start(server.url)
    is_full = True
    monkeypatch.setattr(process.hub, "full_rooms", lambda: {"lobby"} if is_full else set())
    listener = await process.join()
    burst = [asyncio.create_task(process.publish(number)) for number in range(20)]
    await asyncio.wait(burst[:10])
    await process.publish("to nobody", "another")
    assert not any(task.done() for task in burst[10:])
    server.stop()
    for task in burst[10:]:
        with pytest.raises(BrokerUnavailable):
            await task
    server.start()
    is_full = False
    assert await listener.take(10) == list(range(10))


async def test_a_join_does_not_wait_for_a_read(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CHECK_SECONDS", 60.0)
    monkeypatch.setattr(link, "ANSWER_SECONDS", 90.0)
    process = await start(server.url)
    async with asyncio.timeout(10):
        for number in range(50):
            await process.join(str(number))
    await ready(process)


async def test_many_rooms_take_turns_to_be_compared_and_none_is_forgotten(
    forgetful: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "ROOMS_AT_ONCE", 3)
    monkeypatch.setattr(reader, "ROUND_SECONDS", 0.2)
    process = await start(forgetful.url)
    listeners = [await process.join(str(number)) for number in range(20)]
    for number, listener in enumerate(listeners):
        await process.publish("a", str(number))
        assert await listener.take(1) == ["a"]
    forgetful.call("FLUSHALL")
    for listener in listeners:
        assert await listener.take(1) == ["gap"]


async def test_a_room_that_is_never_silent_is_compared_now_and_then(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BUSY_CHECK_SECONDS", 0.3)
    process = await start(server.url)
    await process.join()
    server.call("PERSIST", KEYS.room("lobby").head)
    async with Talk(process) as talk:
        await until(lambda: server.call("TTL", KEYS.room("lobby").head) > 0)
    await talk.check()


@given(st.integers(0, 10**9), st.lists(st.tuples(st.binary(), st.integers(0, 2**53))))
def test_a_packed_read_is_what_redis_py_packs(wait: int, rooms: list[tuple[bytes, int]]) -> None:
    logs, offsets = [log for log, _ in rooms], [offset for _, offset in rooms]
    block = ("BLOCK", wait) if wait else ()
    after = [f"{offset}-0" for offset in offsets]
    packed = Connection().pack_command("XREAD", "COUNT", 7, *block, "STREAMS", *logs, *after)
    assert pack_read(7, wait, [pack_text(log) for log in logs], offsets) == b"".join(packed)


async def test_a_room_that_is_broken_in_redis_breaks_no_other(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    broken, other = await process.join("broken"), await process.join("other")
    await ready(process)
    server.call("DEL", KEYS.room("broken").log)
    server.call("SET", KEYS.room("broken").log, "not ours")
    for number in range(3):
        await process.publish(number, "other")
    assert await other.take(3) == [0, 1, 2]
    server.call("DEL", KEYS.room("broken").log)
    while not await is_taken(process, "broken"):
        pass
    assert await broken.take(1) == ["on"]


async def is_taken(process: Process, room: str) -> bool:
    """Return whether a room takes a message."""
    with suppress(BrokerUnavailable):
        return bool(await process.publish("on", room))
    return False


@pytest.mark.parametrize("field", ["e", "m"])
async def test_bytes_that_are_no_text_are_skipped_in_a_log(
    server: RedisServer, start: Start, field: str
) -> None:
    process = await start(server.url)
    text_member = Client()
    process.hub.subscribe("lobby", text_member.connection).start()
    await process.broker.enter("lobby")
    epoch = server.call("HGET", KEYS.room("lobby").head, "epoch")
    fields = {"e": epoch, "o": b"", "n": b"", "m": b""} | {field: b"\xff"}
    pairs = [each for pair in fields.items() for each in pair]
    server.call("XADD", KEYS.room("lobby").log, "1-0", *pairs)
    server.call("HSET", KEYS.room("lobby").head, "offset", 1)
    await process.publish("b")
    await text_member.received(1)
    assert text_member.written[-1].endswith(b"New message: b")
    await ready(process)


async def test_who_waits_to_publish_keeps_its_place(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_LAG_BYTES", 1000)
    process = await start(server.url)
    listener = await process.join()
    texts = [("x" * 400 if number % 2 else "") + str(number) for number in range(50)]
    await asyncio.gather(*map(process.publish, texts))
    assert await listener.take(50) == texts


async def test_publishers_that_wait_for_a_reader_go_on_when_the_last_member_leaves(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_LAG", 10)
    process = await start(server.url)
    monkeypatch.setattr(process.hub, "full_rooms", lambda: {"lobby"})
    await process.join()
    burst = [asyncio.create_task(process.publish(number)) for number in range(20)]
    await asyncio.wait(burst[:10])
    process.broker.leave("lobby")
    async with asyncio.timeout(20):
        await asyncio.gather(*burst)
