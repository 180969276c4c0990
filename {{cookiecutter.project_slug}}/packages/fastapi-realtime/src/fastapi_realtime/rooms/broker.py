"""The broker interface. A broker carries a room's events to its members, in one order for all."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from fastapi import HTTPException

from .events import LoggedEvent, PresenceEvent, Present


class Replay(NamedTuple):
    """The messages that a returning member has missed, as far as they are kept."""

    frames: list[bytes]
    """The messages, as frames of `events.v1`."""
    last_offset: int
    """The offset of the last frame; 0 if there are none."""
    is_complete: bool
    """Whether no message is missing."""
    position: str
    """The id of the room's last message."""
    size: int = 0
    """Memory of the frames, in bytes; 0 if the history has them, too."""


FOREIGN_LOOP = (
    "publish() works only in the event loop of the application. Make a plain `def` route "
    "`async def` and `await rooms.publish(...)`, or call `anyio.from_thread.run(rooms.publish, "
    "...)` in it; in another thread, call `asyncio.run_coroutine_threadsafe(rooms.publish(...), "
    "loop)` with the application's loop."
)


Published = str | asyncio.Future[str]
"""The id of a message, or a future of it if the broker answers later."""

CloseSubject = Callable[[str], object]
"""Closes the connections of a subject in this process."""

NotePresence = Callable[[PresenceEvent], object]
"""Called for the first connection of a sender that joins a room, and for the last that leaves it."""


class BrokerUnavailable(HTTPException):
    """The broker can't be reached or refuses writes; a route that does not catch it answers 503.

    When a publish raises this, the message may have been published all the same.
    """

    def __init__(self) -> None:
        super().__init__(503, "rooms are not available now; try again later")


class RoomRefused(HTTPException):
    """An address has stored too much to begin a room, or to publish to it: 429."""

    def __init__(self, room: str) -> None:
        detail = f"the room {room!r} is refused: this address has stored too much; try again later"
        super().__init__(429, detail)


class Broker(Protocol):
    """Gives messages an id and an order, keeps the latest ones, and passes events to the hub."""

    presence_limit: int
    """Rooms with more connections get counts instead of names; 0 turns presence off."""

    @property
    def is_ready(self) -> bool:
        """Whether messages can be published and received now."""

    def lifespan(
        self, close_subject: CloseSubject, note_presence: NotePresence | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Carry events, in the running event loop, until the application stops.

        `close_subject` is called when another process asks to close a subject's connections.
        `note_presence` is called in one process for each event.
        """

    async def publish(
        self,
        event: LoggedEvent,
        origin: str = "",
        ref: str = "",
        address: str = "",
        *,
        keep: bool = True,
    ) -> Published:
        """Send a message to its room, except to the connection `origin`; return its id.

        Messages of a room are published in the order of the calls, even if calls return before
        that. If the room's history has a message with the same `ref`, nothing is sent, and the
        id is that of the earlier message. A message that is not to `keep` may be lost, but never
        arrives before one that its sender has published earlier; its id is empty. `address` is
        that of a client that sends it. Raises `BrokerUnavailable`, as the future may, and
        `RoomRefused`.
        """

    async def announce(self, event: PresenceEvent) -> None:
        """Record that a connection has joined or left a room, and notify the other members."""

    async def present(self, room: str) -> Present:
        """Return who is in a room; raises `BrokerUnavailable`."""

    async def close_subject(self, subject: str) -> None:
        """Ask other processes to close a subject's connections; raises `BrokerUnavailable`."""

    async def replay(self, room: str, since: str, address: str = "", last: int = 0) -> Replay:
        """Return the messages after the position `since`; raises `BrokerUnavailable`.

        Where `last` is positive, return that many of the latest messages instead, if there are,
        and what was appended since the first of them.
        """

    async def enter(self, room: str, address: str = "") -> str:
        """Count a member that joins a room, and return the room's position.

        Every message after that position is passed to the hub. If this raises
        `BrokerUnavailable` or `RoomRefused`, the member is not counted.
        """

    def leave(self, room: str) -> None:
        """Stop counting a member that leaves a room."""

    async def flush(self) -> None:
        """Wait until everything published by this process has been passed to the hub."""
