{% if cookiecutter.auth == "jwt" %}
"""Every WebSocket route has admission: limits, a check of the origin, and one of the token."""
{% else %}
"""Every WebSocket route has admission: limits, and a check of the origin."""
{% endif %}

from collections.abc import Iterator, Sequence

from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute

from {{ cookiecutter.__package_name }}.admission import Admission, Admitted

WITHOUT_ADMISSION: set[str] = set()
"""Paths of WebSocket routes that anybody may connect to, from any page and without limits."""


def open_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[str]:
    """Yield the paths of WebSocket routes without admission, in mounted applications, too."""
    for context in iter_route_contexts(routes):
        route = context.original_route
        path = f"{prefix}{context.path or ''}"
        if isinstance(route, Mount | Host):
            yield from open_routes(route.routes, path)
        elif isinstance(route, WebSocketRoute) and not is_admitted(
            getattr(context, "dependant", None)
        ):
            yield path


def is_admitted(dependant: Dependant | None) -> bool:
    """Say whether admission is among the dependencies, or theirs."""
    if dependant is None:
        return False
    return isinstance(dependant.call, Admission) or any(map(is_admitted, dependant.dependencies))


def test_every_websocket_route_has_admission(app: FastAPI) -> None:
    way_out = "take `connection: Admitted`, or name the path in WITHOUT_ADMISSION"
    assert set(open_routes(app.routes)) == WITHOUT_ADMISSION, way_out


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
    assert sorted(open_routes(app.routes)) == [
        "/mounted/open",
        "/open",
        "/outer/inner/open",
        "/starlette",
    ]
