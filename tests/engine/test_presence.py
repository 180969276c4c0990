"""Who is in a room, and what its members are told."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from fastapi_realtime.rooms import memory
from fastapi_realtime.rooms.events import EVENTS, EncodedEvent, PresenceEvent
from fastapi_realtime.rooms.memory import Presence

from .hub_client import split_frame
from .room_app import connect_events, next_event, request, room_app, token_app
from .serving import Serve


class Told:
    """What the members of a room are told."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def deliver(self, encoded: EncodedEvent) -> None:
        self.events.put_nowait(json.loads(split_frame(encoded.frame(EVENTS))[0]))

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            return await self.events.get()


Announce = Callable[..., None]


def announcer(room: Presence) -> Announce:
    """Return a function that lets connections of `zoe` join or leave."""

    def announce(kind: Literal["joined", "left"], *connections: str, sender: str = "zoe") -> None:
        for connection in connections:
            event = PresenceEvent(type=kind, room="tea", sender=sender, connection=connection)
            room.announce(event)

    return announce


@pytest.mark.anyio
async def test_a_small_room_names_who_comes_and_goes() -> None:
    told = Told()
    announce = announcer(Presence(told.deliver, limit=2))
    announce("joined", "c1", "c2")
    announce("left", "c1")
    events = [await told.next() for _ in range(3)]
    assert [(event["type"], event["connection"]) for event in events] == [
        ("joined", "c1"),
        ("joined", "c2"),
        ("left", "c1"),
    ]


@pytest.mark.anyio
async def test_a_large_room_is_told_a_count_until_it_is_small_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "COUNT_SECONDS", 0)
    told = Told()
    announce = announcer(Presence(told.deliver, limit=2))
    announce("joined", "c1", "c2")
    assert [(await told.next())["type"] for _ in range(2)] == ["joined", "joined"]
    announce("joined", *map(str, range(100)))
    large = {"type": "present", "room": "tea", "count": 1, "members": []}
    assert await told.next() == large
    announce("left", *map(str, range(1, 100)))
    assert await told.next() == large
    announce("left", "0")
    small = large | {"members": [{"sender": "zoe", "connections": ["c1", "c2"]}]}
    assert await told.next() == small
    announce("left", "c1")
    assert (await told.next())["type"] == "left"
    assert told.events.empty()


@pytest.mark.anyio
async def test_a_room_that_is_empty_before_it_is_counted_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "COUNT_SECONDS", 0)
    told = Told()
    announce = announcer(room := Presence(told.deliver, limit=1))
    announce("joined", "c1", "c2")
    announce("left", "c1", "c2", "c2")
    await asyncio.sleep(0)
    assert told.events.qsize() == 1
    assert room.present("tea").count == 0
    assert not room._rosters


@pytest.mark.anyio
async def test_with_a_limit_of_0_nothing_is_told() -> None:
    told = Told()
    announce = announcer(room := Presence(told.deliver, limit=0))
    announce("joined", "c1")
    announce("left", "c1")
    assert told.events.empty()
    assert not room._rosters


@pytest.mark.anyio
async def test_connections_elsewhere_are_merged_and_counted_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "COUNT_SECONDS", 0)
    told = Told()
    announce = announcer(room := Presence(told.deliver, limit=2))
    announce("joined", "c1")
    assert (await told.next())["type"] == "joined"
    room.merge("tea", set(), {"c2": "ann"}, 0, {})
    members = [
        {"sender": "zoe", "connections": ["c1"]},
        {"sender": "ann", "connections": ["c2"]},
    ]
    assert room.present("tea").model_dump(exclude_none=True) == {"count": 2, "members": members}
    assert told.events.empty()
    for count in (7, 7, 8):
        room.merge("tea", {"c2"}, {}, count, {})
    large = {"type": "present", "room": "tea", "count": 8, "members": []}
    assert await told.next() == large
    room.merge("tea", set(), {"c2": "ann"}, 0, {})
    assert (await told.next())["members"] == members
    room.forget("tea")
    assert told.events.empty()
    assert room.present("tea").count == 0


def test_a_new_member_is_told_who_is_here_and_so_are_requests(serve: Serve) -> None:
    url = f"{serve(room_app())}/rooms/tea"
    with connect_events(f"{url}?name=ann") as ann:
        own = next_event(ann, "joined")
        present = json.loads(ann.recv(timeout=10))
        expected = {"count": 1, "members": [{"sender": "ann", "connections": [own["connection"]]}]}
        assert present == {"type": "present", "room": "tea", **expected}
        assert request(url.replace("ws:", "http:")) == (200, expected)
        with connect_events(f"{url}?name=bob") as bob:
            assert next_event(bob, "present")["count"] == 2
            joined = next_event(ann, "joined")
        left = next_event(ann, "left")
        assert joined["connection"] == left["connection"] != own["connection"]


def test_somebody_with_three_connections_is_one_member(serve: Serve) -> None:
    url = f"{serve(token_app())}/rooms/lobby"
    with connect_events(url, "zoe"), connect_events(url, "zoe"), connect_events(url, "zoe") as last:
        present = next_event(last, "present")
        ((_, connections),) = [member.values() for member in present["members"]]
        assert (present["count"], len(connections)) == (1, 3)


def test_a_large_room_or_one_without_presence_names_nobody(serve: Serve) -> None:
    crowded, silent = (f"{serve(room_app(presence_limit=limit))}/rooms/tea" for limit in (1, 0))
    with connect_events(crowded), connect_events(crowded) as last:
        assert next_event(last, "present") == {
            "type": "present",
            "room": "tea",
            "count": 1,
            "members": [],
        }
    with connect_events(silent) as first, connect_events(silent) as last:
        last.send('{"type": "message", "data": "the first event after joining"}')
        next_event(first, "joined")
        assert json.loads(first.recv(timeout=10))["type"] == "message"
