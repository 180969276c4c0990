"""Joins and leaves that are still to be stored in Redis."""

from dataclasses import dataclass, field

from .keys import Keys
from .link import Command
from .roster_scripts import CHANGE_SHA
from .scripts import EMPTY_SECONDS, KEEP_SECONDS, new_epoch

MAX_MOVES = 1000
"""Length of the stream of changed rooms; a process that reads more slowly misses some."""


@dataclass(slots=True)
class Change:
    """Connections of one process that have joined or left a room."""

    room: str
    process: str
    connections: dict[str, str | None] = field(default_factory=dict)
    """The sender of each connection that has joined; `None` for one that has left."""
    is_reset: bool = False
    """Whether all other connections of the process have left."""
    not_before: float = 0.0
    """Earliest loop time for the next attempt, after a failed one."""
    token: str = field(default_factory=new_epoch)
    """The version of the room's roster after this change."""

    @property
    def key(self) -> tuple[str, str]:
        """Room and process; changes with the same key can be merged."""
        return self.room, self.process

    def commands(self, all_keys: Keys) -> tuple[Command, Command]:
        """Return the commands that store this and notify other processes; safe to repeat."""
        keys = all_keys.room(self.room)
        pairs = [
            text
            for connection, sender in self.connections.items()
            for text in (connection, "-" if sender is None else f"+{sender}")
        ]
        note = (
            *("EVALSHA", CHANGE_SHA, 4, keys.head, keys.people, keys.processes),
            *(keys.here(self.process), self.process, self.token, KEEP_SECONDS, EMPTY_SECONDS),
            *(int(self.is_reset), *pairs),
        )
        limit = ("MAXLEN", "~", MAX_MOVES)
        return note, ("XADD", all_keys.moves, *limit, "*", "room", self.room, "roster", self.token)

    def then(self, later: "Change | None") -> "Change":
        """Return this change merged with a later one of the same process and room."""
        if later is None or later.is_reset:
            return later or self
        self.connections.update(later.connections)
        self.token = later.token  # Redis may have stored this change with its own token
        return self
