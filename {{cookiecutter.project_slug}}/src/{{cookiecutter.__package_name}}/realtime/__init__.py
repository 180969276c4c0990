"""The engine of this project's WebSockets. Endpoints import what is listed here."""

from .close_codes import CloseCode
from .connection import Connection
from .engine import Engine, EngineDep, current_settings
from .formats import ErrorCode, dump_json
from .handshake.admission import Admission, Admitted
from .handshake.identity import Identity
from .load_settings import SettingsError, load_settings
from .message_types import Subprotocol
from .server.command import serve
from .settings import RealtimeSettings

__all__ = [
    "Admission",
    "Admitted",
    "CloseCode",
    "Connection",
    "Engine",
    "EngineDep",
    "ErrorCode",
    "Identity",
    "RealtimeSettings",
    "SettingsError",
    "Subprotocol",
    "current_settings",
    "dump_json",
    "load_settings",
    "serve",
]
