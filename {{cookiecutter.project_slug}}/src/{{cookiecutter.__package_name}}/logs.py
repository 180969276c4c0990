"""What the log says, how it is written, and what it doesn't say."""

import json
import logging
from contextvars import ContextVar
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exception_handlers import http_exception_handler
from starlette.exceptions import HTTPException
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter

logger = logging.getLogger(__name__)

OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message"}
SAID_BETTER = (
    '%s - "WebSocket %s" [accepted]',
    '%s - "WebSocket %s" %d',
    "connection open",
    "connection closed",
    "connection rejected (%d %s)",
)
"""What uvicorn says about things that this package says itself."""

_refused: ContextVar[bool] = ContextVar("refused", default=False)


def log_config(form: str) -> dict[str, Any]:
    """Return uvicorn's configuration of logging, with this package's log, as text or as JSON."""
    config: dict[str, Any] = {**LOGGING_CONFIG, "filters": {"once": {"()": Once}}}
    default: dict[str, Any] = {"()": TextFormatter, "fmt": "%(levelprefix)s %(message)s"}
    config["formatters"] = {**LOGGING_CONFIG["formatters"], "default": default}
    if form == "json":
        config["formatters"] = dict.fromkeys(("default", "access"), {"()": JsonFormatter})
    handlers = LOGGING_CONFIG["handlers"]
    config["handlers"] = {**handlers, "default": {**handlers["default"], "filters": ["once"]}}
    own = {"handlers": ["default"], "level": "INFO", "propagate": False}
    config["loggers"] = {**LOGGING_CONFIG["loggers"], __package__: own}
    return config


def keep_quiet_about_clients(app: FastAPI) -> None:
    """Let nothing that any client can cause look like a failure in uvicorn's log."""
    app.exception_handler(HTTPException)(_refuse)
    logging.getLogger("uvicorn.error").addFilter(_is_worth_saying)


async def _refuse(request: Request, exc: HTTPException) -> Response:
    """Answer as FastAPI does; log a refused handshake, and remember that it was on purpose."""
    if isinstance(request, WebSocket):
        _refused.set(True)
        client = "{}:{}".format(*(request.client or ("unknown", 0)))
        about = {"client": client, "path": request.scope["path"], "status": exc.status_code}
        origin = ", ".join(request.headers.getlist("origin"))
        logger.warning("refused", extra={**about, "reason": exc.detail, "origin": origin})
    return await http_exception_handler(request, exc)


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Drop uvicorn's complaint about a refused handshake, and its traceback for bad UTF-8."""
    if record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    return not (_refused.get() and "returned without" in str(record.msg))


class Once(logging.Filter):
    """Drops what is said twice."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg not in SAID_BETTER


class TextFormatter(DefaultFormatter):
    """For people: a level, a message, and `name=value` for what else is known.

    Values are written as JSON, so that nothing a client says can break out of its line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        more = "".join(f" {name}={json.dumps(value)}" for name, value in _more(record).items())
        return super().formatMessage(record) + more


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_more(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


def _more(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in OF_EVERY_RECORD}
