"""Litestar's channels plugin, with its backend on Redis streams."""

import os

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsStreamBackend
from redis.asyncio import Redis

backend = RedisChannelsStreamBackend(history=100, redis=Redis.from_url(os.environ["REDIS_URL"]))
channels = ChannelsPlugin(backend=backend, arbitrary_channels_allowed=True)


@websocket("/ws_broadcast/{room:str}")
async def broadcast(socket: WebSocket, channels: ChannelsPlugin, room: str) -> None:
    await socket.accept()
    async with (
        channels.start_subscription([room]) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        async for text in socket.iter_data("text"):
            channels.publish(f"New message: {text}", room)


app = Litestar([broadcast], plugins=[channels])
