"""chanx on FastAPI: a typed consumer in a group, with its channel layer in memory."""

from typing import Literal

from chanx.core.decorators import channel, ws_handler
from chanx.fast_channels.websocket import AsyncJsonWebsocketConsumer
from chanx.messages.base import BaseMessage
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fastapi import FastAPI
from starlette.routing import WebSocketRoute


class Chat(BaseMessage):
    action: Literal["chat"] = "chat"
    payload: str


class Notification(BaseMessage):
    action: Literal["notification"] = "notification"
    payload: str


@channel(name="chat")
class Consumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"
    groups = ["lobby"]

    @ws_handler(output_type=Notification)
    async def handle_chat(self, message: Chat) -> None:
        await self.broadcast_message(Notification(payload=message.payload))


register_channel_layer("default", InMemoryChannelLayer())
app = FastAPI()
app.router.routes.append(WebSocketRoute("/ws_broadcast", Consumer.as_asgi()))
