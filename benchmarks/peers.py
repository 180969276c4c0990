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
    has_room: bool = True
    replies: bool = False  # has /ws, too
    has_json: bool = False  # and /ws_json
    turns_of: str = ""  # the application to measure the longest turn of the event loop of
    environment: dict[str, str] = field(default_factory=dict)
    project: dict[str, str] = field(default_factory=dict)  # answers to render it with
    processes: int = 1  # started separately, each with a port of its own
    workers: int = 1  # of each of them, on one port
    redis_url: str = ""  # the variable that says where Redis is
    redis_nodes: int = 1  # more than one are a cluster
    asks: dict[str, Any] = field(default_factory=dict)  # other `talk`: rooms, and answers

    def target(self, *ports: int) -> Target:
        """Return how clients talk to it."""
        return Target(ports, **self.talk)


def python(where: Path, *arguments: str | Path) -> list[str | Path]:
    """Run a program from the peers' environment."""
    return [where / "peers/bin" / arguments[0], *arguments[1:]]


def uvicorn(module: str, *options: str) -> Callable[[Path, int], list[str | Path]]:
    """Serve a module of `servers/` with stock uvicorn."""
    return lambda where, port: python(
        where, "uvicorn", "--app-dir", SERVERS, f"{module}:app", "--port", str(port), *options
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
PROJECT = {"project_slug": "my-websocket-app"}
REPLIES = {"replies": True, "has_json": True}


def variant(name: str, program: str, *packages: str) -> Peer:
    """Return this project, started by a program of `servers/`."""
    installed = [option for package in packages for option in ("--with", package)]
    return Peer(
        f"{OURS} {name}",
        lambda where, port: [
            *("uv", "run", "--quiet", "--project", where / "my-websocket-app", *installed),
            *("python", SERVERS / program),
        ],
        environment=UNLIMITED,
        project=PROJECT,
        has_room=False,
        **REPLIES,
    )


PEERS = [
    Peer(
        OURS,
        lambda where, port: [where / "my-websocket-app/.venv/bin/my-websocket-app"],
        turns_of="my_websocket_app.main:app",
        environment=UNLIMITED,
        project=PROJECT,
        **REPLIES,
    ),
    variant("without log", "quiet.py"),
    variant("with metrics", "metered.py", "opentelemetry-sdk"),
    Peer(BASE, uvicorn("tutorial"), FASTAPI, turns_of="tutorial:app", **REPLIES),
    Peer(
        "tutorial without log",
        uvicorn("tutorial", "--log-level", "warning"),
        FASTAPI,
        has_room=False,
        **REPLIES,
    ),
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
        **REPLIES,
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
        replies=True,
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

IN_MEMORY = "this-project in memory"
ROOMS = {"path": "/ws_broadcast/{client}"}
EVENTS = {
    **ROOMS,
    "headers": client.EVENTS,
    "before": b'{"type":"message","data":"',
    "after": b'","ref":"{message}"}',
}
"""Rooms of this project, with `accepted` for each message."""
LOBBY = {"path": "/ws_broadcast/lobby"}
SOCKET_IO = "/socket.io/?EIO=4&transport=websocket&room="


def ours(name: str, broker: str, processes: int = 1, workers: int = 1, nodes: int = 1) -> Peer:
    """Return this project, rendered with a broker."""
    slug = f"app-{broker}"
    return Peer(
        name,
        lambda where, port: [where / slug / ".venv/bin" / slug],
        project={"project_slug": slug, "broker": broker},
        environment=UNLIMITED | {"APP_WORKERS": str(workers)},
        processes=processes,
        workers=workers,
        redis_url="APP_BROKER_URL" if broker == "redis" else "",
        redis_nodes=nodes,
        talk=LOBBY,
        asks=EVENTS,
    )


ACROSS = [
    ours(IN_MEMORY, "memory"),
    ours("this-project over Redis", "redis", processes=2),
    ours("this-project with two workers", "redis", workers=2),
    ours("this-project over a cluster", "redis", processes=2, nodes=3),
    Peer(
        "redis-py pub/sub",
        uvicorn("redis_pubsub"),
        (*FASTAPI, "redis"),
        talk=LOBBY,
        asks=ROOMS,
        redis_url="REDIS_URL",
        processes=2,
    ),
    Peer(
        "litestar channels",
        uvicorn("redis_litestar"),
        (*FASTAPI, "litestar", "redis"),
        talk=LOBBY,
        asks=ROOMS,
        redis_url="REDIS_URL",
        processes=2,
    ),
    Peer(
        "python-socketio",
        uvicorn("redis_socketio"),
        (*FASTAPI, "python-socketio", "redis"),
        talk={
            "path": SOCKET_IO + "lobby",
            "hello": client.frame(b"40"),
            "before": b'42["message","',
            "after": b'"]',
        },
        asks={"path": SOCKET_IO + "{client}", "before": b'420["message","'},
        redis_url="REDIS_URL",
        processes=2,
    ),
]
"""Servers of which each process has a part of a room's members."""
