"""Several rooms on one connection."""

import asyncio
import json
import sys
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi_realtime import Identity
from fastapi_realtime.rooms import EVENTS_V1, BrokerUnavailable, Rooms, RoomsDep, RoomSettings
from fastapi_realtime.rooms.events import TEXT, Batch
from fastapi_realtime.rooms.hub import Hub
from fastapi_realtime.rooms.memory import MemoryBroker
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import ClientConnection
from websockets.typing import Subprotocol

from .brokers import MakeRooms
from .hub_client import Client
from .room_app import (
    EventsAdmitted,
    PolicyFromClaims,
    SubjectAsToken,
    connect_events,
    next_event,
    request,
    room_app,
    send,
    token_app,
)
from .serving import NO_RATE_LIMIT, Serve, raw_client, realtime_app, receive_all
from .test_hub import message


@pytest.fixture
def app(make_any_rooms: MakeRooms) -> FastAPI:
    """An application with rooms."""
    return room_app(make_any_rooms(**NO_RATE_LIMIT), drain_seconds=5)


def ask(client: ClientConnection, kind: str, room: str, **fields: object) -> None:
    """Send a request to join or leave a room."""
    client.send(json.dumps({"type": kind, "room": room, **fields}))


def join(client: ClientConnection, room: str, **fields: object) -> dict[str, Any]:
    """Join a room, and return the event that says so."""
    ask(client, "join", room, **fields)
    while (event := next_event(client, "joined"))["room"] != room:
        pass
    return event


def next_message(client: ClientConnection) -> tuple[str, Any]:
    """Return room and data of the next message."""
    event = next_event(client, "message")
    return event["room"], event["data"]


def test_one_connection_talks_in_several_rooms(app: FastAPI, serve_both_ways: Serve) -> None:
    url = f"{serve_both_ways(app)}/rooms"
    with connect_events(f"{url}/one?name=ann") as ann, connect_events(f"{url}/two") as bob:
        next_event(bob, "present")
        joined = join(ann, "two", ref="r1")
        connection = joined["connection"]
        assert (joined["ref"], joined["sender"]) == ("r1", "ann")
        assert next_event(bob, "joined")["connection"] == connection
        present = next_event(ann, "present")
        assert (present["room"], present["count"]) == ("two", 2)

        send(bob, "hello")
        assert next_message(ann) == ("two", "hello")
        ref = token_hex(8)
        send(ann, "hi", room="two", ref=ref)
        assert next_message(bob) == ("two", "hi")
        assert next_event(ann, "accepted")["ref"] == ref

        ask(ann, "leave", "two")
        left = {"type": "left", "room": "two", "sender": "ann", "connection": connection}
        assert next_event(ann, "left") == left
        assert next_event(bob, "left") == left
        send(bob, "nobody hears this")
        send(ann, "too late", room="two", ref="m2")
        error = json.loads(ann.recv(timeout=10))
        assert (error["code"], error["ref"]) == ("not_joined", "m2")


def test_each_room_is_resumed_from_its_own_id(app: FastAPI, serve: Serve) -> None:
    url = f"{serve(app)}/rooms"
    with connect_events(f"{url}/three") as bob:
        send(bob, "first", ref="r")
        seen = next_event(bob, "accepted")["id"]
        send(bob, "missed")
        with connect_events(f"{url}/four") as ann:
            next_event(ann, "present")
            ask(ann, "join", "three", since=seen)
            assert next_message(ann) == ("three", "missed")
            resumed = json.loads(ann.recv(timeout=10))
            assert (resumed["type"], resumed["room"]) == ("resumed", "three")
            assert next_event(ann, "joined")["id"] == resumed["id"]
            send(bob, "live")
            assert next_message(ann) == ("three", "live")

            ask(ann, "join", "three", last=2)  # again: it is left first
            assert [next_message(ann)[1] for _ in range(2)] == ["missed", "live"]
            send(bob, "once")
            assert next_message(ann) == ("three", "once")
            ask(ann, "join", "three", since="unknown-1")
            assert next_event(ann, "gap")["since"] == "unknown-1"


def test_the_room_of_the_url_can_be_left_and_joined_again(app: FastAPI, serve: Serve) -> None:
    url = f"{serve(app)}/rooms"
    with connect_events(f"{url}/five") as ann, connect_events(f"{url}/five") as bob:
        next_event(bob, "joined")
        ask(ann, "leave", "five")
        next_event(bob, "left")
        send(ann, "lost", ref="r1")
        assert next_event(ann, "error")["ref"] == "r1"
        join(ann, "five")
        next_event(bob, "joined")
        send(ann, "back")
        assert next_message(bob) == ("five", "back")


def test_a_message_is_confirmed_before_its_room_is_left(app: FastAPI, serve: Serve) -> None:
    with connect_events(f"{serve(app)}/rooms/twelve") as client:
        for number, kind in enumerate(("join", "leave")):
            join(client, "thirteen")
            send(client, "x", room="thirteen", ref=f"r{number}")
            ask(client, kind, "thirteen")
            assert next_event(client, "accepted")["ref"] == f"r{number}"


def test_a_client_that_goes_leaves_all_rooms_at_once(app: FastAPI, serve: Serve) -> None:
    url = f"{serve(app)}/rooms"
    with connect_events(f"{url}/six") as bob:
        next_event(bob, "present")
        with connect_events(f"{url}/seven") as ann:
            join(ann, "six")
            with connect_events(f"{url}/seven") as cyd:
                next_event(cyd, "present")
                ann.close()
                assert next_event(bob, "left")["room"] == "six"
                assert next_event(cyd, "left")["room"] == "seven"


@pytest.mark.parametrize(
    ("event", "code", "path"),
    [
        ({"type": "join", "room": "secret", "ref": "r"}, "forbidden", None),
        ({"type": "join", "room": "user:bob", "ref": "r", "last": 5}, "forbidden", None),
        ({"type": "join", "room": "USER:bob", "ref": "r", "since": "x-1"}, "forbidden", None),
        ({"type": "join", "room": "fourth", "ref": "r"}, "too_many_rooms", None),
        ({"type": "leave", "room": "fourth", "ref": "r"}, "not_joined", None),
        ({"type": "join", "room": "..", "ref": "r"}, "invalid_shape", "room"),
        ({"type": "join", "room": "x" * 261, "ref": "r"}, "invalid_shape", "room"),
        ({"type": "join", "room": "third", "last": -1, "ref": "r"}, "invalid_shape", "last"),
        ({"type": "join", "ref": "r"}, "invalid_shape", "room"),
    ],
)
def test_a_refused_join_is_an_error(
    serve: Serve, event: dict[str, Any], code: str, path: str | None
) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT | {"max_rooms_per_connection": 2})
    rooms = ["lobby", "second", "third", "fourth", "user:bob", "USER:bob"]
    app = token_app(settings=settings, ann={"join": rooms})
    with connect_events(f"{serve(app)}/rooms/lobby", "ann") as ann:
        if code == "too_many_rooms":
            join(ann, "second")
        ann.send(json.dumps(event))
        error = next_event(ann, "error")
        assert (error["code"], error["ref"], error.get("path")) == (code, "r", path)
        if path is None:
            assert error["room"] == event["room"]
        join(ann, "lobby")  # all is well


def test_joins_by_message_count_like_those_by_handshake(serve: Serve) -> None:
    app = room_app(joins_per_second_per_ip=0.2)
    with connect_events(f"{serve(app)}/rooms/lobby") as ann:
        join(ann, "second")
        ask(ann, "join", "third", ref="r")
        error = next_event(ann, "error")
        assert (error["code"], error["room"]) == ("rate_limited", "third")


def test_a_new_token_must_open_all_rooms(serve: Serve) -> None:
    app = token_app(ann={"join": ["lobby", "tea"]})
    claims = app.state.realtime.authenticator.claims
    with connect_events(f"{serve(app)}/rooms/lobby", "ann") as ann:
        join(ann, "tea")
        claims["ann"] = {"join": ["lobby"]}
        ann.send('{"type":"token","token":"ann/2","ref":"r1"}')
        error = next_event(ann, "error")
        assert (error["code"], error["ref"]) == ("forbidden", "r1")
        ask(ann, "leave", "tea")
        ann.send('{"type":"token","token":"ann/2","ref":"r2"}')
        assert next_event(ann, "accepted")["ref"] == "r2"


class SlowPolicy:
    """A policy that takes its time for one room."""

    def __init__(self) -> None:
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def may_join(self, identity: Identity, room: str) -> bool:
        if room == "slow":
            self.asked.set()
            await self.answer.wait()
        return True

    async def may_publish(self, identity: Identity, room: str) -> bool:
        return True


def test_reading_with_a_timer_does_not_interrupt_a_join(serve: Serve) -> None:
    policy = SlowPolicy()
    app = realtime_app(services=[Rooms(RoomSettings(), policy)])

    @app.websocket("/rooms/{room}")
    async def talk(connection: EventsAdmitted, rooms: RoomsDep, room: str) -> None:
        async with rooms.join(connection, room, "ann") as member:
            timeouts = 0
            while timeouts < 3:
                try:
                    async with asyncio.timeout(None if policy.answer.is_set() else 0.001):
                        await member.relay(await member.receive())
                except TimeoutError:
                    timeouts += policy.asked.is_set()
            policy.answer.set()
            async for message in member:
                await member.relay(message)

    url = f"{serve(app)}/rooms"
    with connect_events(f"{url}/lobby") as ann, connect_events(f"{url}/lobby") as bob:
        next_event(bob, "joined")
        joined = join(ann, "slow", ref="r1")
        assert joined["ref"] == "r1"
        send(ann, "done")
        assert next_message(bob) == ("lobby", "done")


def test_a_join_that_is_not_done_when_the_endpoint_ends_is_undone(serve: Serve) -> None:
    policy = SlowPolicy()
    rooms = Rooms(RoomSettings(), policy)
    app = realtime_app(services=[rooms])

    @app.websocket("/rooms/{room}")
    async def talk(connection: EventsAdmitted, rooms: RoomsDep, room: str) -> None:
        async with rooms.join(connection, room, "ann") as member:
            reading = asyncio.create_task(member.receive())
            await policy.asked.wait()
            reading.cancel()

    with connect_events(f"{serve(app)}/rooms/lobby") as ann:
        ask(ann, "join", "slow")
        receive_all(ann)
    assert len(rooms.hub) == 0


def test_a_member_joins_the_room_of_its_subject_if_it_may(serve: Serve) -> None:
    app = realtime_app(
        services=[Rooms(RoomSettings(), PolicyFromClaims())],
        authenticator=SubjectAsToken(ann={"join": ["lobby", "user:ann"]}),
    )

    @app.websocket("/rooms/{room:path}")
    async def talk(connection: EventsAdmitted, rooms: RoomsDep, room: str) -> None:
        async with rooms.join(connection, room, connection.subject) as member:
            await member.join_user_room()
            async for message in member:
                await member.relay(message)

    url = serve(app)
    for subject, room, joined in (
        ("ann", "lobby", ["lobby", "user:ann"]),
        ("ann", "user:ann", ["user:ann"]),
        ("bob", "lobby", ["lobby"]),
    ):
        with connect_events(f"{url}/rooms/{room}", subject) as client:
            assert [next_event(client, "joined")["room"] for _ in joined] == joined
            client.send('{"type":"ping"}')
            while (event := json.loads(client.recv(timeout=10)))["type"] != "pong":
                assert event["type"] in ("present", "left")  # of the client before


class AwayBroker(MemoryBroker):
    """A broker that is away while somebody joins."""

    async def present(self, room: str) -> Any:
        if room == "after":
            raise BrokerUnavailable
        return await super().present(room)

    async def enter(self, room: str, address: str = "") -> str:
        if room == "before":
            raise BrokerUnavailable
        return await super().enter(room)


def test_a_join_fails_aloud_and_alone_while_the_broker_is_away(serve: Serve) -> None:
    rooms = Rooms(RoomSettings(), broker=lambda settings, hub: AwayBroker(hub, 100))
    with connect_events(f"{serve(room_app(rooms))}/rooms/lobby") as ann:
        for room in ("before", "after"):
            ask(ann, "join", room, ref=room)
            error = next_event(ann, "error")
            assert (error["code"], error["room"]) == ("unavailable", room)
            send(ann, "x", room=room, ref="r")
            assert next_event(ann, "error")["code"] == "not_joined"
        join(ann, "tea")
        assert {*rooms.hub._rooms} == {"lobby", "tea"}


def test_a_member_that_stalls_is_cut_off_in_all_its_rooms(serve_both_ways: Serve) -> None:
    app = room_app(max_backlog_bytes=50_000)
    url = serve_both_ways(app)
    text = "x" * 10_000
    with raw_client(url, "/rooms/lobby", "Sec-WebSocket-Protocol: events.v1\r\n") as stalled:
        for room in ("tea", "milk"):
            data = json.dumps({"type": "join", "room": room}).encode()
            stalled.sendall(bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data)
        received = b""
        while b'"present","room":"milk"' not in received:
            received += stalled.recv(100_000)
        with connect_events(f"{url}/rooms/tea") as ann, connect_events(f"{url}/rooms/tea") as bob:
            next_event(bob, "present")
            rooms = app.state.realtime.service(Rooms).hub._rooms
            assert {*rooms} == {"lobby", "tea", "milk"}
            while len(rooms) > 1:
                send(ann, text)
                assert next_event(bob, "message")["data"] == text
            while not received.endswith(b"could not keep up"):
                received = received[-60:] + stalled.recv(100_000)


def test_a_burst_of_joins_and_leaves_is_bounded_and_leaves_nothing_behind(serve: Serve) -> None:
    app = room_app(messages_per_second=50, message_burst=100)
    url = serve(app)
    with raw_client(url, "/rooms/lobby", "Sec-WebSocket-Protocol: events.v1\r\n") as flooder:
        frames = b""
        for number in range(1000):
            data = json.dumps({"type": "join", "room": str(number)}).encode()
            frames += bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data
        flooder.sendall(frames)
        received = b""
        while b"too many messages" not in received[-200:]:
            received += flooder.recv(100_000)
    assert received.count(b'"type":"joined"') == 50
    assert b'"too_many_rooms"' in received
    assert b'"rate_limited"' in received
    with connect_events(f"{url}/rooms/lobby") as ann:
        for number in range(200):
            ask(ann, "leave" if number % 2 else "join", "tea")
        ann.close()
        receive_all(ann)
    status, present = request(f"{url}/rooms/tea".replace("ws:", "http:"))
    while present["count"]:
        status, present = request(f"{url}/rooms/tea".replace("ws:", "http:"))
    assert status == 200


def test_a_room_is_joined_once_by_an_endpoint(serve: Serve) -> None:
    app = realtime_app(services=[Rooms(RoomSettings())])
    errors = []

    @app.websocket("/")
    async def talk(connection: EventsAdmitted, rooms: RoomsDep) -> None:
        async with rooms.join(connection, "tea", "ann") as member:
            with pytest.raises(ValueError, match="'tea' already") as error:
                async with rooms.join(connection, "tea", "ann"):
                    pass
            errors.append(error)
            async with rooms.join(connection, "milk", "ann"):
                await member.join("honey")
                await member.receive()

    with connect_events(f"{serve(app)}/") as ann:
        assert [next_event(ann, "joined")["room"] for _ in range(3)] == ["tea", "milk", "honey"]
        send(ann, "end")
        receive_all(ann)
    assert errors


@pytest.mark.anyio
async def test_what_a_member_of_many_rooms_has_not_read_counts_once() -> None:
    hub, clients = Hub(1000, max_pending_bytes=1000), [Client(), Client()]
    subscribers = [hub.subscribe("0", each.connection) for each in clients]
    subscribers[0].start("0")
    subscribers[1].start("0")
    for number in range(1, 20):
        hub.subscribe(str(number), clients[0].connection, subscribers[0]).start(str(number))
    clients[0].unread = 400
    clients[1].unread = 401
    for number in range(20):
        hub.deliver(message("x", room=str(number)))
    await asyncio.sleep(0)
    await hub.flush()
    assert [each.closed for each in clients] == [0, 0]
    for number in range(20):
        hub.unsubscribe(str(number), subscribers[0])
    hub.unsubscribe("0", subscribers[1])
    assert (len(hub), hub._unread) == (0, 0)


@pytest.mark.anyio
async def test_who_leaves_a_room_hides_nothing_of_what_others_have_not_read() -> None:
    hub, clients = Hub(1000, max_pending_bytes=2500), [Client() for _ in range(4)]
    leaver, *_ = subscribers = [hub.subscribe("lobby", each.connection) for each in clients]
    for subscriber in subscribers:
        subscriber.start("lobby")
    for _ in range(10):
        hub.subscribe("tea", clients[0].connection, leaver).start("tea")
        clients[0].unread = 1000
        leaver.put(Batch([message("left", "tea")], TEXT))
        hub.unsubscribe("tea", leaver)
        clients[0].unread = 0
        hub.deliver(message("x"))
        await hub.flush()
    for client in clients[1:]:
        client.unread = 1000
    hub.deliver(message("x"))
    await hub.flush()
    assert 1013 in [each.closed for each in clients]


@pytest.mark.skipif(sys.platform != "linux", reason="counts writes in /proc")
def test_what_several_rooms_say_in_one_turn_is_one_write_for_each_connection(
    serve: Serve,
) -> None:
    app = room_app()
    rooms = [str(number) for number in range(20)]
    clients, counts = 10, {}

    def writes() -> int:
        text = Path("/proc/self/io").read_text()
        return int(text.partition("syscw: ")[2].split()[0])

    @app.get("/speak")
    async def speak(rooms_of_app: RoomsDep) -> None:
        before = writes()
        for room in rooms:
            await rooms_of_app.publish(room, "hello")
        await rooms_of_app.flush()
        await asyncio.sleep(0)  # uvloop writes at the end of a turn
        counts["writes"] = writes() - before

    url = serve(app)

    async def listen() -> None:
        options: dict[str, Any] = {"proxy": None, "max_queue": None}
        async with connect_async(
            f"{url}/rooms/0", subprotocols=[Subprotocol(EVENTS_V1)], **options
        ) as client:
            for room in rooms[1:]:
                await client.send(json.dumps({"type": "join", "room": room}))
            waiting = {*rooms}
            while waiting:
                event = json.loads(await client.recv())
                waiting -= {event["room"]} if event["type"] == "present" else set()
            ready.release()
            while len(waiting) < len(rooms):
                event = json.loads(await client.recv())
                waiting |= {event["room"]} if event["type"] == "message" else set()

    async def run() -> None:
        tasks = [asyncio.create_task(listen()) for _ in range(clients)]
        for _ in tasks:
            await ready.acquire()
        speaking = asyncio.to_thread(request, f"{url}/speak".replace("ws:", "http:"))
        await asyncio.gather(speaking, *tasks)

    ready = asyncio.Semaphore(0)
    asyncio.run(run())
    assert clients <= counts["writes"] <= 3 * clients, counts
