"""Rooms, as endpoints and other code use them: join one, or publish to it."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection
from opentelemetry.metrics import CallbackOptions, Observation, get_meter
from pydantic import JsonValue

from ..connection import Connection
from ..identity import Identity
from ..limits import KeyedLimiter, network_of
from ..realtime import Realtime, realtime_of
from ..settings import RoomSettings
from .access import RoomAccess, RoomPolicy
from .broker import Broker
from .events import MessageEvent, Present
from .hub import Hub
from .member import Member
from .memory import MemoryBroker

S = TypeVar("S", bound=RoomSettings)

JOIN_BURST = 10
"""Seconds' worth of joins that an address may make at once."""


running: "set[Rooms]" = set()
"""The rooms of applications that run in this process: one, but for tests."""


def observe_ready(options: CallbackOptions) -> Iterable[Observation]:
    """Tell whether rooms can be used."""
    return [Observation(int(all(rooms.is_ready for rooms in [*running])))] if running else []


get_meter(__name__).create_observable_gauge(
    "websocket.rooms.ready",
    [observe_ready],
    description="1 if messages can be published and received, 0 while the broker is away.",
)


def memory_broker(settings: RoomSettings, hub: Hub) -> Broker:
    """Return a broker for one process."""
    return MemoryBroker(hub, settings.history_length, settings.presence_limit)


class Rooms:
    """All rooms of the application. A room exists while it has members or a history."""

    def __init__(
        self,
        settings: S,
        policy: RoomPolicy | None = None,
        broker: Callable[[S, Hub], Broker] = memory_broker,
    ) -> None:
        """`policy` says who may join and publish; without tokens there is none."""
        self.hub = Hub(settings.max_backlog_bytes, settings.max_pending_bytes)
        self.broker = broker(settings, self.hub)
        self._access = RoomAccess(policy)
        rate = settings.joins_per_second_per_ip
        self._join_limiter = KeyedLimiter(rate, JOIN_BURST * rate)
        self._request_limiter = KeyedLimiter(settings.messages_per_second, settings.message_burst)

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and received now."""
        return self.broker.is_ready

    @asynccontextmanager
    async def lifespan(self, realtime: Realtime) -> AsyncGenerator[None]:
        """Carry events between the start and the stop of the application."""
        async with self.broker.lifespan(realtime.close_subject):
            running.add(self)
            try:
                yield
            finally:
                running.discard(self)

    async def close_subject(self, subject: str) -> None:
        """Have other processes close the connections of a subject; raises `BrokerUnavailable`."""
        await self.broker.close_subject(subject)

    async def flush(self) -> None:
        """Wait until all that was published so far is on its way to the members."""
        await self.broker.flush()
        await self.hub.flush()

    async def publish(self, room: str, data: JsonValue, sender: str = "", ref: str = "") -> str:
        """Send a message to all members of a room, from a route or a job; return its id.

        A message with a `ref` that its sender has used already is not sent again, as long as
        the room's history has the first one, whose id is returned. No policy is asked.

        Waits while too much is pending for the room. Raises `ValueError` for a name that no room
        has, `BrokerUnavailable`, which a route answers with 503, and `RuntimeError` in any other
        event loop than the application's.
        """
        self._access.check_target(room)
        event = MessageEvent(room=room, sender=sender, data=data)
        published = await self.broker.publish(event, ref=self._access.ref_key(sender, ref))
        return published if isinstance(published, str) else await published

    async def present(self, room: str) -> Present:
        """Return who is in a room, without names if there are more than `presence_limit`."""
        return await self.broker.present(room)

    async def check_join(self, identity: Identity, room: str) -> None:
        """Raise a 403 for a client that may not join a room, nor see who is there."""
        await self._access.check_join(identity, room)

    async def check_publish(self, identity: Identity, room: str) -> None:
        """Raise a 403 for a client that may not publish to a room."""
        await self._access.check_publish(identity, room)

    def limit_requests(self, subject: str, host: str, cost: int = 1) -> None:
        """Count a request of a subject, or else of an address; raise a 429 for too many."""
        if not self._request_limiter.allow(subject or network_of(host), cost):
            raise HTTPException(429, "too many requests; see APP_MESSAGES_PER_SECOND")

    def join(self, connection: Connection, room: str, name: str, since: str = "") -> Member:
        """Return a member, which joins the room with `async with`; that answers the handshake.

        Others are told of `name` when it joins and leaves. Under `events.v1`, what came after
        the id `since` is sent first. Raises a 429 for too many joins from one address, and with
        `async with` a 403 for a room that the client may not join.
        """
        if not self._join_limiter.allow(network_of(connection.host)):
            detail = "too many joins from this address; see APP_JOINS_PER_SECOND_PER_IP"
            raise HTTPException(429, detail)
        return Member(self.hub, self.broker, self._access, connection, room, name, since)


async def current_rooms(connection: HTTPConnection) -> Rooms:
    """Return the rooms of the application, as a dependency."""
    return realtime_of(connection).service(Rooms)


RoomsDep = Annotated[Rooms, Depends(current_rooms)]
