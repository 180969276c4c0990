"""What the engine relies on in `websockets`: see `server/uvicorn_internals.py`.

A new release that changes it makes one of these fail.
"""

import pytest
from fastapi_realtime.server.uvicorn_internals import (
    Close,
    Request,
    ServerProtocol,
    apply_mask,
)
from websockets.exceptions import ProtocolError

from .serving import handshake


def test_a_mask_is_applied_to_bytes_and_slices() -> None:
    assert apply_mask(b"Hello", bytes([1, 2, 3, 4])) == bytes(
        letter ^ key for letter, key in zip(b"Hello", [1, 2, 3, 4, 1], strict=True)
    )
    assert apply_mask(bytearray(b"ab")[:1], bytearray(4)) == b"a"


def test_close_frames_are_parsed_and_written() -> None:
    close = Close.parse(b"\x03\xe8bye")
    assert (close.code, close.reason) == (1000, "bye")
    assert Close.parse(b"").code == 1005
    assert Close(1009, "too big").serialize() == b"\x03\xf1too big"
    for invalid in (b"\x03", b"\x03\xed", b"\x00\x00"):
        with pytest.raises(ProtocolError):
            Close.parse(invalid)
    with pytest.raises(UnicodeDecodeError):
        Close.parse(b"\x03\xe8\xff")


def test_a_handshake_is_parsed_and_answered() -> None:
    parser = ServerProtocol()
    parser.receive_data(handshake("/a?b"))
    (request,) = parser.events_received()
    assert isinstance(request, Request)
    assert request.path == "/a?b"
    assert ("Host", "x") in request.headers.raw_items()
    assert request.headers.get_all("Upgrade") == ["websocket"]
    response = parser.accept(request)
    assert (response.status_code, len(response.headers["Sec-WebSocket-Accept"])) == (101, 28)
    parser.parser.close()


def test_a_request_that_is_no_handshake_is_refused() -> None:
    parser = ServerProtocol()
    parser.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    (request,) = parser.events_received()
    assert isinstance(request, Request)
    response = parser.accept(request)
    assert response.status_code == 426
    parser.send_response(response)
    assert b"".join(parser.data_to_send()).startswith(b"HTTP/1.1 426 ")
