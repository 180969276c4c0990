"""Parsing of frames from clients (RFC 6455 §5.2)."""

from websockets.exceptions import ProtocolError

from ..close_codes import CloseCode
from .websockets_internals import Close, apply_mask

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
