"""Rooms: joining, leaving, coming back, and members that stop reading."""

import asyncio
import json
import socket

import fastapi_realtime.connection as connection_module
import pytest
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admitted,
)
from fastapi_realtime.rooms import (
    BrokerUnavailable,
    Rooms,
    RoomsDep,
    RoomSettings,
)
from fastapi_realtime.rooms.broker import Replay
from fastapi_realtime.rooms.hub import Hub
from fastapi_realtime.rooms.memory import MemoryBroker
from pydantic import ValidationError
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from .room_app import EventsAdmitted, connect_events, next_event, request, room_app, send
from .serving import (
    NO_RATE_LIMIT,
    Serve,
    connect,
    raw_client,
    realtime_app,
    receive_all,
    running,
    warning,
)

TEXT = "x" * 10_000


def test_a_burst_arrives_whole_and_in_order(serve_both_ways: Serve) -> None:
    url = f"{serve_both_ways(room_app())}/rooms/lobby"
    burst = [str(number) for number in range(300)]
    with connect_events(url) as bob:
        next_event(bob, "joined")
        with connect(url) as ann:
            for text in burst:
                ann.send(text)
            assert [next_event(bob, "message")["data"] for _ in burst] == burst


def test_a_connected_member_misses_nothing(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/lobby"
    with connect(url) as ann:
        for number in range(20):
            with connect(url) as bob:
                ann.send(str(number))
                assert bob.recv(timeout=10) == f"New message: {number}"


def test_both_formats_share_a_room(serve_both_ways: Serve) -> None:
    url = f"{serve_both_ways(room_app())}/rooms/lobby"
    with connect_events(url) as ann, connect(f"{url}?name=bob") as bob:
        next_event(ann, "joined")
        assert next_event(ann, "joined")["sender"] == "bob"
        bob.send('{"not": "parsed"}')
        assert next_event(ann, "message")["data"] == '{"not": "parsed"}'
        send(ann, "Hello", {"a": [1, "ü"]})
        assert bob.recv(timeout=10) == "New message: Hello"
        assert bob.recv(timeout=10) == 'New message: {"a":[1,"ü"]}'


@pytest.mark.parametrize(
    ("invalid", "code", "path"),
    [
        ("Hello", "invalid_json", None),
        ("{}", "invalid_shape", "type"),
        ('{"type":"joined","data":1}', "invalid_shape", "type"),
        ('{"type":"message"}', "invalid_shape", "data"),
        ('{"type":"message","data":1,"ref":2}', "invalid_shape", "ref"),
        ('{"type":"token","token":2}', "invalid_shape", "token"),
        ("null", "invalid_shape", None),
    ],
)
def test_an_invalid_event_gets_an_error_event(
    serve: Serve, invalid: str, code: str, path: str | None
) -> None:
    with connect_events(f"{serve(room_app())}/rooms/lobby") as ann:
        ann.send(invalid)
        error = next_event(ann, "error")
        assert (error["code"], error.get("path")) == (code, path)
        send(ann, "still open")


def test_too_many_joins_of_an_address_are_refused_before_the_handshake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = room_app(joins_per_second_per_ip=0.1)
    with TestClient(app) as client:
        with client.websocket_connect("/rooms/lobby"):
            pass
        with (
            pytest.raises(WebSocketDenialResponse) as refusal,
            client.websocket_connect("/rooms/lobby"),
        ):
            pass
    assert refusal.value.status_code == 429
    assert refusal.value.json()["detail"] == "too many joins from this address"
    assert "see APP_JOINS_PER_SECOND_PER_IP" in warning(caplog)["reason"]
    assert len(app.state.realtime.service(Rooms).hub) == 0


def test_an_application_without_rooms_says_so() -> None:
    with pytest.raises(LookupError, match="there is no service Rooms"):
        realtime_app().state.realtime.service(Rooms)


def test_a_returning_member_receives_what_it_missed_and_then_live_events(
    serve_both_ways: Serve,
) -> None:
    url = f"{serve_both_ways(room_app())}/rooms/lobby"
    with connect_events(url) as ann:
        with connect_events(url) as bob:
            send(ann, "before")
            seen = next_event(bob, "message")["id"]
        send(ann, "missed", {"missed": "too"})
        next_event(ann, "left")
        with connect_events(f"{url}?since={seen}&name=bob") as bob:
            missed = [json.loads(bob.recv(timeout=10)) for _ in range(2)]
            assert [message["data"] for message in missed] == ["missed", {"missed": "too"}]
            id = missed[-1]["id"]
            resumed, joined = [json.loads(bob.recv(timeout=10)) for _ in range(2)]
            assert resumed == {"type": "resumed", "id": id, "room": "lobby", "since": seen}
            assert joined.pop("connection")
            assert joined == {"type": "joined", "id": id, "room": "lobby", "sender": "bob"}
            send(ann, "live")
            assert next_event(bob, "message")["data"] == "live"


def test_a_member_that_has_received_no_message_misses_none_either(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/lobby"
    with connect_events(url) as ann:
        with connect_events(url) as bob:
            position = next_event(bob, "joined")["id"]
        next_event(ann, "left")
        send(ann, "missed")
        with connect_events(f"{url}?since={position}") as bob:
            missed = next_event(bob, "message")
            assert missed["data"] == "missed"
            assert next_event(bob, "resumed")["id"] == missed["id"]


def test_text_members_get_no_replay(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/lobby"
    with connect_events(url) as ann:
        send(ann, "before")
        with connect(f"{url}?since=anything") as bob:
            next_event(ann, "joined")
            next_event(ann, "joined")
            send(ann, "live")
            assert bob.recv(timeout=10) == "New message: live"


def test_a_gap_is_sent_before_what_is_left(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/lobby"
    with connect_events(url) as ann, connect_events(url) as watch:
        send(ann, "kept")
        next_event(watch, "message")
        with connect_events(f"{url}?since=of-another-process") as bob:
            gap = json.loads(bob.recv(timeout=10))
            assert gap == {"type": "gap", "room": "lobby", "since": "of-another-process"}
            assert json.loads(bob.recv(timeout=10))["data"] == "kept"
            assert json.loads(bob.recv(timeout=10))["type"] == "resumed"


class SlowBroker(MemoryBroker):
    """A broker whose history takes time to read, while others publish."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, history_length=100)
        self.asked = asyncio.Event()
        self.published = asyncio.Event()

    async def replay(self, room: str, since: str, address: str = "", last: int = 0) -> Replay:
        self.asked.set()
        await self.published.wait()
        return await super().replay(room, since, address, last)


@pytest.mark.parametrize("query", ["since=SINCE", "since=SINCE&last=1", "last=50"])
def test_messages_published_while_history_is_read_arrive_once(
    serve_both_ways: Serve, query: str
) -> None:
    settings = RoomSettings()
    rooms = Rooms(settings)
    rooms.broker = broker = SlowBroker(rooms.hub)
    app = room_app(rooms=rooms)

    @app.websocket("/publisher")
    async def publisher(connection: Admitted) -> None:
        await connection.accept()
        await broker.asked.wait()
        for number in range(10, 20):
            await rooms.publish("lobby", number)
        await rooms.flush()
        broker.published.set()
        for number in range(20, 30):
            await rooms.publish("lobby", number)

    url = serve_both_ways(app)
    with connect_events(f"{url}/rooms/lobby") as ann:
        since = next_event(ann, "joined")["id"]
        send(ann, *range(10))
        query = query.replace("SINCE", since)
        with connect_events(f"{url}/rooms/lobby?{query}") as bob, connect(f"{url}/publisher"):
            assert [next_event(bob, "message")["data"] for _ in range(30)] == list(range(30))
            send(ann, "last")
            assert next_event(bob, "message")["data"] == "last"


def test_a_member_that_disconnects_during_its_replay_was_never_there() -> None:
    rooms = Rooms(RoomSettings())
    rooms.broker = broker = SlowBroker(rooms.hub)
    app = room_app(rooms=rooms)

    @app.websocket("/release")
    async def release(connection: Admitted) -> None:
        broker.published.set()
        await connection.send("released")

    with running(app) as url, connect_events(f"{url}/rooms/lobby") as ann:
        next_event(ann, "present")
        with connect_events(f"{url}/rooms/lobby?since=x&name=bob"):
            pass
        with connect(f"{url}/release") as other:
            other.recv(timeout=10)
        with connect(f"{url}/rooms/lobby?name=carol"):
            assert json.loads(ann.recv(timeout=10))["sender"] == "carol"
    assert len(rooms.hub) == 0


def test_a_join_that_times_out_leaves_nothing_behind() -> None:
    rooms = Rooms(RoomSettings())
    rooms.broker = SlowBroker(rooms.hub)
    app = room_app(rooms=rooms)

    @app.websocket("/hasty")
    async def hasty(connection: EventsAdmitted, rooms: RoomsDep) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), rooms.join(connection, "lobby", "bob", since="x"):
                pass
        await connection.send_message(str(len(rooms.hub)))

    with running(app) as url, connect_events(f"{url}/hasty") as bob:
        assert bob.recv(timeout=10) == "0"


def test_an_endpoint_may_join_several_rooms(serve_both_ways: Serve) -> None:
    settings = RoomSettings.model_validate(NO_RATE_LIMIT)
    rooms = Rooms(settings)
    app = room_app(rooms)

    @app.websocket("/both/{name}")
    async def both(connection: EventsAdmitted, rooms: RoomsDep, name: str, since: str = "") -> None:
        async with (
            rooms.join(connection, "tea", name, since) as tea,
            rooms.join(connection, "news", name),
        ):
            async for message in tea:
                await tea.publish(message.data, message.ref)

    url = serve_both_ways(app)
    with connect_events(f"{url}/rooms/news") as ann, connect_events(f"{url}/rooms/tea") as bob:
        for each in (ann, bob):
            next_event(each, "present")
        with connect_events(f"{url}/both/zoe") as zoe:
            joined = [next_event(zoe, "present")["room"] for _ in range(2)]
            assert joined == ["tea", "news"]
            for number in range(20):
                send(ann, number)
                send(bob, number)
            events = [next_event(zoe, "message") for _ in range(40)]
            for room in ("tea", "news"):
                assert [each["data"] for each in events if each["room"] == room] == [*range(20)]
            send(zoe, "to tea")
            assert next_event(bob, "message")["data"] == "to tea"
        for each in (ann, bob):
            assert next_event(each, "left")["sender"] == "zoe"
    assert len(rooms.hub) == 0


class AbsentBroker(MemoryBroker):
    """A broker that is away, but for rooms that it knows."""

    async def enter(self, room: str, address: str = "") -> str:
        if room == "unknown":
            raise BrokerUnavailable
        return await super().enter(room)

    async def replay(self, room: str, since: str, address: str = "", last: int = 0) -> Replay:
        raise BrokerUnavailable

    async def publish(self, *args: object, **options: object) -> str:
        raise BrokerUnavailable


def absent_broker(settings: RoomSettings, hub: Hub) -> AbsentBroker:
    """Return a broker that is away."""
    return AbsentBroker(hub, settings.history_length)


def test_while_the_broker_is_away_everything_is_refused_aloud(serve: Serve) -> None:
    rooms = Rooms(RoomSettings(), broker=absent_broker)
    url = f"{serve(room_app(rooms))}/rooms"
    with connect_events(f"{url}/lobby") as ann:
        send(ann, "lost", ref="r1")
        error = next_event(ann, "error")
        assert (error["code"], error["ref"]) == ("unavailable", "r1")
        with connect_events(f"{url}/lobby?since=x-1") as bob:
            assert receive_all(bob)[1] == 1013
        with pytest.raises(InvalidStatus, match="503"):
            connect(f"{url}/unknown")
        status, answer = request(f"{url}/lobby".replace("ws:", "http:"), b"1")
        assert status == 503
        assert "not available" in answer["detail"]
    assert len(rooms.hub) == 0


def send_more_than_any_buffer_holds(url: str) -> None:
    """Let a pair of members talk until a third, which doesn't read, must be far behind."""
    with connect_events(url) as bob:
        next_event(bob, "joined")
        with connect(url) as ann:
            for _ in range(100):
                ann.send(TEXT)
                assert next_event(bob, "message")["data"] == TEXT


def test_a_stalled_member_delays_nobody_and_sees_1013_when_it_reads_again(
    serve_both_ways: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve_both_ways(room_app(max_backlog_bytes=50_000))
    with raw_client(url, "/rooms/lobby") as stalled:
        send_more_than_any_buffer_holds(f"{url}/rooms/lobby")
        received = b""
        reason = b"could not keep up"
        while not received.endswith((1013).to_bytes(2, "big") + reason):
            received = received[-60:] + stalled.recv(100_000)
    assert warning(caplog)["reason"] == f"{reason.decode()}; see APP_MAX_BACKLOG_BYTES"
    assert TEXT not in caplog.text


def test_a_member_that_never_reads_again_is_dropped(
    serve_both_ways: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 1)
    url = serve_both_ways(room_app(max_backlog_bytes=50_000))
    with (
        connect_events(f"{url}/rooms/lobby") as watch,
        raw_client(url, "/rooms/lobby?name=stalled"),
    ):
        send_more_than_any_buffer_holds(f"{url}/rooms/lobby")
        while next_event(watch, "left")["sender"] != "stalled":
            pass


def test_binary_closes_with_1003_and_nothing_follows(serve_both_ways: Serve) -> None:
    url = serve_both_ways(room_app())
    with connect(f"{url}/rooms/lobby") as ann, raw_client(url, "/rooms/lobby") as bob:
        for _ in range(100):
            ann.send("x")
        bob.sendall(bytes([0x82, 0x80, 0, 0, 0, 0]))  # an empty binary message
        for _ in range(100):
            ann.send("x")
        received = b""
        while chunk := bob.recv(100_000):
            received += chunk
            if b"\x88" in received:
                bob.shutdown(socket.SHUT_WR)
        _, close = received.split(b"\x88")
        assert close == bytes([15]) + (1003).to_bytes(2, "big") + b"text expected"


def test_messages_published_before_a_stop_arrive_before_the_close(serve_both_ways: Serve) -> None:
    app = room_app(drain_seconds=5)
    more = TEXT[:2000]

    @app.websocket("/stop")
    async def stop(connection: Admitted, rooms: RoomsDep) -> None:
        for number in range(200):
            await rooms.publish("lobby", f"{number} {more}", sender="zoe")
        app.state.task = asyncio.create_task(app.state.realtime.drain.run())
        await connection.close()

    url = serve_both_ways(app)
    with connect(f"{url}/rooms/lobby") as ann, connect(f"{url}/stop"):
        messages, code = receive_all(ann)
        assert code == 1012
        assert messages == [f"New message: {number} {more}" for number in range(200)]


def test_several_workers_are_refused_for_rooms_in_memory() -> None:
    assert RoomSettings.model_validate({"workers": 1}).is_in_memory
    with pytest.raises(ValidationError, match="APP_WORKERS=2: these rooms are in the memory of"):
        RoomSettings.model_validate({"workers": 2})
