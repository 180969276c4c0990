"""What RFC 6455 puts on the wire: handshakes with their responses, and frames."""

import re
from base64 import b64encode
from collections.abc import Iterable
from email.utils import formatdate
from hashlib import sha1
from http.client import responses
from typing import NamedTuple

from websockets.exceptions import ProtocolError

from ..errors import CloseCode
from .uvicorn_internals import Close, apply_mask

MAX_HEADERS, MAX_BYTES = 100, 8000
"""Below the limits of `websockets`: 128 headers, 8 KiB per line."""

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
TOKENS = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+(, ?[-!#$%&'*+.^_`|~0-9a-zA-Z]+)*")
TARGET = re.compile(rb"[\x21-\x7e]+")
NAMES = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-z]+")
VALUES = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

REQUIRED = (
    (b"connection", {b"upgrade", b"keep-alive, upgrade"}),
    (b"upgrade", {b"websocket"}),
    (b"sec-websocket-version", {b"13"}),
)
WITH_BODY = {b"content-length", b"transfer-encoding"}

BROWSERS = b"""
    host connection upgrade origin cookie user-agent pragma cache-control accept-encoding
    accept-language sec-websocket-key sec-websocket-version sec-websocket-protocol
    sec-websocket-extensions authorization x-forwarded-for x-forwarded-proto
"""
COMMON_NAMES = {name: name for name in BROWSERS.split()}
"""Common header names, shared by all connections to save memory."""

Headers = list[tuple[bytes, bytes]]

TEXT, BINARY = 0x81, 0x82
"""First byte of an unfragmented message, without reserved bits."""
CLOSE, PING, PONG = 0x88, 0x89, 0x8A
"""First byte of a control frame."""
FIN, RESERVED, CONTROL, OPCODE = 0x80, 0x70, 0x08, 0x0F
"""Bits of the first byte."""
OPCODES = frozenset((0, 1, 2, 8, 9, 10))
MASKED = 0x80
MAX_SHORT = 125
"""Longest payload whose length fits into the second byte; control frames must not be longer."""


class Handshake(NamedTuple):
    """A valid handshake, and the value of `Sec-WebSocket-Accept` for its response."""

    target: str
    headers: Headers
    subprotocols: list[str]
    accept: bytes


def read_handshake(method: str, target: bytes, headers: Headers) -> Handshake | None:
    """Return a valid handshake; header names must be in lower case.

    `None` for anything unusual, such as a repeated header: leave that to `websockets`, which
    parses the head again and validates it.
    """
    headers = [(COMMON_NAMES.get(name, name), value.strip(b" \t")) for name, value in headers]
    found = dict(headers)
    key, offered = found.get(b"sec-websocket-key", b""), found.get(b"sec-websocket-protocol")
    if method != "GET" or not has_common_headers(target, headers, found) or not KEY.fullmatch(key):
        return None
    if offered is not None and not TOKENS.fullmatch(offered):
        return None
    subprotocols = [name.strip() for name in offered.decode().split(",")] if offered else []
    accept = b64encode(sha1(key + GUID, usedforsecurity=False).digest())
    return Handshake(target.decode(), headers, subprotocols, accept)


def has_common_headers(target: bytes, headers: Headers, found: dict[bytes, bytes]) -> bool:
    """Return whether all headers are valid, short and not repeated, and none announces a body."""
    if len(found) != len(headers) or len(found) > MAX_HEADERS or not WITH_BODY.isdisjoint(found):
        return False
    for name, values in REQUIRED:
        if found.get(name, b"").lower() not in values:
            return False
    names, values = b"".join(found), b"".join(found.values())
    if len(target) + len(names) + len(values) > MAX_BYTES or not TARGET.fullmatch(target):
        return False
    return NAMES.fullmatch(names) is not None and VALUES.fullmatch(values) is not None


def answer(accept: bytes, headers: Headers) -> bytes:
    """Return the response with status 101."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *[name + b": " + value for name, value in headers],
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def denial(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
    """Return a response that closes the connection, such as one instead of the handshake."""
    known = {name.lower() for name, _ in headers}
    defaults = {
        b"date": formatdate(usegmt=True).encode(),
        b"connection": b"close",
        b"content-length": b"%d" % len(body),
        b"content-type": b"text/plain; charset=utf-8",
    }
    missing = [(name, value) for name, value in defaults.items() if name not in known]
    lines = [
        b"HTTP/1.1 %d %s" % (status, responses.get(status, "").encode()),
        *[name + b": " + value for name, value in (*headers, *missing)],
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class InvalidFrame(Exception):
    """Raised for a frame after which the connection is closed with this code and reason."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        self.code, self.reason = code, reason


def read_message(
    data: bytes | bytearray, start: int, limit: int
) -> tuple[str | bytes, int, int] | None:
    """Return the message at `start`, its size in bytes, and the position after it.

    `None` unless it is a complete, valid, unfragmented message of up to `limit` and 65,535 bytes;
    `read_frame` reads anything else.
    """
    if start + 6 > len(data) or data[start + 1] < MASKED or not TEXT <= data[start] <= BINARY:
        return None
    size, mask = data[start + 1] - MASKED, start + 2
    if size > MAX_SHORT:
        if size != 126 or start + 8 > len(data):
            return None
        size, mask = data[mask] << 8 | data[mask + 1], mask + 2
        if size <= MAX_SHORT:
            return None
    end = mask + 4 + size
    if end > len(data) or size > limit:
        return None
    message = apply_mask(data[mask + 4 : end], data[mask : mask + 4])
    if data[start] == BINARY:
        return message, size, end
    try:
        return message.decode(), size, end
    except UnicodeDecodeError:
        return None


def read_frame(data: bytes | bytearray, start: int, limit: int) -> tuple[int, bytes, int] | None:
    """Return the first byte and the payload of the frame at `start`, and the position after it.

    `None` if it is incomplete. Raises `InvalidFrame` as soon as its header is invalid, or says
    that it has more than `limit` bytes.
    """
    if start + 2 > len(data):
        return None
    first, size, payload = data[start], data[start + 1] - MASKED, start + 6
    check_header(first, size)
    if size > MAX_SHORT:
        shorter = MAX_SHORT if size == 126 else 65_535
        payload += 2 if size == 126 else 8
        if payload - 4 > len(data):
            return None
        size = int.from_bytes(data[start + 2 : payload - 4], "big")
        if size <= shorter:
            raise InvalidFrame(CloseCode.PROTOCOL_ERROR, "the length of a frame is not minimal")
    if size > limit and not first & CONTROL:
        problem = f"frame with {size} bytes exceeds limit of {limit} bytes"
        raise InvalidFrame(CloseCode.MESSAGE_TOO_BIG, problem)
    end = payload + size
    if end > len(data):
        return None
    return first, apply_mask(data[payload:end], data[payload - 4 : payload]), end


def check_header(first: int, size: int) -> None:
    """Raise `InvalidFrame` for an invalid first byte or, without the mask's bit, second byte."""
    if first & RESERVED:
        raise InvalidFrame(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
    if first & OPCODE not in OPCODES:
        raise InvalidFrame(CloseCode.PROTOCOL_ERROR, "invalid opcode")
    if size < 0:
        raise InvalidFrame(CloseCode.PROTOCOL_ERROR, "incorrect masking")
    if first & CONTROL and (size > MAX_SHORT or first < FIN):
        problem = "control frame too long" if size > MAX_SHORT else "fragmented control frame"
        raise InvalidFrame(CloseCode.PROTOCOL_ERROR, problem)


def read_close(payload: bytes) -> Close:
    """Return the code and the reason of a close frame (§7.4); raises `InvalidFrame`."""
    try:
        return Close.parse(payload)
    except ProtocolError as error:
        raise InvalidFrame(CloseCode.PROTOCOL_ERROR, str(error)) from None
    except UnicodeDecodeError:
        raise InvalidFrame(CloseCode.INVALID_DATA, "invalid UTF-8") from None


def control_frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked control frame."""
    return bytes((first, len(payload))) + payload


def wire_size(message: str | bytes) -> int:
    """Return the size of a message's payload in bytes."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())


def server_frame(message: str | bytes, *, is_text: bool = False) -> bytes:
    """Return a message as one unmasked frame (RFC 6455 §5.2).

    `bytes` are a binary message, or with `is_text` an encoded text message.

    The frame is not compressed, which is valid even with permessage-deflate (RFC 7692 §6).
    """
    if isinstance(message, str):
        first, payload = 0x81, message.encode()
    else:
        first, payload = 0x81 if is_text else 0x82, message
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65_536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def frame_message(frame: bytes) -> str | bytes:
    """Return the message of a frame made by `server_frame`."""
    payload = frame[{126: 4, 127: 10}.get(frame[1], 2) :]
    return payload.decode() if frame[0] == 0x81 else payload
