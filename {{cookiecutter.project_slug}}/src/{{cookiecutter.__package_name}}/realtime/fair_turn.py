"""Fairness between connections that share an event loop."""

import asyncio

MESSAGES_PER_TURN = 64
"""Messages of one client that are processed before others get their turn."""
SECONDS_PER_TURN = 0.005
"""Seconds that these may take, in the endpoint, too, before others get their turn."""
AT_ONCE = 0.0001
"""A message that arrives within so many seconds was there already."""

LONG_MESSAGE_BYTES = 8192
"""Longer messages of all clients wait for each other; decoding one can take milliseconds."""


class LongMessages:
    """Lets one long message into each turn of the event loop, whichever client it is from."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def wait_turn(self) -> None:
        """Wait until a long message may be processed."""
        async with self._lock:
            await asyncio.sleep(0)


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
