"""A limit on the messages of one client."""

COUNTED_BYTES = 8192
"""A message counts once more for each of these, so that a burst has fewer of the long ones."""


class RateLimiter:
    """A token bucket: `burst` messages at once, and `rate` a second in the long run.

    Refused messages count, too: a client that sends as many of those as a burst is flooding.
    """

    __slots__ = ("_allowance", "_burst", "_rate", "_updated_at")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        """`now` is a monotonic time in seconds, as for `allow`."""
        self._rate = rate
        self._burst = burst
        self._allowance: float = burst
        self._updated_at = now

    def allow(self, now: float, size: int = 0) -> bool:
        """Count a message of `size` bytes, and return whether it is within the limit."""
        allowance = self._allowance + (now - self._updated_at) * self._rate
        if not allowance < self._burst:  # also where it is nan: no time has passed at an infinite rate
            allowance = self._burst
        # A long message counts as several, but the longest one always fits.
        cost = 1 if size < COUNTED_BYTES else min(1 + size // COUNTED_BYTES, self._burst)
        self._updated_at = now
        self._allowance = allowance - cost
        return self._allowance >= 0

    @property
    def is_flooded(self) -> bool:
        """Whether a burst of messages has been refused."""
        return self._allowance < -self._burst
