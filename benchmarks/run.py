# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter", "matplotlib", "psutil", "uvloop"]
# ///
"""Measure a freshly rendered project against its peers, all in one run.

    uv run benchmarks/run.py                # everything, three rounds, about half an hour
    uv run benchmarks/run.py --quick        # one short round, to see that it works
    uv run benchmarks/run.py --only bun,this-project

Each server gets one core to itself and the client another. Rounds are interleaved, and what is
reported is the median. Writes `results.json` and `fan-out.svg` beside this file, and prints the
tables for the README. A peer that can't be installed is skipped by name.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import client
import matplotlib as mpl
import psutil
from client import Target
from cookiecutter.main import cookiecutter

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SERVERS = HERE / "servers"
OURS, BASE, LIMIT = "this-project", "tutorial on uvicorn", "bun"

Figures = dict[str, float]
Results = dict[str, dict[str, list[Figures]]]


@dataclass
class Peer:
    """A server to measure, and what it takes to run it and to talk to it."""

    name: str
    command: Callable[[Path, int], list[str | Path]]
    packages: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()  # of npm
    talk: dict[str, Any] = field(default_factory=dict)
    replies: bool = False  # has /ws and /ws_json, too
    turns_of: str = ""  # the application whose event loop is watched, in a run of its own

    def target(self, port: int) -> Target:
        """Return how one talks to it."""
        return Target(port, **self.talk)


def python(where: Path, *arguments: str | Path) -> list[str | Path]:
    """Run something of the peers' own environment."""
    return [where / "peers/bin" / arguments[0], *arguments[1:]]


def uvicorn(module: str) -> Callable[[Path, int], list[str | Path]]:
    """Serve one of the modules beside this file as the tutorial does."""
    return lambda where, port: python(
        where, "uvicorn", "--app-dir", SERVERS, f"{module}:app", "--port", str(port)
    )


FASTAPI = ("fastapi", "uvicorn[standard]")
PEERS = [
    Peer(
        OURS,
        lambda where, port: [where / "my-websocket-app/.venv/bin/my-websocket-app"],
        replies=True,
        turns_of="my_websocket_app.main:app",
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


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def install(peers: list[Peer], where: Path) -> list[Peer]:
    """Prepare what each peer needs, and return those that can run."""
    uv = shutil.which("uv") or "uv"
    able = []
    subprocess.run([uv, "venv", "--quiet", where / "peers"], check=True)
    for peer in peers:
        commands: list[list[str | Path]] = []
        if peer.name == OURS:
            cookiecutter(
                str(HERE.parent), no_input=True, output_dir=str(where), default_config=True
            )
            commands.append(
                [uv, "sync", "--quiet", "--no-dev", "--project", where / "my-websocket-app"]
            )
        if peer.packages:
            pip = [uv, "pip", "install", "--quiet", "--python", where / "peers"]
            commands.append([*pip, *peer.packages])
        if peer.modules:
            modules = [module for each in peers for module in each.modules]
            commands.append(
                ["npm", "install", "--silent", "--no-save", "--prefix", where, *modules]
            )
        try:
            for command in commands:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as failure:
            say(f"skipped {peer.name}: {failure}")
        else:
            able.append(peer)
    return able


class Server:
    """A running peer, and what it has used so far."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """Return seconds of CPU time."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def memory(self) -> int:
        """Return resident bytes."""
        return sum(process.memory_info().rss for process in self._processes())


def watched(peer: Peer) -> Peer:
    """Return the same application in a server that tells the longest turn of its event loop."""
    project = "my-websocket-app/.venv" if peer.name == OURS else "peers"
    return Peer(
        peer.name,
        lambda where, port: [
            *(where / project / "bin/uvicorn", "--app-dir", SERVERS),
            *("turns:app", "--port", str(port)),
        ],
        turns_of=peer.turns_of,
    )


@contextmanager
def running(peer: Peer, where: Path, core: int | None) -> Iterator[tuple[Target, Server]]:
    """Start a peer on a core of its own, and wait until it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (where / "log").open("ab") as log:
        process = subprocess.Popen(
            peer.command(where, port),
            cwd=where,
            env=os.environ
            | {"APP_PORT": str(port), "APP_JOINS_PER_SECOND_PER_IP": "inf"}
            | {"TURNS_OF": peer.turns_of}
            | {"NODE_PATH": str(where / "node_modules")},
            stdout=log,
            stderr=log,
            preexec_fn=lambda: client.start(core),
        )
    try:
        for _ in range(200):
            with suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            if process.poll() is not None:
                raise ConnectionError(f"it ended with {process.returncode}; see {where / 'log'}")
            time.sleep(0.05)
        yield peer.target(port), Server(process.pid)
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                each.kill()
        process.kill()
        process.wait()


async def memory(target: Target, server: Server, count: int, more: str) -> Figures:
    """Measure what an idle connection holds, in a process that has had few others before."""
    async with client.clients(target, 20, more):
        before = server.memory()
        async with client.clients(target, count, more):
            return {"kib_per_connection": (server.memory() - before) / count / 1024}


async def turns(target: Target, members: int, seconds: float) -> Figures:
    """Let a publisher say things to a room, and ask for the longest turn that this caused."""
    async with (
        client.clients(target, members) as (_, tally),
        client.clients(target, 1) as ((us,), _),
    ):
        await client.ask(target, "/turns")
        for _ in range(int(seconds)):
            us.transport.write(target.message(51) * 4)
            await tally.settle()
        return {"longest_turn_ms": float(await client.ask(target, "/turns"))}


async def growth(target: Target, server: Server, seconds: float) -> Figures:
    """Let a member stall, and measure what the others get and what the server holds."""
    before = server.memory()
    figures = await client.stalled(target, 50, seconds)
    return figures | {"growth_mib": (server.memory() - before) / 2**20}


def scenarios(
    peer: Peer, target: Target, server: Server, seconds: float
) -> Iterator[tuple[str, Coroutine[Any, Any, Figures]]]:
    """Return everything that is measured of a peer, the rude part last."""
    for burst in (1, 4, 16):
        yield f"fan-out 500, K={burst}", client.fan_out(target, 500, burst, seconds, server.cpu)
    yield "100 publishers, 100/s", client.paced(target, 500, 100, 100, 3 * seconds)
    if peer.replies:
        reply = Target(target.port, "/ws")
        checked = Target(target.port, "/ws_json")
        document = b'{"user":"zoe","tags":["a","b"],"position":{"x":1.5,"y":-2}}'
        yield "echo", client.echo(reply, 100, b"x" * 64, seconds)
        if peer.name != LIMIT:
            yield "json", client.echo(checked, 100, document, seconds)
        yield "connections", client.connecting(reply, seconds)
    if peer.name in (OURS, BASE, LIMIT):
        for members in (10, 100, 1000, 10_000):
            yield f"fan-out {members}, K=4", client.fan_out(target, members, 4, seconds, server.cpu)
    yield "stalled member", growth(target, server, max(5, seconds))  # to fill all buffers


def measure(
    peer: Peer, where: Path, seconds: float, cores: tuple[int | None, int | None]
) -> dict[str, Figures]:
    """Start a peer and measure everything; memory in processes of their own."""
    found: dict[str, Figures] = {}

    def take(name: str, scenario: Coroutine[Any, Any, Figures]) -> None:
        try:
            found[name] = figures = client.run(scenario)
        except (OSError, ConnectionError) as failure:
            say(f"    {name}: {failure}")
            return
        say(f"    {name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items()))

    for name, more in (("memory, browser", client.DEFLATE), ("memory, plain", "")):
        with running(peer, where, cores[0]) as (target, server):
            take(name, memory(target, server, 1000, more))
    if peer.turns_of:
        with running(watched(peer), where, cores[0]) as (target, _):
            take("longest turn", turns(target, 10_000, max(3, seconds)))
    with running(peer, where, cores[0]) as (target, server):
        for name, scenario in scenarios(peer, target, server, seconds):
            take(name, scenario)
    return found


def median(results: Results, peer: str, scenario: str, figure: str) -> float | None:
    """Return the median over all rounds, `None` if it was not measured."""
    values = [each[figure] for each in results.get(peer, {}).get(scenario, []) if figure in each]
    return statistics.median(values) if values else None


def table(
    results: Results, title: str, columns: list[tuple[str, str, str]], unit: Callable[[float], str]
) -> str:
    """Return a Markdown table of some figures, with ratios to the tutorial's code."""
    rows = [f"| {title} | " + " | ".join(label for label, _, _ in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    for peer in results:
        cells = []
        for _, scenario, figure in columns:
            value, base = (median(results, name, scenario, figure) for name in (peer, BASE))
            ratio = f" ({value / base:.2f}x)" if value is not None and base else ""
            cells.append("" if value is None else unit(value) + ratio)
        if any(cells):
            name = f"**{peer}**" if peer == OURS else peer
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def tables(results: Results) -> str:
    """Return all tables."""
    bursts = [(f"K={burst}", f"fan-out 500, K={burst}") for burst in (1, 4, 16)]
    sizes = [(f"{members:,}", f"fan-out {members}, K=4") for members in (10, 100, 1000, 10_000)]
    paced, rude = "100 publishers, 100/s", "stalled member"
    thousands = "{:,.0f}k".format
    rate = "deliveries_per_second"
    return "\n\n".join(
        [
            table(
                results,
                "deliveries a second, 500 members",
                [(k, s, rate) for k, s in bursts],
                lambda v: thousands(v / 1000),
            ),
            table(
                results,
                "server CPU, µs a delivery",
                [(k, s, "cpu_us") for k, s in bursts],
                "{:.2f}".format,
            ),
            table(
                results,
                "the client's share of its core",
                [(k, s, "client_share") for k, s in bursts],
                "{:.0%}".format,
            ),
            table(
                results,
                "500 members, 100 publishers, 100 messages/s",
                [
                    ("p50, ms", paced, "p50_ms"),
                    ("p99, ms", paced, "p99_ms"),
                    ("delivered", paced, "delivered"),
                ],
                "{:.3g}".format,
            ),
            table(
                results,
                "one member stalls",
                [
                    ("delivered to the others", rude, "delivered"),
                    ("growth, MiB", rude, "growth_mib"),
                ],
                "{:.3g}".format,
            ),
            table(
                results,
                "100 clients",
                [
                    ("echo/s", "echo", "messages_per_second"),
                    ("JSON/s", "json", "messages_per_second"),
                    ("connections/s", "connections", "connections_per_second"),
                ],
                "{:,.0f}".format,
            ),
            table(
                results,
                "KiB a connection",
                [
                    ("offers compression", "memory, browser", "kib_per_connection"),
                    ("doesn't", "memory, plain", "kib_per_connection"),
                ],
                "{:.1f}".format,
            ),
            table(
                results,
                "4 messages to 10,000 members",
                [("the longest turn of the event loop, ms", "longest turn", "longest_turn_ms")],
                "{:.3g}".format,
            ),
            table(
                results,
                "deliveries a second by members, K=4",
                [(k, s, rate) for k, s in sizes],
                lambda v: thousands(v / 1000),
            ),
        ]
    )


def plot(results: Results, path: Path) -> None:
    """Draw deliveries a second for each peer and burst."""
    mpl.rcParams["svg.hashsalt"] = "fan-out"
    names = list(results)[::-1]
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(names) + 1.2))
    for index, (burst, shade) in enumerate(((16, "#0b5563"), (4, "#2a9d8f"), (1, "#a8d5ba"))):
        values = [
            (median(results, name, f"fan-out 500, K={burst}", "deliveries_per_second") or 0) / 1000
            for name in names
        ]
        places = [place + (1 - index) * -0.27 for place in range(len(names))]
        bars = axes.barh(places, values, height=0.25, color=shade, label=f"K = {burst}")
        axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("thousand deliveries a second: 500 members, K messages back to back, one core")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", reverse=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def machine() -> dict[str, str]:
    """Say where the figures were made."""
    model = platform.processor() or "unknown"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(
            (line.partition(": ")[2] for line in lines if line.startswith("model name")), model
        )
    return {
        "processor": f"{os.cpu_count()} x {model}",
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of half a second each")
    parser.add_argument("--only", help="names of peers, separated by commas")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    options = parser.parse_args()
    rounds, seconds = (1, 0.5) if options.quick else (options.rounds, options.seconds)
    wanted = [peer for peer in PEERS if not options.only or peer.name in options.only.split(",")]
    many = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    first, second, *_ = sorted(os.sched_getaffinity(0)) if many else (None, None)
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        able = install(wanted, Path(folder))
        client.start(second)
        for number in range(rounds):
            for peer in able:
                say(f"round {number + 1} of {rounds}: {peer.name}")
                try:
                    found = measure(peer, Path(folder), seconds, (first, second))
                except (OSError, ConnectionError) as failure:
                    say(f"    skipped: {failure}")
                    continue
                for scenario, figures in found.items():
                    results.setdefault(peer.name, {}).setdefault(scenario, []).append(figures)
    text = tables(results)
    options.output.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), "rounds": rounds, "seconds": seconds, "results": results}
    (options.output / "results.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    plot(results, options.output / "fan-out.svg")
    print(text)


if __name__ == "__main__":
    main()
