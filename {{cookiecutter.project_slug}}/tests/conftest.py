"""The application as its clients meet it: in this process, and behind a real server."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websockets_connect

from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings

Serve = Callable[[FastAPI], str]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("APP_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where no .env is


@pytest.fixture
def app() -> FastAPI:
    """The application with its default settings."""
    return create_app(Settings())


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process."""
    with TestClient(app) as client:
        yield client


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Start an application on a real server, and return where: `ws://127.0.0.1:<port>`.

    Whatever clients do to a server, they must leave no error in its log.
    """
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(running(app))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.fixture(params=["direct", "portable"])
def serve_both_ways(request: pytest.FixtureRequest, serve: Serve) -> Serve:
    """Do so where frames go to the transport, and where they go through ASGI."""

    def serve_one_way(app: FastAPI) -> str:
        if request.param == "portable":
            app.add_middleware(WrapSend)
        return serve(app)

    return serve_one_way


class WrapSend:
    """Middleware that hides the server's transport, as another server would."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, wrapped)


@contextmanager
def running(app: FastAPI, **options: Any) -> Generator[str]:
    """Run uvicorn in a thread, on a free port, with small buffers that are soon full."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        limit = app.state.settings.max_message_bytes
        config = uvicorn.Config(
            app, log_config=None, ws_max_size=limit, ws_ping_interval=None, **options
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield "ws://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def connect(url: str, **options: Any) -> ClientConnection:
    """Connect a real client, past any proxy that the environment names."""
    return websockets_connect(url, proxy=None, **options)


@contextmanager
def raw_client(url: str, path: str) -> Generator[socket.socket]:
    """Shake hands by hand, for a client that then does what no library would."""
    host, _, port = url.removeprefix("ws://").partition(":")
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(10)
        raw.connect((host, int(port)))
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += raw.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield raw


def text_frame(payload: bytes) -> bytes:
    """Return a short text message as a client sends it, masked with zeros."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload
