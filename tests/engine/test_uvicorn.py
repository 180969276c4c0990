"""What the engine relies on in uvicorn beyond its documentation.

When a new release changes it, the failing test names what changed; then look at the file of
`fastapi_realtime/server/` that uses it. Correct the table last.
"""

import ast
import inspect
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fastapi_realtime.server.http_protocol as http_protocol
import fastapi_realtime.server.logging as server_logging
import fastapi_realtime.server.shutdown as shutdown
import fastapi_realtime.server.websocket_protocol as websocket_protocol
import uvicorn
import websockets
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

METHODS: dict[type, dict[str, str]] = {
    HttpToolsProtocol: {
        "_should_upgrade": "(self)",
        "_start_asgi_task": "(self, cycle, app)",
        "_unset_keepalive_if_required": "(self)",
        "connection_lost": "(self, exc)",
        "connection_made": "(self, transport)",
        "data_received": "(self, data)",
        "handle_websocket_upgrade": "(self)",
        "on_body": "(self, body)",
        "on_header": "(self, name, value)",
        "on_headers_complete": "(self)",
        "on_message_begin": "(self)",
        "on_message_complete": "(self)",
        "resume_writing": "(self)",
    },
    RequestResponseCycle: {"run_asgi": "(self, app) -> coroutine"},
    uvicorn.Server: {
        "capture_signals": "(self)",
        "handle_exit": "(self, sig, frame)",
        "main_loop": "(self) -> coroutine",
        "shutdown": "(self, sockets) -> coroutine",
    },
    DefaultFormatter: {
        "__init__": "(self, fmt, datefmt, style, use_colors)",
        "color_level_name": "(self, level_name, level_no)",
        "formatMessage": "(self, record)",
    },
}
"""Methods that the engine overrides or calls; `server/` and `serving.py` of these tests do."""

ATTRIBUTES: dict[type, str] = {
    HttpToolsProtocol: (
        "app_state client config connections cycle headers loop parser pipeline scope "
        "server_state transport url ws_protocol_class"
    ),
    RequestResponseCycle: "disconnected message_event response_complete scope",
    ServerState: "connections default_headers tasks",
    uvicorn.Server: "lifespan server_state servers",
    DefaultFormatter: "use_colors",
}
"""Attributes that the engine reads or sets."""

MESSAGES: dict[ModuleType, tuple[str, ...]] = {
    uvicorn: (
        '%s - "WebSocket %s" [accepted]',
        '%s - "WebSocket %s" %d',
        "ASGI callable returned without completing handshake.",
        "Invalid UTF-8 sequence received from client.",
    ),
    websockets: (
        "connection open",
        "connection closed",
        "connection rejected (%d %s)",
        "HTTP response sent (%d %s)",
    ),
}
"""Messages that the engine leaves out of the log or changes."""

EXTENDED = {
    http_protocol.LimitedHttpProtocol: HttpToolsProtocol,
    server_logging.TextFormatter: DefaultFormatter,
}


def test_uvicorn_has_what_the_engine_relies_on() -> None:
    changes = [*changed_methods(), *changed_attributes(), *changed_messages()]
    assert not changes, "\n".join(changes)


def test_tables_name_all_that_our_classes_override_or_use() -> None:
    for own, base in EXTENDED.items():
        of_base = {*dir(base), *attributes_set(base)}
        of_own = {name for name in vars(own) if not name.startswith("__")}
        used = (of_own | attributes_used(own)) & of_base
        unnamed = used - {*METHODS[base], *ATTRIBUTES[base].split()}
        assert not unnamed, own


def test_uvicorn_makes_and_closes_protocols_as_expected() -> None:
    own, stock = websocket_protocol.LimitedWebSocketProtocol, WebSocketsSansIOProtocol
    assert parameters(own, "__init__") == parameters(stock, "__init__")
    assert parameters(own, "shutdown") == parameters(stock, "shutdown")
    assert parameters(stock, "run_asgi") == "(self) -> coroutine"  # see `is_run_by_uvicorn`
    assert parameters(stock, "send") == "(self, message) -> coroutine"
    assert "transport" in attributes_set(stock)


def test_messages_that_the_log_leaves_out_are_checked() -> None:
    assert {*server_logging.DUPLICATES} < {each for texts in MESSAGES.values() for each in texts}


def test_log_configuration_of_uvicorn_has_the_parts_that_are_replaced() -> None:
    assert set(LOGGING_CONFIG["formatters"]) == {"default", "access"}
    assert LOGGING_CONFIG["handlers"]["default"] == {
        "formatter": "default",
        "class": "logging.StreamHandler",
        "stream": "ext://sys.stderr",
    }
    assert set(LOGGING_CONFIG["loggers"]) == {"uvicorn", "uvicorn.error", "uvicorn.access"}
    assert "root" not in LOGGING_CONFIG


def test_uvicorn_handles_signals_by_a_method_of_its_server() -> None:
    with uvicorn.Server(uvicorn.Config(app="")).capture_signals():
        assert all(shutdown.is_uvicorn(signal.getsignal(each)) for each in shutdown.SIGNALS)


def changed_methods() -> Iterator[str]:
    """Yield a sentence for each method that has other parameters than expected."""
    for owner, methods in METHODS.items():
        for name, expected in methods.items():
            actual = parameters(owner, name)
            if actual != expected:
                yield f"{library(owner)} changed: {owner.__name__}.{name}{expected} is now {actual}"


def changed_attributes() -> Iterator[str]:
    """Yield a sentence for each attribute that is no longer there."""
    for owner, names in ATTRIBUTES.items():
        for name in sorted({*names.split()} - attributes_set(owner)):
            yield f"{library(owner)} changed: {owner.__name__} no longer sets self.{name}"


def changed_messages() -> Iterator[str]:
    """Yield a sentence for each message that is no longer logged."""
    for module, messages in MESSAGES.items():
        sources = Path(str(module.__file__)).parent.rglob("*.py")
        text = "".join(source.read_text("utf-8") for source in sources)
        for message in messages:
            if f'"{message}"' not in text and f"'{message}'" not in text:
                yield f"{module.__name__} changed: it no longer logs {message!r}"


def attributes_set(owner: type) -> set[str]:
    """Return the names of attributes that the methods of a class, or of its bases, set."""
    nodes = [node for each in owner.__mro__[:-1] for node in attribute_nodes(each)]
    return {node.attr for node in nodes if isinstance(node.ctx, ast.Store)}


def attributes_used(owner: type) -> set[str]:
    """Return the names of all attributes of `self` and `super()` in the source of a class."""
    return {node.attr for node in attribute_nodes(owner)}


def attribute_nodes(owner: type) -> list[ast.Attribute]:
    """Return every `self.<name>` and `super().<name>` in the source of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [node for node in nodes if ast.unparse(node.value) in ("self", "super()")]


def library(owner: type) -> str:
    """Return the name of the library that a class comes from."""
    return owner.__module__.partition(".")[0]


def parameters(owner: type, name: str) -> str:
    """Return the names of a method's parameters, like `(self, message) -> coroutine`."""
    method: Any = getattr(owner, name, None)
    if method is None:
        return "gone"
    result = " -> coroutine" if inspect.iscoroutinefunction(method) else ""
    return f"({', '.join(inspect.signature(method).parameters)}){result}"
