"""Members move between processes while connections to Redis break: they miss nothing."""

import asyncio
from contextlib import suppress
from random import Random

import pytest
from fastapi_realtime.rooms import BrokerUnavailable

from ..brokers import Process
from ..redis_server import RedisServer
from .talk import Start, Talk, leave, ready, resume

pytestmark = pytest.mark.anyio

SEEDS = 3


class Traveller:
    """A member that comes back to any process, from the last message that it has received."""

    def __init__(self, processes: list[Process], random: Random, position: str) -> None:
        self.received: list[str] = []
        self.goal = ""
        """The id of the last message."""
        self._since = position
        self._processes = processes
        self._random = random

    async def run(self) -> None:
        """Move from process to process until the last message has come."""
        while self._since != self.goal:
            with suppress(BrokerUnavailable):
                await self._visit(self._random.choice(self._processes))
            await asyncio.sleep(0)  # a visit may be refused at once: let others run

    async def _visit(self, process: Process) -> None:
        listener, replay = await resume(process, self._since)
        assert replay.is_complete
        for _ in range(self._random.randint(len(replay.frames), 200 + len(replay.frames))):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    event = await listener.next()
                    assert event["type"] == "message"
                    self._since = event["id"]
                    self.received.append(event["id"])
            if self._since == self.goal:
                break
        leave(process, listener)


async def harm(server: RedisServer, random: Random) -> None:
    """Do something to Redis that loses nothing."""
    call = asyncio.to_thread
    match random.randrange(5):
        case 0:
            await call(server.call, "CLIENT", "KILL", "TYPE", "normal")
        case 1:
            await call(server.call, "CLIENT", "KILL", "TYPE", "pubsub")
        case 2:
            await call(server.call, "SCRIPT", "FLUSH")
        case 3:
            kind = random.choice(["ALL", "WRITE"])
            await call(server.call, "CLIENT", "PAUSE", random.choice([50, 300, 900]), kind)
        case 4:
            await call(server.stop, kill=random.random() < 0.5)
            await call(server.start)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_members_that_move_while_connections_break_miss_nothing(
    server: RedisServer, start: Start, seed: int
) -> None:
    random = Random(seed)
    processes = [await start(server.url, history_length=100_000) for _ in range(3)]
    await ready(*processes)
    position = await processes[0].broker.enter("lobby")
    travellers = [Traveller(processes, random, position) for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        for each in travellers:
            group.create_task(each.run())
        async with Talk(*processes) as talk:
            for _ in range(random.randint(3, 8)):
                await talk.more(random.randint(20, 200))
                await harm(server, random)
            await talk.more()
        ids = await talk.check()
        for each in travellers:
            each.goal = talk.last
    for each in travellers:
        assert each.received == ids
