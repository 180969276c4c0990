"""Frames on their short way out, as strict clients see them."""

import pytest
from fastapi import FastAPI
from {{ cookiecutter.__package_name }}.admission import Admitted

from .conftest import Serve, WrapSend, connect, echo_app, running


@pytest.fixture
def app() -> FastAPI:
    """An application that says which way it answers, and answers that way."""
    app = echo_app(max_message_bytes=100_000)

    @app.websocket("/way")
    async def way(connection: Admitted) -> None:
        await connection.send("portable" if connection.transport is None else "direct")

    return app


def test_a_stock_server_has_its_transport_found(app: FastAPI) -> None:
    with running(app) as url, connect(f"{url}/way") as websocket:
        assert websocket.recv(timeout=10) == "direct"


def test_a_middleware_that_wraps_send_is_not_passed_by(app: FastAPI) -> None:
    app.add_middleware(WrapSend)
    with running(app) as url, connect(f"{url}/way") as websocket:
        assert websocket.recv(timeout=10) == "portable"


@pytest.mark.parametrize("compression", ["deflate", None])
def test_every_length_arrives_whole(
    app: FastAPI, serve_both_ways: Serve, compression: str | None
) -> None:
    with connect(f"{serve_both_ways(app)}/all", compression=compression) as websocket:
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, 100_000):
            for message in ("x" * size, "é" * (size // 2), b"\x00" * size):
                websocket.send(message)
                assert websocket.recv(timeout=10) == message
