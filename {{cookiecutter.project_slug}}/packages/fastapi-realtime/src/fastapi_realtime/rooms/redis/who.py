"""The roster of a room as stored in Redis."""

from typing import Any, NamedTuple

from .keys import RoomKeys
from .link import Command
from .roster_scripts import WHO_SHA


class Who(NamedTuple):
    """The connections in a room, by process."""

    token: str
    """The token of the roster."""
    own: int
    """Number of connections of this process."""
    count: int
    """Number of senders."""
    processes: set[str]
    rosters: dict[str, dict[str, str]] | None
    """The sender of each connection, by process; `None` if there are too many to list."""

    def elsewhere(self, processes: set[str]) -> dict[str, str]:
        """Return the connections of all processes but these, and their senders."""
        rosters = [each for name, each in (self.rosters or {}).items() if name not in processes]
        return {connection: sender for roster in rosters for connection, sender in roster.items()}


def who_command(keys: RoomKeys, process: str, limit: int) -> Command:
    """Return the command that fetches the roster of a room, with names up to `limit`."""
    return (
        *("EVALSHA", WHO_SHA, 4),
        *(keys.head, keys.people, keys.processes, keys.here(process), limit),
    )


def read_who(answer: list[Any]) -> Who:
    """Return the roster in an answer of Redis."""
    token, own, count, processes, flat = answer
    names = [process.decode(errors="replace") for process in processes]
    is_named = len(flat) == len(names)
    rosters = dict(zip(names, map(read_hash, flat), strict=True)) if is_named else None
    return Who(token.decode(errors="replace"), own, count, {*names}, rosters)


def read_hash(flat: list[bytes]) -> dict[str, str]:
    """Return a hash as a dict; Redis sends it as a flat list."""
    texts = [each.decode(errors="replace") for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
