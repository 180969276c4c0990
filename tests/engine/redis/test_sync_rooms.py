"""Publishing without an event loop."""

import multiprocessing
import os
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread
import pytest
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.redis import (
    RedisSettings,
    SyncRooms,
    sync_rooms,
)

from ..brokers import Process, running_process
from ..redis_server import KEYS, RedisServer, rooms_at
from ..room_app import PolicyFromClaims

pytestmark = pytest.mark.anyio


@pytest.fixture
def rooms(server: RedisServer) -> Iterator[SyncRooms]:
    """Rooms, for code without an event loop."""
    rooms = SyncRooms(settings_for(server))
    yield rooms
    rooms.close()


@pytest.fixture
async def process(server: RedisServer) -> AsyncGenerator[Process]:
    """A process of a server."""
    async with running_process(rooms_at(server.url)) as process:
        yield process


def settings_for(server: RedisServer) -> RedisSettings:
    """Return the settings of an application with this Redis."""
    return RedisSettings.model_validate({"broker_url": f"{server.url}?decode_responses=true"})


def publish_in_a_fork(rooms: SyncRooms) -> None:
    """Publish a message in a forked process, and wait for its end."""

    def publish() -> None:
        rooms.publish("tea", "from the child")
        rooms.close()

    child = multiprocessing.get_context("fork").Process(target=publish, daemon=True)
    child.start()
    child.join(30)
    assert child.exitcode == 0


async def test_members_receive_it_under_its_id(rooms: SyncRooms, process: Process) -> None:
    ann = await process.join("tea")
    ids = [
        await anyio.to_thread.run_sync(rooms.publish, "tea", data, "shop")
        for data in ({"price": 3}, "ü")
    ]
    events = [await ann.next() for _ in ids]
    assert [(event["id"], event["sender"], event["data"]) for event in events] == [
        (ids[0], "shop", {"price": 3}),
        (ids[1], "shop", "ü"),
    ]


def test_a_ref_is_published_once_for_its_sender(server: RedisServer, rooms: SyncRooms) -> None:
    first = rooms.publish("tea", 1, "ann", ref="r")
    assert rooms.publish("tea", 2, "ann", ref="r") == first
    with_tokens = SyncRooms(settings_for(server), PolicyFromClaims())
    ids = [with_tokens.publish("tea", 3, sender, ref="r") for sender in ("ann", "bob", "ann")]
    assert ids[0] == ids[2] != ids[1]
    with_tokens.publish("user:ann", "for her alone")
    with_tokens.close()


@pytest.mark.parametrize("room", ["", "a\n", "user:zoe"])
def test_a_room_that_cannot_exist_is_refused(rooms: SyncRooms, room: str) -> None:
    with pytest.raises(ValueError, match="there is no room"):
        rooms.publish(room, 1)


def test_rooms_in_the_memory_of_another_process_are_refused() -> None:
    with pytest.raises(ValueError, match="use post_message"):
        SyncRooms(RedisSettings.model_validate({"broker_url": "memory://"}))


def test_threads_may_share_it(server: RedisServer, rooms: SyncRooms) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda number: rooms.publish("tea", number), range(200)))
    offsets = sorted(int(id.partition("-")[2]) for id in ids)
    assert offsets == list(range(1, 201))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_publishes_on_its_own(server: RedisServer, rooms: SyncRooms) -> None:
    rooms.publish("tea", 0)
    publish_in_a_fork(rooms)
    assert rooms.publish("tea", 1).endswith("-3")


def test_what_redis_confirms_late_is_published_once(server: RedisServer, rooms: SyncRooms) -> None:
    rooms.publish("tea", 0)
    server.call("CLIENT", "PAUSE", 1500, "WRITE")
    assert rooms.publish("tea", 1).endswith("-2")
    server.call("SCRIPT", "FLUSH")
    assert rooms.publish("tea", 2).endswith("-3")
    server.stop(kill=True)
    server.start()
    assert rooms.publish("tea", 3).endswith("-4")
    assert server.call("XLEN", KEYS.room("tea").log) == 4


def test_it_says_so_when_redis_cannot_be_used(
    server: RedisServer, rooms: SyncRooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync_rooms, "PATIENCE", 0.2)
    server.call("CONFIG", "SET", "maxmemory", 1)
    start = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        rooms.publish("tea", 1)
    server.stop()
    with pytest.raises(BrokerUnavailable):
        rooms.publish("tea", 1)
    assert time.monotonic() - start < 10
    server.start()
    rooms.publish("tea", 1)
