"""The histories of both brokers: whatever is published, a client that returns is sent the same."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest
from fastapi_realtime.rooms import Rooms, RoomSettings
from fastapi_realtime.rooms.broker import Replay
from fastapi_realtime.server.wire import frame_message
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from ..brokers import Process, running_process
from ..redis_server import NOT_SAVED, RedisServer, rooms_at, running_redis

OFFSETS = st.integers(0, 12)
OPERATIONS = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(["", "", "r1", "r2"]), st.booleans()),
    st.tuples(st.just("append"), OFFSETS),
    st.tuples(st.just("since"), OFFSETS),
    st.tuples(st.just("last"), OFFSETS),
)
numbers = count()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """One for all examples: each has a room of its own."""
    with running_redis(*NOT_SAVED) as server:
        yield server


def seen(replay: Replay, epoch: str) -> str:
    """Return what a client learns from a replay, without the epoch."""
    events = [from_json(frame_message(frame)) for frame in replay.frames]
    return f"{events} {replay.is_complete} {replay.position}".replace(epoch, "")


async def do(process: Process, room: str, epoch: str, operation: tuple[object, ...]) -> object:
    """Return the answer of a broker to an operation, without the epoch."""
    match operation:
        case "publish", str(ref), bool(keep):
            id = await process.publish("x", room, ref=ref, keep=keep)
            return id.removeprefix(epoch)
        case "append", to:
            return (await process.append(f"{epoch}-{to}", "y", room)).removeprefix(epoch)
        case "since", offset:
            return seen(await process.broker.replay(room, f"{epoch}-{offset}"), epoch)
        case "last", int(last):
            return seen(await process.broker.replay(room, "", last=last), epoch)


@settings(max_examples=50, derandomize=True, database=None, deadline=None)
@given(st.lists(OPERATIONS, min_size=5, max_size=40))
def test_both_brokers_keep_the_same_messages(
    redis: RedisServer, operations: list[tuple[object, ...]]
) -> None:
    room = f"room {next(numbers)}"

    async def answers(rooms: Rooms) -> list[object]:
        async with running_process(rooms) as process:
            epoch = (await process.broker.enter(room)).partition("-")[0]
            await process.publish("first", room)
            return [await do(process, room, epoch, each) for each in operations]

    in_memory = asyncio.run(answers(Rooms(RoomSettings(history_length=3))))
    assert in_memory == asyncio.run(answers(rooms_at(redis.url, history_length=3)))
