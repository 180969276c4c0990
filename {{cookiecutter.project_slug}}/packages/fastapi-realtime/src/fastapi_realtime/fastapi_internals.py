"""All that the engine uses of FastAPI and Starlette beyond their documentation.

Where a release lacks one of FastAPI's names, the API documents say less, one warning says so, and
the application starts all the same.
"""

import inspect
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi import __version__ as version
from fastapi.exception_handlers import http_exception_handler
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketState

logger = logging.getLogger(__name__)

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


class PlainContext:
    """A route as it was declared, in place of FastAPI's context of a route in a router."""

    def __init__(self, route: BaseRoute) -> None:
        self.original_route = route
        self.path: str | None = getattr(route, "path", None)
        self.path_format: str | None = getattr(route, "path_format", self.path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original_route, name, None)


def find(module: str, name: str, default: Any) -> Any:
    """Return a name of FastAPI, or else a default and a warning."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        logger.warning("FastAPI %s has no %s.%s: API documents are poorer", version, module, name)
        return default


if TYPE_CHECKING:
    from fastapi.dependencies.models import Dependant
    from fastapi.dependencies.utils import get_typed_signature
    from fastapi.routing import RouteContext, iter_route_contexts
else:
    Dependant = find("fastapi.dependencies.models", "Dependant", object)
    RouteContext = find("fastapi.routing", "RouteContext", PlainContext)
    signature = partial(inspect.signature, eval_str=True)
    get_typed_signature = find("fastapi.dependencies.utils", "get_typed_signature", signature)
    routes_alone = partial(map, PlainContext)  # but not those of included routers
    iter_route_contexts = find("fastapi.routing", "iter_route_contexts", routes_alone)


def has_default_handlers(app: FastAPI) -> bool:
    """Return whether an application leaves exceptions to FastAPI."""
    return app.exception_handlers.get(HTTPException) is http_exception_handler


def add_innermost(app: Starlette, middleware: Callable[[ASGIApp], ASGIApp]) -> None:
    """Add middleware that is called after all others, by whatever order they were added."""
    app.user_middleware.append(Middleware(middleware))


def wrap_lifespan(app: Starlette, wrap: Callable[[Lifespan], Lifespan]) -> None:
    """Replace the lifespan of an application by one made from it."""
    app.router.lifespan_context = wrap(app.router.lifespan_context)


def set_not_found(app: Starlette, handler: ASGIApp) -> None:
    """Have a handler called where no route matches."""
    app.router.default = handler


def is_connecting(websocket: WebSocket) -> bool:
    """Return whether the handshake has not been answered."""
    return websocket.application_state is WebSocketState.CONNECTING


def is_connected(websocket: WebSocket) -> bool:
    """Return whether the handshake was accepted and the application has not closed."""
    return websocket.application_state is WebSocketState.CONNECTED


def is_disconnected(websocket: WebSocket) -> bool:
    """Return whether the application has closed, or was told of the end by a failed send."""
    return websocket.application_state is WebSocketState.DISCONNECTED
