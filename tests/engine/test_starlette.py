"""What the engine relies on in Starlette beyond its documentation: see `fastapi_internals.py`."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from fastapi_realtime import fastapi_internals
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketState


class Note:
    """Middleware that writes its name into the scope."""

    name = ""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("names", []).append(self.name)
        await self.app(scope, receive, send)


class Inner(Note):
    name = "inner"


class Outer(Note):
    name = "outer"


def test_middleware_that_is_innermost_comes_after_what_is_added_later() -> None:
    app = FastAPI()
    fastapi_internals.add_innermost(app, Inner)
    app.add_middleware(Outer)
    seen: list[str] = []

    @app.websocket("/")
    async def endpoint(websocket: WebSocket) -> None:
        seen.extend(websocket.scope["names"])
        await websocket.accept()

    with TestClient(app).websocket_connect("/"):
        pass
    assert seen == ["outer", "inner"]


def test_a_lifespan_can_be_wrapped() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
        seen.append("own")
        yield {"key": "value"}

    def wrap(inner: fastapi_internals.Lifespan) -> fastapi_internals.Lifespan:
        @asynccontextmanager
        async def wrapped(app: Any) -> AsyncGenerator[Any]:
            seen.append("wrapped")
            async with inner(app) as state:
                yield state

        return wrapped

    app = FastAPI(lifespan=own)
    fastapi_internals.wrap_lifespan(app, wrap)
    with TestClient(app) as client:
        assert client.app_state == {"key": "value"}
    assert seen == ["wrapped", "own"]


def test_the_handler_of_unknown_paths_can_be_replaced() -> None:
    app, seen = FastAPI(), []

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await send({"type": "websocket.close", "code": 1000})

    fastapi_internals.set_not_found(app, not_found)
    with pytest.raises(Exception), TestClient(app).websocket_connect("/nowhere"):  # noqa: B017, PT011
        pass
    assert seen == ["websocket"]


def test_a_websocket_tells_its_state() -> None:
    async def unused(*_: Any) -> Any: ...

    websocket = WebSocket({"type": "websocket"}, unused, unused)
    checks = {
        WebSocketState.CONNECTING: fastapi_internals.is_connecting,
        WebSocketState.CONNECTED: fastapi_internals.is_connected,
        WebSocketState.DISCONNECTED: fastapi_internals.is_disconnected,
    }
    assert fastapi_internals.is_connecting(websocket)
    for state in checks:
        websocket.application_state = state
        assert [each for each, check in checks.items() if check(websocket)] == [state]
