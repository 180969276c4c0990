"""The broker for a single process."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from .broker import FOREIGN_LOOP, CloseSubject
from .events import EVENTS, MessageEvent, PresenceEvent, Present
from .history import HISTORY_BYTES, History, Replay
from .hub import Hub
from .presence import Presence
from .subscriber import EncodedEvent

MAX_BYTES = 64 * 1024 * 1024
"""Maximum memory of the histories of all rooms, in bytes."""
MAX_ROOM_BYTES = 1024 * 1024
"""Maximum memory of the history of one room, in bytes."""


class MemoryBroker:
    """Carries events within this process.

    Keeps up to `history_length` messages and `MAX_ROOM_BYTES` of each room, and `max_bytes` of
    all rooms together. When that is full, rooms without members are dropped, least recently used
    first. After that, a room drops its own old messages for new ones, or does not keep the new
    ones. A room never evicts messages of another room that has members.
    """

    def __init__(
        self, hub: Hub, history_length: int, presence_limit: int = 100, max_bytes: int = MAX_BYTES
    ) -> None:
        self.presence_limit = presence_limit
        self.is_ready = True
        self._hub = hub
        self._presence = Presence(hub.deliver, presence_limit)
        self._history_length = history_length
        self._bytes_left = max_bytes
        self._histories: dict[str, History] = {}
        self._vacant: OrderedDict[str, None] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def lifespan(self, close_subject: CloseSubject) -> AsyncGenerator[None]:
        """Bind to the running event loop; without this, the first publish or join does."""
        self._loop = asyncio.get_running_loop()
        yield

    async def publish(
        self, event: MessageEvent, origin: str = "", ref: str = "", address: str = ""
    ) -> str:
        """Send a message to its room, except to the connection `origin`; return its id.

        If the history has a message with the same `ref`, return the id of that one. Waits while
        the room has too much pending. Raises `RuntimeError` outside of the application's event
        loop.
        """
        self._check_loop()
        await self._hub.wait_ready(event.room)
        history = self._history(event.room)
        if ref and (known := history.find(ref)):
            return known
        event.id = history.next_id
        encoded = EncodedEvent(event, origin, history.offset + 1)
        frame = encoded.frame(EVENTS)  # raises for data that has no JSON form
        history.advance()
        if self._history_length:
            self._keep(event.room, frame, ref)
        self._hub.deliver(encoded)
        return event.id

    async def announce(self, event: PresenceEvent) -> None:
        """Record that a connection has joined or left a room, and notify the other members."""
        self._presence.announce(event)

    async def present(self, room: str) -> Present:
        """Return who is in a room."""
        return self._presence.present(room)

    async def close_subject(self, subject: str) -> None:
        """Do nothing: there are no other processes."""

    async def replay(self, room: str, since: str, address: str = "") -> Replay:
        """Return the messages after the position `since`."""
        return self._histories.get(room, History()).since(since)

    async def enter(self, room: str, address: str = "") -> str:
        """Count a member that joins a room, and return the room's position."""
        self._check_loop()
        history = self._history(room)
        history.members += 1
        self._vacant.pop(room, None)
        return history.position

    def leave(self, room: str) -> None:
        """Stop counting a member that leaves a room."""
        self._histories[room].members -= 1
        if not self._histories[room].members:
            self._vacant[room] = None

    async def flush(self) -> None:
        """Return at once: `publish` passes messages to the hub directly."""

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = loop
        if self._loop is not loop:
            raise RuntimeError(FOREIGN_LOOP)

    def _history(self, room: str) -> History:
        history = self._histories.get(room)
        if history is None:
            history = self._histories[room] = History(room)
            self._bytes_left -= history.size
            self._vacant[room] = None
            self._forget_vacant(but=room)
        return history

    def _keep(self, room: str, frame: bytes, ref: str) -> None:
        history = self._histories[room]
        before = history.size
        history.append(frame, ref)
        limit = HISTORY_BYTES + MAX_ROOM_BYTES
        while len(history) > self._history_length or history.size > limit:
            history.drop_oldest()
        self._bytes_left += before - history.size
        if room in self._vacant:
            self._vacant.move_to_end(room)
        self._forget_vacant(but=room)
        while self._bytes_left < 0 and history.size > before:  # only its own growth counts
            self._bytes_left += history.drop_oldest()

    def _forget_vacant(self, but: str) -> None:
        """Drop rooms without members until there is space, but not the room `but`."""
        while self._bytes_left < 0 and next(iter(self._vacant), but) != but:
            room, _ = self._vacant.popitem(last=False)
            self._bytes_left += self._histories.pop(room).size
