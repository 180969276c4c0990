"""Metrics, by OpenTelemetry: recorded once the application has set up a meter provider.

Names follow the conventions for SignalR, since there are none for WebSockets yet. Attributes name
routes, never users or rooms. What connections count anyway is read when it is exported, so it costs
nothing without a provider.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, Observation, get_meter
from starlette.types import Scope

ROUTE, DIRECTION = "http.route", "network.io.direction"
STATUS, CLOSE_CODE = "http.response.status_code", "websocket.close.code"

BOUNDS = (0.1, 1, 10, 60, 300, 900, 3600, 14_400, 43_200, 86_400, 604_800)
"""Bounds of the histogram of durations, in seconds: connections last for hours."""
NO_CODE = 1006
"""The close code of a connection that ended without one (RFC 6455 §7.1.5)."""

meter = get_meter(__name__)
durations = meter.create_histogram(
    "websocket.server.connection.duration",
    unit="s",
    description="How long connections were open.",
    explicit_bucket_boundaries_advisory=BOUNDS,
)
refused = meter.create_counter(
    "websocket.server.refused_handshakes",
    unit="{handshake}",
    description="Handshakes that were answered by an HTTP response.",
)


class Counted(Protocol):
    """A connection that counts what it does."""

    bytes_in: int
    bytes_out: int
    messages_in: int
    messages_out: int

    @property
    def is_accepted(self) -> bool:
        """Whether its handshake has been answered."""
        ...

    @property
    def route(self) -> str:
        """The path of its route, with the names of parameters."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for the client."""
        ...


class ConnectionCounts:
    """Sums over the connections of an application, those that have ended too.

    They change in the event loop, and are read by a thread of the exporter.
    """

    def __init__(self) -> None:
        self.open: set[Counted] = set()
        self._ended: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()

    def remove(self, connection: Counted) -> None:
        """Count a connection that ends among the ended ones."""
        with self._lock:
            self.open.discard(connection)
            for key, count in counts_of(connection).items():
                self._ended[key] += count

    def sums(self) -> Counter[tuple[str, str]]:
        """Return a sum for each route and name of a count."""
        with self._lock:
            sums, connections = self._ended.copy(), [*self.open]
        for connection in connections:
            sums.update(counts_of(connection))
        return sums


def route_of(scope: Scope) -> str:
    """Return the path of a route with the names of its parameters; empty where there is none."""
    path: str = getattr(scope.get("route"), "path", "")
    return path


running: set[ConnectionCounts] = set()
"""The counts of applications that run in this process: one, but for tests."""


def counts_of(connection: Counted) -> dict[tuple[str, str], int]:
    """Return what a connection has counted, by its route and the name of the count."""
    route = connection.route
    return {
        (route, "messages_in"): connection.messages_in,
        (route, "messages_out"): connection.messages_out,
        (route, "bytes_in"): connection.bytes_in,
        (route, "bytes_out"): connection.bytes_out,
    }


def by_direction(name: str) -> Iterator[Observation]:
    """Yield the sum of a count of all connections, by route and direction."""
    directions = {f"{name}_in": "receive", f"{name}_out": "transmit"}
    sums = sum((counts.sums() for counts in [*running]), Counter[tuple[str, str]]())
    for (route, count), number in sums.items():
        if count in directions:
            yield Observation(number, {ROUTE: route, DIRECTION: directions[count]})


def by_route(value: Callable[[Counted], int]) -> Iterator[Observation]:
    """Yield the sum of a value of all open connections, by route."""
    sums = {route: 0 for counts in [*running] for route, _ in counts.sums()}
    for connection in [each for counts in [*running] for each in [*counts.open]]:
        if connection.is_accepted:
            sums[connection.route] = sums.get(connection.route, 0) + value(connection)
    for route, number in sums.items():
        yield Observation(number, {ROUTE: route})


def observe_connections(options: CallbackOptions) -> Iterable[Observation]:
    """Count open connections."""
    return by_route(lambda _: 1)


def observe_unsent(options: CallbackOptions) -> Iterable[Observation]:
    """Measure what waits for clients."""
    return by_route(lambda connection: connection.unsent_bytes)


def observe_messages(options: CallbackOptions) -> Iterable[Observation]:
    """Count messages."""
    return by_direction("messages")


def observe_bytes(options: CallbackOptions) -> Iterable[Observation]:
    """Count bytes."""
    return by_direction("bytes")


meter.create_observable_up_down_counter(
    "websocket.server.active_connections",
    [observe_connections],
    unit="{connection}",
    description="Connections that are open.",
)
meter.create_observable_up_down_counter(
    "websocket.server.unsent",
    [observe_unsent],
    unit="By",
    description="Bytes that wait for clients which have not read them yet.",
)
meter.create_observable_counter(
    "websocket.server.messages",
    [observe_messages],
    unit="{message}",
    description="Messages, by direction.",
)
meter.create_observable_counter(
    "websocket.server.io",
    [observe_bytes],
    unit="By",
    description="Bytes of messages received, and of frames sent, before any compression.",
)
