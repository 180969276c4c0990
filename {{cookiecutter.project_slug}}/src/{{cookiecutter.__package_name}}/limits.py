{% if cookiecutter.include_broadcast %}
"""How many connections there may be, in all and from one address, and how many joins a second."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Annotated

from fastapi import HTTPException

from .settings import from_state
{% else %}
"""How many connections there may be, in all and from one address."""

from collections import Counter
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException
{% endif %}


class Places:
    """The places that this process has for connections."""

    def __init__(self, total: int, per_network: int) -> None:
        self._total = total
        self._per_network = per_network
        self._taken = 0
        self._by_network: Counter[str] = Counter()

    def take(self, host: str) -> str:
        """Take a place for a client, and return what gives it back.

        Raises a 503 if all are taken, and a 429 if those of its network are.
        """
        network = network_of(host)
        if self._taken >= self._total:
            raise HTTPException(503, "too many connections")
        if self._by_network.get(network, 0) >= self._per_network:
            raise HTTPException(429, "too many connections from this address")
        self._taken += 1
        self._by_network[network] += 1
        return network

    def give_back(self, network: str) -> None:
        """Give a place back."""
        self._taken -= 1
        self._by_network[network] -= 1
        if not self._by_network[network]:
            del self._by_network[network]

    def __len__(self) -> int:
        return self._taken


def network_of(host: str) -> str:
    """Return what counts as one address: of IPv6, the /64 that a single customer gets."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
{% if cookiecutter.include_broadcast %}


class JoinLimiter:
    """The joins that an address may make: so many a second, and ten seconds' worth at once."""

    MAX_ADDRESSES = 10_000

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = max(1.0, 10 * per_second)
        self._clock = clock
        self._joins: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, host: str) -> None:
        """Count a join of a client, or raise a 429 if its network has made too many."""
        network, now = network_of(host), self._clock()
        allowance, since = self._joins.pop(network, (self._burst, now))
        allowance = min(self._burst, allowance + (now - since) * self._per_second)
        if len(self._joins) >= self.MAX_ADDRESSES:
            self._joins.popitem(last=False)  # the one that joined nowhere for the longest
        self._joins[network] = allowance - (allowance >= 1), now
        if allowance < 1:
            raise HTTPException(429, "too many joins from this address")


JoinLimiterDep = Annotated[JoinLimiter, from_state("joins")]
{% endif %}
