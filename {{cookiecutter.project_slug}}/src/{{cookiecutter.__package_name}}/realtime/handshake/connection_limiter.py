"""Limits on connections: in all, and from one address."""

from collections import Counter
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException


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
