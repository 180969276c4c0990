"""Admission: the dependency that gives a WebSocket endpoint its connection."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import Depends, HTTPException, WebSocket, WebSocketDisconnect

from .connection import Connection, Incoming, Outgoing
from .errors import CloseCode, close_code_for, unwrap
from .handshake import check_origin
from .realtime import realtime_of

CHECK_SECONDS = 10.0
"""Seconds for all checks before the handshake, dependencies included; then 503."""


class Admission:
    """A dependency that checks a client before the handshake and yields its `Connection`.

    Rejected handshakes get an HTTP response: 503 while the server stops, 403 for an origin that is
    not allowed, 503 when the server is full, 429 for too many connections from one address, 401
    without a valid token if tokens are required.

    The handshake is answered when the endpoint first uses the connection, after all other
    dependencies and parameters have been checked. The first of `subprotocols` that the client
    offers is selected; a `Subprotocol` has message types of its own. All that comes before it is
    cancelled when the client leaves, and gives 503 after `CHECK_SECONDS`.

    When the endpoint returns, the connection is closed with 1000. If it raises, with the code of
    `errors.close_code_for`; any other exception is a bug and closes with 1011.
    """

    def __init__(self, *subprotocols: str, close_codes: Mapping[int, str] | None = None) -> None:
        """`close_codes` documents the endpoint's own codes, 4000 to 4999, for clients."""
        self.subprotocols = subprotocols
        self.close_codes = dict(close_codes or {})

    async def __call__(self, websocket: WebSocket) -> AsyncIterator[Connection]:
        realtime = realtime_of(websocket)
        realtime.check_running()
        check_origin(websocket, realtime.settings.allowed_origins, realtime.settings.require_origin)
        known = (*self.subprotocols, *realtime.subprotocols)
        offered = websocket.scope.get("subprotocols", ())
        subprotocol = next((name for name in known if name in offered), None)
        connection: Connection = Connection(
            websocket,
            realtime.settings,
            subprotocol,
            realtime.long_messages,
            realtime.signatures.types(websocket.scope, subprotocol),
        )
        realtime.add(connection)
        deadline = asyncio.timeout(CHECK_SECONDS)
        try:
            async with deadline:
                connection.deadline = deadline
                try:
                    await connection.inbox.start(websocket.receive)
                    await realtime.authenticate(connection)
                    yield connection
                finally:
                    connection.deadline = None
            await connection.close()
        except asyncio.CancelledError:
            connection.abort()  # the server's shutdown timeout has expired
            raise
        except Exception as error:
            is_late = isinstance(error, TimeoutError) and deadline.expired()
            await close_after(connection, late_error(connection) if is_late else error)
        finally:
            await realtime.remove(connection)


Admitted = Annotated[Connection[Incoming, Outgoing], Depends(Admission())]
"""Annotation for an endpoint's parameter: `connection: Admitted[Incoming, Outgoing]`."""


def late_error(connection: Connection) -> Exception:
    """Return the exception for checks that were cancelled: closed, left, or late."""
    if connection.early_refusal is not None:
        return connection.early_refusal
    if connection.has_ended:
        return HTTPException(499, "the client left during the checks")  # as nginx logs it
    return HTTPException(503, f"the checks took over {CHECK_SECONDS:g} seconds")


async def close_after(connection: Connection, error: Exception) -> None:
    """Close a connection whose endpoint raised.

    Raises the exception again if the handshake can still be rejected by HTTP, or if it is a bug.
    """
    error = unwrap(error)
    if isinstance(error, StopAsyncIteration) and connection.is_accepted and not connection.is_open:
        return  # `anext()` of a connection that has ended
    if isinstance(error, WebSocketDisconnect) and not connection.is_accepted:
        return  # the client left before the handshake was answered
    if not connection.is_accepted:
        raise error
    close = None
    try:
        close = close_code_for(error)  # raises `ValueError` for an invalid one
        if close is None:
            raise error
    finally:
        await connection.close(*(close or (CloseCode.INTERNAL_ERROR, "internal error")))
