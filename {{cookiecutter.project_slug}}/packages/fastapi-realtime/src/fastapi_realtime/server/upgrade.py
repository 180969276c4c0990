"""WebSocket handshakes (RFC 6455 §4.2) that the HTTP protocol has parsed, and their responses."""

import re
from base64 import b64encode
from collections.abc import Iterable
from email.utils import formatdate
from hashlib import sha1
from http import HTTPStatus
from http.client import responses
from typing import NamedTuple

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
    """Return a response that an application gives instead of the handshake."""
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


def refusal(status: HTTPStatus, reason: str) -> bytes:
    """Return a complete response with `Connection: close`."""
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(reason)}\r\n\r\n{reason}".encode()
