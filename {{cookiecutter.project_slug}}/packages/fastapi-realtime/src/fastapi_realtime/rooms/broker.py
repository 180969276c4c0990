"""What a broker does: it carries the events of a room to its members, all in the same order."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fastapi import HTTPException

from .events import MessageEvent, PresenceEvent, Present
from .history import Replay

FOREIGN_LOOP = (
    "publish() works only in the event loop of the application. Make a plain `def` route "
    "`async def` and `await rooms.publish(...)`, or call `anyio.from_thread.run(rooms.publish, "
    "...)` in it; in another thread, call `asyncio.run_coroutine_threadsafe(rooms.publish(...), "
    "loop)` with the application's loop."
)


Published = str | asyncio.Future[str]
"""The id of a message, or a future of it where that takes a while."""

CloseSubject = Callable[[str], object]
"""Closes the connections of a subject in this process."""


class BrokerUnavailable(HTTPException):
    """A broker can't be reached, or takes nothing now; a route that lets it pass answers 503.

    What was to be published may have been, all the same: whether it was is not known.
    """

    def __init__(self) -> None:
        super().__init__(503, "rooms are not available now; try again later")


class Broker(Protocol):
    """Gives messages their ids and their order, keeps the latest, and hands events to the hub."""

    presence_limit: int
    """Connections up to which a room's members are named; 0 if members are told nothing."""

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and received now."""
        ...

    def lifespan(self, close_subject: CloseSubject) -> AbstractAsyncContextManager[None]:
        """Carry events, in the running event loop, until the application stops.

        `close_subject` is called when another process has a subject's connections closed.
        """
        ...

    async def publish(self, event: MessageEvent, origin: str = "", ref: str = "") -> Published:
        """Send a message to its room, except to the connection `origin`; return its id.

        Messages of a room keep the order in which this was called, also where it returns before
        they were published. Where the room's history has a message with the same `ref`, the id
        is that of this one. Raises `BrokerUnavailable`, and the future may.
        """
        ...

    async def announce(self, event: PresenceEvent) -> None:
        """Note that a connection has joined or left a room, and tell the others."""
        ...

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable`."""
        ...

    async def close_subject(self, subject: str) -> None:
        """Have other processes close the connections of a subject; raises `BrokerUnavailable`."""
        ...

    async def replay(self, room: str, since: str) -> Replay:
        """Return what came after the position `since`; raises `BrokerUnavailable`."""
        ...

    async def enter(self, room: str) -> str:
        """Count a member that joins a room, and return the room's position.

        All that comes after it is handed to the hub. Raises `BrokerUnavailable`, and then the
        member doesn't count.
        """
        ...

    def leave(self, room: str) -> None:
        """Count a member that leaves a room."""
        ...

    async def flush(self) -> None:
        """Wait until all that was published here so far has been handed to the hub."""
        ...
