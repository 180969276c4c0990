"""Litestar's channels plugin, with its generated WebSocket handler for a channel."""

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend

channels = ChannelsPlugin(backend=MemoryChannelsBackend(), channels=["lobby"])


@websocket("/ws_broadcast")
async def broadcast(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with (
        channels.start_subscription(["lobby"]) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        async for text in socket.iter_data("text"):
            channels.publish(f"New message: {text}", "lobby")


app = Litestar([broadcast], plugins=[channels])
