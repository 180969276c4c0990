"""Talk between processes, and whether all of it arrives."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.broker import Replay

from ..brokers import Process
from ..hub_client import Listener

Start = Callable[..., Awaitable[Process]]
"""Starts a broker at a URL, as another process would."""


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true that nothing tells of."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)  # there is no event to wait for


async def ready(*processes: Process) -> None:
    """Wait until brokers can be used."""
    await until(lambda: all(process.broker.is_ready for process in processes))


async def resume(process: Process, since: str, room: str = "lobby") -> tuple[Listener, Replay]:
    """Let a member return that has received everything up to an id, as `Member` does."""
    listener = Listener()
    subscriber = process.hub.subscribe(room, listener.connection)
    try:
        await process.broker.enter(room)
    except BaseException:
        process.hub.unsubscribe(room, subscriber)
        raise
    try:
        replay = await process.broker.replay(room, since)
    except BaseException:
        process.hub.unsubscribe(room, subscriber)
        process.broker.leave(room)
        raise
    for frame in replay.frames:
        listener.write(frame)
    listener.subscriber = subscriber
    subscriber.start(room, replay.last_offset)
    return listener, replay


def leave(process: Process, listener: Listener) -> None:
    """Let a member leave that has returned."""
    assert listener.subscriber is not None
    (room,) = listener.subscriber.rooms
    process.hub.unsubscribe(room, listener.subscriber)
    process.broker.leave(room)


class Talk:
    """Publishers that talk until they are stopped, and listeners in every process."""

    def __init__(self, *processes: Process) -> None:
        self.processes = processes
        self.accepted: dict[str, str] = {}
        self.refused: list[str] = []
        self.listeners: list[Listener] = []
        self.last = ""
        self._is_over = False

    async def __aenter__(self) -> "Talk":
        self.listeners = [await process.join() for process in self.processes]
        self._tasks = [
            asyncio.create_task(self._publish(process, f"{index}{name}"))
            for index, process in enumerate(self.processes)
            for name in "abcdefgh"
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int = 100) -> None:
        """Wait until so many more messages were accepted."""
        goal = len(self.accepted) + count
        await until(lambda: len(self.accepted) >= goal)

    async def _publish(self, process: Process, name: str) -> None:
        number = 0
        while not self._is_over:
            number += 1
            text = f"{name} {number:06}"
            try:
                self.accepted[text] = await process.publish(text)
            except BrokerUnavailable:
                self.refused.append(text)
                await asyncio.sleep(0.01)  # a refusal comes at once: let others run

    async def received(self) -> list[dict[str, object]]:
        """Return what each listener received, which must be the same, up to a last message."""
        for process in self.processes:
            await ready(process)
        self.last = last = await self.processes[0].publish("last")
        seen = []
        for listener in self.listeners:
            events = [await listener.next()]
            while events[-1].get("id") != last:
                events.append(await listener.next())
            seen.append(events[:-1])
        assert all(events == seen[0] for events in seen)
        return seen[0]

    async def check(self) -> list[str]:
        """All that was accepted has arrived once, in order, and under its id; return all ids."""
        events = await self.received()
        assert {event["type"] for event in events} == {"message"}
        texts = [str(event["data"]) for event in events]
        assert len(texts) == len(set(texts))
        ids = {str(event["data"]): event["id"] for event in events}
        assert {text: ids.get(text) for text in self.accepted} == self.accepted
        for name in {text.split()[0] for text in texts}:
            own = [text for text in texts if text.startswith(name)]
            assert own == sorted(own)
        return [*map(str, ids.values()), self.last]
