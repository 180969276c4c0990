"""Who may connect. Every WebSocket endpoint takes its connection from here."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, HTTPException, WebSocket, WebSocketDisconnect

from .connection import Connection
from .errors import close_code_for
from .origin import normal_origin
from .protocol import CloseCode
from .settings import Settings
{% if cookiecutter.auth == "jwt" %}
from .tokens import read_token, refuse_revoked
{% endif %}


class Admission:
    """A dependency that lets a client in, and sees it out.

    Refusals come before the handshake, as HTTP: 503 while the server stops or is full, 403 for a
{% if cookiecutter.auth == "jwt" %}
    page of another origin, 429 for too many from one address, 401 without a valid token.
{% else %}
    page of another origin, 429 for too many from one address.
{% endif %}

    The handshake is answered when the endpoint first uses the connection, with the first of
    `subprotocols` that the client offers; then all other dependencies and parameters have been
    checked. The connection is closed when the endpoint returns, with 1000, or by the exception
    that it raises: see `errors.close_code_for`; any other exception is a bug, and gives 1011.
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
        connection = Connection(websocket, state.settings, self._choose_subprotocol(websocket))
        place = state.places.take(connection.host)
        state.connections.add(connection)
        try:
{% if cookiecutter.auth == "jwt" %}
            await authenticate(connection, websocket, state.settings)
{% endif %}
            yield connection
            await connection.close()
        except asyncio.CancelledError:
            connection.abort()  # the server has waited long enough for this one
        except Exception as error:
            await close_after(connection, error)
        finally:
            await connection.wait_flushed()
            connection.log_end()
            state.connections.discard(connection)
            state.places.give_back(place)

    def _choose_subprotocol(self, websocket: WebSocket) -> str | None:
        offered = websocket.scope["subprotocols"]
        return next((name for name in self._subprotocols if name in offered), None)


Admitted = Annotated[Connection, Depends(Admission())]


async def close_after(connection: Connection, error: Exception) -> None:
    """Close a connection whose endpoint raised.

    The exception is passed on where the handshake can still be refused, or where it is a bug.
    """
    if isinstance(error, WebSocketDisconnect) and not connection.is_accepted:
        return  # the client left before the handshake was answered
    if not connection.is_accepted:
        raise error
    try:
        close = close_code_for(error)
    except ValueError:  # a code or a reason that can't be sent
        await connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        raise
    if close is None:
        await connection.close(CloseCode.INTERNAL_ERROR, "internal error")
        raise error
    await connection.close(*close)
{% if cookiecutter.auth == "jwt" %}


async def authenticate(connection: Connection, websocket: WebSocket, settings: Settings) -> None:
    """Check the client's token, and close the connection when it expires.

    Raises a 401. The connection knows its subject before anybody is asked whether the token is
    revoked, so `close_subject` finds it meanwhile.
    """
    connection.identity = read_token(websocket, settings)
    connection.close_at(connection.identity.expires)
    await refuse_revoked(connection.identity)
{% endif %}


async def close_idle(connections: set[Connection], idle_timeout: float) -> None:
    """Close with 1001 whoever has said nothing for `idle_timeout` seconds.

    One task for all of them: a timer each would cost 2 KiB a connection.
    """
    while True:
        await asyncio.sleep(min(idle_timeout / 10, 60))
        for connection in connections:
            if time.monotonic() - connection.last_received_at > idle_timeout:
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
