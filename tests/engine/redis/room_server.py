"""A server with rooms over Redis, for tests: `python -m tests.engine.redis.room_server`.

Every process has its own name in a room: the number that the system gives it.
"""

import os

from fastapi_realtime import load_settings, serve
from fastapi_realtime.rooms import Rooms, RoomsDep
from fastapi_realtime.rooms.redis import (
    RedisSettings,
    redis_broker,
)

from ..room_app import EventsAdmitted, room_app

settings = load_settings(RedisSettings)
app = room_app(Rooms(settings, broker=redis_broker), workers=1)  # each worker has one of these


@app.websocket("/talk")
async def talk(connection: EventsAdmitted, rooms: RoomsDep, since: str = "") -> None:
    """Pass on what is said in the room `talk`, under the name of this process."""
    async with rooms.join(connection, "talk", str(os.getpid()), since) as member:
        async for message in member:
            await member.publish(message.data, message.ref)


if __name__ == "__main__":
    serve(f"{__package__}.room_server:app", settings)
