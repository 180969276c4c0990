"""Limits on messages, joins and connections, and fair turns between connections."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException

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
        # Also where it is nan: no time has passed at an infinite rate.
        if not allowance < self._burst:
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


MAX_KEYS = 10_000
"""Keys that are remembered."""


class KeyedLimiter:
    """A token bucket for each key: `burst` at once, and `rate` a second in the long run."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str, cost: int = 1) -> bool:
        """Count something for a key, and return whether it is within the limit."""
        now = self._clock()
        allowance, since = self._buckets.pop(key, (self._burst, now))
        allowance = min(self._burst, allowance + (now - since) * self._rate)
        if len(self._buckets) >= MAX_KEYS:
            self._buckets.popitem(last=False)  # the one that has been away for the longest time
        price = min(cost, self._burst)  # a higher cost takes the whole burst
        is_within = allowance >= price
        self._buckets[key] = allowance - price if is_within else allowance, now
        return is_within


class ConnectionLimiter:
    """Counts the connections of this process."""

    def __init__(self, limit: int, limit_per_network: int) -> None:
        self._limit = limit
        self._limit_per_network = limit_per_network
        self._count = 0
        self._by_network: Counter[str] = Counter()

    def acquire(self, host: str) -> None:
        """Count a connection, or raise 503 if there are too many, 429 if from its network."""
        network = network_of(host)
        if self._count >= self._limit:
            raise HTTPException(503, "too many connections; see APP_MAX_CONNECTIONS")
        if self._by_network.get(network, 0) >= self._limit_per_network:
            detail = "too many connections from this address; see APP_MAX_CONNECTIONS_PER_IP"
            raise HTTPException(429, detail)
        self._count += 1
        self._by_network[network] += 1

    def release(self, host: str) -> None:
        """Count the end of a connection."""
        network = network_of(host)
        self._count -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def __len__(self) -> int:
        return self._count


@lru_cache(4096)
def network_of(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 /64, which one customer has."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


MESSAGES_PER_TURN = 64
"""Messages of one client that are processed before others get their turn."""
SECONDS_PER_TURN = 0.005
"""Seconds that these may take, in the endpoint, too, before others get their turn."""

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

    def begin(self) -> None:
        """Begin a turn: the next message had to be waited for, and others had theirs meanwhile."""
        self._messages = 0

    def is_over(self, now: float) -> bool:
        """Return whether others must get their turn before a message is processed.

        `now` is the monotonic time in seconds.
        """
        if not self._messages:
            self._began = now
        elif self._messages >= MESSAGES_PER_TURN or now - self._began > SECONDS_PER_TURN:
            self._messages = 0  # the next one begins a turn
            return True
        self._messages += 1
        return False
