"""Fairness between connections that share an event loop."""

MESSAGES_PER_TURN = 64
"""Messages of one client that are processed before others get their turn."""
SECONDS_PER_TURN = 0.005
"""Seconds that these may take, in the endpoint, too, before others get their turn."""
AT_ONCE = 0.0001
"""A message that arrives within so many seconds was there already."""


class FairTurn:
    """Counts messages that one client had ready, and how long they took to process."""

    __slots__ = ("_began", "_messages")

    def __init__(self) -> None:
        self._began = 0.0
        self._messages = 0

    def is_over(self, asked: float, received: float) -> bool:
        """Return whether others must get their turn before a message is processed.

        It was asked for and received at these monotonic times, in seconds. Where it had to be
        waited for, others had their turn meanwhile.
        """
        if received - asked >= AT_ONCE or not self._messages:
            self._messages, self._began = 0, received
        elif self._messages >= MESSAGES_PER_TURN or received - self._began > SECONDS_PER_TURN:
            self._messages = 0  # the next one begins a turn
            return True
        self._messages += 1
        return False
