"""python-socketio as an ASGI application, with a room."""

import socketio

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict) -> None:
    await server.enter_room(sid, "lobby")


@server.event
async def message(sid: str, data: str) -> None:
    await server.emit("message", f"New message: {data}", room="lobby", skip_sid=sid)
