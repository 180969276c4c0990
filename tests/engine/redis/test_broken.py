"""Rooms that are broken in Redis: they break no other, are said once, and recover."""

import asyncio
from contextlib import suppress

import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.events import PresenceEvent
from fastapi_realtime.rooms.redis import connection

from ..brokers import Process
from ..hub_client import Client
from ..redis_server import KEYS, RedisServer
from .talk import Start, ready, resume, until

pytestmark = pytest.mark.anyio

ROOM = KEYS.room("broken")
HARMS: dict[str, list[tuple[str | int | bytes, ...]]] = {
    "epoch is no text": [("HSET", ROOM.head, "epoch", b"\xff")],
    "epoch is no name": [("HSET", ROOM.head, "epoch", "../../etc")],
    "epoch is too short": [("HSET", ROOM.head, "epoch", "abc")],
    "epoch has capitals": [("HSET", ROOM.head, "epoch", "ABCDEF01")],
    "start is no number": [("HSET", ROOM.head, "start", "abc")],
    "offset is missing": [("HDEL", ROOM.head, "offset")],
    "offset is too high": [("HSET", ROOM.head, "offset", 2**60)],
    "past is no list": [("HSET", ROOM.head, "past", "a (b")],
    "head is no hash": [("DEL", ROOM.head), ("SET", ROOM.head, "not ours")],
    "log is no stream": [("DEL", ROOM.log), ("SET", ROOM.log, "not ours")],
    "refs are no set": [("DEL", ROOM.refs), ("SET", ROOM.refs, "not ours")],
    "log is ahead": [("XADD", ROOM.log, "1000-0", "a", "b")],
    "log has times": [("XADD", ROOM.log, "*", "a", "b")],
    "log has ids between": [("XADD", ROOM.log, "1-1", "a", "b")],
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("is_published", [False, True])
async def test_a_broken_room_breaks_no_other_and_begins_anew(
    server: RedisServer,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    harm: str,
    is_published: bool,
) -> None:
    process = await start(server.url)
    broken, other = await process.join("broken"), await process.join("other")
    await ready(process)
    old = await process.publish("a", "broken", ref="r1")
    assert await broken.take(1) == ["a"]
    for command in HARMS[harm]:
        server.call(*command)
    if is_published:
        await publish(process, "b")
    else:
        assert await broken.take(1) == ["gap"]
    for number in range(3):
        await process.publish(number, "other")
    assert await other.take(3) == [0, 1, 2]
    new = await publish(process, "c")
    texts = await broken.take(1)
    while texts[-1] != "c":
        texts += await broken.take(1)
    assert {*texts} <= {"gap", "b", "c"}
    assert new.partition("-")[0] != old.partition("-")[0] or harm == "log has ids between"
    assert process.broker.is_ready
    _, replay = await resume(process, old, "broken")
    assert not replay.is_complete or harm == "log has ids between"
    assert [vars(record)["room"] for record in caplog.records] == ["broken"]


async def publish(process: Process, text: str) -> str:
    """Publish a message, again if its room was broken."""
    async with asyncio.timeout(10):
        while True:
            with suppress(BrokerUnavailable):
                return await process.publish(text, "broken", ref=text)


PACKED = b'","room":"lobby","sender":"zoe","data":1}'


@pytest.mark.parametrize(
    "fields",
    [
        {"m": "rubbish"},
        {"m": b"\xff"},
        {"m": PACKED + b"}"},
        {"m": PACKED.replace(b"1", b"NaN")},
        {"m": PACKED.replace(b"lobby", b"another")},
        {"m": PACKED.replace(b'"data"', b'"id":"0-0","data"')},
        {"m": PACKED.replace(b'"zoe"', b"1")},
        {"e": b"\xff"},
        {"e": '"'},
        {"o": b"\xff"},
        {"x": "of another program"},
    ],
    ids=range(11),
)
async def test_an_entry_that_is_no_message_is_a_gap_and_sent_to_nobody(
    server: RedisServer, start: Start, caplog: pytest.LogCaptureFixture, fields: dict[str, bytes]
) -> None:
    process = await start(server.url)
    text_member, listener = Client(), await process.join()
    process.hub.subscribe("lobby", text_member.connection).start("lobby")
    epoch = server.call("HGET", KEYS.room("lobby").head, "epoch")
    entry = {"e": epoch, "o": b"", "m": PACKED} | fields
    pairs = [each for pair in entry.items() for each in pair]
    server.call("XADD", KEYS.room("lobby").log, "1-0", *pairs)
    server.call("HSET", KEYS.room("lobby").head, "offset", 1)
    sent = await process.publish("b")
    assert await listener.take(2) == ["gap", "b"]
    await text_member.received(1)
    assert text_member.written == [text_member.written[0]]
    assert text_member.written[0].endswith(b"New message: b")
    back, replay = await resume(process, f"{sent.partition('-')[0]}-0")
    assert not replay.is_complete
    assert await back.take(1) == ["b"]
    await ready(process)
    assert {record.message for record in caplog.records} == {"a room is broken in Redis"}


async def test_entries_that_name_no_subject_close_nobody(
    server: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    process = await start(server.url)
    await ready(process)
    for pairs in (("subject", ""), ("a", "b", "c", "d"), ("subject", b"\xff")):
        server.call("XADD", KEYS.closed, "*", *pairs)
    await process.broker.close_subject("zoe")
    await until(lambda: process.closed == ["zoe"])
    assert process.broker.is_ready
    server.call("DEL", KEYS.closed)
    server.call("SET", KEYS.closed, "not ours")
    server.call("CLIENT", "KILL", "TYPE", "normal")
    await until(lambda: not server.call("EXISTS", KEYS.closed))
    await ready(process)
    await process.broker.close_subject("bob")
    await until(lambda: process.closed == ["zoe", "bob"])
    listener = await process.join()
    await process.publish("a")
    assert await listener.take(1) == ["a"]
    broken = [each for each in caplog.records if each.message == "a room is broken in Redis"]
    assert [vars(each)["room"] for each in broken] == [KEYS.closed]


@pytest.mark.parametrize("text", ["2 0 0 rubbish", "2 rubbish 0 0a0a0a0a 2"])
async def test_a_batch_that_redis_remembers_wrongly_is_refused(
    server: RedisServer, start: Start, text: str
) -> None:
    process = await start(server.url)
    await process.publish("a")
    (key,) = server.call("KEYS", "*:sent:*")
    server.call("SET", key, text)
    with pytest.raises(BrokerUnavailable):
        await process.publish("b")
    server.call("DEL", key)
    server.call("HSET", key, "not", "ours")
    assert (await process.publish("c")).endswith("-2")


async def test_few_rights_are_enough(server: RedisServer, start: Start) -> None:
    rights = "~fastapi_realtime:* &fastapi_realtime:* +@all -@admin -@dangerous +info"
    server.call("ACL", "SETUSER", "chat", "on", ">secret", *rights.split(), "-@transaction")
    process = await start(server.url.replace("unix://", "unix://chat:secret@"))
    listener = await process.join()
    last = await process.publish("a", ref="r1")
    assert await listener.take(1) == ["a"]
    assert (await process.broker.replay("lobby", last)).is_complete
    event = PresenceEvent(type="joined", room="tea", sender="zoe", connection="c")
    await process.broker.announce(event)
    assert (await process.broker.present("tea")).count == 1
    await process.broker.close_subject("zoe")
    await until(lambda: process.closed == ["zoe"])
    await ready(process)


async def test_each_room_is_said_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    health = connection.Health()
    for number in (*range(connection.MAX_REPORTS + 1), 1, 1, 0, 0):
        health.breaks(str(number), "a reason")
    rooms = [vars(record)["room"] for record in caplog.records]
    assert rooms == [*map(str, range(connection.MAX_REPORTS + 1)), "0"]
