"""Frames that are read without the parser give what they give with it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState
from websockets.frames import apply_mask

from {{ cookiecutter.__package_name }}.realtime.server import sliced_protocol
from {{ cookiecutter.__package_name }}.realtime.server.frames import read_message
from {{ cookiecutter.__package_name }}.realtime.server.inbox import (
    MAX_MESSAGES,
    Received,
)
from {{ cookiecutter.__package_name }}.realtime.server.sliced_protocol import (
    FRAMES_PER_TURN,
)
from {{ cookiecutter.__package_name }}.realtime.server.websocket_protocol import (
    LimitedWebSocketProtocol,
)

from .serving import handshake

LIMIT = 300
"""The longest message that the protocols here take, in bytes."""


class Loop:
    """An event loop that runs what is due when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def create_task(self, coroutine: Any) -> Mock:
        coroutine.close()
        return Mock()

    def call_soon(self, callback: Callable[[], None]) -> object:
        self.due.append(callback)
        return callback

    def call_later(self, *_: object) -> Mock:
        return Mock()

    def time(self) -> float:
        return 0

    def run_due(self) -> bool:
        """Run what is due, and return whether there was something."""
        due, self.due = self.due, []
        for callback in due:
            callback()
        return bool(due)


class Transport:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> None:
        return None


class Server:
    """A protocol whose handshake has been answered, and an application that takes everything."""

    def __init__(self, limit: int = LIMIT) -> None:
        config = Config("", interface="asgi3", log_config=None, ws_max_size=limit)
        config.loaded = True
        config.loaded_app = self.app
        self.loop: Any = Loop()
        self.transport: Any = Transport()
        self.protocol = LimitedWebSocketProtocol(config, ServerState(), {}, self.loop)
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(handshake("/"))
        with pytest.raises(StopIteration):
            self.protocol.send({"type": "websocket.accept"}).send(None)
        self.transport.written = b""
        self.taken: list[Received] = []
        self.take()

    async def app(self, *_: object) -> None:
        """Never run: the test takes the messages itself."""

    def read(self, data: bytes) -> None:
        """Let data arrive, and the application take what it gives."""
        if data and not self.transport.is_closed:
            self.protocol.data_received(data)
            self.take()

    def take(self) -> None:
        """Take what is there, as long as something comes."""
        while self.loop.run_due() or len(self.protocol.inbox):
            while (received := self.protocol.inbox.take()) is not None:
                self.taken.append(received)

    @property
    def outcome(self) -> tuple[object, ...]:
        """What the application and the client have got."""
        return self.taken[1:], self.transport.written, self.transport.is_closed


def frame(first: int, payload: bytes, mask: bytes = b"mask", width: int | None = None) -> bytes:
    """Return a client's frame; its length is written in `width` bytes, or as few as can be."""
    size = len(payload)
    width = width or (0 if size < 126 else 2 if size < 65_536 else 8)
    second = {0: size, 2: 126, 8: 127}[width]
    length = size.to_bytes(8, "big")[8 - width :]
    return bytes([first, 0x80 | second]) + length + mask + apply_mask(payload, mask)


def unmasked(data: bytes) -> bytes:
    """Return the same frame, as a server would send it."""
    return bytes([data[0], data[1] & 0x7F]) + data[2:]


CLOSE = frame(0x88, b"")
LATE = frame(0x81, b"late")

masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=200).map(str.encode)
messages = st.builds(frame, st.sampled_from([0x81, 0x82]), texts, masks)
fragments = st.builds(frame, st.sampled_from([0x01, 0x02, 0x00, 0x80]), texts, masks)
others = st.builds(
    frame,
    st.sampled_from([0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x91, 0x83, 0x8B]),
    st.binary(max_size=400),
    masks,
    st.sampled_from([None, 2, 8]),
)
rubbish = st.one_of(messages.map(unmasked), st.binary(max_size=10))
frames = st.one_of(messages, messages, messages, fragments, others, rubbish)
reads = st.lists(st.lists(frames, max_size=5).map(b"".join), max_size=9)
"""What arrives at once: some frames; cuts divide them further."""


def outcome_of(reads: list[bytes], cuts: list[int], *, fast: bool) -> tuple[object, ...]:
    """Return what comes of some bytes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not fast:
            monkeypatch.setattr(sliced_protocol, "read_message", lambda *_: None)
        server = Server()
        for data in reads:
            edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
            for start, end in pairwise(edges):
                server.read(data[start:end])
        return server.outcome


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(reads, st.lists(st.integers(0, 2000), max_size=3))
@example([frame(0x81, b"\xff")], [])
@example([frame(0x81, b"a", width=2) + frame(0x81, b"b", width=8)], [])
@example([frame(0x01, b"a"), frame(0x81, b"b")], [])
@example([frame(0x01, b"a"), frame(0x89, b""), frame(0x80, b"b"), frame(0x81, b"c")], [])
@example([frame(0x82, b"a" * 20) + frame(0x82, frame(0x81, b"no message"))], [30])
@example([frame(0x82, b"a" * LIMIT), frame(0x82, b"a" * (LIMIT + 1))], [])
@example([CLOSE + LATE, LATE], [])
@example([frame(0x01, b"") + 61 * frame(0, b"") + frame(0x80, b"") + CLOSE + LATE], [])
@example([unmasked(frame(0x81, b"a")) + frame(0x81, b"b")], [])
def test_the_same_bytes_give_the_same_messages_and_close_codes(
    reads: list[bytes], cuts: list[int]
) -> None:
    assert outcome_of(reads, cuts, fast=True) == outcome_of(reads, cuts, fast=False)


@given(st.text(max_size=300), masks)
@example("x" * 125, b"mask")
@example("x" * 126, b"mask")
@example("x" * 65_535, b"mask")
def test_message_of_any_length_and_mask_is_read(text: str, mask: bytes) -> None:
    payload = text.encode()
    for first, message in ((0x81, text), (0x82, payload)):
        data = b"before" + frame(first, payload, mask)
        assert read_message(data + b"after", 6, 65_535) == (message, len(payload), len(data))


def test_messages_bypass_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    monkeypatch.setattr(server.protocol, "parse", pytest.fail)
    server.read(frame(0x81, b"a") + frame(0x82, b"b" * 200))
    assert server.taken[1:] == [("a", 1), (b"b" * 200, 200)]


@pytest.mark.parametrize(
    ("message", "most"),
    [
        (frame(0x81, b""), MAX_MESSAGES),
        (frame(0x81, b"a" * 60_000), 2),
        (frame(0x01, b"a") + frame(0x80, b"b"), MAX_MESSAGES),
    ],
    ids=["tiny", "large", "fragments"],
)
def test_flood_fills_the_inbox_and_no_more(message: bytes, most: int) -> None:
    server = Server(limit=65_536)
    server.protocol.data_received(message * 500)
    while server.loop.run_due():
        pass
    assert most <= len(server.protocol.inbox) < most + FRAMES_PER_TURN
    assert server.transport.is_paused
    server.take()
    assert len(server.taken) == 501
    assert not server.transport.is_paused


def test_nothing_is_taken_after_a_close() -> None:
    server = Server()
    with pytest.raises(StopIteration):
        server.protocol.send({"type": "websocket.close"}).send(None)
    server.take()
    server.read(LATE)
    assert [received for received in server.taken[1:] if isinstance(received[0], str)] == []


def test_application_that_takes_little_by_little_gets_all_in_order() -> None:
    server = Server()
    numbers = [str(number) for number in range(500)]
    server.protocol.data_received(b"".join(frame(0x81, each.encode()) for each in numbers))
    while len(server.protocol.inbox) or server.loop.run_due():
        if (received := server.protocol.inbox.take()) is not None:
            server.taken.append(received)
        assert len(server.protocol.inbox) <= MAX_MESSAGES
    assert [message for message, _ in server.taken[1:]] == numbers
