"""Routes without admission are found, so that a project's own test can refuse them."""

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi_realtime import Admitted
from fastapi_realtime.testing import routes_without_admission
from starlette.routing import WebSocketRoute


def test_routes_without_admission_are_found_wherever_they_are() -> None:
    app, mounted, router, outer = FastAPI(), FastAPI(), APIRouter(), APIRouter()

    async def admitted(connection: Admitted) -> None: ...

    async def not_admitted(websocket: WebSocket) -> None: ...

    for place in (app, mounted, router):
        place.websocket("/open")(not_admitted)
        place.websocket("/admitted")(admitted)
    outer.include_router(router, prefix="/inner")
    app.include_router(outer, prefix="/outer")
    app.mount("/mounted", mounted)
    app.router.routes.append(WebSocketRoute("/starlette", not_admitted))
    assert sorted(routes_without_admission(app.routes)) == [
        "/mounted/open",
        "/open",
        "/outer/inner/open",
        "/starlette",
    ]
