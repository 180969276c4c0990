"""How many connections there may be, in all and from one address."""

from collections import Counter
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException


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
