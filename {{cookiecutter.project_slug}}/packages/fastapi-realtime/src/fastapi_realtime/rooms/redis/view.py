"""What a process knows of the members of a room."""

import asyncio
from collections.abc import Collection

from .who import Who


class View:
    """The members of a room that has some here: those here, and those elsewhere."""

    __slots__ = ("elsewhere", "here", "known", "next_at", "processes", "token")

    def __init__(self) -> None:
        self.here: dict[str, str] = {}
        """The sender of each connection of this process."""
        self.elsewhere: dict[str, str] | None = None
        """The same of other processes; `None` while it is not known, or they are too many."""
        self.processes: set[str] = set()
        """The other processes that have members."""
        self.token = ""
        """What the roster was called in Redis when it was read last."""
        self.known = asyncio.Event()
        """Set once it was read."""
        self.next_at = 0.0
        """When it may be read again: a large one is counted now and then."""

    def is_wrong(self, who: Who, process: str, untold: Collection[str]) -> bool:
        """Return whether Redis has other connections of this process than there are.

        Those that are `untold`, since they have just changed, are left out.
        """
        if who.rosters is None:
            is_listed = process in who.processes or not self.here
            return not untold and not (is_listed and who.own == len(self.here))
        there = {pair for pair in who.rosters.get(process, {}).items() if pair[0] not in untold}
        return there != {pair for pair in self.here.items() if pair[0] not in untold}

    def take_elsewhere(self, now: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Take who is elsewhere, and return who has left and who has joined since."""
        before, self.elsewhere = self.elsewhere or {}, now
        gone = {each: sender for each, sender in before.items() if each not in now}
        return gone, {each: sender for each, sender in now.items() if each not in before}
