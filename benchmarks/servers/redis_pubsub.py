"""The tutorial's pattern over redis-py: a subscription and a loop for each room of a process."""

import asyncio
import os
from collections import defaultdict
from contextlib import suppress

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from redis.asyncio import Redis

redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
app = FastAPI()


class ConnectionManager:
    def __init__(self) -> None:
        self.rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)
        self.listeners: dict[str, asyncio.Task[None]] = {}

    async def connect(self, room: str, websocket: WebSocket) -> None:
        await websocket.accept()
        self.rooms[room].add(websocket)
        if room not in self.listeners:
            self.listeners[room] = asyncio.create_task(self.listen(room))

    def disconnect(self, room: str, websocket: WebSocket) -> None:
        self.rooms[room].discard(websocket)
        if not self.rooms[room]:
            del self.rooms[room]
            self.listeners.pop(room).cancel()

    async def listen(self, room: str) -> None:
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe(room)
            async for message in pubsub.listen():
                if message["type"] == "message":
                    await self.send_to_all(room, message["data"])

    async def send_to_all(self, room: str, text: str) -> None:
        for websocket in list(self.rooms[room]):
            with suppress(RuntimeError, WebSocketDisconnect):  # it is leaving
                await websocket.send_text(text)


manager = ConnectionManager()


@app.websocket("/ws_broadcast/{room}")
async def broadcast(websocket: WebSocket, room: str) -> None:
    await manager.connect(room, websocket)
    try:
        while True:
            text = await websocket.receive_text()
            await redis.publish(room, f"New message: {text}")
    except WebSocketDisconnect:
        manager.disconnect(room, websocket)
