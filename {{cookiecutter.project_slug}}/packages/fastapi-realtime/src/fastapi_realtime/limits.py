"""Limits on messages, connections and joins, and the limit of open files (RLIMIT_NOFILE)."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException

resource = None  # Windows has no such limit
with suppress(ImportError):
    import resource

logger = logging.getLogger(__name__)

COUNTED_BYTES = 8192
"""A message counts once more for every so many bytes."""


class RateLimiter:
    """A token bucket: `burst` messages at once, and `rate` messages per second sustained.

    Rejected messages count, too; after more than `burst` of them, `is_flooded` is true.
    """

    __slots__ = ("_allowance", "_burst", "_rate", "_updated_at")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        """`now` is a monotonic time in seconds, here and in `allow`."""
        self._rate = rate
        self._burst = burst
        self._allowance: float = burst
        self._updated_at = now

    def allow(self, now: float, size: int = 0) -> bool:
        """Count a message of `size` bytes, and return whether it is within the limit."""
        allowance = self._allowance + (now - self._updated_at) * self._rate
        # `not <` and not `>=`: an infinite rate times no time is nan.
        if not allowance < self._burst:
            allowance = self._burst
        # A long message counts as several, but the longest one always fits.
        cost = 1 if size < COUNTED_BYTES else min(1 + size // COUNTED_BYTES, self._burst)
        self._updated_at = now
        self._allowance = allowance - cost
        return self._allowance >= 0

    @property
    def is_flooded(self) -> bool:
        """Whether more than a burst of messages has been rejected."""
        return self._allowance < -self._burst


MAX_KEYS = 10_000
"""Maximum keys to keep; the least recently used is forgotten."""


class KeyedLimiter:
    """A token bucket per key: `burst` at once, and `rate` per second sustained."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, key: str, cost: int = 1) -> bool:
        """Return whether `cost` is within the key's limit, and count it if it is."""
        price, left = min(cost, self._burst), self.left(key)  # a higher cost takes the whole burst
        is_within = left >= price
        self._keep(key, left - price if is_within else left)
        return is_within

    def left(self, key: str) -> float:
        """Return what the key has left."""
        allowance, since = self._buckets.get(key, (self._burst, 0.0))
        return min(self._burst, allowance + (self._clock() - since) * self._rate)

    def spend(self, key: str, cost: float) -> None:
        """Count `cost`, even if it is more than the key has left."""
        self._keep(key, self.left(key) - cost)

    def _keep(self, key: str, left: float) -> None:
        if self._buckets.pop(key, None) is None and len(self._buckets) >= MAX_KEYS:
            self._buckets.popitem(last=False)  # the least recently used
        self._buckets[key] = left, self._clock()


class ConnectionLimiter:
    """Limits connections of this process, in total and per network."""

    def __init__(self, limit: int, limit_per_network: int) -> None:
        self._limit = limit
        self._limit_per_network = limit_per_network
        self._count = 0
        self._by_network: Counter[str] = Counter()

    def acquire(self, host: str) -> None:
        """Count a connection; raises 503 above the limit, 429 above the limit of its network."""
        network = network_of(host)
        if self._count >= self._limit:
            raise HTTPException(503, "too many connections; see APP_MAX_CONNECTIONS")
        if self._by_network.get(network, 0) >= self._limit_per_network:
            detail = "too many connections from this address; see APP_MAX_CONNECTIONS_PER_IP"
            raise HTTPException(429, detail)
        self._count += 1
        self._by_network[network] += 1

    def release(self, host: str) -> None:
        """Stop counting a connection."""
        network = network_of(host)
        self._count -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def __len__(self) -> int:
        return self._count


@lru_cache(4096)
def network_of(host: str) -> str:
    """Return an IPv4 address as it is, an IPv6 address as its /64, which has one owner."""
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
"""Maximum messages of one client that are processed in a row."""
SECONDS_PER_TURN = 0.005
"""Maximum seconds to process them, including the endpoint's own time."""

LONG_MESSAGE_BYTES = 8192
"""Longer messages are processed one per event loop iteration: parsing can take milliseconds."""


class LongMessages:
    """Allows one long message, of any client, per iteration of the event loop."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def wait_turn(self) -> None:
        """Wait until a long message may be processed."""
        async with self._lock:
            await asyncio.sleep(0)


class FairTurn:
    """Limits how many messages of one client are processed before other tasks run."""

    __slots__ = ("_began", "_messages")

    def __init__(self) -> None:
        self._began = 0.0
        self._messages = 0

    def begin(self) -> None:
        """Begin a turn; call this before waiting for a message, since other tasks run meanwhile."""
        self._messages = 0

    def is_over(self, now: float) -> bool:
        """Count a message; return whether other tasks must run before it is processed.

        `now` is a monotonic time in seconds.
        """
        if not self._messages:
            self._began = now
        elif self._messages >= MESSAGES_PER_TURN or now - self._began > SECONDS_PER_TURN:
            self._messages = 0  # the next one begins a turn
            return True
        self._messages += 1
        return False


RESERVE = 100
"""Files reserved for the server itself, and for HTTP requests such as health checks."""


def connections_that_fit(wanted: int) -> int:
    """Raise the limit of open files for `wanted` connections, and return how many fit.

    Logs a warning if fewer fit.
    """
    limit = raise_limit(wanted + RESERVE)
    fitting = max(limit - RESERVE, limit // 2)
    if fitting >= wanted:
        return wanted
    logger.warning(
        "the limit of %d open files leaves room for %d connections, and APP_MAX_CONNECTIONS is "
        "%d: raise the hard limit to %d (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of "
        "Docker), or lower the setting",
        limit,
        fitting,
        wanted,
        wanted + RESERVE,
    )
    return fitting


def raise_limit(needed: int) -> int:
    """Raise the soft limit to `needed`, at most to the hard limit; return the usable number."""
    if resource is None:
        return needed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    possible = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    except (OSError, ValueError):  # macOS has a lower limit than the hard one
        return soft
    return possible
