"""The servers to measure, as data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import client
from client import Target

SERVERS = Path(__file__).parent / "servers"
OURS, BASE, LIMIT = "this-project", "tutorial on uvicorn", "bun"


@dataclass
class Peer:
    """A server to measure: how to install it, start it and talk to it."""

    name: str
    command: Callable[[Path, int], list[str | Path]]
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()  # of npm
    talk: dict[str, Any] = field(default_factory=dict)
    replies: bool = False  # has /ws and /ws_json, too
    turns_of: str = ""  # the application to measure the longest turn of the event loop of
    environment: dict[str, str] = field(default_factory=dict)

    def target(self, port: int) -> Target:
        """Return how clients talk to it."""
        return Target(port, **self.talk)


def python(where: Path, *arguments: str | Path) -> list[str | Path]:
    """Run a program from the peers' environment."""
    return [where / "peers/bin" / arguments[0], *arguments[1:]]


def uvicorn(module: str) -> Callable[[Path, int], list[str | Path]]:
    """Serve a module of `servers/` with stock uvicorn."""
    return lambda where, port: python(
        where, "uvicorn", "--app-dir", SERVERS, f"{module}:app", "--port", str(port)
    )


UNLIMITED = {
    "APP_MAX_CONNECTIONS": "20000",
    "APP_MAX_CONNECTIONS_PER_IP": "20000",
    "APP_MESSAGES_PER_SECOND": "inf",
    "APP_MESSAGE_BURST": "1000000",
    "APP_JOINS_PER_SECOND_PER_IP": "inf",
}
"""All clients of a benchmark come from one address, and some send as fast as they can."""

JOINS = {
    "counts, 2,000 joins": (2000, 100),
    "counts, 10,000 joins": (10_000, 100),
    "names, 2,000 joins": (2000, 2000),
}
"""How many members join a room, and up to how many connections it names who joins."""

FASTAPI = ("fastapi", "uvicorn[standard]")
PEERS = [
    Peer(
        OURS,
        lambda where, port: [where / "my-websocket-app/.venv/bin/my-websocket-app"],
        replies=True,
        turns_of="my_websocket_app.main:app",
        environment=UNLIMITED,
    ),
    Peer(BASE, uvicorn("tutorial"), FASTAPI, replies=True, turns_of="tutorial:app"),
    Peer(
        "tutorial on granian",
        lambda where, port: python(
            where,
            "granian",
            "--interface",
            "asgi",
            "--working-dir",
            SERVERS,
            "tutorial:app",
            "--port",
            str(port),
        ),
        (*FASTAPI, "granian"),
        replies=True,
    ),
    Peer("litestar channels", uvicorn("litestar_channels"), (*FASTAPI, "litestar")),
    Peer(
        "python-socketio",
        uvicorn("socketio_room"),
        (*FASTAPI, "python-socketio"),
        talk={
            "path": "/socket.io/?EIO=4&transport=websocket",
            "hello": client.frame(b"40"),
            "before": b'42["message","',
            "after": b'"]',
        },
    ),
    Peer(
        "chanx",
        uvicorn("chanx_group"),
        (*FASTAPI, "chanx[fast_channels]"),
        talk={"before": b'{"action":"chat","payload":"', "after": b'"}'},
    ),
    Peer(
        "websockets.broadcast",
        lambda where, port: python(where, "python", SERVERS / "websockets_broadcast.py", str(port)),
        ("websockets", "uvloop"),
    ),
    Peer(
        "picows",
        lambda where, port: python(where, "python", SERVERS / "picows_loop.py", str(port)),
        ("picows", "uvloop"),
    ),
    Peer(
        "node ws",
        lambda where, port: ["node", SERVERS / "node_ws.js", str(port)],
        modules=("ws",),
    ),
    Peer(
        LIMIT,
        lambda where, port: [
            where / "node_modules/.bin/bun",
            SERVERS / "bun_topic.js",
            str(port),
        ],
        modules=("bun",),
        replies=True,
    ),
]
