"""Connections: limits, closing, and clients that leave or stop reading."""

import asyncio
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import fastapi_realtime.connection as connection_module
import fastapi_realtime.limits as fair_turn
import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.testclient import TestClient
from fastapi_realtime import (
    Admitted,
    CloseCode,
)
from fastapi_realtime.connection import Connection
from fastapi_realtime.limits import LongMessages
from fastapi_realtime.realtime import RealtimeDep
from fastapi_realtime.settings import RealtimeSettings
from pydantic import BaseModel
from starlette.testclient import WebSocketTestSession
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketState

from .serving import (
    NO_RATE_LIMIT,
    STOCK,
    Serve,
    connect,
    echo_app,
    no_errors_logged,
    raw_client,
    receive_all,
    running,
    text_frame,
    write_until_refused,
)


class Point(BaseModel):
    """The shape that `/points` expects."""

    x: int
    y: int


class ReportEnd:
    """Middleware that sets an event when a connection has ended."""

    def __init__(self, app: ASGIApp, ended: threading.Event) -> None:
        self.app = app
        self.ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "websocket":
                self.ended.set()


@pytest.fixture
def ended() -> threading.Event:
    """Set when a connection has ended, and its endpoint with it."""
    return threading.Event()


@pytest.fixture
def app(ended: threading.Event) -> FastAPI:
    """An application with low limits, and an endpoint for each thing that endpoints do."""
    app = echo_app(max_message_bytes=24, max_invalid_messages=2)
    app.add_middleware(ReportEnd, ended=ended)
    add_reading_endpoints(app)
    add_sending_endpoints(app)
    add_closing_endpoints(app)
    return app


def add_reading_endpoints(app: FastAPI) -> None:
    """Add endpoints that read texts and JSON."""

    @app.websocket("/texts")
    async def texts(connection: Admitted[str, str]) -> None:
        async for text in connection:
            await connection.send(text)

    @app.websocket("/points")
    async def points(connection: Admitted[Point, str]) -> None:
        async for point in connection:
            await connection.send(f"{point.x},{point.y}")


def add_sending_endpoints(app: FastAPI) -> None:
    """Add endpoints that send, some more than a client may read."""

    @app.websocket("/flood")
    async def flood(connection: Admitted) -> None:
        while True:
            await connection.send(b"x" * 10_000)

    @app.websocket("/burst")
    async def burst(connection: Admitted) -> None:
        await connection.accept()
        assert connection.transport is not None
        connection.transport.write(b"x" * 10_000_000)
        async for _ in connection:
            pass

    @app.websocket("/long")
    async def long(connection: Admitted) -> None:
        await connection.send(b"x" * 10_000_000)

    @app.websocket("/own_error")
    async def own_error(connection: Admitted) -> None:
        await connection.send_error("sold_out", "There is no tea.")

    @app.websocket("/about")
    async def about(connection: Admitted, realtime: RealtimeDep) -> None:
        about = f"{connection.host}, {realtime.settings.max_message_bytes} bytes"
        await connection.send(f"{about}, an id of {len(connection.id)}")


def add_closing_endpoints(app: FastAPI) -> None:
    """Add endpoints that end in different ways."""

    @app.websocket("/brief")
    async def brief(connection: Admitted) -> None:
        await connection.send("bye")

    @app.websocket("/closed_from_elsewhere")
    async def closed_from_elsewhere(connection: Admitted) -> None:
        await connection.accept()
        asyncio.get_running_loop().call_soon(
            connection.close_soon, CloseCode.TRY_AGAIN_LATER, "elsewhere"
        )
        assert [message async for message in connection] == []

    @app.websocket("/late")
    async def late(connection: Admitted) -> None:
        await connection.close()
        await connection.send("too late")

    @app.websocket("/broken")
    async def broken(connection: Admitted) -> None:
        await connection.send("hello")
        raise LookupError("a bug in an endpoint")


def close_code(websocket: WebSocketTestSession) -> int:
    """Wait for the close frame."""
    with pytest.raises(WebSocketDisconnect) as closed:
        websocket.receive_text()
    return closed.value.code


@pytest.mark.parametrize("longest", ["x" * 24, "é" * 12])
def test_message_of_the_maximum_size_is_received(client: TestClient, longest: str) -> None:
    with client.websocket_connect("/all") as websocket:
        websocket.send_text(longest)
        assert websocket.receive_text() == longest
        websocket.send_bytes(longest.encode())
        assert websocket.receive_bytes() == longest.encode()


@pytest.mark.parametrize("too_long", ["x" * 25, "é" * 13, b"\xff" * 25])
def test_larger_message_closes_with_1009(client: TestClient, too_long: str | bytes) -> None:
    with client.websocket_connect("/all") as websocket:
        if isinstance(too_long, str):
            websocket.send_text(too_long)
        else:
            websocket.send_bytes(too_long)
        assert close_code(websocket) == 1009


def test_binary_message_closes_with_1003_where_text_is_expected(client: TestClient) -> None:
    with client.websocket_connect("/texts") as websocket:
        websocket.send_text("text")
        assert websocket.receive_text() == "text"
        websocket.send_bytes(b"binary")
        assert close_code(websocket) == 1003


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("", "invalid_json"),
        ('{"x":NaN,"y":1}', "invalid_json"),
        ("[" * 20, "invalid_json"),
        ('{"x":Infinity,"y":1}', "invalid_json"),
        ("null", "invalid_shape"),
        (b'{"x":1,"y":2}', "text_expected"),
    ],
)
def test_invalid_message_gets_an_error_and_the_connection_stays_open(
    client: TestClient, message: str | bytes, code: str
) -> None:
    with client.websocket_connect("/points") as websocket:
        if isinstance(message, str):
            websocket.send_text(message)
        else:
            websocket.send_bytes(message)
        error = websocket.receive_json()["error"]
        assert error["code"] == code
        assert error["detail"]
        assert "path" not in error
        websocket.send_text('{"x":1,"y":2}')
        assert websocket.receive_text() == "1,2"


@pytest.mark.parametrize(
    ("message", "path"),
    [('{"x":1}', "y"), ('{"x":"secret","y":1}', "x"), ('{"x":1,"y":[1,2]}', "y")],
)
def test_error_for_a_wrong_shape_has_its_path_and_not_its_value(
    client: TestClient, message: str, path: str
) -> None:
    with client.websocket_connect("/points") as websocket:
        websocket.send_text(message)
        answer = websocket.receive_text()
        assert json.loads(answer)["error"]["code"] == "invalid_shape"
        assert json.loads(answer)["error"]["path"] == path
        assert "secret" not in answer


def test_too_many_invalid_messages_in_a_row_close_with_1008(client: TestClient) -> None:
    with client.websocket_connect("/points") as websocket:
        for _ in range(3):
            websocket.send_text("no")
            websocket.send_text("no")
            websocket.send_text('{"x":1,"y":2}')
            assert "error" in websocket.receive_json()
            assert "error" in websocket.receive_json()
            assert websocket.receive_text() == "1,2"
        for _ in range(3):
            websocket.send_text("no")
        assert "error" in websocket.receive_json()
        assert "error" in websocket.receive_json()
        assert close_code(websocket) == 1008


@contextmanager
def connected(rate: float, burst: int) -> Generator[WebSocketTestSession]:
    """Connect to an endpoint that sends back what it gets, at this rate."""
    app = echo_app(messages_per_second=rate, message_burst=burst)
    client = TestClient(app)
    with client, client.websocket_connect("/all") as websocket:
        yield websocket


def test_messages_over_the_rate_get_an_error_and_then_1008() -> None:
    with connected(rate=0.0001, burst=3) as websocket:
        for _ in range(7):
            websocket.send_text("x")
        assert [websocket.receive_text() for _ in range(3)] == ["x", "x", "x"]
        errors = [websocket.receive_json()["error"] for _ in range(3)]
        assert {error["code"] for error in errors} == {"rate_limited"}
        assert close_code(websocket) == 1008


def test_client_that_waits_may_send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    monkeypatch.setattr(connection_module, "time", clock)
    with connected(rate=10, burst=2) as websocket:
        for seconds, answer in ((0.0, "x"), (0.0, "x"), (0.0, "error"), (0.3, "x"), (9, "x")):
            now += seconds
            websocket.send_text("x")
            assert answer in websocket.receive_text()


async def connection_of(receive: Receive, send: Send) -> Connection:
    """An accepted connection on a server made of these two."""
    scope = {"type": "websocket", "client": None, "path": "/", "headers": []}
    websocket = WebSocket(scope, receive, send)
    websocket.client_state = WebSocketState.CONNECTED
    connection = Connection(websocket, RealtimeSettings(**NO_RATE_LIMIT), None, LongMessages())
    await connection.inbox.start(websocket.receive)
    await connection.accept()
    return connection


async def always() -> Message:
    """Receive a message at once."""
    return {"type": "websocket.receive", "text": "x"}


async def closed(message: Message) -> None:
    """Fail as uvicorn's `send` does when uvicorn has closed on its own."""
    if message["type"] != "websocket.accept":
        raise RuntimeError("websocket.send after websocket.close")


class Unread(asyncio.Transport):
    """A transport with data that its client has not read."""

    aborted = False

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 1

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.anyio
async def test_many_messages_of_one_client_do_not_delay_others() -> None:
    others = asyncio.create_task(asyncio.sleep(0))
    messages = 0
    async for _ in await connection_of(always, closed):
        messages += 1
        if others.done():
            break
        assert messages < 1000
    assert others.done()


@pytest.mark.anyio
async def test_long_messages_do_not_delay_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_turn, "MESSAGES_PER_TURN", 1_000_000)
    monkeypatch.setattr(fair_turn, "SECONDS_PER_TURN", 1_000_000)
    monkeypatch.setattr(connection_module, "LONG_MESSAGE_BYTES", 0)
    others = asyncio.create_task(asyncio.sleep(0))
    messages = 0
    async for _ in await connection_of(always, closed):
        messages += 1
        if messages == 10:
            break
    assert others.done()


@pytest.mark.anyio
async def test_slow_messages_of_one_client_do_not_delay_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fair_turn, "MESSAGES_PER_TURN", 1_000_000)
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    monkeypatch.setattr(connection_module, "time", clock)
    others = asyncio.create_task(asyncio.sleep(0))
    messages = 0
    async for _ in await connection_of(always, closed):
        messages += 1
        now += 0.002
        if others.done():
            break
        assert messages < 10
    assert others.done()


@pytest.mark.anyio
async def test_connection_ends_when_the_server_has_closed_on_its_own() -> None:
    connection = await connection_of(always, closed)
    await connection.close()
    transport = Unread()
    connection = await connection_of(always, closed)
    connection.transport = transport
    await connection.close()
    assert transport.aborted
    connection = await connection_of(always, closed)
    with pytest.raises(WebSocketDisconnect):
        await connection.send("too late")
    assert not connection.is_open


def test_client_that_closes_with_data_unread_is_dropped(
    app: FastAPI,
    serve: Serve,
    ended: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 0.1)
    with raw_client(serve(app), "/burst") as raw:
        raw.sendall(bytes([0x88, 0x80, 0, 0, 0, 0]))  # a close frame, and no reading
        assert ended.wait(10)
        write_until_refused(raw, b"x")


def test_endpoint_sends_errors_of_its_own(client: TestClient) -> None:
    with client.websocket_connect("/own_error") as websocket:
        error = {"code": "sold_out", "detail": "There is no tea."}
        assert websocket.receive_json() == {"error": error}


def test_endpoint_knows_settings_and_address(client: TestClient) -> None:
    with client.websocket_connect("/about") as websocket:
        assert websocket.receive_text() == "testclient, 24 bytes, an id of 16"


def test_endpoint_that_returns_closes_with_1000(app: FastAPI, serve: Serve) -> None:
    with connect(f"{serve(app)}/brief") as websocket:
        assert list(websocket) == ["bye"]
        assert websocket.close_code == 1000


def test_close_from_another_task_ends_an_endpoint_that_reads(client: TestClient) -> None:
    with client.websocket_connect("/closed_from_elsewhere") as websocket:
        assert close_code(websocket) == 1013


def test_nothing_is_sent_after_a_close_frame(app: FastAPI, serve_both_ways: Serve) -> None:
    with connect(f"{serve_both_ways(app)}/late") as websocket:
        assert list(websocket) == []
        assert websocket.close_code == 1000


def test_endpoint_that_fails_closes_with_1011_and_is_logged(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with running(app) as url, connect(f"{url}/broken") as websocket:
        assert receive_all(websocket) == (["hello"], 1011)
    failures = [record.exc_info for record in caplog.records if record.exc_info]
    assert [type(failure[1]) for failure in failures] == [LookupError]


def reset(raw: socket.socket) -> None:
    """Reset the connection, as a crashed client or a cut cable does."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def hang_up(raw: socket.socket) -> None:
    """End the stream where a close frame should come."""
    raw.close()


def stop_in_a_frame(raw: socket.socket) -> None:
    """Promise more bytes than follow."""
    raw.sendall(text_frame(b"Hello")[:-3])
    raw.close()


@pytest.mark.parametrize("leave", [reset, hang_up, stop_in_a_frame])
def test_endpoint_ends_when_its_client_leaves_without_a_close_frame(
    app: FastAPI,
    serve_both_ways: Serve,
    ended: threading.Event,
    leave: Callable[[socket.socket], None],
) -> None:
    with raw_client(serve_both_ways(app), "/flood") as raw:
        assert raw.recv(1)
        leave(raw)
        assert ended.wait(10)


@pytest.mark.parametrize("path", ["/flood", "/long"])
def test_client_that_stops_reading_is_dropped(
    app: FastAPI,
    serve_both_ways: Serve,
    ended: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(connection_module, "STALL_TIMEOUT", 0.1)
    with raw_client(serve_both_ways(app), path):
        assert ended.wait(10)


def test_stopping_server_drops_a_client_that_does_not_read(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack, running(app, timeout_graceful_shutdown=0.1) as url:
        stack.enter_context(raw_client(url, "/flood")).recv(1)
    assert [record for record in caplog.records if record.exc_info] == []
    (cancelled,) = [each for each in caplog.records if each.message == "Cancelled an ASGI task."]
    assert cancelled.levelname == "INFO"


def close_code_on(raw: socket.socket) -> int:
    """Read a close frame that no other frame came before, and return its code."""
    first, _, *code = raw.recv(4)
    assert first == 0x88
    return int.from_bytes(bytes(code), "big")


def test_sending_after_the_server_has_closed_on_its_own_logs_no_error(
    app: FastAPI, serve_both_ways: Serve
) -> None:
    too_long = bytes([0x81, 0xFE, 0xFF, 0xFF])
    with raw_client(serve_both_ways(app), "/all") as raw:
        raw.sendall(text_frame(b"first") + too_long)
        assert close_code_on(raw) == 1009


@pytest.mark.parametrize("protocols", [STOCK, {}], ids=["stock", "own"])
def test_text_that_is_not_utf8_closes_with_1007_and_logs_no_traceback(
    app: FastAPI, caplog: pytest.LogCaptureFixture, protocols: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    with (
        no_errors_logged(),
        running(app, **protocols) as url,
        raw_client(url, "/all") as raw,
    ):
        raw.sendall(text_frame(b"\xff"))
        assert close_code_on(raw) == 1007
    said = [f"{each.getMessage()} {vars(each).get('reason', '')}" for each in caplog.records]
    assert any("invalid utf-8" in each.lower() for each in said)
