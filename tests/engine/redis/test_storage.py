"""What an address may store in Redis."""

import asyncio

import pytest
from fastapi_realtime.rooms.broker import RoomRefused
from fastapi_realtime.rooms.redis import RedisBroker, history, reader, scripts
from fastapi_realtime.rooms.redis.history import StoredBytes
from websockets.exceptions import InvalidStatus

from ..redis_server import KEYS, RedisServer, rooms_at
from ..room_app import connect_events, next_event, request, room_app, send
from ..serving import NO_RATE_LIMIT, Serve
from .talk import Start, ready, until

pytestmark = pytest.mark.anyio

ANN, BOB = "192.0.2.1", "192.0.2.2"
TEXT = "x" * 10_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an address store little."""
    monkeypatch.setattr(history, "STORED_BYTES", 100_000)


async def test_an_address_stores_so_much_and_no_more(
    server: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    process = await start(server.url)
    for number in range(7):
        await process.publish(TEXT, f"room {number}", address=ANN)
    with pytest.raises(RoomRefused, match="'room 7' is refused: this address has stored too much"):
        await process.publish(TEXT, "room 7", address=ANN)
    with pytest.raises(RoomRefused):
        await process.publish("a", "room 1", address=ANN)
    await process.publish(TEXT, "another", address=BOB)
    await process.publish(TEXT, "another")
    (record,) = caplog.records
    assert record.message == "an address has stored too much in Redis"
    assert (vars(record)["address"], vars(record)["room"]) == (ANN, "room 7")


async def test_messages_that_replace_others_are_not_counted(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "MAX_ROOM_BYTES", 30_000)
    process = await start(server.url)
    for _ in range(10):
        for _ in range(2):
            await process.publish(TEXT, address=ANN)
        server.call("HSET", KEYS.room("lobby").head, "at", 0)  # as if these were old
        await process.publish("a")
    broker = process.broker
    assert isinstance(broker, RedisBroker)
    assert 40_000 < broker._stored.left(ANN) < 80_000


async def test_an_address_that_has_stored_too_much_joins_only_rooms_that_exist(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start(server.url)
    await process.publish("a", "old")
    for number in range(98):
        await process.broker.enter(str(number), ANN)
    with pytest.raises(RoomRefused):
        await process.broker.enter("98", ANN)
    assert server.call("EXISTS", KEYS.room("98").head) == 0
    await process.broker.enter("old", ANN)
    both = (process.broker.enter("new", address) for address in (ANN, BOB))
    await asyncio.gather(*both)
    listener = await process.join("old")
    server.call("FLUSHALL")
    assert await listener.take(1) == ["gap"]


async def test_a_room_is_counted_whose_member_leaves_before_redis_has_answered(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "BEAT_SECONDS", 60.0)
    process = await start(server.url)
    await ready(process)
    server.call("CLIENT", "PAUSE", 20_000, "WRITE")
    joining = asyncio.create_task(process.broker.enter("new", ANN))
    await until(lambda: server.call("INFO", "clients")["blocked_clients"])
    joining.cancel()
    server.call("CLIENT", "UNPAUSE")
    broker = process.broker
    assert isinstance(broker, RedisBroker)
    await until(lambda: broker._stored.left(ANN) < history.STORED_BYTES)
    assert server.call("EXISTS", KEYS.room("new").head)


def test_what_an_address_has_stored_expires() -> None:
    now = 0.0
    stored = StoredBytes(lambda: now)
    stored.add(ANN, 150_000)
    stored.add("", 10**9)
    assert stored.is_full(ANN)
    assert not stored.is_full("")
    now += 44_000
    assert not stored.is_full(ANN)
    now += 10**6
    stored.add(ANN, 1)
    assert stored.left(ANN) == history.STORED_BYTES - 1


def test_clients_are_told_with_an_error_or_429(serve: Serve, server: RedisServer) -> None:
    url = f"{serve(room_app(rooms_at(server.url, **NO_RATE_LIMIT)))}/rooms"
    with connect_events(f"{url}/tea") as ann:
        for _ in range(12):
            send(ann, TEXT, ref="r")
            next_event(ann, "accepted")
        for number in range(9):
            send(ann, TEXT, ref=str(number))
            next_event(ann, "accepted")
        send(ann, TEXT, ref="one too many")
        error = next_event(ann, "error")
        assert (error["code"], error["ref"]) == ("rate_limited", "one too many")
        status, answer = request(f"{url}/tea".replace("ws:", "http:"), b"1")
        assert status == 429
        assert "'tea'" in answer["detail"]
        with pytest.raises(InvalidStatus, match="429"):
            connect_events(f"{url}/new")
        with connect_events(f"{url}/tea") as bob:
            next_event(bob, "joined")
