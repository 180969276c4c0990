"""WebSockets for FastAPI: limits, origins, tokens, rooms and an AsyncAPI document."""

from .admission import Admission, Admitted
from .asyncapi import add_asyncapi, asyncapi_document
from .command_line import run_command, serve
from .connection import Connection
from .errors import CloseCode
from .handshake import Identity
from .messages import ErrorCode, Subprotocol, dump_json
from .page import add_page
from .realtime import Realtime, RealtimeDep, current_settings
from .settings import RealtimeSettings, SettingsError, load_settings

__all__ = [
    "Admission",
    "Admitted",
    "CloseCode",
    "Connection",
    "Realtime",
    "RealtimeDep",
    "ErrorCode",
    "Identity",
    "RealtimeSettings",
    "SettingsError",
    "Subprotocol",
    "add_asyncapi",
    "add_page",
    "asyncapi_document",
    "current_settings",
    "dump_json",
    "load_settings",
    "run_command",
    "serve",
]
