"""Clients that could exhaust a server without ever reaching the application."""

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack

import fastapi_realtime.server.fast_path as inbox
import fastapi_realtime.server.http_protocol as http_protocol
import fastapi_realtime.server.websocket_protocol as websocket_protocol
import fastapi_realtime.server.write_deadline as write_deadline
import pytest
from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from fastapi_realtime import Admitted

from .serving import (
    dial,
    echo_app,
    handshake,
    no_errors_logged,
    raw_client,
    read_to_end,
    running,
    text_frame,
    warning,
    write_until_refused,
)

EMPTY_PING = bytes([0x89, 0x80, 0, 0, 0, 0])
EMPTY_FRAGMENT = bytes([0x00, 0x80, 0, 0, 0, 0])
EMPTY_LAST_FRAGMENT = bytes([0x80, 0x80, 0, 0, 0, 0])
EMPTY_CLOSE = bytes([0x88, 0x80, 0, 0, 0, 0])
CLOSE_4010 = bytes([0x88, 0x82, 0, 0, 0, 0]) + (4010).to_bytes(2, "big")


@pytest.fixture
def app() -> FastAPI:
    """An application that sends back what it gets, closes at once, or returns a page."""
    app = echo_app()

    @app.get("/page")
    async def page() -> str:
        return "a page"

    @app.websocket("/brief")
    async def brief(connection: Admitted) -> None:
        pass

    return app


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """The URL where it is served, by the protocols that the command uses."""
    with no_errors_logged(), running(app) as url:
        yield url


@pytest.mark.parametrize("beginning", [b"", b"GET /all HTTP/1.1\r\nHost: x\r\n"])
def test_incomplete_handshake_is_dropped_after_a_timeout(
    url: str, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HANDSHAKE_SECONDS", 0.1)
    with dial(url) as raw:
        raw.sendall(beginning)
        assert read_to_end(raw) == b""


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ("", b"\r\n"),
        ("", b"G"),
        ("Content-Length: 50\r\n", b"."),
    ],
    ids=["a line break", "half a request", "half a body"],
)
def test_incomplete_request_after_an_answer_is_dropped_after_a_timeout(
    url: str, monkeypatch: pytest.MonkeyPatch, head: str, more: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HANDSHAKE_SECONDS", 0.1)
    with dial(url) as raw:
        raw.sendall(f"GET /page HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 200 ")
        raw.sendall(more)
        read_to_end(raw)


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/all", "Content-Length: 5\r\n", b"400"),
        ("/all", "Transfer-Encoding: chunked\r\n", b"400"),
        ("/all", "X: x\r\n" * 200, b"431"),
        (f"/all?{'x' * 9000}", "", b"414"),
        ("/all", "Sec-WebSocket-Version: 8\r\n", b"400"),
    ],
)
def test_request_that_is_no_handshake_is_refused_at_once(
    url: str, caplog: pytest.LogCaptureFixture, path: str, more: str, status: bytes
) -> None:
    with dial(url) as raw:
        raw.sendall(handshake(path, more))
        assert read_to_end(raw).startswith(b"HTTP/1.1 " + status)
    logged = warning(caplog)
    assert (logged["reason"], logged["status"]) == ("not a WebSocket handshake", int(status))


def test_silent_clients_do_not_count_as_connections() -> None:
    with (
        running(echo_app(max_connections=10)) as url,
        ExitStack() as silent,
    ):
        for _ in range(100):
            silent.enter_context(dial(url))
        with raw_client(url, "/all") as raw:
            raw.sendall(text_frame(b"hello"))
            assert raw.recv(100) == b"\x81\x05hello"


def test_endless_head_is_refused(url: str) -> None:
    with dial(url) as raw:
        raw.sendall(b"GET /page HTTP/1.1\r\n")
        write_until_refused(raw, b"x" * 1000 + b": y\r\n")


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 1000, b"a: " + b"b" * 10_000])
def test_endless_trailers_are_refused(
    url: str, caplog: pytest.LogCaptureFixture, trailer: bytes
) -> None:
    with dial(url) as raw:
        raw.sendall(b"POST /page HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        assert raw.recv(12) == b"HTTP/1.1 405"
        write_until_refused(raw, trailer)
    assert warning(caplog)["reason"] == "too much after the body"


def test_trailers_of_a_request_are_not_its_headers(app: FastAPI, url: str) -> None:
    @app.post("/headers")
    async def headers(request: Request) -> list[str]:
        await request.body()
        return request.headers.keys()

    with dial(url) as raw:
        head = b"POST /headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head + b"1\r\na\r\n0\r\nauthorization: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"]"):
            answer += (more := raw.recv(1000))
            assert more
        assert b"authorization" not in answer


def test_body_in_small_chunks_is_refused(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with dial(url) as raw:
        raw.sendall(b"POST /page HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 405"
        write_until_refused(raw, b"1\r\na\r\n" * 1000)
    assert warning(caplog)["reason"] == "too many small chunks"


def test_connection_can_be_used_for_several_requests(url: str) -> None:
    with dial(url) as raw:
        for _ in range(3):
            raw.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b'"a page"'):
                answer += raw.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_pings_are_answered(url: str) -> None:
    with raw_client(url, "/all") as raw:
        for _ in range(3):
            raw.sendall(EMPTY_PING)
            assert raw.recv(100) == b"\x8a\x00"


@pytest.mark.parametrize("first", [0x89, 0x8A], ids=["pings", "pongs"])
def test_client_that_sends_too_many_pings_or_pongs_is_dropped(
    url: str, caplog: pytest.LogCaptureFixture, first: int
) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([first, 0x80, 0, 0, 0, 0]) * 1000)
        read_to_end(raw)
    assert warning(caplog)["reason"] == "too many pings or pongs"


def test_unsolicited_pong_is_ignored(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x8A, 0x80, 0, 0, 0, 0]) + text_frame(b"hello"))
        assert raw.recv(100) == b"\x81\x05hello"


def test_client_that_goes_on_sending_after_the_close_is_dropped(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_protocol, "DISCARD_SECONDS", 0.2)
    with raw_client(url, "/brief") as raw:
        write_until_refused(raw, text_frame(b"") * 1000)


@pytest.mark.parametrize("behind", [b"", CLOSE_4010, b"\x83\x80\x00\x00\x00\x00"])
def test_invalid_utf8_closes_with_1007_whatever_comes_behind_it(
    url: str, caplog: pytest.LogCaptureFixture, behind: bytes
) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(text_frame(b"a") + text_frame(b"\xff") + text_frame(b"b") + behind)
        answer = read_to_end(raw)
    assert answer.endswith(b"\x88\x0f\x03\xefinvalid UTF-8")
    assert b"b" not in answer.removesuffix(b"invalid UTF-8")
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("kind", [0x81, 0x01])
def test_messages_before_a_close_frame_are_answered(url: str, kind: int) -> None:
    last = text_frame(b"last")[1:]
    rest = b"" if kind == 0x81 else EMPTY_LAST_FRAGMENT  # which needs uvicorn's parser
    with raw_client(url, "/all") as raw:
        raw.sendall(text_frame(b"a") * 30 + bytes([kind]) + last + rest + CLOSE_4010)
        assert read_to_end(raw) == 30 * b"\x81\x01a" + b"\x81\x04last\x88\x02\x0f\xaa"


def test_client_that_answers_no_ping_is_dropped_with_its_data_unread(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()

    @app.websocket("/some")
    async def some(connection: Admitted) -> None:
        await connection.send(b"x" * 60_000)
        async for _ in connection:
            pass
        ended.set()

    pings = {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}
    with (
        running(app, **pings) as url,
        raw_client(url, "/some"),
    ):
        assert ended.wait(10)
    assert (warning(caplog)["message"], warning(caplog)["code"]) == ("closed", 1011)


def test_fragmented_message_arrives_whole(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x01, 0x81, 0, 0, 0, 0]) + b"a" + EMPTY_FRAGMENT * 1000)
        raw.sendall(bytes([0x80, 0x81, 0, 0, 0, 0]) + b"b")
        assert raw.recv(100) == b"\x81\x02ab"


def test_message_of_endless_fragments_closes_with_1009(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x01, 0x80, 0, 0, 0, 0]) + EMPTY_FRAGMENT * 3000)
        raw.shutdown(socket.SHUT_WR)
        assert read_to_end(raw)[:4] == b"\x88\x14" + (1009).to_bytes(2, "big")


def test_large_message_may_have_more_fragments() -> None:
    rest = bytes([0x80 | 64]) + bytes(4) + b"x" * 64
    with running(echo_app(max_message_bytes=2**20)) as url, raw_client(url, "/all") as raw:
        raw.sendall(b"\x02" + rest + (b"\x00" + rest) * (2**14 - 2) + b"\x80" + rest)
        assert raw.recv(10) == b"\x82\x7f" + (2**20).to_bytes(8, "big")


GET = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"\r\nConnection: close\r\n\r\n"


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set when a server's connection has ended."""
    event = threading.Event()

    def report(ended: Callable[..., None]) -> Callable[..., None]:
        def connection_lost(self: asyncio.Protocol, exc: Exception | None) -> None:
            ended(self, exc)
            event.set()

        return connection_lost

    for each in (http_protocol.LimitedHttpProtocol, websocket_protocol.LimitedWebSocketProtocol):
        monkeypatch.setattr(each, "connection_lost", report(each.connection_lost))
    return event


def reset(raw: socket.socket) -> None:
    """Reset the connection."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("request_line", ["GET /page", "POST /page", "POST /nowhere", "GET /all"])
def test_a_body_behind_an_answer_is_not_read_without_end(
    url: str, caplog: pytest.LogCaptureFixture, framing: str, request_line: str
) -> None:
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
    part = b"x" * 65_536
    chunk = b"10000\r\n" + part + b"\r\n" if "chunked" in framing else part
    with dial(url) as raw:
        raw.sendall(head)
        assert raw.recv(12).startswith(b"HTTP/1.1 ")
        write_until_refused(raw, chunk)
    assert "too long a body" in str(warning(caplog)["reason"])


def test_a_connection_goes_on_after_a_body_that_was_not_used(url: str) -> None:
    body = b"x" * 200_000
    head = f"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    last = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with dial(url) as raw:
        raw.sendall(2 * (head + body) + last)
        answers = read_to_end(raw)
    assert answers.count(b"HTTP/1.1 404 ") == 2
    assert answers.endswith(b'"a page"')


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    with dial(url) as raw:
        raw.sendall(GET + GET.replace(b"page", b"nothing") + GET.replace(b"\r\n\r\n", CLOSE))
        answers = read_to_end(raw)
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_too_many_pipelined_requests_end_the_connection(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0
    check = http_protocol.LimitedHttpProtocol.check_head

    def count(self: http_protocol.LimitedHttpProtocol) -> None:
        nonlocal parsed
        parsed += 1
        check(self)

    monkeypatch.setattr(http_protocol.LimitedHttpProtocol, "check_head", count)
    with dial(url) as raw:
        write_until_refused(raw, GET * 1000)
    logged = warning(caplog)
    assert logged["message"] == "dropped"
    assert logged["reason"] == "too many pipelined requests"
    assert parsed < 1000


@pytest.mark.parametrize(
    "request_head",
    [
        GET.replace(b"page", b"large"),
        GET.replace(b"page", b"small") * 3,
        GET.replace(b"page", b"small").replace(b"\r\n\r\n", CLOSE),
        handshake("/refused"),
    ],
    ids=["large", "pipelined", "closing", "refused handshake"],
)
def test_client_that_reads_no_answer_is_dropped(
    app: FastAPI,
    url: str,
    lost: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request_head: bytes,
) -> None:
    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * 2**20)

    @app.get("/small")
    async def small() -> Response:
        return Response(b"x" * 50_000)

    @app.websocket("/refused")
    async def refused(websocket: WebSocket) -> None:
        raise HTTPException(403, "x" * 50_000)

    monkeypatch.setattr(write_deadline, "WRITE_SECONDS", 0.1)
    with dial(url) as raw:
        raw.sendall(request_head)
        assert lost.wait(30)
    reasons = [vars(each).get("reason") for each in caplog.records if each.msg == "dropped"]
    assert reasons == ["it stopped reading"]


def test_client_that_leaves_with_answers_unread_causes_no_traceback(
    app: FastAPI, url: str, lost: threading.Event
) -> None:
    begun = threading.Event()

    @app.post("/large")
    async def large(size: int) -> Response:
        begun.set()
        return Response(b"x" * size)

    with dial(url) as raw:
        raw.sendall(b"POST /large?size=9000000 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        raw.sendall(GET * 5)
        assert begun.wait(10)
        reset(raw)
        assert lost.wait(10)
    with dial(url) as raw:
        raw.sendall(GET)
        assert raw.recv(12) == b"HTTP/1.1 200"


def test_streaming_answer_ends_when_its_client_leaves(app: FastAPI, url: str) -> None:
    ended = threading.Event()

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        return StreamingResponse(chunks())

    with dial(url) as raw:
        raw.sendall(GET.replace(b"page", b"endless") + GET * 2)
        assert raw.recv(12) == b"HTTP/1.1 200"
        reset(raw)
        assert ended.wait(10)


def test_large_answer_that_is_read_arrives_whole(app: FastAPI, url: str) -> None:
    @app.get("/large")
    async def large() -> Response:
        return Response(b"x" * 2**20)

    with dial(url) as raw:
        raw.sendall(GET.replace(b"page", b"large").replace(b"\r\n\r\n", CLOSE))
        assert read_to_end(raw).endswith(b"\r\n\r\n" + b"x" * 2**20)


class Reader(asyncio.Transport):
    """A transport whose client reads a byte between two checks, until it stops."""

    def __init__(self, unread: int, stops_at: int) -> None:
        super().__init__({"socket": socket.socket()})
        self.unread = unread
        self.stops_at = stops_at

    def get_write_buffer_size(self) -> int:
        return self.unread


@pytest.mark.anyio
async def test_slow_reader_is_not_dropped_until_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_deadline, "WRITE_SECONDS", 0.01)
    reader = Reader(unread=200, stops_at=100)
    dropped = asyncio.Event()
    deadline = write_deadline.WriteDeadline(reader, dropped.set)

    def read(transport: Reader) -> int:
        transport.unread = max(transport.unread - 1, transport.stops_at)
        return transport.unread

    monkeypatch.setattr(write_deadline, "unread_bytes", read)
    deadline.start()
    deadline.start()
    await dropped.wait()
    assert reader.unread == 100
    reader.get_extra_info("socket").close()


def test_many_small_frames_are_parsed_in_turns_and_in_order(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = [0]
    protocol = websocket_protocol.LimitedWebSocketProtocol
    parse_frames, handle_frame = protocol.parse_frames, protocol.handle_frame

    def parse(self: websocket_protocol.LimitedWebSocketProtocol) -> bool:
        parsed.append(0)
        return parse_frames(self)

    def handle(
        self: websocket_protocol.LimitedWebSocketProtocol, first: int, payload: bytes
    ) -> None:
        parsed[-1] += 1
        handle_frame(self, first, payload)

    monkeypatch.setattr(protocol, "parse_frames", parse)
    monkeypatch.setattr(protocol, "handle_frame", handle)
    fragments = [bytes([0x01, 0x84, 0, 0, 0, 0]) + b"%04d" % number for number in range(1000)]
    with raw_client(url, "/all") as raw:
        raw.sendall(b"".join(fragment + EMPTY_LAST_FRAGMENT for fragment in fragments))
        received = receive(raw, 6000)
    assert received == b"".join(b"\x81\x04%04d" % number for number in range(1000))
    assert sum(parsed) == 2000
    assert max(parsed) <= websocket_protocol.FRAMES_PER_TURN


@pytest.mark.parametrize("size", [0, 1, 126, 1000, 70_000])
def test_frame_may_be_split_anywhere(size: int) -> None:
    frame = masked(b"x" * size)
    expected = unmasked(b"x" * size)
    with (
        running(echo_app(max_message_bytes=100_000)) as url,
        raw_client(url, "/all") as raw,
    ):
        for cut in {1, 2, 3, 4, 5, 6, 10, len(frame) // 2, len(frame) - 1}:
            raw.sendall(masked(b"") + frame[:cut])
            assert receive(raw, 2) == unmasked(b"")  # so the first part has come
            raw.sendall(frame[cut:])
            assert receive(raw, len(expected)) == expected


def receive(raw: socket.socket, size: int) -> bytes:
    """Return as many bytes from the server."""
    received = b""
    while len(received) < size:
        received += raw.recv(size - len(received))
    return received


def masked(payload: bytes) -> bytes:
    """Return a binary message of a client."""
    head = unmasked(payload)[: -len(payload) or None]
    return bytes([0x82, 0x80 | head[1]]) + head[2:] + bytes(4) + payload


def unmasked(payload: bytes) -> bytes:
    """Return a binary message of the server."""
    if len(payload) < 126:
        return bytes([0x82, len(payload)]) + payload
    if len(payload) < 65_536:
        return bytes([0x82, 126]) + len(payload).to_bytes(2, "big") + payload
    return bytes([0x82, 127]) + len(payload).to_bytes(8, "big") + payload


def test_no_more_frames_are_parsed_while_messages_wait(app: FastAPI, url: str) -> None:
    @app.websocket("/slow")
    async def slow(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        for _ in range(1000):
            await asyncio.sleep(0)
        protocol = websocket.scope["transport"].get_protocol()
        await websocket.send_text(str(len(protocol.inbox)))

    with raw_client(url, "/slow") as raw:
        raw.sendall(text_frame(b"") * 3000)
        frame = raw.recv(10)
    assert int(frame[2 : 2 + frame[1]]) == inbox.MAX_MESSAGES - 1


def test_messages_before_an_invalid_frame_arrive_and_none_after_it(app: FastAPI, url: str) -> None:
    received = []
    ended = threading.Event()

    @app.websocket("/listen")
    async def listen(connection: Admitted) -> None:
        async for message in connection:
            received.append(message)
        ended.set()

    with raw_client(url, "/listen") as raw:
        raw.sendall(text_frame(b"before") + b"\x83\x80\0\0\0\0" + text_frame(b"after"))
        assert read_to_end(raw)[2:4] == (1002).to_bytes(2, "big")
        assert ended.wait(10)
    assert received == ["before"]


def test_messages_before_the_connection_is_lost_arrive(
    app: FastAPI, url: str, lost: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_protocol, "FRAMES_PER_TURN", 1)
    received: list[str] = []
    first = threading.Event()
    ended = threading.Event()

    @app.websocket("/listen")
    async def listen(websocket: WebSocket) -> None:
        await websocket.accept()
        received.append(await websocket.receive_text())
        first.set()
        transport = websocket.scope["transport"]
        while not transport.is_closing():
            transport.write(b"\x89\0")  # writing finds out that nobody is there
            await asyncio.sleep(0.01)
        await asyncio.to_thread(lost.wait, 10)
        while (event := await websocket.receive())["type"] == "websocket.receive":
            received.append(event["text"])
        ended.set()

    with raw_client(url, "/listen") as raw:
        raw.sendall(b"".join(text_frame(str(number).encode()) for number in range(5)))
        assert first.wait(10)
        reset(raw)
        assert ended.wait(10)
    assert received == ["0", "1", "2", "3", "4"]


def test_close_frame_behind_unread_messages_is_found(
    app: FastAPI, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = threading.Event()
    monkeypatch.setattr(
        websocket_protocol.LimitedWebSocketProtocol, "handle_close", lambda *_: found.set()
    )

    @app.websocket("/first")
    async def first(connection: Admitted) -> None:
        async for _ in connection:
            return

    with raw_client(url, "/first") as raw:
        raw.sendall(text_frame(b"") * 1000 + bytes([0x88, 0x82, 0, 0, 0, 0]) + b"\x03\xe8")
        assert found.wait(5)


def test_frames_in_the_same_packet_as_the_handshake_are_read(url: str) -> None:
    with dial(url) as raw:
        raw.sendall(handshake("/all") + text_frame(b"hello"))
        received = b""
        while not received.endswith(b"hello"):
            received += raw.recv(1000)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert received.endswith(b"\r\n\r\n\x81\x05hello")


@pytest.fixture
def gate(app: FastAPI) -> threading.Event:
    """An event that `/slow` waits for before it accepts, and `/closed` before it refuses."""
    event = threading.Event()

    @app.websocket("/slow")
    async def slow(websocket: WebSocket) -> None:
        await asyncio.to_thread(event.wait, 10)
        await websocket.accept()
        await websocket.receive()

    @app.websocket("/closed")
    async def closed(websocket: WebSocket) -> None:
        await asyncio.to_thread(event.wait, 10)
        raise HTTPException(403)

    return event


def test_frames_wait_until_the_handshake_is_answered(url: str, gate: threading.Event) -> None:
    with dial(url) as raw:
        raw.sendall(handshake("/slow") + EMPTY_PING)
        raw.sendall(b"\x83\x80\0\0\0\0")
        gate.set()
        received = read_to_end(raw)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert received.partition(b"\r\n\r\n")[2][:6] == b"\x8a\0\x88\x10\x03\xea"


def test_frames_before_a_refusal_are_ignored(url: str, gate: threading.Event) -> None:
    with dial(url) as raw:
        raw.sendall(handshake("/closed") + EMPTY_PING)
        gate.set()
        received = read_to_end(raw)
    assert received.startswith(b"HTTP/1.1 403 ")
    assert received.endswith(b"}")


@pytest.mark.parametrize("early", [b"", EMPTY_PING])
def test_client_that_leaves_before_the_handshake_is_answered_is_noticed(
    url: str,
    gate: threading.Event,
    lost: threading.Event,
    early: bytes,
) -> None:
    with dial(url) as raw:
        raw.sendall(handshake("/slow") + early)
    gate.set()
    assert lost.wait(10)


@pytest.mark.parametrize(
    ("right", "wrong", "status"),
    [
        (b"HTTP/1.1", b"HTTP/1.0", b"505"),
        (b"HTTP/1.1", b"HTTP/2.0", b"505"),
        (b"HTTP/1.1", b"HTTP/0.9", b"505"),
        (b"Host: x\r\n", b"", b"400"),
        (b"Host: x\r\n", b"Host: x\r\nhost: y\r\n", b"400"),
    ],
)
def test_handshake_must_have_http_1_1_and_one_host(
    url: str, caplog: pytest.LogCaptureFixture, right: bytes, wrong: bytes, status: bytes
) -> None:
    with dial(url) as raw:
        raw.sendall(handshake("/all").replace(right, wrong))
        assert read_to_end(raw)[:12] == b"HTTP/1.1 " + status
    logged = warning(caplog)
    assert logged["message"] == "refused"
    assert logged["status"] == int(status)
    assert logged["client"].startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /page HTTP/1.0", b"200"),
        (b"GET /page HTTP/1.1\r\nHost: x", b"200"),
        (b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c", b"200"),
        (b"GET /page HTTP/1.1", b"400"),
        (b"GET /page HTTP/1.1\r\nHost: x\r\nHost: x", b"400"),
        (b"GET /page HTTP/1.0\r\nHost: x\r\nHost: x", b"400"),
        (b"GET /page HTTP/2.0\r\nHost: x", b"505"),
        (b"no request", b"400"),
    ],
)
def test_request_must_have_a_known_version_and_one_host(
    url: str, caplog: pytest.LogCaptureFixture, head: bytes, status: bytes
) -> None:
    with dial(url) as raw:
        raw.sendall(head + b"\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 " + status
    refusals = [vars(each).get("status") for each in caplog.records if each.msg == "refused"]
    assert refusals == ([] if status == b"200" else [int(status)])


UPGRADES = {
    "none": b"",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: %d\r\n\r\n" % len(GET), GET),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET)),
        (b"\r\n", b""),
    ],
    ids=["length", "chunked", "no body"],
)
@pytest.mark.parametrize("are_together", [True, False])
def test_request_has_its_body_also_where_an_upgrade_is_ignored(
    app: FastAPI, url: str, upgrade: bytes, framing: bytes, body: bytes, are_together: bool
) -> None:
    has_come = threading.Event()

    @app.post("/body")
    async def read_body(request: Request) -> int:
        has_come.set()
        return len(await request.body())

    head = b"POST /body HTTP/1.1\r\nHost: x\r\n" + upgrade + framing
    with dial(url) as raw:
        raw.sendall(head + body + GET if are_together else head)
        if not are_together:
            assert has_come.wait(10)
            raw.sendall(body + GET)
        answers = b""
        while b"a page" not in answers:
            assert (received := raw.recv(4096))
            answers += received
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\n%d" % (len(GET) if body else 0) in answers


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_unknown_transfer_encoding_ends_the_connection(url: str, upgrade: bytes) -> None:
    with dial(url) as raw:
        encoding = b"Transfer-Encoding: gzip\r\n\r\n"
        raw.sendall(b"POST /page HTTP/1.1\r\nHost: x\r\n" + upgrade + encoding + GET)
        assert b"200 OK" not in read_to_end(raw)


def test_requests_with_ignored_upgrades_are_as_limited_as_others(url: str) -> None:
    request = b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with dial(url) as raw:
        raw.sendall(request * 3000)
        assert read_to_end(raw) == b""


def test_handshake_behind_an_unanswered_request_is_dropped(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with dial(url) as raw:
        raw.sendall(GET + handshake("/all"))
        assert read_to_end(raw) == b""
    assert warning(caplog)["reason"] == "handshake before an answer"


def test_head_that_is_too_long_or_too_slow_is_logged(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dial(url) as raw:
        write_until_refused(raw, b"GET /page HTTP/1.1\r\nx: " + b"x" * 200_000)
    assert warning(caplog)["reason"] == "request head too long"
    caplog.clear()
    monkeypatch.setattr(http_protocol, "HANDSHAKE_SECONDS", 0.1)
    with dial(url) as raw:
        raw.sendall(b"GET ")
        read_to_end(raw)
    assert warning(caplog)["reason"] == "no complete request in time"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x83\x80\0\0\0\0", 1002),
        (text_frame(b"\xff"), 1007),
        (b"\x82\xff" + (2**40).to_bytes(8, "big"), 1009),
        (bytes([0x01, 0x80, 0, 0, 0, 0]) + EMPTY_FRAGMENT * 1100, 1009),
    ],
)
def test_close_by_the_server_itself_is_logged_once(
    url: str, caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        read_to_end(raw)
    logged = warning(caplog)
    assert (logged["message"], logged["code"]) == ("closed", code)
    assert logged["reason"]
    assert logged["connection"]


@pytest.mark.parametrize(
    ("last", "code"),
    [(b"", 1006), (EMPTY_CLOSE, 1005), (CLOSE_4010, 4010)],
    ids=["none", "without code", "with code"],
)
@pytest.mark.parametrize("linger", [None, 0], ids=["fin", "rst"])
def test_only_a_client_without_close_frame_has_vanished(
    url: str, caplog: pytest.LogCaptureFixture, last: bytes, code: int, linger: int | None
) -> None:
    caplog.set_level(logging.INFO)
    with raw_client(url, "/all") as raw:
        raw.sendall(text_frame(b"hello"))
        assert raw.recv(7, socket.MSG_WAITALL) == b"\x81\x05hello"
        raw.sendall(last)
        assert not last or raw.recv(1) == b"\x88"
        if linger is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    while not (ends := [vars(each) for each in caplog.records if each.message == "disconnected"]):
        time.sleep(0.01)
    assert [end["code"] for end in ends] == [code]
