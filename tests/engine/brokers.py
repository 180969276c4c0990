"""Brokers of every kind that this project has, for the tests that all of them must pass."""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from fastapi_realtime.rooms import (
    MessageEvent,
    Rooms,
    RoomSettings,
)
from fastapi_realtime.rooms.broker import Broker, NotePresence
from fastapi_realtime.rooms.events import AppendEvent
from fastapi_realtime.rooms.hub import Hub
from pydantic import JsonValue

from .hub_client import Listener

MakeRooms = Callable[..., Rooms]


class Process(NamedTuple):
    """The hub and the broker of a process."""

    hub: Hub
    broker: Broker
    closed: list[str]
    """Subjects whose connections it was told to close."""

    async def join(self, room: str = "lobby") -> Listener:
        """Add a member that receives events."""
        listener = Listener()
        subscriber = self.hub.subscribe(room, listener.connection)
        await self.broker.enter(room)
        subscriber.start(room)
        return listener

    async def publish(
        self,
        data: JsonValue,
        room: str = "lobby",
        origin: str = "",
        ref: str = "",
        address: str = "",
        *,
        keep: bool = True,
    ) -> str:
        """Publish a message, and return its id."""
        event = MessageEvent(room=room, sender="zoe", data=data)
        published = await self.broker.publish(event, origin, ref, address, keep=keep)
        return published if isinstance(published, str) else await published

    async def append(self, to: str, text: str, room: str = "lobby") -> str:
        """Append to a message, and return the id of that."""
        event = AppendEvent(room=room, sender="zoe", to=to, data=text)
        published = await self.broker.publish(event)
        return published if isinstance(published, str) else await published


@asynccontextmanager
async def running_process(
    rooms: Rooms, note_presence: NotePresence | None = None
) -> AsyncGenerator[Process]:
    """Run a broker as an application does."""
    process = Process(rooms.hub, rooms.broker, [])
    async with rooms.broker.lifespan(process.closed.append, note_presence):
        yield process


@contextmanager
def memory_rooms() -> Generator[MakeRooms]:
    """Rooms of one process."""

    def make_rooms(**settings: Any) -> Rooms:
        return Rooms(RoomSettings.model_validate(settings))

    yield make_rooms


def kinds() -> dict[str, Callable[[], AbstractContextManager[MakeRooms]]]:
    """Return what makes rooms with brokers of each kind, by their names.

    Another broker is tested with all others once its module is named here.
    """
    found = {"memory": memory_rooms}
    if find_spec(f"{__package__}.redis_server"):
        found["redis"] = import_module(f"{__package__}.redis_server").redis_rooms
        found["cluster"] = import_module(f"{__package__}.redis.nodes").cluster_rooms
    return found
