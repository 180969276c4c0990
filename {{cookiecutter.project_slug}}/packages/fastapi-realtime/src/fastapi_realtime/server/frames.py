"""Frames of WebSocket, as the client sends them (RFC 6455 §5.2)."""

from websockets.exceptions import ProtocolError

from .websockets_internals import Close, apply_mask

TEXT, BINARY = 0x81, 0x82
"""The first byte of a message in one frame, without reserved bits."""
CLOSE, PING, PONG = 0x88, 0x89, 0x8A
"""The first byte of a control frame."""
MASKED = 0x80
LONGEST = 125
"""Bytes of a message whose length stands in the second byte."""


def frame_size(data: bytes | bytearray, start: int) -> int | None:
    """Return the size of the client's frame that begins there.

    It is `None` where there is no complete header, but for the mask.
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


def read_message(
    data: bytes | bytearray, start: int, limit: int
) -> tuple[str | bytes, int, int] | None:
    """Return the message that begins there, its size, and where what follows begins.

    It is `None` for all but a text or binary message of up to `limit` and 65,535 bytes in one
    frame that is whole, masked, and valid: whatever else it may be is the parser's business.
    """
    if start + 6 > len(data) or data[start + 1] < MASKED or not TEXT <= data[start] <= BINARY:
        return None
    size, mask = data[start + 1] - MASKED, start + 2
    if size > LONGEST:
        if size != 126 or start + 8 > len(data):
            return None
        size, mask = data[mask] << 8 | data[mask + 1], mask + 2
        if size <= LONGEST:
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
    """Return the control frame that begins there: its first byte, payload, and what follows.

    It is `None` for all but one that is whole, masked, and valid, like `read_message`.
    """
    if start + 6 > len(data) or not CLOSE <= data[start] <= PONG:
        return None
    first, size = data[start], data[start + 1] - MASKED
    end = start + 6 + size
    if not 0 <= size <= LONGEST or end > len(data):
        return None
    payload = apply_mask(data[start + 6 : end], data[start + 2 : start + 6])
    return (first, payload, end) if first != CLOSE or is_close(payload) else None


def is_close(payload: bytes) -> bool:
    """Tell whether this is a code and a reason that a client may close with."""
    try:
        Close.parse(payload)
    except (ProtocolError, UnicodeDecodeError):
        return False
    return True


def control_frame(first: int, payload: bytes) -> bytes:
    """Return a control frame of the server."""
    return bytes((first, len(payload))) + payload
