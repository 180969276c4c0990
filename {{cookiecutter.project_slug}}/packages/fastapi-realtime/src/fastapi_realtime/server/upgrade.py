"""The handshake of a WebSocket (RFC 6455 §4.2), from a head that HTTP's parser has read."""

import re
from base64 import b64encode
from hashlib import sha1
from typing import NamedTuple

MAX_HEADERS, MAX_BYTES = 100, 8000
"""Less than what `websockets` allows: 128 headers, and 8 KiB a line."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
TOKENS = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+(, ?[-!#$%&'*+.^_`|~0-9a-zA-Z]+)*")
TARGET = re.compile(rb"[\x21-\x7e]+")
NAMES = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-z]+")
VALUES = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

EXPECTED = (
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
COMMON = {name: name for name in BROWSERS.split()}
"""Names of headers; all connections share these instead of keeping copies."""

Headers = list[tuple[bytes, bytes]]


class Handshake(NamedTuple):
    """What a client asks for, and the value of `Sec-WebSocket-Accept` that answers its key."""

    target: str
    headers: Headers
    subprotocols: list[str]
    accept: bytes


def read_handshake(method: str, target: bytes, headers: Headers) -> Handshake | None:
    """Return a handshake as clients send it; names of headers are in lower case.

    It is `None` for all that is unusual, like a header that is there twice: whether that is valid
    is the business of `websockets`, which parses the head once more.
    """
    headers = [(COMMON.get(name, name), value.strip(b" \t")) for name, value in headers]
    found = dict(headers)
    key, offered = found.get(b"sec-websocket-key", b""), found.get(b"sec-websocket-protocol")
    if method != "GET" or not is_usual(target, headers, found) or not KEY.fullmatch(key):
        return None
    if offered is not None and not TOKENS.fullmatch(offered):
        return None
    subprotocols = [name.strip() for name in offered.decode().split(",")] if offered else []
    accept = b64encode(sha1(key + GUID, usedforsecurity=False).digest())
    return Handshake(target.decode(), headers, subprotocols, accept)


def is_usual(target: bytes, headers: Headers, found: dict[bytes, bytes]) -> bool:
    """Tell whether each header is there once, is valid and short, and announces no body."""
    if len(found) != len(headers) or len(found) > MAX_HEADERS or not WITH_BODY.isdisjoint(found):
        return False
    for name, values in EXPECTED:
        if found.get(name, b"").lower() not in values:
            return False
    names, values = b"".join(found), b"".join(found.values())
    if len(target) + len(names) + len(values) > MAX_BYTES or not TARGET.fullmatch(target):
        return False
    return NAMES.fullmatch(names) is not None and VALUES.fullmatch(values) is not None


def answer(accept: bytes, headers: Headers) -> bytes:
    """Return the response that opens the connection."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept,
        *[name + b": " + value for name, value in headers],
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"
