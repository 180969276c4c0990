"""Frames: both ways of reading them, compared with each other and with `websockets`."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi_realtime.server import websocket_protocol
from fastapi_realtime.server.fast_path import (
    HIGH_WATER,
    MAX_MESSAGES,
    Received,
)
from fastapi_realtime.server.http_protocol import (
    LimitedHttpProtocol,
)
from fastapi_realtime.server.websocket_protocol import (
    CONTROL_FRAMES_PER_SECOND,
    FRAMES_PER_TURN,
    LimitedWebSocketProtocol,
)
from fastapi_realtime.server.wire import read_message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode, apply_mask
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from .serving import handshake

LIMIT = 300
"""The longest message that the protocols here take, in bytes."""

SOMETHING = Mock()
"""A task or a timer, made once, since that takes long."""


class Loop:
    """An event loop that runs what is due when it is told to."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def create_task(self, coroutine: Any) -> Mock:
        coroutine.close()
        return SOMETHING

    def call_soon(self, callback: Callable[[], None]) -> object:
        self.due.append(callback)
        return callback

    def call_later(self, *_: object) -> Mock:
        return SOMETHING

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
        self.protocol: Any = None

    def set_protocol(self, protocol: object) -> None:
        self.protocol = protocol

    get_protocol = Mock()

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Only what comes after it matters."""

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

    def __init__(
        self, limit: int = LIMIT, *, fast: bool = True, is_answered: bool = True, **options: Any
    ) -> None:
        config = Config("", interface="asgi3", log_config=None, ws_max_size=limit, **options)
        config.loaded = True
        config.ws_protocol_class = LimitedWebSocketProtocol
        config.loaded_app = self.app
        self.loop: Any = Loop()
        self.transport: Any = Transport()
        kind: Any = LimitedHttpProtocol if fast else LimitedWebSocketProtocol
        protocol = kind(config, ServerState(), {}, self.loop)
        protocol.connection_made(self.transport)
        protocol.data_received(handshake("/"))
        self.protocol: LimitedWebSocketProtocol = self.transport.protocol or protocol
        if is_answered:
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

    def read_frames(self, *frames: bytes, in_parts: bool) -> None:
        """Let frames arrive at once, or each in two parts, which takes the parser."""
        for data in frames if in_parts else [b"".join(frames)]:
            self.read(data[:3] if in_parts else b"")
            self.read(data[3:] if in_parts else data)

    def take(self) -> None:
        """Take what is there, as long as something comes."""
        while self.loop.run_due() or len(self.protocol.inbox):
            while (received := self.protocol.inbox.take()) is not None:
                self.taken.append(received)

    @property
    def outcome(self) -> tuple[object, ...]:
        """What the application and the client have got."""
        return self.taken[1:], self.transport.written, self.transport.is_closed


def frame(first: int, payload: bytes, mask: bytes = b"mask") -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size > 125:
        return padded(first, payload, 2 if size < 65_536 else 8, mask)
    return bytes([first, 0x80 | size]) + mask + apply_mask(payload, mask)


def padded(first: int, payload: bytes, width: int, mask: bytes = b"mask") -> bytes:
    """Return a client's frame with its length written in `width` bytes."""
    length = len(payload).to_bytes(width, "big")
    return bytes([first, {2: 0xFE, 8: 0xFF}[width]]) + length + mask + apply_mask(payload, mask)


def unmasked(data: bytes) -> bytes:
    """Return the same frame, as a server would send it."""
    return bytes([data[0], data[1] & 0x7F]) + data[2:]


CLOSE = frame(0x88, b"")
LATE = frame(0x81, b"late")

masks = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=200).map(str.encode)
messages = st.builds(frame, st.sampled_from([0x81, 0x82]), texts, masks)
fragments = st.builds(frame, st.sampled_from([0x01, 0x02, 0x00, 0x80]), texts, masks)
first_bytes = st.sampled_from([0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x91, 0x83, 0x8B])
payloads = st.binary(max_size=400)
others = st.one_of(
    st.builds(frame, first_bytes, payloads, masks),
    st.builds(padded, first_bytes, payloads, st.sampled_from([2, 8]), masks),
)
rubbish = st.one_of(messages.map(unmasked), st.binary(max_size=10))
frames = st.one_of(messages, messages, messages, fragments, others, rubbish)
reads = st.lists(st.lists(frames, max_size=5).map(b"".join), max_size=9)
"""What arrives at once: some frames; cuts divide them further."""


def outcome_of(reads: list[bytes], cuts: list[int], *, fast: bool) -> tuple[object, ...]:
    """Return what comes of some bytes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if not fast:
            monkeypatch.setattr(websocket_protocol, "read_message", lambda *_: None)
        server = Server(fast=fast)
        for data in reads:
            edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
            for start, end in pairwise(edges):
                server.read(data[start:end])
        return server.outcome


def expected_of(data: bytes) -> tuple[list[object], int | None]:
    """Return the messages and the close code that `websockets` makes of some bytes."""
    parser = ServerProtocol(state=OPEN, max_size=LIMIT)
    parser.receive_data(data)
    messages: list[object] = []
    parts: list[Frame] = []
    for event in parser.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.CLOSE and parser.close_rcvd:
            return messages, parser.close_rcvd.code
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            parts.append(event)
            if event.fin:
                payload = b"".join(each.data for each in parts)
                is_text, parts = parts[0].opcode is Opcode.TEXT, []
                try:
                    messages.append(payload.decode() if is_text else payload)
                except UnicodeDecodeError:
                    return messages, 1007
    return messages, parser.close_sent.code if parser.close_sent else None


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(reads, st.lists(st.integers(0, 2000), max_size=3))
@example([frame(0x81, b"\xff")], [])
@example([frame(0x81, b"\xff") + LATE + CLOSE], [])
@example([frame(0x81, b"\xff") + LATE + frame(0x83, b"")], [])
@example([frame(0x01, b"a"), frame(0x81, b"b")], [])
@example([frame(0x01, b"a"), frame(0x89, b""), frame(0x80, b"b"), frame(0x81, b"c")], [])
@example([frame(0x82, b"a" * 20) + frame(0x82, frame(0x81, b"no message"))], [30])
@example([frame(0x82, b"a" * LIMIT), frame(0x82, b"a" * (LIMIT + 1))], [])
@example([CLOSE + LATE, LATE], [])
@example([frame(0x88, b"\x03\xe9why") + LATE, LATE], [])
@example([frame(0x88, b"\x03\xed")], [])
@example([frame(0x88, b"\x03"), LATE], [])
@example([frame(0x88, b"\x0b\xb8\xff")], [])
@example([frame(0x01, b"a"), frame(0x88, b"\x03\xe8")], [])
@example([frame(0x89, b"ping" * 20) + frame(0x8A, b"") + LATE], [])
@example([frame(0x01, b"") + 61 * frame(0, b"") + frame(0x80, b"") + CLOSE + LATE], [])
@example([unmasked(frame(0x81, b"a")) + frame(0x81, b"b")], [])
@example([frame(0x01, b"\xc3") + frame(0x80, b"\xa4")], [])
@example([frame(0x01, b"a") + frame(0x8A, b"") + frame(0x80, b"b") + CLOSE], [])
@example([frame(0x01, b"a" * LIMIT), frame(0x80, b"b")], [])
@example([frame(0x09, b""), LATE], [])
@example([frame(0x89, b"a" * 126), LATE], [])
@example([frame(0x80, b""), LATE], [])
@example([b"(\xfe\x02"], [])
def test_both_ways_make_of_frames_what_websockets_does(reads: list[bytes], cuts: list[int]) -> None:
    outcome = outcome_of(reads, cuts, fast=True)
    assert outcome == outcome_of(reads, cuts, fast=False)
    taken, written, _ = outcome
    assert isinstance(taken, list)
    assert isinstance(written, bytes)
    if b"is not minimal" in written or b"control frame too long" in written:
        return  # `websockets` accepts short lengths that are written long
    codes = [event["code"] for event, _ in taken if isinstance(event, dict)]
    ours = [each for each, _ in taken if not isinstance(each, dict)], (*codes, None)[0]
    expected = expected_of(b"".join(reads))
    if expected[1] is None and ours[1] in (1002, 1009):  # we don't wait for the rest of a frame
        messages, code = expected_of(b"".join([*reads, bytes(2 * LIMIT)]))
        expected = messages, ours[1] if code in (1002, 1009) else code  # it may have both faults
    assert ours == expected


@given(st.text(max_size=300), masks)
@example("x" * 125, b"mask")
@example("x" * 126, b"mask")
@example("x" * 65_535, b"mask")
def test_message_of_any_length_and_mask_is_read(text: str, mask: bytes) -> None:
    payload = text.encode()
    for first, message in ((0x81, text), (0x82, payload)):
        data = b"before" + frame(first, payload, mask)
        assert read_message(data + b"after", 6, 65_535) == (message, len(payload), len(data))


@pytest.mark.parametrize("width", [2, 8])
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("cut", [1, 3, 5, 9])
def test_a_length_of_more_bytes_than_it_needs_is_1002(width: int, size: int, cut: int) -> None:
    if size == 65_536 and width == 2:
        return
    server = Server(limit=100_000)
    server.read(frame(0x81, b"before"))
    data = padded(0x82, b"x" * size, width)
    server.read(data[:cut])
    server.read(data[cut:] + LATE)
    if (126 <= size < 65_536) if width == 2 else size > 65_535:
        assert [message for message, _ in server.taken[1:3]] == ["before", b"x" * size]
        assert server.transport.written == b""
    else:
        reason = "the length of a frame is not minimal"
        disconnect = {"type": "websocket.disconnect", "code": 1002, "reason": reason}
        assert server.taken[1:] == [("before", 6), (disconnect, 0)]
        assert server.transport.written.startswith(b"\x88")
        assert server.transport.written[2:4] == b"\x03\xea"


def test_messages_and_control_frames_are_handled() -> None:
    server = Server()
    server.read(frame(0x81, b"a") + frame(0x82, b"b" * 200) + frame(0x89, b"c") + frame(0x8A, b"d"))
    server.read(frame(0x88, b"\x0f\xa0bye"))
    closed = {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}
    assert server.taken[1:] == [("a", 1), (b"b" * 200, 200), (closed, 0)]
    assert server.transport.written == b"\x8a\x01c\x88\x05\x0f\xa0bye"


@pytest.mark.parametrize("timeout", [5, None])
def test_a_pong_has_the_payload_of_the_ping(timeout: float | None) -> None:
    server = Server(ws_ping_timeout=timeout)
    server.protocol.send_ping()
    ping = server.transport.written
    assert ping[:2] == b"\x89\x04"
    server.read(frame(0x8A, b"other"))
    assert server.protocol.ping_payload == ping[2:]
    server.read(frame(0x8A, ping[2:]))
    assert server.protocol.ping_payload is None


@pytest.mark.parametrize("ping", [frame(0x89, b"a" * 126), padded(0x88, b"", 2)])
def test_a_control_frame_that_is_too_long_is_1002(ping: bytes) -> None:
    server = Server()
    server.read(ping)
    assert server.transport.written[2:4] == b"\x03\xea"


def test_control_frames_do_not_count_as_a_part_of_a_message() -> None:
    server = Server(limit=3)
    server.read(frame(0x01, b"ab") + frame(0x89, b"ping") + frame(0x80, b"c"))
    server.read(frame(0x88, b"\x0f\xa1going"))
    closed = {"type": "websocket.disconnect", "code": 4001, "reason": "going"}
    assert server.taken[1:] == [("abc", 3), (closed, 0)]
    assert server.transport.written == b"\x8a\x04ping\x88\x07\x0f\xa1going"


@pytest.mark.parametrize("makes_progress", [True, False])
def test_a_pong_behind_a_full_inbox_is_waited_for_while_messages_are_read(
    makes_progress: bool,
) -> None:
    server = Server()
    server.take = Mock()
    server.protocol.data_received(frame(0x81, b"a") * (MAX_MESSAGES + 6))
    server.protocol.send_ping()
    written = server.transport.written
    if makes_progress:
        server.protocol.inbox.take()
    server.protocol.miss_pong()
    assert (server.transport.written == written) == makes_progress
    server.protocol.miss_pong()
    assert server.transport.written != written


def send(server: Server, event: Any) -> None:
    """Have the application send an event of ASGI."""
    with pytest.raises(StopIteration):
        server.protocol.send(event).send(None)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.http.response.start", "status": 404},
        {"type": "websocket.http.response.body"},
        {"type": "websocket.else"},
    ],
)
def test_events_out_of_turn_are_errors(event: Any) -> None:
    server = Server()
    with pytest.raises(RuntimeError, match=event["type"]):
        server.protocol.send(event).send(None)
    send(server, {"type": "websocket.close"})
    with pytest.raises(RuntimeError, match=r"websocket\.send"):
        server.protocol.send({"type": "websocket.send", "text": "late"}).send(None)


def test_an_invalid_frame_after_a_close_frame_gets_no_other() -> None:
    server = Server()
    send(server, {"type": "websocket.close"})
    closed = server.transport.written
    server.read(frame(0x83, b""))
    assert (server.transport.written, server.protocol.is_discarding) == (closed, True)
    server = Server()
    server.take = Mock()
    server.transport.close()
    server.protocol.data_received(frame(0x83, b""))
    assert server.transport.written == b""


def test_a_shutdown_closes_with_1012_or_ends_what_was_closed() -> None:
    server = Server()
    server.protocol.shutdown()
    assert (server.transport.written, server.transport.is_closed) == (b"\x88\x02\x03\xf4", False)
    server.protocol.shutdown()
    assert (server.transport.written, server.transport.is_closed) == (b"\x88\x02\x03\xf4", True)
    server = Server(is_answered=False)
    server.protocol.shutdown()
    assert server.transport.written.startswith(b"HTTP/1.1 503 ")
    server.protocol.data_received(LATE)
    assert server.transport.is_closed


@pytest.mark.anyio
async def test_an_application_that_meets_the_end_of_its_client_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(*_: object) -> None:
        raise ClientDisconnected

    server = Server()
    server.protocol.config.loaded_app = app
    await server.protocol.run_asgi({})
    assert (server.transport.is_closed, caplog.records) == (True, [])


def test_no_ping_follows_a_close_frame() -> None:
    server = Server()
    server.read(CLOSE)
    server.protocol.send_ping()
    assert server.transport.written == b"\x88\x00"


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("end", ["taken", "late", "shutdown", "close", "over", "lost"])
def test_close_frame_is_answered_when_what_came_before_it_was_taken(
    in_parts: bool, end: str
) -> None:
    server = Server()
    server.take = Mock()  # it takes nothing by itself
    server.read_frames(frame(0x81, b"a"), frame(0x88, b"\x0f\xaa") + LATE, in_parts=in_parts)
    server.read(LATE)
    protocol, transport = server.protocol, server.transport
    assert protocol.inbox.take() == ("a", 1)
    assert (transport.written, transport.is_closed) == (b"", False)
    transport.write(b"answer ")
    closed = b"\x88\x02\x0f\xaa"
    if end == "taken":
        event, _ = protocol.inbox.take() or ({}, 0)
        assert event == {"type": "websocket.disconnect", "code": 4010, "reason": ""}
    elif end == "late":
        protocol.end()  # as the timer does
    elif end == "shutdown":
        protocol.shutdown()
    elif end == "over":
        protocol.on_task_complete(Mock())
    elif end == "close":
        with pytest.raises(StopIteration):
            protocol.send({"type": "websocket.close", "code": 1000}).send(None)
        closed = b"\x88\x02\x03\xe8"
    elif end == "lost":
        transport.close()
        protocol.connection_lost(None)
        protocol.end()
        closed = b""
    assert (transport.written, transport.is_closed) == (b"answer " + closed, True)
    assert protocol.close_timer is None


def test_client_that_goes_on_after_its_close_frame_is_dropped() -> None:
    server = Server()
    server.take = Mock()  # it takes nothing
    server.read(LATE + CLOSE)
    for _ in range(5):
        server.read(b"x" * 65_536)
    assert server.transport.is_closed
    assert server.protocol.unparsed == b""


def test_an_invalid_frame_after_a_flood_is_not_answered() -> None:
    server = Server()
    ping = frame(0x89, b"")
    for _ in range(CONTROL_FRAMES_PER_SECOND):
        server.read_frames(ping, in_parts=True)
    written = server.transport.written
    server.read_frames(ping + frame(0x83, b""), in_parts=True)
    assert (server.transport.written, server.transport.is_closed) == (written, True)
    assert server.taken[1:] == []


@pytest.mark.parametrize("in_parts", [False, True])
def test_no_pong_is_kept_for_a_client_that_reads_none(in_parts: bool) -> None:
    server = Server()
    server.transport.get_write_buffer_size = lambda: HIGH_WATER
    server.read_frames(frame(0x89, b"ping"), frame(0x81, b"a"), in_parts=in_parts)
    server.transport.get_write_buffer_size = lambda: 0
    with pytest.raises(StopIteration):
        server.protocol.send({"type": "websocket.close", "code": 1000}).send(None)
    assert server.taken[1:] == [("a", 1)]
    assert server.transport.written == b"\x88\x02\x03\xe8"


@pytest.mark.anyio
async def test_sender_waits_while_the_transport_is_full() -> None:
    server = Server()
    server.protocol.pause_writing()
    sending = asyncio.create_task(server.protocol.send({"type": "websocket.send", "text": "a"}))
    await asyncio.sleep(0)
    assert server.transport.written == b""
    server.protocol.resume_writing()
    await sending
    assert server.transport.written == b"\x81\x01a"
    assert Server().protocol.writable.is_set()


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


@pytest.mark.parametrize("before", [b"", frame(0x01, b"a")], ids=["between", "in a message"])
def test_nothing_is_taken_after_too_many_pings(before: bytes) -> None:
    server = Server()
    server.read(before)
    server.read(frame(0x89, b"") * 1000 + LATE)
    assert (server.taken[1:], server.transport.is_closed) == ([], True)
    assert len(server.transport.written) < 4 * CONTROL_FRAMES_PER_SECOND


def test_nothing_is_taken_after_a_close() -> None:
    server = Server()
    with pytest.raises(StopIteration):
        server.protocol.send({"type": "websocket.close"}).send(None)
    server.take()
    server.read(LATE)
    assert [received for received in server.taken[1:] if isinstance(received[0], str)] == []


@pytest.mark.anyio
async def test_inbox_of_a_closed_connection_is_taken_and_reading_does_not_go_on() -> None:
    server = Server()
    server.transport.close()
    server.protocol.data_received(frame(0x82, b"a") * MAX_MESSAGES)
    events = [await server.protocol.receive() for _ in range(MAX_MESSAGES)]
    assert events == [{"type": "websocket.receive", "bytes": b"a"}] * MAX_MESSAGES
    assert not server.transport.is_paused


def test_application_that_takes_little_by_little_gets_all_in_order() -> None:
    server = Server()
    numbers = [str(number) for number in range(500)]
    server.protocol.data_received(b"".join(frame(0x81, each.encode()) for each in numbers))
    while len(server.protocol.inbox) or server.loop.run_due():
        if (received := server.protocol.inbox.take()) is not None:
            server.taken.append(received)
        assert len(server.protocol.inbox) <= MAX_MESSAGES
    assert [message for message, _ in server.taken[1:]] == numbers
