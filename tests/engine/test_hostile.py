"""Random and invalid input, the same each time.

More examples take longer and find more:

    EXAMPLES=2000 uv run pytest tests/engine/test_hostile.py
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import fastapi_realtime as engine
import fastapi_realtime.handshake as origins
import fastapi_realtime.server.websocket_protocol as websocket_protocol
import pytest
from fastapi import FastAPI, WebSocketException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from .serving import (
    dial,
    echo_app,
    handshake,
    raw_client,
    read_to_end,
    running,
    text_frame,
    write_until_refused,
)

hostile = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=int(os.environ.get("EXAMPLES", "30")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

CHARACTERS = st.characters(min_codepoint=1, max_codepoint=0xD7FF)
"""What an environment variable may hold; all of Unicode takes a second to prepare."""

CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009}


@pytest.fixture
def served() -> Iterator[tuple[FastAPI, str]]:
    """An application that reads messages and JSON, and the URL where it is served."""
    app = echo_app(max_message_bytes=1000, message_burst=50, messages_per_second=100)

    @app.websocket("/json")
    async def parsed(connection: engine.Admitted[JsonValue, str]) -> None:
        async for _ in connection:
            await connection.send("ok")

    with running(app) as url:
        yield app, url


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Frames, of which many are invalid (RFC 6455 §5.2)."""
    payload = draw(st.binary(max_size=200) | st.just(b"x" * 1001) | st.just(b"[" * 900))
    first = draw(
        st.sampled_from([0x81, 0x82, 0x01, 0x80, 0x00, 0x88, 0x89, 0x8A]) | st.integers(0, 255)
    )
    size = draw(
        st.just(len(payload)) | st.sampled_from([0, 2**16, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
    )
    masked = draw(st.sampled_from([0x80, 0x80, 0x80, 0]))
    if size < 126:
        head = bytes([first, masked | size])
    elif size < 2**16:
        head = bytes([first, masked | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, masked | 127]) + size.to_bytes(8, "big")
    key = draw(st.binary(min_size=4, max_size=4)) if masked else b""
    return head + key + bytes(byte ^ key[i % 4] if key else byte for i, byte in enumerate(payload))


@hostile
@given(
    path=st.sampled_from(["/all", "/json"]),
    sent=st.lists(frames() | st.binary(max_size=50), max_size=8).map(b"".join),
    cuts=st.lists(st.integers(0, 2000), max_size=5),
)
def test_random_bytes_cause_no_hang_no_traceback_and_no_wrong_close_code(
    served: tuple[FastAPI, str],
    caplog: pytest.LogCaptureFixture,
    path: str,
    sent: bytes,
    cuts: list[int],
) -> None:
    app, url = served
    with raw_client(url, path) as raw:
        positions = [0, *sorted(cuts), len(sent)]
        with suppress(OSError):  # it may have closed in the middle
            for start, end in zip(positions, positions[1:], strict=False):
                raw.sendall(sent[start:end])
            raw.shutdown(socket.SHUT_WR)
        code = close_code(read_to_end(raw))
    assert code is None or code in CLOSE_CODES or 3000 <= code < 5000
    with raw_client(url, "/all") as raw:
        raw.sendall(text_frame(b"still there?"))
        assert raw.recv(100) == b"\x81\x0cstill there?"
    assert [each for each in caplog.records if each.exc_info or each.levelname == "ERROR"] == []


def close_code(received: bytes) -> int | None:
    """Return the code of the close frame among the server's frames."""
    while len(received) >= 2:
        size, start = received[1], 2
        if size == 126:
            size, start = int.from_bytes(received[2:4], "big"), 4
        if received[0] == 0x88:
            return int.from_bytes(received[2:4], "big") if size else None
        received = received[start + size :]
    return None


TOO_BIG = b"\x82\xff" + (5_000_000).to_bytes(8, "big") + bytes(4)
RESERVED_OPCODE = b"\x83\x80" + bytes(4)
UNFINISHED = b"\x82\xff" + (4_000_000).to_bytes(8, "big") + bytes(4_000_000)
MESSAGES = (b"\x82\xfe\x03\xe8" + bytes(1004)) * 5000


@pytest.mark.parametrize("size", [65_600, 300_000, 4_000_000])
@pytest.mark.parametrize(
    ("path", "code", "start", "rest"),
    [
        ("/all", 1009, TOO_BIG, bytes(5_000_000)),
        ("/all", 1007, text_frame(b"\xff"), MESSAGES),
        ("/all", 1002, RESERVED_OPCODE, MESSAGES),
        ("/read", 1008, b"", MESSAGES),
        ("/refuse", 4010, b"", MESSAGES),
        ("/refuse", 4010, text_frame(b""), UNFINISHED),
        ("/fail", 1011, b"", MESSAGES),
    ],
)
def test_close_code_reaches_a_client_that_is_still_sending(
    path: str, code: int, start: bytes, rest: bytes, size: int
) -> None:
    app = echo_app(max_message_bytes=4_000_000, message_burst=20, messages_per_second=10)

    @app.websocket("/read")
    async def read(connection: engine.Admitted) -> None:
        async for _ in connection:
            pass

    @app.websocket("/refuse")
    async def refuse(connection: engine.Admitted) -> None:
        async for _ in connection:
            raise WebSocketException(4010)

    @app.websocket("/fail")
    async def fail(connection: engine.Admitted) -> None:
        async for _ in connection:
            raise ArithmeticError

    codes = []
    with running(app) as url:
        for _ in range(20):
            with raw_client(url, path) as raw, suppress(ConnectionError):
                raw.sendall(start + rest[: size - len(start)])
                received = b""
                while close_code(received) is None and (chunk := raw.recv(1000)):
                    received += chunk
                codes.append(close_code(received))
    assert codes == [code] * 20


def test_client_that_sends_on_after_its_close_frame_costs_little(
    monkeypatch: pytest.MonkeyPatch, served: tuple[FastAPI, str]
) -> None:
    monkeypatch.setattr(websocket_protocol, "MAX_DISCARDED_BYTES", 400_000)
    monkeypatch.setattr(websocket_protocol, "DISCARD_SECONDS", 0.2)
    read = 0
    received = websocket_protocol.LimitedWebSocketProtocol.data_received

    def count(self: websocket_protocol.LimitedWebSocketProtocol, data: bytes) -> None:
        nonlocal read
        read += len(data)
        received(self, data)

    monkeypatch.setattr(websocket_protocol.LimitedWebSocketProtocol, "data_received", count)
    with raw_client(served[1], "/all") as raw:
        raw.sendall(TOO_BIG)
        write_until_refused(raw, bytes(100_000))
    assert 400_000 < read < 1_000_000


@hostile
@given(st.text(CHARACTERS) | st.text("aAzZ09.@:/[]-").map("http://".__add__))
def test_random_text_is_no_origin_or_has_one_normal_form(text: str) -> None:
    origin = origins.normal_origin(text)
    if origin is not None:
        assert origins.normal_origin(origin) == origin
        assert origins.normal_origin(text.upper()) == origin
        assert "@" not in origin
        assert origin.count("://") == 1


@hostile
@given(
    name=st.sampled_from(sorted(engine.RealtimeSettings.model_fields)),
    value=st.text(CHARACTERS),
)
def test_random_setting_works_or_is_refused_by_name(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(f"APP_{name.upper()}", value)
        try:
            engine.load_settings(engine.RealtimeSettings)
        except engine.SettingsError as error:
            message = str(error)
        else:
            return
    assert f"  APP_{name.upper()}" in message


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (b"Version: 13", b"Version: 8"),
        (b"Version: 13", b"Version: 0"),
        (b"Version: 13", b"Key1: 4 @1  46546xW%0l 1 5"),
        (b"GET", b"POST"),
    ],
)
def test_handshakes_of_other_protocols_are_refused(
    served: tuple[FastAPI, str], right: bytes, wrong: bytes
) -> None:
    with dial(served[1]) as raw:
        raw.sendall(handshake("/all").replace(right, wrong))
        assert raw.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 426", b"HTTP/1.1 405")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\xc1\x80\x00\x00\x00\x00", 1002),  # a reserved bit
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # a reserved opcode
        (b"\x80\x80\x00\x00\x00\x00", 1002),  # a continuation of nothing
        (b"\x89\xfe\x00\x7e" + bytes(130), 1002),  # a long ping
        (b"\x88\x81\x00\x00\x00\x00x", 1002),  # half a close code
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", 1002),  # a close code that must not be sent
        (b"\x81\xff" + (2**63 - 1).to_bytes(8, "big"), 1009),
        (b"\x81\xff" + (2**63).to_bytes(8, "big"), 1009),
    ],
)
def test_invalid_frames_close_with_1002_or_1009(
    served: tuple[FastAPI, str], sent: bytes, code: int
) -> None:
    with raw_client(served[1], "/all") as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        assert close_code(read_to_end(raw)) == code
