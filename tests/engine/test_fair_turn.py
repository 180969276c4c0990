"""Turns of connections that share an event loop."""

import asyncio

import pytest
from fastapi_realtime import limits
from fastapi_realtime.limits import (
    FairTurn,
    LongMessages,
)


def test_turn_is_over_after_so_many_messages_that_were_ready() -> None:
    turn = FairTurn()
    ends = [turn.is_over(0) for _ in range(2 * limits.MESSAGES_PER_TURN + 2)]
    assert [index for index, is_over in enumerate(ends) if is_over] == [
        limits.MESSAGES_PER_TURN,
        2 * limits.MESSAGES_PER_TURN + 1,
    ]


def test_turn_is_over_after_so_many_seconds() -> None:
    turn = FairTurn()
    half = limits.SECONDS_PER_TURN * 0.6
    times = [half * number for number in range(5)]
    assert [turn.is_over(now) for now in times] == [False, False, True, False, False]


def test_message_that_is_waited_for_begins_a_turn() -> None:
    turn = FairTurn()
    for number in range(10 * limits.MESSAGES_PER_TURN):
        turn.begin()
        assert not turn.is_over(number)


@pytest.mark.anyio
async def test_others_get_a_turn_between_two_long_messages() -> None:
    long_messages = LongMessages()
    order: list[str] = []

    async def process() -> None:
        await long_messages.wait_turn()
        order.append("long")

    async def others() -> None:
        while order.count("long") < 5:
            await asyncio.sleep(0)
            order.append("other")

    await asyncio.gather(others(), *(process() for _ in range(5)))
    assert "long long" not in " ".join(order)
