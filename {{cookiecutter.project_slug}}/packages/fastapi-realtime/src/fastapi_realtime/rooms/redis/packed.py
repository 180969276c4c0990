"""Packed commands (RESP). redis-py's own packing is too slow for `XREAD` of thousands of rooms."""

from collections.abc import Sequence


def pack_text(text: bytes) -> bytes:
    """Return a bulk string."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def pack_read(
    count: int, milliseconds: int, logs: Sequence[bytes], offsets: Sequence[int]
) -> bytes:
    """Return an `XREAD` of up to `count` entries after the offset of each log; `logs` are packed.

    It blocks for some milliseconds; with 0, it does not block.
    """
    words = [b"XREAD", b"COUNT", b"%d" % count]
    if milliseconds:
        words += [b"BLOCK", b"%d" % milliseconds]
    words.append(b"STREAMS")
    positions = [pack_text(b"%d-0" % offset) for offset in offsets]
    length = b"*%d\r\n" % (len(words) + 2 * len(logs))
    return b"".join([length, *map(pack_text, words), *logs, *positions])
