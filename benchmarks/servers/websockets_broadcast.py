"""The websockets library's own server and its `broadcast`."""

import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

members: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    members.add(connection)
    try:
        async for text in connection:
            broadcast(members - {connection}, f"New message: {text}")
    finally:
        members.remove(connection)


async def main() -> None:
    async with serve(handle, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


uvloop.run(main())
