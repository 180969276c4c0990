"""This process's copy of the roster of a room."""

import asyncio
from collections.abc import Collection

from .who import Who


class View:
    """The connections in a room: those of this process, and those of other processes."""

    __slots__ = ("elsewhere", "here", "known", "next_at", "processes", "token")

    def __init__(self) -> None:
        self.here: dict[str, str] = {}
        """The sender of each connection of this process."""
        self.elsewhere: dict[str, str] | None = None
        """The same for other processes; `None` if not fetched yet, or too many to list."""
        self.processes: set[str] = set()
        """The other processes with members."""
        self.token = ""
        """The token of the roster when it was last fetched."""
        self.known = asyncio.Event()
        """Set once the roster was fetched."""
        self.next_at = 0.0
        """Earliest loop time of the next fetch; large rosters are fetched less often."""

    def is_wrong(self, who: Who, process: str, untold: Collection[str]) -> bool:
        """Return whether Redis has the wrong connections for this process.

        Connections in `untold` are ignored: their changes are not sent yet.
        """
        if who.rosters is None:
            is_listed = process in who.processes or not self.here
            return not untold and not (is_listed and who.own == len(self.here))
        there = {pair for pair in who.rosters.get(process, {}).items() if pair[0] not in untold}
        return there != {pair for pair in self.here.items() if pair[0] not in untold}

    def take_elsewhere(self, now: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Replace the connections of other processes; return those that have left and joined."""
        before, self.elsewhere = self.elsewhere or {}, now
        gone = {each: sender for each, sender in before.items() if each not in now}
        return gone, {each: sender for each, sender in now.items() if each not in before}
