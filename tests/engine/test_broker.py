"""What every broker does. Who writes another one adds it to `brokers.py` and runs these tests."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted
from fastapi_realtime.rooms import (
    MessageEvent,
    Rooms,
    RoomsDep,
)

from .brokers import MakeRooms, Process, running_process
from .hub_client import split_frame
from .room_app import connect_events, next_event, request, room_app, send
from .serving import NO_RATE_LIMIT, Serve, connect, receive_all

pytestmark = pytest.mark.anyio

Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(make_any_rooms: MakeRooms) -> AsyncGenerator[Start]:
    """Start a broker with these settings."""
    async with AsyncExitStack() as stack:

        async def start(**settings: object) -> Process:
            return await stack.enter_async_context(running_process(make_any_rooms(**settings)))

        yield start


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room that no other test uses."""
    return request.node.name


@pytest.fixture
def app(make_any_rooms: MakeRooms) -> FastAPI:
    """An application with rooms."""
    return room_app(make_any_rooms(**NO_RATE_LIMIT), drain_seconds=5)


async def since(process: Process, position: str, room: str) -> tuple[bool, list[str]]:
    """Return whether nothing is missing after a position, and the ids of what is kept."""
    replay = await process.broker.replay(room, position)
    events = [json.loads(split_frame(frame)[0]) for frame in replay.frames]
    return replay.is_complete, [event["id"] for event in events]


async def test_every_message_gets_the_next_position_and_is_kept(start: Start, room: str) -> None:
    process = await start()
    first, second, third = [await process.publish(text, room) for text in "abc"]
    epoch = first.removesuffix("-1")
    assert [second, third] == [f"{epoch}-2", f"{epoch}-3"]
    assert await since(process, first, room) == (True, [second, third])
    assert await since(process, third, room) == (True, [])
    assert (await process.broker.replay(room, first)).position == third


async def test_a_member_can_resume_from_before_the_first_message(start: Start, room: str) -> None:
    process = await start()
    position = await process.broker.enter(room)
    process.broker.leave(room)
    assert await since(process, position, room) == (True, [])
    sent = await process.publish("a", room)
    assert await since(process, position, room) == (True, [sent])


async def test_a_ref_is_published_once_as_long_as_its_message_is_kept(
    start: Start, room: str
) -> None:
    process = await start(history_length=2)
    first = await process.publish("a", room, ref="r1")
    assert await process.publish("again", room, ref="r1") == first
    assert await process.publish("a", f"another {room}", ref="r1") != first
    assert await since(process, first, room) == (True, [])
    for text in "bc":
        await process.publish(text, room)
    assert await process.publish("a", room, ref="r1") != first


async def test_the_latest_messages_are_read_without_a_position(start: Start, room: str) -> None:
    process = await start(history_length=3)
    assert (await process.broker.replay(room, "", last=2)).frames == []
    ids = [await process.publish(text, room) for text in "abcd"]
    for last, expected in ((1, ids[3:]), (2, ids[2:]), (3, ids[1:]), (99, ids[1:])):
        replay = await process.broker.replay(room, "", last=last)
        events = [json.loads(split_frame(frame)[0]) for frame in replay.frames]
        assert [event["id"] for event in events] == expected
        assert replay.is_complete
        assert (replay.position, replay.last_offset) == (ids[3], 4)


async def test_messages_that_are_not_kept_reach_who_is_there_in_their_turn(
    start: Start, room: str
) -> None:
    process = await start(history_length=200)
    first = await process.publish("first", room)
    listener = await process.join(room)
    for number in range(100):
        assert await process.publish(f"kept {number}", room)
        assert await process.publish(f"unkept {number}", room, keep=False) == ""
    last = await process.publish("last", room)
    events = [await listener.next() for _ in range(201)]
    kept = [event["data"] for event in events if "id" in event]
    assert kept == [*(f"kept {number}" for number in range(100)), "last"]
    order = [event["data"] for event in events]
    for number in range(100):
        assert order.index(f"kept {number}") < order.index(f"unkept {number}")
    unkept = next(event for event in events if "id" not in event)
    assert unkept == {"type": "message", "room": room, "sender": "zoe", "data": "unkept 0"}
    ids = [event["id"] for event in events if "id" in event]
    assert ids[-1] == last
    assert await since(process, first, room) == (True, ids)


async def test_a_message_that_is_not_kept_is_not_sent_back(start: Start, room: str) -> None:
    process = await start()
    listener, other = await process.join(room), await process.join(room)
    await process.publish("typing", room, origin=listener.id, keep=False)
    await process.publish("done", room)
    assert (await listener.next())["data"] == "done"
    assert {(await other.next())["data"], (await other.next())["data"]} == {"typing", "done"}


async def test_a_room_that_has_had_no_kept_message_passes_on_others(
    start: Start, room: str
) -> None:
    process = await start()
    assert await process.publish("before", room, keep=False) == ""
    listener = await process.join(room)
    await process.publish("typing", room, keep=False)
    while (await listener.next())["data"] != "typing":
        pass
    assert await process.publish("a", room, ref="r") == (await listener.next())["id"]


async def test_what_is_appended_counts_as_a_part_of_its_message(start: Start, room: str) -> None:
    process = await start(history_length=2)
    listener = await process.join(room)
    before = await process.publish("before", room)
    first = await process.publish("one", room, ref="r")
    parts = [await process.append(first, str(number), room) for number in range(150)]
    events = [await listener.next() for _ in range(152)]
    fields = {"type": "append", "room": room, "sender": "zoe", "to": first, "data": "149"}
    assert events[-1] == fields | {"id": parts[-1]}
    assert await since(process, before, room) == (True, [first, *parts])
    assert await since(process, parts[70], room) == (True, parts[71:])
    assert await process.publish("again", room, ref="r") == first

    second = await process.publish("two", room)
    more = await process.append(second, "!", room)
    assert await since(process, first, room) == (True, [*parts, second, more])
    replay = await process.broker.replay(room, "", last=1)
    assert len(replay.frames) == 2

    third = await process.publish("three", room)
    complete, ids = await since(process, before, room)
    assert (complete, ids[-3:]) == (False, [second, more, third])
    assert first not in ids
    replay = await process.broker.replay(room, "", last=9)
    events = [json.loads(split_frame(frame)[0]) for frame in replay.frames]
    assert [each["id"] for each in events if each["type"] == "message"] == [second, third]


async def test_the_latest_messages_have_what_was_appended_to_them(
    make_any_rooms: MakeRooms, room: str
) -> None:
    rooms = make_any_rooms()
    async with running_process(rooms):
        first = await rooms.publish(room, "one")
        other = await rooms.publish(room, {"no": "text"})
        for text in ("", " two", " three"):
            await rooms.append(room, first, text, "zoe")
        await rooms.append(room, other, "ignored")
        await rooms.append(room, "unknown-1", "ignored")
        data = [message.data for message in await rooms.latest(room, 5)]
        assert data == ["one two three", {"no": "text"}]
        assert [message.data for message in await rooms.latest(room, 1)] == [{"no": "text"}]


async def test_the_oldest_messages_are_forgotten(start: Start, room: str) -> None:
    process = await start(history_length=2)
    first, second, third = [await process.publish(text, room) for text in "abc"]
    assert await since(process, first, room) == (True, [second, third])
    fourth = await process.publish("d", room)
    assert await since(process, first, room) == (False, [third, fourth])
    assert await since(process, second, room) == (True, [third, fourth])


async def test_a_history_takes_at_most_a_mebibyte(start: Start, room: str) -> None:
    process = await start()
    ids = [await process.publish("x" * 60_000, room) for _ in range(30)]
    replay = await process.broker.replay(room, ids[0])
    assert not replay.is_complete
    assert 0.9 * 2**20 < sum(map(len, replay.frames)) < 2**20
    assert await since(process, ids[-6], room) == (True, ids[-5:])


@pytest.mark.parametrize(
    "position",
    ["", "rubbish", "-", "EPOCH-", "EPOCH-9", "EPOCH--1", "EPOCH-²", f"EPOCH-{'9' * 5000}"],
    ids=range(8),
)
async def test_an_unknown_position_is_a_gap(start: Start, position: str, room: str) -> None:
    process = await start()
    sent = await process.publish("a", room)
    epoch, _, _ = sent.partition("-")
    assert await since(process, position.replace("EPOCH", epoch), room) == (False, [sent])


async def test_a_position_of_another_room_is_a_gap(start: Start, room: str) -> None:
    process = await start()
    here = await process.publish("a", room)
    there = await process.publish("a", f"another {room}")
    assert await since(process, there, room) == (False, [here])
    assert await since(process, here, f"empty {room}") == (False, [])


async def test_without_history_nothing_is_kept(start: Start, room: str) -> None:
    process = await start(history_length=0)
    listener = await process.join(room)
    first = await process.publish("a", room)
    assert await since(process, first, room) == (True, [])
    await process.publish("b", room)
    assert await since(process, first, room) == (False, [])
    assert await listener.take(2) == ["a", "b"]


async def test_members_receive_what_others_send_in_its_order(start: Start, room: str) -> None:
    process = await start()
    ann, bob = await process.join(room), await process.join(room)
    ids = [await process.publish(number, room, origin=ann.id) for number in range(10)]
    last = await process.publish("last", room)
    events = [await bob.next() for _ in range(11)]
    assert [event["id"] for event in events] == [*ids, last]
    assert await ann.take(1) == ["last"]
    assert events[0] == {
        "type": "message",
        "id": ids[0],
        "room": room,
        "sender": "zoe",
        "data": 0,
    }


async def test_messages_of_one_turn_keep_their_order(start: Start, room: str) -> None:
    process = await start()
    listener = await process.join(room)
    ids = await asyncio.gather(*(process.publish(number, room) for number in range(9000)))
    assert await listener.take(9000) == list(range(9000))
    assert len(set(ids)) == 9000


@pytest.mark.parametrize("name", ["a}b", "{}", "50%", "a b", "日本語", "}", "{user}"])
async def test_rooms_do_not_mix_whatever_their_names(start: Start, room: str, name: str) -> None:
    process = await start()
    here, other = await process.join(name), await process.join(f"another {room}")
    sent = await process.publish({"a": [1, "ü", None]}, name)
    assert (await here.next())["room"] == name
    await process.publish("other", f"another {room}")
    assert await other.take(1) == ["other"]
    assert await since(process, f"{sent.partition('-')[0]}-0", name) == (True, [sent])


async def test_a_room_is_left_and_entered_again(start: Start, room: str) -> None:
    process = await start()
    first = await process.broker.enter(room)
    assert await process.broker.enter(room) == first
    for _ in range(2):
        process.broker.leave(room)
    sent = await process.publish("nobody here", room)
    assert await process.broker.enter(room) == sent
    process.broker.leave(room)


async def test_what_cannot_be_encoded_is_its_publishers_error(start: Start, room: str) -> None:
    process = await start()
    listener = await process.join(room)
    with pytest.raises(ValueError, match="surrogates"):
        await process.broker.publish(MessageEvent(room=room, sender="zoe", data="\ud800"))
    await process.publish("one", room)
    assert await listener.take(1) == ["one"]


async def test_when_it_is_flushed_all_is_with_the_hub(start: Start, room: str) -> None:
    process = await start()
    listener = await process.join(room)
    for number in range(500):
        await process.publish(number, room)
    await process.broker.flush()
    await process.hub.flush()
    assert listener.waiting() == 500


async def test_it_is_ready_once_it_runs(start: Start, room: str) -> None:
    process = await start()
    await process.broker.enter(room)
    await process.publish("a", room)
    async with asyncio.timeout(20):
        while not process.broker.is_ready:
            await asyncio.sleep(0.01)


async def test_another_event_loop_is_refused(start: Start, room: str) -> None:
    process = await start()
    with pytest.raises(RuntimeError, match="another thread"):
        await asyncio.to_thread(lambda: asyncio.run(process.publish("a", room)))


def test_members_talk_in_both_formats(serve: Serve, app: FastAPI) -> None:
    url = f"{serve(app)}/rooms/talk"
    with connect_events(url) as ann, connect(f"{url}?name=bob") as bob:
        bob.send("Hi")
        assert next_event(ann, "message")["data"] == "Hi"
        send(ann, {"a": [1, "ü"]}, ref="r1")
        assert bob.recv(timeout=10) == 'New message: {"a":[1,"ü"]}'
        accepted = next_event(ann, "accepted")
        status, answer = request(url.replace("ws:", "http:"), b'"posted"')
        assert status == 202
        assert answer["id"] != accepted["id"]
        assert bob.recv(timeout=10) == "New message: posted"


def test_a_returning_member_misses_nothing_while_others_publish_at_full_speed(
    serve: Serve, make_any_rooms: MakeRooms
) -> None:
    app = room_app(make_any_rooms(history_length=10_000, **NO_RATE_LIMIT))
    count = 3000

    @app.websocket("/flood")
    async def flood(connection: Admitted, rooms: RoomsDep) -> None:
        await connection.accept()
        for number in range(count):
            await rooms.publish("flooded", number)

    url = serve(app)
    data: list[int] = []
    with connect_events(f"{url}/rooms/flooded") as ann:
        position = next_event(ann, "joined")["id"]
    with connect(f"{url}/flood"):
        while len(data) < count:
            with connect_events(f"{url}/rooms/flooded?since={position}") as bob:
                while len(data) < count:
                    event = json.loads(bob.recv(timeout=10))
                    assert event["type"] != "gap"
                    if event["type"] == "message":
                        data.append(event["data"])
                        position = event["id"]
                        if len(data) % 500 == 250:
                            break
    assert data == list(range(count))


def test_messages_published_before_a_stop_arrive_before_the_close(
    serve: Serve, app: FastAPI
) -> None:
    @app.websocket("/stop")
    async def stop(connection: Admitted, rooms: RoomsDep) -> None:
        for number in range(200):
            await rooms.publish("stopped", number)
        app.state.task = asyncio.create_task(app.state.realtime.drain.run())
        await connection.close()

    url = serve(app)
    with connect(f"{url}/rooms/stopped") as ann, connect(f"{url}/stop"):
        messages, code = receive_all(ann)
        assert code == 1012
        assert messages == [f"New message: {number}" for number in range(200)]


async def test_a_subject_is_closed_in_other_processes_if_there_can_be_any(
    make_any_rooms: MakeRooms,
) -> None:
    rooms = make_any_rooms()
    async with running_process(rooms):
        await rooms.close_subject("zoe")


def test_an_application_is_ready_while_it_runs(app: FastAPI) -> None:
    with TestClient(app) as client, client.websocket_connect("/rooms/ready"):
        client.post("/rooms/ready", json="published")
        assert app.state.realtime.is_ready
        assert app.state.realtime.service(Rooms).is_ready
    assert not app.state.realtime.is_ready
