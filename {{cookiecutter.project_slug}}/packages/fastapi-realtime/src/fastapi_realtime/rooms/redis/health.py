"""Whether Redis can be used, and one line in the log whenever that changes."""

import logging
import time

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""Seconds between two lines about messages that were refused for the same reason."""


class Health:
    """What fails now, of the things that are done with Redis."""

    def __init__(self, *parts: str) -> None:
        """Nothing works until it is known to."""
        self._failing = dict.fromkeys(parts, "")
        self._is_reported = False
        self._refused_at: dict[str, float] = {}

    @property
    def is_good(self) -> bool:
        """Whether everything works."""
        return not self._failing

    def works(self, part: str) -> None:
        """Note that something works."""
        self._failing.pop(part, None)
        if self._is_reported and not self._failing:
            self._is_reported = False
            logger.info("Redis is available again")

    def fails(self, part: str, reason: str) -> None:
        """Note that something fails."""
        self._failing[part] = reason
        if not self._is_reported:
            self._is_reported = True
            logger.warning("Redis is not available", extra={"reason": reason})

    def is_working(self, part: str) -> bool:
        """Return whether something has worked since it failed last."""
        return part not in self._failing

    def refuses(self, reason: str) -> None:
        """Note that Redis has refused a message; each reason is logged once a minute."""
        now = time.monotonic()
        if now - self._refused_at.get(reason, -REFUSED_SECONDS) >= REFUSED_SECONDS:
            self._refused_at = {reason: now}
            logger.warning("Redis refused a message", extra={"reason": reason})
