"""What the log says, how it is written, and what it doesn't say."""

import json
import logging
import re
from collections.abc import Awaitable
from contextvars import ContextVar
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter

MAX_LOGGED = 200
"""Characters of a value that are logged."""

OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message"}
SAID_BETTER = (
    '%s - "WebSocket %s" [accepted]',
    '%s - "WebSocket %s" %d',
    "connection open",
    "connection closed",
    "connection rejected (%d %s)",
    "HTTP response sent (%d %s)",
)
"""What uvicorn says about things that this package says itself."""

ADDRESS = re.compile(r"[0-9A-Za-z.:_%-]{1,64}")
"""An IP address, perhaps with a zone, or the name of a host."""

PORT = re.compile(r"[0-9]{1,5}")
"""A port, which Granian gives as text."""

handshake_refused: ContextVar[bool] = ContextVar("handshake_refused", default=False)
"""Set in the task of a handshake that is refused, which uvicorn takes for a mistake."""


def set_up_logging(form: str) -> None:
    """Log what clients do, once and as what it is, as `text` or as `json`.

    Nothing that any client can cause should look like a failure in uvicorn's log. Handlers that
    are there already are left to do their work.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_worth_saying)
    logging.getLogger("uvicorn.access").addFilter(_shorten_arguments)
    if form == "json":
        logging.captureWarnings(True)
    own = logging.getLogger(__package__)
    if not own.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
        own.addHandler(handler)
        own.setLevel(logging.INFO)


def address_of(client: tuple[str, int] | None) -> str:
    """Return a client's address as `host:port`; behind a proxy, which hides the port, as `host`."""
    host, port = client or ("unknown", 0)
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connection_fields(scope: Scope) -> dict[str, Any]:
    """Return the fields that every log line about a connection begins with."""
    connection_id = scope.setdefault("connection_id", token_hex(4))
    return {"connection": connection_id, "client": address_of(scope["client"])}


def uvicorn_log_config(form: str) -> dict[str, Any]:
    """Return uvicorn's configuration of logging, as text or as JSON, with all other loggers."""
    formatters = LOGGING_CONFIG["formatters"] | {"other": {"()": TextFormatter}}
    if form == "json":
        formatters = dict.fromkeys(formatters, {"()": JsonFormatter})
    other = LOGGING_CONFIG["handlers"]["default"] | {"formatter": "other"}
    return LOGGING_CONFIG | {
        "formatters": formatters,
        "handlers": LOGGING_CONFIG["handlers"] | {"other": other},
        "loggers": LOGGING_CONFIG["loggers"] | {__package__: {"level": "INFO"}},
        "root": {"handlers": ["other"], "level": "WARNING"},
    }


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Drop what this package says itself, and uvicorn's traceback for bad UTF-8."""
    if record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    if record.msg == "ASGI callable returned without completing handshake.":
        return not handshake_refused.get()
    return record.msg not in SAID_BETTER


def _shorten_arguments(record: logging.LogRecord) -> bool:
    """Shorten what an access line says of a client: its address, and the path."""
    if isinstance(record.args, tuple):
        record.args = tuple(_shorten(value) for value in record.args)
    return True


class CheckClient:
    """Middleware that replaces a client's address by `unknown` where it is not an address.

    Where a proxy is trusted, uvicorn takes the address from `X-Forwarded-For` without a check.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        host, port = scope.get("client") or ("unknown", 0)  # a Unix socket has none
        if not ADDRESS.fullmatch(host) or not PORT.fullmatch(str(port)):
            scope["client"] = ("unknown", 0)
        return self.app(scope, receive, send)


class TextFormatter(DefaultFormatter):
    """For people: a level, a message, and `name=value` for what else is known.

    Values are written as JSON, so that nothing a client says can break out of its line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}:".ljust(9)
        if self.use_colors:
            level = self.color_level_name(level, record.levelno)
        more = "".join(f" {key}={_quote(value)}" for key, value in _more(record).items())
        return f"{level} {record.message}{more}"


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_more(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return _quote(document)


def _more(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in vars(record).items() if name not in OF_EVERY_RECORD}
    return {name: _shorten(value) for name, value in fields.items()}


def _quote(value: object) -> str:
    return json.dumps(value, default=str)


def _shorten(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_LOGGED:
        return value[:MAX_LOGGED] + "…"
    return value
