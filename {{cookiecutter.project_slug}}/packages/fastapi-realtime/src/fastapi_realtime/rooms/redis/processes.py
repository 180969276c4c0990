"""The processes that use the same Redis, and which of them run."""

import asyncio
import math
from typing import Any

from .keys import Keys
from .link import Command
from .roster_scripts import BEAT_SHA

PROCESS_SECONDS = 8
"""Seconds without a sign of a process after which Redis forgets it."""
MISSING_SECONDS = 2.0
"""Seconds for which a process must be missing: one that has just started isn't known yet."""
GRACE_SECONDS = 13.0
"""Seconds that others get to return after Redis was away."""


class Processes:
    """Which processes run. Each says so every second, or its members are taken out of rooms.

    That takes `PROCESS_SECONDS` and `MISSING_SECONDS`, or `GRACE_SECONDS` after Redis was away.
    """

    def __init__(self, own: str, keys: Keys) -> None:
        """`own` names this process among them."""
        self.own = own
        self._key = keys.processes
        self._running = {own}
        self._missing: dict[str, float] = {}  # since when
        self._trusted_at = math.inf

    def beat(self) -> Command:
        """Return the command that says that this process runs."""
        return "EVALSHA", BEAT_SHA, 1, self._key, self.own, PROCESS_SECONDS, 6 * PROCESS_SECONDS

    def take_beat(self, answer: list[Any]) -> None:
        """Take its answer. Where Redis had forgotten this process, it may have forgotten others."""
        is_new, running = answer
        if is_new or self._trusted_at == math.inf:
            self._trusted_at = asyncio.get_running_loop().time() + GRACE_SECONDS
        self._running = {process.decode() for process in running}
        for process in self._running:
            self._missing.pop(process, None)

    def doubt(self) -> None:
        """Take nobody for dead now, since Redis is away."""
        self._trusted_at = math.inf

    def dead(self, processes: set[str]) -> set[str]:
        """Return those of some processes that have ended without leaving their rooms."""
        missing = processes - self._running
        if not missing:
            return missing
        now = asyncio.get_running_loop().time()
        if now < self._trusted_at:
            return set()
        limit = now - MISSING_SECONDS
        return {each for each in missing if self._missing.setdefault(each, now) <= limit}
