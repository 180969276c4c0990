"""Finds WebSocket routes that have no admission."""

from collections.abc import Iterator, Sequence

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi_realtime import Admission
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute


def routes_without_admission(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[str]:
    """Yield the paths of WebSocket routes without admission, in mounted applications, too."""
    for context in iter_route_contexts(routes):
        route = context.original_route
        path = f"{prefix}{context.path or ''}"
        if isinstance(route, Mount | Host):
            yield from routes_without_admission(route.routes, path)
        elif isinstance(route, WebSocketRoute) and not has_admission(
            getattr(context, "dependant", None)
        ):
            yield path


def has_admission(dependant: Dependant | None) -> bool:
    """Return whether admission is among the dependencies, or theirs."""
    if dependant is None:
        return False
    return isinstance(dependant.call, Admission) or any(map(has_admission, dependant.dependencies))
