"""Who may connect. Every WebSocket endpoint takes its connection from here."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.exceptions import WebSocketRequestValidationError

from .connection import Connection
from .origin import normal_origin
from .protocol import CloseCode
from .settings import Settings
{% if cookiecutter.auth == "jwt" %}
from .tokens import identify
{% endif %}

logger = logging.getLogger(__name__)


class Admission:
    """A dependency that lets a client in, and sees it out.

    Refusals come before the handshake, as HTTP: 503 while the server stops or is full, 403 for a
{% if cookiecutter.auth == "jwt" %}
    page of another origin, 429 for too many from one address, 401 without a valid token.
{% else %}
    page of another origin, 429 for too many from one address.
{% endif %}

    An admitted client is accepted, with the first of `subprotocols` that it offers, and its
    connection is closed when the endpoint returns: with 1000, or with 1011 if the endpoint failed.
    """

    def __init__(self, *subprotocols: str) -> None:
{% if cookiecutter.auth == "jwt" %}
        # Browsers offer their token as a subprotocol, and want another one to be chosen.
        self._subprotocols: tuple[str, ...] = (*subprotocols, "v1")
{% else %}
        self._subprotocols = subprotocols
{% endif %}

    async def __call__(self, websocket: WebSocket) -> AsyncIterator[Connection]:
        state = websocket.app.state
        if state.drain.has_begun:
            raise HTTPException(503, "restarting")
        check_origin(websocket, state.settings)
        host = websocket.client.host if websocket.client else ""
        place = state.places.take(host)
        try:
            connection = await self._accept(websocket, state.settings)
            state.connections.add(connection)
            try:
                yield connection
            except WebSocketDisconnect:
                await connection.close()  # it left, or is being closed, while it was answered
            except WebSocketRequestValidationError:
                # FastAPI finds out about an endpoint's own parameters only now.
                await connection.close(CloseCode.POLICY_VIOLATION, "invalid parameters")
            except asyncio.CancelledError:
                connection.abort()  # the server has waited long enough for this one
            except Exception:
                await connection.close(CloseCode.INTERNAL_ERROR, "internal error")
                raise
            else:
                await connection.close()
            finally:
                await connection.linger()
                state.connections.discard(connection)
                about = {"client": connection.address, "code": connection.close_code}
                logger.info("disconnected", extra=about)
        finally:
            state.places.give_back(place)

    async def _accept(self, websocket: WebSocket, settings: Settings) -> Connection:
{% if cookiecutter.auth == "jwt" %}
        identity = await identify(websocket, settings)
{% endif %}
        offered = websocket.scope["subprotocols"]
        subprotocol = next((name for name in self._subprotocols if name in offered), None)
        await websocket.accept(subprotocol)
        connection = Connection(websocket, settings, subprotocol)
        origin = websocket.headers.get("origin", "")
        about = {"client": connection.address, "path": websocket.scope["path"], "origin": origin}
{% if cookiecutter.auth == "jwt" %}
        connection.subject = about["subject"] = identity.subject
        connection.close_at(identity.expires)
{% endif %}
        logger.info("connected", extra=about)
        return connection


Admitted = Annotated[Connection, Depends(Admission())]


async def close_idle(connections: set[Connection], idle_timeout: float) -> None:
    """Close with 1001 whoever has said nothing for `idle_timeout` seconds.

    One task for all of them: a timer each would cost 2 KiB a connection.
    """
    while True:
        await asyncio.sleep(min(idle_timeout / 10, 60))
        for connection in connections:
            if time.monotonic() - connection.heard > idle_timeout:
                connection.close_soon(CloseCode.GOING_AWAY, "idle for too long")


def check_origin(websocket: WebSocket, settings: Settings) -> None:
    """Raise a 403 for a web page of an origin that is not allowed.

    Browsers send the page's origin with every handshake and let any page connect anywhere, so
    without this check a foreign page could talk to us in its visitor's name (RFC 6455 §10.2).
    """
    origins = websocket.headers.getlist("origin")
    if not origins and not settings.require_origin:
        return
    if origins and "*" in settings.allowed_origins:
        return
    scheme = "https" if websocket.scope["scheme"] == "wss" else "http"
    own = normal_origin(f"{scheme}://{websocket.headers.get('host', '')}")
    origin = normal_origin(origins[0]) if len(origins) == 1 else None
    if origin is None or origin not in (own, *settings.allowed_origins):
        raise HTTPException(403, "origin not allowed")
