"""Clients that connect, send, stall and leave at random, for as long as one likes.

    PYTHONPATH=<the engine's src> uv run python -m tests.engine.soak --minutes 5

What the server holds is printed meanwhile. Afterwards every count must be back at zero, and
memory where it was after the first fifth of the time.
"""

import argparse
import asyncio
import gc
import logging
import random
import socket
import struct
import time
import tracemalloc
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from .serving import add_echo, echo_app, running

LIMITS = {
    "max_connections": 40,
    "max_message_bytes": 20_000,
    "message_burst": 200,
}
SIZES = (1, 1, 100, 100, 10_000, 10_000, 30_000)
GARBAGE = (b"\xff\xff\xff\xff", b"\x81\x85none", b"\x83\x80\x00\x00\x00\x00")


async def live(url: str, chance: random.Random) -> None:
    """Connect, do something for a while, and leave in one way or another."""
    offered = chance.choice([None, [Subprotocol("events.v1")]])
    with suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
        async with (
            asyncio.timeout(20),
            websockets_connect(
                url, subprotocols=offered, proxy=None, close_timeout=0.5, max_queue=None
            ) as client,
        ):
            await chance.choice([talk, talk, listen, stall, reset, send_garbage])(client, chance)


async def talk(client: ClientConnection, chance: random.Random) -> None:
    """Send a few messages, some of them too long."""
    for _ in range(chance.randrange(30)):
        await client.send("x" * chance.choice(SIZES))
        await asyncio.sleep(chance.random() / 50)


async def listen(client: ClientConnection, chance: random.Random) -> None:
    """Receive for a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(chance.random()):
            async for _ in client:
                pass


async def stall(client: ClientConnection, chance: random.Random) -> None:
    """Cause many answers, and read none."""
    client.transport.pause_reading()
    for _ in range(100):
        client.transport.write(b"")
        await client.send("x" * 10_000)
    await asyncio.sleep(chance.random())
    client.transport.abort()


async def reset(client: ClientConnection, chance: random.Random) -> None:
    """Reset the connection."""
    raw = client.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abort()


async def send_garbage(client: ClientConnection, chance: random.Random) -> None:
    """Send an invalid frame, or one that a client may not send."""
    client.transport.write(chance.choice(GARBAGE))
    await asyncio.sleep(chance.random() / 10)


def counts(app: FastAPI) -> dict[str, int]:
    """Return what the engine holds for its clients."""
    realtime = app.state.realtime
    rooms = sum(len(service.hub) for service in realtime.services)
    return {
        "connections": len(realtime.connections),
        "counted": len(realtime.limiter),
        "rooms": rooms,
    }


async def crowd(app: FastAPI, urls: list[str], seconds: float, seed: int) -> list[int]:
    """Let clients connect and leave; return the bytes that were in use between their crowds."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    sizes: list[int] = []
    while time.monotonic() < end:
        part = time.monotonic() + seconds / 10
        clients: set[asyncio.Task[None]] = set()
        while time.monotonic() < part:
            clients = {client for client in clients if not client.done()}
            while len(clients) < 50:
                clients.add(asyncio.create_task(live(chance.choice(urls), chance)))
            await asyncio.sleep(0.01)
        await asyncio.gather(*clients)
        for _ in range(3000):
            if not any(counts(app).values()):
                break
            await asyncio.sleep(0.01)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
        print(f"{sizes[-1]:12,} bytes in use, {counts(app)}", flush=True)
        assert not any(counts(app).values())
    return sizes


def application() -> tuple[FastAPI, list[str]]:
    """Return an application, with rooms if the engine has them, and its paths."""
    if find_spec(".room_app", __package__) is None:
        return echo_app(**LIMITS), ["/all"]
    app = import_module(".room_app", __package__).room_app(**LIMITS, history_length=1)
    return add_echo(app), ["/all", "/rooms/lobby", "/rooms/tea"]


def soak(seconds: float, seed: int) -> list[int]:
    """Run a server, and crowds of clients; return the bytes in use between them."""
    app, paths = application()
    tracemalloc.start()
    try:
        with running(app, timeout_graceful_shutdown=5) as url:
            return asyncio.run(crowd(app, [url + path for path in paths], seconds, seed))
    finally:
        tracemalloc.stop()


def main() -> None:
    """Soak for some minutes, and fail if memory has grown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    print(f"seed {options.seed}")
    sizes = soak(60 * options.minutes, options.seed)
    growth = sizes[-1] - sizes[len(sizes) // 5]
    print(f"grown by {growth:,} bytes since the first fifth")
    if growth > 2**20:
        raise SystemExit("That is too much.")


if __name__ == "__main__":
    main()
