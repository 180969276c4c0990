"""The tutorial's pattern: a list of sockets, and a loop that awaits each of them in turn."""

from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()


class ConnectionManager:
    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        for connection in self.active_connections:
            await connection.send_text(message)


manager = ConnectionManager()


@app.websocket("/ws_broadcast")
async def broadcast(websocket: WebSocket) -> None:
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await manager.broadcast(f"New message: {data}")
    except WebSocketDisconnect:
        manager.disconnect(websocket)


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"Message text was: {data}")
    except WebSocketDisconnect:
        pass


@app.websocket("/ws_json")
async def json_messages(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            data: Any = await websocket.receive_json()
            await websocket.send_json({"message": "Received JSON data", "data": data})
    except WebSocketDisconnect:
        pass
