"""Fast parsing of common frames from clients (RFC 6455 §5.2)."""

from websockets.exceptions import ProtocolError

from .websockets_internals import Close, apply_mask

TEXT, BINARY = 0x81, 0x82
"""First byte of an unfragmented message, without reserved bits."""
CLOSE, PING, PONG = 0x88, 0x89, 0x8A
"""First byte of a control frame."""
MASKED = 0x80
MAX_SHORT = 125
"""Longest payload whose length fits into the second byte; control frames must not be longer."""


def frame_size(data: bytes | bytearray, start: int) -> int | None:
    """Return the size of the client's frame at `start`.

    `None` if the header is incomplete; the mask may be missing.
    """
    if start + 1 >= len(data):
        return None
    length = data[start + 1] & 0x7F
    if length < 126:
        return 6 + length
    width = 2 if length == 126 else 8
    if start + 2 + width > len(data):
        return None
    return 6 + width + int.from_bytes(data[start + 2 : start + 2 + width], "big")


def has_minimal_length(data: bytes | bytearray, start: int) -> bool:
    """Return whether a complete header uses as few bytes for its length as it can (§5.2)."""
    length = data[start + 1] & 0x7F
    if length == 126:
        return data[start + 2] > 0 or data[start + 3] > MAX_SHORT
    return length < 126 or any(data[start + 2 : start + 8])


def read_message(
    data: bytes | bytearray, start: int, limit: int
) -> tuple[str | bytes, int, int] | None:
    """Return the message at `start`, its size in bytes, and the position after it.

    `None` unless it is a complete, valid, unfragmented message of up to `limit` and 65,535 bytes;
    leave anything else to the parser of `websockets`.
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


def read_control(data: bytes | bytearray, start: int) -> tuple[int, bytes, int] | None:
    """Return the control frame at `start`: its first byte, payload, and the position after it.

    `None` unless it is complete and valid; leave anything else to the parser.
    """
    if start + 6 > len(data) or not CLOSE <= data[start] <= PONG:
        return None
    first, size = data[start], data[start + 1] - MASKED
    end = start + 6 + size
    if not 0 <= size <= MAX_SHORT or end > len(data):
        return None
    payload = apply_mask(data[start + 6 : end], data[start + 2 : start + 6])
    return (first, payload, end) if first != CLOSE or is_close(payload) else None


def is_close(payload: bytes) -> bool:
    """Return whether this is a valid payload of a close frame (RFC 6455 §7.4)."""
    try:
        Close.parse(payload)
    except (ProtocolError, UnicodeDecodeError):
        return False
    return True


def control_frame(first: int, payload: bytes) -> bytes:
    """Return an unmasked control frame."""
    return bytes((first, len(payload))) + payload


def wire_size(message: str | bytes) -> int:
    """Return the size of a message's payload in bytes."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())
