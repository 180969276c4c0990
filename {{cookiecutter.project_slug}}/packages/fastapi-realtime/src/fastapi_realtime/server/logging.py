"""Log lines: which are written, and how."""

import json
import logging
import re
from asyncio import CancelledError
from collections.abc import Awaitable
from contextvars import ContextVar
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from .uvicorn_internals import LOGGING_CONFIG, DefaultFormatter

MAX_LOGGED = 200
"""Characters of a value that are logged."""

STANDARD_FIELDS = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message"}
DUPLICATES = (
    '%s - "WebSocket %s" [accepted]',
    '%s - "WebSocket %s" %d',
    "connection open",
    "connection closed",
    "connection rejected (%d %s)",
    "HTTP response sent (%d %s)",
)
"""Messages of uvicorn about events that the engine logs itself."""

STARTED = (
    "Uvicorn running on %s://%s:%d (Press CTRL+C to quit)",
    "Uvicorn running on %s://[%s]:%d (Press CTRL+C to quit)",
)
"""Messages of uvicorn that name its address."""

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where a server that listens on all networks is found from its own machine."""

ADDRESS = re.compile(r"[0-9A-Za-z.:_%-]{1,64}")
"""An IP address, perhaps with a zone, or the name of a host."""

PORT = re.compile(r"[0-9]{1,5}")
"""A port, which Granian gives as text."""

ENGINE = __name__.partition(".")[0]
"""The name above all loggers of the engine."""

_quote = json.JSONEncoder(default=str).encode
"""Returns a value as JSON; `json.dumps` would make an encoder for each."""

refusals = logging.getLogger(f"{__name__.removesuffix('.server.logging')}.handshake")
"""Logs every handshake or request that is refused, wherever that is."""

handshake_refused: ContextVar[bool] = ContextVar("handshake_refused", default=False)
"""Set in the task of a handshake that is refused, which uvicorn takes for a mistake."""


def set_up_logging(form: str, application: str) -> None:
    """Log every connection once, as `text` or as `json`.

    Nothing that a client can cause is logged as a failure of the server. Handlers that exist
    already are kept.
    """
    logging.getLogger("uvicorn.error").addFilter(_filter_uvicorn)
    logging.getLogger("uvicorn.access").addFilter(_shorten_arguments)
    if form == "json":
        logging.captureWarnings(True)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for name in (ENGINE, application):
        own = logging.getLogger(name)
        if not own.hasHandlers():
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
    return {"connection": connection_id(scope), "client": address_of(scope["client"])}


def connection_id(scope: Scope) -> str:
    """Return the id of a connection, which no other has, in whichever process."""
    found: str = scope.get("connection_id") or scope.setdefault("connection_id", token_hex(8))
    return found


def uvicorn_log_config(form: str, application: str) -> dict[str, Any]:
    """Return uvicorn's configuration of logging, as text or as JSON, with all other loggers."""
    formatters = LOGGING_CONFIG["formatters"] | {"other": {"()": TextFormatter}}
    if form == "json":
        formatters = dict.fromkeys(formatters, {"()": JsonFormatter})
    other = LOGGING_CONFIG["handlers"]["default"] | {"formatter": "other"}
    return LOGGING_CONFIG | {
        "formatters": formatters,
        "handlers": LOGGING_CONFIG["handlers"] | {"other": other},
        "loggers": LOGGING_CONFIG["loggers"]
        | {name: {"level": "INFO"} for name in (ENGINE, application)},
        "root": {"handlers": ["other"], "level": "WARNING"},
    }


def _filter_uvicorn(record: logging.LogRecord) -> bool:
    """Drop duplicates, and tracebacks for bad UTF-8 and for tasks that a stop has cancelled."""
    is_cancelled = record.exc_info and isinstance(record.exc_info[1], CancelledError)
    if is_cancelled or record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    if is_cancelled:
        record.msg = "Cancelled an ASGI task."
    if record.msg == "ASGI callable returned without completing handshake.":
        return not handshake_refused.get()
    return record.msg not in DUPLICATES


def _shorten_arguments(record: logging.LogRecord) -> bool:
    """Shorten the client's address and the path in an access line."""
    if isinstance(record.args, tuple):
        record.args = tuple(_shorten(value) for value in record.args)
    return True


class NamePage(logging.Filter):
    """Adds the address of a page to the line in which uvicorn says where it is running."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in STARTED and isinstance(record.args, tuple):
            scheme, host, port = record.args
            host = LOOPBACK.get(str(host), host)
            where = f"[{host}]" if ":" in str(host) else host
            page = f". Open {scheme}://{where}:{port}{self.path} in a browser."
            record.msg += page
            vars(record)["color_message"] += page
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

    Values are written as JSON, so that no client can forge a line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}:".ljust(9)
        if self.use_colors:
            level = self.color_level_name(level, record.levelno)
        more = "".join(f" {key}={_quote(value)}" for key, value in _extra_fields(record).items())
        return f"{level} {record.message}{more}"


class JsonFormatter(logging.Formatter):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return _quote(document)


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: _shorten(value) for name, value in vars(record).items() if name not in STANDARD_FIELDS
    }


def _shorten(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_LOGGED:
        return value[:MAX_LOGGED] + "…"
    return value
