"""One real server and a real client, for upgrades of uvicorn, websockets, FastAPI and Starlette.

When one of these fails after an upgrade, go back to the version before, and update
`packages/fastapi-realtime`. The endpoint is one of these tests' own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi_realtime import Admitted
from fastapi_realtime.testing import running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from {{ cookiecutter.__package_name }}.main import create_app

{% if cookiecutter.auth == "jwt" %}
from .conftest import KEY, bearer, settings
{% else %}
from .conftest import settings
{% endif %}

pytestmark = pytest.mark.timeout(30)

FLOOD = 400
"""Messages of 64 KiB, which are more than the buffers of a connection hold."""
PROGRAM = """
from fastapi_realtime import serve
from tests.test_served import with_endpoint
from {{ cookiecutter.__package_name }}.main import app

serve(with_endpoint(app), app.state.realtime.settings)
"""
most_unsent = 0


def with_endpoint(app: FastAPI) -> FastAPI:
    """Add an endpoint that repeats messages, and answers `flood` with many."""

    @app.websocket("/served")
    async def served(connection: Admitted) -> None:
        global most_unsent
        assert connection.transport is not None  # else frames go through ASGI one by one
        assert connection.inbox is not None
        async for message in connection:
            for _ in range(FLOOD if message == "flood" else 1):
                await connection.send("x" * 65_536 if message == "flood" else message)
                most_unsent = max(most_unsent, connection.unsent_bytes)

    return app


def open_client(url: str, **headers: str) -> ClientConnection:
    """Connect to the endpoint."""
{% if cookiecutter.auth == "jwt" %}
    headers |= bearer()
{% endif %}
    return connect(f"{url}/served", additional_headers=headers, proxy=None)


def close_code(client: ClientConnection) -> int | None:
    """Wait until the server closes, and return its code."""
    with pytest.raises(ConnectionClosed):
        client.recv(timeout=20)
    return client.close_code


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a server."""
    with running(with_endpoint(create_app(settings(max_message_bytes=1000)))) as url:
        yield url


def test_messages_fragments_and_pings_are_answered(url: str) -> None:
    with open_client(url) as client:
        for message in ("Hello", b"\x00\xff", "x" * 1000):
            client.send(message)
            assert client.recv(timeout=20) == message
        client.send(["in ", "three ", "parts"])
        assert client.recv(timeout=20) == "in three parts"
        assert client.ping().wait(20)


def test_a_client_that_reads_slowly_makes_the_endpoint_wait(url: str) -> None:
    with open_client(url) as client:
        client.send("flood")
        assert [len(client.recv(timeout=20)) for _ in range(FLOOD)] == [65_536] * FLOOD
    assert 0 < most_unsent < 2**20


def test_close_codes_arrive(url: str) -> None:
    too_long, not_utf8 = "x" * 1001, b"\xff"
    for message, code in ((too_long, 1009), (not_utf8, 1007)):
        with open_client(url) as client:
            client.send(message, text=True)
            assert close_code(client) == code


def test_a_foreign_page_is_refused_with_http(url: str) -> None:
    with pytest.raises(InvalidStatus) as refusal, open_client(url, origin="https://evil.example"):
        pass
    assert refusal.value.response.status_code == 403
    assert b"origin not allowed" in (refusal.value.response.body or b"")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signal to one process")
def test_a_signal_drains_connections_before_the_server_ends() -> None:
    root = Path(__file__).parents[1]
    environment = {"APP_PORT": "0", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
{% if cookiecutter.auth == "jwt" %}
    environment["APP_AUTH_KEY"] = KEY
{% endif %}
{% if cookiecutter.__redis %}
    environment["APP_BROKER_URL"] = "memory://"
{% endif %}
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    with closing(server.stderr):
        try:
            log = ""
            while not (found := re.search(r"running on http://(\S+)", log)):
                log += (line := server.stderr.readline())
                assert line, log
            with open_client(f"ws://{found[1]}") as client:
                server.send_signal(signal.SIGTERM)
                assert close_code(client) == 1012
            log += server.stderr.read()
        finally:
            server.kill()
            server.wait()
    assert "disconnected" in log
    assert "Traceback" not in log
