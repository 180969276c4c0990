"""Logging: formats, filters for uvicorn's records, and fields of connections."""

import json
import logging
import re
from asyncio import CancelledError
from contextvars import ContextVar
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from starlette.types import Scope

from .uvicorn_internals import LOGGING_CONFIG, DefaultFormatter

MAX_LOGGED = 200
"""Maximum characters of a logged value; longer ones are cut."""

STANDARD_FIELDS = {*vars(logging.makeLogRecord({})), "asctime", "color_message", "message"}
DUPLICATES = (
    '%s - "WebSocket %s" [accepted]',
    '%s - "WebSocket %s" %d',
    "connection open",
    "connection closed",
    "connection rejected (%d %s)",
    "HTTP response sent (%d %s)",
)
"""uvicorn's messages about events that the engine logs itself; dropped."""

STARTED = (
    "Uvicorn running on %s://%s:%d (Press CTRL+C to quit)",
    "Uvicorn running on %s://[%s]:%d (Press CTRL+C to quit)",
)
"""uvicorn's messages with the address that it listens on."""

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""How to reach a server that listens on all networks from its own machine."""

ADDRESS = re.compile(r"[0-9A-Za-z.:_%-]{1,64} [0-9]{1,5}")
"""An IP address, which may have a zone, or a host name; and a port, which Granian passes as text."""

ENGINE = __name__.partition(".")[0]
"""The parent of all loggers of the engine."""

_quote = json.JSONEncoder(default=str).encode
"""Encodes a value as JSON; `json.dumps` would create an encoder for each call."""

refusals = logging.getLogger(f"{ENGINE}.handshake")
"""Logger of all rejected handshakes and requests."""

handshake_refused: ContextVar[bool] = ContextVar("handshake_refused", default=False)
"""Set in the task of a rejected handshake, to drop uvicorn's error about it."""


def set_up_logging(form: str, application: str) -> None:
    """Set up logging in the format `text` or `json`; existing handlers are kept.

    uvicorn's records about connections, and its tracebacks for bad UTF-8, are dropped.
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
    """Return a client's address as `host:port`; without the port, if a proxy hides it."""
    host, port = client or ("unknown", 0)
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address(host: str, port: int) -> str:
    """Return the address of a server as programs on its own machine reach it."""
    return address_of((LOOPBACK.get(host, host), port))


def connection_fields(scope: Scope) -> dict[str, Any]:
    """Return the first fields of every log record about a connection."""
    return {"connection": connection_id(scope), "client": address_of(scope.get("client"))}


def connection_id(scope: Scope) -> str:
    """Return the id of a connection, unique across processes."""
    return scope.get("connection_id") or scope.setdefault("connection_id", token_hex(8))


def uvicorn_log_config(form: str, application: str) -> dict[str, Any]:
    """Return uvicorn's logging configuration, extended to all loggers, as text or JSON."""
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
    """Drop duplicates, and tracebacks for bad UTF-8 and for tasks cancelled at shutdown."""
    is_cancelled = record.exc_info and isinstance(record.exc_info[1], CancelledError)
    if is_cancelled or record.msg == "Invalid UTF-8 sequence received from client.":
        record.exc_info, record.levelno, record.levelname = None, logging.INFO, "INFO"
    if is_cancelled:
        record.msg = "Cancelled an ASGI task."
    if record.msg == "ASGI callable returned without completing handshake.":
        return not handshake_refused.get()
    return record.msg not in DUPLICATES


def _shorten_arguments(record: logging.LogRecord) -> bool:
    """Cut a long address or path in an access record."""
    if isinstance(record.args, tuple):
        record.args = tuple(_shorten(value) for value in record.args)
    return True


def add_page_url(path: str, record: logging.LogRecord) -> bool:
    """Add the URL of a page to uvicorn's message that it is running."""
    if record.msg in STARTED and isinstance(record.args, tuple):
        scheme, host, port = map(str, record.args)
        page = f". Open {scheme}://{local_address(host, int(port))}{path} in a browser."
        record.msg += page
        vars(record)["color_message"] += page
    return True


def name_settings(record: logging.LogRecord) -> bool:
    """Add to uvicorn's error about an address that it can't listen on where that comes from."""
    if isinstance(record.msg, OSError):
        record.msg = f"{record.msg}; see APP_HOST and APP_PORT"
    return True


def check_client(scope: Scope) -> None:
    """Replace an invalid client address by `unknown`.

    Behind a trusted proxy, uvicorn uses `X-Forwarded-For` without validation.
    """
    host, port = scope.get("client") or ("unknown", 0)  # a Unix socket has none
    if not ADDRESS.fullmatch(f"{host} {port}"):
        scope["client"] = ("unknown", 0)


class TextFormatter(DefaultFormatter):
    """A line of text: level, message, and extra fields as `name=value`.

    Values are JSON, so that no client can forge a line.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname}:".ljust(9)
        if self.use_colors:
            level = self.color_level_name(level, record.levelno)
        more = "".join(f" {key}={_quote(value)}" for key, value in _extra_fields(record).items())
        return f"{level} {record.message}{more}"


class JsonFormatter(logging.Formatter):
    """A JSON object per line."""

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
