"""Rooms as Server-Sent Events."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import fastapi_realtime.connection as connection_module
import fastapi_realtime.rooms.event_stream as event_stream
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted, RealtimeDep
from fastapi_realtime.rooms import EventStream, RequestedStream, RoomsDep
from fastapi_realtime.server import write_deadline

from .brokers import MakeRooms, kinds
from .room_app import (
    EventsAdmitted,
    SubjectAsToken,
    connect_events,
    next_event,
    request,
    room_app,
    send,
    token_app,
)
from .serving import Serve, dial, read_to_end, realtime_app, warning
from .test_rooms import TEXT, send_more_than_any_buffer_holds

ACCEPT = {"accept": "text/event-stream"}


class Stream:
    """The response to a request for an event stream, read as a client does."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self._response = response.status, response.headers, response
        self.last_id = ""

    def next_block(self) -> list[str]:
        """Return the lines up to a blank one; none at the end."""
        lines = []
        while line := self._response.readline().decode().removesuffix("\n"):
            lines.append(line)
        return lines

    def next_event(self, kind: str) -> dict[str, Any]:
        """Receive events up to one of this type."""
        while True:
            fields = dict(line.split(": ", 1) for line in self.next_block())
            self.last_id = fields.get("id", self.last_id)
            event = json.loads(fields["data"])
            if event["type"] == kind:
                return event

    def detail(self) -> object:
        """Return the reason of a refusal."""
        return json.loads(self._response.read())["detail"]

    def is_ended(self) -> bool:
        """Receive up to the end; return whether the client was told when to connect again."""
        blocks = [*iter(self.next_block, [])]
        name, _, milliseconds = blocks[-1][0].partition(": ")
        return name == "retry" and 1000 <= int(milliseconds) <= 5000


@contextmanager
def stream(url: str, **headers: str | bytes) -> Generator[Stream]:
    """Ask for an event stream."""
    host, slash, path = url.removeprefix("ws://").partition("/")
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request("GET", slash + path, headers=ACCEPT | names)
        with connection.getresponse() as response:
            yield Stream(response)


def publish(url: str, data: object) -> str:
    """Publish a message to a room by a request, and return its id."""
    status, answer = request(url.replace("ws:", "http:"), json.dumps(data).encode())
    assert status == 202
    return answer["id"]


def add_stream(app: FastAPI | APIRouter, endpoint: Callable[..., Awaitable[None]]) -> None:
    """Add a WebSocket endpoint and its event stream, at `/stream`."""
    app.add_api_websocket_route("/stream", endpoint)

    @app.get("/stream", response_model=None)
    async def get(stream: RequestedStream) -> EventStream | None:
        return stream


async def say_hello(connection: Admitted) -> None:
    """Send one message, and close."""
    await connection.send("hello")


def test_events_have_their_json_and_those_with_a_position_an_id(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with stream(f"{url}?name=eve") as eve:
        assert (eve.status, eve.headers["content-type"]) == (200, "text/event-stream")
        assert eve.headers["cache-control"] == "no-store"
        assert eve.headers["connection"] == "close"
        joined_id, joined = eve.next_block()
        assert joined_id == f"id: {json.loads(joined.removeprefix('data: '))['id']}"
        (present,) = eve.next_block()
        assert json.loads(present.removeprefix("data: "))["members"][0]["sender"] == "eve"
        with connect_events(f"{url}?name=ann") as ann:
            assert eve.next_event("joined")["sender"] == "ann"
            send(ann, "two\nlines")
            message_id, message = eve.next_block()
        event = json.loads(message.removeprefix("data: "))
        assert (event["data"], message_id) == ("two\nlines", f"id: {event['id']}")


def test_a_request_that_does_not_name_the_type_gets_json(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with stream(url, accept="*/*") as answer:
        assert answer.headers["content-type"] == "application/json"
    with stream(url, accept="application/json, Text/Event-Stream;q=0.5") as answer:
        assert answer.headers["content-type"] == "text/event-stream"


@pytest.fixture(scope="module", params=kinds())
def make_rooms(request: pytest.FixtureRequest) -> Generator[MakeRooms]:
    with kinds()[request.param]() as make_rooms:
        yield make_rooms


def test_who_comes_back_gets_what_came_since_the_last_id(
    serve: Serve, make_rooms: MakeRooms
) -> None:
    url = f"{serve(room_app(make_rooms()))}/rooms/tea"
    with stream(url) as eve:
        eve.next_event("joined")
        publish(url, 1)
        assert eve.next_event("message")["data"] == 1
    publish(url, 2)
    publish(url, 3)
    with stream(f"{url}?since=other&last=9", last_event_id=eve.last_id) as back:
        assert [json.loads(back.next_block()[1][6:])["data"] for _ in range(2)] == [2, 3]
        assert back.next_event("resumed")["since"] == eve.last_id
        back.next_event("present")
        publish(url, 4)
        assert back.next_event("message")["data"] == 4
    with stream(f"{url}?since={eve.last_id}") as back:
        assert back.next_event("message")["data"] == 2
    with stream(f"{url}?last=1", last_event_id="") as new:
        assert new.next_event("message")["data"] == 4


def test_only_positions_in_the_room_of_the_path_are_ids(serve: Serve) -> None:
    app = room_app()

    async def endpoint(connection: EventsAdmitted, rooms: RoomsDep) -> None:
        async with rooms.join(connection, "lobby", "eve") as member:
            await member.join("tea")
            await connection.wait_closed()

    add_stream(app, endpoint)
    url = serve(app)
    with stream(f"{url}/stream") as eve:
        lobby = eve.next_event("joined")["id"]
        assert eve.next_event("joined")["room"] == "tea"
        publish(f"{url}/rooms/tea", 1)
        eve.next_event("message")
        assert eve.last_id == lobby
        publish(f"{url}/rooms/lobby", 2)
        assert eve.next_event("message")["id"] == eve.last_id != lobby


@pytest.mark.parametrize(
    ("last_id", "since"),
    [
        ("5f0c2a1e-7", "5f0c2a1e-7"),
        ("a&last=3%00+#", "a&last=3%00+#"),
        ("9" * 60_000, "9" * 60_000),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_an_unknown_last_id_is_a_gap(serve: Serve, last_id: str | bytes, since: str) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with stream(url, last_event_id=last_id) as eve:
        assert eve.next_event("gap")["since"] == since
        assert eve.next_event("joined")["sender"] == "somebody"


def test_members_see_a_stream_join_and_leave(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with connect_events(f"{url}?name=ann") as ann:
        next_event(ann, "present")
        with stream(f"{url}?name=eve") as eve:
            connection = eve.next_event("joined")["connection"]
            assert next_event(ann, "joined")["connection"] == connection
            assert eve.next_event("present")["count"] == 2
        assert next_event(ann, "left")["connection"] == connection


def test_a_client_is_refused_like_a_handshake(serve: Serve) -> None:
    url = serve(token_app(zoe={"join": ["tea"]}))
    with stream(f"{url}/rooms/tea") as refused:
        assert (refused.status, refused.detail()) == (401, "no valid token")
    with stream(f"{url}/rooms/other", authorization="Bearer zoe") as refused:
        assert (refused.status, refused.detail()) == (403, "this room is not open to you")
    with stream(f"{url}/rooms/tea?last=-1", authorization="Bearer zoe") as refused:
        assert refused.status == 422
    with stream(f"{url}/rooms/tea", authorization="Bearer zoe") as zoe:
        assert zoe.next_event("joined")["sender"] == "zoe"


@pytest.mark.parametrize(
    ("limit", "status"), [("max_connections", 503), ("max_connections_per_ip", 429)]
)
def test_a_stream_counts_as_a_connection(serve: Serve, limit: str, status: int) -> None:
    url = f"{serve(room_app(None, **{limit: 1}))}/rooms/tea"
    with stream(url) as first, stream(url) as second:
        assert (first.status, second.status) == (200, status)


SAME, CROSS = {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "cross-site"}
SHOP, EVIL = {"origin": "https://shop.example"}, {"origin": "https://evil.example"}


@pytest.mark.parametrize(
    ("headers", "optional", "required"),
    [
        ({}, 200, 403),
        ({"sec-fetch-site": "none"}, 200, 403),
        (SAME, 200, 200),
        (CROSS, 403, 403),
        (SHOP, 200, 200),
        (SHOP | CROSS, 200, 200),
        (EVIL, 403, 403),
        (EVIL | SAME, 403, 403),
    ],
)
def test_a_page_of_another_origin_is_refused(
    headers: dict[str, str], optional: int, required: int
) -> None:
    statuses = []
    for is_required in (False, True):
        app = room_app(allowed_origins=["https://shop.example"], require_origin=is_required)
        add_stream(app, say_hello)
        with TestClient(app) as client:
            statuses.append(client.get("/stream", headers=ACCEPT | headers).status_code)
    assert statuses == [optional, required]


@pytest.mark.parametrize("with_middleware", [False, True])
def test_a_page_of_an_allowed_origin_may_read(with_middleware: bool) -> None:
    app = room_app(allowed_origins=["https://shop.example"])
    add_stream(app, say_hello)
    if with_middleware:
        app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    with TestClient(app) as client:
        headers = client.get("/stream", headers=ACCEPT | SHOP).headers
        assert headers.get_list("access-control-allow-origin") == ["https://shop.example"]
        assert "Origin" in headers["vary"]
        headers = client.get("/stream", headers=ACCEPT).headers
        assert "access-control-allow-origin" not in headers


def test_a_silent_stream_is_kept_open_by_comments(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", (0.01, 0.01))
    with stream(f"{serve(room_app())}/rooms/tea") as eve:
        eve.next_event("present")
        assert eve.next_block() == [": ping"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="not Linux")
def test_a_host_that_acknowledges_nothing_is_given_up(serve: Serve) -> None:
    async def endpoint(connection: Admitted) -> None:
        await connection.accept()
        server = connection.websocket.scope["http_transport"].get_extra_info("socket")
        option = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        await connection.send(str(option))

    app = realtime_app()
    add_stream(app, endpoint)
    with stream(f"{serve(app)}/stream") as eve:
        assert eve.next_block() == ["data: 40000"]


def test_an_idle_stream_is_ended(serve: Serve) -> None:
    with stream(f"{serve(room_app(idle_timeout=1))}/rooms/tea") as eve:
        assert eve.is_ended()


def test_a_revoked_token_ends_the_stream(serve: Serve) -> None:
    app = token_app()
    authenticator: SubjectAsToken = app.state.realtime.authenticator

    @app.post("/revoke")
    async def revoke(realtime: RealtimeDep) -> None:
        authenticator.revoked.add("zoe")
        realtime.close_subject("zoe")

    url = serve(app)
    with stream(f"{url}/rooms/lobby", authorization="Bearer zoe") as zoe:
        zoe.next_event("joined")
        request(f"{url.replace('ws:', 'http:')}/revoke", b"")
        assert zoe.is_ended()
    with stream(f"{url}/rooms/lobby", authorization="Bearer zoe") as zoe:
        assert zoe.status == 401


def app_that_drains(seconds: float) -> FastAPI:
    """An application that drains when it gets a request."""
    app = room_app()
    app.state.realtime.drain.seconds = seconds

    @app.post("/drain")
    async def drain(realtime: RealtimeDep) -> None:
        await realtime.drain.run()

    return app


def test_a_restart_ends_streams(serve: Serve) -> None:
    url = serve(app_that_drains(seconds=10))
    with stream(f"{url}/rooms/tea") as eve:
        eve.next_event("present")
        assert request(f"{url.replace('ws:', 'http:')}/drain", b"")[0] == 200
        assert eve.is_ended()
    with stream(f"{url}/rooms/tea") as late:
        assert (late.status, late.detail()) == (503, "restarting")


@contextmanager
def stalled_stream(url: str, path: str = "/rooms/lobby?name=stalled") -> Generator[socket.socket]:
    """Ask for a stream, and read nothing."""
    with dial(url) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
        yield raw


def test_a_reader_that_stalls_delays_nobody_and_sees_the_end_when_it_reads_again(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(room_app(max_backlog_bytes=50_000))
    with stalled_stream(url) as stalled:
        send_more_than_any_buffer_holds(f"{url}/rooms/lobby")
        received = read_to_end(stalled)
    assert received.endswith(b"\n\n\r\n0\r\n\r\n")
    assert b"retry: " in received[-40:]
    assert received.count(TEXT.encode()) < 100
    assert warning(caplog)["code"] == 1013


def test_a_reader_that_never_reads_again_is_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 1)
    monkeypatch.setattr(write_deadline, "WRITE_SECONDS", 1000)
    app, ended = room_app(max_backlog_bytes=50_000), threading.Semaphore(0)
    url = serve(app)
    monkeypatch.setattr(app.state.realtime.limiter, "release", lambda host: ended.release())
    with stalled_stream(url) as stalled:
        send_more_than_any_buffer_holds(f"{url}/rooms/lobby")
        for _ in range(3):  # two that talked, and the stream
            assert ended.acquire(timeout=10)
        assert b"retry: " not in read_to_end(stalled)


def test_a_reader_that_never_reads_again_does_not_delay_a_restart(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 1000)
    monkeypatch.setattr(write_deadline, "WRITE_SECONDS", 1000)
    url = serve(app_that_drains(seconds=0.2))
    with stalled_stream(url) as stalled:
        send_more_than_any_buffer_holds(f"{url}/rooms/lobby")
        request(f"{url.replace('ws:', 'http:')}/drain", b"")
        assert b"retry: " not in read_to_end(stalled)


def test_what_a_reader_leaves_unread_at_the_end_is_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 0.1)
    monkeypatch.setattr(write_deadline, "WRITE_SECONDS", 1000)
    app, started, ended = realtime_app(), threading.Event(), threading.Event()

    async def endpoint(connection: Admitted) -> None:
        await connection.send("x" * 60_000)
        started.set()

    add_stream(app, endpoint)
    url = serve(app)
    monkeypatch.setattr(app.state.realtime.limiter, "release", lambda host: ended.set())
    with stalled_stream(url, "/stream") as stalled:
        assert started.wait(10)
        assert ended.wait(10)
        assert b"retry: " not in read_to_end(stalled)


def test_no_comment_follows_the_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PING_SECONDS", (0, 0))
    app = room_app()
    add_stream(app, say_hello)

    @app.get("/tasks")
    async def tasks() -> list[str]:
        return [str(task.get_coro()) for task in asyncio.all_tasks()]

    url = serve(app)
    with stream(f"{url}/stream") as ended, connect_events(f"{url}/rooms/tea") as ann:
        assert ended.is_ended()
        with stream(f"{url}/rooms/tea") as left:
            left.next_event("joined")
        next_event(ann, "left")
    assert "_ping" not in str(request(f"{url.replace('ws:', 'http:')}/tasks")[1])


def test_a_body_is_ignored(serve: Serve) -> None:
    with dial(serve(room_app())) as raw:
        head = "Host: x\r\nAccept: text/event-stream\r\nContent-Length: 2\r\n"
        raw.sendall(f"GET /rooms/lobby HTTP/1.1\r\n{head}\r\nhi".encode())
        received = b""
        while b'"present"' not in received:
            received += raw.recv(1000)
        assert received.startswith(b"HTTP/1.1 200 ")


def test_any_text_is_an_event_and_binary_is_left_out() -> None:
    async def endpoint(connection: Admitted) -> None:
        for text in ("plain", "a\nb\r\nc\rd\u2028e", "", "[1]", '{"room": "lobby", "id": 1}'):
            await connection.send(text)
        await connection.send(b"binary")
        for event in ({"id": "x\ny"}, {"id": "x"}):
            await connection.send(json.dumps({"room": "lobby"} | event))

    app = realtime_app()
    add_stream(app, endpoint)
    with TestClient(app) as client:
        *blocks, retry, rest = client.get("/stream", headers=ACCEPT).text.split("\n\n")
    assert blocks == [
        "data: plain",
        "data: a\ndata: b\ndata: c\ndata: d\u2028e",
        "data: ",
        "data: [1]",
        'data: {"room": "lobby", "id": 1}',
        'data: {"room": "lobby", "id": "x\\ny"}',
        'id: x\ndata: {"room": "lobby", "id": "x"}',
    ]
    assert retry.startswith("retry: ")
    assert not rest


def test_an_endpoint_refuses_with_422_or_403() -> None:
    async def with_number(connection: Admitted, number: int) -> None:
        await connection.send(str(number))

    async def without_admission(websocket: WebSocket) -> None:
        await websocket.close()

    app = realtime_app()
    add_stream(app, with_number)
    app.mount("/raw", raw := FastAPI())
    add_stream(raw, without_admission)
    with TestClient(app) as client:
        assert client.get("/stream", headers=ACCEPT).json()["detail"][0]["loc"][1] == "number"
        assert client.get("/stream?number=1", headers=ACCEPT).text.startswith("data: 1\n\n")
        forbidden = client.get("/raw/stream", headers=ACCEPT)
        assert (forbidden.status_code, forbidden.json()) == (403, {"detail": "Forbidden"})


def test_a_stream_without_an_endpoint_is_not_found() -> None:
    app = realtime_app()

    @app.get("/stream", response_model=None)
    async def get(stream: RequestedStream) -> EventStream | None:
        return stream

    with TestClient(app) as client:
        assert client.get("/stream").json() is None
        assert client.get("/stream", headers=ACCEPT).status_code == 404


def test_a_bug_in_the_endpoint_gets_a_500_or_ends_the_stream() -> None:
    async def endpoint(connection: Admitted, late: bool = False) -> None:
        if late:
            await connection.send("hello")
        raise ZeroDivisionError

    app = realtime_app()
    add_stream(app, endpoint)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/stream", headers=ACCEPT).status_code == 500
        assert "retry: " in client.get("/stream?late=true", headers=ACCEPT).text


def test_a_mounted_application_and_an_included_router_stream() -> None:
    inner, router = realtime_app(), APIRouter()
    add_stream(router, say_hello)
    inner.include_router(router, prefix="/included")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/mounted", inner)
    with TestClient(outer) as client:
        response = client.get("/mounted/included/stream", headers=ACCEPT)
        assert response.text.startswith("data: hello\n\nretry: ")


def test_the_api_document_names_the_type() -> None:
    content = room_app().openapi()["paths"]["/rooms/{room}"]["get"]["responses"]["200"]["content"]
    assert [*content] == ["application/json", "text/event-stream"]
