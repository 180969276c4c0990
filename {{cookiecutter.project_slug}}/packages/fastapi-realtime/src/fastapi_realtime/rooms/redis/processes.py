"""Liveness of the processes that use the same Redis."""

import asyncio
import math
from typing import Any

from .keys import Keys
from .link import Command
from .roster_scripts import BEAT_SHA

PROCESS_SECONDS = 8
"""Seconds without a heartbeat after which a process is removed from the list."""
MISSING_SECONDS = 2.0
"""Seconds that a process must be missing before it counts as dead; a new one may not be listed."""
GRACE_SECONDS = 13.0
"""Seconds after an outage of Redis in which no process counts as dead."""


class Processes:
    """The running processes. Without heartbeats, a process is dead: others remove its members.

    That takes `PROCESS_SECONDS` plus `MISSING_SECONDS`, after an outage `GRACE_SECONDS` at least.
    """

    def __init__(self, own: str, keys: Keys) -> None:
        """`own` is the name of this process."""
        self.own = own
        self._key = keys.processes
        self._running = {own}
        self._missing: dict[str, float] = {}  # loop time of when it was found missing
        self._trusted_at = math.inf  # loop time from which the list is complete

    def heartbeat_command(self) -> Command:
        """Return the heartbeat of this process."""
        return "EVALSHA", BEAT_SHA, 1, self._key, self.own, PROCESS_SECONDS, 6 * PROCESS_SECONDS

    def handle_heartbeat(self, answer: list[Any]) -> None:
        """Handle its answer. If Redis had lost this process, it may have lost others, too."""
        is_new, running = answer
        if is_new or self._trusted_at == math.inf:
            self._trusted_at = asyncio.get_running_loop().time() + GRACE_SECONDS
        self._running = {process.decode() for process in running}
        for process in self._running:
            self._missing.pop(process, None)

    def note_outage(self) -> None:
        """Record an outage of Redis: until it is over, no process counts as dead."""
        self._trusted_at = math.inf

    def dead(self, processes: set[str]) -> set[str]:
        """Return which of these processes are dead."""
        missing = processes - self._running
        if not missing:
            return missing
        now = asyncio.get_running_loop().time()
        if now < self._trusted_at:
            return set()
        limit = now - MISSING_SECONDS
        return {each for each in missing if self._missing.setdefault(each, now) <= limit}
