"""Commands as Redis reads them (RESP).

redis-py packs any command, but that takes longer than all the rest of reading thousands of rooms.
"""

from collections.abc import Sequence


def pack_text(text: bytes) -> bytes:
    """Return one word of a command."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def pack_read(
    count: int, milliseconds: int, logs: Sequence[bytes], offsets: Sequence[int]
) -> bytes:
    """Return an `XREAD` of so many entries of each log after an offset; `logs` are packed.

    It waits for so many milliseconds, or not at all.
    """
    words = [b"XREAD", b"COUNT", b"%d" % count]
    if milliseconds:
        words += [b"BLOCK", b"%d" % milliseconds]
    words.append(b"STREAMS")
    positions = [pack_text(b"%d-0" % offset) for offset in offsets]
    length = b"*%d\r\n" % (len(words) + 2 * len(logs))
    return b"".join([length, *map(pack_text, words), *logs, *positions])
