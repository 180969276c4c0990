"""The application as its clients meet it: in this process, and behind a real server."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
{% if cookiecutter.auth == "none" %}
from urllib.parse import quote
{% endif %}

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websockets_connect

import {{ cookiecutter.__package_name }}.websocket_protocol as websocket_protocol
from {{ cookiecutter.__package_name }} import http_protocol, open_files
from {{ cookiecutter.__package_name }}.admission import Admitted
from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings
{% if cookiecutter.auth == "jwt" %}
from {{ cookiecutter.__package_name }}.tokens import mint

from . import KEY
{% endif %}

OWN_PROTOCOLS: dict[str, Any] = {
    "http": http_protocol.LimitedHttpProtocol,
    "ws": websocket_protocol.LimitedWebSocketProtocol,
}
"""The options of uvicorn that the command adds its limits with."""

Serve = Callable[[FastAPI], str]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("APP_")]:
        monkeypatch.delenv(name)
{% if cookiecutter.auth == "jwt" %}
    monkeypatch.setenv("APP_AUTH_KEY", KEY)
{% endif %}
    monkeypatch.chdir(tmp_path)  # where no .env is
    monkeypatch.setattr(open_files, "resource", None)  # no limit of this machine


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the application runs on."""
    return "asyncio"


@pytest.fixture
def app() -> FastAPI:
    """The application with its default settings."""
    return create_app(Settings())


def echo_app(**settings: object) -> FastAPI:
    """An application with these settings that sends back what it gets, at `/all`."""
    app = create_app(Settings.model_validate(settings))

    @app.websocket("/all")
    async def everything(connection: Admitted) -> None:
        async for message in connection:
            await connection.send(message)

    return app


def warning(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Return what the only warning in the log says."""
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    return vars(record)


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the package itself has logged."""
    package = create_app.__module__.partition(".")[0]
    return [each for each in caplog.records if each.name.startswith(f"{package}.")]


class ErrorCollector(logging.Handler):
    """Keeps errors and tracebacks, also between the phases of a test, when `caplog` does not."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.errors.append(self.format(record))


@contextmanager
def no_errors_logged() -> Generator[None]:
    """Fail if an error or a traceback is logged meanwhile."""
    collector = ErrorCollector()
    logging.getLogger().addHandler(collector)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(collector)
    assert collector.errors == []


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application in this process."""
    _, headers = introduce("")
    with TestClient(app, headers=headers) as client:
        yield client


@pytest.fixture
def serve(caplog: pytest.LogCaptureFixture) -> Iterator[Serve]:
    """Start an application on a real server, and return where: `ws://127.0.0.1:<port>`.

    Whatever clients do to a server, they must leave no error in its log.
    """
    caplog.set_level(logging.INFO)
    with no_errors_logged(), ExitStack() as stack:
        yield lambda app: stack.enter_context(running(app))


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
        options = {"ws_max_size": limit, "ws_ping_interval": None} | options
        config = uvicorn.Config(app, log_config=None, **options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield "ws://{}:{}".format(*listener.getsockname())
        finally:
            server.should_exit = True
            thread.join()


def introduce(url: str, name: str = "") -> tuple[str, dict[str, str]]:
    """Return a URL, and the headers that go with it, for a client of this name."""
{% if cookiecutter.auth == "jwt" %}
    return url, {"authorization": f"Bearer {mint(name or 'somebody', 600, Settings())}"}
{% else %}
    return (f"{url}{'&' if '?' in url else '?'}name={quote(name)}" if name else url), {}
{% endif %}


def connect(url: str, name: str = "", behind: str = "", **options: Any) -> ClientConnection:
    """Connect a real client, perhaps from behind an address, past any proxy of the environment."""
    url, headers = introduce(url, name)
    if behind:
        headers["x-forwarded-for"] = behind
    return websockets_connect(url, proxy=None, additional_headers=headers, **options)


def dial(url: str) -> socket.socket:
    """Connect to a server, with a small buffer, and say nothing yet."""
    host, _, port = url.removeprefix("ws://").partition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(10)
    raw.connect((host, int(port)))
    return raw


def handshake(path: str, more: str = "", name: str = "", host: str = "x") -> bytes:
    """Return a handshake, with `more` headers."""
    path, headers = introduce(path, name)
    more += "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"{more}\r\n".encode("latin-1")
    )


@contextmanager
def raw_client(url: str, path: str, name: str = "") -> Generator[socket.socket]:
    """Shake hands by hand, for a client that then does what no library would."""
    with dial(url) as raw:
        raw.sendall(handshake(path, name=name))
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += (byte := raw.recv(1))
            assert byte, "the server closed the connection"
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield raw


def text_frame(payload: bytes) -> bytes:
    """Return a short text message as a client sends it, masked with zeros."""
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def read_to_end(raw: socket.socket) -> bytes:
    """Read until the server ends the connection, in whichever way."""
    received = b""
    with suppress(ConnectionError):
        while chunk := raw.recv(100_000):
            received += chunk
    return received


def send_while_open(client: ClientConnection, *messages: str | bytes) -> None:
    """Send messages to a server that may close the connection at any of them."""
    with suppress(ConnectionClosed):
        for message in messages:
            client.send(message)


def listen_to_the_end(client: ClientConnection) -> tuple[list[str | bytes], int | None]:
    """Return what a client is still told, and the code that it is closed with."""
    said = []
    with suppress(ConnectionClosed):
        while True:
            said.append(client.recv(timeout=10))
    return said, client.close_code


def write_until_refused(raw: socket.socket, data: bytes) -> None:
    """Write until the server resets the connection."""
    deadline = time.monotonic() + 30
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            raw.sendall(data)
            time.sleep(0.001)  # there is nothing to wait for but the next refusal
        pytest.fail("the server is still there")
