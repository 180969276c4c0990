"""Rooms of several server processes: they stop, restart and die, and no member misses a message."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count, cycle, repeat
from typing import Any

import pytest
from fastapi_realtime.rooms import EVENTS_V1
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from ..redis_server import running_redis

pytestmark = pytest.mark.anyio

SUBPROTOCOLS = [Subprotocol(EVENTS_V1)]
PAUSE = 0.005
"""Seconds between the messages of a member, so that servers have time to start."""


class Server:
    """A server in a process of its own, perhaps with workers, on a free port."""

    def __init__(self, redis_url: str, workers: int) -> None:
        self._workers = workers
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "APP_BROKER_URL": redis_url,
            "APP_HISTORY_LENGTH": "100000",
            "APP_PORT": "0",
            "APP_WORKERS": str(workers),
        }
        self.log = ""

    async def start(self) -> None:
        """Start, and wait until all workers take connections."""
        command = [sys.executable, "-m", f"{__package__}.room_server"]
        self._process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stderr=asyncio.subprocess.PIPE
        )
        missing = 1 + self._workers
        async with asyncio.timeout(90):
            while missing:
                line = await self._read_line()
                assert line, self.log
                missing -= "Uvicorn running" in line or "startup complete" in line
        self._reading = asyncio.create_task(self._read_on())

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop by a signal, and wait for the end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        await self._process.wait()
        await self._reading

    async def _read_line(self) -> str:
        assert self._process.stderr is not None
        line = (await self._process.stderr.readline()).decode()
        self.log += line
        if found := re.search(r"running on http://([\d.:]+)", line):
            self.url = f"ws://{found[1]}/talk"
        return line

    async def _read_on(self) -> None:
        while await self._read_line():
            pass


class Member:
    """A client that listens, and talks if it has a name; it comes back when a connection ends."""

    def __init__(self, talk: "Talk", name: str) -> None:
        self.name = name
        self.server: Server | None = None
        self.process = ""
        """The worker of the server that it is connected to."""
        self.heard: dict[str, str] = {}
        """What others said, by its id, in the order in which it came."""
        self.ends: list[tuple[int | None, set[str]]] = []
        """How each connection ended: its close code, and what had been heard by then."""
        self.has_joined = asyncio.Event()
        self._texts = (f"{name} {number:06}" for number in count())
        self.unaccepted = next(self._texts) if name else ""
        """What it says now."""
        self._said = ""
        self._since = ""
        self._talk = talk

    async def run(self, servers: Iterable[Server]) -> None:
        """Connect to one server after the other."""
        for server in servers:
            url = f"{server.url}?since={self._since}"
            with suppress(OSError, EOFError, InvalidHandshake):  # it is down, or going down
                async with connect(url, subprotocols=SUBPROTOCOLS, proxy=None) as client:
                    self.server = server
                    await self._stay(client)

    async def _stay(self, client: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for text in client:
                await self._take(client, json.loads(text))
                self._talk.progress.set()
        self.ends.append((client.close_code, set(self.heard.values())))

    async def _take(self, client: ClientConnection, event: dict[str, Any]) -> None:
        match event:
            case {"type": "accepted"}:
                await self._note_accepted(client, event["ref"], event["id"])
            case {"type": "message"}:
                self._hear(event["id"], event["data"])
            case {"type": "joined", "id": position}:  # its own
                self._since, self.process = position, event["sender"]
                await self._begin(client)
            case {"type": "gap" | "error"}:
                self._talk.losses.append(event)

    def _hear(self, id: str, text: str) -> None:
        self._since = id
        if author(text) != self.name:  # its own messages come only with those that it missed
            assert id not in self.heard, "it came twice"
            self.heard[id] = text

    async def _begin(self, client: ClientConnection) -> None:
        """Say again what was not accepted, and what was before, as if its answer was lost."""
        self.has_joined.set()
        await self._talk.has_begun.wait()
        await self._say(client, self._said)
        await self._say(client, self.unaccepted)

    async def _say(self, client: ClientConnection, text: str) -> None:
        if text:
            with suppress(ConnectionClosed):  # there may be messages that came before its end
                await client.send(json.dumps({"type": "message", "data": text, "ref": text}))

    async def _note_accepted(self, client: ClientConnection, text: str, id: str) -> None:
        assert self._talk.accepted.setdefault(text, id) == id, "it was published twice"
        if text == self.unaccepted:
            self._said, self.unaccepted = text, ""
            await asyncio.sleep(PAUSE)
            if not self._talk.is_over:
                self.unaccepted = next(self._texts)
                await self._say(client, self.unaccepted)


def author(text: str) -> str:
    """Return the name of the member that has said something."""
    return text.partition(" ")[0]


class Talk:
    """Members of a room who talk until they are told to end."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.members: list[Member] = []
        self.accepted: dict[str, str] = {}
        """The ids of all messages that were accepted."""
        self.losses: list[object] = []
        self.has_begun = asyncio.Event()
        self.is_over = False
        self.progress = asyncio.Event()
        self._group = group
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, servers: Iterable[Server], name: str = "") -> Member:
        """Add a member."""
        member = Member(self, name)
        self.members.append(member)
        self._tasks.append(self._group.create_task(member.run(servers)))
        await member.has_joined.wait()
        return member

    async def more(self, count: int = 100) -> None:
        """Let all members talk, and wait until so many more messages are accepted."""
        self.has_begun.set()
        goal = len(self.accepted) + count
        await self.until(lambda: len(self.accepted) >= goal)

    async def end(self) -> None:
        """Wait until all have heard all, once and in one order, and let them leave."""
        self.is_over = True
        await self.until(lambda: not any(member.unaccepted for member in self.members))
        log = sorted((offset(id), id, text) for text, id in self.accepted.items())
        for member in self.members:
            others = {id: text for _, id, text in log if author(text) != member.name}
            await self._until_heard(member, len(others))
            assert list(member.heard.items()) == list(others.items())
            own = [text for _, _, text in log if author(text) == member.name]
            assert own == sorted(own)
        assert self.losses == []
        for task in self._tasks:
            task.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what a member is to hear."""
        while not condition():
            self.progress.clear()
            await self.progress.wait()

    async def _until_heard(self, member: Member, count: int) -> None:
        await self.until(lambda: len(member.heard) >= count)


def offset(id: str) -> int:
    """Return the position of a message among all of its room."""
    return int(id.partition("-")[2])


Start = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def running(redis_url: str, workers: int) -> AsyncGenerator[Server]:
    """Run a server, whose log must have no traceback and no error."""
    server = Server(redis_url, workers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
    assert not re.search("Traceback|ERROR", server.log), server.log


@pytest.fixture
async def start() -> AsyncGenerator[Start]:
    """Start a server; all of them use one Redis."""
    with running_redis() as redis:
        async with AsyncExitStack() as stack:

            async def start(workers: int = 1) -> Server:
                return await stack.enter_async_context(running(redis.url, workers))

            yield start


@asynccontextmanager
async def talking() -> AsyncGenerator[Talk]:
    """Let members talk, and in the end see that all have heard all."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        talk = Talk(group)
        yield talk
        await talk.end()


async def test_members_of_two_workers_hear_the_same(start: Start) -> None:
    server = await start(workers=2)
    async with talking() as talk:
        names = map(str, count())
        while len({member.process for member in talk.members}) < 2 or len(talk.members) < 4:
            await talk.join(repeat(server), next(names))
            await talk.join(repeat(server))
        await talk.more(300)


async def stop_gently(server: Server, talk: Talk) -> None:
    """Stop a server; before that its members must have heard all that it has accepted."""
    leaving = [member for member in talk.members if member.server is server]
    names = {member.name for member in leaving}
    accepted = {text for text in talk.accepted if author(text) in names}
    await server.stop()
    await talk.until(lambda: all(member.server is not server for member in leaving))
    for member in leaving:
        code, heard = member.ends[-1]
        assert code == 1012
        assert all(author(text) == member.name for text in accepted - heard)


async def test_nothing_is_lost_or_twice_while_servers_restart_and_die(start: Start) -> None:
    servers = await asyncio.gather(start(), start())
    async with talking() as talk:
        for name in ("", "a", "b"):
            await talk.join(cycle(servers), name)
            await talk.join(cycle(reversed(servers)), name.upper())
        for server in servers:
            await talk.more()
            await stop_gently(server, talk)
            await talk.more()
            await server.start()
        await talk.more()
        await servers[0].stop(signal.SIGKILL)
        await talk.more()
    codes = [[code for code, _ in member.ends] for member in talk.members]
    assert codes == 3 * [[1012, 1012, 1006], [1012, 1006]]
