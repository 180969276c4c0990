"""Several servers of Redis: a cluster, and a primary with a replica and a sentinel."""

import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ..brokers import MakeRooms
from ..redis_server import REDIS_SERVER, need_redis, rooms_at

SLOTS = 16_384


class Node:
    """A server at a free port of this machine."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.port, self.bus = free_ports()
        command = [REDIS_SERVER, *options, "--port", str(self.port), "--dir", str(folder)]
        command += ["--save", "", "--repl-diskless-sync-delay", "0", "--logfile", "log"]
        if "--cluster-enabled" in options:
            command += ["--cluster-port", str(self.bus)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: self.call("PING"))

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def call(self, *command: str | int | bytes) -> Any:
        """Send a command, and return the answer."""
        with closing(Redis(port=self.port)) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """Kill it with -9."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """Three primaries, and a replica of each."""

    def __init__(self, folder: Path) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        self.nodes = [Node(folder / str(number), *options) for number in range(6)]
        self.ids = [node.call("CLUSTER", "MYID").decode() for node in self.nodes]
        first, *others = self.nodes
        for node in others:
            first.call("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus)
        for index, node in enumerate(self.nodes[:3]):
            start, end = SLOTS * index // 3, SLOTS * (index + 1) // 3 - 1
            node.call("CLUSTER", "ADDSLOTSRANGE", start, end)
        for node in self.nodes:
            wait_for(lambda node=node: all(each in known(node) for each in self.ids))
        for node, primary in zip(self.nodes[3:], self.ids[:3], strict=True):
            wait_for(lambda node=node, primary=primary: node.call("CLUSTER", "REPLICATE", primary))
        wait_for(self.is_healthy)

    @property
    def url(self) -> str:
        """The URL of the cluster, with two of its nodes."""
        return f"redis+cluster://{self.nodes[0].address},{self.nodes[4].address}"

    def is_healthy(self) -> bool:
        """Return whether all slots are served, and all replicas follow."""
        for node in self.nodes:
            if b"cluster_state:ok" not in node.call("CLUSTER", "INFO"):
                return False
        replicas = [node.call("INFO", "replication") for node in self.nodes[3:]]
        return all(each["master_link_status"] == "up" for each in replicas)

    def primary_of(self, key: str) -> int:
        """Return the index of the primary that has a key at the start."""
        return self.slot(key) * 3 // SLOTS

    def slot(self, key: str) -> int:
        """Return the slot of a key."""
        return self.nodes[0].call("CLUSTER", "KEYSLOT", key)

    def begin_to_move(self, key: str, to: int) -> None:
        """Let another primary import the slot of a key."""
        slot, source = self.slot(key), self.primary_of(key)
        self.nodes[to].call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        self.nodes[source].call("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])

    def move_keys(self, key: str, to: int) -> None:
        """Move the keys of that slot, one after the other."""
        source, target = self.nodes[self.primary_of(key)], self.nodes[to]
        while found := source.call("CLUSTER", "GETKEYSINSLOT", self.slot(key), 1):
            source.call("MIGRATE", "127.0.0.1", target.port, found[0], 0, 1000)
            time.sleep(0.02)  # so that talk meets a slot of which a part has moved

    def end_move(self, key: str, to: int) -> None:
        """Tell all that the slot has moved."""
        for node in (self.nodes[to], *self.nodes[:3]):
            node.call("CLUSTER", "SETSLOT", self.slot(key), "NODE", self.ids[to])


def known(node: Node) -> str:
    """Return what a node says of all that it knows."""
    nodes = node.call("CLUSTER", "NODES")
    return str(nodes)


@contextmanager
def folder_for_nodes() -> Generator[Path]:
    """Yield a folder; see `need_redis`."""
    need_redis()
    with tempfile.TemporaryDirectory(prefix="redis-", dir="/tmp", ignore_cleanup_errors=True) as it:
        yield Path(it)


@contextmanager
def running_cluster() -> Generator[Cluster]:
    """Run a cluster."""
    with folder_for_nodes() as folder:
        cluster = Cluster(folder)
        try:
            yield cluster
        finally:
            for node in cluster.nodes:
                node.kill()


@contextmanager
def cluster_rooms() -> Generator[MakeRooms]:
    """Rooms that a cluster of their own carries."""
    with running_cluster() as cluster:
        yield lambda **settings: rooms_at(cluster.url, **settings)


@contextmanager
def running_sentinel() -> Generator[tuple[Node, Node, Node]]:
    """Run a primary, its replica, and a sentinel that knows them as the service `chat`."""
    with folder_for_nodes() as folder:
        primary = Node(folder / "primary")
        replica = Node(folder / "replica", "--replicaof", "127.0.0.1", str(primary.port))
        wait_for(lambda: replica.call("INFO", "replication")["master_link_status"] == "up")
        (folder / "sentinel.conf").write_text(
            f"sentinel monitor chat 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds chat 500\n"
        )
        sentinel = Node(folder / "sentinel", str(folder / "sentinel.conf"), "--sentinel")
        wait_for(lambda: sentinel.call("SENTINEL", "REPLICAS", "chat"))
        try:
            yield primary, replica, sentinel
        finally:
            for node in (primary, replica, sentinel):
                node.kill()


def free_ports() -> tuple[int, int]:
    """Return two ports that nobody uses, below those that connections take at random."""
    found = list[int]()
    while len(found) < 2:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found[0], found[1]


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something is true that servers do not tell of, or answer without an error."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a cluster has no other way to tell
