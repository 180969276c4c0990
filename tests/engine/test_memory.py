"""The history of rooms, its bounds, and publishing from other threads."""

import asyncio
import json
import threading

import anyio.from_thread
import pytest
from fastapi.testclient import TestClient
from fastapi_realtime.rooms import (
    MessageEvent,
    Rooms,
    RoomsDep,
    memory,
)
from fastapi_realtime.rooms.hub import Hub
from fastapi_realtime.rooms.memory import MemoryBroker

from .room_app import room_app

pytestmark = pytest.mark.anyio


def broker_with(history_length: int = 10, max_bytes: int = 1_000_000) -> MemoryBroker:
    """A broker without subscribers."""
    return MemoryBroker(Hub(max_backlog_bytes=1000), history_length, max_bytes=max_bytes)


async def publish(broker: MemoryBroker, data: str, room: str = "lobby", ref: str = "") -> str:
    """Publish a message and return its id."""
    return await broker.publish(MessageEvent(room=room, sender="zoe", data=data), ref=ref)


async def since(broker: MemoryBroker, position: str, room: str = "lobby") -> tuple[bool, list[str]]:
    """Return whether nothing is missing after a position, and the ids of what is kept."""
    replay = await broker.replay(room, position)
    events = [json.loads(frame[frame.index(b"{") :]) for frame in replay.frames]
    return replay.is_complete, [event["id"] for event in events]


async def test_what_has_no_json_form_takes_no_id() -> None:
    broker = broker_with()
    first = await publish(broker, "a")
    with pytest.raises(ValueError, match="surrogates"):
        await publish(broker, "\ud800")
    second = await publish(broker, "b")
    assert await since(broker, first) == (True, [second])


async def test_rooms_without_members_are_forgotten_first() -> None:
    broker = broker_with(max_bytes=10_000)
    await broker.enter("member's")
    kept = [await publish(broker, "x" * 1000, room=room) for room in ("member's", "silent", "busy")]
    for _ in range(4):
        await publish(broker, "x" * 1000, room="busy")
    assert await since(broker, kept[1], room="silent") == (False, [])
    assert await since(broker, kept[0], room="member's") == (True, [])
    assert (await since(broker, kept[2], room="busy"))[0]


async def test_a_flooded_room_pushes_out_no_history_of_another_with_members() -> None:
    broker = broker_with(history_length=1000, max_bytes=50_000)
    for room in ("quiet", "flooded"):
        await broker.enter(room)
    before = await publish(broker, "a", room="quiet")
    after = await publish(broker, "b", room="quiet")
    flood = [await publish(broker, "x" * 1000, room="flooded") for _ in range(200)]
    assert await since(broker, before, room="quiet") == (True, [after])
    is_complete, kept = await since(broker, flood[0], room="flooded")
    assert not is_complete
    assert kept == flood[-len(kept) :]
    assert broker._bytes_left >= 0


async def test_new_rooms_push_out_no_history_of_a_room_with_members() -> None:
    broker = broker_with(history_length=1000, max_bytes=50_000)
    await broker.enter("quiet")
    before = await publish(broker, "a", room="quiet")
    kept = [await publish(broker, "b", room="quiet")]
    for number in range(100):
        await broker.enter(str(number))
    kept.append(await publish(broker, "c", room="quiet"))
    assert await since(broker, before, room="quiet") == (True, kept)


async def test_messages_that_find_no_space_are_not_kept_which_is_a_gap() -> None:
    broker = broker_with(max_bytes=3000)
    await broker.enter("lobby")
    await broker.enter("another")
    first = await publish(broker, "a")
    await publish(broker, "x" * 5000)
    assert await since(broker, first) == (False, [])


async def test_the_history_of_a_room_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_ROOM_BYTES", 5000)
    broker = broker_with(history_length=1000)
    sent = [await publish(broker, "x" * 1000) for _ in range(10)]
    assert await since(broker, sent[0]) == (False, sent[-4:])


async def test_empty_rooms_are_bounded_in_bytes() -> None:
    broker = broker_with(max_bytes=100_000)
    for number in range(1000):
        await broker.enter(str(number))
        broker.leave(str(number))
    assert len(broker._histories) <= 100


def test_publishing_from_another_event_loop_is_refused_with_the_right_way() -> None:
    app = room_app()

    @app.get("/wrong")
    def wrong(rooms: RoomsDep) -> str:
        with pytest.raises(RuntimeError) as refusal:
            asyncio.run(rooms.publish("lobby", "wrong"))
        return str(refusal.value)

    @app.get("/right")
    def right(rooms: RoomsDep) -> None:
        anyio.from_thread.run(rooms.publish, "lobby", "right")

    with TestClient(app) as client, client.websocket_connect("/rooms/lobby") as websocket:
        assert "anyio.from_thread.run(rooms.publish, ...)" in client.get("/wrong").json()
        client.get("/right")
        assert websocket.receive_text() == "New message: right"


def test_publishing_from_another_thread_is_refused_before_anybody_has_joined() -> None:
    refusals: list[RuntimeError] = []
    app = room_app()
    rooms = app.state.realtime.service(Rooms)

    def publish() -> None:
        with pytest.raises(RuntimeError) as refusal:
            asyncio.run(rooms.publish("lobby", 1))
        refusals.append(refusal.value)

    with TestClient(app):
        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
    assert "another thread" in str(refusals[0])


async def test_a_closed_event_loop_is_not_the_applications() -> None:
    broker = broker_with()
    await asyncio.to_thread(lambda: asyncio.run(publish(broker, "from a loop that ends")))
    await publish(broker, "from this one")
