"""What the engine relies on in `websockets`: see `server/websockets_internals.py`.

A new release that changes it makes one of these fail. `test_uvicorn.py` has what uvicorn's
protocol does with the same library.
"""

import pytest
from fastapi_realtime.server.websockets_internals import (
    OPEN,
    Close,
    Frame,
    Opcode,
    Request,
    ServerProtocol,
    apply_mask,
)
from websockets.exceptions import ProtocolError


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


def test_a_parser_made_open_reads_frames_and_answers_pings() -> None:
    parser = ServerProtocol(state=OPEN, max_size=1000)
    parser.receive_data(b"\x89\x80\x00\x00\x00\x00" + b"\x81\x82\x00\x00\x00\x00Hi")
    ping, text = parser.events_received()
    assert isinstance(ping, Frame)
    assert isinstance(text, Frame)
    assert (ping.opcode, text.opcode, bytes(text.data)) == (Opcode.PING, Opcode.TEXT, b"Hi")
    assert parser.data_to_send() == [b"\x8a\x00"]
    assert parser.state is OPEN
    assert parser.parser_exc is None
    assert parser.close_sent is None
    assert not parser.eof_sent


def test_a_parser_without_a_handshake_takes_one() -> None:
    parser = ServerProtocol()
    parser.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    (request,) = parser.events_received()
    assert isinstance(request, Request)
    assert parser.handshake_exc is None
