# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter", "matplotlib", "psutil", "uvloop"]
# ///
"""Measure a freshly rendered project against its peers, all in one run.

    uv run benchmarks/run.py                # everything, three rounds, about half an hour
    uv run benchmarks/run.py --quick        # one short round, to see that it works
    uv run benchmarks/run.py --only bun,this-project
    uv run benchmarks/run.py --tables       # measure nothing; rewrite tables and plot

The server runs on one core, the clients on another. Rounds are interleaved; the tables show
medians. Writes `results.json`, `fan-out.svg` and the tables of `README.md`. With `--quick` or
`--only`, all of it goes to a new folder instead. A peer that cannot be installed is skipped and
named.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import client
import psutil
import report
from client import Target
from cookiecutter.main import cookiecutter
from peers import BASE, JOINS, LIMIT, OURS, PEERS, SERVERS, Peer
from report import Figures, Results

HERE = Path(__file__).parent

Cores = tuple[int | None, int | None]
Measure = Callable[[Peer, Path, float, int | None], "Findings"]


def progress(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def install_commands(peer: Peer, modules: list[str], where: Path) -> Iterator[list[str | Path]]:
    """Yield the commands that install what a peer needs."""
    uv = shutil.which("uv") or "uv"
    if peer.project:
        folder = where / peer.project["project_slug"]
        yield [uv, "sync", "--quiet", "--no-dev", "--project", folder]
    if peer.packages:
        yield [uv, "pip", "install", "--quiet", "--python", where / "peers", *peer.packages]
    if peer.modules:
        yield ["npm", "install", "--silent", "--no-save", "--prefix", where, *modules]


def render(answers: dict[str, str], where: Path) -> None:
    """Render the project with these answers, and the default ones besides."""
    cookiecutter(
        str(HERE.parent),
        no_input=True,
        extra_context=answers,
        output_dir=str(where),
        default_config=True,
        overwrite_if_exists=True,  # two peers may share a project
    )


def install(peers: Sequence[Peer], where: Path) -> list[Peer]:
    """Render the project, install all peers, and return those that can run."""
    for peer in peers:
        if peer.project:
            render(peer.project, where)
    subprocess.run([shutil.which("uv") or "uv", "venv", "--quiet", where / "peers"], check=True)
    modules = [module for peer in peers for module in peer.modules]
    able = []
    for peer in peers:
        try:
            for command in install_commands(peer, modules, where):
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as failure:
            progress(f"skipped {peer.name}: {failure}")
        else:
            able.append(peer)
    return able


class Server:
    """CPU time, memory and connections of a running peer."""

    def __init__(self, *pids: int) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]

    def _processes(self) -> list[psutil.Process]:
        return [
            process for root in self._roots for process in (root, *root.children(recursive=True))
        ]

    def cpu(self) -> float:
        """Return seconds of CPU time."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def memory(self) -> int:
        """Return resident bytes."""
        return sum(process.memory_info().rss for process in self._processes())

    def connections(self, ports: tuple[int, ...]) -> list[int]:
        """Return how many clients each process has, without those that have none."""
        counts = [
            sum(each.status == psutil.CONN_ESTABLISHED and each.laddr[1] in ports for each in open)
            for open in (process.net_connections("tcp4") for process in self._processes())
        ]
        return [count for count in counts if count]

    def kill(self) -> None:
        """End all processes."""
        with suppress(psutil.NoSuchProcess):
            for process in self._processes():
                process.kill()


def watched(peer: Peer) -> Peer:
    """Return the same application in a server that reports the longest turn of its event loop."""
    project = f"{peer.project['project_slug']}/.venv" if peer.project else "peers"
    return replace(
        peer,
        command=lambda where, port: [
            *(where / project / "bin/uvicorn", "--app-dir", SERVERS),
            *("turns:app", "--port", str(port)),
        ],
    )


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Try to connect for at most ten seconds."""
    for _ in range(200):
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    lines = log.read_text("utf-8", "replace").splitlines()
    raise ConnectionError("\n".join(["it does not listen; the end of its log:", *lines[-10:]]))


@contextmanager
def listening(
    command: Sequence[str | Path],
    port: int,
    where: Path,
    core: int | None,
    environment: dict[str, str],
) -> Iterator[int]:
    """Start a program on a core of its own, wait until it listens, and return its process id."""
    log = where / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=where,
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: client.start(core),
        )
    server = Server(process.pid)
    try:
        wait_until_it_listens(port, process, log)
        yield process.pid
    finally:
        server.kill()
        process.wait()


@contextmanager
def running(peer: Peer, where: Path, core: int | None) -> Iterator[tuple[Target, Server]]:
    """Start all processes of a peer on one core."""
    ports = [free_port() for _ in range(peer.processes)]
    more = {"TURNS_OF": peer.turns_of, "NODE_PATH": str(where / "node_modules")}
    with ExitStack() as stack:
        pids = []
        for port in ports:
            environment = {"APP_PORT": str(port)} | more | peer.environment
            program = listening(peer.command(where, port), port, where, core, environment)
            pids.append(stack.enter_context(program))
        yield peer.target(*ports), Server(*pids)


async def memory(target: Target, server: Server, count: int, more: str) -> Figures:
    """Measure what an idle connection holds, in a process that has had few others before."""
    async with client.clients(target, 20, more):
        before = server.memory()
        async with client.clients(target, count, more):
            return {"kib_per_connection": (server.memory() - before) / count / 1024}


async def turns(target: Target, members: int, seconds: float) -> Figures:
    """Publish to a room every now and then, and ask for the longest turn of the event loop."""
    async with (
        client.clients(target, members) as (_, tally),
        client.clients(target, 1) as ((publisher,), _),
    ):
        await client.ask(target, "/turns")
        for _ in range(int(seconds)):
            publisher.transport.write(target.message(51) * 4)
            await tally.settle()
        return {"longest_turn_ms": float(await client.ask(target, "/turns"))}


async def joins(target: Target, server: Server, count: int) -> Figures:
    """Let many members that read events join a room; measure what a join costs the server."""
    before = server.cpu()
    async with client.clients(target, count, client.EVENTS) as (_, tally):
        return {
            "kib_per_join": tally.bytes / count / 1024,
            "cpu_ms_per_join": 1000 * (server.cpu() - before) / count,
        }


async def growth(target: Target, server: Server, seconds: float) -> Figures:
    """Let a member stall; measure what the others get and how the server's memory grows."""
    before = server.memory()
    figures = await client.stalled(target, 50, seconds)
    return figures | {"growth_mib": (server.memory() - before) / 2**20}


def scenarios(
    peer: Peer, target: Target, server: Server, seconds: float
) -> Iterator[tuple[str, Coroutine[Any, Any, Figures]]]:
    """Yield everything that is measured of a peer; the stalled member last."""
    clocks = {"cpu_us": server.cpu}
    for burst in (1, 4, 16) if peer.has_room else ():
        yield f"fan-out 500, K={burst}", client.fan_out(target, 500, burst, seconds, clocks)
    if peer.has_room:
        yield "100 publishers, 100/s", client.paced(target, 500, 100, 100, 3 * seconds)
    if peer.replies:
        reply, checked = replace(target, path="/ws"), replace(target, path="/ws_json")
        document = b'{"user":"zoe","tags":["a","b"],"position":{"x":1.5,"y":-2}}'
        yield "echo", client.echo(reply, 100, b"x" * 64, seconds, clocks)
        if peer.has_json:
            yield "json", client.echo(checked, 100, document, seconds, clocks)
        yield "connections", client.connecting(reply, seconds)
        yield "20 floods", client.flooded(reply, 20, 3 * seconds)
    if peer.name in (OURS, BASE, LIMIT):
        for members in (10, 100, 1000, 10_000):
            yield f"fan-out {members}, K=4", client.fan_out(target, members, 4, seconds, clocks)
    if peer.has_room:
        yield "stalled member", growth(target, server, max(5, seconds))  # to fill all buffers


class Findings(dict[str, Figures]):
    """What has been measured of a peer, by scenario."""

    def take(self, name: str, scenario: Coroutine[Any, Any, Figures]) -> None:
        """Run a scenario; one that fails is named and left out."""
        try:
            self[name] = figures = client.run(scenario)
        except (OSError, ConnectionError) as failure:
            progress(f"    {name}: {failure}")
            return
        values = ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
        progress(f"    {name}: {values}")


def measure(peer: Peer, where: Path, seconds: float, core: int | None) -> Findings:
    """Start a peer and measure everything; memory in processes of their own."""
    found = Findings()
    memories = {"memory, browser": client.DEFLATE, "memory, plain": ""} if peer.has_room else {}
    for name, more in memories.items():
        with running(peer, where, core) as (target, server):
            found.take(name, memory(target, server, 1000, more))
    if peer.turns_of:
        with running(watched(peer), where, core) as (target, _):
            found.take("longest turn", turns(target, 10_000, max(3, seconds)))
    if peer.name == OURS:
        for each in (20, 1):
            with running(peer, where, core) as (target, server):
                clocks = {"cpu_us": server.cpu}
                rooms = client.several_rooms(target, each, seconds, clocks, server.memory)
                found.take(f"{each} rooms a connection", rooms)
        for name, (count, limit) in JOINS.items():
            more = {"APP_PRESENCE_LIMIT": str(limit)}
            changed = replace(peer, environment=peer.environment | more)
            with running(changed, where, core) as (target, server):
                found.take(name, joins(target, server, count))
    with running(peer, where, core) as (target, server):
        for name, scenario in scenarios(peer, target, server, seconds):
            found.take(name, scenario)
    return found


def two_cores() -> Cores:
    """Return a core for the server and one for the clients, where there are two to choose."""
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return None, None
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def measure_all(
    peers: Sequence[Peer], where: Path, rounds: int, seconds: float, measure: Measure = measure
) -> Results:
    """Measure all peers in turn, and again in each round."""
    server_core, client_core = two_cores()
    able = install(peers, where)
    client.start(client_core)
    results: Results = {}
    for number in range(rounds):
        for peer in able:
            progress(f"round {number + 1} of {rounds}: {peer.name}")
            try:
                found = measure(peer, where, seconds, server_core)
            except (OSError, ConnectionError) as failure:
                progress(f"    skipped: {failure}")
                continue
            for scenario, figures in found.items():
                results.setdefault(peer.name, {}).setdefault(scenario, []).append(figures)
    return results


def machine() -> dict[str, str]:
    """Describe the machine."""
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


def parse_options(
    description: str | None, peers: Sequence[Peer], seconds: float
) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round of half a second each")
    parser.add_argument("--only", help="names of peers, separated by commas")
    parser.add_argument("--output", type=Path, help="folder for the results")
    parser.add_argument("--tables", action="store_true", help="use the results that are there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    if options.output is None:
        partial = not options.tables and (options.quick or options.only)
        options.output = Path(tempfile.mkdtemp(prefix="benchmark-")) if partial else HERE
    options.peers = [
        peer for peer in peers if not options.only or peer.name in options.only.split(",")
    ]
    return options


def measure_and_write(
    options: argparse.Namespace, name: str, measure: Measure = measure, **facts: str
) -> None:
    """Measure what the command line asks for, and write it to a file of this name.

    `facts` describe the machine further.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = measure_all(options.peers, Path(folder), options.rounds, options.seconds, measure)
    document = {
        "machine": machine() | facts,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "results": results,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / name).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def main() -> None:
    """Measure, then write results, plot and tables."""
    options = parse_options(__doc__, PEERS, 3.0)
    if not options.tables:
        measure_and_write(options, "results.json")
    report.write(options.output)
    progress(f"written: {options.output}")


if __name__ == "__main__":
    main()
