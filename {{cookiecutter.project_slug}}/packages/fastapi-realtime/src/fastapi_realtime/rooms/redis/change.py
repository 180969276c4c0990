"""Who has joined or left a room, on the way to Redis."""

from dataclasses import dataclass, field

from .keys import Keys
from .link import Command
from .roster_scripts import CHANGE_SHA
from .scripts import EMPTY_SECONDS, KEEP_SECONDS, new_epoch

MAX_MOVES = 1000
"""Rooms of whose changes a process is told that reads slowly."""


@dataclass(slots=True)
class Change:
    """Connections of one process that have joined or left a room."""

    room: str
    process: str
    connections: dict[str, str | None] = field(default_factory=dict)
    """The sender of each that has joined; `None` for one that has left."""
    is_reset: bool = False
    """Whether all others that the process had there have left."""
    not_before: float = 0.0
    """When Redis may be told, by the time of the event loop; it has refused this before."""
    token: str = field(default_factory=new_epoch)
    """What the roster of the room is called after the change."""

    @property
    def key(self) -> tuple[str, str]:
        """Room and process: what a later change must have in common with this one."""
        return self.room, self.process

    def commands(self, all_keys: Keys) -> tuple[Command, Command]:
        """Return the commands that note this, also if it is noted already, and tell of it."""
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
        """Return this and a later change of the same process and room as one."""
        if later is None or later.is_reset:
            return later or self
        self.connections.update(later.connections)
        self.token = later.token  # Redis may have noted this one, and know its token already
        return self
