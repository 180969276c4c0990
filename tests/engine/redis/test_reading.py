"""Reading all rooms of a process through one connection."""

import asyncio
import json

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import reader, servers
from fastapi_realtime.rooms.redis.broker import RedisBroker

from ..redis_server import KEYS, RedisServer
from .links import narrow_link
from .talk import Start, ready, resume, until

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
    monkeypatch.setattr(process.hub, "is_full", lambda room: is_flooded and room == "flooded")
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
    monkeypatch.setattr(process.hub, "is_full", lambda room: is_full)
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
    monkeypatch.setattr(reader, "MAX_LAG", 10)
    monkeypatch.setattr(reader, "PATIENCE", 0.3)
    process = await start(server.url)
    is_full = True
    monkeypatch.setattr(process.hub, "is_full", lambda room: is_full)
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
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60.0)
    monkeypatch.setattr(servers, "ANSWER_SECONDS", 90.0)
    process = await start(server.url)
    async with asyncio.timeout(10):
        for number in range(50):
            await process.join(str(number))
    await ready(process)


async def test_many_rooms_take_turns_to_be_compared_and_none_is_forgotten(
    forgetful: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "ROOMS_AT_ONCE", 3)
    monkeypatch.setattr(reader, "ROUND_SECONDS", 0.5)
    process = await start(forgetful.url)
    listeners = [await process.join(str(number)) for number in range(20)]
    for number, listener in enumerate(listeners):
        await process.publish("a", str(number))
        assert await listener.take(1) == ["a"]
    forgetful.call("FLUSHALL")
    for listener in listeners:
        assert await listener.take(1) == ["gap"]


async def test_who_waits_to_publish_keeps_its_place(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_LAG_BYTES", 1000)
    process = await start(server.url)
    listener = await process.join()
    texts = [("x" * 400 if number % 2 else "") + str(number) for number in range(50)]
    await asyncio.gather(*map(process.publish, texts))
    assert await listener.take(50) == texts


async def test_publishers_that_wait_for_a_reader_go_on_when_the_last_member_leaves(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_LAG", 10)
    process = await start(server.url)
    monkeypatch.setattr(process.hub, "is_full", lambda room: True)
    await process.join()
    burst = [asyncio.create_task(process.publish(number)) for number in range(20)]
    await asyncio.wait(burst[:10])
    process.broker.leave("lobby")
    async with asyncio.timeout(20):
        await asyncio.gather(*burst)


async def test_publishers_that_wait_keep_their_order_when_the_last_member_leaves(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_LAG", 5)
    process = await start(server.url)
    monkeypatch.setattr(process.hub, "is_full", lambda room: True)
    await process.join()
    calls = [asyncio.create_task(process.publish(number)) for number in range(20)]
    await asyncio.wait(calls[:5])
    process.broker.leave("lobby")
    calls.append(asyncio.create_task(process.publish("last")))
    offsets = [int(id.partition("-")[2]) for id in await asyncio.gather(*calls)]
    assert offsets == list(range(1, 22))


async def test_a_member_that_has_seen_all_gets_nothing_twice_where_reading_is_late(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = await start(server.url), await start(server.url)
    is_full = True
    monkeypatch.setattr(late.hub, "is_full", lambda room: is_full)
    await late.join()
    listener = await other.join()
    for number in range(3):
        last = await other.publish(number)
    assert await listener.take(3) == [0, 1, 2]
    back, replay = await resume(late, last)
    assert replay.is_complete
    is_full = False
    await other.publish("next")
    assert await back.take(1) == ["next"]


async def test_a_large_batch_of_another_process_is_passed_on_in_pieces(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, other = await start(server.url), await start(server.url)
    listener = await process.join()
    monkeypatch.setattr(reader, "READ_BYTES", 200_000)
    sizes: list[int] = []
    write = listener.write

    def measure(data: bytes | memoryview) -> None:
        sizes.append(len(data))
        write(data)

    listener.write = measure  # type: ignore[method-assign]
    await asyncio.gather(*(other.publish("x" * 65_000) for _ in range(100)))
    await listener.take(100)
    assert max(sizes) < 2**19


async def test_a_message_costs_the_same_however_many_rooms_there_are(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60.0)
    process = await start(server.url)
    await ready(process)
    listener = await process.join()
    await asyncio.gather(*(process.join(str(number)) for number in range(1000)))
    server.call("CONFIG", "RESETSTAT")
    for number in range(20):
        await process.publish(number)
        assert await listener.take(1) == [number]
    calls = {name: each["calls"] for name, each in server.call("INFO", "commandstats").items()}
    assert calls["cmdstat_evalsha"] == 20
    assert calls.get("cmdstat_xrange", 0) <= 40


async def test_a_hint_that_is_lost_or_wrong_does_no_harm(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.call("ACL", "SETUSER", "mute", "on", ">secret", "~*", "&*", "+@all", "-publish")
    process = await start(server.url)
    mute = await start(server.url.replace("unix://", "unix://mute:secret@"))
    listener = await process.join()
    await ready(process, mute)
    sent = await mute.publish("a")
    assert await listener.take(1) == ["a"]
    epoch, _, _ = sent.partition("-")
    for text in (f"{epoch} 1000 lobby", "ffffffff 7 lobby", "lobby", b"\xff", f"{epoch} x lobby"):
        server.call("PUBLISH", KEYS.news, text)
    await process.publish("b")
    assert await listener.take(1) == ["b"]
    await ready(process)
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60.0)
    server.call("DEL", KEYS.room("lobby").log)
    server.call("SET", KEYS.room("lobby").log, "not ours")
    server.call("PUBLISH", KEYS.news, f"{epoch} 1000 lobby")
    assert await listener.take(1) == ["gap"]


async def test_a_message_that_takes_longer_than_an_answer_may_gets_more_time(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "READ_COUNT", 8)  # it begins with one at once
    process = await start(server.url)
    listener = await process.join()
    await ready(process)
    await process.publish("a" * 5000)
    server.call("CLIENT", "PAUSE", 1500, "ALL")
    assert await listener.take(1) == ["a" * 5000]


async def test_a_link_over_which_little_fits_into_the_time_catches_up(
    server: RedisServer, start: Start
) -> None:
    async with narrow_link(server, 200_000) as url:
        process, other = await start(url), await start(server.url)
        listener, another = await process.join(), await process.join("another")
        await ready(process, other)
        await asyncio.gather(*(other.publish("x" * 60_000) for _ in range(10)))
        await other.publish("x" * 150_000, "another")
        await listener.take(10)
        await another.take(1)
        await process.join("a third")


async def test_small_messages_come_with_their_notice_and_others_are_read(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60)  # a room that is being compared is read
    here, there = await start(server.url), await start(server.url)
    await ready(here, there)
    listeners = [await process.join() for process in (here, there)]

    async def reads(data: str) -> int:
        server.call("CONFIG", "RESETSTAT")
        await here.publish(data)
        assert [await listener.take(1) for listener in listeners] == [[data], [data]]
        await here.broker.flush()
        stats = server.call("INFO", "commandstats")
        return stats.get("cmdstat_xrange", {"calls": 0})["calls"]

    assert await reads("small") == 0
    assert await reads("x" * 5000) > 0
    assert await reads("small again") == 0


async def test_a_message_that_is_not_kept_waits_for_those_that_its_sender_sent_before(
    server: RedisServer, start: Start
) -> None:
    process = await start(server.url)
    await ready(process)
    listener = await process.join()
    first = await process.publish("first")
    assert await listener.take(1) == ["first"]
    epoch = first.partition("-")[0]

    def notice(offset: int, data: str, epoch: str = epoch, **fields: str) -> str:
        event = {"type": "message", "room": "lobby", "sender": "zoe", "data": data} | fields
        return f"{epoch} {offset} lobby\nu  {json.dumps(event)}"

    # At once: a process that its own test blocks for seconds would connect again, and miss some.
    tell = "for _, each in ipairs(ARGV) do redis.call('PUBLISH', KEYS[1], each) end"
    notices = [
        notice(2, "rubbish", room="tea"),
        notice(2, "rubbish", type="append"),
        notice(2, "rubbish", id="x-1"),
        notice(2, "rubbish", more="x"),
        f"{epoch} 2 lobby\n",
        f"{epoch} x lobby\n\n{{}}",
        "\n\n\n",
        f"{epoch} 2 lobby\n\n[",
        *(notice(2, f"typing {number}") for number in range(reader.MAX_UNKEPT + 1)),
        notice(0, "other", epoch="0" * 8),  # of an epoch that is over
    ]
    server.call("EVAL", tell, 1, KEYS.news, *notices)
    assert isinstance(process.broker, RedisBroker)
    unkept = process.broker._reader.cursors["lobby"].unkept
    await until(lambda: unkept and unkept[-1][0] == "0" * 8)
    assert listener.waiting() == 0
    await process.publish("second")
    kept = ["second", *(f"typing {number}" for number in range(2, 1 + reader.MAX_UNKEPT)), "other"]
    assert await listener.take(1 + reader.MAX_UNKEPT) == kept


async def test_a_message_that_is_not_kept_does_not_delay_later_ones(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60)  # when what was missed is found
    process = await start(server.url)
    listener = await process.join()
    await asyncio.gather(*(process.publish(number, keep=number != 1) for number in range(200)))
    assert {*await listener.take(200)} == {*range(200)}


async def test_what_is_not_kept_is_dropped_where_a_room_has_too_much_pending(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(server.url)
    listener, other = await process.join(), await process.join("quiet")
    is_full = True
    monkeypatch.setattr(process.hub, "is_full", lambda room: is_full and room == "lobby")
    for number in range(10):
        await process.publish(number, keep=False)
    await process.publish("end", "quiet", keep=False)
    assert await other.take(1) == ["end"]
    is_full = False
    await process.publish("last")
    assert await listener.take(1) == ["last"]


async def test_messages_that_are_not_kept_store_nothing(server: RedisServer, start: Start) -> None:
    process = await start(server.url)
    for _ in range(3):
        assert await process.publish("typing", "empty", keep=False) == ""
    keys = KEYS.room("empty")
    assert not server.call("EXISTS", keys.log)
    assert 0 < server.call("TTL", keys.head) <= 600
