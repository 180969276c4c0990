"""Rooms: join them from endpoints, publish to them from anywhere in the application."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection
from opentelemetry.metrics import CallbackOptions, Observation, get_meter
from pydantic_core import from_json

from ..connection import Connection
from ..limits import COUNTED_BYTES, KeyedLimiter, network_of
from ..realtime import Realtime, realtime_of
from ..server.shutdown import uvicorn_workers
from ..server.wire import frame_message
from ..settings import RoomSettings
from .access import RoomAccess, RoomPolicy
from .broker import Broker
from .events import AppendEvent, LoggedEvent, MessageEvent, PresenceEvent, Present
from .hub import Hub
from .member import Member
from .memory import MemoryBroker

S = TypeVar("S", bound=RoomSettings)

PresenceHook = Callable[[str, str], Awaitable[object]]

HOOK_SECONDS = 10.0
"""Seconds for a call of `on_join` or `on_leave`; then it is cancelled."""
LATEST_BYTES = 262_144
"""Maximum bytes of messages in a response."""
JOIN_BURST = 10
"""Burst of joins from one address, as a multiple of the rate a second."""

SPLIT_ROOMS = (
    "uvicorn runs %d processes, but these rooms are in the memory of one: members of other "
    "processes get nothing. Run one process, or use Redis."
)

logger = logging.getLogger(__name__)

client_address: ContextVar[str] = ContextVar("client_address", default="")
"""The address of the client whose HTTP request is being handled."""

running: "set[Rooms]" = set()
"""The rooms of all applications that run in this process; more than one only in tests."""


def observe_ready(options: CallbackOptions) -> Iterable[Observation]:
    """Observe 1 if all rooms are ready, else 0."""
    return [Observation(int(all(rooms.is_ready for rooms in [*running])))] if running else []


get_meter(__name__).create_observable_gauge(
    "websocket.rooms.ready",
    [observe_ready],
    description="1 if messages can be published and received, 0 while the broker is away.",
)


def memory_broker(settings: RoomSettings, hub: Hub) -> Broker:
    """Return the broker for a single process."""
    return MemoryBroker(hub, settings.history_length, settings.presence_limit)


class Rooms(RoomAccess):
    """All rooms of the application. A room exists while it has members or a history."""

    def __init__(
        self,
        settings: S,
        policy: RoomPolicy | None = None,
        broker: Callable[[S, Hub], Broker] = memory_broker,
        *,
        on_join: PresenceHook | None = None,
        on_leave: PresenceHook | None = None,
    ) -> None:
        """`policy` decides who may join and publish; without tokens, pass none.

        `on_join` is called with a sender and a room when its first connection, of all processes,
        joins the room, and `on_leave` when the last one has left.
        """
        super().__init__(policy)
        self._hooks = {"joined": on_join, "left": on_leave}
        self._calls: dict[tuple[str, str], asyncio.Task[None]] = {}
        self.hub = Hub(settings.max_backlog_bytes, settings.max_pending_bytes)
        self.broker = broker(settings, self.hub)
        rate = settings.joins_per_second_per_ip
        self.max_rooms = settings.max_rooms_per_connection
        self._join_limiter = KeyedLimiter(rate, JOIN_BURST * rate)
        self._request_limiter = KeyedLimiter(settings.messages_per_second, settings.message_burst)

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and received now."""
        return self.broker.is_ready

    @asynccontextmanager
    async def lifespan(self, realtime: Realtime) -> AsyncGenerator[None]:
        """Run the broker while the application runs."""
        if isinstance(self.broker, MemoryBroker) and (workers := uvicorn_workers()) > 1:
            logger.warning(SPLIT_ROOMS, workers)
        note = self._note_presence if any(self._hooks.values()) else None
        async with self.broker.lifespan(realtime.close_subject, note):
            running.add(self)
            try:
                yield
            finally:
                running.discard(self)
        if self._calls:
            await asyncio.wait([*self._calls.values()], timeout=HOOK_SECONDS)

    def _note_presence(self, event: PresenceEvent) -> None:
        """Call a hook, after those before it for the same sender and room."""
        key = event.room, event.sender
        task = asyncio.create_task(self._call_hook(event, self._calls.get(key)))
        self._calls[key] = task

    async def _call_hook(self, event: PresenceEvent, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        key, hook = (event.room, event.sender), self._hooks[event.type]
        try:
            if hook is not None:
                async with asyncio.timeout(HOOK_SECONDS):
                    await hook(event.sender, event.room)
        except Exception:
            logger.exception("a hook failed", extra={"room": event.room, "sender": event.sender})
        if self._calls.get(key) is asyncio.current_task():
            del self._calls[key]

    async def close_subject(self, subject: str) -> None:
        """Ask other processes to close a subject's connections; raises `BrokerUnavailable`."""
        await self.broker.close_subject(subject)

    async def flush(self) -> None:
        """Wait until everything published so far has been written to the members."""
        await self.broker.flush()
        await self.hub.flush()

    async def publish(
        self, room: str, data: Any, sender: str = "", ref: str = "", *, keep: bool = True
    ) -> str:
        """Send a message to all members of a room, from a route or a job; return its id.

        `data` is what has a JSON form: text, numbers, lists, dictionaries, pydantic models.

        A `ref` makes a retry safe: if the room's history has a message of the same sender with
        this `ref`, nothing is sent and the id of that message is returned. A message that is not
        to `keep` reaches who is there now, and its id is empty. The policy is not consulted.

        Waits while the room has too much pending. Raises `InvalidRoom`, a `ValueError`, for a room
        that can't exist, and `BrokerUnavailable`: 422 and 503 if a route does not catch them; a
        429 in a route whose client's address has stored too much; and `RuntimeError` outside of
        the application's event loop.
        """
        event = MessageEvent(room=room, sender=sender, data=data)
        return await self._publish(event, self.ref_key(sender, ref), keep=keep)

    async def append(self, room: str, to: str, text: str, sender: str = "") -> str:
        """Add text to the message with the id `to`, whose data is a text; return an id.

        Members get an `append` event. The history counts it as a part of that message. Raises what
        `publish` does.
        """
        return await self._publish(AppendEvent(room=room, sender=sender, to=to, data=text))

    async def _publish(self, event: LoggedEvent, ref: str = "", *, keep: bool = True) -> str:
        self.check_target(event.room)
        address = client_address.get()
        published = await self.broker.publish(event, ref=ref, address=address, keep=keep)
        return published if isinstance(published, str) else await published

    async def present(self, room: str) -> Present:
        """Return who is in a room; above `presence_limit` connections, only the count."""
        return await self.broker.present(room)

    def limit_requests(self, subject: str, host: str, cost: int = 1) -> None:
        """Count a request of a subject, else of an address; raise a 429 above the limit.

        What the request publishes counts as stored by this address.
        """
        address = network_of(host)
        client_address.set(address)
        if not self._request_limiter.allow(subject or address, cost):
            raise HTTPException(429, "too many requests; see APP_MESSAGES_PER_SECOND")

    async def latest(self, room: str, count: int, subject: str = "") -> list[MessageEvent]:
        """Return the latest messages of a room, as many as are kept and fit into 256 KiB.

        What was appended to them is part of their data.

        Each 8 KiB count as a request of the subject, else of the address of an HTTP request. Raises
        a 429 above the limit, and `BrokerUnavailable`.
        """
        address, size, frames = client_address.get(), 0, deque[bytes]()
        replay = await self.broker.replay(room, "", address, count) if count else None
        for frame in reversed(replay.frames if replay else ()):
            size += len(frame)
            if size > LATEST_BYTES:
                break
            frames.appendleft(frame)
        client = subject or address
        if client and not self._request_limiter.allow(client, size // COUNTED_BYTES):
            raise HTTPException(429, "too many requests; see APP_MESSAGES_PER_SECOND")
        messages: dict[str, MessageEvent] = {}
        for event in map(from_json, map(frame_message, frames)):
            if event["type"] == "message":
                messages[event["id"]] = MessageEvent(**event)
            elif (message := messages.get(event["to"])) and isinstance(message.data, str):
                message.data += event["data"]
        return [*messages.values()]

    def join(
        self, connection: Connection, room: str, name: str, since: str = "", last: int = 0
    ) -> Member:
        """Return a member. `async with` accepts the handshake and joins the room.

        Other members see `name` when it joins and leaves. Under `events.v1`, messages after the
        id `since` are sent first; without it, the `last` messages. Raises a 429 for too many joins
        from one address. Entering `async with` raises a 403 if the client may not join the room.
        """
        if not self._join_limiter.allow(network_of(connection.host)):
            detail = "too many joins from this address; see APP_JOINS_PER_SECOND_PER_IP"
            raise HTTPException(429, detail)
        return Member(self, connection, room, name, since, last)


async def current_rooms(connection: HTTPConnection) -> Rooms:
    """Dependency: return the rooms of the application."""
    realtime = realtime_of(connection)
    realtime.check_started()
    return realtime.service(Rooms)


RoomsDep = Annotated[Rooms, Depends(current_rooms)]
