"""Clients that wear a server down before it has anything to do with the application."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from {{ cookiecutter.__package_name }} import http_protocol, websocket_protocol
from {{ cookiecutter.__package_name }}.admission import Admitted

from .conftest import (
    dial,
    echo_app,
    handshake,
    raw_client,
    read_to_end,
    running,
    text_frame,
    warning,
    write_until_refused,
)

PROTOCOLS: dict[str, Any] = {
    "http": http_protocol.LimitedHttpProtocol,
    "ws": websocket_protocol.LimitedWebSocketProtocol,
}
EMPTY_PING = bytes([0x89, 0x80, 0, 0, 0, 0])
EMPTY_PART = bytes([0x00, 0x80, 0, 0, 0, 0])


@pytest.fixture
def app() -> FastAPI:
    """An application that sends back what it gets, or hangs up."""
    app = echo_app()

    @app.websocket("/brief")
    async def brief(connection: Admitted) -> None:
        pass

    return app


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """Where it is served by the protocols that the command uses."""
    with running(app, **PROTOCOLS) as url:
        yield url


@pytest.mark.parametrize("beginning", [b"", b"GET /all HTTP/1.1\r\nHost: x\r\n"])
def test_half_a_handshake_is_not_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HANDSHAKE_SECONDS", 0.2)
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
def test_a_few_bytes_after_an_answer_are_no_way_to_stay(
    url: str, monkeypatch: pytest.MonkeyPatch, head: str, more: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HANDSHAKE_SECONDS", 0.2)
    with dial(url) as raw:
        raw.sendall(f"GET /livez HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
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
def test_a_request_that_is_no_handshake_is_refused_at_once(
    url: str, caplog: pytest.LogCaptureFixture, path: str, more: str, status: bytes
) -> None:
    with dial(url) as raw:
        raw.sendall(handshake(path, more))
        assert read_to_end(raw).startswith(b"HTTP/1.1 " + status)
    assert warning(caplog)["reason"] == "not a WebSocket handshake"


def test_a_thousand_that_say_nothing_keep_nobody_out(url: str) -> None:
    silent = [dial(url) for _ in range(1000)]
    try:
        with raw_client(url, "/all") as raw:
            raw.sendall(text_frame(b"hello"))
            assert raw.recv(100) == b"\x81\x05hello"
    finally:
        for each in silent:
            each.close()


def test_a_head_without_end_is_refused(url: str) -> None:
    with dial(url) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\n")
        write_until_refused(raw, b"x" * 1000 + b": y\r\n")


def test_many_requests_may_follow_each_other(url: str) -> None:
    with dial(url) as raw:
        for _ in range(3):
            raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"alive"}'):
                answer += raw.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_pings_are_answered(url: str) -> None:
    with raw_client(url, "/all") as raw:
        for _ in range(3):
            raw.sendall(EMPTY_PING)
            assert raw.recv(100) == b"\x8a\x00"


@pytest.mark.parametrize("first", [0x89, 0x8A], ids=["pings", "pongs"])
def test_a_flood_of_pings_is_cut_off(
    url: str, caplog: pytest.LogCaptureFixture, first: int
) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([first, 0x80, 0, 0, 0, 0]) * 1000)
        read_to_end(raw)
    assert warning(caplog)["reason"] == "too many pings or pongs"


def test_a_pong_is_taken(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x8A, 0x80, 0, 0, 0, 0]) + text_frame(b"hello"))
        assert raw.recv(100) == b"\x81\x05hello"


def test_who_goes_on_talking_after_the_close_is_cut_off(url: str) -> None:
    with raw_client(url, "/brief") as raw:
        write_until_refused(raw, text_frame(b"") * 1000)


def test_text_that_is_not_utf8_before_a_close_frame_is_no_traceback(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(text_frame(b"\xff") + bytes([0x88, 0x82, 0, 0, 0, 0]) + b"\x03\xe8")
        assert read_to_end(raw) == b"\x88\x02\x03\xe8"
    assert [record for record in caplog.records if record.exc_info] == []


def test_who_answers_no_ping_is_gone_whatever_it_has_not_read(app: FastAPI) -> None:
    ended = threading.Event()

    @app.websocket("/some")
    async def some(connection: Admitted) -> None:
        await connection.send(b"x" * 60_000)
        async for _ in connection:
            pass
        ended.set()

    pings = {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}
    with (
        running(app, **PROTOCOLS | pings) as url,
        raw_client(url, "/some"),
    ):
        assert ended.wait(10)


def test_a_message_in_parts_arrives_whole(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x01, 0x81, 0, 0, 0, 0]) + b"a" + EMPTY_PART * 1000)
        raw.sendall(bytes([0x80, 0x81, 0, 0, 0, 0]) + b"b")
        assert raw.recv(100) == b"\x81\x02ab"


def test_a_message_in_endless_parts_closes_with_1009(url: str) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(bytes([0x01, 0x80, 0, 0, 0, 0]) + EMPTY_PART * 3000)
        raw.shutdown(socket.SHUT_WR)
        assert read_to_end(raw)[:4] == b"\x88\x14" + (1009).to_bytes(2, "big")
