"""Whether Redis is available; logs one line whenever that changes."""

import logging
import time

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""Minimum seconds between log lines about messages rejected for the same reason."""


class Health:
    """Keeps track of which parts of the broker are failing."""

    def __init__(self, *parts: str) -> None:
        """All parts count as failing until they report that they work."""
        self._failing = dict.fromkeys(parts, "")
        self._is_reported = False
        self._refused_at: dict[str, float] = {}

    @property
    def is_good(self) -> bool:
        """Whether everything works."""
        return not self._failing

    def works(self, part: str) -> None:
        """Record that a part works."""
        self._failing.pop(part, None)
        if self._is_reported and not self._failing:
            self._is_reported = False
            logger.info("Redis is available again")

    def fails(self, part: str, reason: str) -> None:
        """Record that a part fails."""
        self._failing[part] = reason
        if not self._is_reported:
            self._is_reported = True
            logger.warning("Redis is not available", extra={"reason": reason})

    def is_working(self, part: str) -> bool:
        """Return whether a part has worked since its last failure."""
        return part not in self._failing

    def refuses(self, reason: str) -> None:
        """Log that Redis has rejected a message; the same reason at most once a minute."""
        now = time.monotonic()
        if now - self._refused_at.get(reason, -REFUSED_SECONDS) >= REFUSED_SECONDS:
            self._refused_at = {reason: now}
            logger.warning("Redis refused a message", extra={"reason": reason})
