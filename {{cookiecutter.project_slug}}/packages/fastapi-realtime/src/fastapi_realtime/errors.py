"""Close codes; and exceptions, which become HTTP responses before the handshake, close codes after it."""

from collections.abc import Iterator, Sequence
from enum import IntEnum

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import WebSocketException, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from .fastapi_internals import (
    has_default_handlers,
    is_connected,
    is_connecting,
    iter_route_contexts,
    set_not_found,
)
from .server.logging import connection_fields, handshake_refused, refusals
from .server.metrics import ROUTE, STATUS, refused, route_of

SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1010), *range(1011, 1015)})
"""Registered close codes that a server may send (RFC 6455 §7.4.1 and the IANA registry)."""

MAX_REASON_BYTES = 123
"""Longest close reason that fits into a control frame (RFC 6455 §5.5)."""


class CloseCode(IntEnum):
    """Close codes that the engine sends or logs (RFC 6455 §7.4.1 and the IANA registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006  # never sent; the connection was lost
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    UNAUTHORIZED = 4401  # the token expired or was revoked


CAUSED_BY_CLIENT = frozenset(
    {
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.POLICY_VIOLATION,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.TRY_AGAIN_LATER,
    }
)
"""Close codes caused by the client; logged as warnings."""

MEANINGS = {
    CloseCode.NORMAL: "The endpoint is done.",
    CloseCode.GOING_AWAY: "Idle for too long: reconnect when there is something to say.",
    CloseCode.PROTOCOL_ERROR: "A frame was not valid: a bug in the client.",
    CloseCode.UNSUPPORTED_DATA: "Text or binary, which the endpoint does not take: a bug in the client.",
    CloseCode.INVALID_DATA: "A text was not UTF-8: a bug in the client.",
    CloseCode.POLICY_VIOLATION: "Too many messages, or too many invalid ones: don't reconnect.",
    CloseCode.MESSAGE_TOO_BIG: "A message was too big: don't send it again.",
    CloseCode.INTERNAL_ERROR: "A bug in the server: reconnect later.",
    CloseCode.SERVICE_RESTART: "The server restarts: reconnect after a random delay.",
    CloseCode.TRY_AGAIN_LATER: "Overloaded, or this client reads too slowly: "
    "reconnect after a random delay.",
    CloseCode.UNAUTHORIZED: "The token expired or was revoked: get a new one, then reconnect.",
}
"""Why the engine closes with a code, and what a client should do; shown in the AsyncAPI page."""


def check_close(code: int, reason: str) -> tuple[int, str]:
    """Return the close code, and the reason cut to `MAX_REASON_BYTES`.

    Raises `ValueError` for a code that an application must not send (RFC 6455 §7.4). Its own
    codes are 4000 to 4999; 3000 to 3999 are for registered libraries.
    """
    if code not in SENDABLE and not 3000 <= code < 5000:
        raise ValueError(f"close code {code} can't be sent; an application's own are 4000 to 4999")
    return int(code), reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def without_setting(reason: str) -> str:
    """Return a reason as clients get it: the log alone says `; see APP_...`."""
    return reason.partition("; see APP_")[0]


def add_error_handlers(app: FastAPI) -> None:
    """Add exception handlers for WebSocket routes; HTTP routes are not affected.

    Before the handshake, an exception becomes an HTTP response; after it, a close code.
    """
    for error in (HTTPException, WebSocketException, WebSocketRequestValidationError):
        app.exception_handler(error)(_handle)
    set_not_found(app, _not_found)


def add_to_mounted(routes: Sequence[BaseRoute]) -> None:
    """Add the handlers to mounted applications that have no exception handlers of their own."""
    for context in iter_route_contexts(routes):
        app = getattr(context.original_route, "app", None)
        if not isinstance(app, FastAPI):
            continue
        if has_default_handlers(app):
            add_error_handlers(app)
        add_to_mounted(app.routes)


def unwrap(error: Exception) -> Exception:
    """Return the exception that a group stands for, or the group itself if it holds a bug.

    `asyncio.TaskGroup` and anyio raise groups, also nested ones. A group of disconnects is one
    disconnect. If the others are all `WebSocketException` with one code, or `HTTPException` with
    one status, the group is one of them.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    disconnects, others = error.split(WebSocketDisconnect)
    if others is None:
        return WebSocketDisconnect(CloseCode.GOING_AWAY)
    leaves = [*leaves_of(others)]
    for kind, name in (HTTPException, "status_code"), (WebSocketException, "code"):
        if all(isinstance(each, kind) for each in leaves):
            codes = {getattr(each, name) for each in leaves}
            return leaves[0] if len(codes) == 1 else error
    return error


def leaves_of(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    """Yield the exceptions of a group and of the groups in it."""
    for each in group.exceptions:
        if isinstance(each, ExceptionGroup):
            yield from leaves_of(each)
        else:
            yield each


def close_code_for(error: Exception) -> tuple[int, str] | None:
    """Return the close code and reason for an exception on an open connection.

    `WebSocketException` has its own code. `HTTPException` gives 1008, or 1013 for the status 503;
    invalid parameters give 1008. Any other exception is a bug, and gives `None`. Raises
    `ValueError` for an invalid code.
    """
    match error:
        case WebSocketDisconnect():
            return CloseCode.NORMAL, ""
        case WebSocketException():
            return check_close(error.code, error.reason)
        case HTTPException():
            is_temporary = error.status_code == 503
            code = CloseCode.TRY_AGAIN_LATER if is_temporary else CloseCode.POLICY_VIOLATION
            return check_close(code, str(error.detail))
        case WebSocketRequestValidationError():
            return check_close(CloseCode.POLICY_VIOLATION, "invalid parameters")
    return None


async def _answer(request: Request, error: HTTPException) -> Response:
    detail = error.detail
    if isinstance(detail, str):
        detail = without_setting(detail)
    shown = HTTPException(error.status_code, detail, error.headers)
    return await http_exception_handler(request, shown)


async def _handle(websocket: WebSocket | Request, error: Exception) -> Response | None:
    if not isinstance(websocket, WebSocket):
        assert isinstance(error, HTTPException)
        return await _answer(websocket, error)
    if is_connecting(websocket):
        return await _refuse(websocket, error)
    if is_connected(websocket):
        # Only for routes without admission, which closes its own connections.
        close = close_code_for(error)
        assert close is not None
        await websocket.close(*close)
    return None


async def _refuse(websocket: WebSocket, error: Exception) -> Response | None:
    """Return the response to a rejected handshake, if the server can send one; else close.

    An `HTTPException` has its own status, invalid parameters give 422, anything else 403.
    """
    match error:
        case HTTPException():
            status, reason = error.status_code, str(getattr(error, "reason", error.detail))
            # FastAPI's handler doesn't read the request, so an empty one will do.
            response = await _answer(Request({"type": "http"}), error)
        case WebSocketRequestValidationError():
            where = error.errors()[0]["loc"]
            status, reason = 422, f"invalid parameter {'.'.join(map(str, where))}"
            response = JSONResponse({"detail": jsonable_encoder(error.errors())}, status)
        case _:
            status, reason = 403, getattr(error, "reason", "") or "forbidden"
            response = JSONResponse({"detail": reason}, status)
    handshake_refused.set(True)
    fields = connection_fields(websocket.scope) | {
        "path": websocket.scope["path"],
        "origin": ", ".join(websocket.headers.getlist("origin")),
        "status": status,
        "reason": reason,
    }
    refusals.warning("refused", extra=fields)
    refused.add(1, {ROUTE: route_of(websocket.scope), STATUS: int(status)})
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        return response
    await websocket.close()  # such servers refuse with 403
    return None


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Reject with 404 and log it; Starlette would answer a handshake with 403, without a log."""
    raise HTTPException(404)
