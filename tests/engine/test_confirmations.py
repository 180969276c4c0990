"""Members that are told of their messages after others have sent theirs."""

import asyncio
from typing import Any

import pytest
from fastapi import WebSocketDisconnect
from fastapi_realtime.rooms import BrokerUnavailable
from fastapi_realtime.rooms.member import (
    MAX_UNCONFIRMED,
    Confirmations,
)
from fastapi_realtime.rooms.memory import MemoryBroker

from .room_app import connect_events, next_event, request, room_app, send
from .serving import Serve


class Member:
    """A member, and what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.confirmations = Confirmations(self.accept, self.refuse)
        self.has_left = False

    async def accept(self, ref: str, message_id: str) -> None:
        if self.has_left:
            raise WebSocketDisconnect
        self.told.put_nowait(f"{ref} is {message_id}")

    async def refuse(self, ref: str) -> None:
        self.told.put_nowait(f"{ref} is refused")

    async def send(self, *refs: str) -> list[asyncio.Future[str]]:
        """Send messages, and return the futures of their ids."""
        futures: list[asyncio.Future[str]] = []
        for ref in refs:
            futures.append(asyncio.get_running_loop().create_future())
            await self.confirmations.add(ref, futures[-1])
        return futures


@pytest.mark.anyio
async def test_ids_and_refusals_are_told_in_the_order_of_the_messages() -> None:
    member = Member()
    a, b, c = await member.send("a", "b", "c")
    c.set_result("3")
    b.set_exception(BrokerUnavailable())
    await asyncio.sleep(0)
    assert member.told.empty()
    a.set_result("1")
    async with asyncio.timeout(10):
        told = [await member.told.get() for _ in range(3)]
    assert told == ["a is 1", "b is refused", "c is 3"]


@pytest.mark.anyio
async def test_no_more_than_so_many_are_on_their_way() -> None:
    member = Member()
    refs = [str(number) for number in range(MAX_UNCONFIRMED)]
    futures = await member.send(*refs[:-1])
    last = asyncio.create_task(member.send(refs[-1]))
    await asyncio.sleep(0)
    for future in futures:
        assert not last.done()
        future.set_result("1")
    async with asyncio.timeout(10):
        for _ in futures:
            await member.told.get()
    assert not last.done()


@pytest.mark.anyio
async def test_a_member_that_leaves_awaits_nothing() -> None:
    member = Member()
    member.confirmations.drop()
    a, b = await member.send("a", "b")
    await asyncio.sleep(0)
    member.confirmations.drop()
    await asyncio.wait([a, b])
    assert a.cancelled()
    assert b.cancelled()


@pytest.mark.anyio
async def test_a_member_whose_connection_has_closed_is_told_nothing_more() -> None:
    member = Member()
    member.has_left = True
    a, b = await member.send("a", "b")
    a.set_result("1")
    b.set_result("2")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert member.told.empty()


def test_members_and_requests_are_told_the_id_that_comes_later(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_now = MemoryBroker.publish

    async def publish(broker: MemoryBroker, *message: Any, **options: Any) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        published: asyncio.Future[str] = loop.create_future()
        message_id = await publish_now(broker, *message, **options)
        loop.call_later(0.01, published.set_result, message_id)
        return published

    monkeypatch.setattr(MemoryBroker, "publish", publish)
    url = f"{serve(room_app())}/rooms/tea"
    with connect_events(url) as ann, connect_events(url) as bob:
        send(ann, "a", "b", ref="r")
        first = next_event(bob, "message")["id"]
        assert [next_event(ann, "accepted")["id"] for _ in range(2)] == [first, first]
        status, answer = request(url.replace("ws:", "http:"), b'"c"')
        assert (status, answer["id"]) == (202, next_event(bob, "message")["id"])
