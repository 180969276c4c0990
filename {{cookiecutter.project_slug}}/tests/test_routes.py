"""Every WebSocket route has admission, and with it limits and checks."""

from fastapi import FastAPI

from .realtime.routes import routes_without_admission

WITHOUT_ADMISSION: set[str] = set()
"""Paths of WebSocket routes that anybody may connect to, from any page and without limits."""


def test_every_websocket_route_has_admission(app: FastAPI) -> None:
    hint = "take `connection: Admitted`, or name the path in WITHOUT_ADMISSION"
    assert set(routes_without_admission(app.routes)) == WITHOUT_ADMISSION, hint
