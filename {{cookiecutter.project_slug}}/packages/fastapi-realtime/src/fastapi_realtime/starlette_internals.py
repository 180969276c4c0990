"""All that the engine uses of Starlette beyond its documentation."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketState

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


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
