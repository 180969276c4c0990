"""What an exception becomes: before the handshake an HTTP response, after it a close code."""

from collections.abc import Sequence

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import WebSocketException, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from .close_codes import CloseCode, check_close
from .fastapi_internals import has_default_handlers, iter_route_contexts
from .server.logging import connection_fields, handshake_refused, refusals
from .server.metrics import ROUTE, STATUS, refused, route_of
from .starlette_internals import is_connected, is_connecting, set_not_found


def add_error_handlers(app: FastAPI) -> None:
    """Answer exceptions of WebSocket routes: with a response before the handshake, then a close.

    For HTTP routes nothing changes.
    """
    app.exception_handler(HTTPException)(_handle_http_exception)
    app.exception_handler(WebSocketException)(_refuse_or_close)
    app.exception_handler(WebSocketRequestValidationError)(_refuse_or_close)
    set_not_found(app, _not_found)


def add_to_mounted(routes: Sequence[BaseRoute]) -> None:
    """Do so in mounted applications that leave exceptions to FastAPI."""
    for context in iter_route_contexts(routes):
        app = getattr(context.original_route, "app", None)
        if not isinstance(app, FastAPI):
            continue
        if has_default_handlers(app):
            add_error_handlers(app)
        add_to_mounted(app.routes)


def close_code_for(error: Exception) -> tuple[int, str] | None:
    """Return the close code and reason for an exception on an open connection, `None` for a bug.

    `WebSocketException` has its own code; `HTTPException` and invalid parameters give 1008.
    """
    match error:
        case WebSocketDisconnect():
            return CloseCode.NORMAL, ""
        case WebSocketException():
            return check_close(error.code, error.reason)
        case HTTPException():
            return check_close(CloseCode.POLICY_VIOLATION, str(error.detail))
        case WebSocketRequestValidationError():
            return CloseCode.POLICY_VIOLATION, "invalid parameters"
    return None


async def _handle_http_exception(request: Request, error: HTTPException) -> Response | None:
    if isinstance(request, WebSocket):
        return await _refuse_or_close(request, error)
    return await http_exception_handler(request, error)


async def _refuse_or_close(websocket: WebSocket, error: Exception) -> Response | None:
    if is_connecting(websocket):
        return await _refuse(websocket, error)
    if is_connected(websocket):
        # Only a route without admission gets here; admission closes what it has accepted.
        close = close_code_for(error)
        assert close is not None
        await websocket.close(*close)
    return None


async def _refuse(websocket: WebSocket, error: Exception) -> Response:
    """Return the response to a handshake: the status of an `HTTPException`, 422, or 403."""
    match error:
        case HTTPException():
            status, reason = error.status_code, str(error.detail)
            # FastAPI's handler reads nothing of the request.
            response = await http_exception_handler(Request({"type": "http"}), error)
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
    refused.add(1, {ROUTE: route_of(websocket.scope), STATUS: status})
    return response


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse with 404 and a line in the log; Starlette would answer a handshake with 403."""
    raise HTTPException(404)
