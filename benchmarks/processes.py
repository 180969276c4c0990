# /// script
# requires-python = ">=3.11"
# dependencies = ["cookiecutter", "matplotlib", "psutil", "uvloop"]
# ///
"""Measure rooms that span two processes, over Redis, against one process in memory.

    uv run benchmarks/processes.py            # three rounds, about ten minutes
    uv run benchmarks/processes.py --quick    # one short round, to see that it works
    uv run benchmarks/processes.py --tables   # measure nothing; rewrite tables

All processes of a server and Redis run on one core, the clients on another. Otherwise as
`run.py`; writes `processes.json`. Needs `redis-server` and `redis-cli`.
"""

import json
import subprocess
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import client
import report
from client import Clocks, Target
from peers import ACROSS, IN_MEMORY, Peer
from report import Column, Figures, Results, integer, one_digit, percent, thousands
from run import (
    Findings,
    Server,
    free_port,
    listening,
    measure_and_write,
    parse_options,
    progress,
    running,
)

MEMBERS, PUBLISHERS = 500, 64
FILE = "processes.json"
PER_CPU, REDIS_PER_MESSAGE = "deliveries_per_cpu_second", "redis_us_per_message"


def redis_version() -> str:
    """Return the version of the Redis that is installed."""
    text = subprocess.run(["redis-server", "--version"], capture_output=True, text=True).stdout
    return text.partition(" v=")[2].partition(" ")[0]


@contextmanager
def redis_servers(where: Path, core: int | None, count: int) -> Iterator[tuple[str, Server]]:
    """Start an empty Redis that writes nothing to disk, or a cluster of several; return its URL."""
    with ExitStack() as stack:
        pids, nodes = [], []
        for port in (free_port() for _ in range(count)):
            command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
            if count > 1:
                command += ["--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf"]
                command += ["--cluster-port", str(free_port())]
            pids.append(stack.enter_context(listening(command, port, where, core, {})))
            nodes.append(f"127.0.0.1:{port}")
        if count > 1:
            make = ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"]
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
            yield f"redis+cluster://{','.join(nodes)}", Server(*pids)
        else:
            yield f"redis://{nodes[0]}/0", Server(*pids)


async def wait_until_all_accept(target: Target, servers: Server, count: int) -> None:
    """Wait until so many processes accept connections; workers start after their port listens."""
    for _ in range(20):
        async with client.clients(target, 50):
            if len(servers.connections(target.ports)) == count:
                return
    raise ConnectionError("not all processes accept connections")


async def spread(target: Target, servers: Server) -> Figures:
    """Let members join; return what share of them the process with most of them has."""
    async with client.clients(target, MEMBERS):
        counts = servers.connections(target.ports)
        return {"largest_share": max(counts) / sum(counts)}


async def fan_out(target: Target, burst: int, seconds: float, clocks: Clocks) -> Figures:
    """Publish to members in all processes."""
    figures = await client.fan_out(target, MEMBERS, burst, seconds, clocks)
    return figures | {
        PER_CPU: 1e6 / figures["cpu_us"],
        REDIS_PER_MESSAGE: MEMBERS * figures["redis_cpu_us"],
    }


def scenarios(
    peer: Peer, target: Target, servers: Server, redis: Server, seconds: float
) -> Iterator[tuple[str, Coroutine[Any, Any, Figures]]]:
    """Yield everything that is measured of a peer."""
    clocks = {"cpu_us": servers.cpu, "redis_cpu_us": redis.cpu}
    yield "spread", spread(target, servers)
    for burst in (1, 4, 16):
        yield f"fan-out, K={burst}", fan_out(target, burst, seconds, clocks)
    yield "20/s", client.paced(target, MEMBERS, 2, 20, 5 * seconds)
    asking = replace(target, **peer.asks)
    yield "publishing", client.publishing(asking, PUBLISHERS, seconds, clocks)
    if peer.project:
        yield "10,000 rooms", client.many_rooms(target, 10_000, 50, 5 * seconds, clocks)


def measure(peer: Peer, where: Path, seconds: float, core: int | None) -> Findings:
    """Start a peer and an empty Redis, and measure everything."""
    found = Findings()
    with redis_servers(where, core, peer.redis_nodes) as (url, redis):
        more = {peer.redis_url: url} if peer.redis_url else {}
        peer = replace(peer, environment=peer.environment | more)
        with running(peer, where, core) as (target, servers):
            count = peer.processes * peer.workers
            client.run(wait_until_all_accept(target, servers, count))
            for name, scenario in scenarios(peer, target, servers, redis, seconds):
                found.take(name, scenario)
    return found


BURSTS = {f"K={burst}": f"fan-out, K={burst}" for burst in (1, 4, 16)}
with_ratio = partial(report.with_ratio, to=IN_MEMORY)


def with_added(results: Results, peer: str, column: Column) -> str:
    """Return a figure, and how much more it is than in memory."""
    value, base = (report.median(results, name, column) for name in (peer, IN_MEMORY))
    if value is None:
        return ""
    return column.unit(value) + (f" ({value - base:+.1f})" if base and column.has_ratio else "")


TABLES = {
    "processes-fan-out": [
        *(Column(k, name, report.RATE, thousands) for k, name in BURSTS.items()),
        Column("largest process has", "spread", "largest_share", percent, has_ratio=False),
    ],
    "processes-cpu": [
        *(Column(k, name, PER_CPU, thousands) for k, name in BURSTS.items()),
        *(
            Column(f"Redis, {k}, µs", name, REDIS_PER_MESSAGE, integer, has_ratio=False)
            for k, name in BURSTS.items()
        ),
    ],
    "processes-latency": [
        Column("p50, ms", "20/s", "p50_ms", one_digit),
        Column("p99, ms", "20/s", "p99_ms", one_digit),
        Column("delivered", "20/s", "delivered", percent, has_ratio=False),
    ],
    "processes-publishing": [
        Column("messages/s", "publishing", "messages_per_second", integer),
        Column("CPU, µs", "publishing", "cpu_us", integer),
        Column("Redis, µs", "publishing", "redis_cpu_us", integer, has_ratio=False),
        Column("delivered", "publishing", "delivered", percent, has_ratio=False),
    ],
    "processes-rooms": [
        Column("Redis, of a core", "10,000 rooms", "redis_share", "{:.1%}".format, has_ratio=False),
        Column("p50, ms", "10,000 rooms", "p50_ms", one_digit, has_ratio=False),
        Column("p99, ms", "10,000 rooms", "p99_ms", one_digit, has_ratio=False),
        Column("delivered", "10,000 rooms", "delivered", percent, has_ratio=False),
    ],
    "processes-client": [
        Column(k, name, "client_share", percent, has_ratio=False)
        for k, name in {**BURSTS, "publishing": "publishing"}.items()
    ],
}


def write(folder: Path) -> None:
    """Write the tables for the results of a folder."""
    document = json.loads((folder / FILE).read_text("utf-8"))
    by_name = {"processes-conditions": report.conditions(document, "processes.py")}
    for name, columns in TABLES.items():
        cell = with_added if name == "processes-latency" else with_ratio
        by_name[name] = report.table(document["results"], columns, cell)
    report.fill_page(folder, by_name)


def main() -> None:
    """Measure, then write results and tables."""
    options = parse_options(__doc__, ACROSS, 2.0)
    if not options.tables:
        measure_and_write(options, FILE, measure, redis=redis_version())
    write(options.output)
    progress(f"written: {options.output}")


if __name__ == "__main__":
    main()
