"""What waits for the application."""

import asyncio

import pytest
from fastapi_realtime.server.fast_path import (
    MAX_BYTES,
    MAX_MESSAGES,
    Inbox,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def resumed() -> list[int]:
    """Gets the length of an inbox whenever reading is to go on."""
    return []


@pytest.fixture
def inbox(resumed: list[int]) -> Inbox:
    """An empty inbox."""
    inbox = Inbox(lambda: resumed.append(len(inbox)))
    return inbox


async def test_what_came_first_is_taken_first(inbox: Inbox) -> None:
    inbox.put("a", 1)
    inbox.put(b"bc", 2)
    inbox.put({"type": "websocket.disconnect", "code": 1000})
    assert [await inbox.get() for _ in range(2)] == [("a", 1), (b"bc", 2)]
    assert inbox.take() == ({"type": "websocket.disconnect", "code": 1000}, 0)
    assert inbox.take() is None


@pytest.mark.parametrize(("count", "size"), [(MAX_MESSAGES, 0), (2, MAX_BYTES // 2)])
async def test_reading_goes_on_once_a_full_inbox_is_empty(
    inbox: Inbox, resumed: list[int], count: int, size: int
) -> None:
    for number in range(count):
        assert not inbox.is_full
        inbox.put(str(number), size)
    assert inbox.is_full
    for _ in range(count):
        assert resumed == []
        inbox.take()
    assert resumed == [0]
    assert not inbox.is_full
    inbox.put("one more", 8)
    inbox.take()
    assert resumed == [0]


async def test_two_readers_get_a_message_each(inbox: Inbox) -> None:
    readers = [asyncio.create_task(inbox.get()) for _ in range(2)]
    await asyncio.sleep(0)
    inbox.put("a", 1)
    inbox.put("b", 1)
    assert {message for message, _ in await asyncio.gather(*readers)} == {"a", "b"}


async def test_cancelled_reader_takes_nothing_and_stops_no_other(inbox: Inbox) -> None:
    first, second = [asyncio.create_task(inbox.get()) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    inbox.put("a", 1)
    assert await second == ("a", 1)
    assert len(inbox) == 0


async def test_inbox_of_a_lost_connection_refers_to_nothing(
    inbox: Inbox, resumed: list[int]
) -> None:
    inbox.put("long", MAX_BYTES)
    inbox.detach()
    assert await inbox.get() == ("long", MAX_BYTES)
    assert resumed == []
