"""Who may connect, and who is told before the handshake that they may not."""

import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse
from websockets.exceptions import InvalidStatus

from {{ cookiecutter.__package_name }}.admission import Admitted
from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings

from .conftest import Serve, connect


def app_with(**settings: object) -> FastAPI:
    """An application with an endpoint that says hello."""
    app = create_app(Settings.model_validate(settings))

    @app.websocket("/hello")
    async def hello(connection: Admitted) -> None:
        await connection.send("hello")

    return app


def admits(app: FastAPI, origin: str | None = None, page: str = "http://chat.example") -> bool:
    """Try to connect from an origin to a server whose own pages are at `page`."""
    url = page.replace("http", "ws", 1) + "/hello"
    headers = {} if origin is None else {"origin": origin}
    try:
        with TestClient(app).websocket_connect(url, headers=headers) as websocket:
            return websocket.receive_text() == "hello"
    except WebSocketDenialResponse as refusal:
        return (refusal.status_code, refusal.json()) != (403, {"detail": "origin not allowed"})


def test_our_own_page_and_programs_may_connect() -> None:
    app = app_with()
    assert admits(app)
    assert admits(app, "http://chat.example")
    assert admits(app, "https://chat.example", page="https://chat.example")
    assert admits(app, "http://chat.example:8000", page="http://chat.example:8000")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://chat.example.evil.example",
        "http://evil.example/http://chat.example",
        "https://chat.example",
        "http://chat.example:8000",
        "http://",
        "null",
        "",
    ],
)
def test_any_other_page_is_refused(origin: str) -> None:
    assert not admits(app_with(), origin)


def test_other_origins_are_allowed_by_name() -> None:
    app = app_with(allowed_origins="https://www.example.com, http://localhost:5173")
    assert admits(app, "https://www.example.com")
    assert admits(app, "http://localhost:5173")
    assert admits(app, "http://chat.example")
    assert not admits(app, "http://www.example.com")
    assert not admits(app, "http://localhost")


def test_a_star_allows_any_origin() -> None:
    assert admits(app_with(allowed_origins="*"), "https://evil.example")


def test_browsers_only() -> None:
    app = app_with(require_origin=True)
    assert admits(app, "http://chat.example")
    assert not admits(app)


def test_a_refusal_is_a_real_response_and_one_line_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve(app_with())
    with (
        pytest.raises(InvalidStatus) as refusal,
        connect(f"{url}/hello", origin="https://evil.example\tdisguised"),
    ):
        pass
    assert refusal.value.response.status_code == 403
    assert refusal.value.response.body == b'{"detail":"origin not allowed"}'
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "'https://evil.example\\tdisguised'" in warning.getMessage()
