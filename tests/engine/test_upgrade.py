"""A handshake that is read from HTTP's parser gives what one gives that is parsed again."""

import asyncio
import re
from typing import Any, NamedTuple

import pytest
from fastapi_realtime.server import http_protocol
from fastapi_realtime.server.websocket_protocol import (
    LimitedWebSocketProtocol,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from .serving import handshake

pytestmark = pytest.mark.anyio

KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="
CHROME = (
    (b"Host", b"example.org"),
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Origin", b"https://example.org"),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits"),
)

names = st.sampled_from([name for name, _ in CHROME] + [b"Cookie", b"Content-Length", b"origin"])
values = st.sampled_from([value for _, value in CHROME]) | st.sampled_from(
    b"|0|x \t|keep-alive, Upgrade|upgrade,close|a, b|a,,b|a b|\xff".split(b"|")
)
more = st.lists(st.tuples(names | st.just(b"Sec-WebSocket-Protocol"), values), max_size=3)
targets = st.sampled_from([b"/", b"/a%20b?c=%2f&d", b"/a?b?c#d", b"http://x/a", b"*", b"/\xc3\xa9"])


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("::1", 80), "peername": ("::2", 1234)})
        self.written = b""
        self.is_closed = False
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol


class Outcome(NamedTuple):
    """What the application gets, what the client gets, and the protocol."""

    scopes: list[Scope]
    written: bytes
    is_closed: bool
    protocol: Any


async def outcome_of(head: bytes, **options: Any) -> Outcome:
    """Let a head arrive, for an application that accepts every handshake."""
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append({key: scope[key] for key in scope if key != "http_transport"})
        if scope["type"] == "websocket":
            subprotocol = [*scope["subprotocols"], None][0]
            answer = {"subprotocol": subprotocol, "headers": [(b"x-a", b"b")]}
            await send({"type": "websocket.accept"} | answer)

    config = Config("", interface="asgi3", log_config=None, **options)
    config.loaded, config.loaded_app = True, app
    config.ws_protocol_class = LimitedWebSocketProtocol
    state = ServerState()
    state.default_headers = [(b"server", b"uvicorn")]
    transport = Transport()
    transport.protocol = http = http_protocol.LimitedHttpProtocol(config, state, {"a": 1})
    http.connection_made(transport)
    http.data_received(head)
    await asyncio.gather(*state.tasks)
    transport.protocol.connection_lost(None)
    return Outcome(scopes, transport.written, transport.is_closed, transport.protocol)


@settings(deadline=None, max_examples=300)
@given(targets, st.lists(st.integers(0, len(CHROME) - 1), max_size=1), more)
@example(b"/", [], [])
@example(b"/", [], [(b"Sec-WebSocket-Protocol", b"events.v1, token.abc")])
@example(b"/", [], [(b"Origin", b"https://example.com")])
@example(b"/", [], [(b"Content-Length", b"1")])
@example(b"/", [4], [(b"Sec-WebSocket-Key", b"AAAA")])
@example(b"/", [], [(b"Cookie", b"a" * 9000)])
def test_the_same_head_gives_the_same_scope_and_answer(
    target: bytes, left_out: list[int], more: list[tuple[bytes, bytes]]
) -> None:
    kept = [each for number, each in enumerate(CHROME) if number not in left_out]
    lines = [b"GET %s HTTP/1.1" % target, *[b"%s: %s" % each for each in (*kept, *more)]]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    outcome = asyncio.run(outcome_of(head, ws_per_message_deflate=False))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(http_protocol, "read_handshake", lambda *_: None)
        expected = asyncio.run(outcome_of(head, ws_per_message_deflate=False))
    assert without_dates(outcome[:3]) == without_dates(expected[:3])


def without_dates(outcome: tuple[Any, ...]) -> str:
    """Return an outcome as text; refusals have the time in them."""
    return re.sub(r"[Dd]ate: .*? GMT", "", repr(outcome))


async def test_handshake_of_a_browser_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedWebSocketProtocol, "read_handshake", None)
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    outcome = await outcome_of(handshake("/a", extension))
    assert outcome.scopes[0]["path"] == "/a"
    assert b"permessage-deflate" not in outcome.written


@pytest.mark.parametrize("is_lost", [True, False])
async def test_no_answer_is_written_to_a_client_that_left(is_lost: bool) -> None:
    left = Transport()
    protocol = (await outcome_of(handshake("/a"))).protocol
    protocol.transport, protocol.accept = left, b"key"
    protocol.disconnected, left.is_closed = is_lost, not is_lost
    with pytest.raises(ClientDisconnected):
        await protocol.send({"type": "websocket.accept"})
    assert left.written == b""
