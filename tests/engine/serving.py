"""Applications for tests, a real server for them, and clients that behave well or badly."""

import logging
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi_realtime import (
    Admitted,
    Realtime,
    RealtimeSettings,
    testing,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websockets_connect

PACKAGE = Realtime.__module__.partition(".")[0]
STOCK: dict[str, Any] = {"http": "auto", "ws": "auto"}
"""Options for uvicorn's own protocols, as under its own command."""
NO_RATE_LIMIT: dict[str, Any] = {"messages_per_second": inf, "message_burst": 1_000_000}

Serve = Callable[[FastAPI], str]


def realtime_app(settings: RealtimeSettings | None = None, **options: Any) -> FastAPI:
    """An application with nothing but the engine; `options` are the engine's."""
    app = FastAPI()
    Realtime(settings or RealtimeSettings(**NO_RATE_LIMIT), **options).install(app)
    return app


def started(app: FastAPI) -> FastAPI:
    """Let an application answer without its lifespan, in tests of what needs none."""
    app.state.realtime._is_running = True
    return app


def echo_app(**settings: object) -> FastAPI:
    """An application with these settings that sends back what it gets, at `/all`."""
    return add_echo(realtime_app(RealtimeSettings.model_validate(NO_RATE_LIMIT | settings)))


def add_echo(app: FastAPI) -> FastAPI:
    """Add an endpoint that sends back what it gets, at `/all`."""

    @app.websocket("/all")
    async def everything(connection: Admitted) -> None:
        async for message in connection:
            await connection.send(message)

    return app


@contextmanager
def running(app: FastAPI, **options: Any) -> Generator[str]:
    """Run a server in a thread, by default on a free port, with small buffers that are soon full.

    Yields `ws://127.0.0.1:<port>`.
    """
    listener = socket.create_server(("127.0.0.1", options.pop("port", 0)), backlog=100)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    defaults = {"timeout_graceful_shutdown": None, "ws_ping_interval": None}
    with testing.running(app, listener, **defaults | options) as url:
        yield url


class WrapSend:
    """Middleware that hides the server's transport, as another server would."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapped(message: Message) -> None:
            await send(message)

        await self.app(scope, receive, wrapped)


def connect(url: str, behind: str = "", **options: Any) -> ClientConnection:
    """Connect a real client, perhaps from behind an address, past any proxy of the environment.

    It reads on when many messages wait for it; otherwise it could not close.
    """
    headers = {"x-forwarded-for": behind} if behind else {}
    options = {"proxy": None, "max_queue": None, "additional_headers": headers} | options
    return websockets_connect(url, **options)


def dial(url: str) -> socket.socket:
    """Connect to a server, with a small buffer, and send nothing yet."""
    host, _, port = url.removeprefix("ws://").partition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(10)
    raw.connect((host, int(port)))
    return raw


def handshake(path: str, more: str = "", host: str = "x") -> bytes:
    """Return a handshake, with `more` headers."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"{more}\r\n".encode("latin-1")
    )


@contextmanager
def raw_client(url: str, path: str, headers: str = "") -> Generator[socket.socket]:
    """Shake hands by hand, for a client that then does what no library would."""
    with dial(url) as raw:
        raw.sendall(handshake(path, headers))
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


def receive_all(client: ClientConnection) -> tuple[list[str | bytes], int | None]:
    """Return what a client still receives, and the code that it is closed with."""
    received = []
    with suppress(ConnectionClosed):
        while True:
            received.append(client.recv(timeout=10))
    return received, client.close_code


def write_until_refused(raw: socket.socket, data: bytes) -> None:
    """Write until the server resets the connection."""
    deadline = time.monotonic() + 30
    with suppress(ConnectionError):
        while time.monotonic() < deadline:
            raw.sendall(data)
            time.sleep(0.001)  # there is nothing to wait for but the next refusal
        pytest.fail("the server is still there")


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
    if collector.errors:
        pytest.fail("\n".join(["there are errors in the log:", *collector.errors]))


def warning(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Return what the only warning about a client says."""
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    (record,) = [each for each in warnings if not each.name.endswith(".fast_path")]
    return vars(record)


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the engine itself has logged."""
    return [each for each in caplog.records if each.name.startswith(f"{PACKAGE}.")]
