"""Reads the messages that a returning member has missed from the log of a room."""

from typing import Any

from ..history import Replay
from .commands import Commands
from .keys import RoomKeys
from .messages import LogEntry, read_entry


async def read_history(commands: Commands, keys: RoomKeys, since: str, length: int) -> Replay:
    """Return the messages after a position; if some are lost, the last `length` messages.

    Raises `BrokerUnavailable`.
    """
    epoch, _, text = since.partition("-")
    seen = int(text) if text.isdecimal() and len(text) < 20 else -1
    if seen >= 0:
        now, offset, entries = await read_log(commands, keys, f"{seen + 1}-0", length)
        if now == epoch and 0 <= offset - seen <= len(entries):
            return make_replay(now, offset, entries, is_complete=True)
    now, offset, entries = await read_log(commands, keys, "-", length)
    return make_replay(now, offset, entries, is_complete=False)


async def read_log(
    commands: Commands, keys: RoomKeys, first: str, length: int
) -> tuple[str, int, list[LogEntry]]:
    """Return epoch and offset of a room, and up to `length` messages from an id on, atomically."""
    answers: list[Any] = await commands.run(
        ("MULTI",),
        ("HMGET", keys.head, "epoch", "offset"),
        ("XREVRANGE", keys.log, "+", first, "COUNT", length),
        ("EXEC",),
    )
    (epoch, offset), raw = answers[-1]
    entries = [entry for each in reversed(raw or ()) if (entry := read_entry(each))]
    return (epoch or b"").decode(), int(offset or 0), entries


def make_replay(epoch: str, offset: int, entries: list[LogEntry], *, is_complete: bool) -> Replay:
    """Return a replay of these messages."""
    frames = [entry.frame for entry in entries]
    return Replay(frames, offset if frames else 0, is_complete, f"{epoch}-{offset}")
