"""python-socketio as an ASGI application, with its client manager on Redis."""

import os
from urllib.parse import parse_qs

import socketio

manager = socketio.AsyncRedisManager(os.environ["REDIS_URL"])
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager, cors_allowed_origins="*")
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict) -> None:
    room = parse_qs(environ["QUERY_STRING"])["room"][0]
    await server.save_session(sid, {"room": room})
    await server.enter_room(sid, room)


@server.event
async def message(sid: str, data: str) -> None:
    session = await server.get_session(sid)
    await server.emit("message", f"New message: {data}", room=session["room"], skip_sid=sid)
