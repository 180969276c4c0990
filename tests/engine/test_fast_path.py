"""Where frames go straight to the server's transport, and how strict clients see them."""

import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from runpy import run_path
from types import ModuleType

import fastapi_realtime.server.uvicorn_internals as uvicorn_internals
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.testclient import TestClient
from fastapi_realtime import Admitted
from fastapi_realtime.server.fast_path import ReceivingInbox
from fastapi_realtime.server.wire import server_frame
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .serving import (
    STOCK,
    Serve,
    WrapSend,
    connect,
    echo_app,
    own_records,
    receive_all,
    running,
)


class WSProtocol:
    """A protocol of uvicorn that is there if wsproto is installed."""


class PassThrough:
    """Middleware that passes `send` on as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


async def pass_http_through(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Middleware for HTTP that does nothing."""
    return await call_next(request)


@pytest.fixture
def app() -> FastAPI:
    """An application that sends which way its frames take, and where messages come from."""
    app = echo_app(max_message_bytes=100_000)

    @app.websocket("/way")
    async def way(connection: Admitted) -> None:
        await connection.send("ASGI" if connection.transport is None else "transport")

    @app.websocket("/source")
    async def source(connection: Admitted) -> None:
        async for _ in connection:
            is_portable = isinstance(connection.inbox, ReceivingInbox)
            await connection.send("ASGI" if is_portable else "inbox")

    return app


def way_taken(url: str) -> str | bytes:
    """Return which way the frames of a connection took."""
    with connect(f"{url}/way") as websocket:
        return websocket.recv(timeout=10)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the engine's warnings."""
    return [each.message for each in own_records(caplog) if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("protocols", [STOCK, {}], ids=["stock", "own"])
def test_transport_is_found_under_uvicorn(
    app: FastAPI, caplog: pytest.LogCaptureFixture, protocols: dict[str, object]
) -> None:
    with running(app, **protocols) as url:
        assert way_taken(url) == "transport"
    assert warnings(caplog) == []


def test_transport_is_found_behind_middlewares_that_pass_send_on(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    app.add_middleware(PassThrough)
    app.middleware("http")(pass_http_through)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(GZipMiddleware)
    with running(app) as url:
        assert way_taken(url) == "transport"
    assert warnings(caplog) == []


@pytest.mark.parametrize("protocols", [STOCK, {}], ids=["stock", "own"])
def test_middleware_that_wraps_send_is_not_bypassed_and_warned_of_once(
    app: FastAPI, caplog: pytest.LogCaptureFixture, protocols: dict[str, object]
) -> None:
    app.add_middleware(PassThrough)
    app.add_middleware(WrapSend)
    with running(app, **protocols) as url:
        assert [way_taken(url) for _ in range(5)] == 5 * ["ASGI"]
    (line,) = warnings(caplog)
    assert "tests.engine.serving.WrapSend.__call__" in line
    assert "broadcasts to large rooms are several times slower" in line


class Instrument:
    """Middleware that hides that it wraps `send`, as tracers do."""

    def __init__(self, app: ASGIApp, kind: str) -> None:
        self.app = app
        self.kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        @functools.wraps(send)
        async def wrapped(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, wrapped if self.kind == "wraps" else Sender(send))


class Sender:
    """A callable that wraps `send`."""

    def __init__(self, send: Send) -> None:
        self.send = send

    async def __call__(self, message: Message) -> None:
        await self.send(message)


@pytest.mark.parametrize(
    ("kind", "name"), [("wraps", "Instrument.__call__.<locals>.wrapped"), ("object", "Sender")]
)
def test_the_warning_names_what_wraps_send(
    app: FastAPI, caplog: pytest.LogCaptureFixture, kind: str, name: str
) -> None:
    app.add_middleware(Instrument, kind=kind)
    with running(app) as url:
        assert way_taken(url) == "ASGI"
    (line,) = warnings(caplog)
    assert f"({__name__}.{name})" in line


class WrapReceive:
    """Middleware that keeps what is received."""

    def __init__(self, app: ASGIApp, received: list[Message]) -> None:
        self.app = app
        self.received = received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped() -> Message:
            self.received.append(await receive())
            return self.received[-1]

        await self.app(scope, wrapped, send)


def source_of(url: str) -> str | bytes:
    """Return where a connection's messages came from."""
    with connect(f"{url}/source") as websocket:
        websocket.send("hello")
        return websocket.recv(timeout=10)


@pytest.mark.parametrize(
    ("protocols", "source"), [(STOCK, "ASGI"), ({}, "inbox")], ids=["stock", "own"]
)
def test_inbox_is_read_under_our_own_protocol(
    app: FastAPI, protocols: dict[str, object], source: str
) -> None:
    with running(app, **protocols) as url:
        assert source_of(url) == source


def test_middleware_that_wraps_receive_is_not_bypassed(app: FastAPI) -> None:
    received: list[Message] = []
    app.add_middleware(WrapReceive, received=received)
    with running(app) as url:
        assert source_of(url) == "ASGI"
        assert way_taken(url) == "transport"
    assert {"type": "websocket.receive", "text": "hello"} in received


def test_other_servers_are_not_warned_of(app: FastAPI, caplog: pytest.LogCaptureFixture) -> None:
    with TestClient(app) as client, client.websocket_connect("/way") as websocket:
        assert websocket.receive_text() == "ASGI"
    assert warnings(caplog) == []


def test_encoded_frames_are_sent_both_ways(app: FastAPI, serve_both_ways: Serve) -> None:
    messages: list[str | bytes] = ["é" * size for size in (0, 63, 40_000)]
    messages += [b"\xff" * size for size in (0, 126, 70_000)]

    @app.websocket("/frames")
    async def frames(connection: Admitted) -> None:
        for message in messages:
            await connection.send_frame(server_frame(message))

    with connect(f"{serve_both_ways(app)}/frames") as websocket:
        assert receive_all(websocket) == (messages, 1000)


def test_wsproto_is_supported_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "uvicorn.protocols.websockets.wsproto_impl"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[name], "WSProtocol", WSProtocol, raising=False)
    protocols = run_path(str(uvicorn_internals.__file__))["WEBSOCKET_PROTOCOLS"]
    assert WSProtocol in protocols
    monkeypatch.setitem(sys.modules, name, None)
    protocols = run_path(str(uvicorn_internals.__file__))["WEBSOCKET_PROTOCOLS"]
    assert len(protocols) == 1


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_every_length_arrive_whole(
    app: FastAPI, serve_both_ways: Serve, compression: str | None
) -> None:
    with connect(f"{serve_both_ways(app)}/all", compression=compression) as websocket:
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, 100_000):
            for message in ("x" * size, "é" * (size // 2), b"\x00" * size):
                websocket.send(message)
                assert websocket.recv(timeout=10) == message
