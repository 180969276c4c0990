"""Helpers for the tests of applications."""

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi_realtime import Admitted
from fastapi_realtime.rooms.redis import RedisSettings
from fastapi_realtime.testing import make_settings, routes_without_admission
from fastapi_realtime.tokens import TokenSettings
from starlette.routing import Host, Router, WebSocketRoute


class Settings(RedisSettings, TokenSettings):
    """Settings of an application with everything."""


def test_settings_for_tests_come_from_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "not a port")
    monkeypatch.setenv("APP_BROKER_URL", "redis://127.0.0.1:1/0")
    settings = make_settings(Settings, port=9000)
    assert (settings.port, settings.is_in_memory) == (9000, True)
    assert settings.auth_key != make_settings(Settings).auth_key
    assert make_settings(Settings, broker_url="redis://127.0.0.1/1").is_in_memory is False


def test_routes_without_admission_are_found_wherever_they_are() -> None:
    app, mounted, hosted = FastAPI(), FastAPI(), FastAPI()
    router, outer = APIRouter(), APIRouter()

    async def admitted(connection: Admitted) -> None: ...

    async def not_admitted(websocket: WebSocket) -> None: ...

    for place in (app, mounted, hosted, router):
        place.websocket("/open")(not_admitted)
        place.websocket("/admitted")(admitted)
    outer.include_router(router, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    app.mount("/mounted", mounted)
    app.mount("/elsewhere", Router([Host("chat.example.com", hosted)]))
    app.router.routes.append(WebSocketRoute("/starlette", not_admitted))
    assert sorted(routes_without_admission(app.routes)) == [
        "/elsewhere/open",
        "/mounted/open",
        "/open",
        "/outer/inner/open",
        "/starlette",
    ]
