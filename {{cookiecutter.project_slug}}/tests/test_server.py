"""Clients that wear a server down before it has anything to do with the application."""

import socket
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from {{ cookiecutter.__package_name }} import server
from {{ cookiecutter.__package_name }}.admission import Admitted
from {{ cookiecutter.__package_name }}.main import create_app
from {{ cookiecutter.__package_name }}.settings import Settings

from .conftest import raw_client, read_to_end, running, text_frame, write_until_refused

EMPTY_PING = bytes([0x89, 0x80, 0, 0, 0, 0])
EMPTY_PART = bytes([0x00, 0x80, 0, 0, 0, 0])


@pytest.fixture
def url() -> Iterator[str]:
    """Where an application is served by the protocols that the command uses."""
    app: FastAPI = create_app(Settings())

    @app.websocket("/all")
    async def everything(connection: Admitted) -> None:
        async for message in connection:
            await connection.send(message)

    with running(app, http=server.Http, ws=server.WebSocket) as url:
        yield url


def dial(url: str) -> socket.socket:
    """Connect, and say nothing yet."""
    host, _, port = url.removeprefix("ws://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /all HTTP/1.1\r\nHost: x\r\n", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nG"],
)
def test_half_a_handshake_is_not_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.2)
    with dial(url) as raw:
        raw.sendall(beginning)
        assert (b"200 OK" in read_to_end(raw)) == (b"livez" in beginning)


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


def test_a_flood_of_pings_is_cut_off(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with raw_client(url, "/all") as raw:
        raw.sendall(EMPTY_PING * 1000)
        read_to_end(raw)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert vars(warning)["reason"] == "too many pings"


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
