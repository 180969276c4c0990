"""Connections to Redis: to one server, to the primary that sentinels know, or to a cluster."""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from .scripts import SCRIPTS, SERVER, Command

ANSWER_SECONDS = 3.0
"""Seconds to wait for a connection, or for all answers to one pipeline."""
REDIRECT_SECONDS = 0.02
"""Seconds between two attempts, while the slot of a room moves to another node."""
OLDEST = (6, 2)
"""The oldest supported version of Redis."""

Address = tuple[str, int]

FAILURES = (RedisError, OSError, EOFError, TimeoutError)
"""Exceptions of a connection."""
MOVED_ON = (ClusterDownError, MasterDownError, NoScriptError, ReadOnlyError)
"""Errors of a server that has restarted or is no longer the primary; reconnecting may help."""
REDIRECTS = (AskError, TryAgainError)
"""Errors of a node of a cluster that does not have the key, or not all of its keys."""

SEVERAL = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>cluster|sentinel)://(?P<user>.*@)?(?P<hosts>[^/?#]*)"
    r"(?P<path>(?:/[^?#]*)?)(?P<query>(?:\?.*)?)"
)
"""A URL of several servers: nodes of a cluster, or sentinels, which are Redis's own watchers."""
KEY_AT = {"EVALSHA": 3, "XREAD": 4, "TIME": 0}
"""Where the first key of a command is, if it does not follow the name; any node knows the time."""
PORTS = {"cluster": 6379, "sentinel": 26379}


class Servers:
    """Where Redis is, by a URL."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for an invalid URL of several servers."""
        self.kind = self.service = ""
        self.urls = [url]
        """A URL of each server, as redis-py knows them."""
        self.addresses: list[Address] = []
        """The sentinels, or known nodes of the cluster."""
        found = SEVERAL.fullmatch(url)
        if found is None:
            return
        self.kind, path = found["kind"], found["path"]
        if self.kind == "sentinel":
            self.service, _, database = path[1:].partition("/")
            path = f"/{database}"
        if (self.kind == "sentinel") != bool(self.service) or "%" in self.service:
            raise ValueError("sentinels need the name of a service, as in /service/0")
        hosts, user = found["hosts"].split(","), found["user"] or ""
        self.urls = [f"{found['scheme']}://{user}{host}{path}{found['query']}" for host in hosts]
        for host in hosts:
            parts = urlsplit(f"//{host}")
            if not parts.hostname or parts.port == 0:
                raise ValueError("there is a host, or a port, missing")
            self.addresses.append((parts.hostname, parts.port or PORTS[self.kind]))

    def link(self) -> "Link":
        """Return a connection that is not open yet."""
        if self.kind == "cluster":
            return ClusterLink(self)
        return SentinelLink(self) if self.kind == "sentinel" else Link(self.urls[0])


class Link:
    """A connection to Redis. It never retries: only the caller knows what is safe to repeat."""

    def __init__(self, url: str, **changes: Any) -> None:
        """`changes` replace options of the URL. Raises an exception of any type for an invalid URL."""
        options: dict[str, Any] = dict(parse_url(url)) | changes
        kind = options.pop("connection_class", Connection)
        # We use one timeout for all answers. redis-py's is set for each answer, which is slow,
        # and its `wait_for` can miss a cancellation before Python 3.12.
        options |= {"driver_info": None, "socket_timeout": None, "socket_connect_timeout": None}
        options |= {"retry_on_timeout": False, "decode_responses": False, "protocol": 2}
        # No retries: redis-py would repeat a command whose answer is late, and send a message twice.
        self._connection = kind(retry=Retry(NoBackoff(), 0), **options)
        self._server = ""  # the name of this instance; a restart or a failover leads to another

    async def connect(self) -> None:
        """Connect, check the version, and load the scripts, which a restarted Redis has lost.

        Raises one of `FAILURES`.
        """
        await self.open()
        info = (await self.request("INFO", "server")).decode(errors="replace")
        fields = dict(re.findall(r"(redis_version|run_id):(\S+)", info))
        version = fields.get("redis_version", "")
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise RedisError(f"Redis {version} is too old, {oldest} is needed")
        self._server = fields.get("run_id", "")[:16]
        for answer in await self.pipeline([("SCRIPT", "LOAD", script) for script in SCRIPTS]):
            if isinstance(answer, ResponseError):
                raise answer

    async def open(self) -> None:
        """Connect only; raises one of `FAILURES`."""
        async with asyncio.timeout(ANSWER_SECONDS):
            await self._connection.connect()

    async def request(self, *command: str | bytes | int) -> Any:
        """Send a command and return the answer; raises one of `FAILURES`."""
        (answer,) = await self.pipeline([command])
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def pipeline(self, commands: Iterable[Command], seconds: float = 0.0) -> list[Any]:
        """Send commands together and return the answers; any of them may be a `ResponseError`.

        `SERVER` in them becomes the name of the instance that runs them. Raises `TimeoutError` if
        the answers don't arrive within some seconds, by default `ANSWER_SECONDS`.
        """
        commands = list(commands)
        async with asyncio.timeout(seconds or ANSWER_SECONDS):
            await self.send(commands)
            return [await self.receive() for _ in commands]

    async def send(self, commands: Iterable[Command]) -> None:
        """Send commands without waiting for the answers."""
        named = ([self._server if part is SERVER else part for part in each] for each in commands)
        await self._connection.send_packed_command(self._connection.pack_commands(named))

    async def receive(self) -> Any:
        """Wait for an answer, which may be a `ResponseError`."""
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            # Before Redis 7, this is a part of what a script says.
            return ReadOnlyError(str(error)) if "-READONLY " in str(error) else error

    async def close(self) -> None:
        """Close the connection without waiting for the server."""
        await self._connection.disconnect(nowait=True)


class SentinelLink(Link):
    """A connection to the primary that sentinels name. A failover leads to another."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(servers.urls[0])
        self._servers = servers

    async def open(self) -> None:
        """Ask one sentinel after the other, and connect; raises one of `FAILURES`."""
        reason: Exception = RedisError(f"no sentinel knows the service {self._servers.service}")
        url = self._servers.urls[0]
        for host, port in self._servers.addresses:
            sentinel = Link(url, host=host, port=port, db=0, username=None, password=None)
            try:
                await sentinel.open()
                command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._servers.service)
                if found := await sentinel.request(*command):
                    self._connection.host, self._connection.port = found[0].decode(), int(found[1])
                    break
            except FAILURES as error:
                reason = error
            finally:
                await sentinel.close()
        else:
            raise reason
        await super().open()


class ClusterLink(Link):
    """Connections to the nodes of a cluster: each command goes to the one that has its key.

    Channels are the same on all nodes, so `send` and `receive` use one of them; see `Link`.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._nodes: dict[Address, Link] = {}
        self._ranges: list[tuple[int, Address]] = []  # the first slot of each, and its primary

    async def connect(self) -> None:
        """Connect to one node, and learn which has what; raises one of `FAILURES`."""
        reason: Exception = RedisError("there is no node")
        for address in [*self._servers.addresses]:
            try:
                await self._learn(address)
            except FAILURES as error:
                reason = error
            else:
                self._first = await self._node(self._ranges[0][1])
                return
        raise reason

    async def pipeline(self, commands: Iterable[Command], seconds: float = 0.0) -> list[Any]:
        """See `Link`. Redirections are followed; a node that is down raises one of `FAILURES`."""
        commands = list(commands)
        answers: list[Any] = [None] * len(commands)
        rest = [*range(len(commands))]
        async with asyncio.timeout(seconds or ANSWER_SECONDS):
            while rest:
                groups: dict[Address, list[int]] = {}
                for index in rest:
                    groups.setdefault(self._address(commands[index]), []).append(index)
                done = await asyncio.gather(
                    *(self._run(*each, commands) for each in groups.items()), return_exceptions=True
                )
                for group, result in zip(groups.values(), done, strict=True):
                    if isinstance(result, BaseException):
                        raise result
                    for index, answer in zip(group, result, strict=True):
                        answers[index] = answer
                for index in rest:
                    error = answers[index]
                    if isinstance(error, MovedError):
                        await self._learn(error.node_addr)
                    elif isinstance(error, AskError):
                        node = await self._node(error.node_addr)
                        _, answers[index] = await node.pipeline([("ASKING",), commands[index]])
                if rest := [index for index in rest if isinstance(answers[index], REDIRECTS)]:
                    await asyncio.sleep(REDIRECT_SECONDS)
        return answers

    async def send(self, commands: Iterable[Command]) -> None:
        await self._first.send(commands)

    async def receive(self) -> Any:
        return await self._first.receive()

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def _node(self, address: Address) -> Link:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = Link(self._servers.urls[0], host=host, port=port)
            try:
                await node.connect()
            except BaseException:
                await node.close()
                raise
            self._nodes[address] = node
        return node

    async def _learn(self, address: Address) -> None:
        """Ask a node which nodes there are, and which slots they have."""
        node = await self._node(address)
        ranges = sorted(await node.request("CLUSTER", "SLOTS"))
        if not ranges:
            raise ClusterDownError("the cluster has no slots")
        found = [
            [((host or b"").decode() or address[0], port) for host, port, *_ in each[2:]]
            for each in ranges
        ]
        self._ranges = [(each[0], nodes[0]) for each, nodes in zip(ranges, found, strict=True)]
        self._servers.addresses = [*dict.fromkeys(each for nodes in found for each in nodes)]

    def _address(self, command: Command) -> Address:
        """Return the node that has the first key of a command."""
        slot = key_slot(str(command[KEY_AT.get(str(command[0]), 1)]).encode())
        index = bisect_right(self._ranges, slot, key=itemgetter(0)) - 1
        return self._ranges[max(0, index)][1]

    async def _run(self, address: Address, group: list[int], commands: list[Command]) -> list[Any]:
        node = await self._node(address)
        return await node.pipeline(commands[index] for index in group)


def raise_moved_on(answers: Iterable[Any]) -> None:
    """Raise the first answer that says that another connection is needed."""
    for answer in answers:
        if isinstance(answer, MOVED_ON):
            raise answer
