"""Connections to Redis: to one server, to the primary that sentinels know, or to a cluster."""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
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

from .scripts import SCRIPTS, SERVER

ANSWER_SECONDS = 3.0
"""Seconds to wait for a connection, or for all answers to one pipeline."""
REDIRECT_SECONDS = 0.02
"""Seconds between two attempts, while the slot of a room moves to another node."""
OLDEST = (6, 2)
"""The oldest supported version of Redis."""

FORCED: dict[str, Any] = {
    "retry_on_timeout": False,
    "decode_responses": False,
    "protocol": 2,
    "driver_info": None,
}
"""Options of redis-py that a URL can't change."""

Command = Sequence[str | bytes | int]
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
KEYLESS = {"INFO", "PING", "PUBLISH", "SCRIPT", "TIME"}
"""Commands without a key."""
KEY_AT = {"EVALSHA": 3, "XREAD": 4}
"""Where the first key of a command is, if it does not follow the name."""
PORTS = {"cluster": 6379, "sentinel": 26379}


class Servers:
    """Where Redis is, by a URL."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for an invalid URL of several servers."""
        self.kind = self.service = ""
        self.urls = [url]
        """A URL of each server, as redis-py knows them."""
        self.addresses: list[Address] = []
        """Known nodes of the cluster."""
        found = SEVERAL.fullmatch(url)
        if found is None:
            return
        self.kind, path = found["kind"], found["path"]
        if self.kind == "sentinel":
            self.service, _, database = path[1:].partition("/")
            path = f"/{database}"
        if (self.kind == "sentinel") != bool(self.service) or "%" in self.service:
            raise ValueError("sentinels need the name of a service, as in /service/0")
        self.addresses = [address_of(host, PORTS[self.kind]) for host in found["hosts"].split(",")]
        self.urls = [
            f"{found['scheme']}://{found['user'] or ''}{name_of(each)}{path}{found['query']}"
            for each in self.addresses
        ]

    def link(self) -> "Link":
        """Return a connection that is not open yet."""
        if self.kind == "cluster":
            return ClusterLink(self)
        return SentinelLink(self) if self.kind == "sentinel" else Link(self.urls[0])


def address_of(host: str, port: int) -> Address:
    """Return host and port; raises `ValueError`."""
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.port == 0:
        raise ValueError("there is a host, or a port, missing")
    return parts.hostname, parts.port or port


def name_of(address: Address) -> str:
    """Return host and port as they stand in a URL."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Link:
    """A connection to Redis. It never retries: only the caller knows what is safe to repeat."""

    def __init__(self, url: str, **changes: Any) -> None:
        """`changes` replace options of the URL. Raises an exception of any type for an invalid URL."""
        options: dict[str, Any] = dict(parse_url(url)) | changes
        kind = options.pop("connection_class", Connection)
        # We use one timeout for all answers. redis-py's is set for each answer, which is slow,
        # and its `wait_for` can miss a cancellation before Python 3.12.
        options |= FORCED | {"socket_timeout": None, "socket_connect_timeout": None}
        # No retries: redis-py would repeat a command whose answer is late, and send a message twice.
        self._connection = kind(retry=Retry(NoBackoff(), 0), **options)
        self._server = ""  # the name of this instance; a restart or a failover leads to another

    async def connect(self) -> None:
        """Connect, check the version, and load the scripts, which a restarted Redis has lost.

        Raises one of `FAILURES`.
        """
        await self.open()
        self._server, version = read_info(await self.request("INFO", "server"))
        if version < OLDEST:
            found, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
            raise RedisError(f"Redis {found} is too old, {oldest} is needed")
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

        `SERVER` in them becomes the name of the instance that runs them. A command without a key
        runs after the one before it, where that one does. Raises `TimeoutError` if the answers
        don't arrive within some seconds, by default `ANSWER_SECONDS`.
        """
        commands = list(commands)
        async with asyncio.timeout(seconds or ANSWER_SECONDS):
            await self.send(commands)
            return [await self.receive() for _ in commands]

    async def send(self, commands: Iterable[Command]) -> None:
        """Send commands without waiting for the answers."""
        packed = self._connection.pack_commands(named(each, self._server) for each in commands)
        await self._connection.send_packed_command(packed)

    async def receive(self) -> Any:
        """Wait for an answer, which may be a `ResponseError`."""
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

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
        self._connection.host, self._connection.port = await self._find_primary()
        await super().open()

    async def _find_primary(self) -> Address:
        reason: Exception | None = None
        for url in self._servers.urls:
            sentinel = Link(url, username=None, password=None, db=0)
            try:
                await sentinel.open()
                command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._servers.service)
                if found := await sentinel.request(*command):
                    return found[0].decode(), int(found[1])
            except FAILURES as error:
                reason = error
            finally:
                await sentinel.close()
        raise reason or RedisError(f"no sentinel knows the service {self._servers.service}")


class ClusterLink(Link):
    """Connections to the nodes of a cluster: each command goes to the one that has its key.

    Channels are the same on all nodes, so `send` and `receive` use one of them.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._nodes: dict[Address, Link] = {}
        self._slots: list[int] = []  # the first slot of each range
        self._primaries: list[Address] = []  # its node

    async def connect(self) -> None:
        """Connect to one node, and learn which has what; raises one of `FAILURES`."""
        reason: Exception = RedisError("there is no node")
        for address in [*self._servers.addresses]:
            try:
                await self._learn(address)
            except FAILURES as error:
                reason = error
            else:
                self._first = await self._node(self._primaries[0])
                return
        raise reason

    async def pipeline(self, commands: Iterable[Command], seconds: float = 0.0) -> list[Any]:
        """See `Link`. Redirections are followed; a node that is down raises one of `FAILURES`."""
        commands = list(commands)
        answers: list[Any] = [None] * len(commands)
        async with asyncio.timeout(seconds or ANSWER_SECONDS):
            rest = [*units(commands)]
            while rest:
                groups: dict[Address, list[int]] = {}
                for unit in rest:
                    key = key_of(commands[unit[0]])
                    groups.setdefault(self._address(key), []).extend(unit)
                done = await asyncio.gather(
                    *(self._run(each, commands, group) for each, group in groups.items()),
                    return_exceptions=True,
                )
                for group, result in zip(groups.values(), done, strict=True):
                    if isinstance(result, BaseException):
                        raise result
                    for index, answer in zip(group, result, strict=True):
                        answers[index] = answer
                rest = [unit for unit in rest if isinstance(answers[unit[0]], REDIRECTS)]
                await self._follow(commands, answers, rest)
                rest = [unit for unit in rest if isinstance(answers[unit[0]], REDIRECTS)]
        return answers

    async def send(self, commands: Iterable[Command]) -> None:
        """Send commands to one node without waiting for the answers."""
        await self._first.send(commands)

    async def receive(self) -> Any:
        """Wait for an answer of that node, which may be a `ResponseError`."""
        return await self._first.receive()

    async def close(self) -> None:
        """Close all connections without waiting for the servers."""
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
            [(host.decode() or address[0], port) for host, port, *_ in each[2:]] for each in ranges
        ]
        self._slots = [each[0] for each in ranges]
        self._primaries = [nodes[0] for nodes in found]
        self._servers.addresses = [*dict.fromkeys(each for nodes in found for each in nodes)]

    def _address(self, key: str | bytes | None) -> Address:
        if key is None:
            return self._primaries[0]
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        return self._primaries[max(0, bisect_right(self._slots, slot) - 1)]

    async def _run(self, address: Address, commands: list[Command], group: list[int]) -> list[Any]:
        node = await self._node(address)
        return await node.pipeline(commands[index] for index in group)

    async def _follow(
        self, commands: list[Command], answers: list[Any], redirected: list[list[int]]
    ) -> None:
        """Ask other nodes, or learn of them, before the rest is tried again."""
        if not redirected:
            return
        for unit in redirected:
            error = answers[unit[0]]
            if isinstance(error, MovedError):
                await self._learn(error.node_addr)
            elif isinstance(error, AskError):
                node = await self._node(error.node_addr)
                asked = await node.pipeline(
                    command for index in unit for command in (("ASKING",), commands[index])
                )
                for index, answer in zip(unit, asked[1::2], strict=True):
                    answers[index] = answer
        await asyncio.sleep(REDIRECT_SECONDS)


def units(commands: list[Command]) -> Iterator[list[int]]:
    """Yield the indices of commands that belong together: with a key, then those without."""
    unit: list[int] = []
    for index, command in enumerate(commands):
        if unit and key_of(command) is not None:
            yield unit
            unit = []
        unit.append(index)
    if unit:
        yield unit


def key_of(command: Command) -> str | bytes | None:
    """Return the first key of a command; `None` if it has none."""
    if command[0] in KEYLESS:
        return None
    key = command[KEY_AT.get(str(command[0]), 1)]
    assert not isinstance(key, int)
    return key


def named(command: Command, server: str) -> Command:
    """Return a command in which `SERVER` is the name of a server."""
    if command[0] != "EVALSHA":
        return command
    return [server if part is SERVER else part for part in command]


def read_info(info: bytes | str) -> tuple[str, tuple[int, ...]]:
    """Return the name of an instance of Redis, and its version."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else info
    fields = dict(line.split(":", 1) for line in text.split() if ":" in line)
    numbers = fields.get("redis_version", "0").split(".")
    version = tuple(int(number) if number.isdecimal() else 0 for number in numbers[:2])
    return fields.get("run_id", "")[:16], version


def raise_moved_on(answers: Iterable[Any]) -> None:
    """Raise the first answer that says that another connection is needed."""
    for answer in answers:
        if isinstance(answer, MOVED_ON):
            raise answer
