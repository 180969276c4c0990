"""Publishing through one connection."""

import asyncio
from contextlib import suppress

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import (
    RedisBroker,
    publisher,
    reader,
    scripts,
    servers,
)

from ..brokers import running_process
from ..redis_server import KEYS, RedisServer, rooms_at
from .talk import Start, ready, until

pytestmark = pytest.mark.anyio


async def test_a_message_that_redis_refuses_is_its_publishers_error_alone(
    server: RedisServer,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reader, "PATIENCE", 0.3)
    patterns = [f"~fastapi_realtime:{each}*" for each in ("{lobby}", "closed", "process")]
    server.call("ACL", "SETUSER", "chat", "on", ">secret", *patterns, "&*", "+@all")
    process = await start(server.url.replace("unix://", "unix://chat:secret@"))
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            await process.publish("a", "broken")
    with pytest.raises(BrokerUnavailable):
        await process.join("broken")
    listener = await process.join()
    await process.publish("b")
    assert await listener.take(1) == ["b"]
    assert [record.message for record in caplog.records] == [
        "Redis refused a message",
        "Redis refuses a room",
    ]
    assert {vars(record)["room"] for record in caplog.records} == {"broken"}


async def test_a_ref_that_cannot_be_encoded_is_its_publishers_error_alone(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    with pytest.raises(UnicodeEncodeError):
        await process.publish("a", ref="\ud800")
    assert (await process.publish("b")).endswith("-1")


async def test_publishers_wait_for_a_while_and_then_are_told(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_WAITING", 2)
    monkeypatch.setattr(publisher, "PATIENCE", 0.5)
    process = await start(server.url)
    await process.join()
    await ready(process)
    server.stop()
    await until(lambda: not process.broker.is_ready)
    waiting = [asyncio.create_task(process.publish(number)) for number in range(2)]
    gone = waiting.pop()
    await asyncio.sleep(0)  # they begin
    with pytest.raises(BrokerUnavailable):
        await process.publish("one too many")
    gone.cancel()
    with pytest.raises(BrokerUnavailable):
        await waiting[0]
    with pytest.raises(BrokerUnavailable):
        await process.publish("at once")
    server.start()
    await ready(process)
    await process.publish("again")


async def test_a_message_whose_publisher_has_gone_arrives_all_the_same(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    listener = await process.join()
    gone = asyncio.create_task(process.publish("from one who leaves"))
    await asyncio.sleep(0)  # it begins
    gone.cancel()
    assert await listener.take(1) == ["from one who leaves"]


async def test_what_a_process_published_before_it_stops_is_refused_or_accepted(
    server: RedisServer,
) -> None:
    async with running_process(rooms_at(server.url)) as process:
        await process.join()
        server.call("CLIENT", "PAUSE", 300, "ALL")
        late = asyncio.create_task(process.publish("a"))
        await process.broker.enter("lobby")
    with pytest.raises(BrokerUnavailable):
        await late


async def test_a_log_keeps_the_history_and_for_a_while_more(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "LOG_LENGTH", 80)
    monkeypatch.setattr(scripts, "LOG_BYTES", 20_000)
    monkeypatch.setattr(scripts, "MAX_ROOM_BYTES", 10_000)
    process, keys = await start(server.url, history_length=5), KEYS.room("lobby")
    for number in range(80 + 63):
        await process.publish(number)
    assert server.call("XLEN", keys.log) == 80 + 63
    await process.publish("and the next")
    assert server.call("XLEN", keys.log) == 80
    server.call("HSET", keys.head, "at", 0)  # as if these were old
    await process.publish("later")
    assert server.call("XLEN", keys.log) == 5
    for _ in range(20):
        await process.publish("x" * 2000)
    sizes = [len(fields[b"m"]) for _, fields in server.call("XRANGE", keys.log, "-", "+")]
    assert (len(sizes), sum(sizes)) == (9, int(server.call("HGET", keys.head, "bytes")))
    server.call("HSET", keys.head, "at", 0)
    await process.join()
    assert server.call("XLEN", keys.log) == 4
    server.call("DEL", keys.log)
    last = await process.publish("x" * 21_000)
    assert server.call("XLEN", keys.log) == 0
    assert int(server.call("HGET", keys.head, "bytes")) == 0
    assert not (await process.broker.replay("lobby", last.partition("-")[0] + "-1")).is_complete
    await process.publish("on")
    assert (await process.broker.replay("lobby", last)).is_complete


async def test_a_log_is_trimmed_when_the_last_member_has_left_or_there_was_none(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(server.url, history_length=5)
    await process.join("left")
    for room in ("left", "without members"):
        await asyncio.gather(*(process.publish(number, room) for number in range(200)))
        assert server.call("XLEN", KEYS.room(room).log) == 200
        server.call("HSET", KEYS.room(room).head, "at", 0)  # as if these were old
    process.broker.leave("left")
    assert isinstance(process.broker, RedisBroker)
    waiting = process.broker._reader._to_trim
    assert {*waiting} == {"left", "without members"}
    monkeypatch.setattr(reader, "MAX_TO_TRIM", 2)
    process.broker._reader.trim_later("another")
    assert {*waiting} == {"left", "another"}
    process.broker._reader.trim_later("without members")
    process.broker._reader.trim_later("left")
    assert {*waiting} == {"left", "without members"}
    for room in [*waiting]:
        waiting[room] = 0.0
    await until(lambda: not waiting)
    assert server.call("XLEN", KEYS.room("left").log) == 5
    assert server.call("XLEN", KEYS.room("without members").log) == 5


async def test_what_redis_may_have_forgotten_is_not_sent_again(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "KNOWN_SECONDS", 0.1)
    process = await start(server.url)
    listener = await process.join()
    await ready(process)
    server.call("CLIENT", "PAUSE", 1000, "WRITE")
    with pytest.raises(BrokerUnavailable):
        await process.publish("perhaps")
    last, texts = "", []
    while not last:
        with suppress(BrokerUnavailable):
            last = await process.publish("surely")
    while (event := await listener.next()).get("id") != last:
        texts.append(event.get("data"))
    assert texts.count("perhaps") <= 1


async def test_a_message_that_was_given_up_on_its_way_is_counted_once(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 0.3)
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 5.0)
    process = await start(server.url)
    listener = await process.join()
    await ready(process)
    server.stop()
    await until(lambda: not process.broker.is_ready)
    late = asyncio.create_task(process.publish("late"))
    server.start()
    server.call("CLIENT", "PAUSE", 1000, "WRITE")
    with pytest.raises(BrokerUnavailable):
        await late
    await ready(process)
    await process.publish("on")
    async with asyncio.timeout(20):
        await process.broker.flush()
    assert (await listener.take(1))[0] in ("gap", "late", "on")


async def test_a_message_that_was_refused_on_its_way_is_not_sent_again(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 0.5)
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 20.0)
    process = await start(server.url)
    listener = await process.join()
    await ready(process)
    server.call("REPLICAOF", "127.0.0.1", 1)
    refused = asyncio.create_task(process.publish("refused"))
    await until(lambda: not process.broker.is_ready)
    server.call("CLIENT", "PAUSE", 1500, "WRITE")
    with pytest.raises(BrokerUnavailable):
        await refused
    await asyncio.to_thread(server.call, "EVAL", "return 1", 0)  # runs after what was sent before
    server.call("REPLICAOF", "NO", "ONE")
    await ready(process)
    await process.publish("on")
    assert await listener.take(1) == ["on"]


async def test_the_messages_of_a_burst_go_to_redis_together(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    await process.publish("first")
    before = scripts_run(server)
    await asyncio.gather(*(process.publish(number, ref=str(number)) for number in range(200)))
    assert scripts_run(server) - before < 50  # some are comparisons and signs of life
    assert server.call("ZCARD", KEYS.room("lobby").refs) == 100  # as many as messages are kept


def scripts_run(server: RedisServer) -> int:
    """Return how many scripts Redis has run."""
    calls: int = server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    return calls


async def test_so_many_bytes_wait_for_redis_and_no_more(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_WAITING_BYTES", 5000)
    process = await start(server.url)
    for _ in range(20):
        await process.publish("x" * 1000)
    server.stop()
    await until(lambda: not process.broker.is_ready)
    waiting = [asyncio.create_task(process.publish("x" * 3000)) for _ in range(2)]
    await asyncio.sleep(0)  # they begin
    with pytest.raises(BrokerUnavailable):
        await process.publish("one too many")
    for task in waiting:
        task.cancel()
