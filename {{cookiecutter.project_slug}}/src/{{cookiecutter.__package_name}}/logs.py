"""What the log says, and what it doesn't."""

import logging
from contextvars import ContextVar

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException

_refused: ContextVar[bool] = ContextVar("refused", default=False)


def keep_quiet_about_clients(app: FastAPI) -> None:
    """Let nothing that any client can cause look like a failure in uvicorn's log."""
    app.exception_handler(HTTPException)(_refuse)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_saying)


async def _refuse(request: Request, exc: HTTPException) -> Response:
    """Answer as FastAPI does, and remember that the handshake was refused on purpose."""
    _refused.set(True)
    return await http_exception_handler(request, exc)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Drop uvicorn's complaint about a refused handshake, and its traceback for bad UTF-8."""
    if record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    return not (_refused.get() and "returned without" in str(record.msg))
